"""The header of the PROXY protocol: bytes to what they say. No I/O, and no state.

What comes behind the header is TLS or HTTP, and is never looked at. The numbers of sections are
those of HAProxy's ``proxy-protocol.txt``.
"""

import re
import socket
from typing import NamedTuple

from ...exchange.info import Address
from ...wording import counted
from .extensions import ToldTls, read_extensions
from .malformed import Malformed

# Version 1, §2.1. The longest line, with its CRLF.
_MAX_LINE = 107
_LINE_BEGINS = b"PROXY "
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rb"%b(?:\.%b){3}" % (_OCTET, _OCTET))
# Whether it is an address, inet_pton decides. Proxies write mapped addresses as it does, with dots.
_IPV6 = re.compile(rb"[0-9A-Fa-f:.]+")
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")

# Version 2, §2.2.
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_SIZE = 16
# Any length up to 64 KiB could be told. This is what the buffer of HAProxy holds, so that none of
# those has more to say, even with the certificate of a client.
MAX_SIZE = 1 << 14
_LOCAL, _PROXY = 0, 1
_UNSPEC, _INET, _INET6, _UNIX = range(4)
_FAMILIES = {_INET: socket.AF_INET, _INET6: socket.AF_INET6}
# Of one address, in bytes. Two ports of two bytes follow those of IP.
_ADDRESS_SIZES = {_INET: 4, _INET6: 16, _UNIX: 108}
# Unspecified, stream (TCP) and datagram (UDP).
_MAX_TRANSPORT = 2

# How a record of a TLS handshake begins (RFC 8446 §5.1).
_TLS_HANDSHAKE = 0x16
_HAVE_IT_SENT = (
    "have it send one (send-proxy-v2 of HAProxy, proxy_protocol on; of nginx), or remove proxy=on "
    "from this address"
)


class Header(NamedTuple):
    """What a header says.

    Addresses are as a direct connection would have them: those of clients of a Unix socket are
    empty texts. They are None where the connection itself has to tell: the proxy speaks for itself
    (LOCAL), such as in a health check, or does not know better (UNKNOWN, UNSPEC), or its own end is
    a Unix socket.
    """

    # How many bytes it takes.
    size: int
    source: Address | None
    destination: Address | None
    # None where the client does not speak TLS with the proxy, or that is not told.
    tls: ToldTls | None
    # Whether the proxy speaks for itself, and not for a client, even one that it does not know.
    is_local: bool = False


def parse(data: bytes | bytearray) -> Header | None:
    """Return the header with which ``data`` begins; None where more of it has to come.

    Raises Malformed as soon as it is none. However the bytes are split, the result is the same.
    """
    if data.startswith(_SIGNATURE):
        return _parse_binary(data)
    if data.startswith(_LINE_BEGINS):
        return _parse_line(data)
    for beginning in _SIGNATURE, _LINE_BEGINS:
        if beginning.startswith(data):
            return None
    raise Malformed(_foreign(data))


def _foreign(data: bytes | bytearray) -> str:
    """Return what is wrong with what does not even begin like a header."""
    if data[0] == _TLS_HANDSHAKE:
        return f"the client speaks TLS, without a PROXY header before it; {_HAVE_IT_SENT}"
    if ord("A") <= data[0] <= ord("Z"):  # A method, of which all that are registered begin so.
        return f"the client speaks HTTP, it seems, without a PROXY header; {_HAVE_IT_SENT}"
    return f"what comes first is no PROXY header; {_HAVE_IT_SENT}"


def _parse_line(data: bytes | bytearray) -> Header | None:
    """Return a header of version 1."""
    end = data.find(b"\r\n", 0, _MAX_LINE)
    if end < 0:
        if len(data) < _MAX_LINE:
            return None
        raise Malformed(f"the PROXY line does not end within {_MAX_LINE} bytes")
    size = end + 2
    family, *rest = bytes(data[len(_LINE_BEGINS) : end]).split(b" ")
    if family == b"UNKNOWN":  # Whatever is behind it is ignored.
        return Header(size, None, None, None)
    if family not in (b"TCP4", b"TCP6"):
        raise Malformed("the PROXY line names none of TCP4, TCP6 and UNKNOWN")
    if len(rest) != 4:
        raise Malformed(
            f"the PROXY line has {counted(len(rest), 'word')} behind {family.decode()}; these are "
            "two addresses and two ports, with one space between them"
        )
    read = _ipv4 if family == b"TCP4" else _ipv6
    source, destination = read(rest[0]), read(rest[1])
    return Header(size, (source, _port(rest[2])), (destination, _port(rest[3])), None)


def _ipv4(text: bytes) -> str:
    if _IPV4.fullmatch(text) is None:
        raise Malformed("the PROXY line has an address behind TCP4 that is not one of IPv4")
    return text.decode("ascii")


def _ipv6(text: bytes) -> str:
    if _IPV6.fullmatch(text):
        try:
            packed = socket.inet_pton(socket.AF_INET6, text.decode("ascii"))
        except OSError:
            pass
        else:
            return socket.inet_ntop(socket.AF_INET6, packed)
    raise Malformed("the PROXY line has an address behind TCP6 that is not one of IPv6")


def _port(text: bytes) -> str:
    if _PORT.fullmatch(text) is None or int(text) > 0xFFFF:
        raise Malformed("the PROXY line has a port that is no number from 0 to 65535")
    return text.decode("ascii")


def _parse_binary(data: bytes | bytearray) -> Header | None:
    """Return a header of version 2."""
    if len(data) < _FIXED_SIZE:
        return None
    version, command = divmod(data[12], 16)
    family, transport = divmod(data[13], 16)
    size = _FIXED_SIZE + int.from_bytes(data[14:16])
    if version != 2:
        raise Malformed(f"the PROXY header has the binary version {version}; only 2 is known")
    if command not in (_LOCAL, _PROXY):
        raise Malformed(f"the PROXY header has the command {command}; only LOCAL (0) and PROXY (1)")
    # The family is ignored with LOCAL, whatever it is.
    if command == _PROXY and (family > _UNIX or transport > _MAX_TRANSPORT):
        raise Malformed(f"the PROXY header has the unknown family 0x{data[13]:02x}")
    if size > MAX_SIZE:
        raise Malformed(f"the PROXY header is {size} bytes long, more than {MAX_SIZE}")
    if len(data) < size:
        return None
    if command == _LOCAL:  # All else has to be discarded.
        return Header(size, None, None, None, is_local=True)
    return _parse_proxied(bytes(data[:size]), family, transport)


def _parse_proxied(header: bytes, family: int, transport: int) -> Header:
    """Return what a complete header says for another one."""
    size = len(header)
    if family == _UNSPEC or transport == _UNSPEC:
        # Addresses are ignored. Where there are none, because family and transport are unspecified,
        # HAProxy still says what it knows of TLS. Otherwise nobody knows where that would begin.
        is_silent = family or transport
        return Header(size, None, None, None if is_silent else read_extensions(header, _FIXED_SIZE))
    length = _ADDRESS_SIZES[family]
    end = _FIXED_SIZE + 2 * length + (0 if family == _UNIX else 4)
    if size < end:
        raise Malformed("the PROXY header is too short for the addresses of its family")
    source: Address = ("", "")
    destination: Address | None = None
    if family != _UNIX:
        # Also where they are those of UDP: the client speaks HTTP/3 with the proxy then.
        first, second, ports = _FIXED_SIZE, _FIXED_SIZE + length, end - 4
        source = _address(family, header[first:second], header[ports : ports + 2])
        destination = _address(family, header[second:ports], header[ports + 2 : end])
    return Header(size, source, destination, read_extensions(header, end))


def _address(family: int, packed: bytes, port: bytes) -> Address:
    return socket.inet_ntop(_FAMILIES[family], packed), str(int.from_bytes(port))
