"""What a binary header says beyond addresses: vectors of type, length and value (§2.2).

Of these the checksum, the name that the client has asked for, and what is known of its TLS are
used. All others are skipped.
"""

import re
from collections.abc import Iterator, Mapping

from .crc32c import crc32c
from .malformed import Malformed

_AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x02, 0x03, 0x05, 0x20
_SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x21, 0x22, 0x23
_MAX_UNIQUE_ID = 128
# Type and length.
_BEGINNING = 3
# Before the vectors within that of TLS: a byte of flags, and four that say how the client's
# certificate was verified.
_SSL_BEGINNING = 5
_CLIENT_SSL, _CLIENT_CERT_CONN, _CLIENT_CERT_SESS = 0x01, 0x02, 0x04

_ASCII = re.compile(rb"[\x20-\x7e]*")
_CONTROLS = re.compile(rb"[\0-\x1f\x7f]")


class ToldTls:
    """What a proxy says of the TLS between its client and itself. Implements ``TlsInfo``."""

    __slots__ = ("_variables",)

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def variables(self) -> Mapping[str, str]:
        """See ``TlsInfo``."""
        return self._variables


def read_extensions(header: bytes, start: int) -> ToldTls | None:
    """Read what comes in a whole header from ``start`` on. Return what it says of TLS, if that.

    Raises Malformed.
    """
    used: dict[int, bytes] = {}
    for kind, position, value in _vectors(header, start):
        if kind in (_AUTHORITY, _CRC32C, _SSL):
            if kind in used:
                raise Malformed(f"the PROXY header has the type 0x{kind:02x} twice")
            used[kind] = value
        if kind == _CRC32C:
            _verify(header, position, value)
        if kind == _UNIQUE_ID and len(value) > _MAX_UNIQUE_ID:
            raise Malformed(f"the PROXY header has a unique ID of more than {_MAX_UNIQUE_ID} bytes")
    authority = _text(used.get(_AUTHORITY, b""), "an authority")
    return _told_tls(used[_SSL], authority) if _SSL in used else None


def _vectors(data: bytes, position: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the type of each vector, where its value begins, and the value."""
    end = len(data)
    while position < end:
        start = position + _BEGINNING
        # A length that is incomplete leads behind the end, too.
        position = start + int.from_bytes(data[start - 2 : start])
        if position > end:
            raise Malformed("the PROXY header ends within an extension (TLV)")
        yield data[start - _BEGINNING], start, data[start:position]


def _verify(header: bytes, position: int, value: bytes) -> None:
    """Compare the checksum of a header, that stands at ``position``, with the header (§2.2.3)."""
    if len(value) != 4:
        raise Malformed("the PROXY header has a checksum (CRC32c) that is not of four bytes")
    without = b"".join((header[:position], bytes(4), header[position + 4 :]))
    if crc32c(without) != int.from_bytes(value):
        raise Malformed("the PROXY header does not have the checksum (CRC32c) that it tells")


def _told_tls(data: bytes, authority: str) -> ToldTls | None:
    """Return what the vector of TLS says; None where the client does not speak TLS (§2.2.6)."""
    if len(data) < _SSL_BEGINNING:
        raise Malformed("the PROXY header has a part about TLS (SSL) that is too short")
    client, verify = data[0], int.from_bytes(data[1:_SSL_BEGINNING])
    told: dict[int, bytes] = {}
    for kind, _, value in _vectors(data, _SSL_BEGINNING):
        if kind in (_SSL_VERSION, _SSL_CN, _SSL_CIPHER):
            if kind in told:
                raise Malformed(f"the PROXY header has the type 0x{kind:02x} of TLS twice")
            told[kind] = value
    version = _ascii(told.get(_SSL_VERSION, b""), "a version of TLS")
    cipher = _ascii(told.get(_SSL_CIPHER, b""), "a cipher")
    name = _text(told.get(_SSL_CN, b""), "a common name")
    if not client & _CLIENT_SSL:
        return None
    verified = "NONE"
    if client & (_CLIENT_CERT_CONN | _CLIENT_CERT_SESS):
        verified = f"FAILED:{verify}" if verify else "SUCCESS"
    if verified != "SUCCESS":  # Whoever looks at the name alone must not be deceived.
        name = ""
    variables = {
        "SSL_PROTOCOL": version,
        "SSL_CIPHER": cipher,
        "SSL_TLS_SNI": authority,
        "SSL_CLIENT_S_DN_CN": name,
    }
    known = {key: value for key, value in variables.items() if value}
    return ToldTls({"HTTPS": "on", "SSL_CLIENT_VERIFY": verified, **known})


def _ascii(value: bytes, what: str) -> str:
    if _ASCII.fullmatch(value) is None:
        raise Malformed(f"the PROXY header has {what} that is not ASCII text")
    return value.decode("ascii")


def _text(value: bytes, what: str) -> str:
    """Return UTF-8 as the environ has it (PEP 3333, "Unicode Issues")."""
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"the PROXY header has {what} that is not UTF-8") from None
    if _CONTROLS.search(value):
        raise Malformed(f"the PROXY header has {what} with control characters")
    return value.decode("latin-1")
