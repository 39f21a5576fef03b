"""The server that is embedded: start, serve, stop."""

import asyncio
import contextlib
import contextvars
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from types import TracebackType
from typing import TYPE_CHECKING
from wsgiref.types import WSGIApplication

from ..answers.wsgi import stream_of
from ..bridge import forks
from ..bridge.mailbox import Mailbox
from ..bridge.pool.jobs import JobQueue
from ..config import Config
from ..errors import ServerStopped
from ..exchange.report import requests_in_flight
from ..exchange.stream import Stream
from ..http.readers.reader import Reader
from ..net.accept.descriptors import DESCRIPTORS_OF_A_FILE, left_for_connections, warn_of_few
from ..net.accept.listener import Listener
from ..net.bind.listening import ListeningSocket
from ..net.entrance import Entrance
from ..net.transports.choice import new_connector
from ..observe.inspection import Inspection, stacks_of
from ..wsgi.application import describe
from .assembly import LOOP_CLOSED, Assembly, new_pool, new_renewal, new_reporter
from .entrances import entrances
from .forked_child import leave_descriptors, leave_signals
from .loop_end import LoopEnd
from .shutdown import Shutdown
from .surroundings import Surroundings

if TYPE_CHECKING:
    # Loaded only where TLS is spoken.
    from ssl import SSLContext

    from ..net.tls.certificates.served import CertificateSource


class Server:
    """A WSGI application being served in the running event loop. Made by ``serve``.

    Modelled on ``asyncio.Server``: ``close`` begins a graceful shutdown, ``wait_closed`` waits for
    its end. Every method is called on the loop's thread, but for ``close`` and ``abort``, which may
    be called on any.
    """

    def __init__(
        self,
        app: WSGIApplication,
        config: Config,
        sockets: list[ListeningSocket],
        executor: Executor | None,
        reader: Reader,
        surroundings: Surroundings,
        context: "SSLContext | None",
        certificates: "CertificateSource | None",
    ) -> None:
        loop = asyncio.get_running_loop()
        # What callbacks of the loop run in: nothing of the host's tasks can leak into a request,
        # nor anything of a request into the loop (python/cpython#140947).
        self._context = contextvars.copy_context()
        self._config = config
        self._is_replaced = surroundings.is_replaced
        pool: JobQueue
        if executor is None:
            pool = new_pool(config, surroundings)
        else:
            # Here, because most servers have a pool of their own.
            from ..bridge.pool.executor_queue import ExecutorQueue

            pool = ExecutorQueue(executor, queue_size=config.queue_size)
        self._assembly = assembly = Assembly(
            app,
            config,
            pool=pool,
            timers=loop,
            loop=loop,
            mailbox=Mailbox(self._wake_loop, Stream.reach_owner),
            context=contextvars.copy_context(),
            multiprocess=any(sock.inherited or sock.reuses_port for sock in sockets),
            on_disconnect=self._uncount_connection,
            scheduling=surroundings.scheduling,
        )
        self._app = app
        self._loop = loop
        self._resources = assembly.resources
        # How many connections are gone of those that were accepted.
        self._gone = 0
        # Tells siblings in other processes how this server is, if there may be any.
        self._reporter = new_reporter(
            surroundings.row,
            self._resources,
            connections=lambda: self._connections,
            room=self._room,
        )
        # Renews certificates that are the server's; None if there are none, or the host has them.
        self._renewal = new_renewal(certificates, loop, self._context, surroundings.row)
        ways = entrances(
            assembly.shared,
            config,
            reader,
            sockets,
            context=context,
            certificates=certificates,
            loop=loop,
        )
        self._connector = new_connector(loop, self._context)
        self._listeners = [
            Listener(
                sock,
                loop=loop,
                context=self._context,
                room=self._room,
                make_room=assembly.shared.shedding.free_connections,
                on_broken=self._on_broken_listener,
                make_protocol=self._protocol_factory(entrance),
                connector=self._connector,
                turn=None if self._reporter is None else self._reporter.turn(sock),
            )
            for sock, entrance in zip(sockets, ways, strict=True)
        ]
        self._urls = tuple(sock.url for sock in sockets)
        # How many descriptors all connections may have together.
        self._descriptors = left_for_connections()
        warn_of_few(self._descriptors, config.max_connections)
        self._shutdown = Shutdown(
            assembly, self._listeners, self._context, lambda: self._connections
        )
        self._closing: asyncio.Task[None] | None = None
        self._close_called = asyncio.Event()
        self._thread = forks.this_thread()
        # Only there a loop can handle them.
        self._may_handle_signals = forks.is_main_thread()
        for listener in self._listeners:
            listener.resume()
        if self._reporter is not None:
            self._reporter.begin()
        forks.register(self)
        self._loop_end = LoopEnd(loop, self._on_loop_end)

    def __repr__(self) -> str:
        state = "serving" if self.is_serving() else "closed"
        if self._closing is not None and not self._closing.done() and not self._is_over():
            state = "closing"
        app = describe(self._app)
        return f"<aiowsgi.Server of {app} at {', '.join(self._urls)}, {state}>"

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; none once the server is closing."""
        return tuple(listener.sock for listener in self._listeners) if self.is_serving() else ()

    @property
    def urls(self) -> tuple[str, ...]:
        """Where a browser on this machine finds the application; "unix:PATH" for a Unix socket."""
        return self._urls if self.is_serving() else ()

    @property
    def url(self) -> str:
        """The first of ``urls``. Raises RuntimeError once the server is closing."""
        if not self.urls:
            raise RuntimeError("the server is closed")
        return self.urls[0]

    @property
    def threads(self) -> int:
        """How many requests the application can answer at the same time."""
        return self._resources.pool.threads

    @property
    def requests(self) -> int:
        """How many requests have come, those that were refused included."""
        return self._resources.requests

    @property
    def busy_threads(self) -> int:
        """How many requests the application is answering."""
        return len(self._resources.pool.running())

    @property
    def queued(self) -> int:
        """How many requests wait for a thread."""
        return self._resources.pool.queued

    @property
    def healthy(self) -> bool:
        """False once ``max_lost_threads`` were given up by ``timeout_request`` and still run.

        Further ones are not replaced. A process that is not healthy is best started anew.
        """
        return self._resources.is_healthy

    @property
    def certificates_expire_at(self) -> float | None:
        """When the first of its certificates expires, in seconds since 1970.

        Infinity if that is not known; None without certificates, or with a context of the host.
        """
        return None if self._renewal is None else self._renewal.expires_at

    def renew_certificates(self, asked_by: str) -> bool:
        """Begin to read certificates again. Return False if there are none that it could read.

        It does so anyway, within 10 seconds, once they have changed. ``asked_by`` is for the log.
        """
        if self._renewal is None:
            return False
        self._renewal.read_now(asked_by)
        return True

    @property
    def was_cut(self) -> bool:
        """Whether a shutdown had to cut connections, or to leave threads behind."""
        return self._shutdown.was_cut

    @property
    def left_threads_behind(self) -> bool:
        """Whether a shutdown had to leave threads behind, which are inside the application."""
        return self._shutdown.left_threads_behind

    @property
    def time_left(self) -> float:
        """Seconds until a shutdown cuts what is in flight; infinity while there is none."""
        return self._resources.time_left

    def inspect(self) -> Inspection:
        """Return what the server is doing: the requests in flight, and the stacks of their threads.

        Stops nothing; ``str()`` of it is for people.
        """
        resources, connections = self._resources, self._assembly.shared.connections
        busy = [(started, stream_of(started.run)) for started in resources.pool.running()]
        stacks = stacks_of(started.ident for started, _ in busy)
        found = (connection.inspect(stacks) for connection in connections)
        requests = [request for request in found if request is not None]
        return Inspection(
            connections=self._connections,
            idle=sum(connection.idle_since is not None for connection in connections),
            threads=resources.pool.threads,
            queued=resources.pool.queued,
            lost=resources.pool.lost,
            buffered=resources.budget.used,
            healthy=resources.is_healthy,
            requests=tuple(requests_in_flight(requests, busy, stacks, resources.clock())),
        )

    def is_serving(self) -> bool:
        """Return whether connections are accepted."""
        return self._closing is None and not self._is_over()

    def _is_over(self) -> bool:
        """Return whether there is no loop any more: it is closed, or this is a forked child."""
        return self._resources.abandoned or self._loop.is_closed()

    def close(self) -> None:
        """Begin to stop: no more connections, idle ones closed, requests in flight finished.

        With ``drain_delay`` it first goes on accepting for that long. Requests that have not ended
        after ``timeout_graceful`` more seconds are cut. Returns at once; idempotent; may be called
        on any thread.
        """
        if self._is_elsewhere(self.close):
            return
        if self._closing is None:
            delay, resources = self._config.drain_delay, self._resources
            resources.is_replaced = self._is_replaced()
            resources.is_draining = True
            if self._reporter is not None:
                self._reporter.drain()
            # A signal handler of the application may be called on this thread from here on.
            self._assembly.waker.stay_punctual()
            resources.cut_at = resources.clock() + delay + self._config.timeout_graceful
            self._closing = self._loop.create_task(self._close())
            self._tell(self._close_called)

    def abort(self) -> None:
        """Stop now: cut every connection. Threads that wait for a client are released.

        Returns at once; idempotent; may be called on any thread. The application is not interrupted
        where it works.
        """
        if self._is_elsewhere(self.abort):
            return
        self.close()
        self._resources.cut_at = min(self._resources.cut_at, self._resources.clock())
        self._tell(self._shutdown.changed)

    def _wake_loop(self, callback: Callable[[], None]) -> None:
        """Have the loop thread call ``callback`` soon. On any thread. Raises ServerStopped."""
        try:
            self._loop.call_soon_threadsafe(callback, context=self._context)
        except RuntimeError as error:
            raise ServerStopped(LOOP_CLOSED) from error

    def _tell(self, event: asyncio.Event) -> None:
        """Set an event in the loop's next pass, and wake the loop for it.

        The caller may be a signal handler. A loop goes on sleeping after those, and may have been
        interrupted while a task began to wait for the event.
        """
        self._loop.call_soon_threadsafe(event.set, context=self._context)

    def _is_elsewhere(self, call: Callable[[], None]) -> bool:
        """Return whether the caller is not on the loop's thread, where ``call`` is then called.

        If there is one: what a loop served has ended with it.
        """
        loop = self._loop
        if self._is_over():
            return True
        try:
            if asyncio.get_running_loop() is loop:
                return False
        except RuntimeError:
            pass
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call, context=self._context)
        return True

    async def wait_closed(self) -> None:
        """Wait until ``close`` has been called and everything has ended."""
        if self._is_over():
            return
        await self._close_called.wait()
        assert self._closing is not None  # Set before the event.
        # A task that is cancelled stops waiting; the shutdown goes on.
        await asyncio.shield(self._closing)

    async def serve_forever(self) -> None:
        """Serve until ``close`` is called, or until this is cancelled, which stops the server."""
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise

    async def __aenter__(self) -> "Server":
        if not self.is_serving():
            raise RuntimeError(
                "the server is closed, and cannot be entered; start another one with "
                "'async with aiowsgi.serve(...) as server:'"
            )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
        await self.wait_closed()

    def abandon(self) -> None:
        """Leave everything to the parent: this is a forked child. See ``bridge.forks``."""
        if self._may_handle_signals and forks.this_thread() != self._thread:
            leave_signals(self._loop)
        if self._reporter is not None:
            self._reporter.abandon()
        descriptors = self._assembly.abandon()
        for listener in self._listeners:
            descriptors += listener.abandon()
        descriptors += self._connector.abandon()
        self._gone = self._assembly.shared.accepted
        leave_descriptors(descriptors)

    def _room(self) -> float:
        """Return for how many more connections there is room."""
        spooler = self._resources.spooler
        files = self._assembly.shared.files_being_sent * DESCRIPTORS_OF_A_FILE
        files += 0 if spooler is None else spooler.open_files
        return min(self._config.max_connections, self._descriptors - files) - self._connections

    def _on_broken_listener(self) -> None:
        self._resources.has_broken_listener = True

    def _protocol_factory(
        self, entrance: Entrance
    ) -> Callable[[socket.socket, object], asyncio.Protocol]:
        reporter = self._reporter
        if reporter is None:
            return entrance.protocol
        return lambda sock, peer: reporter.watch(entrance.protocol(sock, peer))

    @property
    def _connections(self) -> int:
        """How many are accepted and not gone: also those that are being set up."""
        return self._assembly.shared.accepted - self._gone

    def _uncount_connection(self) -> None:
        """Take note that a connection is gone, or has never come about."""
        self._gone += 1
        if self._reporter is not None:
            self._reporter.note_connections()
        self._shutdown.changed.set()
        # There is room for one more, on whichever listener waits for that.
        for listener in self._listeners:
            listener.resume()

    def _on_loop_end(self) -> None:
        """Cut everything: the loop was closed before the server was."""
        if not self._resources.abandoned:
            for listener in self._listeners:
                listener.close_without_loop()
            self._assembly.abort_without_loop()
            self._connector.close()

    async def _close(self) -> None:
        await self._shutdown.run(self._config.drain_delay)
        if self._renewal is not None:
            self._renewal.close()
        self._connector.close()
        self._loop_end.cancel()
