"""What all connections of one server share."""

import asyncio
import contextlib
import itertools
import logging
import math
import os
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from wsgiref.types import WSGIApplication

from ..answers.coroutines import Calls, current_calls
from ..bridge import forks
from ..bridge.budget import Budget
from ..bridge.mailbox import Mailbox
from ..bridge.pool.jobs import JobQueue, Scheduling
from ..bridge.spool import Spooler
from ..config import Config
from ..connection.shedding import Relief
from ..errors import ClientDisconnected, ServerStopped
from ..exchange.report import access_record
from ..http.response import ResponseHeads
from ..http.sections import FieldSections
from ..observe import access
from ..observe.loggers import access_log
from ..observe.refusals import Refusals
from ..observe.waits import Waits
from ..wsgi.environ import Environ
from ..wsgi.headers import HeaderChecks

if TYPE_CHECKING:
    from ..connection.connection import Protocol
    from ..exchange.stream import Exchange

_log = logging.getLogger("aiowsgi.error")

# What the application sees where the host has closed its loop, and not the server.
LOOP_CLOSED = "the event loop was closed"

# A request for which none came before in this time, in seconds, is probably alone.
_ALONE = 0.001
# A request that had its thread for this long, in seconds, took long: a switch interval.
_LONG = 0.005
# Seconds between two looks whether the loop thread has to be patient any longer.
_PATIENCE_LOOK = 0.1


@dataclass(slots=True, kw_only=True)
class Site:
    """One server as its connections see it. Changed on the loop thread only."""

    app: WSGIApplication
    config: Config
    # What their parsers share.
    sections: FieldSections
    # Of each state of a connection, in seconds.
    timeouts: tuple[float | None, ...]
    loop: asyncio.AbstractEventLoop
    # A copy of it is the context of each request, and of nothing else.
    context: Context
    pool: JobQueue
    # What is buffered for all connections together.
    budget: Budget
    mailbox: Mailbox["Exchange"]
    base_environ: Environ
    # The line that is sent where the application sets no Server field.
    server_field: str
    # Called when a connection is gone.
    on_disconnect: Callable[[], None]
    # Where long request bodies wait for a thread; None where they are streamed.
    spooler: Spooler | None = None
    connections: set["Protocol"] = field(default_factory=set)
    # Those that connections have beside their sockets, for the files that they send.
    file_descriptors: int = 0
    # Coroutines that applications have asked for.
    calls: dict[asyncio.Task[Any], Calls] = field(default_factory=dict)
    # Requests are still answered, with Connection: close. Pool threads read this and the next one
    # without a lock: each changes while the server stops, and a look that is a moment late says
    # what was true a moment ago.
    draining: bool = False
    # When what is still in flight is cut, by the site's clock; never, unless the server stops.
    cut_at: float = math.inf
    # No further request is awaited on any connection.
    closing: bool = False
    # This is a forked child: everything is the parent's. See ``bridge.forks``.
    abandoned: bool = False
    # For stamps, in seconds; timers go by the loop's own time.
    clock: Callable[[], float] = time.monotonic
    # Makes the ids of requests unique among processes and restarts.
    id_prefix: str = field(default_factory=lambda: os.urandom(4).hex())
    request_numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    # Whether the pool will be woken in this pass of the loop, and when it was last asked for that.
    _waking: bool = False
    _asked_at: float = 0.0
    # Of the loop thread, in a process that only serves. See ``process.scheduling``.
    patience: Scheduling | None = None
    # Runs while it is patient.
    _patience_timer: asyncio.TimerHandle | None = None
    # What applications answer with is checked and made once, and remembered.
    checks: HeaderChecks = field(default_factory=HeaderChecks)
    heads: ResponseHeads = field(init=False)
    relief: Relief = field(init=False)
    waits: Waits = field(init=False)
    refusals: Refusals = field(init=False)

    def __post_init__(self) -> None:
        self.heads = ResponseHeads(self.server_field)
        self.relief = Relief(self)
        self.waits = Waits(self.pool.threads, self.clock)
        self.refusals = Refusals(self.clock)

    @property
    def healthy(self) -> bool:
        """Whether the threads that ``timeout_request`` has given up could be replaced so far."""
        return not self.pool.lost or self.pool.lost < self.config.max_lost_threads

    @property
    def time_left(self) -> float:
        """Seconds until a shutdown cuts what is in flight; infinity while there is none."""
        return self.cut_at - self.clock()

    def log_access(
        self, client: str, exchange: "Exchange | None", status: int, request_line: str = ""
    ) -> None:
        """Write the access record of a request.

        Without an exchange it was refused, and ``request_line`` is what is known of it.
        """
        if not self.config.access_log or not access_log.isEnabledFor(logging.INFO):
            return
        if exchange is None:
            access.write(access.AccessRecord(client, request_line, status))
        else:
            access.write(access_record(exchange, client, status, self.clock()))

    def end(self) -> None:
        """Cut everything, without the loop: that is closed. Called on the thread that does so."""
        gone = ServerStopped(LOOP_CLOSED)
        self.draining = self.closing = True
        self.cut_at = self.clock()
        for protocol in list(self.connections):
            # Resets it, if need be. That it is lost, the transport cannot say any more.
            with contextlib.suppress(RuntimeError):
                protocol.abort(gone)
            with contextlib.suppress(RuntimeError):
                protocol.end(gone)
        # The garbage collector may close a loop that nobody has, in the midst of anything.
        with contextlib.suppress(RuntimeError):
            self.pool.stop(lambda: None, cancel=True)
        if self.spooler is not None:
            self.spooler.stop(lambda: None)

    def abandon(self) -> list[int]:
        """Give up, in a forked child. Return the descriptors that are its parent's."""
        self.abandoned = True
        gone = ClientDisconnected(f"{forks.NOT_HERE} the request")
        descriptors: list[int] = []
        for protocol in self.connections:
            descriptors += protocol.abandon(gone)
        self.connections = set()
        # Those of a request whose connection has gone.
        if (calls := current_calls.get(None)) is not None:
            calls.gone = ServerStopped(str(gone))
        self.mailbox.abandon()
        self.budget.abandon()
        self.pool.abandon()
        return descriptors

    def sends_many(self, started_at: float) -> bool:
        """Return whether to leave the end of a response to the loop thread. On any thread.

        Where short requests wait, it sends many responses at one go. One that took long, since
        ``started_at`` by the clock, is alone when it ends, and would wait for the turn of the loop
        thread behind others that compute.
        """
        return self.pool.waiting > 0 and self.clock() - started_at < _LONG

    def wake_pool_soon(self) -> None:
        """Wake the pool once for all requests that were queued in this pass of the loop.

        A thread that is woken earlier takes the interpreter from the loop between two reads. But
        where nothing is read behind a request, to wait for the next pass is to ask for the
        interpreter once more.
        """
        if self._waking:
            return
        before, self._asked_at = self._asked_at, self.clock()
        if self._asked_at - before > _ALONE and not self.pool.starved:
            self._wake_pool()
        else:
            self.loop.call_soon(self._wake_pool)
            self._waking = True

    def _wake_pool(self) -> None:
        self._waking = False
        try:
            self.pool.wake()
        except RuntimeError as error:
            # Requests stay in the queue; the next one tries again, and the clock runs for each.
            _log.error("Cannot run the application: %s", error)
        if self.patience is not None and self._patience_timer is None and self.patience.contended:
            self.patience.lengthen_slack()
            self._patience_timer = self.loop.call_later(_PATIENCE_LOOK, self._look_at_crowd)
        # What has just been queued may have to wait for slow clients to go.
        self.relief.threads()

    def _look_at_crowd(self) -> None:
        """Be patient for as long as jobs compute, and no longer: timers are late meanwhile."""
        with contextlib.suppress(RuntimeError):
            self.pool.wake()
        if self.patience is not None and self.patience.contended:
            self._patience_timer = self.loop.call_later(_PATIENCE_LOOK, self._look_at_crowd)
        else:
            self.lose_patience()

    def lose_patience(self) -> None:
        """Have the loop thread woken in time again."""
        if self.patience is not None and self._patience_timer is not None:
            self._patience_timer.cancel()
            self._patience_timer = None
            self.patience.restore_slack()

    def stay_punctual(self) -> None:
        """Have the loop thread woken in time from here on: it runs code of the application."""
        self.lose_patience()
        self.patience = None
