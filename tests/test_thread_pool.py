"""The thread pool. In memory. Other executors in its place: ``test_executor_queue``.

Jobs say when they begin and end when they are told to. What a pool's threads do behind the end of
a job is awaited through the pool's lock, which is replaced by one that tells when it was released.
"""

import asyncio
import functools
import gc
import logging
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import (
    CancelledError,
    Executor,
    ThreadPoolExecutor,
    as_completed,
)
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from textwrap import dedent
from typing import Any

import pytest
from extent import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from thread_waits import StillClock

from aiowsgi.bridge.locks import make_lock
from aiowsgi.bridge.pool import job_pool as pool_module
from aiowsgi.bridge.pool import threads as threads_module
from aiowsgi.bridge.pool.jobs import Job as Handle
from aiowsgi.bridge.pool.jobs import JobThread
from aiowsgi.bridge.pool.thread_pool import ThreadPool
from aiowsgi.errors import QueueFull

# Fail-safe only: no wait of these tests is meant to last.
TIMEOUT = 20.0

real_start = threading.Thread.start

# One job is stuck when the process ends; another one has started a thread that is still at work.
LEAVING = """
    import threading
    from aiowsgi.bridge.pool.thread_pool import ThreadPool

    def work():
        threading.main_thread().join()
        print("child")

    pool = ThreadPool(2)
    pool.submit(threading.Event().wait)
    pool.submit(lambda: threading.Thread(target=work).start()).result()
    print("main")
"""


class TellingLock:
    """A lock that tells when it was released."""

    def __init__(self) -> None:
        self._lock = make_lock()
        self._released = threading.Condition()
        # Called once, by the thread that releases the lock next.
        self.at_release: Callable[[], None] | None = None

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        # Before the release: behind it the next thread may come here first.
        hook, self.at_release = self.at_release, None
        self._lock.__exit__()
        if hook is not None:
            hook()
        with self._released:
            self._released.notify_all()

    def _is_owned(self) -> bool:
        return self._lock._is_owned()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._released:
            assert self._released.wait_for(condition, TIMEOUT)


class Job:
    """A job that tells when it begins, does what it is told, and ends when it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.started = threading.Event()
        self.thread = ""
        self._orders: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __call__(self) -> None:
        self.runs += 1
        self.thread = threading.current_thread().name
        self.started.set()
        while (order := self._orders.get(timeout=TIMEOUT)) is not None:
            order()
            self._done.put(None)

    def wait_started(self) -> "Job":
        assert self.started.wait(TIMEOUT)
        return self

    def do(self, order: Callable[[], object]) -> None:
        """Have the job's thread call something, and wait until it has done so."""
        self._orders.put(order)
        self._done.get(timeout=TIMEOUT)

    def end(self) -> None:
        self._orders.put(None)


class Watched:
    """A ThreadPool, what was made for it, and its end."""

    def __init__(self, max_threads: int, **options: Any) -> None:
        self.pool = ThreadPool(max_threads, **options)
        self.lock = TellingLock()
        self.pool._lock = self.lock  # type: ignore[assignment]
        self.jobs: list[Job] = []

    def start(self, *, wake: bool = True) -> tuple[Job, Handle]:
        """Queue a job."""
        job = Job()
        handle = self.pool.enqueue(job, wake=wake)
        self.jobs.append(job)
        return job, handle

    def busy(self, count: int = 1) -> list[Job]:
        """Occupy threads."""
        return [self.start()[0].wait_started() for _ in range(count)]

    def settle(self, unfinished: int = 0) -> None:
        """Wait until every thread has accounted for the job that it ended, and none is on its way.

        ``unfinished`` jobs are left then. A thread that does not wait to be woken yet could take a
        job that is queued next, although the pool is not woken for it. So could one that is woken
        by a thread at its end, which is not counted as living any more.
        """
        pool = self.pool

        def is_settled() -> bool:
            return (
                len(pool._jobs) + len(pool._running) == unfinished
                and pool._waking is None
                and len(pool._running) + len(pool._idle) == len(pool._living)
            )

        self.lock.wait_until(is_settled)
        stay = {notes.thread for notes in list(pool._living)}
        for thread in set(pool.living_threads()) - stay:
            thread.join(TIMEOUT)
        self.lock.wait_until(is_settled)

    @property
    def threads(self) -> int:
        return len(self.pool.living_threads())

    def settle_threads(self, living: int) -> None:
        """Wait until so many threads are left that have not made up their mind to end."""
        self.lock.wait_until(lambda: len(self.pool._living) == living)

    def join(self) -> None:
        """Wait until no thread is left: each tells of its end a moment before."""
        for thread in self.pool.living_threads():
            thread.join(TIMEOUT)
        assert self.threads == 0

    def end(self) -> None:
        threads = self.pool.living_threads()
        self.pool.stop(lambda: None, cancel=True)
        for job in self.jobs:
            job.end()
        for thread in threads:
            if thread.ident is not None:
                thread.join(TIMEOUT)
                assert not thread.is_alive(), "a thread of the pool does not end"


MakePool = Callable[..., Watched]


@pytest.fixture
def make() -> Iterator[MakePool]:
    """Return ``make(max_threads, queue_size=...)``; the pools are stopped after the test."""
    made: list[Watched] = []

    def make(max_threads: int, **options: Any) -> Watched:
        made.append(Watched(max_threads, **options))
        return made[-1]

    yield make
    for watched in made:
        watched.end()


@pytest.fixture
def start_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return ``start_fails(yes)``: whether the system has no thread to give."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def set_fails(yes: bool) -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse if yes else real_start)

    return set_fails


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    """The clock of the pools that are made in the test."""
    if str(pool_module.__file__).endswith(tuple(EXTENSION_SUFFIXES)):
        pytest.skip("a compiled pool has looked its clock up")
    clock = StillClock()
    monkeypatch.setattr(pool_module, "time", clock)
    monkeypatch.setattr(threads_module, "time", clock)
    return clock


# As an executor: the same as concurrent.futures.ThreadPoolExecutor.


@pytest.fixture(params=[ThreadPool, ThreadPoolExecutor])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    executor: Executor = request.param(2)
    run_on_both_threads(executor)
    yield executor
    executor.shutdown()


def run_on_both_threads(executor: Executor) -> None:
    barrier = threading.Barrier(2)
    for future in [executor.submit(barrier.wait, TIMEOUT) for _ in range(2)]:
        future.result(TIMEOUT)


class TestExecutor:
    def test_is_an_executor(self, executor: Executor) -> None:
        assert isinstance(executor, Executor)

    def test_submit_passes_arguments_and_returns_the_result(self, executor: Executor) -> None:
        def call(*args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
            return args, kwargs

        # Names of parameters of ``submit`` itself are free for the call.
        future = executor.submit(call, 1, 2, fn=3, self=4)
        assert future.result(TIMEOUT) == ((1, 2), {"fn": 3, "self": 4})
        assert future.done()

    @pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_what_the_call_raises_goes_to_the_future_and_not_to_the_thread(
        self, executor: Executor, error: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise error("on purpose")

        for _ in range(5):
            assert isinstance(executor.submit(fail).exception(TIMEOUT), error)
        assert executor.submit(int).result(TIMEOUT) == 0
        assert not caplog.records

    def test_a_future_tells_that_it_runs_and_is_not_cancelled_then(
        self, executor: Executor
    ) -> None:
        job = Job()
        future = executor.submit(job)
        job.wait_started()
        assert future.running()
        assert not future.cancel()
        job.end()
        assert future.result(TIMEOUT) is None

    def test_a_future_that_was_cancelled_in_the_queue_does_not_run(
        self, executor: Executor
    ) -> None:
        blockers = [Job(), Job()]
        blocked = [executor.submit(job) for job in blockers]
        job = Job()
        future = executor.submit(job)
        assert future.cancel()
        for blocker in blockers:
            blocker.end()
        for one in blocked:
            one.result(TIMEOUT)
        executor.shutdown()
        assert future.cancelled()
        assert job.runs == 0
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)

    def test_map_keeps_the_order(self, executor: Executor) -> None:
        assert list(executor.map(pow, range(50), [2] * 50)) == [n * n for n in range(50)]

    def test_map_raises_what_a_call_raised_in_its_place(self, executor: Executor) -> None:
        results = executor.map(lambda n: 6 // n, [1, 2, 0, 3])
        assert next(results) == 6
        assert next(results) == 3
        with pytest.raises(ZeroDivisionError):
            next(results)

    def test_as_completed_gets_every_future(self, executor: Executor) -> None:
        futures = [executor.submit(pow, n, 2) for n in range(20)]
        done = [future.result() for future in as_completed(futures, TIMEOUT)]
        assert sorted(done) == [n * n for n in range(20)]

    def test_leaving_the_block_waits_for_the_jobs(self, executor: Executor) -> None:
        with executor as entered:
            assert entered is executor
            futures = [executor.submit(pow, n, 2) for n in range(20)]
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError, match="shut"):
            executor.submit(int)

    def test_shutdown_without_waiting_returns_while_jobs_run_and_lets_the_others_run(
        self, executor: Executor
    ) -> None:
        jobs = [Job() for _ in range(4)]
        futures = [executor.submit(job) for job in jobs]
        jobs[0].wait_started()
        executor.shutdown(wait=False)
        assert not any(future.done() for future in futures)
        with pytest.raises(RuntimeError, match="shut"):
            executor.submit(int)
        for job in jobs:
            job.end()
        executor.shutdown(wait=True)
        assert [job.runs for job in jobs] == [1] * 4
        assert all(future.done() for future in futures)

    def test_shutdown_can_cancel_what_waits(self, executor: Executor) -> None:
        running, waiting = [Job(), Job()], [Job(), Job()]
        first = [executor.submit(job) for job in running]
        for job in running:
            job.wait_started()
        second = [executor.submit(job) for job in waiting]
        executor.shutdown(wait=False, cancel_futures=True)
        assert [future.cancelled() for future in first + second] == [False] * 2 + [True] * 2
        for job in running:
            job.end()
        executor.shutdown()
        assert [future.exception() for future in first] == [None, None]
        assert [job.runs for job in waiting] == [0, 0]

    def test_a_later_shutdown_can_still_cancel(self, executor: Executor) -> None:
        running = [Job(), Job()]
        for job in running:
            executor.submit(job)
            job.wait_started()
        waiting = Job()
        future = executor.submit(waiting)
        executor.shutdown(wait=False)
        assert not future.cancelled()
        executor.shutdown(wait=False, cancel_futures=True)
        assert future.cancelled()
        for job in running:
            job.end()
        executor.shutdown()
        assert waiting.runs == 0

    def test_shutdown_is_idempotent(self, executor: Executor) -> None:
        executor.submit(int).result(TIMEOUT)
        for _ in range(3):
            executor.shutdown()

    @pytest.mark.parametrize("make_executor", [ThreadPool, ThreadPoolExecutor])
    def test_shutdown_of_an_executor_that_did_nothing(
        self, make_executor: Callable[[int], Executor]
    ) -> None:
        executor = make_executor(2)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="shut"):
            executor.submit(int)

    async def test_serves_an_event_loop(self, executor: Executor) -> None:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, pow, n, 2) for n in range(10)]
        assert await asyncio.gather(*calls) == [n * n for n in range(10)]

    def test_a_result_and_an_exception_are_not_kept_by_the_thread(self, executor: Executor) -> None:
        class Argument:
            pass

        def fail(argument: Argument) -> None:
            raise ValueError

        def submit(call: Callable[[Argument], Any]) -> weakref.ref[Argument]:
            argument = Argument()
            executor.submit(call, argument).exception(TIMEOUT)
            return weakref.ref(argument)

        gc.collect()
        gc.disable()
        try:
            kept = {"result": submit(lambda argument: None), "exception": submit(fail)}
            # The threads that ran the jobs keep no reference to them when they run other jobs.
            run_on_both_threads(executor)
            assert {name for name, ref in kept.items() if ref() is not None} == set()
        finally:
            gc.enable()


# What a ThreadPool has beyond that.


class TestThreads:
    def test_what_has_ended_is_not_left_to_the_garbage_collector(self) -> None:
        gc.collect()
        gc.disable()
        try:
            notes = threads_module.ThreadNotes(lambda _: None, "some-thread")
            notes.thread.start()
            notes.thread.join(TIMEOUT)
            thread = weakref.ref(notes.thread)
            del notes
            assert thread() is None
        finally:
            gc.enable()

    def test_none_is_started_before_there_is_a_job(self, make: MakePool) -> None:
        assert make(4).threads == 0

    def test_one_is_started_for_each_job_that_finds_none_idle_up_to_the_limit(
        self, make: MakePool
    ) -> None:
        watched = make(3)
        for expected in (1, 2, 3):
            watched.start()[0].wait_started()
            assert watched.threads == expected
        for _ in range(5):
            watched.start()
        assert watched.threads == 3
        assert watched.pool.threads == 3

    def test_an_idle_one_is_used_before_another_is_started(self, make: MakePool) -> None:
        watched = make(4)
        names = set()
        for _ in range(5):
            (job,) = watched.busy()
            job.end()
            watched.settle()
            names.add(job.thread)
        assert watched.threads == 1
        assert len(names) == 1

    def test_as_many_as_are_idle_are_used(self, make: MakePool) -> None:
        watched = make(4)
        for job in watched.busy(2):
            job.end()
        watched.settle()
        watched.busy(2)
        assert watched.threads == 2
        watched.busy(1)
        assert watched.threads == 3

    def test_have_names_of_their_own(self, make: MakePool) -> None:
        pools = [make(2), make(2)]
        for watched in pools:
            watched.busy(2)
        threads = [thread for watched in pools for thread in watched.pool.living_threads()]
        assert len({thread.name for thread in threads}) == 4
        assert all(thread.name.startswith("aiowsgi-") for thread in threads)

    def test_are_not_inherited_from_as_threads_of_an_application_end_with_their_work(
        self, make: MakePool
    ) -> None:
        found = make(1).pool.submit(lambda: threading.Thread().daemon)
        assert found.result(TIMEOUT) is False

    def test_do_not_keep_the_process_but_threads_that_their_jobs_start_do(self) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", dedent(LEAVING)],
            capture_output=True,
            text=True,
            timeout=2 * TIMEOUT,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("main\nchild\n", "", 0)

    def test_there_must_be_one(self) -> None:
        with pytest.raises(ValueError, match="max_threads"):
            ThreadPool(0)

    def test_jobs_run_in_the_order_of_the_queue(self, make: MakePool) -> None:
        watched = make(1)
        (blocker,) = watched.busy()
        order: list[int] = []
        for number in range(10):
            watched.pool.enqueue(lambda number=number: order.append(number))  # type: ignore[misc]
        blocker.end()
        watched.settle()
        assert order == list(range(10))

    def test_survive_a_job_that_raises(
        self, make: MakePool, caplog: pytest.LogCaptureFixture
    ) -> None:
        watched = make(1)
        names: list[str] = []

        def fail() -> None:
            names.append(threading.current_thread().name)
            raise SystemExit("on purpose")

        watched.pool.enqueue(fail)
        watched.settle()
        (job,) = watched.busy()
        assert names == [job.thread]
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("aiowsgi.error", logging.CRITICAL)
        assert record.exc_info is not None
        assert record.exc_info[0] is SystemExit


class TestWaking:
    def test_a_job_may_wait_until_the_pool_is_woken(self, make: MakePool) -> None:
        watched = make(2)
        job, _ = watched.start(wake=False)
        assert watched.threads == 0
        assert job.runs == 0
        watched.pool.wake()
        job.wait_started()

    def test_with_nothing_queued_starts_no_thread(self, make: MakePool) -> None:
        watched = make(2)
        watched.pool.wake()
        assert watched.threads == 0

    def test_one_wake_up_brings_a_thread_to_each_job(self, make: MakePool) -> None:
        watched = make(3)
        jobs = [watched.start(wake=False)[0] for _ in range(5)]
        watched.pool.wake()
        for job in jobs[:3]:
            job.wait_started()
        assert watched.threads == 3
        assert [job.runs for job in jobs] == [1, 1, 1, 0, 0]

    def test_one_wake_up_brings_the_idle_threads_before_new_ones(self, make: MakePool) -> None:
        watched = make(4)
        for job in watched.busy(3):
            job.end()
        watched.settle()
        jobs = [watched.start(wake=False)[0] for _ in range(3)]
        watched.pool.wake()
        for job in jobs:
            job.wait_started()
        assert watched.threads == 3

    def test_a_thread_that_ends_a_job_needs_no_wake_up(self, make: MakePool) -> None:
        watched = make(1)
        (running,) = watched.busy()
        waiting, _ = watched.start(wake=False)
        running.end()
        waiting.wait_started()

    def test_no_second_thread_is_woken_while_one_is_on_its_way(
        self, make: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_their_way: list[threading.Thread] = []
        monkeypatch.setattr(threading.Thread, "start", lambda thread: on_their_way.append(thread))
        watched = make(4)
        jobs = [watched.start()[0] for _ in range(3)]
        watched.pool.wake()
        assert len(on_their_way) == 1
        # It arrives, and wakes the next before it begins its job.
        monkeypatch.setattr(threading.Thread, "start", real_start)
        on_their_way[0].start()
        for job in jobs:
            job.wait_started()
        assert watched.threads == 3

    def test_only_cancelled_jobs_in_the_queue_do_no_harm(self, make: MakePool) -> None:
        watched = make(2)
        for job in watched.busy(2):
            job.end()
        watched.settle()
        cancelled, handle = watched.start(wake=False)
        assert handle.cancel()
        watched.pool.wake()
        watched.settle()
        watched.busy(2)
        assert cancelled.runs == 0


class TestBound:
    def test_more_than_threads_and_queue_hold_are_refused(self, make: MakePool) -> None:
        watched = make(2, queue_size=3)
        running = watched.busy(2)
        for _ in range(3):
            watched.start()
        for _ in range(2):
            with pytest.raises(QueueFull, match="3 jobs"):
                watched.pool.enqueue(Job())
            with pytest.raises(QueueFull):
                watched.pool.submit(int)
        running[0].end()
        watched.settle(4)
        watched.start()
        with pytest.raises(QueueFull):
            watched.pool.enqueue(Job())

    def test_a_queue_of_none_takes_as_many_as_there_are_threads(self, make: MakePool) -> None:
        watched = make(2, queue_size=0)
        watched.busy(2)
        with pytest.raises(QueueFull):
            watched.pool.enqueue(Job())

    def test_a_job_that_was_refused_never_runs(self, make: MakePool) -> None:
        watched = make(1, queue_size=0)
        (running,) = watched.busy()
        refused = Job()
        with pytest.raises(QueueFull):
            watched.pool.enqueue(refused)
        running.end()
        watched.settle()
        watched.busy()
        assert refused.runs == 0

    def test_map_is_bounded_too(self, make: MakePool) -> None:
        watched = make(1, queue_size=2)
        watched.busy()
        with pytest.raises(QueueFull):
            watched.pool.map(int, range(3))


class TestCancelling:
    def test_a_waiting_job_is_taken_out_and_frees_its_place(self, make: MakePool) -> None:
        watched = make(1, queue_size=1)
        (running,) = watched.busy()
        for _ in range(3):
            waiting, handle = watched.start()
            with pytest.raises(QueueFull):
                watched.pool.enqueue(Job())
            assert handle.cancel()
        last, _ = watched.start()
        running.end()
        last.wait_started()
        assert waiting.runs == 0

    def test_a_running_or_finished_job_is_not_cancelled(self, make: MakePool) -> None:
        watched = make(1)
        job, handle = watched.start()
        job.wait_started()
        assert not handle.cancel()
        job.end()
        watched.settle()
        assert not handle.cancel()
        assert job.runs == 1
        assert not watched.pool._jobs
        assert not watched.pool._running

    def test_cancelling_again_frees_no_second_place(self, make: MakePool) -> None:
        watched = make(1, queue_size=2)
        watched.busy()
        _, first = watched.start()
        watched.start()
        first.cancel()
        first.cancel()
        watched.start()
        with pytest.raises(QueueFull):
            watched.pool.enqueue(Job())

    def test_a_cancelled_job_holds_on_to_nothing(self, make: MakePool) -> None:
        watched = make(1)
        watched.busy()

        def run() -> None:
            pass

        handle = watched.pool.enqueue(run)
        ref = weakref.ref(run)
        del run
        assert ref() is not None
        assert handle.cancel()
        assert ref() is None

    def test_a_job_that_has_run_holds_on_to_nothing(self, make: MakePool) -> None:
        # A request that knows its job would be part of a cycle, and live until it is collected.
        watched = make(1)

        def run() -> None:
            pass

        handle = watched.pool.enqueue(run)
        ref = weakref.ref(run)
        del run
        watched.settle()
        watched.busy()  # The thread has let go of it, too.
        assert not handle.cancel()
        assert ref() is None

    def test_cancelled_jobs_do_not_pile_up_while_all_threads_are_busy(self, make: MakePool) -> None:
        # Clients that come and leave while the application is stuck.
        watched = make(1, queue_size=2)
        watched.busy()
        for _ in range(50):
            assert watched.pool.enqueue(Job(), wake=False).cancel()
        assert len(watched.pool._jobs) <= 2

    def test_a_job_that_somebody_else_cancelled_is_not_said_to_run(self, make: MakePool) -> None:
        # The program around the server shuts the shared pool down; the server, which waits for its
        # turn, asks whether the application runs.
        watched = make(1)
        watched.busy()
        _, handle = watched.start()
        watched.pool.shutdown(wait=False, cancel_futures=True)
        assert handle.cancel()

    def test_a_cancelled_future_frees_its_place(self, make: MakePool) -> None:
        watched = make(1, queue_size=1)
        watched.busy()
        assert watched.pool.submit(int).cancel()
        watched.pool.submit(int)

    def test_no_destructor_of_the_application_runs_under_the_lock(self, make: MakePool) -> None:
        # One that used the pool would wait for itself for ever.
        watched = make(1)
        watched.busy()
        locked: list[bool] = []

        class Argument:
            def __del__(self) -> None:
                locked.append(watched.lock._is_owned())

        watched.pool.submit(id, Argument())
        watched.pool.shutdown(wait=False, cancel_futures=True)
        assert locked == [False]


class TestStopping:
    def test_without_threads_it_is_over_at_once(self, make: MakePool) -> None:
        calls: list[str] = []
        pool = make(2).pool
        pool.stop(lambda: calls.append("first"))
        pool.stop(lambda: calls.append("second"))
        assert calls == ["first", "second"]

    def test_a_job_that_nobody_has_woken_runs_before_it_is_over(self, make: MakePool) -> None:
        watched = make(2)
        job, _ = watched.start(wake=False)
        job.end()
        stopped = threading.Event()
        watched.pool.stop(stopped.set)
        assert stopped.wait(TIMEOUT)
        assert job.runs == 1

    def test_each_callback_is_called_once_when_the_last_thread_ends(self, make: MakePool) -> None:
        watched = make(2)
        first, second = watched.busy(2)
        calls: queue.SimpleQueue[str] = queue.SimpleQueue()
        watched.pool.stop(lambda: calls.put("first"))
        watched.pool.stop(lambda: calls.put("second"))
        threads = watched.pool.living_threads()
        first.end()
        watched.settle_threads(1)
        assert calls.empty()
        second.end()
        assert [calls.get(timeout=TIMEOUT) for _ in range(2)] == ["first", "second"]
        for thread in threads:
            thread.join(TIMEOUT)
        watched.pool.stop(lambda: calls.put("late"))
        assert calls.get_nowait() == "late"
        assert calls.empty()
        assert watched.threads == 0

    def test_idle_threads_end(self, make: MakePool) -> None:
        watched = make(3)
        for job in watched.busy(3):
            job.end()
        watched.settle()
        stopped = threading.Event()
        threads = watched.pool.living_threads()
        watched.pool.stop(stopped.set)
        assert stopped.wait(TIMEOUT)
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()

    @pytest.mark.parametrize("cancel", [False, True])
    def test_what_waits_runs_first_unless_it_is_cancelled(
        self, make: MakePool, cancel: bool
    ) -> None:
        watched = make(1)
        (running,) = watched.busy()
        waiting, _ = watched.start()
        waiting.end()
        stopped = threading.Event()
        watched.pool.stop(stopped.set, cancel=cancel)
        assert not stopped.is_set()
        running.end()
        assert stopped.wait(TIMEOUT)
        assert waiting.runs == (0 if cancel else 1)

    def test_cancelling_drops_no_thread_s_end(self, make: MakePool) -> None:
        # The ends of the threads wait in the same queue as the jobs.
        watched = make(2)
        running = watched.busy(2)
        for _ in range(3):
            watched.start()
        stopped = threading.Event()
        watched.pool.stop(lambda: None)
        watched.pool.stop(lambda: None, cancel=True)
        watched.pool.stop(stopped.set, cancel=True)
        for job in running:
            job.end()
        assert stopped.wait(TIMEOUT)
        watched.join()

    def test_a_thread_that_waits_for_a_client_is_waited_for(self, make: MakePool) -> None:
        watched = make(1, spare_threads=1)
        (away,) = watched.busy()
        away.do(watched.pool.release_slot)
        (other,) = watched.busy()
        stopped = threading.Event()
        threads = watched.pool.living_threads()
        watched.pool.stop(stopped.set)
        other.end()
        watched.settle_threads(1)
        assert not stopped.is_set()
        away.do(watched.pool.reclaim_slot)
        away.end()
        assert stopped.wait(TIMEOUT)
        watched.pool.join()
        assert not any(thread.is_alive() for thread in threads)

    def test_a_job_that_is_left_is_run_though_the_only_thread_waits_for_a_client(
        self, make: MakePool
    ) -> None:
        watched = make(1, spare_threads=1)
        (away,) = watched.busy()
        waiting, _ = watched.start()
        stopped = threading.Event()
        watched.pool.stop(stopped.set)
        away.do(watched.pool.release_slot)
        waiting.wait_started()
        waiting.end()
        watched.settle(1)
        assert not stopped.is_set()
        away.do(watched.pool.reclaim_slot)
        away.end()
        assert stopped.wait(TIMEOUT)

    def test_a_thread_that_was_written_off_is_told_of_and_waited_for(self, make: MakePool) -> None:
        # The server waits for it for a limited time, and then names the threads that it leaves
        # behind.
        watched = make(1, max_lost_threads=1)
        stuck, handle = watched.start()
        stuck.wait_started()
        handle.write_off()
        (other,) = watched.busy()
        waiting, _ = watched.start()
        stopped = threading.Event()
        watched.pool.stop(stopped.set, cancel=True)
        other.end()
        watched.settle_threads(1)
        assert not stopped.is_set()
        assert [one.thread for one in watched.pool.running()] == [stuck.thread]
        stuck.end()
        assert stopped.wait(TIMEOUT)
        assert waiting.runs == 0
        assert watched.pool.lost == 0
        assert watched.pool.running() == []

    def test_jobs_that_are_left_are_run_behind_a_thread_that_was_written_off(
        self, make: MakePool
    ) -> None:
        watched = make(1, max_lost_threads=1)
        stuck, handle = watched.start()
        stuck.wait_started()
        waiting, _ = watched.start()
        stopped = threading.Event()
        watched.pool.stop(stopped.set)
        handle.write_off()
        waiting.wait_started()
        for job in (waiting, stuck):
            job.end()
        assert stopped.wait(TIMEOUT)
        watched.join()

    def test_nothing_is_taken_afterwards(self, make: MakePool) -> None:
        watched = make(2)
        watched.pool.stop(lambda: None)
        for call in (watched.pool.enqueue, watched.pool.submit):
            with pytest.raises(RuntimeError, match="shut down"):
                call(Job())
        assert watched.threads == 0

    def test_shutdown_leaves_no_thread(self, make: MakePool) -> None:
        watched = make(4)
        running = watched.busy(4)
        waiting = [watched.pool.submit(int) for _ in range(20)]
        threads = watched.pool.living_threads()
        for job in running:
            job.end()
        watched.pool.shutdown()
        assert all(future.done() for future in waiting)
        assert watched.threads == 0
        # A thread leaves the pool's list as its last deed.
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()

    def test_shutdown_waits_for_threads_that_start_meanwhile(self, make: MakePool) -> None:
        watched = make(3)
        (running,) = watched.busy()
        (first, _), (second, _) = watched.start(wake=False), watched.start(wake=False)
        waiter = threading.Thread(target=watched.pool.shutdown)
        waiter.start()
        # Shutting down starts a thread for the jobs that are left, and that one another.
        first.wait_started()
        second.wait_started()
        for job in (running, first, second):
            job.end()
        waiter.join(TIMEOUT)
        assert not waiter.is_alive()
        assert watched.threads == 0

    def test_shutdown_waits_for_the_end_of_the_last_thread(self, make: MakePool) -> None:
        watched = make(1)
        (job,) = watched.busy()
        (thread,) = watched.pool.living_threads()
        called, go_on = threading.Event(), threading.Event()

        def on_stopped() -> None:
            called.set()
            assert go_on.wait(TIMEOUT)

        watched.pool.stop(on_stopped)
        job.end()
        assert called.wait(TIMEOUT)
        joined: list[threading.Thread] = []
        # The join that is missing would wait for ``go_on``.
        real_join = thread.join

        def join(timeout: float | None = None) -> None:
            joined.append(thread)
            go_on.set()
            real_join(TIMEOUT)

        thread.join = join  # type: ignore[method-assign]
        watched.pool.shutdown(wait=True)
        go_on.set()
        real_join(TIMEOUT)
        assert joined == [thread]


class TestPlaces:
    """A thread that waits for a client leaves its place to another one."""

    def test_another_job_runs_while_a_thread_has_left(self, make: MakePool) -> None:
        watched = make(1, spare_threads=1)
        (away,) = watched.busy()
        waiting, _ = watched.start()
        assert watched.threads == 1
        away.do(watched.pool.release_slot)
        waiting.wait_started()
        assert waiting.thread != away.thread
        assert watched.pool.threads == 1  # As many as work at the same time.

    def test_so_many_are_replaced_as_there_are_spare_threads(self, make: MakePool) -> None:
        watched = make(1, spare_threads=2)
        (running,) = watched.busy()
        for _ in range(2):
            waiting, _ = watched.start()
            running.do(watched.pool.release_slot)
            running = waiting.wait_started()
        last, _ = watched.start()
        running.do(watched.pool.release_slot)
        watched.settle(4)
        assert last.runs == 0
        assert watched.threads == 3
        # One that comes back makes no room; one that ends does.
        running.do(watched.pool.reclaim_slot)
        watched.settle(4)
        assert last.runs == 0
        running.end()
        last.wait_started()

    def test_none_is_replaced_without_spare_threads(self, make: MakePool) -> None:
        watched = make(1)
        (away,) = watched.busy()
        waiting, _ = watched.start()
        away.do(watched.pool.release_slot)
        watched.settle(2)
        assert waiting.runs == 0
        assert watched.threads == 1

    def test_one_that_leaves_while_nothing_waits_starts_no_thread(self, make: MakePool) -> None:
        watched = make(1, spare_threads=1)
        (away,) = watched.busy()
        away.do(watched.pool.release_slot)
        assert watched.threads == 1
        # The next job finds the place free.
        watched.start()[0].wait_started()
        assert watched.threads == 2

    def test_the_queue_takes_more_while_there_is_more_room(self, make: MakePool) -> None:
        watched = make(1, queue_size=0, spare_threads=1)
        (away,) = watched.busy()
        with pytest.raises(QueueFull):
            watched.pool.enqueue(Job())
        away.do(watched.pool.release_slot)
        watched.busy()
        with pytest.raises(QueueFull):
            watched.pool.enqueue(Job())

    def test_an_idle_thread_that_is_too_many_ends_when_one_comes_back(self, make: MakePool) -> None:
        watched = make(1, spare_threads=1)
        (away,) = watched.busy()
        away.do(watched.pool.release_slot)
        (other,) = watched.busy()
        other.end()
        watched.settle(1)
        assert len(watched.pool._living) == 2  # It may be needed again.
        away.do(watched.pool.reclaim_slot)
        watched.settle_threads(1)
        away.end()
        watched.settle()
        assert watched.busy()[0].thread == away.thread

    def test_a_busy_thread_that_is_too_many_ends_behind_its_job(self, make: MakePool) -> None:
        watched = make(1, spare_threads=1)
        (away,) = watched.busy()
        away.do(watched.pool.release_slot)
        (other,) = watched.busy()
        away.do(watched.pool.reclaim_slot)
        waiting, _ = watched.start()
        assert len(watched.pool.running()) == 2
        away.end()
        watched.settle_threads(1)
        assert waiting.runs == 0  # There is one place, and it is taken.
        other.end()
        waiting.wait_started()
        assert waiting.thread == other.thread

    def test_threads_are_not_too_many_while_they_are_within_the_limit(self, make: MakePool) -> None:
        watched = make(2, spare_threads=1)
        away, other = watched.busy(2)
        away.do(watched.pool.release_slot)
        away.do(watched.pool.reclaim_slot)
        for job in (away, other):
            job.end()
        watched.settle()
        watched.busy(2)
        assert len(watched.pool._living) == 2

    def test_the_pool_is_starved_when_jobs_wait_and_no_spare_thread_is_left(
        self, make: MakePool
    ) -> None:
        watched = make(1, spare_threads=1)
        (first,) = watched.busy()
        first.do(watched.pool.release_slot)
        assert not watched.pool.is_starved
        (second,) = watched.busy()
        _, handle = watched.start()
        # The one that works is not kept by a client.
        assert not watched.pool.is_starved
        second.do(watched.pool.release_slot)
        assert watched.pool.is_starved
        first.do(watched.pool.reclaim_slot)
        assert not watched.pool.is_starved
        first.do(watched.pool.release_slot)
        assert watched.pool.is_starved
        assert handle.cancel()
        assert not watched.pool.is_starved

    def test_tells_how_many_jobs_wait(self, make: MakePool) -> None:
        watched = make(1)
        assert watched.pool.queued == 0
        (running,) = watched.busy()
        assert watched.pool.queued == 0
        handles = [watched.start()[1] for _ in range(3)]
        assert watched.pool.queued == 3
        handles[1].cancel()
        assert watched.pool.queued == 2
        running.end()
        watched.settle(2)
        assert watched.pool.queued == 1


class TestWritingOff:
    """A job that takes too long is not waited for: another thread takes its place."""

    def test_another_job_runs_in_its_place(self, make: MakePool) -> None:
        watched = make(1, max_lost_threads=1)
        stuck, handle = watched.start()
        stuck.wait_started()
        waiting, _ = watched.start()
        assert watched.pool.lost == 0
        assert handle.write_off()
        waiting.wait_started()
        assert watched.pool.lost == 1
        assert stuck.runs == 1

    def test_so_many_are_replaced_as_may_be_lost(self, make: MakePool) -> None:
        watched = make(1, max_lost_threads=1)
        handles = []
        for _ in range(2):
            job, handle = watched.start()
            job.wait_started()
            assert handle.write_off()
            handles.append(handle)
        assert watched.pool.lost == 2
        waiting, _ = watched.start()
        watched.settle(3)
        assert waiting.runs == 0
        assert watched.threads == 2

    def test_none_is_replaced_where_none_may_be_lost(self, make: MakePool) -> None:
        watched = make(1)
        stuck, handle = watched.start()
        stuck.wait_started()
        waiting, _ = watched.start()
        assert handle.write_off()
        watched.settle(2)
        assert watched.pool.lost == 1
        assert waiting.runs == 0
        stuck.end()
        waiting.wait_started()
        assert watched.pool.lost == 0

    def test_twice_counts_once(self, make: MakePool) -> None:
        watched = make(1, max_lost_threads=2)
        stuck, handle = watched.start()
        stuck.wait_started()
        assert handle.write_off()
        assert handle.write_off()
        assert watched.pool.lost == 1
        watched.busy()
        waiting, _ = watched.start()
        watched.settle(3)
        assert waiting.runs == 0
        stuck.end()
        watched.settle(2)
        assert watched.pool.lost == 0

    def test_is_not_possible_before_it_runs_or_behind_its_end(self, make: MakePool) -> None:
        watched = make(1, max_lost_threads=1)
        running, handle = watched.start()
        running.wait_started()
        _, waiting = watched.start()
        assert not waiting.write_off()
        assert waiting.cancel()
        assert not waiting.write_off()
        running.end()
        watched.settle()
        assert not handle.write_off()
        assert watched.pool.lost == 0

    def test_one_that_comes_back_is_a_thread_too_many_and_ends(self, make: MakePool) -> None:
        watched = make(1, max_lost_threads=1)
        stuck, handle = watched.start()
        stuck.wait_started()
        handle.write_off()
        (other,) = watched.busy()
        waiting, _ = watched.start()
        stuck.end()
        watched.settle_threads(1)
        assert watched.pool.lost == 0
        assert waiting.runs == 0
        other.end()
        waiting.wait_started()
        assert waiting.thread == other.thread

    def test_one_that_comes_back_works_where_there_is_a_place(self, make: MakePool) -> None:
        watched = make(1, max_lost_threads=1)
        stuck, handle = watched.start()
        stuck.wait_started()
        handle.write_off()
        stuck.end()
        watched.settle()
        assert watched.pool.lost == 0
        assert watched.busy()[0].thread == stuck.thread
        assert watched.threads == 1


class TestTelling:
    """Who asks what the pool is doing."""

    def test_a_job_tells_which_thread_runs_it_and_since_when(
        self, make: MakePool, clock: StillClock
    ) -> None:
        watched = make(1)
        running, first = watched.start()
        running.wait_started()
        _, second = watched.start()
        (thread,) = watched.pool.living_threads()
        assert thread.ident is not None
        assert thread.native_id is not None
        since = JobThread(thread.name, thread.ident, 1000.0, thread.native_id)
        assert first.started() == since
        assert second.started() is None
        clock.now += 5
        assert first.started() == since
        running.end()
        watched.jobs[1].wait_started()
        assert second.started() == since._replace(at=1005.0)
        # It is still of interest when it has ended.
        assert first.started() == since

    def test_a_job_that_was_cancelled_was_never_started(self, make: MakePool) -> None:
        watched = make(1)
        watched.busy()
        _, handle = watched.start()
        handle.cancel()
        assert handle.started() is None

    def test_the_pool_tells_which_threads_run_jobs_wherever_they_are(
        self, make: MakePool, clock: StillClock
    ) -> None:
        watched = make(2, spare_threads=1, max_lost_threads=1)
        assert watched.pool.running() == []
        running: dict[Job, Handle] = {}
        for _ in range(4):
            job, handle = watched.start()
            job.wait_started()
            running[job] = handle
            clock.now += 1
            # The first waits for a client, and the second is given up: two more have a place.
            if len(running) == 1:
                job.do(watched.pool.release_slot)
            elif len(running) == 2:
                handle.write_off()
        watched.start()
        found = watched.pool.running()
        assert sorted(one.at for one in found) == [1000.0, 1001.0, 1002.0, 1003.0]
        assert {one.thread for one in found} == {job.thread for job in running}
        assert all(one.run is not None for one in found)
        assert {one._replace(run=None) for one in found} == {
            handle.started() for handle in running.values()
        }

    def test_idle_threads_run_nothing(self, make: MakePool) -> None:
        watched = make(2)
        first, second = watched.busy(2)
        first.end()
        watched.settle(1)
        assert [one.thread for one in watched.pool.running()] == [second.thread]


def start_three(watched: Watched, ran: list[str], clock: StillClock, *, seconds: float) -> None:
    """Queue three jobs that note their names, a, b and c, with that time behind each."""
    for name in "abc":
        watched.pool.enqueue(functools.partial(ran.append, name))
        clock.now += seconds


class TestOrder:
    """Once the oldest job has waited for too long, the newest still have a chance to be in time."""

    def test_is_that_of_the_queue_while_it_is_short(
        self, make: MakePool, clock: StillClock
    ) -> None:
        watched, ran = make(1, queue_target=10.0), list[str]()
        (blocker,) = watched.busy()
        start_three(watched, ran, clock, seconds=3)
        clock.now += 1  # The oldest has waited for 10 seconds, and no longer.
        blocker.end()
        watched.settle()
        assert ran == ["a", "b", "c"]

    def test_is_reversed_once_the_oldest_has_waited_for_too_long(
        self, make: MakePool, clock: StillClock
    ) -> None:
        watched, ran = make(1, queue_target=10.0), list[str]()
        (blocker,) = watched.busy()
        start_three(watched, ran, clock, seconds=3)
        clock.now += 1.001
        blocker.end()
        watched.settle()
        assert ran == ["c", "b", "a"]

    def test_is_that_of_the_queue_again_when_the_old_ones_are_gone(
        self, make: MakePool, clock: StillClock
    ) -> None:
        watched, ran = make(1, queue_target=10.0), list[str]()
        (blocker,) = watched.busy()
        old = watched.pool.enqueue(lambda: ran.append("old"))
        clock.now += 11
        start_three(watched, ran, clock, seconds=0)
        assert old.cancel()
        blocker.end()
        watched.settle()
        assert ran == ["a", "b", "c"]

    def test_the_old_ones_are_run_when_there_is_time_again(
        self, make: MakePool, clock: StillClock
    ) -> None:
        watched, ran = make(1, queue_target=10.0), list[str]()
        (blocker,) = watched.busy()
        watched.pool.enqueue(lambda: ran.append("old"))
        clock.now += 11
        second, _ = watched.start()
        watched.pool.enqueue(lambda: ran.append("new"))
        blocker.end()
        second.wait_started()
        assert ran == ["new"]
        second.end()
        watched.settle()
        assert ran == ["new", "old"]

    def test_is_that_of_the_queue_for_ever_where_there_is_no_target(
        self, make: MakePool, clock: StillClock
    ) -> None:
        watched, ran = make(1), list[str]()
        (blocker,) = watched.busy()
        start_three(watched, ran, clock, seconds=1e9)
        blocker.end()
        watched.settle()
        assert ran == ["a", "b", "c"]


class TestThreadsThatDoNotStart:
    def test_without_another_the_job_is_refused_and_frees_its_place(
        self, make: MakePool, start_fails: Callable[[bool], None]
    ) -> None:
        watched = make(1, queue_size=1)
        start_fails(True)
        refused = Job()
        for _ in range(5):
            with pytest.raises(RuntimeError, match="new thread"):
                watched.pool.enqueue(refused)
            with pytest.raises(RuntimeError, match="new thread"):
                watched.pool.submit(refused)
        assert watched.threads == 0
        start_fails(False)
        watched.busy()
        assert refused.runs == 0

    def test_with_another_the_job_waits_for_it(
        self, make: MakePool, start_fails: Callable[[bool], None]
    ) -> None:
        watched = make(2)
        (running,) = watched.busy()
        start_fails(True)
        waiting, _ = watched.start()
        assert watched.threads == 1
        running.end()
        waiting.wait_started()
        assert waiting.thread == running.thread

    def test_a_thread_that_cannot_start_the_next_does_the_work_alone(
        self, make: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries: list[threading.Thread] = []

        def start_one(thread: threading.Thread) -> None:
            tries.append(thread)
            if len(tries) > 1:
                raise RuntimeError("can't start new thread")
            real_start(thread)

        watched = make(3)
        jobs = [watched.start(wake=False)[0] for _ in range(3)]
        monkeypatch.setattr(threading.Thread, "start", start_one)
        watched.pool.wake()
        for job in jobs:
            job.wait_started()
            job.end()
        watched.settle()
        assert watched.threads == 1
        assert len(tries) > 1
        assert len({job.thread for job in jobs}) == 1

    def test_a_wake_up_in_vain_is_known_to_those_who_wait(
        self, make: MakePool, start_fails: Callable[[bool], None]
    ) -> None:
        # Without the error, the server would wait for ever for an answer.
        watched = make(2)
        _, handle = watched.start(wake=False)
        start_fails(True)
        with pytest.raises(RuntimeError, match="new thread"):
            watched.pool.wake()
        assert handle.cancel()

    def test_the_next_job_tries_again(
        self, make: MakePool, start_fails: Callable[[bool], None]
    ) -> None:
        watched = make(2)
        watched.busy()
        start_fails(True)
        waiting, _ = watched.start()
        start_fails(False)
        watched.start()
        assert watched.threads == 2
        waiting.wait_started()

    def test_stopping_is_possible_afterwards(
        self, make: MakePool, start_fails: Callable[[bool], None]
    ) -> None:
        watched = make(2)
        start_fails(True)
        with pytest.raises(RuntimeError, match="new thread"):
            watched.pool.enqueue(Job())
        stopped = threading.Event()
        watched.pool.stop(stopped.set)
        assert stopped.is_set()


class TestRaces:
    """What another thread does between two steps of ``start``: at the release of the lock."""

    def test_a_job_that_was_taken_before_the_shutdown_runs(self, make: MakePool) -> None:
        watched = make(1)
        watched.lock.at_release = lambda: watched.pool.shutdown(wait=False)
        future = watched.pool.submit(int)
        for thread in watched.pool.living_threads():
            thread.join(TIMEOUT)
        assert future.result(TIMEOUT) == 0

    def test_shutdown_can_wait_for_a_thread_that_is_about_to_start(self, make: MakePool) -> None:
        watched = make(1)
        watched.lock.at_release = watched.pool.shutdown
        assert watched.pool.submit(int).result(TIMEOUT) == 0

    def test_stop_is_told_of_the_end_of_a_thread_that_never_started(
        self, make: MakePool, start_fails: Callable[[bool], None]
    ) -> None:
        watched = make(1)
        start_fails(True)
        stopped = threading.Event()
        watched.lock.at_release = lambda: watched.pool.stop(stopped.set)
        with pytest.raises(RuntimeError, match="new thread"):
            watched.pool.enqueue(Job())
        assert watched.threads == 0
        assert stopped.is_set()

    def test_two_threads_that_do_not_start_strand_no_job(
        self, make: MakePool, start_fails: Callable[[bool], None]
    ) -> None:
        watched = make(2)
        start_fails(True)
        accepted: list[Handle] = []

        def start() -> None:
            try:
                accepted.append(watched.pool.enqueue(Job()))
            except RuntimeError:
                return

        watched.lock.at_release = start
        start()
        assert watched.threads == 0
        assert accepted == []

    def test_a_cancelled_job_does_not_run_in_a_thread_on_its_way(
        self, make: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_their_way: list[threading.Thread] = []
        monkeypatch.setattr(threading.Thread, "start", lambda thread: on_their_way.append(thread))
        watched = make(1)
        job, handle = watched.start()
        assert handle.cancel()
        real_start(on_their_way[0])
        watched.settle()
        assert job.runs == 0


@dataclass(eq=False)
class Model:
    """What is known of a job that was taken."""

    job: Job
    # None for a job that was queued by ``submit``.
    handle: Handle | None
    away: bool = False
    lost: bool = False


class PoolMachine(RuleBasedStateMachine):
    """Whatever happens to jobs, in any order: as many run as may, and none is left lying.

    The model: which jobs run, which of them are away or lost, and which wait. Whoever wakes the
    pool, leaves a place or ends a job, brings as many waiting jobs to threads as there may be, in
    order.
    """

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.running: list[Model] = []
        self.waiting: list[Model] = []
        self.finished: list[Job] = []
        self.never: list[Job] = []

    @initialize(
        max_threads=st.integers(1, 3),
        queue_size=st.integers(0, 4),
        spare_threads=st.integers(0, 2),
        max_lost_threads=st.integers(0, 2),
    )
    def make(
        self, max_threads: int, queue_size: int, spare_threads: int, max_lost_threads: int
    ) -> None:
        self.watched = Watched(
            max_threads,
            queue_size=queue_size,
            spare_threads=spare_threads,
            max_lost_threads=max_lost_threads,
        )
        self.max_threads = max_threads
        self.queue_size = queue_size
        self.spare_threads = spare_threads
        self.max_lost_threads = max_lost_threads

    @property
    def away(self) -> int:
        return sum(model.away for model in self.running)

    @property
    def lost(self) -> int:
        return sum(model.lost for model in self.running)

    @property
    def limit(self) -> int:
        """How many jobs may run now."""
        away, lost = min(self.away, self.spare_threads), min(self.lost, self.max_lost_threads)
        return self.max_threads + away + lost

    @property
    def is_full(self) -> bool:
        room = max(self.limit - len(self.running), 0)
        return len(self.waiting) >= self.queue_size + room

    def woken(self) -> None:
        while self.waiting and len(self.running) < self.limit:
            self.running.append(self.waiting.pop(0))
        for model in self.running:
            model.job.wait_started()
        self.watched.settle(len(self.running) + len(self.waiting))

    def draw(self, data: st.DataObject, **state: bool) -> Model:
        """Return a running job that is away, or lost, or not, as it is asked for."""
        return data.draw(st.sampled_from(self.those(**state)))

    def those(self, **state: bool) -> list[Model]:
        return [
            model
            for model in self.running
            if all(getattr(model, name) is value for name, value in state.items())
        ]

    @rule(target=handles, wake=st.booleans())
    def start(self, wake: bool) -> Any:
        if self.is_full:
            refused = Job()
            with pytest.raises(QueueFull):
                self.watched.pool.enqueue(refused, wake=wake)
            self.never.append(refused)
            return None
        model = Model(*self.watched.start(wake=wake))
        self.waiting.append(model)
        if wake:
            self.woken()
        return model

    @precondition(lambda self: not self.is_full)
    @rule()
    def submit(self) -> None:
        job = Job()
        self.watched.jobs.append(job)
        self.watched.pool.submit(job)
        self.waiting.append(Model(job, None))
        self.woken()

    @rule()
    def wake(self) -> None:
        self.watched.pool.wake()
        self.woken()

    @rule(model=consumes(handles))
    def cancel(self, model: Model | None) -> None:
        if model is None or model.handle is None:
            return
        waits = model in self.waiting
        assert model.handle.cancel() is waits
        if waits:
            self.waiting.remove(model)
            self.never.append(model.job)

    @precondition(lambda self: self.those(away=False))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        model = self.draw(data, away=False)
        model.job.do(self.watched.pool.release_slot)
        model.away = True
        self.woken()

    @precondition(lambda self: self.those(away=True))
    @rule(data=st.data())
    def rejoin(self, data: st.DataObject) -> None:
        model = self.draw(data, away=True)
        model.job.do(self.watched.pool.reclaim_slot)
        model.away = False
        # A thread that is one too many looks for work before it ends.
        self.wake()

    @rule(model=handles)
    def write_off(self, model: Model | None) -> None:
        if model is None or model.handle is None:
            return
        runs = model in self.running
        assert model.handle.write_off() is runs
        if runs:
            model.lost = True
            # Also if it was lost before.
            self.woken()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        model = self.draw(data)
        if model.away:
            model.job.do(self.watched.pool.reclaim_slot)
        self.running.remove(model)
        self.finished.append(model.job)
        model.job.end()
        self.woken()

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "watched"):
            return
        pool = self.watched.pool
        assert len(pool._running) == len(pool.running()) == len(self.running)
        assert pool.queued == len(self.waiting)
        assert pool.lost == self.lost
        assert pool.is_starved is (bool(self.waiting) and self.away > self.spare_threads)
        most = self.max_threads + self.spare_threads + self.max_lost_threads
        assert len(self.running) <= len(pool._living) <= most
        if not self.running:
            # Those that took the places of others are gone again.
            self.watched.lock.wait_until(lambda: len(pool._living) <= self.max_threads)
        self.check_runs()

    def check_runs(self) -> None:
        assert all(model.job.runs == 1 for model in self.running)
        assert all(job.runs == 1 for job in self.finished)
        assert all(model.job.runs == 0 for model in self.waiting)
        assert all(job.runs == 0 for job in self.never)

    def teardown(self) -> None:
        if hasattr(self, "watched"):
            self.watched.end()
            assert self.watched.threads == 0
            self.check_runs()


TestAnySchedule = PoolMachine.TestCase
TestAnySchedule.settings = settings(max_examples=examples(60), stateful_step_count=30)
