"""One request and its response, between the connection and the thread that answers it."""

import contextlib
import logging
import socket
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from ..answers.coroutines import Calls, current_calls
from ..bridge import forks
from ..bridge.body import RequestBody
from ..bridge.pool.jobs import Job, Started
from ..bridge.response import ResponseWriter
from ..bridge.spool import Spool
from ..connection.receiver import DRAIN_BYTES
from ..connection.shedding import overload
from ..errors import (
    ApplicationError,
    ClientDisconnected,
    QueueFull,
    RequestBodyError,
    RequestTimeout,
    ServerStopped,
)
from ..http.request import RequestHead
from ..http.response import ResponseEncoder
from ..net.sockets import send_now
from ..observe.inspection import stacks_of
from ..server.site import LOOP_CLOSED, Site
from ..wording import counted
from ..wsgi.environ import build_environ
from ..wsgi.file_wrapper import FilePart
from ..wsgi.headers import Fields
from ..wsgi.input import spooled_input, streamed_input
from ..wsgi.task import Task

if TYPE_CHECKING:
    from ..connection.connection import Protocol

_log = logging.getLogger("aiowsgi.error")


class Exchange:
    """A request on its way through the bridge. Implements ``wsgi.task.Responder``.

    Made on the loop thread. ``run`` and what it calls happen on a pool thread, which touches only
    the request body, the response writer and the encoder; the rest belongs to the loop thread.
    What it sets (two times, the file) is the loop thread's once the response is complete. A sooner
    look is one for the logs, or decides nothing without the writer's lock (``give_up``).
    """

    __slots__ = (
        "_ended",
        "_head_bytes",
        "_number",
        "_site",
        "_socket",
        "body",
        "calls",
        "encoder",
        "file",
        "first_byte_at",
        "head",
        "head_at",
        "job",
        "last",
        "prefetched",
        "protocol",
        "ready_at",
        "spool",
        "started_at",
        "writer",
    )

    def __init__(self, site: Site, protocol: "Protocol", head: RequestHead) -> None:
        self._site = site
        self._number = next(site.request_numbers)
        self.calls = Calls(site.loop, site.calls, site.stay_punctual)
        # The head, until it travels with the first bytes of the body.
        self._head_bytes = b""
        self._ended = False
        self._socket: socket.socket | None = None
        self.protocol = protocol
        self.head = head
        # When it got where, by the site's clock; 0 where it did not. See ``Times``.
        self.head_at = site.clock()
        self.ready_at = 0.0
        self.started_at = 0.0
        # When the first byte of the response was handed to the transport, or to the kernel.
        self.first_byte_at = 0.0
        # The whole body, unless it is streamed through ``body``.
        self.prefetched = b""
        self.body: RequestBody | None = None
        # The whole body, where it is too long for memory.
        self.spool: Spool | None = None
        self.job: Job | None = None
        # What of the response's body is a file. It belongs to the writer, whose tail it is.
        self.file: FilePart | None = None
        # Whether its response has to announce that the connection will close. A pool thread that
        # looks too early announces nothing; it closes all the same.
        self.last = False
        self.encoder = ResponseEncoder(
            site.heads,
            method=head.method,
            version=head.section.version,
            keep_alive=head.section.keep_alive,
        )
        self.writer = ResponseWriter(
            self.wake,
            high_water=site.config.response_buffer,
            budget=site.budget,
            slots=site.pool,
        )

    @property
    def request_line(self) -> str:
        """The request line, as logs show it."""
        return f"{self.head.method} {self.head.target} {self.head.section.version}"

    @property
    def request_id(self) -> str:
        """A name for the request in logs, unique among processes."""
        # Not formatted: that is much dearer when compiled.
        return self._site.id_prefix + "-" + str(self._number)

    def describe(self) -> str:
        """Return the request as the error log names it."""
        return f"{self.head.method} {self.head.target} [{self.request_id}]"

    # On the loop thread.

    @property
    def open_ended(self) -> bool:
        """Whether a response has begun that looks complete wherever its connection ends."""
        return self.first_byte_at > 0 and not self.encoder.self_delimiting

    @property
    def queue_wait(self) -> float:
        """Seconds that a finished request waited for its thread."""
        return self.started_at - self.ready_at

    @property
    def blocked(self) -> bool:
        """Whether the thread waits for the client."""
        return self.writer.waiting or (self.body is not None and self.body.waiting)

    @property
    def held(self) -> int:
        """How many bytes count as buffered for the request, on their way in and out."""
        return self.writer.held + (0 if self.body is None else self.body.held)

    def give_up(self) -> bool:
        """Do without the thread, which takes too long. Return False if it answers after all."""
        started = None if self.job is None else self.job.started()
        gone = RequestTimeout("the application took longer than timeout_request")
        if started is None or self.job is None or not self.writer.withdraw(gone):
            return False
        self.job.write_off()
        _log.error(
            "%s took longer than %g s and was answered with a 504; its thread %s is at:\n%s",
            self.describe(),
            self._site.config.timeout_request,
            started.thread,
            stacks_of([started.ident]).get(started.ident, ""),
        )
        if not self._site.healthy:
            _log.critical(
                "Lost to requests that do not end: %s. Further ones will not be replaced: "
                "start the process anew",
                counted(self._site.pool.lost, "thread"),
            )
        self.disconnect(gone)
        return True

    def queue(self) -> None:
        """Let the request wait for a thread. Raises Refusal where there will be none."""
        try:
            self.job = self._site.pool.start(self.run, self._on_failed, wake=False)
        except QueueFull as error:
            self._site.waits.note(0.0, refused=True)
            raise overload("the server is busy") from error
        except RuntimeError as error:
            _log.error("The thread pool takes no more work: %s", error)
            raise overload("the server is stopping") from error

    def cancel(self) -> bool:
        """See to it that no thread begins with the request. Return False where one has."""
        if self.job is not None and not self.job.cancel():
            return False
        if self.body is not None:
            self.body.drop()
        if self.spool is not None:
            self.spool.close()
        return True

    def stream_body(self, initial: bytes) -> RequestBody:
        """Let the application read the body while it arrives; ``initial`` is what has arrived."""
        high_water = self._site.config.body_prefetch
        self.body = RequestBody(
            self.wake,
            high_water=high_water,
            budget=self._site.budget,
            slots=self._site.pool,
            initial=initial,
        )
        return self.body

    def allow_direct(self, sock: socket.socket) -> None:
        """Let the thread send itself. Everything before this is sent."""
        self._socket = sock
        self.writer.allow_direct(self._send_now)

    def disconnect(self, error: ClientDisconnected) -> None:
        """Release the thread from whatever it waits for; ``error`` is what it will see."""
        self.calls.cancel(error)
        self.writer.disconnect(error)
        if self.body is not None:
            # To a reader, that the client has gone means that the body is not complete.
            gone = type(error) is ClientDisconnected
            self.body.abort(RequestBodyError(str(error)) if gone else error)

    def abandon(self, error: ClientDisconnected) -> None:
        """Do nothing any more: this is a forked child. See ``bridge.forks``."""
        self.calls.gone = ServerStopped(str(error))
        self.writer.abandon(error)
        if self.body is not None:
            self.body.abandon(RequestBodyError(str(error)))

    # On a pool thread.

    @property
    def abandoned(self) -> bool:
        """Whether this is a forked child. See ``Responder``."""
        return self._site.abandoned

    def run(self) -> None:
        """Answer the request. Raises nothing, and does not return in a forked child."""
        try:
            self._site.context.copy().run(self._run)
        except BaseException as error:  # noqa: BLE001 - a defect must not leave the client waiting
            if self._site.abandoned:
                forks.exit_child(error)
            self.abort()
            _log.critical("Serving %s failed", self.describe(), exc_info=True)
        finally:
            if self.body is not None:
                # Nobody reads on from the client where the loop is closed.
                with contextlib.suppress(ServerStopped):
                    self.body.drop()
        if self._site.abandoned:
            forks.exit_child(None)
        if self.spool is not None:
            self.spool.close()

    def _on_failed(self) -> None:
        """Give up: something has ended ``run`` in its midst."""
        self.abort()
        if self.spool is not None:
            self.spool.close()

    def is_disconnected(self) -> bool:
        """Return whether the client has gone, or has ended its side. Called on any thread.

        The environ's ``aiowsgi.disconnected``.
        """
        # Set once, by the loop thread; to see it a moment later does no harm.
        return self.calls.gone is not None

    def is_stopping(self) -> bool:
        """Return whether the server has begun to stop. Called on any thread.

        The environ's ``aiowsgi.stopping``. A request that came during ``drain_delay`` is told so
        from its beginning.
        """
        return self._site.draining

    def seconds_left(self) -> float:
        """Return the seconds until the request is given up, at least 0; infinity where it is not.

        By ``timeout_request``, and by a server that stops. The environ's ``aiowsgi.deadline``.
        Called on any thread.
        """
        site = self._site
        end = site.cut_at
        if limit := site.config.timeout_request:
            end = min(end, self.started_at + limit)
        return max(0.0, end - site.clock())

    def _run(self) -> None:
        self.started_at = self._site.clock()
        current_calls.set(self.calls)
        body, spool = self.body, self.spool
        source: BinaryIO
        if body is not None:
            source = streamed_input(body.read)
        elif spool is not None:
            source = spooled_input(spool.open())
        else:
            source = BytesIO(self.prefetched)
        environ = build_environ(
            self._site.base_environ,
            self.head,
            source,
            server=self.protocol.server_address,
            client=self.protocol.client_address,
        )
        if body is None and self.head.section.chunked:
            # Most frameworks read nothing of a body without a length, whatever
            # ``wsgi.input_terminated`` says; and it is known by now.
            size = len(self.prefetched) if spool is None else spool.size
            environ["CONTENT_LENGTH"] = str(size)
        environ["aiowsgi.request_id"] = self.request_id
        environ["aiowsgi.queue_wait"] = self.started_at - self.ready_at
        environ["aiowsgi.disconnected"] = self.is_disconnected
        environ["aiowsgi.deadline"] = self.seconds_left
        environ["aiowsgi.stopping"] = self.is_stopping
        Task(self._site.app, environ, self, self._site.checks, request=self.describe).run()
        if spool is not None:
            # Under the lock of its buffer: a thread of the application's own may be reading.
            source.close()

    def wake(self) -> None:
        """Have the loop thread look after the request. Called on any thread."""
        try:
            self._site.mailbox.post(self)
        except RuntimeError as error:
            raise ServerStopped(LOOP_CLOSED) from error

    def _send_now(self, pieces: list[bytes]) -> int:
        if not self.first_byte_at:
            self.first_byte_at = self._site.clock()
        assert self._socket is not None  # As ``allow_direct`` has seen to.
        return send_now(self._socket, pieces)

    def start(self, status: str, fields: Fields, length: int | None) -> None:
        """Take the head. See ``Responder``."""
        if self.last or (self.body is not None and self._ends_with(self.body, length)):
            self.encoder.keep_alive = False
        try:
            self._head_bytes = self.encoder.start(status, fields, length)
        except BaseException as error:
            self._break_off(error)
            raise

    def _ends_with(self, body: RequestBody, length: int | None) -> bool:
        """Return whether the connection ends behind this response, for the sake of the body.

        ``length`` is that of the response where all of it is there, and the application done.
        """
        section = self.head.section
        if section.expect_continue and not body.awaited:
            # No 100 was sent, so the client may send its body or leave it out (RFC 9110 §10.1.1):
            # what it sends next cannot be told apart from a request.
            return True
        if length is None and body.begun:
            return False  # It may answer while it reads.
        # RFC 9112 §9.6: announced where it is known.
        return body.is_too_long_to_drop(section.content_length, DRAIN_BYTES)

    def _take_head(self) -> bytes:
        """Return the head, if it has not been taken."""
        head, self._head_bytes = self._head_bytes, b""
        return head

    def send(self, data: bytes) -> bool:
        """Take a piece of the body. See ``Responder``."""
        try:
            pieces = self.encoder.encode(data, self._take_head())
            if self._ended:
                pass
            elif self.encoder.complete:
                # All that was declared is there: one hand-over less, and nothing left to wait for.
                self.writer.finish(pieces, queue=self._site.sends_many(self.started_at))
                self._ended = True
            else:
                self.writer.write(pieces)
        except BaseException as error:
            self._break_off(error)
            raise
        return self.encoder.wants_more

    def check(self) -> bool:
        """Return whether anything more is of use. See ``Responder``."""
        if self._ended:
            return False
        self.writer.check()
        return True

    def finish(self, data: bytes) -> None:
        """Take the last piece of the body. See ``Responder``."""
        encoder = self.encoder
        try:
            pieces = encoder.finish(data, self._take_head())
            if encoder.excess or encoder.missing:
                self._check_length()
            if not self._ended:
                self.writer.finish(pieces, queue=self._site.sends_many(self.started_at))
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
            pieces = self.encoder.finish(b"", self._take_head())
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
                "The response to %s has %s more than its Content-Length, and they were not sent",
                self.describe(),
                counted(encoder.excess, "byte"),
            )
        if encoder.missing:
            _log.warning(
                "The response to %s has %s less than its Content-Length; the connection is closed",
                self.describe(),
                counted(encoder.missing, "byte"),
            )

    def abort(self) -> None:
        """Give the response up. See ``Responder``."""
        if not self._ended:
            with contextlib.suppress(ServerStopped):  # Its end is known.
                self.writer.abort()
            self._ended = True

    def _break_off(self, error: BaseException) -> None:
        """Give the response up where a step of it failed half way, as for want of memory.

        What was encoded is lost, so that nothing may follow, whatever the application makes of the
        error. Where the client is gone, or the application wrote behind the end, nothing is lost.
        """
        if not isinstance(error, (ClientDisconnected, ApplicationError)):
            self.abort()


def exchange_of(started: Started) -> Exchange | None:
    """Return what a busy thread answers; None where it is just through with that."""
    exchange = getattr(started.run, "__self__", None)
    return exchange if isinstance(exchange, Exchange) else None
