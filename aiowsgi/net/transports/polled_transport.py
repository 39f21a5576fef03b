"""One connection of a ``Poller``: what asyncio calls a transport."""

import asyncio
import socket
from abc import ABC, abstractmethod
from typing import Any, Final, cast

from ...bridge.pieces import unsent

# As ``select`` has them where there is epoll; elsewhere this is imported, too. And compiled code
# would look each of its names up whenever it is used.
EPOLLIN: Final = 1
EPOLLOUT: Final = 4
# Bytes that are read at a time, before other connections have their turn: of most requests there
# are few, and more of what a long body goes on with. Not always more, because to take memory for
# what does not come costs the more the more it is.
_READ_BYTES: Final = 1 << 16
_MANY_BYTES: Final = 1 << 18
# Pieces that Linux takes at a time (UIO_MAXIOV).
_MOST_PIECES: Final = 1024
# More pieces than that are joined to be kept. Many small ones take more memory than their bytes.
_KEPT_PIECES: Final = 64
# What the method of sockets is made of. That counts the files that were made of one: here, none.
_close: Final = socket.SocketType.close
# Whom it tells what happens once its connection is lost.
_NOBODY: Final = asyncio.Protocol()


class Watcher(ABC):
    """What watches the sockets of transports. On the loop thread.

    Not a ``typing.Protocol``: compiled code finds the methods of this much faster.
    """

    @abstractmethod
    def watch(self, sock: socket.socket, before: int, events: int) -> None:
        """Watch a socket for these events of epoll, and not any more for those before."""

    @abstractmethod
    def note_end(self, transport: "PolledTransport") -> None:
        """Have ``report_end`` called in the next pass of the loop."""


class PolledTransport:
    """Reads and writes one socket, which it owns, when its watcher says that it can.

    It has of an ``asyncio.Transport`` what the server uses, and behaves as those of the event loops
    do with a high-water mark of 0: what it is told to write is sent at once, and what the kernel
    does not take is kept, and told to the protocol. Everything is called on the loop thread.
    """

    __slots__ = (
        "_error",
        "_events",
        "_has_ended",
        "_is_at_end",
        "_is_closing",
        "_is_half_closed",
        "_most",
        "_protocol",
        "_reads",
        "_rest",
        "_socket",
        "_watcher",
        "descriptor",
    )

    def __init__(self, watcher: Watcher, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        self._watcher = watcher
        self._socket = sock
        # By which the watcher knows it; -1 once it is released. Nothing else uses the number: where
        # the socket is closed, it may be that of another one.
        self.descriptor = sock.fileno()
        self._protocol = protocol
        # What it is watched for: its first bytes, from the beginning.
        self._events = EPOLLIN
        # How many bytes are read next, at most.
        self._most = _READ_BYTES
        # Whether the protocol wants data, and whether the client will send none any more.
        self._reads = True
        self._is_at_end = False
        # What the kernel has not taken yet, in few pieces; None most of the time.
        self._rest: list[bytes] | None = None
        # Whether the server's side ends, and whether everything does, once the rest is sent.
        self._is_half_closed = self._is_closing = False
        # Whether the connection is gone, and the error that it has ended with.
        self._has_ended = False
        self._error: Exception | None = None

    # Called by the watcher.

    def serve(self, events: int) -> None:
        """Read and write what can be. Among ``events`` may be some that it is not watched for."""
        # A broken socket says so when it is read or written.
        if events != EPOLLIN and self._events & EPOLLOUT:
            self._send_rest()
        if events == EPOLLOUT or not self._events & EPOLLIN:
            return
        try:
            data = self._socket.recv(self._most)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(error)
            return
        if data:
            self._most = _READ_BYTES if len(data) < _READ_BYTES else _MANY_BYTES
            self._protocol.data_received(data)
            return
        self._is_at_end = True
        if not self._protocol.eof_received():
            self.close()
        self._update()

    def report_end(self) -> None:
        """Tell the protocol that the connection is lost, which has to bear that twice."""
        self._protocol.connection_lost(self._error)

    def close_socket(self) -> None:
        """Close the socket. Idempotent."""
        _close(self._socket)

    def release(self) -> None:
        """Close the socket, and let go of the protocol, which was told. Idempotent."""
        # The number may be that of another socket from here on.
        self.descriptor = -1
        # Each knows the other, and would be left to the garbage collector.
        self._protocol = _NOBODY
        self.close_socket()

    def _send_rest(self) -> None:
        if self._rest is None:
            self._update()
            return
        try:
            sent = self._socket.sendmsg(self._rest[:_MOST_PIECES])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(error)
            return
        self._rest = unsent(self._rest, sent)
        if self._rest:
            return
        # It is watched until it has room again and nothing is left. Most often there is more by
        # then, and the kernel need not be told twice.
        self._rest = None
        self._protocol.resume_writing()
        # Not the attribute, which mypyc takes to be None still.
        if self.get_write_buffer_size():  # There is more.
            return
        if self._is_closing:
            self._end()
        elif self._is_half_closed:
            self._shut_down()

    def _break(self, error: OSError) -> None:
        """Take note that the connection is broken."""
        # Its traceback has frames of this transport and of those who use it, which would be left to
        # the garbage collector.
        self._error = error.with_traceback(None)
        self.abort()

    def _update(self) -> None:
        """Be watched for what can be used now."""
        events = 0
        if self._reads and not self._is_at_end and not self._is_closing:
            events = EPOLLIN
        if self._rest is not None:
            events |= EPOLLOUT
        if events != self._events:
            self._watcher.watch(self._socket, self._events, events)
            self._events = events

    def _end(self) -> None:
        if not self._has_ended:
            try:
                self._watcher.note_end(self)
                # Not before: an interrupted end begins again.
                self._has_ended = True
            finally:
                if self._events:
                    self._watcher.watch(self._socket, self._events, 0)
                    self._events = 0

    # Called by protocols.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the ``socket``, or its name, the ``sockname``."""
        if name == "socket":
            return self._socket
        if name == "sockname":
            return self._socket.getsockname()
        return default

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return whom it tells what happens."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Tell this protocol what happens from here on."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def is_reading(self) -> bool:
        """Return whether it reads, unless its end has begun."""
        return self._reads

    def pause_reading(self) -> None:
        """Read nothing more."""
        self._reads = False
        self._update()

    def resume_reading(self) -> None:
        """Go on reading, or begin to."""
        self._reads = True
        self._update()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: it always says when it holds anything at all, and when that is gone."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken."""
        return 0 if self._rest is None else sum(map(len, self._rest))

    def write(self, data: bytes) -> None:
        """Send, and keep what the kernel does not take. Once it is closing, nothing is sent."""
        if self._is_closing:
            return
        if self._rest is not None:
            self._rest.append(data)
            return
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._break(error)
            return
        if sent < len(data):
            # A copy, which takes no more memory than is counted.
            self._keep([data[sent:]])

    def writelines(self, pieces: list[bytes]) -> None:
        """Do the same with several pieces, without joining them."""
        if self._is_closing:
            return
        if self._rest is not None:
            self._rest.append(b"".join(pieces))
            return
        try:
            sent = self._socket.sendmsg(pieces[:_MOST_PIECES])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._break(error)
            return
        if rest := unsent(pieces, sent):
            self._keep(rest)

    def _keep(self, rest: list[bytes]) -> None:
        self._rest = rest if len(rest) <= _KEPT_PIECES else [b"".join(rest)]
        self._update()
        self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Return True: the client's side can stay open."""
        return True

    def write_eof(self) -> None:
        """End the server's side once what is kept is sent. Raises OSError."""
        if self._is_half_closed or self._is_closing:
            return
        self._is_half_closed = True
        if self._rest is None:
            self._socket.shutdown(socket.SHUT_WR)

    def _shut_down(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:  # The client was faster.
            self._break(error)

    def is_closing(self) -> bool:
        """Return whether its end has begun."""
        return self._is_closing

    def close(self) -> None:
        """End the connection once what is kept is sent, and read nothing more."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._rest is None:
            self._end()
        else:
            self._update()

    def abort(self) -> None:
        """End the connection now, and drop what is kept."""
        self._is_closing = True
        self._rest = None
        self._end()
