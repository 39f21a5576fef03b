"""The threads of a pool and the jobs that they run: data, which the lock of the pool protects.

A thread may end at any line: some libraries raise exceptions in other threads to end a call
(PyThreadState_SetAsyncExc), and memory can be short. So a thread notes each step before it takes
it. From these notes ``JobPool`` finds out, when a thread has ended, what it has left undone.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from .. import forks
from .jobs import JobThread
from .pool_thread import PoolThread

_log = logging.getLogger("aiowsgi.error")


class JobOwner(Protocol):
    """What a job knows of its pool."""

    # Whether this is a forked child: the threads are its parent's.
    abandoned: bool

    def cancel_job(self, job: "QueuedJob") -> bool: ...

    def started_job(self, job: "QueuedJob") -> JobThread | None: ...

    def write_off_job(self, job: "QueuedJob") -> bool: ...


class QueuedJob:
    """A job in the queue, on a thread, or done. Implements ``jobs.Job``."""

    __slots__ = ("_owner", "failed", "future", "queued_at", "run", "taken_at", "thread")

    def __init__(
        self,
        owner: JobOwner,
        run: Callable[[], None],
        failed: Callable[[], None],
        future: Future[Any] | None,
    ) -> None:
        self._owner = owner
        # None once the job has ended or was cancelled. A reference to the job, which the caller may
        # keep, does not keep alive what it has run.
        self.run: Callable[[], None] | None = run
        # Called if ``run`` is interrupted. None once the job has begun.
        self.failed: Callable[[], None] | None = failed
        # Nanoseconds, as a pool reports them without a step more.
        self.queued_at = time.monotonic_ns()
        # The thread that has taken the job, and when.
        self.thread: ThreadNotes | None = None
        self.taken_at = 0
        # Set for a job that was queued by ``submit``.
        self.future = future

    def cancel(self) -> bool:
        """See ``Job``."""
        return self._owner.cancel_job(self)

    def started(self) -> JobThread | None:
        """See ``Job``."""
        return self._owner.started_job(self)

    def write_off(self) -> bool:
        """See ``Job``."""
        return self._owner.write_off_job(self)

    def execute(self) -> None:
        """Run the job, on the thread that has taken it. Does not return in a forked child."""
        run, failed = self.run, self.failed
        assert run is not None  # A job in the queue was neither run nor cancelled.
        assert failed is not None
        try:
            self.failed = self.future = None
            run()
        except BaseException as error:  # noqa: BLE001
            if self._owner.abandoned:
                forks.exit_child(error)
            # Jobs raise nothing. So this is a defect, or was raised in the thread from outside. It
            # is logged, and the one who waits for the job is told.
            _log.critical("A job of the thread pool failed", exc_info=True)
            failed()
        if self._owner.abandoned:
            forks.exit_child(None)
        self.run = None
        # A future may keep an exception whose traceback refers to this frame.
        run = failed = None

    def taken(self) -> JobThread | None:
        """Return the thread that has taken the job, if any. The lock of the pool is held."""
        if self.thread is None:
            return None
        thread, at = self.thread.thread, self.taken_at / 1e9
        return JobThread(thread.name, thread.ident or 0, at, thread.native_id or 0)

    def taken_with_run(self) -> JobThread | None:
        """Return the same, and what the job runs. The lock of the pool is held."""
        taken = self.taken()
        # The thread sets ``run`` to None without the lock, a moment before its job ends.
        return None if taken is None else taken._replace(run=self.run)


class ThreadNotes:
    """What a pool notes of one of its threads, which calls ``work`` with these notes."""

    __slots__ = ("job", "thread", "wakeup")

    def __init__(self, work: Callable[["ThreadNotes"], None], name: str) -> None:
        self.thread = PoolThread(target=partial(work, self), name=name)
        # An idle thread waits to acquire this. ``wake`` releases it.
        self.wakeup = threading.Lock()
        self.wakeup.acquire()
        # The job that the thread has taken. Protected by the lock of the pool.
        self.job: QueuedJob | None = None

    def wake(self) -> None:
        """Have an idle thread look into the queue. The lock of the pool is held."""
        if self.wakeup.locked():  # Otherwise it was woken already.
            self.wakeup.release()
