"""One request and its response, between the connection and the thread that answers it."""

import asyncio
import contextvars
import logging
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, wait
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from ..bridge.body import RequestBody
from ..bridge.pool import Cancellable
from ..bridge.response import ResponseWriter
from ..errors import ClientDisconnected, RequestBodyError, ServerStopped
from ..http.request import RequestHead
from ..http.response import ResponseEncoder, join
from ..observe.access import CLIENT_CLOSED_REQUEST, AccessRecord
from ..wsgi.environ import build_environ
from ..wsgi.headers import Fields
from ..wsgi.input import streamed_input
from ..wsgi.task import Task
from .site import Site

if TYPE_CHECKING:
    from .protocol import Protocol

Result = TypeVar("Result")

_log = logging.getLogger("aiowsgi.error")
# A thread that waits for the loop looks this often, in seconds, whether there still is one.
_LOOP_CHECK = 5.0
current_exchange: contextvars.ContextVar["Exchange"] = contextvars.ContextVar("aiowsgi.exchange")


class _Contained(Exception):
    """Carries an exception that would end the event loop to the thread that it belongs to."""


async def _contained(coroutine: Coroutine[Any, Any, Result]) -> Result:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise _Contained from error


class Exchange:
    """A request on its way through the bridge. Implements ``wsgi.task.Responder``.

    Made on the loop thread. ``run`` and what it calls happen on a pool thread, which touches only
    the request body, the response writer and the encoder; the rest belongs to the loop thread.
    """

    __slots__ = (
        "_calls",
        "_ended",
        "_gone",
        "_head_bytes",
        "_number",
        "_site",
        "_started_at",
        "body",
        "encoder",
        "head",
        "job",
        "prefetched",
        "protocol",
        "sent",
        "writer",
    )

    def __init__(self, site: Site, protocol: "Protocol", head: RequestHead) -> None:
        self._site = site
        self._number = next(site.request_numbers)
        # Coroutines that the application has asked for, and where it waits for them.
        self._calls: dict[asyncio.Task[Any], Future[Any]] = {}
        self._gone: ClientDisconnected | None = None
        self._head_bytes = b""
        self._ended = False
        self.protocol = protocol
        self.head = head
        self._started_at = site.loop.time()
        # The whole body, unless it is streamed through ``body``.
        self.prefetched = b""
        self.body: RequestBody | None = None
        self.job: Cancellable | None = None
        # Whether any byte of the response was handed to the transport.
        self.sent = False
        self.encoder = ResponseEncoder(
            method=head.method,
            version=head.version,
            keep_alive=head.keep_alive and not site.closing,
            server=site.server_field,
        )
        self.writer = ResponseWriter(self._wake, high_water=site.config.response_buffer)

    @property
    def request_id(self) -> str:
        """A name for the request in logs, unique among processes."""
        return f"{self._site.id_prefix}-{self._number:x}"

    def describe(self) -> str:
        """Return the request as the error log names it."""
        return f"{self.head.method} {self.head.target} [{self.request_id}]"

    # On the loop thread.

    def access_record(self, client: str, status: int) -> AccessRecord:
        """Return what the access log says of the request; ``status`` is 0 if none was sent."""
        head = self.head
        fields = dict(head.fields)
        return AccessRecord(
            client,
            f"{head.method} {head.target} {head.version}",
            status or CLIENT_CLOSED_REQUEST,
            self.encoder.body_size,
            fields.get(b"referer", b"").decode("latin-1"),
            fields.get(b"user-agent", b"").decode("latin-1"),
            self._site.loop.time() - self._started_at,
        )

    def stream_body(self, initial: bytes) -> RequestBody:
        """Let the application read the body while it arrives; ``initial`` is what has arrived."""
        high_water = self._site.config.body_prefetch
        self.body = RequestBody(self._wake, high_water=high_water, initial=initial)
        return self.body

    def disconnect(self, error: ClientDisconnected) -> None:
        """Release the thread from whatever it waits for; ``error`` is what it will see."""
        self.cancel_calls(error)
        self.writer.disconnect(error)
        if self.body is not None:
            self.body.abort(
                error if isinstance(error, RequestBodyError) else RequestBodyError(str(error))
            )

    def cancel_calls(self, error: ClientDisconnected) -> None:
        """End the coroutines that the application waits for, and refuse further ones."""
        self._gone = error
        for task, future in self._calls.items():
            # The thread goes on at once, however long the coroutine takes to end.
            future.set_exception(error.anew())
            task.cancel()
        self._calls.clear()

    def _start_call(self, coroutine: Coroutine[Any, Any, Any], future: Future[Any]) -> None:
        if self._gone is not None:
            coroutine.close()
            future.set_exception(self._gone.anew())
            return
        task = self._site.loop.create_task(_contained(coroutine))
        self._calls[task] = future
        self._site.calls[task] = self

        def done(task: asyncio.Task[Any]) -> None:
            self._site.calls.pop(task, None)
            coroutine.close()  # It may have been cancelled before it began.
            error = None if task.cancelled() else task.exception()
            if self._calls.pop(task, None) is None:
                return  # Nobody waits for it any more.
            if task.cancelled():
                future.set_exception(CancelledError())
            elif error is not None:
                cause = error.__cause__
                future.set_exception(cause if isinstance(error, _Contained) and cause else error)
            else:
                future.set_result(task.result())

        task.add_done_callback(done)

    # On a pool thread.

    def run(self) -> None:
        """Answer the request. Raises nothing."""
        try:
            self._site.context.copy().run(self._run)
        except BaseException:  # noqa: BLE001 - a defect here must not leave the client waiting
            _log.critical("Serving %s failed", self.describe(), exc_info=True)
            self.abort()

    def _run(self) -> None:
        current_exchange.set(self)
        body = self.body
        environ = build_environ(
            self._site.base_environ,
            self.head,
            BytesIO(self.prefetched) if body is None else streamed_input(body.read),
            server=self.protocol.server_address,
            client=self.protocol.client_address,
        )
        environ["aiowsgi.request_id"] = self.request_id
        Task(self._site.app, environ, self, request=self.describe).run()

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the loop thread and return its result. Blocks."""
        future: Future[Result] = Future()
        # In a copy of the calling thread's context. The loop thread ends the wait: when the
        # coroutine ends, and when the client leaves or the server stops, which cancel it.
        loop = self._site.loop
        try:
            loop.call_soon_threadsafe(self._start_call, coroutine, future)
            # A loop that is closed before it comes to the call ends nothing any more.
            while not wait([future], _LOOP_CHECK).done:
                if loop.is_closed():
                    raise RuntimeError("the event loop is closed")
        except RuntimeError as error:
            coroutine.close()
            raise ServerStopped("the server stopped") from error
        return future.result()

    def _wake(self) -> None:
        self._site.mailbox.post(self)

    def start(self, status: str, fields: Fields, length: int | None) -> None:
        """Take the head. See ``Responder``."""
        if self.head.expect_continue and self.body is not None and not self.body.awaited:
            # No 100 was sent, so the client may send its body or leave it out (RFC 9110 §10.1.1):
            # what it sends next cannot be told apart from a request.
            self.encoder.keep_alive = False
        if self._site.closing:
            self.encoder.keep_alive = False
        self._head_bytes = self.encoder.start(status, fields, length)

    def _take_head(self, pieces: list[bytes]) -> list[bytes]:
        """Return the pieces, with the head before them, if it has not been sent."""
        if self._head_bytes:
            pieces.insert(0, self._head_bytes)
            self._head_bytes = b""
        return pieces

    def send(self, data: bytes) -> bool:
        """Take a piece of the body. See ``Responder``."""
        pieces = join(self._take_head(self.encoder.encode(data)), len(data))
        if not self._ended:
            if self.encoder.complete:
                # All that was declared is there: one hand-over less, and nothing left to wait for.
                self._ended = True
                self.writer.finish(pieces)
            else:
                self.writer.write(pieces)
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
        pieces = self._take_head(encoder.finish(data))
        if encoder.excess:
            _log.warning(
                "The response to %s has %d bytes more than its Content-Length; they were not sent",
                self.describe(),
                encoder.excess,
            )
        if encoder.missing:
            _log.warning(
                "The response to %s has %d bytes less than its Content-Length; "
                "the connection is closed",
                self.describe(),
                encoder.missing,
            )
        if not self._ended:
            self._ended = True
            self.writer.finish(join(pieces, len(data)))

    def abort(self) -> None:
        """Give the response up. See ``Responder``."""
        if not self._ended:
            self._ended = True
            self.writer.abort()
