"""The sockets of connections: their names, what is sent without the loop, and their abrupt end."""

import array
import asyncio
import contextlib
import socket
import struct
import sys
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Final

from .. import libc
from ..exchange.info import Address


def host_and_port(name: object) -> Address:
    """Return a socket name as text; empty for that of a Unix socket."""
    if isinstance(name, tuple):
        return str(name[0]), str(name[1])
    return "", ""


def server_address(sock: socket.socket, *, tls: bool) -> Address:
    """Return host and port of the server's end of a connection."""
    try:
        name = sock.getsockname()
    except OSError:  # Some systems refuse where the client is gone already.
        name = None
    host, port = host_and_port(name)
    # A Unix socket has neither; PEP 3333 wants them.
    return host or "localhost", port or ("443" if tls else "80")


# send(2) that does not release the interpreter lock. It takes some microseconds, while to get the
# lock back takes many milliseconds where other threads compute.
_send = libc.find("send", "c_ssize_t")
# More bytes than that take the kernel too long for it.
_MAX_DIRECT_BYTES: Final = 1 << 17
_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
# What is sent belongs into one packet with what comes next.
_MORE: Final = _FLAGS | getattr(socket, "MSG_MORE", 0)
# connect(2) to no address, by which Linux resets a connection at once.
_connect = libc.find("connect", "c_int", "c_int", "c_char_p", "c_uint")
_NO_ADDRESS = struct.pack("H14x", socket.AF_UNSPEC)


def send_now(sock: socket.socket, pieces: list[bytes]) -> int:
    """Give pieces to the kernel, without waiting; return how many bytes it took.

    Called on any thread. Errors show when the loop thread sends what is left.
    """
    if _send is None or sum(map(len, pieces)) > _MAX_DIRECT_BYTES:
        try:
            return sock.sendmsg(pieces, (), _FLAGS)
        except OSError:
            return 0
    descriptor = sock.fileno()  # -1 once it is closed.
    sent = 0
    left = len(pieces)
    for piece in pieces:
        left -= 1
        size = len(piece)
        count = _send(descriptor, piece, size, _MORE if left else _FLAGS)
        if count != size:
            return sent + max(0, count)
        sent += size
    return sent


def send_last(sock: socket.socket, pieces: list[bytes]) -> int:
    """Give the kernel pieces that it may keep back until the end, which follows at once.

    So it sends both in one packet, where that is possible. Return how many bytes it took. Errors
    show when what is left is sent.
    """
    try:
        if len(pieces) == 1:
            return sock.send(pieces[0], _MORE)
        return sock.sendmsg(pieces, (), _MORE)
    except OSError:
        return 0


def reset(transport: asyncio.Transport) -> None:
    """Cut a connection so that the client cannot take it for a regular end."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        # Closing with a linger time of zero sends RST instead of FIN.
        with contextlib.suppress(OSError):  # Some systems refuse where the client is gone already.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # But not while another process has the socket, too.
        if _connect is not None and sys.platform == "linux":
            _connect(sock.fileno(), _NO_ADDRESS, len(_NO_ADDRESS))
    transport.abort()


def shut_down(sock: socket.socket) -> None:
    """End a connection that is about to be closed, in every process that has the socket.

    close(2) alone tells the client nothing while a child process still has the socket: a forked
    one, or one that is about to execute another program.
    """
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # The client was faster.


def half_close(transport: asyncio.Transport) -> None:
    """End the server's side of a connection once what is buffered is sent."""
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
    if sock is None:
        return 0
    size = array.array("i", [0])
    try:
        ioctl(sock.fileno(), TIOCOUTQ, size)  # SIOCOUTQ, of sockets.
    except (OSError, ValueError):  # It is closed.
        return 0
    return size[0]
