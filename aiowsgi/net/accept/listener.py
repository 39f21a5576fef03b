"""A listener: accepts connections on one socket, while there is room for them."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextvars import Context

from ..bind.listening import ListeningSocket
from ..transports.connector import Connector

_log = logging.getLogger("aiowsgi.error")

# Connections accepted before other work of the loop has its turn. On a socket that other processes
# may have too, each takes one at a time: otherwise the first would take all that are waiting. Where
# they take turns, that says when to stop.
_ACCEPTS_PER_PASS = 64
_ACCEPTS_PER_PASS_SHARED = 1
# As many are accepted from a socket that is about to be closed, and is not the only one.
_MOST_OF_REST = 4096
# The process or the system has run out of descriptors or buffers. It may have some later.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_EXHAUSTED_PAUSE = 0.1
_REPORT_INTERVAL = 60.0
# Where there is no room, accepting is tried again after this many seconds.
_FULL_PAUSE = 0.5
# The socket is not one that can be accepted on, or not any more.
_BROKEN = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP)


class Listener:
    """Accepts on a listening socket, which it owns, and has each connection connected.

    Arguments: ``room()`` says how many more connections are welcome; ``make_room()`` is called
    where there are none and a client waits; ``on_broken()``, where the socket cannot be accepted on
    any more; ``make_protocol(connection, peer)``, of an accepted socket and the name of its peer;
    ``connector`` connects both; ``turn()`` says for how many seconds connections are left to others
    that may accept on the socket, 0 where one is accepted now, and is None where that is never
    asked; ``context`` is what callbacks run in. Unlike ``asyncio.Server`` it leaves connections to
    the kernel, or to another process, while there is no room. Everything is called on the loop
    thread.
    """

    def __init__(
        self,
        listening: ListeningSocket,
        *,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        room: Callable[[], float],
        make_room: Callable[[], None],
        on_broken: Callable[[], None],
        make_protocol: Callable[[socket.socket, object], asyncio.Protocol],
        connector: Connector,
        turn: Callable[[], float] | None = None,
    ) -> None:
        self._listening = listening
        self._loop = loop
        self._context = context
        self._room = room
        self._make_room = make_room
        self._on_broken = on_broken
        self._make_protocol = make_protocol
        self._connector = connector
        self._turn = turn
        self._accepting = False
        self._closed = False
        # Whether the socket cannot be accepted on any more.
        self._broken = False
        # When the log last said that connections cannot be accepted.
        self._reported_at = float("-inf")
        self._retry: asyncio.TimerHandle | None = None

    @property
    def sock(self) -> socket.socket:
        """The listening socket."""
        return self._listening.socket

    def abandon(self) -> list[int]:
        """Accept no more, in a forked child. Return the descriptors that are its parent's."""
        self._closed = True
        return [self.sock.fileno()]

    def resume(self) -> None:
        """Accept, from now on or again."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if not self._accepting and not self._closed and not self._broken:
            self._context.run(self._loop.add_reader, self.sock, self._accept)
            self._accepting = True

    def _pause(self, seconds: float | None = None) -> None:
        """Stop accepting, for a while or until ``resume``."""
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self.sock)
        if seconds is not None:
            self._retry = self._loop.call_later(seconds, self.resume)

    def close_without_loop(self) -> None:
        """Close the socket, without the loop: that is closed. Called on the thread that does so."""
        self._closed = True
        self._listening.close()

    async def close(self) -> None:
        """Stop accepting, close the socket, and wait for connections that are being set up."""
        if self._listening.reuses_port and not self._closed and not self._broken:
            self._accept_rest()
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._pause()
        self._listening.close()
        await self._connector.settle()

    def _accept(self) -> None:
        """Accept what is waiting: several at once are cheaper than a pass of the loop for each."""
        room = self._room()
        if room <= 0:
            self._pause(_FULL_PAUSE)
            self._make_room()
            return
        turn = self._turn
        is_shared = self._listening.inherited and turn is None
        most = _ACCEPTS_PER_PASS_SHARED if is_shared else _ACCEPTS_PER_PASS
        for number in range(int(min(room, most))):
            if turn is not None and (seconds := turn()):
                if number == 0:  # Else there may be none that waits.
                    self._pause(seconds)
                return
            try:
                connection, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _BROKEN:
                    _log.critical("Cannot accept connections any more: %s", error.strerror)
                    self._pause()
                    # Connections that end make room, which is of no use here any more.
                    self._broken = True
                    self._on_broken()
                    return
                if error.errno in _EXHAUSTED:
                    if self._loop.time() - self._reported_at >= _REPORT_INTERVAL:
                        _log.error("Cannot accept a connection: %s (see ulimit -n)", error.strerror)
                        self._reported_at = self._loop.time()
                    self._pause(_EXHAUSTED_PAUSE)
                    self._make_room()
                    return
                # Anything else is one client's trouble: it left before it was accepted.
                continue
            self._connector.connect(connection, self._make_protocol(connection, peer))

    def _accept_rest(self) -> None:
        """Accept what waits on this socket alone: when that is closed, the kernel resets it.

        Other sockets have the address, too, and clients would hardly expect that.
        """
        # More may come all the time.
        for _ in range(int(min(self._room(), _MOST_OF_REST))):
            try:
                connection, peer = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _BROKEN or error.errno in _EXHAUSTED:
                    return
                continue
            self._connector.connect(connection, self._make_protocol(connection, peer))
