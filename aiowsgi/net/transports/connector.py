"""The interface of what makes a transport for each accepted socket."""

import asyncio
import socket
from typing import Protocol


class Connector(Protocol):
    """Connects the accepted sockets of one server to their protocols. On the loop thread."""

    def connect(self, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        """Make a transport of a socket that does not block, which belongs to it from here on.

        A protocol that cannot be connected is told ``connection_lost``, perhaps for the second
        time.
        """

    async def settle(self) -> None:
        """Wait until each socket is connected, or cannot be."""

    def abandon(self) -> list[int]:
        """Do nothing more, in a forked child. Return the descriptors that are its parent's.

        Those of sockets that are connected are known to their connections.
        """

    def close(self) -> None:
        """Let go of everything: the server has ended, or its loop is closed. Idempotent."""
