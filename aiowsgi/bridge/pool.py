"""The thread pool: a bounded queue of jobs and the threads that run them."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from ..errors import QueueFull

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_log = logging.getLogger("aiowsgi.error")
_pool_numbers = itertools.count(1)


class Cancellable(Protocol):
    """A job in the queue of a pool."""

    def cancel(self) -> bool:
        """Take the job out of the queue. Return False if it runs, or has run."""


class JobQueue(Protocol):
    """What a server needs of a pool."""

    @property
    def threads(self) -> int:
        """How many jobs may run at the same time."""

    def start(self, run: Callable[[], None], *, wake: bool) -> Cancellable:
        """Queue ``run``, which raises nothing. Raises QueueFull.

        Without ``wake`` the job may stay in the queue until ``wake`` is called: a caller that
        queues several jobs in a row does that once.
        """

    def wake(self) -> None:
        """See to it that queued jobs are run."""

    def stop(self, on_stopped: Callable[[], None], *, cancel: bool) -> None:
        """Take no more jobs; ``on_stopped()`` is called, on any thread, when none runs any more.

        With ``cancel`` the jobs that have not started are dropped. Does not block.
        """

    def join(self) -> None:
        """Wait for threads that are about to end, behind ``on_stopped``."""

    def describe_busy(self) -> str:
        """Return what still runs, for a message."""


class _Job:
    __slots__ = ("_pool", "future", "run", "started")

    def __init__(self, pool: "ThreadPool", run: Callable[[], None]) -> None:
        self._pool = pool
        # None once it has begun or was cancelled: who keeps a job does not keep what it ran.
        self.run: Callable[[], None] | None = run
        self.started = False
        # Of a job that came through ``submit``.
        self.future: Future[Any] | None = None

    def cancel(self) -> bool:
        return self._pool._cancel(self)


class _Call:
    """A call whose outcome goes to a future."""

    __slots__ = ("_call", "_future")

    def __init__(self, call: Callable[[], Any], future: Future[Any]) -> None:
        self._call = call
        self._future = future

    def __call__(self) -> None:
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = self._call()
        except BaseException as error:  # noqa: BLE001 - the caller gets it, whatever it is
            self._future.set_exception(error)
            # The traceback knows this frame, and the future knows the traceback.
            del self
        else:
            self._future.set_result(result)


class ThreadPool(Executor):
    """A ``concurrent.futures.Executor`` with a bounded queue and daemon threads.

    Arguments: ``max_threads`` that run jobs at the same time, each started when it is first needed;
    ``queue_size``, the number of jobs that may wait while all threads are busy.

    One pool may serve several servers and the work of the program around them.

    Threads are woken one after the other: each that finds more than its own job in the queue wakes
    the next. Jobs that end quickly are run by few threads, which do not compete for the
    interpreter; jobs that wait bring all threads into play.
    """

    def __init__(self, max_threads: int, *, queue_size: int = 1024) -> None:
        if max_threads < 1:
            raise ValueError("max_threads must be at least 1")
        if queue_size < 0:
            raise ValueError("queue_size must be at least 0")
        self._max_threads = max_threads
        self._max_unfinished = max_threads + queue_size
        self._name = f"aiowsgi-{next(_pool_numbers)}"
        # Protects everything below and the state of every job. Taken by whoever submits or cancels
        # and by the threads between jobs, for a few instructions.
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        # All that were started: a thread ends only when the pool does.
        self._threads: list[threading.Thread] = []
        self._ended = 0
        # One for each idle thread, which waits until it is released.
        self._idle: list[threading.Lock] = []
        # Whether a thread was woken, or started, that has not looked into the queue yet.
        self._waking = False
        self._unfinished = 0  # Jobs that wait or run.
        self._closed = False
        self._on_stopped: list[Callable[[], None]] = []

    @property
    def threads(self) -> int:
        """How many jobs may run at the same time."""
        return self._max_threads

    def start(self, run: Callable[[], None], *, wake: bool = True) -> Cancellable:
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

    def submit(
        self,
        fn: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Queue a call, as every Executor does. Raises QueueFull, or RuntimeError."""
        future: Future[Result] = Future()
        job = _Job(self, _Call(partial(fn, *args, **kwargs), future))
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
                self._unfinished -= len(dropped)
            # Jobs that nobody has woken a thread for are still run.
            self._wake_one()
            for turn in self._idle:
                turn.release()
            self._idle.clear()
            stopped = self._ended == len(self._threads)
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
        for thread in self._threads:
            thread.join()

    def describe_busy(self) -> str:
        """Return the names of the threads that have not ended."""
        return ", ".join(thread.name for thread in self.living_threads())

    def living_threads(self) -> list[threading.Thread]:
        """Return the threads that were started and have not ended."""
        return [thread for thread in self._threads if thread.is_alive()]

    def _enqueue(self, job: _Job, wake: bool) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the thread pool is shut down")
            if self._unfinished >= self._max_unfinished:
                raise QueueFull(f"{self._unfinished} jobs wait or run already")
            self._unfinished += 1
            self._jobs.append(job)
            if wake:
                try:
                    self._wake_one()
                except RuntimeError:
                    self._jobs.remove(job)
                    self._unfinished -= 1
                    raise

    def _wake_one(self) -> None:
        """Wake a thread, or start one, unless one is on its way. The lock is held."""
        if self._waking or not self._jobs:
            return
        if self._idle:
            self._waking = True
            self._idle.pop().release()
        elif self._unfinished > len(self._threads) < self._max_threads:
            thread = threading.Thread(
                target=self._work, name=f"{self._name}-{len(self._threads) + 1}", daemon=True
            )
            self._waking = True
            try:
                thread.start()
            except RuntimeError:
                self._waking = False
                # The threads that there are will come to the job; without any, nobody will.
                if not self._threads:
                    raise
            else:
                self._threads.append(thread)

    def _cancel(self, job: _Job) -> bool:
        with self._lock:
            if job.started:
                return False
            # What it would have run is let go of behind the lock: destructors may do anything.
            run, job.run = job.run, None
            if run is not None:
                self._jobs.remove(job)
                self._unfinished -= 1
        return True

    def _next_job(self) -> Callable[[], None] | None:
        """Take a job out of the queue, if there is one. The lock is held."""
        if not self._jobs:
            return None
        job = self._jobs.popleft()
        job.started = True
        run, job.run, job.future = job.run, None, None
        self._wake_one()
        return run

    def _work(self) -> None:
        # Released to wake this thread: by whoever queues a job, by another thread, or by `stop`.
        turn = threading.Lock()
        turn.acquire()
        woken = True
        finished = 0
        while True:
            with self._lock:
                self._unfinished -= finished
                if woken:
                    self._waking = False
                run = self._next_job()
                if run is None:
                    if self._closed:
                        break
                    self._idle.append(turn)
            finished = 0
            woken = run is None
            if run is None:
                turn.acquire()
                continue
            try:
                run()
            except BaseException:  # noqa: BLE001
                # The top of a thread: jobs raise nothing, so this is a defect, and is not hidden.
                _log.critical("A job of the thread pool failed", exc_info=True)
            del run
            finished = 1
        with self._lock:
            self._ended += 1
            on_stopped = self._on_stopped if self._ended == len(self._threads) else []
        for callback in on_stopped:
            callback()


class ForeignPool:
    """The share of one server in an ``Executor`` that belongs to somebody else.

    Arguments: the executor, which is never shut down here, and ``queue_size``, the number of jobs
    that may wait in it.
    """

    def __init__(self, executor: Executor, *, queue_size: int) -> None:
        self._executor = executor
        self._queue_size = queue_size
        # Protects everything below. Taken to start, cancel and stop on the loop thread, and by the
        # executor's threads around each job.
        self._lock = threading.Lock()
        self._waiting: set[Future[None]] = set()
        self._running = 0
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

    def start(self, run: Callable[[], None], *, wake: bool = True) -> Cancellable:
        """Queue ``run``. Raises QueueFull, or RuntimeError once the executor is shut down."""
        # Carries the job's state: the executor's own future comes too late, for the job may have
        # begun by then.
        future: Future[None] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the server is stopped")
            # One that was handed over a moment ago still counts, so an empty queue takes one more.
            if len(self._waiting) > self._queue_size:
                raise QueueFull(f"{len(self._waiting)} jobs wait already")
            self._waiting.add(future)
        try:
            outer = self._executor.submit(self._run, run, future)
        except BaseException:
            self._drop(future)
            raise
        outer.add_done_callback(lambda outer: self._on_done(outer, future))
        return _ForeignJob(future, self._drop)

    def wake(self) -> None:
        """Do nothing: an executor wakes its threads itself."""

    def stop(self, on_stopped: Callable[[], None], *, cancel: bool) -> None:
        """Begin to stop. See ``JobQueue.stop``."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting) if cancel else []
            self._on_stopped.append(on_stopped)
        for future in waiting:
            future.cancel()
            self._drop(future)
        self._look()

    def join(self) -> None:
        """Do nothing: the threads are the executor's."""

    def describe_busy(self) -> str:
        """Return how many requests still run."""
        return f"{self._running} requests in {self._executor!r}"

    def _run(self, run: Callable[[], None], future: Future[None]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        with self._lock:
            self._waiting.discard(future)
            self._running += 1
        try:
            run()
        finally:
            with self._lock:
                self._running -= 1
            self._look()

    def _on_done(self, outer: Future[None], future: Future[None]) -> None:
        """Find out that the executor is through with a job, and has perhaps never begun it."""
        error = None if outer.cancelled() else outer.exception()
        if future.cancel():
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
    __slots__ = ("_future", "_on_cancelled")

    def __init__(self, future: Future[None], on_cancelled: Callable[[Future[None]], None]) -> None:
        self._future = future
        self._on_cancelled = on_cancelled

    def cancel(self) -> bool:
        if not self._future.cancel():
            return False
        self._on_cancelled(self._future)
        return True
