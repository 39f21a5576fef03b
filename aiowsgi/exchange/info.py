"""What is known of a connection. Plain data, made once, that all its requests share."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

# Host and port, as text; both are empty for the peer of a Unix socket.
Address = tuple[str, str]


class TlsInfo(Protocol):
    """What is known of a connection because TLS is spoken on it, or by a proxy's client."""

    def variables(self) -> Mapping[str, str]:
        """Return what it adds to the environ of each request. Called on pool threads, too."""


class Ends(NamedTuple):
    """The two ends of a connection, and the scheme that is spoken between them."""

    server: Address
    client: Address
    scheme: str


class ConnectionInfo(NamedTuple):
    """The two ends of a connection, and how they are connected."""

    # Of the server's end, and of the client's.
    server: Address
    client: Address
    # "http", or "https" where the client speaks TLS.
    scheme: str
    # None where TLS is spoken neither on this connection itself nor, by its PROXY header, between
    # the client and a proxy. (The scheme of a request may be "https" all the same: header fields
    # can say so.)
    tls: TlsInfo | None
    # In seconds, by the clock of the server (``time.monotonic``).
    accepted_at: float
    # What the connection itself has, where a PROXY header has replaced some of that; else None.
    peer: Ends | None = None
