"""The interfaces between the rooms. They know nothing else of each other.

A front is a ``Codec``. What makes an answer is an ``Answerer``. What is sent is a ``Source`` (see
``bridge.source``). Load shedding and the server see a connection as a ``ConnectionHandle``.
Sockets and clocks come to it as a ``Wire`` and ``Timers``, which a test keeps in memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from ..compiling import mypyc_attr
from ..errors import ClientDisconnected
from ..http.request import RequestHead, RequestParser
from ..http.response import ResponseEncoder
from ..observe.inspection import RequestInfo
from ..wsgi.file_wrapper import FilePart
from .info import ConnectionInfo
from .stream import Stream

# Where every request comes along, an interface is an abstract class, and not a ``typing.Protocol``:
# compiled code finds its methods much faster.


@mypyc_attr(allow_interpreted_subclasses=True)
class Codec(ABC):
    """One protocol towards clients: bytes to request events, response events to bytes.

    It carries one stream at a time. One object serves all connections of a server.
    """

    __slots__ = ()

    # Tells a client to send the body that it holds back: 100 Continue (RFC 9110 §15.2.1). Empty
    # where the protocol has nothing like it.
    continue_response: bytes

    @abstractmethod
    def parser(self, info: ConnectionInfo) -> RequestParser:
        """Return a parser for a new connection, of which ``info`` is known."""

    @abstractmethod
    def encoder(self, head: RequestHead) -> ResponseEncoder:
        """Return an encoder for the response to one request."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Answerer(ABC):
    """Makes the answers to requests: a thread of the pool, or the loop itself."""

    __slots__ = ()

    @abstractmethod
    def answer(self, stream: Stream) -> None:
        """Begin to answer. Called on the loop thread, once a request may be answered.

        Either ``stream.job`` is set, and another thread answers through the stream as a
        ``Responder``; or the answer is there when this returns (``Stream.respond``). Raises Refusal
        where there can be none.
        """


class FileTransfer(Protocol):
    """A file on its way to a client. On the loop thread."""

    @property
    def unsent(self) -> int:
        """How many bytes of the file have not been handed over."""

    def send(self) -> None:
        """Go on: the wire holds nothing any more."""

    def close(self) -> None:
        """Stop, and let the file go. Idempotent."""

    def descriptors(self) -> list[int]:
        """Return the descriptors that it has beside the file's."""


class Wire(Protocol):
    """The way to one client and back. On the loop thread, but for ``send_now``.

    What it is told to write and cannot send yet is buffered. It says so to the connection
    (``pause_writing``) as soon as anything is, and again when nothing is any more
    (``resume_writing``). So a connection knows when the kernel has everything.
    """

    # Whether bytes go out as they are, so that other threads may send, too.
    is_plain: bool

    @property
    def buffered(self) -> int:
        """How many bytes are buffered in this process."""

    @property
    def unsent(self) -> int:
        """How many bytes the client has not taken, as far as that is known: with the kernel's."""

    @property
    def can_half_close(self) -> bool:
        """Whether ``half_close`` is possible."""

    @property
    def is_closing(self) -> bool:
        """Whether its end has begun, so that nothing more is read or written."""

    def write(self, pieces: list[bytes]) -> None:
        """Send or buffer pieces, which are at least one. Never blocks."""

    def write_last(self, pieces: list[bytes]) -> None:
        """Do the same with the last ones. ``half_close`` or ``close`` follows at once."""

    def send_now(self, pieces: list[bytes]) -> int:
        """Give pieces to the kernel, and return how many bytes it took. Called on any thread.

        Does not block, and raises nothing. Nothing may be buffered, and no other thread may write.
        """

    def send_file(self, part: FilePart, on_end: Callable[[bool], None]) -> FileTransfer:
        """Return a transfer of a part of a file, which owns it; ``send`` starts it.

        ``on_end(complete)`` is called once on the loop thread, unless the transfer is closed
        before. ``complete`` is False where the file has become shorter, or cannot be read.
        """

    def pause_reading(self) -> None:
        """Read nothing more from the client."""

    def resume_reading(self) -> None:
        """Go on reading."""

    def half_close(self) -> None:
        """End the server's side once what is buffered is sent. The client's side stays open."""

    def close(self) -> None:
        """End the connection once what is buffered is sent."""

    def abort(self) -> None:
        """End the connection now, and drop what is buffered."""

    def reset(self) -> None:
        """End the connection now, so that the client cannot take it for a regular end."""

    def shut_down(self) -> None:
        """End it for every process that has the socket. The connection is gone."""

    def descriptors(self) -> list[int]:
        """Return the descriptors that it has."""


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Do not make it."""


class Timers(Protocol):
    """Calls that are made later on the same thread. An asyncio event loop has them."""

    def call_soon(self, callback: Callable[[], object], /) -> object:
        """Call in the next pass of the loop."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call after ``delay`` seconds."""


class ConnectionHandle(Protocol):
    """A connection, as load shedding and the server see it. On the loop thread."""

    @property
    def has_arrived(self) -> bool:
        """Whether a request may come: what has to be done before, such as a handshake, is done."""

    @property
    def idle_since(self) -> float | None:
        """When it became idle, by the clock of the server; None if it is not."""

    @property
    def blocks_thread(self) -> bool:
        """Whether a thread waits for the client."""

    @property
    def holds_memory(self) -> bool:
        """Whether bytes are buffered for the client."""

    @property
    def holds_spool(self) -> bool:
        """Whether a request body of the client is in a temporary file."""

    def rate(self) -> float | None:
        """Return the bytes a second that the client moves; None while it is not waited for."""

    def shed(self) -> None:
        """Free what is held for the client: it is too slow for a busy server."""

    def announce_close(self) -> None:
        """Take no further requests after those that have arrived."""

    def close_if_idle(self) -> None:
        """Close, unless a request is arriving or is being answered."""

    def abort(self, error: ClientDisconnected) -> None:
        """Cut the connection now. ``error`` is what a running application will see."""

    def release(self, error: ClientDisconnected) -> None:
        """Release everything at once: the wire will not say that the connection is lost."""

    def abandon(self, error: ClientDisconnected) -> list[int]:
        """Give up, in a forked child. Return the descriptors that are its parent's."""

    def inspect(self, stacks: dict[int, str]) -> RequestInfo | None:
        """Return the request in flight, if any. ``stacks`` are those of busy threads."""
