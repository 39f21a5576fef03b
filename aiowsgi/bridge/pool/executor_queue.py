"""A job queue in front of an ``Executor`` that the host of the server passes in."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from ...errors import QueueFull
from ...wording import counted
from ..locks import Lock, make_condition, make_lock
from .jobs import Job, JobQueue, JobThread
from .thread_pool import ThreadPool

_log = logging.getLogger("aiowsgi.error")


class ExecutorQueue(JobQueue):
    """Runs the jobs of one server on an ``Executor``.

    Arguments: the executor, which belongs to the host and is never shut down here; ``queue_size``,
    how many jobs of the server may wait in it. Threads that wait for clients or were written off
    are not replaced, because the host decides how many threads there are.
    """

    def __init__(self, executor: Executor, *, queue_size: int) -> None:
        self._executor = executor
        self._queue_size = queue_size
        # Protects everything below. Taken by the loop thread to start, cancel and stop, and by the
        # threads of the executor before and after each job.
        self._lock = make_lock()
        self._queued: set[Future[None]] = set()
        self._running: dict[_ExecutorJob, JobThread] = {}
        # The numbers of threads that wait for clients.
        self._waiting_for_clients: set[int] = set()
        self._closed = False
        self._on_stopped: list[Callable[[], None]] = []

    @property
    def threads(self) -> int:
        """How many jobs may run at the same time, as far as the executor says."""
        if isinstance(self._executor, ThreadPool):
            return self._executor.threads
        # CPython's executors have no public attribute for it.
        count: Any = getattr(self._executor, "_max_workers", None)
        # If the executor does not say, several threads are assumed. That is the safe side.
        return count if isinstance(count, int) else 2

    @property
    def is_concurrent(self) -> bool:
        """Whether several jobs may run at the same time. See ``JobQueue``."""
        if isinstance(self._executor, ThreadPool):
            return self._executor.is_concurrent
        return self.threads > 1

    @property
    def queued(self) -> int:
        """How many jobs wait for a thread. Read without the lock: the number may just change."""
        return len(self._queued)

    @property
    def lost(self) -> int:
        """How many jobs were written off and are still running."""
        with self._lock:
            return sum(job.lost for job in self._running)

    @property
    def is_starved(self) -> bool:
        """Whether jobs wait while threads wait for clients."""
        return bool(self._queued) and bool(self._waiting_for_clients)

    def make_condition(self, lock: Lock) -> threading.Condition:
        """Return a condition on which threads wait for a client. See ``ThreadSlots``."""
        return make_condition(lock)

    def release_slot(self) -> None:
        """Note that the calling thread waits for a client."""
        with self._lock:
            self._waiting_for_clients.add(threading.get_ident())

    def reclaim_slot(self) -> None:
        """Note that the calling thread works again."""
        with self._lock:
            self._waiting_for_clients.discard(threading.get_ident())

    def enqueue(
        self,
        run: Callable[[], None],
        failed: Callable[[], None] = lambda: None,
        *,
        wake: bool = True,
    ) -> Job:
        """Queue ``run``. Raises QueueFull, or RuntimeError once the executor is shut down."""
        # The state of the job. The future of the executor cannot be used for that: the job may have
        # begun before ``submit`` returns it.
        future: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the server is stopped")
            # A job that a free thread is about to take still counts. So there is room for one more
            # than ``queue_size``.
            if len(self._queued) > self._queue_size:
                raise QueueFull(f"{counted(len(self._queued), 'job')} in the queue already")
            self._queued.add(future)
        job = _ExecutorJob(self, future)
        try:
            outer = self._executor.submit(self._run, run, job, failed)
        except BaseException:
            self._drop(future)
            raise
        outer.add_done_callback(lambda outer: self._on_done(outer, future, failed))
        return job

    def wake(self) -> None:
        """Do nothing: the executor wakes its threads itself."""

    def stop(self, on_stopped: Callable[[], None], *, cancel: bool) -> None:
        """Begin to stop. See ``JobQueue.stop``."""
        with self._lock:
            self._closed = True
            queued = list(self._queued) if cancel else []
            self._on_stopped.append(on_stopped)
        for future in queued:
            # A job that has just begun cannot be cancelled, and runs to its end.
            if future.cancel():
                self._drop(future)
        self._call_if_stopped()

    def join(self) -> None:
        """Do nothing: the threads belong to the executor."""

    def running(self) -> list[JobThread]:
        """Return the threads that are running jobs of this queue, and what they run."""
        with self._lock:
            return list(self._running.values())

    def abandon(self) -> None:
        """Take no more jobs in a forked child. See ``forks``."""
        self._lock = make_lock()
        self._closed = True
        self._queued = set()
        self._running = {}
        self._waiting_for_clients = set()
        self._on_stopped = []

    def _run(
        self,
        run: Callable[[], None],
        job: "_ExecutorJob",
        failed: Callable[[], None],
    ) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            thread = threading.current_thread()
            with self._lock:
                job.taken = JobThread(thread.name, thread.ident or 0, time.monotonic())
                self._running[job] = job.taken._replace(run=run)
                self._queued.discard(job.future)
            run()
        except BaseException:
            failed()
            raise
        finally:
            with self._lock:
                self._running.pop(job, None)
                self._queued.discard(job.future)
                self._waiting_for_clients.discard(threading.get_ident())
            self._call_if_stopped()

    def _on_done(
        self, outer: Future[None], future: Future[None], failed: Callable[[], None]
    ) -> None:
        """Take note that the executor has done with a job. Perhaps it has never begun it."""
        error = None if outer.cancelled() else outer.exception()
        if future.cancelled() or not future.cancel():
            return
        _log.error("The executor dropped a request: %r", error or "it was cancelled")
        try:
            failed()
        finally:
            self._drop(future)

    def _drop(self, future: Future[None]) -> None:
        with self._lock:
            self._queued.discard(future)
        self._call_if_stopped()

    def _call_if_stopped(self) -> None:
        """Call ``on_stopped`` if this queue is closed and its last job has ended."""
        with self._lock:
            if not self._closed or self._running or self._queued:
                return
            callbacks, self._on_stopped = self._on_stopped, []
        for callback in callbacks:
            callback()


class _ExecutorJob:
    __slots__ = ("_pool", "future", "lost", "taken")

    def __init__(self, pool: ExecutorQueue, future: Future[None]) -> None:
        self._pool = pool
        # Its state says whether the job is in the queue, running, or cancelled.
        self.future = future
        # The thread that has taken the job, and whether the job was written off. Protected by the
        # lock of the pool.
        self.taken: JobThread | None = None
        self.lost = False

    def cancel(self) -> bool:
        if not self.future.cancel():
            return False
        self._pool._drop(self.future)
        return True

    def started(self) -> JobThread | None:
        with self._pool._lock:
            return self.taken

    def write_off(self) -> bool:
        with self._pool._lock:
            self.lost = self in self._pool._running
            return self.lost
