"""What is known of a connection. Plain data, made once, that all its requests share."""

import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol

# What logs show of a host that was told: neither white space nor quotation marks.
_HOST = re.compile(r"[!#-\[\]-~]{1,100}")
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


class ConnectionInfo:
    """The two ends of a connection, and how they are connected. Nothing of it is changed.

    Not a tuple: where this is compiled, to make one of those takes several times as long.
    """

    __slots__ = ("accepted_at", "client", "peer", "scheme", "server", "tls")

    def __init__(
        self,
        server: Address,
        client: Address,
        scheme: str,
        tls: TlsInfo | None,
        accepted_at: float,
        peer: Ends | None = None,
    ) -> None:
        # Of the server's end, and of the client's.
        self.server = server
        self.client = client
        # "http", or "https" where the client speaks TLS.
        self.scheme = scheme
        # None where TLS is spoken neither on this connection itself nor, by its PROXY header,
        # between the client and a proxy. (The scheme of a request may be "https" all the same:
        # header fields can say so.)
        self.tls = tls
        # In seconds, by the clock of the server (``time.monotonic``).
        self.accepted_at = accepted_at
        # What the connection itself has, where a PROXY header has replaced some of that; else None.
        self.peer = peer


def shown_client(info: ConnectionInfo, variables: Mapping[str, str] | None) -> str:
    """Return the host of the client of a request, as logs show it; empty for a Unix socket.

    A web server in front may have said in ``variables`` whom it has as a client: that one then.
    """
    if variables is not None and _HOST.fullmatch(host := variables.get("REMOTE_ADDR", "")):
        return host
    return info.client[0]
