"""A stream: one request and its response, between the connection and what answers."""

import contextlib
import logging
from abc import ABC, abstractmethod
from typing import Final

from ..bridge.body import RequestBody
from ..bridge.locks import Lock, make_lock
from ..bridge.pieces import Pieces
from ..bridge.pool.jobs import Job
from ..bridge.response import ResponseWriter
from ..bridge.source import FINISHED, Source
from ..bridge.spool import Spool
from ..compiling import mypyc_attr
from ..errors import (
    ApplicationError,
    ClientDisconnected,
    Refusal,
    RequestBodyError,
    RequestTimeout,
    ServerStopped,
)
from ..http.request import RequestHead
from ..http.response import ResponseEncoder, status_text
from ..observe.inspection import stacks_of
from ..wording import counted
from ..wsgi.failure import wrong_length
from ..wsgi.file_wrapper import FilePart
from ..wsgi.headers import Fields
from ..wsgi.task import Responder
from .coroutines import Coroutines
from .info import ConnectionInfo, shown_client
from .ready import ReadyResponse
from .resources import Resources
from .states import BEGUN, NEXT, RESPOND, StreamEvent
from .transitions import IllegalEvent

_log = logging.getLogger("aiowsgi.error")

# An unread request body up to this size is read and dropped, so that the connection can be kept.
MAX_DROPPED_BYTES: Final = 1 << 18
# A request is short until it has had its thread for this long: for ``sys.getswitchinterval()``.
_SHORT_REQUEST: Final = 0.005


@mypyc_attr(allow_interpreted_subclasses=True)
class StreamOwner(ABC):
    """The connection of a stream, as the stream's thread and the mailbox see it."""

    # An abstract class, not a ``typing.Protocol``: compiled code finds its methods much faster.
    __slots__ = ()

    @abstractmethod
    def look_after(self, stream: "Stream") -> None:
        """Look after a stream: it has written, wants to read, or its spool has grown.

        On the loop thread.
        """

    @abstractmethod
    def abort(self, error: ClientDisconnected) -> None:
        """Cut the connection now. On the loop thread."""


class Stream(Responder):
    """A request on its way through the bridge.

    Made on the loop thread, to which it belongs. A pool thread that answers touches only the
    request body, the response writer and the encoder. What it sets (two times, the file), the loop
    thread may rely on once the response is complete. Before that it reads these for the logs only,
    or takes the writer's lock to decide (``time_out``).

    Arguments: what all streams share, the connection and what is known of it, the head, what
    encodes the response, and the lock of its writer. The streams of a connection may have one.
    """

    __slots__ = (
        "_encoded_head",
        "_ended",
        "_resources",
        "body",
        "coroutines",
        "disconnect_error",
        "encoder",
        "file",
        "first_byte_at",
        "head",
        "head_at",
        "info",
        "is_last",
        "job",
        "owner",
        "partial_request_line",
        "prefetched",
        "ready_at",
        "refusal",
        "request_id",
        "source",
        "spool",
        "started_at",
        "state",
        "writer",
    )

    def __init__(
        self,
        resources: Resources,
        owner: StreamOwner,
        info: ConnectionInfo,
        head: RequestHead,
        encoder: ResponseEncoder,
        lock: Lock,
    ) -> None:
        self._resources = resources
        resources.requests = number = resources.requests + 1
        # A name for the request in logs and the environ, unique among processes.
        # Not formatted: that is much dearer when compiled.
        self.request_id = resources.id_prefix + str(number)
        # The head, until it travels with the first bytes of the body.
        self._encoded_head = b""
        self._ended = False
        self.state = BEGUN
        self.owner = owner
        self.info = info
        self.head = head
        # What has arrived of the request line, perhaps nothing, where the head could not be read;
        # None where it was.
        self.partial_request_line: str | None = None
        # Why the client counts as gone: it has closed the connection or ended its side, or the
        # server stops.
        self.disconnect_error: ClientDisconnected | None = None
        # Those that the application has the loop run. Set by the answerer.
        self.coroutines: Coroutines | None = None
        # Why it was refused, perhaps while it ran.
        self.refusal: Refusal | None = None
        # When the request reached each step, by the clock of the server; 0 where it has not. See
        # ``Times``. The connection sets when it was ready, the pool thread when it has started.
        self.head_at = resources.clock()
        self.ready_at = 0.0
        self.started_at = 0.0
        # When the first byte of the response was handed to the wire, or to the kernel.
        self.first_byte_at = 0.0
        # The whole body, unless it is streamed through ``body``.
        self.prefetched: Pieces | None = None
        self.body: RequestBody | None = None
        # The same, where it is too long for memory.
        self.spool: Spool | None = None
        # The work of the pool thread that answers, once it is queued. Set by the answerer.
        self.job: Job | None = None
        # The file that is the body of the response, if one is. The writer owns it.
        self.file: FilePart | None = None
        # Whether its response has to announce that the connection will close. A pool thread that
        # looks too early announces nothing; it closes all the same. See ``encoder.keep_alive``.
        self.is_last = False
        self.encoder = encoder
        self.writer = ResponseWriter(self, resources.writer_terms, lock)
        # Where the connection takes the response from.
        self.source: Source = self.writer

    @property
    def request_line(self) -> str:
        """The request line, as logs show it."""
        if self.partial_request_line is not None:
            return self.partial_request_line
        head = self.head
        return f"{head.method} {head.target} {head.section.version}"

    @property
    def client(self) -> str:
        """The host of the client, as logs show it; empty for a Unix socket."""
        return shown_client(self.info, self.head.variables)

    def describe(self) -> str:
        """Return the request as the error log names it. See ``Responder``."""
        return f"{self.head.method} {self.head.target} [{self.request_id}]"

    # On the loop thread.

    def reach_owner(self) -> None:
        """Have the connection look after it: its writer, its body or its spool has asked for it."""
        try:
            self.owner.look_after(self)
        except BaseException:
            # A defect, or no memory: in either case its client must not wait.
            self.owner.abort(ClientDisconnected("the server could not go on"))
            raise

    def make_replacement(self, encoder: ResponseEncoder) -> "Stream":
        """Return another stream for the same request: a thread may be at work on this one."""
        # That thread may also be about to take the lock.
        lock = make_lock()
        stream = Stream(self._resources, self.owner, self.info, self.head, encoder, lock)
        stream.request_id = self.request_id
        stream.head_at, stream.ready_at = self.head_at, self.ready_at
        stream.started_at = self.started_at
        self.writer.retire()
        return stream

    def fire(self, event: StreamEvent) -> None:
        """Change the state, here only."""
        # What is known to be a number is a faster index.
        state: int = self.state
        number: int = event
        after = NEXT[state][number]
        if after is None:
            error = IllegalEvent(f"a stream in {self.state.name} got {event.name}")
            self._resources.report_illegal(error, self.owner.abort)
        else:
            self.state = after

    @property
    def is_open_ended(self) -> bool:
        """Whether a response has begun that looks complete wherever its connection ends."""
        return self.first_byte_at > 0 and not self.encoder.is_self_delimiting

    @property
    def has_begun(self) -> bool:
        """Whether a thread has begun with it, also where the loop thread has not been told yet."""
        return self.job is not None and self.job.started() is not None

    @property
    def blocks_thread(self) -> bool:
        """Whether a thread waits for the client."""
        return self.writer.blocks_thread or (self.body is not None and self.body.blocks_thread)

    @property
    def held(self) -> int:
        """How many bytes count as buffered for the request, on their way in and out."""
        return self.writer.held + (0 if self.body is None else self.body.held)

    def respond(self, status: int, fields: Fields, body: bytes) -> None:
        """Answer as a whole, on the loop thread. No other thread answers, or ever has."""
        self.start(status_text(status), fields, len(body))
        self.source = ReadyResponse(self.encoder.finish(body, self._encoded_head))
        self.writer.retire()
        self.cancel()  # Its body is not read.
        self.fire(RESPOND)

    def time_out(self) -> bool:
        """Give up the thread, which takes too long. Return False if it has just answered."""
        started = None if self.job is None else self.job.started()
        gone = RequestTimeout("the application took longer than timeout_request")
        if started is None or self.job is None or not self.writer.withdraw(gone):
            return False
        self.job.write_off()
        resources = self._resources
        _log.error(
            "%s took longer than %g s and was answered with a 504; its thread %s is at:\n%s",
            self.describe(),
            resources.config.timeout_request,
            started.thread,
            stacks_of([started.ident]).get(started.ident, ""),
        )
        if not resources.is_healthy:
            _log.critical(
                "Lost to requests that do not end: %s. Further ones will not be replaced: "
                "start the process anew",
                counted(resources.pool.lost, "thread"),
            )
        self.disconnect(gone)
        return True

    def cancel(self) -> bool:
        """Keep threads from beginning with the request. Return False where one has begun."""
        if self.job is not None and not self.job.cancel():
            return False
        self.coroutines = None  # They refer to the stream.
        if self.body is not None:
            self.body.drop()
        if self.spool is not None:
            self.spool.close()
        return True

    def stream_body(self, initial: Pieces | None) -> RequestBody:
        """Let the application read the body while it arrives, and first ``initial``."""
        resources = self._resources
        self.body = RequestBody(
            self.wake_loop,
            high_water=resources.config.body_prefetch,
            budget=resources.budget,
            slots=resources.pool,
            initial=initial,
        )
        return self.body

    def note_disconnect(self, error: ClientDisconnected) -> None:
        """Take note that the client has gone, or has ended its side."""
        self.disconnect_error = error
        if self.coroutines is not None:
            self.coroutines.cancel(error)

    def disconnect(self, error: ClientDisconnected) -> None:
        """Release the thread from whatever it waits for; ``error`` is what it will see."""
        self.note_disconnect(error)
        self.writer.disconnect(error)
        if self.body is not None:
            # To a reader, that the client has gone means that the body is not complete.
            gone = type(error) is ClientDisconnected
            self.body.abort(RequestBodyError(str(error)) if gone else error)

    def abandon(self, error: ClientDisconnected) -> None:
        """Do nothing any more: this is a forked child. See ``bridge.forks``."""
        if self.coroutines is not None:
            self.coroutines.abandon(ServerStopped(str(error)))
        self.writer.abandon(error)
        if self.body is not None:
            self.body.abandon(RequestBodyError(str(error)))

    # On any thread.

    def wake_loop(self) -> None:
        """Have the loop thread look after the stream. Raises ServerStopped."""
        self._resources.mailbox.post(self)

    # On a pool thread.

    @property
    def abandoned(self) -> bool:
        """Whether this is a forked child. See ``Responder``."""
        return self._resources.abandoned

    def note_first_byte(self) -> None:
        """Take note that the thread is about to send the first byte of the response."""
        self.first_byte_at = self._resources.clock()

    def start(self, status: str, fields: Fields, length: int | None) -> None:
        """Take the head. See ``Responder``."""
        if self.is_last or (self.body is not None and self._ends_with(self.body, length)):
            self.encoder.keep_alive = False
        try:
            self._encoded_head = self.encoder.start(status, fields, length)
        except BaseException as error:
            self._break_off(error)
            raise

    def _ends_with(self, body: RequestBody, length: int | None) -> bool:
        """Return whether the connection has to end after this response, because of the body.

        ``length`` is that of the response where all of it is there, and the application done.
        """
        section = self.head.section
        if section.expect_continue and not body.was_asked_for:
            # No 100 was sent, so the client may send its body or leave it out (RFC 9110 §10.1.1):
            # what it sends next cannot be told apart from a request.
            return True
        if length is None and body.was_read:
            return False  # It may answer while it reads.
        # RFC 9112 §9.6: announced where it is known.
        return body.is_too_long_to_drop(section.content_length, MAX_DROPPED_BYTES)

    def _queues_end(self) -> bool:
        """Whether the loop thread sends the end of the response, and not this one.

        While short requests wait, the loop thread sends many responses in one pass. The response to
        a long request would only wait until the loop thread gets the interpreter.
        """
        resources = self._resources
        return resources.pool.queued > 0 and resources.clock() - self.started_at < _SHORT_REQUEST

    def send(self, data: bytes) -> bool:
        """Take a piece of the body. See ``Responder``."""
        encoder = self.encoder
        try:
            pieces = encoder.encode(data, self._encoded_head)
            self._encoded_head = b""
            if self._ended:
                pass
            elif encoder.is_complete:
                # All that was declared is there: one hand-over less, and nothing left to wait for.
                self.writer.write(pieces, FINISHED, not self._queues_end())
                self._ended = True
            else:
                self.writer.write(pieces)
        except BaseException as error:
            self._break_off(error)
            raise
        return encoder.wants_more

    def check(self) -> bool:
        """Return whether anything more is of use. See ``Responder``."""
        if self._ended:
            return False
        self.writer.check()
        return True

    def finish(self, data: bytes) -> None:
        """Take the last piece of the body. See ``Responder``."""
        encoder = self.encoder
        if self._ended and not data and not encoder.excess:
            return  # All that was declared has been sent, and no more than that.
        try:
            pieces = encoder.finish(data, self._encoded_head)
            self._encoded_head = b""
            if encoder.excess or encoder.missing:
                self._check_length()
            if not self._ended:
                self.writer.write(pieces, FINISHED, not self._queues_end())
                self._ended = True
        except BaseException as error:
            self._break_off(error)
            raise

    def finish_with(self, part: FilePart) -> None:
        """Take a file as the whole body. See ``Responder``."""
        part.size = self.encoder.skip(part.size)
        if not part.size:
            part.close()
            self.finish(b"")
            return
        try:
            pieces = self.encoder.finish(b"", self._encoded_head)
            self._encoded_head = b""
            self._check_length()
            self.file = part
            self.writer.finish(pieces, part)
            self._ended = True
        except BaseException as error:
            if self.file is None:  # The writer does not own it yet.
                part.close()
            self._break_off(error)
            raise

    def _check_length(self) -> None:
        """Warn where the body is not as long as the application has declared."""
        encoder = self.encoder
        if encoder.excess:
            _log.warning(
                "The response to %s %s, and they were not sent",
                self.describe(),
                wrong_length(encoder.excess, 0),
            )
        if encoder.missing:
            _log.warning(
                "The response to %s %s; the connection is closed",
                self.describe(),
                wrong_length(0, encoder.missing),
            )

    def abort(self) -> None:
        """Give the response up. See ``Responder``."""
        if not self._ended:
            with contextlib.suppress(ServerStopped):  # The loop is closed: nothing waits for this.
                self.writer.abort()
            self._ended = True

    def _break_off(self, error: BaseException) -> None:
        """Give the response up where a step of it failed half way, as for want of memory.

        What was encoded is lost, so that nothing may follow, whatever the application makes of the
        error. Where the client is gone, or the application wrote after the end, nothing is lost.
        """
        if not isinstance(error, (ClientDisconnected, ApplicationError)):
            self.abort()
