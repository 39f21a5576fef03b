"""The sockets that a worker has for itself, with ``reuse_port``: the kernel spreads connections.

The supervisor has bound the addresses before, and does not listen. So the ports are known, they are
kept while no worker is there, and another program that has them is told of before anything starts.
"""

import contextlib
import dataclasses
import socket
import sys

from ...config import Config
from ...errors import BindError, ConfigError
from ...net.bind.listening import ListeningSocket
from ...net.bind.places import address_of
from .assignment import Assignment

# What the sockets of one address have in common: levels and options.
_SAME_FOR_ALL = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT", 0)),
    (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
)


def check_reuse_port(config: Config) -> None:
    """Raise ConfigError where the kernel does not spread connections over sockets."""
    if config.reuse_port and sys.platform != "linux":
        raise ConfigError(
            f"{config.spelling('reuse_port')} needs Linux; leave it out, and the workers share "
            "their sockets"
        )


def with_own_sockets(assignment: Assignment) -> Assignment:
    """Return what a worker was given, with its own sockets in the place of those that are reserved.

    They do not listen yet: no connection waits for an application that is being loaded. Raises
    BindError.
    """
    with contextlib.ExitStack() as made:
        sockets = []
        for sock in assignment.sockets:
            own = sock
            if sock.reuses_port:
                own = _another(sock)
                made.callback(own.close)
            sockets.append(own)
        made.pop_all()
    for sock, own in zip(assignment.sockets, sockets, strict=True):
        if own is not sock:
            sock.close()
    return dataclasses.replace(assignment, sockets=tuple(sockets))


def _another(reserved: ListeningSocket) -> ListeningSocket:
    """Return a further socket of the same address. Raises BindError.

    Linux wants all of them that listen to be made by the same user.
    """
    name = reserved.socket.getsockname()
    sock = socket.socket(reserved.socket.family, socket.SOCK_STREAM)
    try:
        for level, option in _SAME_FOR_ALL:
            if level != socket.IPPROTO_IPV6 or sock.family == socket.AF_INET6:
                sock.setsockopt(level, option, reserved.socket.getsockopt(level, option))
        sock.bind(name)
    except OSError as error:
        sock.close()
        address = address_of(*name[:2])
        raise BindError(f"cannot bind {address} in a worker: {error.strerror}") from error
    return ListeningSocket(sock, listener=reserved.listener, reuses_port=True)
