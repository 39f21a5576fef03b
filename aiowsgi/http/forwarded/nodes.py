"""Who is told of: an address with or without a port, or something in its place (RFC 7239 §6)."""

import re
from typing import NamedTuple

from ...config.trust import IPV4

# In place of an address that is not known (RFC 7239 §6.2).
UNKNOWN = "unknown"
# What nginx tells of a client that has connected to its Unix socket.
UNIX = "unix:"

_OBFUSCATED = r"_[A-Za-z0-9._\-]{1,99}"
_NODE = re.compile(
    # The groups are three kinds of hosts, and a port.
    r"(?:([0-9.]{7,15})"
    r"|\[([0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._~\-]{1,32})?)\]"
    rf"|({UNKNOWN}|{_OBFUSCATED}))"
    rf"(?::([0-9]{{1,5}}|{_OBFUSCATED}))?",
    re.IGNORECASE | re.ASCII,
)
# As it is written without a port, usually.
_BARE = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._~\-]{1,32})?", re.ASCII)


class Node(NamedTuple):
    """A client or a proxy, as somebody tells of it."""

    host: str
    """an address as a socket has it, or what is told in its place: unknown, _hidden, unix:"""
    port: str
    """a number; empty where none is told"""


def parse_node(text: str) -> Node | None:
    """Return who is told of; None where it is not possible to say.

    That is ADDRESS, ADDRESS:PORT, [IPV6]:PORT, unknown, or an identifier that begins with an
    underscore. An address of IPv4 that is mapped into IPv6 is that of IPv4.
    """
    if text == UNIX:
        return Node(UNIX, "")
    port: str | None = None
    if (match := _NODE.fullmatch(text)) is not None:
        ipv4, ipv6, other, port = match.groups()
        if port is not None and port.isdecimal():
            if int(port) > 65535:
                return None
            port = str(int(port))
        else:  # None, or hidden.
            port = ""
        if other is not None:
            return Node(UNKNOWN if other.lower() == UNKNOWN else other, port)
        address = ipv4 or ipv6
    elif ":" in text and _BARE.fullmatch(text) is not None:
        address, port = text, ""
    else:
        return None
    host = _canonical(address)
    return None if host is None else Node(host, port)


def _canonical(address: str) -> str | None:
    """Return an address as a socket has it; None where it is none."""
    if IPV4.fullmatch(address) is not None:
        return address
    from ipaddress import IPv6Address

    try:
        parsed = IPv6Address(address)
    except ValueError:
        return None
    return str(parsed.ipv4_mapped or parsed)
