"""Answers of a WSGI application, each made on a thread of the pool (PEP 3333)."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextvars import Context
from io import BytesIO
from typing import Any, BinaryIO, Final
from wsgiref.types import WSGIApplication

from ..bridge import forks
from ..bridge.outcome import Outcome
from ..errors import ClientDisconnected, QueueFull, ServerStopped, overload
from ..exchange.interfaces import Answerer
from ..exchange.resources import Resources
from ..exchange.states import BEGUN, DISPATCH
from ..exchange.stream import Stream
from ..http.request import RequestHead
from ..observe.waits import Waits
from ..wsgi.environ import Environ, build_environ
from ..wsgi.failure import FailureReport
from ..wsgi.headers import HeaderChecks
from ..wsgi.input import kept_input, spooled_input, streamed_input
from ..wsgi.task import Task
from .coroutines import CoroutineRunner, current_caller
from .waker import PoolWaker

_log = logging.getLogger("aiowsgi.error")

# Not used by these names: compiled code would look each up in the module whenever it is used.
_CURRENT_CALLER: Final = current_caller
_BYTES_IO: Final = BytesIO

# The keys that ``WsgiCall`` sets for each request. They are in the base environ already, because a
# dict that grows after it was copied costs twice as much.
_PER_REQUEST_KEYS = (
    "aiowsgi.request_id",
    "aiowsgi.queue_wait",
    "aiowsgi.disconnected",
    "aiowsgi.deadline",
)


class WsgiAnswerer(Answerer):
    """Has an application answer.

    Arguments: the application; what the streams share; the environ that all requests have in
    common; the context of which each request gets a copy; what runs coroutines of the application;
    what is told of requests that found no thread; what wakes the pool when a request was queued;
    and ``report(head, client, describe)``, if there is one, which makes what explains a failure to
    the client of one request.
    """

    __slots__ = (
        "_waits",
        "_waker",
        "app",
        "base_environ",
        "checks",
        "context",
        "coroutine_runner",
        "report",
        "resources",
    )

    def __init__(
        self,
        app: WSGIApplication,
        resources: Resources,
        *,
        base_environ: Environ,
        context: Context,
        coroutine_runner: CoroutineRunner,
        waits: Waits,
        waker: PoolWaker,
        report: Callable[[RequestHead, str, Callable[[], str]], FailureReport] | None = None,
    ) -> None:
        self.app = app
        self.resources = resources
        self.base_environ = {
            **base_environ,
            **dict.fromkeys(_PER_REQUEST_KEYS),
            "aiowsgi.stopping": self.is_stopping,
        }
        self.context = context
        self.coroutine_runner = coroutine_runner
        self._waits = waits
        self._waker = waker
        self.report = report
        # Remembers which response headers of the application were checked and found valid.
        self.checks = HeaderChecks()

    def answer(self, stream: Stream) -> None:
        """Let the request wait for a thread. Raises Refusal where there will be none."""
        call = WsgiCall(self, stream)
        # Where no body was waited for, it was ready with its head.
        stream.ready_at = now = stream.head_at if stream.state is BEGUN else self.resources.clock()
        try:
            stream.job = self.resources.pool.enqueue(call.run, call.fail, wake=False)
        except QueueFull as error:
            self._waits.note(0.0, refused=True)
            raise overload("the server is busy") from error
        except RuntimeError as error:
            _log.error("The thread pool takes no more work: %s", error)
            raise overload("the server is stopping") from error
        stream.coroutines = call
        stream.fire(DISPATCH)
        self._waker.wake_soon(now)

    def is_stopping(self) -> bool:
        """Return whether the server has begun to stop. The environ's ``aiowsgi.stopping``.

        A request that came during ``drain_delay`` is told so from its beginning. Called on any
        thread.
        """
        return self.resources.is_draining


class WsgiCall:
    """One call of the application. What it does happens on a pool thread.

    It is what the coroutines of the application belong to (``Caller``), and what a stream knows of
    them (``Coroutines``).
    """

    __slots__ = ("_answerer", "_started_at", "disconnect_error", "outcomes", "stream")

    def __init__(self, answerer: WsgiAnswerer, stream: Stream) -> None:
        self._answerer = answerer
        # None once the request is answered: an environ, or a context, may be kept for long.
        self.stream: Stream | None = stream
        self._started_at = 0.0
        # See ``Caller``.
        self.outcomes: dict[asyncio.Task[Any], Outcome] | None = None
        self.disconnect_error = stream.disconnect_error

    def run(self) -> None:
        """Answer the request. Raises nothing, and does not return in a forked child."""
        stream, answerer = self.stream, self._answerer
        assert stream is not None  # It runs once.
        try:
            answerer.context.copy().run(self._call_application, stream)
        except BaseException as error:  # noqa: BLE001 - a defect must not leave the client waiting
            if stream.abandoned:
                forks.exit_child(error)
            stream.abort()
            _log.critical("Serving %s failed", stream.describe(), exc_info=True)
        finally:
            if stream.body is not None:
                # Where the loop is closed, nothing more is read from the client anyway.
                with contextlib.suppress(ServerStopped):
                    stream.body.drop()
        if answerer.resources.abandoned:
            forks.exit_child(None)
        if stream.spool is not None:
            stream.spool.close()
        self.stream = None

    def fail(self) -> None:
        """Give up: something has ended ``run`` in its midst, or it will never begin."""
        stream, self.stream = self.stream, None
        if stream is None:
            return
        job = stream.job
        if job is not None and job.started() is None:  # The application knows nothing of it.
            stream.refusal = overload("the request was dropped before it had a thread")
        stream.abort()
        if stream.spool is not None:
            stream.spool.close()

    def _call_application(self, stream: Stream) -> None:
        answerer = self._answerer
        stream.started_at = self._started_at = started_at = answerer.resources.clock()
        _CURRENT_CALLER.set(self)
        body, spool, prefetched = stream.body, stream.spool, stream.prefetched
        source: BinaryIO
        if body is not None:
            source = streamed_input(body.read_into)
        elif spool is not None:
            source = spooled_input(spool.open())
        else:
            source = _BYTES_IO() if prefetched is None else kept_input(prefetched.all())
        info = stream.info
        # By position: with keywords, the call would be half as dear again.
        environ = build_environ(
            answerer.base_environ,
            stream.head,
            source,
            info.scheme,
            info.server,
            info.client,
            None if info.tls is None else info.tls.variables(),
            info.peer,
        )
        if body is None and stream.head.section.chunked:
            # Most frameworks read nothing of a body without a length, whatever
            # ``wsgi.input_terminated`` says; and it is known by now.
            kept = prefetched if spool is None else spool
            environ["CONTENT_LENGTH"] = "0" if kept is None else str(kept.size)
        environ["aiowsgi.request_id"] = stream.request_id
        environ["aiowsgi.queue_wait"] = started_at - stream.ready_at
        environ["aiowsgi.disconnected"] = self.is_disconnected
        environ["aiowsgi.deadline"] = self.seconds_left
        report = None
        if answerer.report is not None:
            # Where a web server in front has told the client, that is the one that counts.
            report = answerer.report(stream.head, environ["REMOTE_ADDR"], stream.describe)
        Task(answerer.app, environ, stream, answerer.checks, report).run()
        if spool is not None:
            # Under the lock of its buffer: a thread of the application's own may be reading.
            source.close()

    # The coroutines of the application.

    @property
    def coroutine_runner(self) -> CoroutineRunner:
        """What runs them."""
        return self._answerer.coroutine_runner

    def cancel(self, error: ClientDisconnected) -> None:
        """See ``Coroutines``."""
        self._answerer.coroutine_runner.cancel(self, error)

    def abandon(self, error: ClientDisconnected) -> None:
        """See ``Coroutines``."""
        self.disconnect_error = error

    # What the application may ask, on any thread.

    def is_disconnected(self) -> bool:
        """Return whether the client has gone, or has ended its side.

        The environ's ``aiowsgi.disconnected``.
        """
        # Set once, by the loop thread; to see it a moment later does no harm.
        return self.disconnect_error is not None

    def seconds_left(self) -> float:
        """Return the seconds until the request is given up, at least 0; infinity where it is not.

        By ``timeout_request``, and by a server that stops. The environ's ``aiowsgi.deadline``.
        """
        resources = self._answerer.resources
        end = resources.cut_at
        if limit := resources.config.timeout_request:
            end = min(end, self._started_at + limit)
        return max(0.0, end - resources.clock())


def stream_of(run: Callable[[], None] | None) -> Stream | None:
    """Return the stream that a job answers; None where it has just ended that.

    What a pool runs for a server is the method ``run`` of a ``WsgiCall``, which knows the stream.
    """
    call = getattr(run, "__self__", None)
    return call.stream if isinstance(call, WsgiCall) else None
