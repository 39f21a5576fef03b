"""Where a listening socket is found: its address, its URL, and from where it is reached."""

import os
import socket

from ...config import ListenerConfig

# All interfaces: no address to connect to, but what is bound to it can be reached at this one.
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def address_of(host: str, port: int) -> str:
    """Return host and port as one address; an IPv6 host gets its brackets."""
    return f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}"


def url_of(sock: socket.socket, listener: ListenerConfig) -> str:
    """Return the URL of a listening socket, as programs on this machine reach it.

    It is http://HOST:PORT, https://HOST:PORT or uwsgi://HOST:PORT; for a Unix socket unix:PATH,
    tls:unix:PATH or uwsgi:unix:PATH.
    """
    name = sock.getsockname()
    if isinstance(name, tuple):
        host: str = name[0]
        scheme = "https" if listener.tls else listener.protocol
        return f"{scheme}://{address_of(WILDCARDS.get(host, host), name[1])}"
    prefix = listener.prefix
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
    return isinstance(name, tuple) and name[0] in WILDCARDS
