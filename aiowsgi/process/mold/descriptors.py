"""Open descriptors of this process: which of them several processes cannot share. Linux only."""

import contextlib
import os
import re
import socket
import stat

from .origins import target_of

_SQLITE = b"SQLite format 3\0"
# What most often listens there. The system's list of services knows few of them.
_SERVICES = {
    1433: "SQL Server",
    1521: "Oracle",
    3306: "MySQL",
    5432: "PostgreSQL",
    5672: "RabbitMQ",
    6379: "Redis",
    6432: "PgBouncer",
    9042: "Cassandra",
    9092: "Kafka",
    11211: "memcached",
    27017: "MongoDB",
}
# Files of the kernel that belong to whoever has made them: who waits on one takes the events of all
# that share it.
_ANONYMOUS = {
    "anon_inode:[eventpoll]": "an epoll descriptor, such as that of an event loop",
    "anon_inode:[io_uring]": "an io_uring descriptor",
}


def open_ones() -> list[int]:
    """Return the numbers of all open descriptors."""
    found = sorted(map(int, os.listdir("/proc/self/fd")))
    # One of them was that of the folder.
    return [number for number in found if target_of(number)]


def breaks(descriptor: int) -> str:
    """Return what a descriptor is, if several processes cannot share it; empty if they can."""
    target = target_of(descriptor)
    if what := _ANONYMOUS.get(target):
        return what
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            return _socket(descriptor)
        if stat.S_ISREG(mode):
            return _file(descriptor, target)
    except OSError:  # Another thread has closed it meanwhile.
        pass
    return ""


def _socket(descriptor: int) -> str:
    # A duplicate, because Python closes what a socket object has.
    with socket.socket(fileno=os.dup(descriptor)) as opened:
        # Each datagram is a whole message, so several processes may send them to a log or a meter.
        if opened.type not in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            return ""
        if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"a socket that listens at {_address(opened.getsockname())}"
        try:
            peer = opened.getpeername()
        except OSError:
            return ""  # It is connected to nothing.
        if isinstance(peer, tuple):
            service = _SERVICES.get(peer[1])
            return f"a connection to {_address(peer)}" + (f" ({service})" if service else "")
        return f"a connection to {_address(peer)}" if peer else "a pair of sockets"


def _address(address: object) -> str:
    if isinstance(address, tuple):
        host, port = str(address[0]), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):
        return "unix:@" + address.removeprefix(b"\0").decode(errors="backslashreplace")
    return f"unix:{address}"


def _file(descriptor: int, path: str) -> str:
    with contextlib.suppress(OSError):  # It may be open for writing only.
        if os.pread(descriptor, len(_SQLITE), 0) == _SQLITE:
            return f"the SQLite database {path}"
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        if re.search(r"^lock:", file.read(), re.MULTILINE):
            return f"a lock on the file {path}"
    return ""
