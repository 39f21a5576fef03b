"""What is known of a connection. Plain data, made once, that all its requests share."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

# Host and port, as text; both are empty for the peer of a Unix socket.
Address = tuple[str, str]


class TlsInfo(Protocol):
    """What is known of a connection because TLS is spoken on it."""

    def variables(self) -> Mapping[str, str]:
        """Return what it adds to the environ of each request. Called on pool threads, too."""


class ConnectionInfo(NamedTuple):
    """The two ends of a connection, and how they are connected."""

    # Of the server's end, and of the client's.
    server: Address
    client: Address
    # "http", or "https" where the client speaks TLS.
    scheme: str
    # None where TLS is not spoken on this connection itself. (The scheme of a request may be
    # "https" all the same: a server in front can say so.)
    tls: TlsInfo | None
    # In seconds, by the clock of the server (``time.monotonic``).
    accepted_at: float
