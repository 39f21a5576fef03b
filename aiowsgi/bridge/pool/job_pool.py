"""A pool of threads as a server needs it: jobs wait in a queue, and threads run them."""

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ...compiling import mypyc_attr
from ...errors import QueueFull
from ...wording import counted
from .. import forks
from ..locks import Lock, make_condition, make_lock, reentered
from .idling import Idling, can_take_turns
from .jobs import Job, JobQueue, JobThread, Scheduling
from .threads import QueuedJob, ThreadNotes

_log = logging.getLogger("aiowsgi.error")
_pool_numbers = itertools.count(1)


@mypyc_attr(allow_interpreted_subclasses=True)
class JobPool(JobQueue):
    """A bounded queue of jobs, and the threads that run them.

    Threads are woken one after the other: a thread that takes a job and sees another one in the
    queue wakes the next thread. So jobs that end quickly are run by few threads, which do not
    compete for the interpreter. Jobs that wait for something get all threads to work.

    Arguments: ``max_threads``, how many threads run jobs at the same time, each started when it is
    first needed; ``queue_size``, how many jobs may wait while all threads are busy;
    ``spare_threads``, how many threads that wait for clients (``release_slot``) are replaced;
    ``max_lost_threads``, how many threads whose job was written off are replaced; ``queue_target``:
    when the oldest job has waited for more seconds than this, the newest jobs are run first;
    ``scheduling`` sets how late idle threads may be woken, and is passed in only by a process that
    serves and does nothing else.
    """

    def __init__(
        self,
        max_threads: int,
        *,
        queue_size: int = 1024,
        spare_threads: int = 0,
        max_lost_threads: int = 0,
        queue_target: float = float("inf"),
        scheduling: Scheduling | None = None,
    ) -> None:
        if max_threads < 1:
            raise ValueError("max_threads must be at least 1")
        if queue_size < 0:
            raise ValueError("queue_size must be at least 0")
        self._max_threads = max_threads
        self._queue_size = queue_size
        self._spare_threads = spare_threads
        self._max_lost_threads = max_lost_threads
        # Nanoseconds; without a target, more than any job waits.
        self._queue_target = int(min(queue_target, 4e9) * 1e9)
        self._scheduling = scheduling
        self._can_take_turns = can_take_turns()
        self._name = f"aiowsgi-{next(_pool_numbers)}"
        self._numbers = itertools.count(1)
        # Protects everything below and the state of every job. Taken by any thread that submits or
        # cancels, and by the threads of the pool between jobs, for a few instructions. A number
        # that is read without the lock was true a moment ago. A thread may end anywhere between two
        # jobs (see ``threads``), so each step may be left out or taken twice.
        self._lock = make_lock()
        self._jobs: deque[QueuedJob] = deque()
        self._running: set[QueuedJob] = set()
        # The running jobs that were written off.
        self._lost: set[QueuedJob] = set()
        # The numbers of threads that wait for clients, also of those of the application.
        self._waiting_for_clients: set[int] = set()
        # The threads that will look into the queue again.
        self._living: set[ThreadNotes] = set()
        # All that have not ended.
        self._threads: list[ThreadNotes] = []
        # The threads that wait to be woken: the one that became idle last is the first.
        self._idle: dict[ThreadNotes, None] = {}
        # A thread that was woken or started, and has not looked into the queue yet.
        self._waking: ThreadNotes | None = None
        self._closed = False
        self._on_stopped: list[Callable[[], None]] = []
        # Whether this is a forked child, which has none of the threads.
        self.abandoned = False
        self._at_fork = forks.AtFork(self.abandon)

    @property
    def threads(self) -> int:
        """How many threads may work at the same time, besides those that wait for clients."""
        return self._max_threads

    @property
    def is_concurrent(self) -> bool:
        """Whether several jobs may run at the same time, those that wait for clients included."""
        return self._max_threads + self._spare_threads + self._max_lost_threads > 1

    @property
    def queued(self) -> int:
        """How many jobs are in the queue."""
        return len(self._jobs)

    @property
    def lost(self) -> int:
        """How many jobs were written off and are still running."""
        return len(self._lost)

    @property
    def is_starved(self) -> bool:
        """Whether jobs are queued because more threads wait for clients than can be replaced."""
        return bool(self._jobs) and len(self._waiting_for_clients) > self._spare_threads

    def running(self) -> list[JobThread]:
        """Return the threads that are running jobs, and what they run."""
        with self._lock:
            return [now for job in self._running if (now := job.taken_with_run()) is not None]

    def enqueue(
        self,
        run: Callable[[], None],
        failed: Callable[[], None] = lambda: None,
        *,
        wake: bool = True,
        future: Future[Any] | None = None,
    ) -> Job:
        """Queue ``run``, which raises nothing. See ``JobQueue.enqueue``.

        ``future`` is cancelled where the job is dropped.

        Called on any thread; does not block. Raises QueueFull, and RuntimeError after ``shutdown``,
        if no thread can be started, and in a signal handler or destructor that interrupts the pool.
        """
        job = QueuedJob(self, run, failed, future)
        if self._lock._is_owned():
            raise reentered("the thread pool")
        with self._lock:
            if self.abandoned:
                raise RuntimeError(f"{forks.PARENT_GOES_ON} the thread pool; make another one")
            if self._closed:
                raise RuntimeError("the thread pool is shut down")
            waiting = len(self._jobs)
            # Free slots are counted only if the queue is longer than it may be without them.
            limit = self._queue_size
            if waiting >= limit and waiting >= limit + max(self._free_slots(), 0):
                raise QueueFull(f"{counted(waiting, 'job')} in the queue already")
            self._jobs.append(job)
            if wake:
                try:
                    self._wake_one()
                except BaseException:
                    self._jobs.remove(job)
                    raise
        return job

    def wake(self) -> None:
        """Have queued jobs run. Called on any thread; does not block.

        Raises RuntimeError if the pool has no thread yet, and none can be started.
        """
        with self._lock:
            self._wake_one()
            scheduling = self._scheduling
            if scheduling is not None and scheduling.is_look_due(now := time.monotonic()):
                scheduling.look(self.running(), now)

    def make_condition(self, lock: Lock) -> threading.Condition:
        """Return a condition on which threads wait for a client. See ``ThreadSlots``."""
        return make_condition(lock)

    def release_slot(self) -> None:
        """Let another thread work in place of the calling one. See ``ThreadSlots``."""
        if self._lock._is_owned():
            raise reentered("the thread pool")
        with self._lock:
            self._waiting_for_clients.add(threading.get_ident())
            self._wake_one()

    def reclaim_slot(self) -> None:
        """Count the calling thread as working again. See ``ThreadSlots``."""
        with self._lock:
            self._waiting_for_clients.discard(threading.get_ident())
            self._dismiss_surplus()

    def stop(self, on_stopped: Callable[[], None], *, cancel: bool = False) -> None:
        """Begin to shut down; ``on_stopped()`` is called, on any thread, when no thread is left.

        With ``cancel`` jobs that have not started are dropped. Does not block.
        """
        dropped: list[QueuedJob] = []
        # What the jobs would have run. It is destroyed after the lock is released, because a
        # destructor may do anything. Compiled code destroys what it does not use any more.
        runs: list[object] = []
        if self._lock._is_owned():
            raise reentered("the thread pool")
        with self._lock:
            self._closed = True
            if cancel:
                for job in self._jobs:
                    dropped.append(job)
                    runs += job.run, job.failed
                    job.run = job.failed = None
                self._jobs.clear()
            # Jobs that were queued without a wake-up are still run.
            self._wake_one()
            for thread in self._idle:
                thread.wake()
            self._idle.clear()
            stopped = not self._living
            if not stopped:
                self._on_stopped.append(on_stopped)
        runs.clear()
        for job in dropped:
            if job.future is not None:
                job.future.cancel()
        if stopped:
            on_stopped()

    def join(self) -> None:
        """Wait until every thread has ended."""
        # Jobs in the queue may start further threads meanwhile.
        while threads := self.living_threads():
            for thread in threads:
                thread.join()

    def abandon(self) -> None:
        """Take no more jobs in a forked child. See ``forks``."""
        self._lock = make_lock()
        self.abandoned = self._closed = True
        self._jobs = deque()
        self._running = set()
        self._threads = []
        self._living, self._waiting_for_clients, self._lost, self._idle = set(), set(), set(), {}
        self._on_stopped = []

    def living_threads(self) -> list[threading.Thread]:
        """Return the threads that have not ended."""
        with self._lock:
            return [one.thread for one in self._threads if one.thread.is_alive()]

    def _free_slots(self) -> int:
        """Return how many more jobs may run now: some, below ``max_threads``. The lock is held."""
        free = self._max_threads - len(self._running)
        if self._waiting_for_clients:
            free += min(len(self._waiting_for_clients), self._spare_threads)
        if self._lost:
            free += min(len(self._lost), self._max_lost_threads)
        return free

    def _wake_one(self) -> None:
        """Wake or start a thread, unless one has yet to look into the queue. The lock is held."""
        if self._waking is not None or not self._jobs:
            return
        if len(self._running) >= self._max_threads and self._free_slots() <= 0:
            return
        if self._idle:
            thread = next(reversed(self._idle))
            thread.wake()
            self._waking = thread
            del self._idle[thread]
        elif len(self._jobs) + len(self._running) > len(self._living):
            self._start_thread()

    def _start_thread(self) -> None:
        """Start a thread. Raise if that fails and the pool has no other. The lock is held."""
        thread = ThreadNotes(self._work, f"{self._name}-{next(self._numbers)}")
        self._threads = [
            old for old in self._threads if old in self._living or old.thread.is_alive()
        ]
        try:
            self._threads.append(thread)
            self._living.add(thread)
            self._waking = thread
            thread.thread.start()
        except BaseException as error:
            self._waking = None
            self._living.discard(thread)
            # If there are others, one of them will take the job.
            if not (self._living and isinstance(error, RuntimeError | MemoryError)):
                raise

    def _dismiss_surplus(self) -> None:
        """Wake an idle thread so that it ends, if there are too many threads. The lock is held."""
        if self._idle and self._has_surplus():
            # The one that became idle first.
            thread = next(iter(self._idle))
            thread.wake()
            del self._idle[thread]

    def _has_surplus(self) -> bool:
        """Return whether there are more threads than may run. The lock is held."""
        return len(self._living) > self._free_slots() + len(self._running)

    def cancel_job(self, job: QueuedJob) -> bool:
        """Take a job out of the queue. See ``Job.cancel``."""
        if self._lock._is_owned():
            return False  # A destructor has interrupted the pool: the job may be about to begin.
        with self._lock:
            if job.thread is not None:
                return False
            # This is destroyed after the lock is released, as in ``stop``.
            dropped = [job.run, job.failed]
            job.run = job.failed = None
            # In a forked child the queue is empty, whatever its jobs are.
            if dropped[0] is not None and not self.abandoned:
                self._jobs.remove(job)
        dropped.clear()
        return True

    def started_job(self, job: QueuedJob) -> JobThread | None:
        """Return the thread that runs or has run a job. See ``Job.started``."""
        with self._lock:
            return job.taken()

    def write_off_job(self, job: QueuedJob) -> bool:
        """Count a job as lost. See ``Job.write_off``."""
        with self._lock:
            if job not in self._running:
                return False
            self._lost.add(job)
            self._wake_one()
            return True

    def _next_job(self, thread: ThreadNotes) -> QueuedJob | None:
        """Take a job out of the queue, if there is one that may run. The lock is held."""
        jobs = self._jobs
        if not jobs:
            return None
        if len(self._running) >= self._max_threads and self._free_slots() <= 0:
            return None
        now = time.monotonic_ns()
        job = jobs[0]
        # The oldest have waited too long: their clients may have given up. The newest can still
        # be run in time.
        late = now - job.queued_at > self._queue_target
        if late:
            job = jobs[-1]
        # This is the first step: if the thread ends after it, ``_clean_up`` finds the job.
        thread.job = job
        job.taken_at = now
        job.thread = thread
        self._running.add(job)
        if late:
            jobs.pop()
        else:
            jobs.popleft()
        if jobs and self._waking is None:
            self._wake_one()
        return job

    def _note_end(self, job: QueuedJob, thread: ThreadNotes) -> None:
        """Take note that a job has ended. The lock is held."""
        self._running.discard(job)
        if self._lost:
            self._lost.discard(job)
        if self._waiting_for_clients:
            # Perhaps the wait was interrupted before the slot was reclaimed.
            self._waiting_for_clients.discard(threading.get_ident())
        thread.job = None

    def _work(self, thread: ThreadNotes) -> None:
        try:
            self._run_jobs(thread)
        except BaseException:  # noqa: BLE001
            # The top of the thread. This was raised in it from outside, between two jobs.
            _log.error("The thread %s of the pool is replaced", thread.thread.name, exc_info=True)
        finally:
            on_stopped: list[Callable[[], None]] = []
            try:
                self._clean_up(thread, on_stopped)
            except BaseException:  # noqa: BLE001 - interrupted from outside: this must be done
                self._clean_up(thread, on_stopped)
        for callback in on_stopped:
            callback()

    def _clean_up(self, thread: ThreadNotes, on_stopped: list[Callable[[], None]]) -> None:
        """Undo what a thread that ends has left half done, whatever has ended it, and where.

        If the pool is closed and this was the last thread, the callbacks to call are added to
        ``on_stopped``. A thread in place of this one is started when it is needed.
        """
        with self._lock:
            self._note_arrival(thread)
            if (job := thread.job) is not None:
                begun = job.failed is None
                if not begun and job not in self._jobs:
                    self._jobs.appendleft(job)
                self._note_end(job, thread)
                if not begun:
                    job.thread = None
            self._living.discard(thread)
            # If none can be started, the next job tries again.
            with contextlib.suppress(RuntimeError, MemoryError):
                self._wake_one()
            if self._closed and not self._living:
                on_stopped += self._on_stopped
                self._on_stopped = []

    def _note_arrival(self, thread: ThreadNotes) -> None:
        """Take note that a thread looks into the queue. The lock is held."""
        self._living.add(thread)
        self._idle.pop(thread, None)
        if self._waking is thread:
            self._waking = None

    def _run_jobs(self, thread: ThreadNotes) -> None:
        idling = Idling(self._scheduling, self._can_take_turns)
        # How many jobs it has run since it was woken.
        jobs = 0
        woken = True
        while True:
            with self._lock:
                if woken:
                    self._note_arrival(thread)
                elif thread.job is not None:
                    self._note_end(thread.job, thread)
                job = self._next_job(thread)
                if job is None:
                    if (self._closed and not self._jobs) or self._has_surplus():
                        self._living.discard(thread)
                        return
                    self._idle[thread] = None
            woken = job is None
            if job is not None:
                job.execute()
                jobs += 1
                continue
            try:
                idling.begin(jobs)
                thread.wakeup.acquire()
            finally:
                idling.end()
            jobs = 0
