"""Sockets of TCP: one for each address of a host, and which of them get in each other's way."""

import contextlib
import errno
import os
import re
import socket

from ...config import ListenerConfig
from ...errors import BindError
from .failures import explained
from .places import WILDCARDS

_HOST_PORT = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return the parts of HOST:PORT or [IPV6]:PORT; None where it is neither."""
    match = _HOST_PORT.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        return None
    host: str = match["ipv6"] or match["host"]
    return "0.0.0.0" if host in ("", "*") else host, int(match["port"])


def tcp_sockets(
    listener: ListenerConfig, host: str, port: int, *, ipv6_only: bool, reserve: bool
) -> list[socket.socket]:
    """Return a socket for each address of the host. See ``bind_all``. Raises BindError."""
    # As text it would load the codec of international names with its tables, also for an ASCII one.
    node = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(node, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise BindError(f"cannot bind {listener}: the host is not known") from error
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, name in dict.fromkeys(found):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # A family that this machine does not have.
            failure = error
            continue
        try:
            if os.name == "posix":
                # Else a port stays taken for a minute after a restart (TIME_WAIT).
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # The IPv4 address of the same host has a socket of its own. Else [::] takes both,
                # whatever the system has as its default; OpenBSD does not allow it.
                with contextlib.suppress(OSError):
                    alone = ipv6_only or len(found) > 1
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(alone))
            # All addresses of a host share the port that the kernel chose for the first.
            chosen = port or (sockets[0].getsockname()[1] if sockets else 0)
            sock.bind((name[0], chosen, *name[2:]))
            if reserve:
                # Not before: so it is refused where others listen, also if those allow this.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            else:
                sock.listen(listener.backlog)
        except OSError as error:
            sock.close()
            failure = error
            if error.errno == errno.EADDRNOTAVAIL:
                continue  # localhost may name an IPv6 address that no interface has.
            break
        sockets.append(sock)
    else:
        if sockets:
            return sockets
    for sock in sockets:
        sock.close()
    assert failure is not None  # Every address failed, or one did for good.
    raise explained(listener, failure) from failure


def is_ipv4_beside(other: ListenerConfig, listener: ListenerConfig) -> bool:
    """Return whether ``other`` takes IPv4 on the port of ``listener``, which is [IPV6]:PORT."""
    one, two = host_and_port(listener.address), host_and_port(other.address)
    return bool(one and two and one[1] == two[1] and ":" in one[0] and ":" not in two[0])


def collide(one: ListenerConfig, other: ListenerConfig) -> bool:
    """Return whether two addresses are the same, or one is a part of the other."""
    first, second = host_and_port(one.address), host_and_port(other.address)
    if first is None or second is None:
        return one.address == other.address
    hosts = {first[0], second[0]}
    return first[1] == second[1] and (len(hosts) == 1 or not hosts.isdisjoint(WILDCARDS))
