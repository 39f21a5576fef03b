"""Answers of a WSGI application, each made on a thread of the pool (PEP 3333)."""

import contextlib
import logging
from collections.abc import Callable
from contextvars import Context
from io import BytesIO
from typing import BinaryIO
from wsgiref.types import WSGIApplication

from ..bridge import forks
from ..errors import QueueFull, ServerStopped, overload
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
from .coroutines import CoroutineRunner, RequestCoroutines, current_coroutines

_log = logging.getLogger("aiowsgi.error")


class WsgiAnswerer(Answerer):
    """Has an application answer.

    Arguments: the application; what the streams share; the environ that all requests have in
    common; the context of which each request gets a copy; what runs coroutines of the application;
    what is told of requests that found no thread; ``wake_pool(now)``, called when a request was
    queued; and ``report(head, client, describe)``, if there is one, which makes what explains a
    failure to the client of one request.
    """

    __slots__ = (
        "_waits",
        "_wake_pool",
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
        wake_pool: Callable[[float], None],
        report: Callable[[RequestHead, str, Callable[[], str]], FailureReport] | None = None,
    ) -> None:
        self.app = app
        self.resources = resources
        self.base_environ = base_environ
        self.context = context
        self.coroutine_runner = coroutine_runner
        self._waits = waits
        self._wake_pool = wake_pool
        self.report = report
        # Remembers which response headers of the application were checked and found valid.
        self.checks = HeaderChecks()

    def answer(self, stream: Stream) -> None:
        """Let the request wait for a thread. Raises Refusal where there will be none."""
        call = WsgiCall(self, stream)
        stream.coroutines = call.coroutines
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
        stream.fire(DISPATCH)
        self._wake_pool(now)


class WsgiCall:
    """One call of the application. What it does happens on a pool thread."""

    __slots__ = ("_answerer", "coroutines", "stream")

    def __init__(self, answerer: WsgiAnswerer, stream: Stream) -> None:
        self._answerer = answerer
        self.stream = stream
        self.coroutines = RequestCoroutines(answerer.coroutine_runner, stream.disconnect_error)

    def run(self) -> None:
        """Answer the request. Raises nothing, and does not return in a forked child."""
        stream, answerer = self.stream, self._answerer
        try:
            answerer.context.copy().run(self._call_application)
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

    def fail(self) -> None:
        """Give up: something has ended ``run`` in its midst, or it will never begin."""
        job = self.stream.job
        if job is not None and job.started() is None:  # The application knows nothing of it.
            self.stream.refusal = overload("the request was dropped before it had a thread")
        self.stream.abort()
        if self.stream.spool is not None:
            self.stream.spool.close()

    def _call_application(self) -> None:
        stream, answerer = self.stream, self._answerer
        stream.started_at = answerer.resources.clock()
        current_coroutines.set(self.coroutines)
        body, spool, prefetched = stream.body, stream.spool, stream.prefetched
        source: BinaryIO
        if body is not None:
            source = streamed_input(body.read_into)
        elif spool is not None:
            source = spooled_input(spool.open())
        else:
            source = BytesIO() if prefetched is None else kept_input(prefetched.all())
        # In one step: to take them by name is much dearer.
        server, client, scheme, tls, _, peer = stream.info
        environ = build_environ(
            answerer.base_environ,
            stream.head,
            source,
            scheme=scheme,
            server=server,
            client=client,
            tls=None if tls is None else tls.variables(),
            peer=peer,
        )
        if body is None and stream.head.section.chunked:
            # Most frameworks read nothing of a body without a length, whatever
            # ``wsgi.input_terminated`` says; and it is known by now.
            kept = prefetched if spool is None else spool
            environ["CONTENT_LENGTH"] = "0" if kept is None else str(kept.size)
        environ["aiowsgi.request_id"] = stream.request_id
        environ["aiowsgi.queue_wait"] = stream.started_at - stream.ready_at
        environ["aiowsgi.disconnected"] = self.is_disconnected
        environ["aiowsgi.deadline"] = self.seconds_left
        environ["aiowsgi.stopping"] = self.is_stopping
        report = None
        if answerer.report is not None:
            # Where a web server in front has told the client, that is the one that counts.
            report = answerer.report(stream.head, environ["REMOTE_ADDR"], stream.describe)
        Task(answerer.app, environ, stream, answerer.checks, report).run()
        if spool is not None:
            # Under the lock of its buffer: a thread of the application's own may be reading.
            source.close()

    # What the application may ask, on any thread.

    def is_disconnected(self) -> bool:
        """Return whether the client has gone, or has ended its side.

        The environ's ``aiowsgi.disconnected``.
        """
        # Set once, by the loop thread; to see it a moment later does no harm.
        return self.coroutines.disconnect_error is not None

    def is_stopping(self) -> bool:
        """Return whether the server has begun to stop. The environ's ``aiowsgi.stopping``.

        A request that came during ``drain_delay`` is told so from its beginning.
        """
        return self._answerer.resources.is_draining

    def seconds_left(self) -> float:
        """Return the seconds until the request is given up, at least 0; infinity where it is not.

        By ``timeout_request``, and by a server that stops. The environ's ``aiowsgi.deadline``.
        """
        resources = self._answerer.resources
        end = resources.cut_at
        if limit := resources.config.timeout_request:
            end = min(end, self.stream.started_at + limit)
        return max(0.0, end - resources.clock())


def stream_of(run: Callable[[], None] | None) -> Stream | None:
    """Return the stream that a job answers; None where it has just ended that.

    What a pool runs for a server is the method ``run`` of a ``WsgiCall``, which knows the stream.
    """
    call = getattr(run, "__self__", None)
    return call.stream if isinstance(call, WsgiCall) else None
