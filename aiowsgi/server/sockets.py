"""The sockets of connections: their names, and their abrupt end."""

import asyncio
import socket
import struct


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
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
