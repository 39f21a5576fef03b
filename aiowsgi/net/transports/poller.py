"""Transports of our own: all sockets of a server in one epoll, which the event loop watches."""

import asyncio
import contextlib
import logging
import select
import socket
from collections import deque
from contextvars import Context
from typing import Final

from .polled_transport import EPOLLIN, PolledTransport, Watcher

_log = logging.getLogger("aiowsgi.error")

# Sockets that are served before other callbacks of the loop have their turn. The kernel moves those
# to the end of its list, so that the others are next.
_SOCKETS_PER_PASS: Final = 64


class Poller(Watcher):
    """Watches sockets, and tells their transports when they can be read or written.

    To the event loop it is one descriptor that can be read whenever any of the sockets is ready, so
    that it costs one callback for all that is ready in a pass, and a system call or two for each.
    Everything happens on the loop thread. Implements ``Connector``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        # A copy, because what is told here may enter the other one.
        self._context = context.copy()
        self._epoll = select.epoll()
        # Whether the loop watches it: from the first connection on.
        self._is_watched = False
        # Those whose sockets are open, by their descriptors.
        self._transports: dict[int, PolledTransport] = {}
        # Those whose ends their protocols have to be told. They stay here until that is done, which
        # KeyboardInterrupt may interrupt at any line: then it is done again.
        self._ended: deque[PolledTransport] = deque()
        # Whether that will be done in the next pass of the loop.
        self._will_report = False
        # Whether it does nothing any more: it is closed, or this is a forked child.
        self._is_over = False

    def connect(self, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        """See ``Connector``."""
        if not self._is_watched:
            self._context.run(self._loop.add_reader, self._epoll.fileno(), self._serve)
            self._is_watched = True
        transport = PolledTransport(self, sock, protocol)
        try:
            if not self._is_over:
                self._epoll.register(transport.descriptor, EPOLLIN)
        except OSError as error:  # Of what the kernel has for it.
            sock.close()
            protocol.connection_lost(None)
            _log.error("A connection could not be set up: %s", error)
            return
        self._transports[transport.descriptor] = transport
        try:
            # It has of one what is used.
            protocol.connection_made(transport)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - a defect must not keep others waiting
            self._report(transport, error)

    def _serve(self) -> None:
        """Have transports do what they can do now."""
        if self._is_over:
            return
        if self._ended:  # The loop was interrupted before it came to that.
            self._report_ends()
        for descriptor, events in self._epoll.poll(0, _SOCKETS_PER_PASS):
            # One that was served before may have ended this one. Then another one may have its
            # number by now, which finds that there is nothing to do.
            if (transport := self._transports.get(descriptor)) is not None:
                try:
                    transport.serve(events)
                except Exception as error:  # noqa: BLE001 - a defect must not keep others waiting
                    self._report(transport, error)

    def _report(self, transport: PolledTransport, error: Exception) -> None:
        """Cut a connection because of a defect, which the loop is told of."""
        transport.abort()
        self._loop.call_exception_handler(
            {
                "message": "A connection is cut, because its protocol has failed",
                "exception": error,
                "transport": transport,
                "protocol": transport.get_protocol(),
            }
        )

    # Called by transports.

    def watch(self, sock: socket.socket, before: int, events: int) -> None:
        """Watch a socket for other events than before; for none at either time it is not watched.

        The kernel would tell of broken ones all the same. And it forgets one that is closed only
        when no other process has it.
        """
        if self._is_over:
            return
        if not before:
            self._epoll.register(sock, events)
        elif events:
            self._epoll.modify(sock, events)
        else:
            self._epoll.unregister(sock)

    def note_end(self, transport: PolledTransport) -> None:
        """Tell a protocol in the next pass that its connection is lost, and close the socket."""
        self._ended.append(transport)
        if not self._will_report:
            self._report_soon()

    def _report_soon(self) -> None:
        # If this fails, as for want of memory, the next end has all of them told.
        self._loop.call_soon(self._report_ends, context=self._context)
        self._will_report = True

    def _report_ends(self) -> None:
        self._will_report = False
        try:
            # Not those that are added meanwhile, which might have no end.
            for _ in range(len(self._ended)):
                self._report_end(self._ended[0])
                self._ended.popleft()
        finally:
            if self._ended and not self._will_report:
                self._report_soon()

    def _report_end(self, transport: PolledTransport) -> None:
        try:
            transport.report_end()
        except Exception as error:  # noqa: BLE001 - a defect must not keep others waiting
            self._report(transport, error)
        self._transports.pop(transport.descriptor, None)
        transport.release()

    # Called by the server.

    async def settle(self) -> None:
        """See ``Connector``. They are connected at once."""

    def abandon(self) -> list[int]:
        """See ``Connector``."""
        self._is_over = True
        return [] if self._epoll.closed else [self._epoll.fileno()]

    def close(self) -> None:
        """See ``Connector``."""
        if self._is_over:
            return
        self._is_over = True
        if self._is_watched:
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        for transport in self._transports.values():
            transport.close_socket()
        self._transports.clear()
