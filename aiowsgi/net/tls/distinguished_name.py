"""Names in certificates as text: whole ones as in RFC 2253, and parts of them.

Such a text never has control characters, nor those that change the direction of text: a certificate
can have all of them, and what is made of it gets into logs and headers.
"""

import re
from collections.abc import Iterable, Iterator

# What ``ssl.SSLSocket.getpeercert`` makes of a name: parts, each with attributes (usually one),
# each with the long name of its type and its value.
Attribute = tuple[str, str]
Name = tuple[tuple[Attribute, ...], ...]

# Of types: the long name, and the short one that RFC 2253 §2.3 or OpenSSL has for it.
_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "streetAddress": "street",
    "domainComponent": "DC",
    "userId": "UID",
    "surname": "SN",
    "givenName": "GN",
}
# The names that mod_ssl has for parts of a name.
_PARTS = {
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "commonName": "CN",
    "title": "T",
    "initials": "I",
    "givenName": "G",
    "surname": "S",
    "description": "D",
    "userId": "UID",
    "domainComponent": "DC",
    "emailAddress": "Email",
}
_HARMFUL = "\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069"
_IN_VALUE = re.compile(f"[{_HARMFUL}\\\\]")
_IN_NAME = re.compile(f'[{_HARMFUL}\\\\,+"<>;]|^[ #]| \\Z')


def distinguished_name(name: Name) -> str:
    """Return a name as RFC 2253 has it: the last part first, "CN=...,O=...,C=..."."""
    return ",".join(
        "+".join(
            f"{_SHORT.get(kind, kind)}={_IN_NAME.sub(_escape, value)}"
            for kind, value in reversed(part)
        )
        for part in reversed(name)
    )


def parts(name: Name) -> Iterator[tuple[str, str]]:
    """Yield the parts of a name that mod_ssl has names for, and their values.

    The name of a second one of a kind ends in "_1", and so on.
    """
    found: dict[str, int] = {}
    for kind, value in (attribute for part in name for attribute in part):
        if (short := _PARTS.get(kind)) is not None:
            number = found.get(short, 0)
            found[short] = number + 1
            yield f"{short}_{number}" if number else short, harmless(value)


def harmless(value: str) -> str:
    """Return a value with each harmful character as its bytes in UTF-8: \\0A. And \\\\ for \\."""
    return _IN_VALUE.sub(_escape, value)


def native(texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Make values native strings of WSGI: bytes, here UTF-8, that are decoded as ISO-8859-1."""
    for key, text in texts:
        yield key, text.encode().decode("latin-1")


def _escape(found: re.Match[str]) -> str:
    character = found.group()
    if character in ' #\\,+"<>;':
        return f"\\{character}"
    return "".join(f"\\{byte:02X}" for byte in character.encode())
