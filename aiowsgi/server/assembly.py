"""How the parts of a server are put together: what connections share, and what answers."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any
from wsgiref.types import WSGIApplication

from ..answers.coroutines import CoroutineRunner, current_caller
from ..answers.health import HealthAnswerer
from ..answers.waker import PoolWaker
from ..answers.wsgi import WsgiAnswerer, WsgiCall
from ..bridge import forks
from ..bridge.budget import Budget
from ..bridge.mailbox import Mailbox
from ..bridge.pool.job_pool import JobPool
from ..bridge.pool.jobs import JobQueue, Scheduling
from ..bridge.spool import Spooler
from ..config import Config
from ..connection.shared import Shared
from ..connection.shedding import LoadShedding
from ..errors import ClientDisconnected, ServerStopped
from ..exchange.interfaces import Answerer, ConnectionHandle, Timers
from ..exchange.report import Observers
from ..exchange.resources import Resources
from ..http.request import RequestHead
from ..wsgi.environ import base_environ
from ..wsgi.failure import FailureReport
from .surroundings import Surroundings

if TYPE_CHECKING:
    # Loaded only where they are needed.
    from ..net.tls.certificates.renewal import Renewal
    from ..net.tls.certificates.served import CertificateSource
    from ..observe.scoreboard import Row
    from .reporting import Reporter

PRODUCT = "aiowsgi"
# How messages and exceptions call a loop that the host has closed.
LOOP_CLOSED = "the event loop was closed"


class Assembly:
    """The parts of one server. On the loop thread.

    It makes them, and lets go of all of them at once, in the two cases in which there is no loop
    that could stop them in steps: the loop is closed, or this is a forked child.

    Arguments: the application and the options; the pool that runs it; timers, and the loop that
    runs coroutines of the application, which usually are the same; the mailbox of the loop thread;
    the context of which each request gets a copy; whether other processes run the application, too;
    what is done when threads compete for the interpreter; ``on_disconnect()``, called when a
    connection is gone; and the clock, in seconds.
    """

    def __init__(
        self,
        app: WSGIApplication,
        config: Config,
        *,
        pool: JobQueue,
        timers: Timers,
        loop: asyncio.AbstractEventLoop,
        mailbox: Mailbox[Any],
        context: Context,
        multiprocess: bool,
        on_disconnect: Callable[[], None],
        scheduling: Scheduling | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resources = resources = Resources(
            config=config,
            pool=pool,
            budget=Budget(config.max_buffered),
            mailbox=mailbox,
            spooler=Spooler(config.body_spool) if config.body_spool else None,
            clock=clock,
        )
        connections: dict[ConnectionHandle, None] = {}
        shedding = LoadShedding(connections, resources)
        self.waker = PoolWaker(pool, timers, on_woken=shedding.free_threads, scheduling=scheduling)
        self.coroutine_runner = CoroutineRunner(loop, self.waker.stay_punctual)
        observers = Observers(
            access_log=config.access_log,
            threads=pool.threads,
            queue_target=config.queue_target,
            clock=clock,
        )
        answerer: Answerer = WsgiAnswerer(
            app,
            resources,
            base_environ=base_environ(
                software=PRODUCT,
                multithread=pool.is_concurrent,
                multiprocess=multiprocess,
                script_name=config.script_name,
            ),
            context=context,
            coroutine_runner=self.coroutine_runner,
            waits=observers.waits,
            waker=self.waker,
            report=_debug_report() if config.debug else None,
        )
        if config.script_name and not config.script_name_strip:
            # Here, because most servers do not need it.
            from ..answers.prefix import PrefixAnswerer

            answerer = PrefixAnswerer(config.script_name, answerer)
        if config.health_path:
            answerer = HealthAnswerer(config.health_path, self._is_up, answerer)
        self.shared = Shared(
            resources=resources,
            timers=timers,
            observers=observers,
            answerer=answerer,
            on_disconnect=on_disconnect,
            connections=connections,
            shedding=shedding,
        )

    def _is_up(self) -> bool:
        """Return whether a load balancer should send requests here."""
        resources = self.resources
        # What is asked is whether the site is up, not this process of it.
        is_ending = resources.is_draining and not resources.is_replaced
        return resources.is_healthy and not is_ending and not resources.has_broken_listener

    def abort_without_loop(self) -> None:
        """Cut everything: the loop was closed. Called on the thread that has closed it."""
        gone = ServerStopped(LOOP_CLOSED)
        resources, shared = self.resources, self.shared
        resources.is_draining = shared.is_closing = True
        resources.cut_at = resources.clock()
        for connection in list(shared.connections):
            # The transport cannot report any more that the connection is lost.
            with contextlib.suppress(RuntimeError):
                connection.abort(gone)
            with contextlib.suppress(RuntimeError):
                connection.release(gone)
        # The garbage collector may close a loop that is no longer used, whatever runs just then.
        with contextlib.suppress(RuntimeError):
            resources.pool.stop(lambda: None, cancel=True)
        if resources.spooler is not None:
            resources.spooler.stop(lambda: None)

    def abandon(self) -> list[int]:
        """Give up, in a forked child. Return the descriptors that are its parent's."""
        resources = self.resources
        resources.abandoned = True
        gone = ClientDisconnected(f"{forks.PARENT_GOES_ON} the request")
        descriptors: list[int] = []
        for connection in self.shared.connections:
            descriptors += connection.abandon(gone)
        self.shared.connections.clear()
        # The coroutines of the request that has forked, whose connection may be gone.
        if (caller := current_caller.get(None)) is not None:
            caller.disconnect_error = ServerStopped(str(gone))
        resources.mailbox.abandon()
        resources.budget.abandon()
        resources.pool.abandon()
        return descriptors


def new_pool(config: Config, surroundings: Surroundings) -> JobPool:
    """Return the pool of a server that is given none."""
    options: dict[str, Any] = {
        "queue_size": config.queue_size,
        "spare_threads": config.most_spare_threads,
        # Without a limit none is ever lost.
        "max_lost_threads": config.max_lost_threads if config.timeout_request else 0,
        "queue_target": config.queue_target,
        "scheduling": surroundings.scheduling,
    }
    if surroundings.row is None:
        return JobPool(config.threads, **options)
    # Here, because it comes with workers only.
    from ..bridge.pool.reporting_pool import ReportingPool

    return ReportingPool(config.threads, report=surroundings.row, describe=_describe, **options)


def new_reporter(
    row: "Row | None",
    resources: Resources,
    *,
    connections: Callable[[], int],
    room: Callable[[], float],
) -> "Reporter | None":
    """Return what keeps a row up to date; None where there is none. See ``Reporter``."""
    if row is None:
        return None
    # Here, because it comes with workers only.
    from .reporting import Reporter

    return Reporter(row, resources, connections=connections, room=room)


def new_renewal(
    source: "CertificateSource | None",
    loop: asyncio.AbstractEventLoop,
    context: Context,
    row: "Row | None",
) -> "Renewal | None":
    """Return what renews certificates; None where there are none that are the server's.

    ``row`` is that of this process, if others have the same certificates.
    """
    if source is None:
        return None
    from ..net.tls.certificates.renewal import Renewal

    return Renewal(
        source,
        loop=loop,
        context=context,
        speaks=lambda: row is None or row.is_first,
    )


def _describe(run: Callable[[], None]) -> str:
    call = getattr(run, "__self__", None)
    stream = call.stream if isinstance(call, WsgiCall) else None
    return "" if stream is None else stream.describe()


def _debug_report() -> Callable[[RequestHead, str, Callable[[], str]], FailureReport]:
    """Return what makes the reports of ``debug``. Nothing of it is imported without the option."""
    from ..answers.debug.report import DebugReport

    return DebugReport
