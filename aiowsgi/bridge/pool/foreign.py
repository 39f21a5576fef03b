"""The share of a server in an ``Executor`` that belongs to somebody else."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from ...errors import QueueFull
from ...wording import counted
from ..locks import make_lock
from .executor import ThreadPool
from .jobs import Job, Started

_log = logging.getLogger("aiowsgi.error")


class ForeignPool:
    """The share of one server in an ``Executor`` that belongs to somebody else.

    Arguments: the executor, which is never shut down here, and ``queue_size``, the number of jobs
    that may wait in it. Threads that wait for clients, or were written off, are not replaced: how
    many threads there are is the owner's decision.
    """

    def __init__(self, executor: Executor, *, queue_size: int) -> None:
        self._executor = executor
        self._queue_size = queue_size
        # Protects everything below. Taken to start, cancel and stop on the loop thread, and by the
        # executor's threads around each job.
        self._lock = make_lock()
        self._waiting: set[Future[None]] = set()
        self._running: dict[_ForeignJob, Started] = {}
        # Threads that wait for clients, by their numbers.
        self._away: set[int] = set()
        self._closed = False
        self._on_stopped: list[Callable[[], None]] = []

    @property
    def threads(self) -> int:
        """How many jobs may run at the same time, as far as the executor tells."""
        if isinstance(self._executor, ThreadPool):
            return self._executor.threads
        # The name in CPython's executors; there is no public one.
        count: Any = getattr(self._executor, "_max_workers", None)
        # An executor that does not say is taken to have several threads: the safe answer.
        return count if isinstance(count, int) else 2

    @property
    def concurrent(self) -> bool:
        """Whether several jobs may run at the same time, on whatever threads."""
        if isinstance(self._executor, ThreadPool):
            return self._executor.concurrent
        return self.threads > 1

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread, a moment ago."""
        return len(self._waiting)

    @property
    def lost(self) -> int:
        """How many jobs were written off and still run."""
        with self._lock:
            return sum(job.lost for job in self._running)

    @property
    def starved(self) -> bool:
        """Whether jobs wait because of threads that wait for clients."""
        return bool(self._waiting) and bool(self._away)

    def leave(self) -> None:
        """Count the calling thread as one that waits for a client."""
        with self._lock:
            self._away.add(threading.get_ident())

    def rejoin(self) -> None:
        """Count the calling thread as one that works."""
        with self._lock:
            self._away.discard(threading.get_ident())

    def start(
        self,
        run: Callable[[], None],
        failed: Callable[[], None] = lambda: None,
        *,
        wake: bool = True,
    ) -> Job:
        """Queue ``run``. Raises QueueFull, or RuntimeError once the executor is shut down."""
        # Carries the job's state: the executor's own future comes too late, for the job may have
        # begun by then.
        future: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the server is stopped")
            # One that was handed over a moment ago still counts, so an empty queue takes one more.
            if len(self._waiting) > self._queue_size:
                raise QueueFull(f"{counted(len(self._waiting), 'job')} in the queue already")
            self._waiting.add(future)
        job = _ForeignJob(self, future)
        try:
            outer = self._executor.submit(self._run, run, job, failed)
        except BaseException:
            self._drop(future)
            raise
        outer.add_done_callback(lambda outer: self._on_done(outer, future))
        return job

    def wake(self) -> None:
        """Do nothing: an executor wakes its threads itself."""

    def stop(self, on_stopped: Callable[[], None], *, cancel: bool) -> None:
        """Begin to stop. See ``JobQueue.stop``."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting) if cancel else []
            self._on_stopped.append(on_stopped)
        for future in waiting:
            # One that has just begun is waited for.
            if future.cancel():
                self._drop(future)
        self._look()

    def join(self) -> None:
        """Do nothing: the threads are the executor's."""

    def running(self) -> list[Started]:
        """Return the threads that run requests."""
        with self._lock:
            return list(self._running.values())

    def abandon(self) -> None:
        """Take nothing any more. See ``forks``."""
        self._lock = make_lock()
        self._closed = True
        self._waiting = set()
        self._running = {}
        self._away = set()
        self._on_stopped = []

    def _run(
        self,
        run: Callable[[], None],
        job: "_ForeignJob",
        failed: Callable[[], None],
    ) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            thread = threading.current_thread()
            with self._lock:
                job.taken = Started(thread.name, thread.ident or 0, time.monotonic())
                self._running[job] = job.taken._replace(run=run)
                self._waiting.discard(job.future)
            run()
        except BaseException:
            failed()
            raise
        finally:
            with self._lock:
                self._running.pop(job, None)
                self._waiting.discard(job.future)
                self._away.discard(threading.get_ident())
            self._look()

    def _on_done(self, outer: Future[None], future: Future[None]) -> None:
        """Find out that the executor is through with a job, and has perhaps never begun it."""
        error = None if outer.cancelled() else outer.exception()
        if not future.cancelled() and future.cancel():
            self._drop(future)
            _log.error("The executor dropped a request: %r", error or "it was cancelled")

    def _drop(self, future: Future[None]) -> None:
        with self._lock:
            self._waiting.discard(future)
        self._look()

    def _look(self) -> None:
        """Say that nothing runs any more, once that is so and somebody wants to know."""
        with self._lock:
            if not self._closed or self._running or self._waiting:
                return
            callbacks, self._on_stopped = self._on_stopped, []
        for callback in callbacks:
            callback()


class _ForeignJob:
    __slots__ = ("_pool", "future", "lost", "taken")

    def __init__(self, pool: ForeignPool, future: Future[None]) -> None:
        self._pool = pool
        # Says whether the job waits, runs or was cancelled.
        self.future = future
        # Both are protected by the pool's lock.
        self.taken: Started | None = None
        self.lost = False

    def cancel(self) -> bool:
        if not self.future.cancel():
            return False
        self._pool._drop(self.future)
        return True

    def started(self) -> Started | None:
        with self._pool._lock:
            return self.taken

    def write_off(self) -> bool:
        with self._pool._lock:
            self.lost = self in self._pool._running
            return self.lost
