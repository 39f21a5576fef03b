"""The thread pool: a bounded queue of jobs and the threads that run them."""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from ..errors import QueueFull
from ..wording import counted
from . import forks
from .jobs import Job, Started
from .turns import Crowd, be_patient, be_punctual

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_log = logging.getLogger("aiowsgi.error")
_pool_numbers = itertools.count(1)


class _Job:
    __slots__ = ("_pool", "future", "lost", "queued_at", "run", "running", "taken_at", "taken_by")

    def __init__(self, pool: "ThreadPool", run: Callable[[], None]) -> None:
        self._pool = pool
        # None once it has ended or was cancelled: who keeps a job does not keep what it ran.
        self.run: Callable[[], None] | None = run
        self.queued_at = time.monotonic()
        # By which thread (its name, and its numbers here and in the system), and when.
        self.taken_by: tuple[str, int, int] | None = None
        self.taken_at = 0.0
        # Whether that is still at it.
        self.running = False
        # Whether it does not count any more although it runs.
        self.lost = False
        # Of a job that came through ``submit``.
        self.future: Future[Any] | None = None

    def cancel(self) -> bool:
        return self._pool._cancel(self)

    def started(self) -> Started | None:
        return self._pool._started(self)

    def write_off(self) -> bool:
        return self._pool._write_off(self)


def _started_by(job: _Job) -> Started | None:
    """Return which thread has taken a job. The lock of the pool is held."""
    if job.taken_by is None:
        return None
    name, ident, native_id = job.taken_by
    return Started(name, ident, job.taken_at, native_id)


class _Call:
    """A call whose outcome goes to a future."""

    __slots__ = ("_call", "_future", "_pool")

    def __init__(self, pool: "ThreadPool", call: Callable[[], Any], future: Future[Any]) -> None:
        self._pool = pool
        self._call = call
        self._future = future

    def __call__(self) -> None:
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = self._call()
        except BaseException as error:
            if self._pool.abandoned:
                raise
            # The caller gets it, whatever it is.
            self._future.set_exception(error)
            # The traceback knows this frame, and the future knows the traceback.
            del self
        else:
            self._future.set_result(result)


class PoolThread(threading.Thread):
    """A thread that the interpreter does not wait for at its end.

    Threads that a job starts are ordinary ones all the same: ``Thread`` takes ``daemon`` from the
    thread that starts it, and would be cut at the end of the process without a word.
    """

    _is_running_jobs = False

    @property
    def daemon(self) -> bool:  # type: ignore[override]
        """Whether the interpreter does without its end: asked before ``run``, and for children."""
        return not self._is_running_jobs

    def run(self) -> None:
        # Whether this thread is waited for has been settled when it was started.
        self._is_running_jobs = True
        super().run()


class ThreadPool(Executor):
    """A ``concurrent.futures.Executor`` with a bounded queue and daemon threads.

    Arguments: ``max_threads`` that run jobs at the same time, each started when it is first needed;
    ``queue_size``, the number of jobs that may wait while all threads are busy. A server's own pool
    also has: ``spare_threads``, how many threads that wait for clients (``leave``) are replaced;
    ``max_lost_threads``, how many that are written off are replaced; and ``queue_target``, the
    seconds that the oldest job may have waited before the newest are run first.

    One pool may serve several servers and the work of the program around them.

    Threads are woken one after the other: each that finds more than its own job in the queue wakes
    the next. Jobs that end quickly are run by few threads, which do not compete for the
    interpreter; jobs that wait bring all threads into play.
    """

    def __init__(
        self,
        max_threads: int,
        *,
        queue_size: int = 1024,
        spare_threads: int = 0,
        max_lost_threads: int = 0,
        queue_target: float = float("inf"),
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
        self._name = f"aiowsgi-{next(_pool_numbers)}"
        self._numbers = itertools.count(1)
        # Protects everything below and the state of every job. Taken by whoever submits or cancels
        # and by the threads between jobs, for a few instructions.
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._running: set[_Job] = set()
        # Those that have not ended, and some that have.
        self._threads: list[threading.Thread] = []
        self._living = 0
        # Of the running jobs: those that wait for a client, and those that were written off.
        self._away = 0
        self._lost = 0
        # One for each idle thread, which waits until it is released.
        self._idle: list[threading.Lock] = []
        self._crowd = Crowd()
        # Whether a thread was woken, or started, that has not looked into the queue yet.
        self._waking = False
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
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        with self._lock:
            return len(self._jobs)

    @property
    def lost(self) -> int:
        """How many jobs were written off and still run."""
        with self._lock:
            return self._lost

    @property
    def starved(self) -> bool:
        """Whether jobs wait because more threads wait for clients than there are spare ones."""
        with self._lock:
            return bool(self._jobs) and self._away > self._spare_threads

    @property
    def crowded(self) -> bool:
        """Whether several jobs compute, as far as is known. See ``turns``."""
        with self._lock:
            return self._crowd.computing

    def running(self) -> list[Started]:
        """Return the threads that run jobs, and what they run."""
        with self._lock:
            # A thread lets go of that without the lock, a moment before its job ends.
            return [
                started._replace(run=job.run)
                for job in self._running
                if (started := _started_by(job)) is not None
            ]

    def start(self, run: Callable[[], None], *, wake: bool = True) -> Job:
        """Queue ``run``, which raises nothing: the lean way in.

        Called on any thread; does not block. Raises QueueFull, or RuntimeError after ``shutdown``
        and where the system has no thread to give. See ``JobQueue.start`` for ``wake``.
        """
        job = _Job(self, run)
        self._enqueue(job, wake)
        return job

    def wake(self) -> None:
        """See to it that queued jobs are run. Called on any thread; does not block.

        Raises RuntimeError where the system has no thread to give, and there is none yet.
        """
        with self._lock:
            self._wake_one()
            now = time.monotonic()
            if self._crowd.is_due(now):
                self._crowd.look(self._started_jobs(), now)

    def leave(self) -> None:
        """Stop counting the calling thread, one of the pool's. See ``Places``."""
        with self._lock:
            self._away += 1
            self._wake_one()

    def rejoin(self) -> None:
        """Count the calling thread again."""
        with self._lock:
            self._away -= 1
            self._dismiss_surplus()

    def submit(
        self,
        fn: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Queue a call, as every Executor does. Raises QueueFull, or RuntimeError."""
        future: Future[Result] = Future()
        job = _Job(self, _Call(self, partial(fn, *args, **kwargs), future))
        job.future = future
        self._enqueue(job, wake=True)
        # Who cancels the future frees the place of the job.
        future.add_done_callback(lambda _: job.cancel())
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs and end the threads when they are idle. Idempotent.

        With ``wait`` it blocks until every thread has ended; ``cancel_futures`` drops the jobs
        that have not started.
        """
        self.stop(lambda: None, cancel=cancel_futures)
        if wait:
            self.join()

    def stop(self, on_stopped: Callable[[], None], *, cancel: bool = False) -> None:
        """Begin to shut down; ``on_stopped()`` is called, on any thread, when no thread is left.

        With ``cancel`` the jobs that have not started are dropped. Does not block.
        """
        dropped: list[_Job] = []
        # Let go of behind the lock: destructors may do anything.
        runs: list[Callable[[], None] | None] = []
        with self._lock:
            self._closed = True
            if cancel:
                for job in self._jobs:
                    dropped.append(job)
                    runs.append(job.run)
                    job.run = None
                self._jobs.clear()
            # Jobs that nobody has woken a thread for are still run.
            self._wake_one()
            for turn in self._idle:
                turn.release()
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
        self._lock = threading.Lock()
        self.abandoned = self._closed = True
        self._jobs = deque()
        self._running = set()
        self._threads = []
        self._living = self._away = self._lost = 0
        self._idle = []
        self._on_stopped = []

    def living_threads(self) -> list[threading.Thread]:
        """Return the threads that were started and have not ended."""
        with self._lock:
            return [thread for thread in self._threads if thread.is_alive()]

    def _started_jobs(self) -> list[Started]:
        """Return the threads that run jobs. The lock is held."""
        return [started for job in self._running if (started := _started_by(job)) is not None]

    def _room(self) -> int:
        """Return how many more jobs may run. The lock is held."""
        room = self._max_threads - len(self._running)
        if self._away:
            room += min(self._away, self._spare_threads)
        if self._lost:
            room += min(self._lost, self._max_lost_threads)
        return room

    def _enqueue(self, job: _Job, wake: bool) -> None:
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
                except RuntimeError:
                    self._jobs.remove(job)
                    raise

    def _wake_one(self) -> None:
        """Wake a thread, or start one, unless one is on its way. The lock is held."""
        if self._waking or not self._jobs or self._room() <= 0:
            return
        if self._idle:
            self._waking = True
            self._idle.pop().release()
        elif len(self._jobs) + len(self._running) > self._living:
            thread = PoolThread(target=self._work, name=f"{self._name}-{next(self._numbers)}")
            self._waking = True
            try:
                thread.start()
            except RuntimeError:
                self._waking = False
                # The threads that there are will come to the job; without any, nobody will.
                if not self._living:
                    raise
            else:
                self._living += 1
                self._threads = [old for old in self._threads if old.is_alive()]
                self._threads.append(thread)

    def _dismiss_surplus(self) -> None:
        """Let an idle thread look whether there are too many of them. The lock is held."""
        if self._idle and self._is_surplus():
            # The one that was used least recently.
            self._idle.pop(0).release()

    def _is_surplus(self) -> bool:
        """Return whether there are more threads than may run. The lock is held."""
        return self._living > self._room() + len(self._running)

    def _cancel(self, job: _Job) -> bool:
        with self._lock:
            if job.taken_by is not None:
                return False
            # What it would have run is let go of behind the lock: destructors may do anything.
            run, job.run = job.run, None
            if run is not None:
                self._jobs.remove(job)
        return True

    def _started(self, job: _Job) -> Started | None:
        with self._lock:
            return _started_by(job)

    def _write_off(self, job: _Job) -> bool:
        with self._lock:
            if not job.running:
                return False
            if not job.lost:
                job.lost = True
                self._lost += 1
                self._wake_one()
            return True

    def _next_job(self, taken_by: tuple[str, int, int]) -> _Job | None:
        """Take a job out of the queue, if there is one that may run. The lock is held."""
        if not self._jobs or self._room() <= 0:
            return None
        now = time.monotonic()
        # Where the delay stays high, somebody has to wait too long. The oldest have done so
        # already, and their clients may have given up; the newest can still be served in time.
        late = now - self._jobs[0].queued_at > self._queue_target
        job = self._jobs.pop() if late else self._jobs.popleft()
        job.taken_by = taken_by
        job.taken_at = now
        job.running = True
        self._running.add(job)
        self._wake_one()
        return job

    def _account_for(self, job: _Job) -> None:
        """Take the end of a job. The lock is held."""
        job.running = False
        self._running.discard(job)
        if job.lost:
            self._lost -= 1

    def _work(self) -> None:
        me = threading.current_thread().name, threading.get_ident(), threading.get_native_id()
        # Released to wake this thread: by whoever queues a job, by another thread, or by `stop`.
        turn = threading.Lock()
        turn.acquire()
        # Threads begin as patient as the one that starts them.
        be_punctual()
        patient = False
        job: _Job | None = None
        woken = True
        while True:
            with self._lock:
                if job is not None:
                    self._account_for(job)
                if woken:
                    self._waking = False
                job = self._next_job(me)
                if job is None:
                    if (self._closed and not self._jobs) or self._is_surplus():
                        self._living -= 1
                        over = self._closed and not self._living
                        on_stopped = self._on_stopped if over else []
                        break
                    self._idle.append(turn)
                crowded = self._crowd.computing
            woken = job is None
            if patient is not (crowded and woken):
                # A thread with a job has its turns like all others, for it may compute as well.
                if patient := not patient:
                    be_patient(True)
                else:
                    be_punctual()
            if job is None:
                turn.acquire()
                continue
            run, job.future = job.run, None
            assert run is not None  # It was neither run nor cancelled before.
            try:
                run()
            except BaseException as error:  # noqa: BLE001
                if self.abandoned:
                    forks.leave(error)
                # The top of a thread: jobs raise nothing, so this is a defect, and is not hidden.
                _log.critical("A job of the thread pool failed", exc_info=True)
            job.run = None
            del run
            if self.abandoned:
                forks.leave(None)
        for callback in on_stopped:
            callback()
