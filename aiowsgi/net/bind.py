"""Addresses to listen on: from their text to bound sockets, and to a URL for people."""

import contextlib
import errno
import os
import re
import socket
import sys
from collections.abc import Sequence
from typing import get_args

from ..config import ListenerConfig, ListenerProtocol
from ..errors import BindError, ConfigError
from .socket_file import SocketFile, bind_file

_HOST_PORT = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")
# All interfaces: no address to connect to, but what is bound to it can be reached at this one.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}

# Linux has it since 3.12, under this number. Interpreters that were built against older headers, as
# many are so that they run everywhere, do not know the name.
_NOTSENT_LOWAT: int | None = getattr(
    socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None
)
_NOTSENT_BYTES = 1 << 17


class ListeningSocket:
    """A socket to accept on, and the file that it made, if it is a Unix socket of this process."""

    def __init__(
        self,
        sock: socket.socket,
        file: SocketFile | None = None,
        *,
        protocol: ListenerProtocol = "http",
        inherited: bool = False,
        reuses_port: bool = False,
    ) -> None:
        sock.setblocking(False)
        # A socket that was inherited, or made by another program, may be inheritable. No child may
        # keep the port.
        sock.set_inheritable(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Connections inherit these options. What runs Linux programs need not be Linux.
            with contextlib.suppress(OSError):
                # Else the end of a response in several pieces waits until the client has confirmed
                # the piece before, which takes 40 ms. asyncio sets it only where the number of the
                # protocol was given to ``socket.socket``.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if _NOTSENT_LOWAT is not None:
                    # Else the kernel queues megabytes for a slow client, and says so late that
                    # there is room again that the client looks as if it took nothing.
                    sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _NOTSENT_BYTES)
        self.socket = sock
        # What clients speak on its connections.
        self.protocol: ListenerProtocol = protocol
        # Whether other processes may accept on it, too.
        self.inherited = inherited
        # Whether it is one of several of its address, among which the kernel spreads connections.
        # It is bound, and does not listen before ``listen``.
        self.reuses_port = reuses_port
        self._file = file

    @property
    def file(self) -> SocketFile | None:
        """The file that it made; None where it has none, or that is another program's."""
        return self._file

    def listen(self, backlog: int) -> None:
        """Have the kernel take connections, if it does not yet. Raises BindError."""
        if not self.reuses_port:
            return
        try:
            self.socket.listen(backlog)
        except OSError as error:
            address = address_of(*self.socket.getsockname()[:2])
            raise BindError(f"cannot listen on {address}: {error.strerror}") from error

    def own_file(self) -> None:
        """Remove its file from now on, in place of the process that has made it."""
        if self._file is not None:
            self._file.own()

    def disown_file(self) -> None:
        """Leave its file to another process."""
        if self._file is not None:
            self._file.disown()

    def give_to(self, uid: int, gid: int) -> None:
        """Make its file that of a user and a group. Raises ConfigError where this may not be."""
        if self._file is not None:
            self._file.give_to(uid, gid)

    def close(self) -> None:
        """Close the socket; its file goes with it, unless it is that of another by now."""
        if self._file is not None:
            self._file.remove()
        self.socket.close()


def _tcp_sockets(
    listener: ListenerConfig, host: str, port: int, *, ipv6_only: bool, reserve: bool
) -> list[socket.socket]:
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
            if family == socket.AF_INET6 and (ipv6_only or len(found) > 1):
                # The IPv4 address of the same host has a socket of its own.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
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
    raise _explained(listener, failure) from failure


def _unix_socket(listener: ListenerConfig, path: str) -> ListeningSocket:
    if path in ("", "@"):
        raise ConfigError(f"cannot bind {listener}: write {listener.prefix}unix:PATH")
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"cannot bind {listener}: this system has no Unix sockets")
    is_abstract = path[0] == "@"
    if is_abstract and sys.platform != "linux":
        raise ConfigError(
            f"cannot bind {listener}: only Linux has abstract Unix sockets; "
            f"write {listener.prefix}unix:PATH, "
            f"or {listener.prefix}unix:./{path} for a file of that name"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file = None
    try:
        if is_abstract:
            sock.bind(f"\0{path[1:]}")
            sock.listen(listener.backlog)
        else:
            # Absolute, so that it is found again wherever the process has gone.
            path = os.path.abspath(path)
            file = bind_file(sock, path, backlog=listener.backlog, name=str(listener))
    except BindError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise _explained(listener, error) from error
    return ListeningSocket(sock, file, protocol=listener.protocol)


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
        raise _explained(listener, error) from error
    return sock


def _explained(listener: ListenerConfig, error: OSError) -> BindError:
    match error.errno:
        case errno.EADDRINUSE:
            hint = "another program listens there; stop it, or choose another address"
        case errno.EACCES | errno.EPERM:
            hint = "permission denied; ports below 1024 need privileges, choose one above"
            if listener.address.startswith("unix:"):
                hint = "permission denied; choose a folder that you may write to"
        case errno.ENOENT:
            hint = "the folder does not exist; make it, or choose another"
        case errno.EADDRNOTAVAIL:
            hint = "this machine does not have that address"
        case _:
            hint = error.strerror or str(error)
    return _bind_error(listener, hint, error)


def _bind_error(listener: ListenerConfig, hint: str, error: OSError) -> BindError:
    explained = BindError(f"cannot bind {listener}: {hint}")
    explained.errno = error.errno
    return explained


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Return the parts of HOST:PORT or [IPV6]:PORT; None where it is neither."""
    match = _HOST_PORT.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        return None
    host: str = match["ipv6"] or match["host"]
    return "0.0.0.0" if host in ("", "*") else host, int(match["port"])


def _did_you_mean(listener: ListenerConfig) -> str:
    """Return a hint at the address that may have been meant, empty where there is none."""
    address = listener.address
    host, _, port = address.rpartition(":")
    scheme, is_url, rest = address.partition("://")
    if address.removesuffix(":") in get_args(ListenerProtocol):
        meant = [f"{address.removesuffix(':')}:127.0.0.1:8000"]
    elif "/" in address and ":" not in address:
        meant = [f"unix:{address}"]
    elif is_url:
        rest = rest.rstrip("/")
        meant = [f"{scheme}:{rest}" if scheme in get_args(ListenerProtocol) else rest]
    elif "::" in host:
        meant = [f"[{host.strip('[]')}]:{port}"]
    else:
        meant = [f"127.0.0.1:{address}", f"{address}:8000"] if address else []
    for text in meant:
        found = ListenerConfig.parse(listener.prefix + text, backlog=listener.backlog)
        if found.address.startswith("unix:") or _host_and_port(found.address) is not None:
            return f"; did you mean {found}?"
    return ""


def bind_all(
    listeners: Sequence[ListenerConfig], *, reserve: bool = False
) -> list[ListeningSocket]:
    """Return listening sockets for all listeners. If one fails, the others are closed again.

    With ``reserve`` they do not listen, and keep the addresses for further ones.
    [::]:PORT takes connections of IPv4 too, where the system has it so, unless one of the other
    addresses is to take them. Raises ConfigError.
    """
    sockets: list[ListeningSocket] = []
    try:
        for index, listener in enumerate(listeners):
            try:
                found = bind(
                    listener,
                    ipv6_only=any(_is_ipv4_beside(other, listener) for other in listeners),
                    reserve=reserve,
                )
                taken = {sock.socket.getsockname() for sock in sockets} if reserve else ()
                sockets += found
                if any(sock.socket.getsockname() in taken for sock in found):
                    # The kernel allows it, as none of them listens.
                    raise _explained(listener, OSError(errno.EADDRINUSE, "in use"))
            except BindError as error:
                before = [other for other in listeners[:index] if _collide(other, listener)]
                if error.errno != errno.EADDRINUSE or not before:
                    raise
                hint = f"it collides with {before[0]}, which is bound already; leave one out"
                raise _bind_error(listener, hint, error) from error
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _is_ipv4_beside(other: ListenerConfig, listener: ListenerConfig) -> bool:
    """Return whether ``other`` takes IPv4 on the port of ``listener``, which is [IPV6]:PORT."""
    one, two = _host_and_port(listener.address), _host_and_port(other.address)
    return bool(one and two and one[1] == two[1] and ":" in one[0] and ":" not in two[0])


def _collide(one: ListenerConfig, other: ListenerConfig) -> bool:
    """Return whether two addresses are the same, or one is a part of the other."""
    first, second = _host_and_port(one.address), _host_and_port(other.address)
    if first is None or second is None:
        return one.address == other.address
    hosts = {first[0], second[0]}
    return first[1] == second[1] and (len(hosts) == 1 or not hosts.isdisjoint(_WILDCARDS))


def bind(
    listener: ListenerConfig, *, ipv6_only: bool = False, reserve: bool = False
) -> list[ListeningSocket]:
    """Return listening sockets for the address of a listener.

    It is HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME or fd:N; port 0 lets the kernel choose. A
    host name with several addresses gives a socket for each. With ``reserve``, which is for
    addresses of TCP, see ``bind_all``. Raises ConfigError.
    """
    scheme, _, rest = listener.address.partition(":")
    protocol = listener.protocol
    if scheme == "unix":
        return [_unix_socket(listener, rest)]
    if scheme == "fd":
        sock = _inherited_socket(listener, rest.removeprefix("//"))
        return [ListeningSocket(sock, protocol=protocol, inherited=True)]
    if scheme == "systemd":
        # A process that only serves has put descriptors in the place of these.
        raise ConfigError(
            f"cannot bind {listener}: only aiowsgi.run and the command line take the sockets of "
            f"systemd; write {listener.prefix}fd:3 for the first one, or pass sock="
        )
    parts = _host_and_port(listener.address)
    if parts is None:
        forms = [listener.prefix + form for form in ("HOST:PORT", "[IPV6]:PORT", "unix:PATH")]
        raise ConfigError(
            f"cannot bind {str(listener)!r}: write {', '.join(forms)} or {listener.prefix}fd:N"
            f"{'' if listener.prefix else ', or uwsgi: before one of these'}"
            f"{_did_you_mean(listener)}"
        )
    found = _tcp_sockets(listener, *parts, ipv6_only=ipv6_only, reserve=reserve)
    return [ListeningSocket(sock, protocol=protocol, reuses_port=reserve) for sock in found]


def adopt(sock: socket.socket, *, backlog: int) -> ListeningSocket:
    """Return a socket that the caller has made, listening. Raises ConfigError."""
    if sock.type != socket.SOCK_STREAM:
        raise ConfigError(f"cannot accept connections on {sock!r}: it is not a stream socket")
    try:
        sock.listen(backlog)
    except OSError as error:
        raise BindError(f"cannot listen on {sock!r}: {error.strerror}") from error
    # The caller may have forked since it was made, and will hardly say so.
    return ListeningSocket(sock, inherited=True)


def address_of(host: str, port: int) -> str:
    """Return host and port as one address; an IPv6 host gets its brackets."""
    return f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}"


def url_of(sock: socket.socket, protocol: ListenerProtocol = "http") -> str:
    """Return the URL of a listening socket, as programs on this machine reach it.

    It is http://HOST:PORT or uwsgi://HOST:PORT; for a Unix socket unix:PATH or uwsgi:unix:PATH.
    """
    name = sock.getsockname()
    if isinstance(name, tuple):
        host: str = name[0]
        return f"{protocol}://{address_of(_WILDCARDS.get(host, host), name[1])}"
    prefix = "" if protocol == "http" else f"{protocol}:"
    if isinstance(name, bytes) and name[:1] == b"\0":
        return f"{prefix}unix:@{os.fsdecode(name[1:])}"
    return f"{prefix}unix:{name if isinstance(name, str) else os.fsdecode(name)}"


def place_of(sock: socket.socket, url: str) -> str:
    """Return the URL of a listening socket, and whether others than this machine reach it."""
    return f"{url}{' (on all interfaces)' if is_on_all_interfaces(sock) else ''}"


def is_on_this_machine(sock: socket.socket) -> bool:
    """Return whether only programs on this machine can connect to a listening socket."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return True
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    # Here, because few servers need it.
    import ipaddress

    # Behind "%" is the interface.
    address = ipaddress.ip_address(sock.getsockname()[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_on_all_interfaces(sock: socket.socket) -> bool:
    """Return whether a socket listens on every interface of the machine."""
    name = sock.getsockname()
    return isinstance(name, tuple) and name[0] in _WILDCARDS
