"""The sockets of connections: their names, and their abrupt end."""

import array
import asyncio
import contextlib
import socket
import struct

try:
    import fcntl
    import termios
except ImportError:  # Not a POSIX system.
    fcntl = termios = None  # type: ignore[assignment]


def host_and_port(name: object) -> tuple[str, str]:
    """Return a socket name as text; empty where there is none: the peer may be gone already."""
    if isinstance(name, tuple):
        return str(name[0]), str(name[1])
    return "", ""


def reset(transport: asyncio.Transport) -> None:
    """Cut a connection so that the client cannot take it for a regular end."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        # Closing with a linger time of zero sends RST instead of FIN.
        with contextlib.suppress(OSError):  # Some systems refuse where the client is gone already.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def half_close(transport: asyncio.Transport) -> None:
    """End the server's side of a connection behind what is buffered."""
    try:
        transport.write_eof()
    except OSError:
        # The client has reset the connection, and the loop has not read that yet.
        transport.abort()


def in_flight(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel has not sent, or knows not to have arrived.

    It makes room long before it says so: only when a good part of its buffer is free. What a slow
    client takes can be seen here.
    """
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or fcntl is None:
        return 0
    size = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, size)  # SIOCOUTQ, of sockets.
    except OSError:
        return 0
    return size[0]
