"""What is known of a connection. Plain data, made once, that all its requests share."""

from typing import NamedTuple

# Host and port, as text; both are empty for the peer of a Unix socket.
Address = tuple[str, str]


class ConnectionInfo(NamedTuple):
    """The two ends of a connection, and how they are connected."""

    # Of the server's end, and of the client's.
    server: Address
    client: Address
    # "http", or "https" where the client speaks TLS.
    scheme: str
    # Whether TLS is spoken on this connection itself. No listener speaks it yet. (The scheme of a
    # request may be "https" all the same: a server in front can say so.)
    tls: bool
    # In seconds, by the clock of the server (``time.monotonic``).
    accepted_at: float
