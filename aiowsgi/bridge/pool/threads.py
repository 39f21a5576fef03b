"""The threads of a pool, and what they run: records, which the pool keeps under its lock.

A thread may end at any place: an exception can be raised in it from outside, as some libraries do
to give up a call (PyThreadState_SetAsyncExc), and memory can be short. So a thread says what it is
about to do before it does it, and whoever settles its accounts finds out how far it has come.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from .. import forks
from .jobs import Started

_log = logging.getLogger("aiowsgi.error")


class Keeper(Protocol):
    """Who has the jobs: the pool."""

    # Whether this is a forked child: the threads are its parent's.
    abandoned: bool

    def cancel_job(self, job: "QueuedJob") -> bool: ...

    def started_job(self, job: "QueuedJob") -> Started | None: ...

    def write_off_job(self, job: "QueuedJob") -> bool: ...


class QueuedJob:
    """A job, from when it is queued. Implements ``jobs.Job``."""

    __slots__ = ("_keeper", "failed", "future", "queued_at", "run", "taken_at", "thread")

    def __init__(self, keeper: Keeper, run: Callable[[], None], failed: Callable[[], None]) -> None:
        self._keeper = keeper
        # None once it has ended or was cancelled: who keeps a job does not keep what it ran.
        self.run: Callable[[], None] | None = run
        # None once it has begun.
        self.failed: Callable[[], None] | None = failed
        self.queued_at = time.monotonic()
        # Which thread has taken it, and when.
        self.thread: PoolThread | None = None
        self.taken_at = 0.0
        # Of a job that came through ``submit``.
        self.future: Future[Any] | None = None

    def cancel(self) -> bool:
        """See ``Job``."""
        return self._keeper.cancel_job(self)

    def started(self) -> Started | None:
        """See ``Job``."""
        return self._keeper.started_job(self)

    def write_off(self) -> bool:
        """See ``Job``."""
        return self._keeper.write_off_job(self)

    def execute(self) -> None:
        """Run it on the thread that has taken it. Does not return in a forked child."""
        run, failed = self.run, self.failed
        assert run is not None  # It was neither run nor cancelled before.
        assert failed is not None
        try:
            self.failed = self.future = None
            run()
        except BaseException as error:  # noqa: BLE001
            if self._keeper.abandoned:
                forks.leave(error)
            # Jobs raise nothing. This is a defect, or comes from elsewhere; it is not hidden, and
            # nobody waits for the job for ever.
            _log.critical("A job of the thread pool failed", exc_info=True)
            failed()
        if self._keeper.abandoned:
            forks.leave(None)
        self.run = None
        # The traceback of an exception that a future keeps knows this frame, too.
        run = failed = None

    def taken(self) -> Started | None:
        """Return which thread has taken it. The lock of the pool is held."""
        thread = self.thread
        if thread is None:
            return None
        return Started(thread.name, thread.ident or 0, self.taken_at, thread.native_id or 0)

    def at_work(self) -> Started | None:
        """Return the same, and what it runs. The lock of the pool is held."""
        taken = self.taken()
        # A thread lets go of that without the lock, a moment before its job ends.
        return None if taken is None else taken._replace(run=self.run)


class PoolThread(threading.Thread):
    """A thread of a pool, which the interpreter does not wait for at its end.

    Threads that a job starts are ordinary ones all the same: ``Thread`` takes ``daemon`` from the
    thread that starts it, and would be cut at the end of the process without a word.
    """

    _is_running_jobs = False

    def __init__(self, work: Callable[["PoolThread"], None], name: str) -> None:
        super().__init__(name=name)
        self._work = work
        # Released to wake the thread: by whoever queues a job, by another thread, or by `stop`.
        self.turn = threading.Lock()
        self.turn.acquire()
        # What it has taken. Protected by the lock of the pool.
        self.job: QueuedJob | None = None

    @property
    def daemon(self) -> bool:  # type: ignore[override]
        """Whether the interpreter does without its end: asked before ``run``, and for children."""
        return not self._is_running_jobs

    def run(self) -> None:
        """Run jobs until the pool has no use for the thread."""
        # Whether this thread is waited for has been settled when it was started.
        self._is_running_jobs = True
        self._work(self)

    def wake(self) -> None:
        """Let an idle thread look into the queue. The lock of the pool is held."""
        if self.turn.locked():  # Else it has been woken already.
            self.turn.release()
