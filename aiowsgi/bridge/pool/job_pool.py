"""The pool as a server needs it: jobs wait in a queue, and threads run them."""

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from ...errors import QueueFull
from ...wording import counted
from .. import forks
from ..locks import make_lock, reentered
from .jobs import Job, Scheduling, Started
from .threads import PoolThread, QueuedJob

_log = logging.getLogger("aiowsgi.error")
_pool_numbers = itertools.count(1)


class JobPool:
    """A bounded queue of jobs, and the threads that run them. Implements ``jobs.JobQueue``.

    Threads are woken one after the other: each that finds more than its own job in the queue wakes
    the next. Jobs that end quickly are run by few threads, which do not compete for the
    interpreter; jobs that wait bring all threads into play.

    Arguments: ``max_threads`` that run jobs at the same time, each started when it is first needed;
    ``queue_size``, the number of jobs that may wait while all threads are busy; ``spare_threads``,
    how many threads that wait for clients (``leave``) are replaced; ``max_lost_threads``, how many
    that are written off are replaced; ``queue_target``, the seconds that the oldest job may have
    waited before the newest are run first; and ``scheduling`` of idle threads, which only a process
    that serves and does nothing else passes in.
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
        self._queue_target = queue_target
        self._scheduling = scheduling
        self._name = f"aiowsgi-{next(_pool_numbers)}"
        self._numbers = itertools.count(1)
        # Protects everything below and the state of every job. Taken by whoever submits or cancels
        # and by the threads between jobs, for a few instructions. A look without it, at how many
        # there are of something, is one at the moment before. A thread may end anywhere between
        # two jobs (see ``threads``): each step can be left out, and can be taken twice.
        self._lock = make_lock()
        self._jobs: deque[QueuedJob] = deque()
        self._running: set[QueuedJob] = set()
        # Of the running jobs, those that were written off.
        self._lost: set[QueuedJob] = set()
        # Threads that wait for clients, by their numbers: those of the pool, and the application's.
        self._away: set[int] = set()
        # Those that will look into the queue again, and all that have not ended.
        self._living: set[PoolThread] = set()
        self._threads: list[PoolThread] = []
        # The idle ones, each waiting for its turn; the last that became so is used first.
        self._idle: dict[PoolThread, None] = {}
        # One that was woken, or started, and has not looked into the queue yet.
        self._waking: PoolThread | None = None
        self._closed = False
        self._on_stopped: list[Callable[[], None]] = []
        # Whether this is a forked child: the threads are its parent's.
        self.abandoned = False
        forks.watch(self)

    @property
    def threads(self) -> int:
        """How many jobs may run at the same time, those that wait for clients left aside."""
        return self._max_threads

    @property
    def concurrent(self) -> bool:
        """Whether several jobs may run at the same time, on whatever threads."""
        return self._max_threads + self._spare_threads + self._max_lost_threads > 1

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread, a moment ago."""
        return len(self._jobs)

    @property
    def lost(self) -> int:
        """How many jobs were written off and still run, a moment ago."""
        return len(self._lost)

    @property
    def starved(self) -> bool:
        """Whether jobs wait because more threads wait for clients than there are spare ones."""
        return bool(self._jobs) and len(self._away) > self._spare_threads

    def running(self) -> list[Started]:
        """Return the threads that run jobs, and what they run."""
        with self._lock:
            return [now for job in self._running if (now := job.at_work()) is not None]

    def start(
        self,
        run: Callable[[], None],
        failed: Callable[[], None] = lambda: None,
        *,
        wake: bool = True,
    ) -> Job:
        """Queue ``run``, which raises nothing: the lean way in. See ``JobQueue.start``.

        Called on any thread; does not block. Raises QueueFull, or RuntimeError after ``shutdown``,
        where the system has no thread to give, and from a signal handler or a destructor that has
        interrupted the pool itself.
        """
        job = QueuedJob(self, run, failed)
        self._enqueue(job, wake)
        return job

    def wake(self) -> None:
        """See to it that queued jobs are run. Called on any thread; does not block.

        Raises RuntimeError where the system has no thread to give, and there is none yet.
        """
        with self._lock:
            self._wake_one()
            scheduling = self._scheduling
            if scheduling is not None and scheduling.is_look_due(now := time.monotonic()):
                scheduling.look(self.running(), now)

    def leave(self) -> None:
        """Stop counting the calling thread, one of the pool's. See ``Places``."""
        self._check()
        with self._lock:
            self._away.add(threading.get_ident())
            self._wake_one()

    def rejoin(self) -> None:
        """Count the calling thread again."""
        with self._lock:
            self._away.discard(threading.get_ident())
            self._dismiss_surplus()

    def stop(self, on_stopped: Callable[[], None], *, cancel: bool = False) -> None:
        """Begin to shut down; ``on_stopped()`` is called, on any thread, when no thread is left.

        With ``cancel`` the jobs that have not started are dropped. Does not block.
        """
        dropped: list[QueuedJob] = []
        # Let go of behind the lock: destructors may do anything.
        runs: list[object] = []
        self._check()
        with self._lock:
            self._closed = True
            if cancel:
                for job in self._jobs:
                    dropped.append(job)
                    runs += job.run, job.failed
                    job.run = job.failed = None
                self._jobs.clear()
            # Jobs that nobody has woken a thread for are still run.
            self._wake_one()
            for thread in self._idle:
                thread.wake()
            self._idle.clear()
            stopped = not self._living
            if not stopped:
                self._on_stopped.append(on_stopped)
        for job in dropped:
            if job.future is not None:
                job.future.cancel()
        if stopped:
            on_stopped()

    def join(self) -> None:
        """Wait until every thread has ended."""
        # Jobs that are left may start further threads while this goes on.
        while threads := self.living_threads():
            for thread in threads:
                thread.join()

    def abandon(self) -> None:
        """Take nothing any more: there are no threads. See ``forks``."""
        self._lock = make_lock()
        self.abandoned = self._closed = True
        self._jobs = deque()
        self._running = set()
        self._threads = []
        self._living, self._away, self._lost, self._idle = set(), set(), set(), {}
        self._on_stopped = []

    def living_threads(self) -> list[threading.Thread]:
        """Return the threads that were started and have not ended."""
        with self._lock:
            return [thread for thread in self._threads if thread.is_alive()]

    def _check(self) -> None:
        """Raise RuntimeError in the middle of another call on the same thread. See ``locks``."""
        if self._lock._is_owned():
            raise reentered("the thread pool")

    def _room(self) -> int:
        """Return how many more jobs may run. The lock is held."""
        room = self._max_threads - len(self._running)
        if self._away:
            room += min(len(self._away), self._spare_threads)
        if self._lost:
            room += min(len(self._lost), self._max_lost_threads)
        return room

    def _enqueue(self, job: QueuedJob, wake: bool) -> None:
        self._check()
        with self._lock:
            if self.abandoned:
                raise RuntimeError(f"{forks.NOT_HERE} the thread pool; make another one")
            if self._closed:
                raise RuntimeError("the thread pool is shut down")
            waiting = len(self._jobs)
            # Free threads matter only where that alone would be too many.
            if waiting >= self._queue_size and waiting >= self._queue_size + max(self._room(), 0):
                raise QueueFull(f"{counted(waiting, 'job')} in the queue already")
            self._jobs.append(job)
            if wake:
                try:
                    self._wake_one()
                except BaseException:
                    self._jobs.remove(job)
                    raise

    def _wake_one(self) -> None:
        """Wake a thread, or start one, unless one is on its way. The lock is held."""
        if self._waking is not None or not self._jobs or self._room() <= 0:
            return
        if self._idle:
            thread = next(reversed(self._idle))
            thread.wake()
            self._waking = thread
            del self._idle[thread]
        elif len(self._jobs) + len(self._running) > len(self._living):
            self._start_thread()

    def _start_thread(self) -> None:
        """Start a thread, or raise where there is none to do without it. The lock is held."""
        thread = PoolThread(self._work, f"{self._name}-{next(self._numbers)}")
        self._threads = [old for old in self._threads if old in self._living or old.is_alive()]
        try:
            self._threads.append(thread)
            self._living.add(thread)
            self._waking = thread
            thread.start()
        except BaseException as error:
            self._waking = None
            self._living.discard(thread)
            # The threads that there are will come to the job; without any, nobody will.
            if not (self._living and isinstance(error, RuntimeError | MemoryError)):
                raise

    def _dismiss_surplus(self) -> None:
        """Let an idle thread look whether there are too many of them. The lock is held."""
        if self._idle and self._is_surplus():
            # The one that was used least recently.
            thread = next(iter(self._idle))
            thread.wake()
            del self._idle[thread]

    def _is_surplus(self) -> bool:
        """Return whether there are more threads than may run. The lock is held."""
        return len(self._living) > self._room() + len(self._running)

    def cancel_job(self, job: QueuedJob) -> bool:
        """Take a job out of the queue. See ``Job.cancel``."""
        if self._lock._is_owned():
            return False  # A destructor came into the middle of something: it may just begin.
        with self._lock:
            if job.thread is not None:
                return False
            # What it would have run is let go of behind the lock: destructors may do anything.
            let_go = job.run, job.failed
            job.run = job.failed = None
            if let_go[0] is not None:
                self._jobs.remove(job)
        return True

    def started_job(self, job: QueuedJob) -> Started | None:
        """Return which thread runs a job, or has run it. See ``Job.started``."""
        with self._lock:
            return job.taken()

    def write_off_job(self, job: QueuedJob) -> bool:
        """Stop counting a job as one that runs. See ``Job.write_off``."""
        with self._lock:
            if job not in self._running:
                return False
            self._lost.add(job)
            self._wake_one()
            return True

    def _next_job(self, thread: PoolThread) -> QueuedJob | None:
        """Take a job out of the queue, if there is one that may run. The lock is held."""
        if not self._jobs or self._room() <= 0:
            return None
        now = time.monotonic()
        # Where the delay stays high, somebody has to wait too long. The oldest have done so
        # already, and their clients may have given up; the newest can still be served in time.
        late = now - self._jobs[0].queued_at > self._queue_target
        job = self._jobs[-1 if late else 0]
        # First of all: from here on `_settle` knows of it.
        thread.job = job
        job.taken_at = now
        job.thread = thread
        self._running.add(job)
        if late:
            self._jobs.pop()
        else:
            self._jobs.popleft()
        self._wake_one()
        return job

    def _account_for(self, job: QueuedJob, thread: PoolThread) -> None:
        """Take the end of a job. The lock is held."""
        self._running.discard(job)
        self._lost.discard(job)
        if self._away:
            # It has come back from wherever it waited.
            self._away.discard(threading.get_ident())
        thread.job = None

    def _work(self, thread: PoolThread) -> None:
        try:
            self._run_jobs(thread)
        except BaseException:  # noqa: BLE001
            # The top of a thread. Somebody has raised it here from elsewhere, between two jobs.
            _log.error("The thread %s of the pool is replaced", thread.name, exc_info=True)
        finally:
            on_stopped: list[Callable[[], None]] = []
            try:
                self._settle(thread, on_stopped)
            except BaseException:  # noqa: BLE001 - once more: this must be done
                self._settle(thread, on_stopped)
        for callback in on_stopped:
            callback()

    def _settle(self, thread: PoolThread, on_stopped: list[Callable[[], None]]) -> None:
        """Settle the accounts of a thread that ends; return who has to be told of the last end.

        Whatever has ended it, and wherever. Threads in its place are started as they are needed.
        """
        with self._lock:
            self._arrive(thread)
            if (job := thread.job) is not None:
                begun = job.failed is None
                if not begun and job not in self._jobs:
                    self._jobs.appendleft(job)
                self._account_for(job, thread)
                if not begun:
                    job.thread = None
            self._living.discard(thread)
            with contextlib.suppress(RuntimeError, MemoryError):  # The next job tries again.
                self._wake_one()
            if self._closed and not self._living:
                on_stopped += self._on_stopped
                self._on_stopped = []

    def _arrive(self, thread: PoolThread) -> None:
        """Take note that a thread looks into the queue. The lock is held."""
        self._living.add(thread)
        self._idle.pop(thread, None)
        if self._waking is thread:
            self._waking = None

    def _run_jobs(self, thread: PoolThread) -> None:
        scheduling = self._scheduling
        if scheduling is not None:
            scheduling.restore_slack()  # It has that of the thread that has started it.
        has_long_slack = False
        woken = True
        while True:
            with self._lock:
                if woken:
                    self._arrive(thread)
                elif thread.job is not None:
                    self._account_for(thread.job, thread)
                job = self._next_job(thread)
                if job is None:
                    if (self._closed and not self._jobs) or self._is_surplus():
                        self._living.discard(thread)
                        return
                    self._idle[thread] = None
            woken = job is None
            if scheduling is not None and has_long_slack is not (scheduling.contended and woken):
                # A thread with a job has the usual slack, because it may compute as well.
                if has_long_slack := not has_long_slack:
                    scheduling.lengthen_slack()
                else:
                    scheduling.restore_slack()
            if job is None:
                thread.turn.acquire()
                continue
            job.execute()
