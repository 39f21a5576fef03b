"""The transports of the event loop, which every system has."""

import asyncio
import logging
import socket
from typing import Any

_log = logging.getLogger("aiowsgi.error")


class LoopTransports:
    """Has the event loop connect each socket, in a task of its own. See ``Connector``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # What is being set up: the task that does it, the socket, and the protocol.
        self._connecting: dict[asyncio.Task[Any], tuple[socket.socket, asyncio.Protocol]] = {}

    def connect(self, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        """See ``Connector``."""
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, sock))
        self._connecting[task] = sock, protocol
        task.add_done_callback(self._on_set_up)

    def _on_set_up(self, task: asyncio.Task[Any]) -> None:
        """Let go of a connection that could not be set up."""
        sock, protocol = self._connecting.pop(task)
        if task.cancelled():
            # The host may cancel all tasks of the loop, and this one before it has begun.
            error = None
        elif (error := task.exception()) is None:
            return
        sock.close()
        protocol.connection_lost(None)
        if isinstance(error, OSError):
            _log.debug("A connection was gone before it was set up: %s", error)
        elif error is not None:
            _log.error("A connection could not be set up", exc_info=error)

    async def settle(self) -> None:
        """See ``Connector``."""
        if self._connecting:
            await asyncio.wait(self._connecting)

    def abandon(self) -> list[int]:
        """See ``Connector``."""
        return [sock.fileno() for sock, _ in self._connecting.values()]

    def close(self) -> None:
        """See ``Connector``. Everything is the loop's."""
