"""Packets of the uwsgi protocol, as nginx sends them and as nobody should."""

import struct
from collections.abc import Iterable, Mapping

Variables = Iterable[tuple[bytes, bytes]]

# As nginx sends them with its file uwsgi_params, in its order; empty where it has nothing to say.
STOCK = {
    "QUERY_STRING": "",
    "REQUEST_METHOD": "GET",
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    "REQUEST_URI": "/",
    "PATH_INFO": "/",
    "DOCUMENT_ROOT": "/usr/share/nginx/html",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "http",
    "REMOTE_ADDR": "192.0.2.7",
    "REMOTE_PORT": "54321",
    "SERVER_PORT": "80",
    "SERVER_NAME": "shop.test",
    "HTTP_HOST": "shop.test",
}


def block(variables: Variables) -> bytes:
    """Return variables, each name and each value behind its length."""
    return b"".join(
        struct.pack("<H", len(part)) + part for variable in variables for part in variable
    )


def packet(variables: Variables, modifier1: int = 0, modifier2: int = 0) -> bytes:
    """Return a packet with these variables."""
    content = block(variables)
    return struct.pack("<BHB", modifier1, len(content), modifier2) + content


def stock_variables(changes: Mapping[str, str | None]) -> list[tuple[bytes, bytes]]:
    """Return those of nginx with some replaced, removed (None), or added at the end."""
    said = {name: value for name, value in {**STOCK, **changes}.items() if value is not None}
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in said.items()]


def request(body: bytes = b"", **changes: str | None) -> bytes:
    """Return a whole request: a packet as from nginx, and a body, whose length it tells."""
    if body:
        changes = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body)), **changes}
    return packet(stock_variables(changes)) + body
