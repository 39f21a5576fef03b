"""The receiving side of one connection: bytes to events, bodies to where they are read."""

import logging
from abc import abstractmethod
from collections.abc import Callable

from ..bridge.body import RequestBody
from ..bridge.pieces import Pieces
from ..bridge.spool import Spool
from ..compiling import mypyc_attr
from ..errors import Refusal, overload
from ..exchange.info import ConnectionInfo
from ..exchange.interfaces import Codec, Wire
from ..exchange.stream import MAX_DROPPED_BYTES, Stream, StreamOwner
from ..http.request import END_OF_MESSAGE, BodyData, FieldSection, RequestHead
from .pace import Pace
from .shared import Shared

_log = logging.getLogger("aiowsgi.error")

# Bytes of further requests that are kept while one is being answered. Reading goes on until then,
# because a wire that does not read does not notice that the client has gone.
_PIPELINE_BYTES = 1 << 16


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestHandler(StreamOwner):
    """Handles what a receiver has parsed. Called on the loop thread."""

    __slots__ = ()

    @abstractmethod
    def on_head(self, head: RequestHead) -> None:
        """Take the head of a request, which is all of it where the receiver parses no more."""

    @abstractmethod
    def on_body(self, data: bytes) -> None:
        """Take bytes of its body."""

    @abstractmethod
    def on_end(self) -> None:
        """Take the end of its body."""

    @abstractmethod
    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error: nothing that follows can be parsed."""

    @abstractmethod
    def on_buffer_change(self) -> None:
        """Take note that more or fewer bytes are buffered."""


class Receiver:
    """Parses what arrives and keeps what cannot be used yet. Everything happens on the loop thread.

    Arguments: what connections share, the wire, the codec, what is known of the connection, and
    what handles the requests.
    """

    __slots__ = (
        "_continue_response",
        "_handler",
        "_is_yielding",
        "_length",
        "_pace",
        "_parser",
        "_prefetch",
        "_shared",
        "_waits_for_disk",
        "_wire",
        "body",
        "dropped",
        "eof",
        "has_interim_response",
        "is_continue_due",
        "is_dropping",
        "is_parsing",
        "is_reading",
        "leftover",
        "spool",
    )

    def __init__(
        self,
        shared: Shared,
        wire: Wire,
        codec: Codec,
        info: ConnectionInfo,
        handler: RequestHandler,
    ) -> None:
        self._shared = shared
        self._wire = wire
        self._continue_response = codec.continue_response
        # Gets the requests; None once the connection is gone.
        self._handler: RequestHandler | None = handler
        self._parser = codec.parser(info)
        # Whether bytes are read from the client.
        self.is_reading = True
        self._is_yielding = False
        # How fast the client sends a request body; None while that is not waited for.
        self._pace: Pace | None = None
        # Whether bytes are parsed. They are not between the end of a request and the end of its
        # response: pipelined requests wait (RFC 9112 §9.3.2).
        self.is_parsing = True
        # How many bytes of an unread body were dropped.
        self.dropped = 0
        # Whether all that arrives is dropped: the connection is closing.
        self.is_dropping = False
        self.eof = False
        # How many bytes were kept after the last parsing, because there was no use for them yet.
        self.leftover = 0
        # Whether the client waits for 100 Continue before it sends the body.
        self.is_continue_due = False
        # Whether 100 Continue was written, or will be. The wire may still buffer it, so no other
        # thread may send the response past it.
        self.has_interim_response = False
        # The length of the body, where it is known.
        self._length: int | None = None
        # Where the body of the request goes: into memory first, then to its reader.
        self._prefetch: Pieces | None = None
        self.body: RequestBody | None = None
        # Or into a file in between.
        self.spool: Spool | None = None
        # Whether the pace is that of the disk, which is waited for.
        self._waits_for_disk = False

    @property
    def has_begun(self) -> bool:
        """Whether bytes of a request have arrived that is not complete."""
        return self._parser.has_begun

    @property
    def request_line(self) -> str:
        """What is known of the request line of a head that is not complete, or was refused."""
        return self._parser.request_line

    @property
    def told_client(self) -> str:
        """Whom a web server in front has named as the client in a head that was refused."""
        return self._parser.told_client

    @property
    def buffered(self) -> int:
        """How many bytes have arrived and were not used."""
        return self._parser.buffered

    @property
    def kept(self) -> int:
        """How many bytes are kept here."""
        return self._parser.buffered + self.prefetched_size

    @property
    def prefetched_size(self) -> int:
        """How many bytes of a body are kept that the application does not read yet."""
        if self.spool is not None:
            return self.spool.pending
        return 0 if self._prefetch is None else self._prefetch.size

    def feed_eof(self) -> None:
        """Take the client's end."""
        self.eof = True
        self._parser.feed_eof()

    def close(self) -> None:
        """Drop everything, also the reference to the connection: it is gone."""
        if not self.is_dropping:
            self.stop()
        self._handler = None

    def advance(self, data: bytes = b"") -> None:
        """Parse what has arrived, and hand it over, as far as it can be used now.

        ``data`` is what arrives just now.
        """
        handler, parser = self._handler, self._parser
        if data:
            if self.is_dropping:
                return
            parser.feed(data)
        if self._is_yielding or handler is None:
            return
        try:
            # Most requests have few events, and the next request waits for the response: it stays
            # where it is. But a body in many small chunks comes in portions, between which other
            # connections have their turn.
            while self.is_parsing and (event := parser.next_event()) is not None:
                if isinstance(event, RequestHead):
                    section = event.section
                    if not (section.chunked or section.content_length):
                        self.is_parsing = False
                    handler.on_head(event)
                elif event is END_OF_MESSAGE:
                    self.is_parsing = False
                    if self.spool is None:
                        handler.on_end()
                    else:
                        self.on_spooled()
                elif isinstance(event, BodyData):
                    handler.on_body(event.data)
                    if event.more:
                        self._shared.timers.call_soon(self._after_yield)
                        self._is_yielding = True
                        break
        except Refusal as refusal:
            # The parser keeps it. With its traceback, that would keep the parser and the connection
            # until the garbage collector comes.
            handler.refuse(refusal.with_traceback(None))
        if self._handler is None:  # The connection was lost meanwhile.
            return
        kept = parser.buffered
        if self._prefetch is not None or self.spool is not None:
            kept += self.prefetched_size
        if kept or self.body is not None or self._is_yielding or not self.is_reading:
            self.update_reading()
        if kept or self.leftover:
            self.leftover = kept
            handler.on_buffer_change()

    def _after_yield(self) -> None:
        self._is_yielding = False
        if self.is_dropping:
            self.update_reading()
        elif not self._wire.is_closing:
            self.advance()

    def update_reading(self) -> None:
        """Read from the client exactly while there is room for what it sends."""
        full = self._is_yielding
        if self.is_parsing:
            full = full or (self.body is not None and self.body.is_full)
            full = full or (self.spool is not None and self.spool.is_full)
        elif not self.is_dropping:
            full = full or self._parser.buffered > _PIPELINE_BYTES
        if full is not self.is_reading:
            return
        if self.eof or self._wire.is_closing:
            return
        if full:
            self._wire.pause_reading()
        else:
            self._wire.resume_reading()
        self.is_reading = not full

    # The body of a request.

    def expect_body(self, section: FieldSection) -> bool:
        """Expect the body of the request whose head has arrived.

        Return whether the application gets it as a stream, and now: the client waits for a 100,
        which is sent when the application reads.
        """
        self._length = section.content_length
        if section.expect_continue and not self._parser.buffered:
            self.has_interim_response = True
            if not self._is_spooled:
                self.is_continue_due = True
                return True
            self._wire.write([self._continue_response])
        self._pace = Pace(self._shared.resources.clock())
        return False

    def take_body(self, data: bytes, wake: Callable[[], None]) -> bool:
        """Take bytes of the body. Return whether the application gets it as a stream from now on.

        ``wake()`` is called, on another thread, when there is reason for ``on_spooled``.
        Raises Refusal where there is no room for the body.
        """
        if self._pace is not None:
            self._pace.add(len(data), self._shared.resources.clock())
        if self.spool is not None:
            self._keep(self.spool, data)
            return False
        if self.body is None:
            if self._prefetch is None:
                self._prefetch = Pieces()
            self._prefetch.append(data)
            size = self._prefetch.size
            if size < self._shared.resources.config.body_prefetch or size == self._length:
                return False
            if not self._is_spooled:
                return True
            assert self._shared.resources.spooler is not None  # As it is spooled.
            self.spool = Spool(self._shared.resources.spooler, wake)
            data, self._prefetch = b"".join(self._prefetch.all()), None
            self._keep(self.spool, data)
            return False
        self.is_continue_due = False
        self.body.feed(data)
        return False

    def on_body_wanted(self, *, answered: bool) -> None:
        """Let the client send, now that the body is read; ``answered`` if a response has begun."""
        assert self.body is not None  # It is what is read.
        if self.is_continue_due and self.body.was_asked_for:
            self.is_continue_due = False
            if not answered:
                self._wire.write([self._continue_response])
        self.update_reading()

    @property
    def _is_spooled(self) -> bool:
        """Whether the body is there as a whole before a thread is taken, however long it is.

        A body that is longer than the limit is not. One without a length is, because few
        applications can read such a body; afterwards its length is known.
        """
        if self._shared.resources.spooler is None:
            return False
        return self._length is None or self._length <= self._shared.resources.config.body_spool

    def _keep(self, spool: Spool, data: bytes) -> None:
        """Keep bytes in a file, if there is room for them."""
        size, limit = spool.size + len(data), self._shared.resources.config.body_spool
        if size > limit:
            raise Refusal(413, f"a request body without a length is longer than {limit} bytes")
        if not self._shared.shedding.free_spool(spool.held, size):
            raise overload("the server has no room for the request body")
        if self.spool is not spool:
            return  # To make room, load shedding has cut this client.
        spool.feed(data)
        if spool.error is not None:
            self.on_spooled()

    def on_spooled(self) -> None:
        """Go on with a body of which something was written, or could not be."""
        spool, handler = self.spool, self._handler
        assert spool is not None  # As the caller has seen to.
        assert handler is not None  # Without a connection there is no spool.
        # Read before the error: a spool that fails sets its error first, and then has nothing
        # pending.
        pending = spool.pending
        if spool.error is not None:
            _log.error(
                "A request body cannot be kept in a temporary file (--body-spool), and its request "
                "gets a 503: %s. Make room there, or set TMPDIR to another directory",
                spool.error,
            )
            handler.refuse(overload("the server cannot keep the request body"))
            return
        if self._waits_for_disk and self._pace is not None:
            self._pace.add(1, self._shared.resources.clock())
        if not self.is_parsing and not pending:
            # All of it is in the file, and the thread that writes is done with that.
            self._waits_for_disk = False
            handler.on_end()
        self.update_reading()
        handler.on_buffer_change()

    def drop(self, data: bytes) -> bool:
        """Drop bytes of an unread body. Return False where they are more than are worth reading."""
        self.dropped += len(data)
        return self.dropped <= MAX_DROPPED_BYTES

    def take_prefetch(self) -> Pieces | None:
        """Return what has arrived of the body, if anything, and forget it.

        The client is waited for again once there is room for more.
        """
        self._pace = None
        prefetch, self._prefetch = self._prefetch, None
        return prefetch

    def end_body(self, stream: Stream) -> bool:
        """Take the end of the body.

        Return whether the body, if there is one, was kept as a whole. It belongs to the stream from
        here on. If not, the application has been reading it.
        """
        self.is_continue_due = False
        self._pace = None
        if self.body is not None:
            self.body.finish()
            return False
        if self.spool is not None:
            stream.spool, self.spool = self.spool, None
        elif self._prefetch is not None:
            stream.prefetched = self.take_prefetch()
        return True

    def forget_body(self) -> None:
        """Drop what is left of the body: it will not be read any more."""
        self._pace = None
        self.dropped = 0
        self._prefetch = None
        self.body = None
        self.is_continue_due = False
        if self.spool is not None:
            self.spool.close()
            self.spool = None

    def drop_rest(self) -> None:
        """Parse nothing any more, and drop what the client still sends."""
        self.stop()
        self.is_dropping = True

    def stop(self) -> None:
        """Parse nothing any more."""
        self.forget_body()
        self._parser.drop()
        self.is_parsing = False

    # The client's pace.

    def update_pace(self) -> bool:
        """Begin to measure the pace of the client, or stop: as it is waited for now, or not.

        Return whether it is: whether more could be done with a body if the client sent more of it.
        The disk is waited for in the same way, where it has to take a body.
        """
        spool = self.spool
        awaited = spool is not None and (
            spool.is_full or (not self.is_parsing and spool.pending > 0)
        )
        if awaited is not self._waits_for_disk:
            self._waits_for_disk = awaited
            self._pace = Pace(self._shared.resources.clock())
        if awaited:
            return True
        if not self.is_parsing or self.is_continue_due:
            self._pace = None
        elif self.body is not None:
            if self.body.is_full:
                self._pace = None
            elif self._pace is None:
                self._pace = Pace(self._shared.resources.clock())
        return self._pace is not None

    def time_left(self) -> float:
        """Return the seconds that the client has for the next bytes of a body; it is waited for."""
        assert self._pace is not None  # As the caller has seen to.
        config, now = self._shared.resources.config, self._shared.resources.clock()
        if self._waits_for_disk:
            return self._pace.time_left(config.timeout_body, 0, now)
        return self._pace.time_left(config.timeout_body, config.min_body_rate, now)

    def body_timeout(self) -> Refusal:
        """Return the refusal of a request whose body has not arrived in time."""
        if self._waits_for_disk:
            _log.error("The disk takes no request body (--body-spool), and its request gets a 503")
            return overload("the server cannot keep the request body")
        return Refusal(408, "the request body took too long")

    def rate(self) -> float | None:
        """Return the bytes a second that the client sends; None while that is not known."""
        if not self.update_pace() or self._pace is None or self._waits_for_disk:
            return None
        return self._pace.rate(self._shared.resources.clock())
