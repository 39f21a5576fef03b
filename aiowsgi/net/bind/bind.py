"""From the text of an address to a socket that is bound and listens."""

import errno
import re
import socket
from collections.abc import Sequence

from ...config import ListenerConfig
from ...config.listener import PREFIXES
from ...errors import BindError, ConfigError
from .failures import bind_error, explained
from .listening import ListeningSocket
from .tcp import collide, host_and_port, is_ipv4_beside, tcp_sockets
from .unix import unix_socket


def _inherited_socket(listener: ListenerConfig, number: str) -> socket.socket:
    if not re.fullmatch(r"[0-9]{1,9}", number, re.ASCII):
        raise ConfigError(
            f"cannot bind {listener}: write {listener.prefix}fd:N with the number of a descriptor"
        )
    try:
        sock = socket.socket(fileno=int(number))
    except OSError as error:
        raise ConfigError(
            f"cannot bind {listener}: descriptor {number} is not an open socket ({error.strerror})"
        ) from error
    try:
        sock.listen(listener.backlog)
    except OSError as error:
        sock.detach()  # It is the caller's.
        raise explained(listener, error) from error
    return sock


# What some write before an address, and what they call the protocols.
_SCHEME = re.compile(r"(tcp|https?|ssl|tls|uwsgi):(?://)?([^/].*?)/*")
_CALLED = {"https": "tls", "ssl": "tls"}


def _did_you_mean(listener: ListenerConfig) -> str:
    """Return a hint at the address that may have been meant, empty where there is none."""
    address, prefix = listener.address, listener.prefix
    if address.removesuffix(":") in PREFIXES:
        prefix, address = f"{address.removesuffix(':')}:", "127.0.0.1:8000"
    # A URL, or two protocols: the second one is meant.
    while (match := _SCHEME.fullmatch(address)) is not None:
        scheme, address = match.groups()
        prefix = f"{_CALLED.get(scheme, scheme)}:" if scheme != "tcp" else prefix
    host, _, port = address.rpartition(":")
    if "/" in address and ":" not in address:
        meant = [f"unix:{address}"]
    elif "::" in host:
        meant = [f"[{host.strip('[]')}]:{port}"]
    else:
        meant = [address, f"127.0.0.1:{address}", f"{address}:8000"] if address else []
    if not listener.tls:  # Without a certificate it is always so.
        prefix = prefix.removeprefix("http:")
    for text in meant:
        found = ListenerConfig.parse(text)
        if found.address.startswith("unix:") or host_and_port(found.address) is not None:
            return f"; did you mean {prefix}{text}{listener.parameters}?"
    return ""


def bind_all(
    listeners: Sequence[ListenerConfig], *, reserve: bool = False
) -> list[ListeningSocket]:
    """Return listening sockets for all listeners. If one fails, the others are closed again.

    With ``reserve`` they do not listen, and keep the addresses for further ones.
    [::]:PORT takes connections of IPv4 too, unless one of the other addresses is to take them.
    Raises ConfigError.
    """
    sockets: list[ListeningSocket] = []
    try:
        for index, listener in enumerate(listeners):
            try:
                found = bind(
                    listener,
                    ipv6_only=any(is_ipv4_beside(other, listener) for other in listeners),
                    reserve=reserve,
                )
                taken = {sock.socket.getsockname() for sock in sockets} if reserve else ()
                sockets += found
                if any(sock.socket.getsockname() in taken for sock in found):
                    # The kernel allows it, as none of them listens.
                    raise explained(listener, OSError(errno.EADDRINUSE, "in use"))
            except BindError as error:
                before = [other for other in listeners[:index] if collide(other, listener)]
                if error.errno != errno.EADDRINUSE or not before:
                    raise
                hint = f"it collides with {before[0]}, which is bound already; leave one out"
                raise bind_error(listener, hint, error) from error
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind(
    listener: ListenerConfig, *, ipv6_only: bool = False, reserve: bool = False
) -> list[ListeningSocket]:
    """Return listening sockets for the address of a listener.

    It is HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME or fd:N; port 0 lets the kernel choose. A
    host name with several addresses gives a socket for each. With ``reserve``, which is for
    addresses of TCP, see ``bind_all``. Raises ConfigError.
    """
    scheme, _, rest = listener.address.partition(":")
    if scheme == "unix":
        return [unix_socket(listener, rest)]
    if scheme == "fd":
        sock = _inherited_socket(listener, rest.removeprefix("//"))
        return [ListeningSocket(sock, listener=listener, inherited=True)]
    if scheme == "systemd":
        # A process that only serves has put descriptors in the place of these.
        raise ConfigError(
            f"cannot bind {listener}: only aiowsgi.run and the command line take the sockets of "
            f"systemd; write {listener.prefix}fd:3 for the first one, or pass sock="
        )
    parts = host_and_port(listener.address)
    if parts is None:
        forms = [listener.prefix + form for form in ("HOST:PORT", "[IPV6]:PORT", "unix:PATH")]
        raise ConfigError(
            f"cannot bind {str(listener)!r}: write {', '.join(forms)} or {listener.prefix}fd:N"
            f"{'' if listener.prefix else ', or tls: or uwsgi: before one of these'}"
            f"{_did_you_mean(listener)}"
        )
    found = tcp_sockets(listener, *parts, ipv6_only=ipv6_only, reserve=reserve)
    return [ListeningSocket(sock, listener=listener, reuses_port=reserve) for sock in found]


def adopt(sock: socket.socket, *, backlog: int, tls: bool) -> ListeningSocket:
    """Return a socket that the caller has made, listening. Raises ConfigError."""
    if sock.type != socket.SOCK_STREAM:
        raise ConfigError(f"cannot accept connections on {sock!r}: it is not a stream socket")
    try:
        sock.listen(backlog)
    except OSError as error:
        raise BindError(f"cannot listen on {sock!r}: {error.strerror}") from error
    # The caller may have forked since it was made, and will hardly say so.
    listener = ListenerConfig(f"fd:{sock.fileno()}", tls=tls, backlog=backlog)
    return ListeningSocket(sock, listener=listener, inherited=True)
