"""The job queue in front of an executor that the host passes in. In memory.

Jobs on real threads say when they begin and end when they are told to. Where the moment matters,
the executor is one that runs a job when the test says so, on the test's thread.
"""

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from thread_waits import StillClock

from aiowsgi.bridge.pool import executor_queue as executor_queue_module
from aiowsgi.bridge.pool.executor_queue import ExecutorQueue
from aiowsgi.bridge.pool.jobs import JobThread
from aiowsgi.bridge.pool.thread_pool import ThreadPool
from aiowsgi.errors import QueueFull

# Fail-safe only: no wait of these tests is meant to last.
TIMEOUT = 20.0


class Job:
    """A job that tells when it begins, and ends when it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self._started = threading.Event()
        self._release = threading.Event()

    def __call__(self) -> None:
        self.runs += 1
        self._started.set()
        assert self._release.wait(TIMEOUT)

    def wait_started(self) -> None:
        assert self._started.wait(TIMEOUT)

    def end(self) -> None:
        self._release.set()


class ByHand(Executor):
    """Runs what it was given when it is told to, on the calling thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        """Run the oldest call."""
        future, call = self.calls.pop(0)
        assert future.set_running_or_notify_cancel()
        future.set_result(call())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    """The clock of the pools of the test."""
    clock = StillClock()
    monkeypatch.setattr(executor_queue_module, "time", clock)
    return clock


@pytest.fixture
def by_hand() -> ByHand:
    return ByHand()


def nothing() -> None:
    pass


class TestSharing:
    @pytest.fixture
    def executor(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(1) as executor:
            yield executor

    @pytest.fixture
    def running(self, executor: ThreadPoolExecutor) -> Iterator[Job]:
        """A job that occupies the executor's only thread."""
        job = Job()
        executor.submit(job)
        job.wait_started()
        yield job
        job.end()

    def test_tells_the_threads_of_the_executor(self) -> None:
        with ThreadPoolExecutor(7) as executor:
            assert ExecutorQueue(executor, queue_size=1).threads == 7

    def test_tells_the_threads_of_a_pool_that_it_shares(self) -> None:
        with ThreadPool(3) as shared:
            assert ExecutorQueue(shared, queue_size=1).threads == 3

    def test_takes_an_executor_that_does_not_tell_to_have_several_threads(self) -> None:
        class Silent(Executor):
            pass

        assert ExecutorQueue(Silent(), queue_size=1).threads > 1

    def test_runs_jobs_woken_or_not(self, executor: ThreadPoolExecutor) -> None:
        pool = ExecutorQueue(executor, queue_size=1)
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(5):
            pool.enqueue(lambda number=number: done.put(number), wake=False)  # type: ignore[misc]
            pool.wake()
            assert done.get(timeout=TIMEOUT) == number

    def test_is_bounded(self, executor: ThreadPoolExecutor, running: Job) -> None:
        pool = ExecutorQueue(executor, queue_size=2)
        ran: list[int] = []
        # One more than the queue holds: it counts until the executor has begun it.
        for number in range(3):
            pool.enqueue(lambda number=number: ran.append(number))  # type: ignore[misc]
        with pytest.raises(QueueFull, match="3 jobs"):
            pool.enqueue(lambda: ran.append(-1))
        running.end()
        executor.shutdown()
        assert ran == [0, 1, 2]

    def test_a_job_that_has_begun_frees_its_place(self, executor: ThreadPoolExecutor) -> None:
        pool = ExecutorQueue(executor, queue_size=0)
        jobs = [Job() for _ in range(4)]
        try:
            for job, successor in itertools.pairwise(jobs):
                if job is jobs[0]:
                    pool.enqueue(job)
                job.wait_started()
                pool.enqueue(successor)
                with pytest.raises(QueueFull):
                    pool.enqueue(Job())
                job.end()
        finally:
            for job in jobs:
                job.end()

    def test_a_waiting_job_is_cancelled_and_frees_its_place(
        self, executor: ThreadPoolExecutor, running: Job
    ) -> None:
        pool = ExecutorQueue(executor, queue_size=0)
        cancelled = Job()
        for _ in range(3):
            assert pool.enqueue(cancelled).cancel()
        handle = pool.enqueue(cancelled)
        handle.cancel()
        handle.cancel()  # Frees no second place.
        pool.enqueue(lambda: None)
        with pytest.raises(QueueFull):
            pool.enqueue(lambda: None)
        running.end()
        executor.shutdown()
        assert cancelled.runs == 0

    def test_a_running_or_finished_job_is_not_cancelled(self, executor: ThreadPoolExecutor) -> None:
        pool = ExecutorQueue(executor, queue_size=0)
        job = Job()
        handle = pool.enqueue(job)
        job.wait_started()
        assert not handle.cancel()
        job.end()
        executor.shutdown()
        assert not handle.cancel()
        assert not pool._queued

    def test_an_executor_that_is_shut_down_refuses_and_nothing_is_counted(
        self, executor: ThreadPoolExecutor
    ) -> None:
        pool = ExecutorQueue(executor, queue_size=0)
        executor.shutdown()
        for _ in range(3):
            with pytest.raises(RuntimeError, match="shutdown"):
                pool.enqueue(lambda: None)

    def test_a_job_that_the_executor_dropped_is_not_said_to_run(
        self, executor: ThreadPoolExecutor, running: Job
    ) -> None:
        pool = ExecutorQueue(executor, queue_size=1)
        handle = pool.enqueue(lambda: None)
        executor.shutdown(wait=False, cancel_futures=True)
        assert handle.cancel()

    def test_an_executor_that_gives_a_job_up_says_why_in_the_log(
        self, by_hand: ByHand, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = ExecutorQueue(by_hand, queue_size=0)
        failed: list[bool] = []
        pool.enqueue(nothing, lambda: failed.append(True))
        (future, _) = by_hand.calls.pop()
        future.set_exception(BrokenExecutor("out of order"))
        assert failed == [True]
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("aiowsgi.error", logging.ERROR)
        assert "BrokenExecutor('out of order')" in record.getMessage()
        assert pool.queued == 0
        pool.enqueue(nothing)  # Its place is free.

    def test_a_job_that_was_cancelled_here_is_none_that_the_executor_gave_up(
        self, by_hand: ByHand, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = ExecutorQueue(by_hand, queue_size=0)
        failed: list[bool] = []
        assert pool.enqueue(nothing, lambda: failed.append(True)).cancel()
        by_hand.run()
        assert not caplog.records
        assert not failed

    def test_jobs_of_others_are_not_its_own(self, by_hand: ByHand) -> None:
        pool, other = ExecutorQueue(by_hand, queue_size=0), ExecutorQueue(by_hand, queue_size=0)
        seen: list[object] = []
        by_hand.submit(lambda: seen.append(pool.running()))
        other.enqueue(lambda: seen.append(pool.running()))
        assert pool.queued == 0
        by_hand.run()
        by_hand.run()
        assert seen == [[], []]


class TestTelling:
    """Who asks what the pool is doing."""

    def test_a_job_tells_which_thread_runs_it_and_since_when(
        self, by_hand: ByHand, clock: StillClock
    ) -> None:
        pool = ExecutorQueue(by_hand, queue_size=1)
        seen: list[object] = []

        def look() -> None:
            seen.append((first.started(), pool.running(), pool.queued))

        first = pool.enqueue(look)
        second = pool.enqueue(nothing)
        assert (first.started(), pool.running(), pool.queued) == (None, [], 2)
        by_hand.run()
        thread = threading.current_thread()
        assert thread.ident is not None
        since = JobThread(thread.name, thread.ident, 1000.0)
        assert seen == [(since, [since._replace(run=look)], 1)]
        clock.now += 5
        # It is still of interest when it has ended.
        assert first.started() == since
        assert pool.running() == []
        by_hand.run()
        assert second.started() == since._replace(at=1005.0)
        assert pool.queued == 0

    def test_a_job_that_was_cancelled_was_never_started(self, by_hand: ByHand) -> None:
        pool = ExecutorQueue(by_hand, queue_size=1)
        job = pool.enqueue(nothing)
        job.cancel()
        assert pool.queued == 0
        by_hand.run()
        assert job.started() is None


class TestPlaces:
    """Threads that wait for clients are counted; how many threads there are, the owner decides."""

    def test_the_pool_is_starved_while_jobs_wait_and_threads_are_away(
        self, by_hand: ByHand
    ) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)
        seen: list[bool] = []

        def run() -> None:
            seen.append(pool.is_starved)
            pool.release_slot()
            seen.append(pool.is_starved)
            waiting = pool.enqueue(nothing)
            seen.append(pool.is_starved)
            waiting.cancel()
            seen.append(pool.is_starved)
            pool.enqueue(nothing)
            pool.reclaim_slot()
            seen.append(pool.is_starved)

        pool.enqueue(run)
        by_hand.run()
        assert seen == [False, False, True, False, False]

    def test_no_other_job_runs_in_the_place_of_one_that_has_left(self) -> None:
        with ThreadPool(1, spare_threads=1) as shared:
            pool = ExecutorQueue(shared, queue_size=5)
            away, waiting = Job(), Job()
            pool.enqueue(away)
            away.wait_started()
            pool.release_slot()
            pool.enqueue(waiting)
            assert shared.queued == pool.queued == 1
            assert len(shared.living_threads()) == pool.threads == 1
            assert pool.is_starved
            pool.reclaim_slot()
            away.end()
            waiting.end()


class TestWritingOff:
    def test_is_counted_until_the_job_comes_back(self, by_hand: ByHand) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)
        seen: list[object] = []

        def run() -> None:
            seen.append(pool.lost)
            seen.append(job.write_off())
            seen.append(job.write_off())
            seen.append(pool.lost)
            seen.append(len(pool.running()))

        job = pool.enqueue(run)
        by_hand.run()
        # It goes on, whatever it counts as.
        assert seen == [0, True, True, 1, 1]
        assert pool.lost == 0

    def test_is_not_possible_before_it_runs_or_behind_its_end(self, by_hand: ByHand) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)
        job = pool.enqueue(nothing)
        assert not job.write_off()
        by_hand.run()
        assert not job.write_off()
        assert pool.lost == 0


class TestStopping:
    @pytest.fixture
    def stopped(self) -> list[str]:
        return []

    def test_is_over_at_once_where_nothing_runs(self, by_hand: ByHand, stopped: list[str]) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)
        pool.stop(lambda: stopped.append("first"), cancel=True)
        pool.stop(lambda: stopped.append("second"), cancel=True)
        assert stopped == ["first", "second"]

    def test_waits_for_a_job_that_runs(self, by_hand: ByHand, stopped: list[str]) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)

        def run() -> None:
            pool.stop(lambda: stopped.append("first"), cancel=True)
            pool.stop(lambda: stopped.append("second"), cancel=True)
            pool.join()  # Its threads are somebody else's: there is nothing to wait for.
            assert stopped == []

        pool.enqueue(run)
        by_hand.run()
        assert stopped == ["first", "second"]

    def test_waits_for_a_job_that_was_written_off(
        self, by_hand: ByHand, stopped: list[str]
    ) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)

        def run() -> None:
            assert job.write_off()
            pool.stop(lambda: stopped.append("stopped"), cancel=True)
            assert stopped == []
            assert len(pool.running()) == 1

        job = pool.enqueue(run)
        by_hand.run()
        assert stopped == ["stopped"]

    def test_waits_for_a_job_that_has_just_begun(
        self, by_hand: ByHand, stopped: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # It cannot be cancelled any more, and is not known to run yet.
        class Stopping(Future[Any]):
            def set_running_or_notify_cancel(self) -> bool:
                runs = super().set_running_or_notify_cancel()
                pool.stop(lambda: stopped.append("stopped"), cancel=True)
                return runs

        monkeypatch.setattr(executor_queue_module, "Future", Stopping)
        pool = ExecutorQueue(by_hand, queue_size=5)
        pool.enqueue(lambda: stopped.append("run"))
        by_hand.run()
        assert stopped == ["run", "stopped"]

    @pytest.mark.parametrize("cancel", [False, True])
    def test_what_waits_runs_first_unless_it_is_cancelled(
        self, by_hand: ByHand, stopped: list[str], cancel: bool
    ) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)
        for number in range(2):
            pool.enqueue(lambda number=number: stopped.append(f"run {number}"))  # type: ignore[misc]
        pool.stop(lambda: stopped.append("stopped"), cancel=cancel)
        assert pool.queued == (0 if cancel else 2)
        by_hand.run()
        by_hand.run()
        assert stopped == (["stopped"] if cancel else ["run 0", "run 1", "stopped"])

    def test_a_later_call_can_still_cancel(self, by_hand: ByHand, stopped: list[str]) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)
        pool.enqueue(lambda: stopped.append("run"))
        pool.stop(lambda: stopped.append("first"), cancel=False)
        assert stopped == []
        pool.stop(lambda: stopped.append("second"), cancel=True)
        by_hand.run()
        assert stopped == ["first", "second"]

    def test_is_over_when_the_last_job_is_cancelled_or_given_up(
        self, by_hand: ByHand, stopped: list[str]
    ) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)
        mine, dropped = pool.enqueue(nothing), pool.enqueue(nothing)
        pool.stop(lambda: stopped.append("stopped"), cancel=False)
        mine.cancel()
        assert stopped == []
        by_hand.calls[1][0].cancel()
        assert stopped == ["stopped"]
        assert dropped.started() is None

    def test_nothing_is_taken_afterwards_and_the_executor_goes_on(self, by_hand: ByHand) -> None:
        pool = ExecutorQueue(by_hand, queue_size=5)
        pool.stop(nothing, cancel=True)
        with pytest.raises(RuntimeError, match="stopped"):
            pool.enqueue(nothing)
        assert by_hand.calls == []
        assert pool.queued == 0
        future = by_hand.submit(int)
        by_hand.run()
        assert future.result(TIMEOUT) == 0
