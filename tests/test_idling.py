"""Threads of a pool that wait for jobs: after many in a row, each waits for its turn when woken."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from waiting import eventually

from aiowsgi.bridge.pool.idling import Idling, can_take_turns
from aiowsgi.bridge.pool.jobs import JobThread
from aiowsgi.bridge.pool.thread_pool import ThreadPool

if sys.platform != "linux":
    pytest.skip("only Linux has such a policy", allow_module_level=True)

# Fail-safe, in seconds.
TIMEOUT = 20.0
MANY = 8
PATIENT, PROMPT = os.SCHED_BATCH, os.SCHED_OTHER
TELL_POLICY = "import os; print(os.sched_getscheduler(0))"


def policy(thread: int = 0) -> int:
    return os.sched_getscheduler(thread)


def on_a_thread(function: Callable[[], Any]) -> Any:
    """Return what the function returns, on a thread that is left as it is at the end."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(function()))
    thread.start()
    thread.join(TIMEOUT)
    return seen[0]


def waits(jobs: Iterable[int], idling: Idling | None = None) -> list[int]:
    """Return the policy in each wait that follows so many jobs, and behind the last one."""

    def wait() -> list[int]:
        one = idling or Idling(None, True)
        seen = []
        for number in jobs:
            one.begin(number)
            seen.append(policy())
            one.end()
            assert policy() in (PROMPT, seen[-1])
        return [*seen, policy()]

    found: list[int] = on_a_thread(wait)
    return found


def test_after_many_jobs_in_a_row_a_thread_waits_for_its_turn() -> None:
    assert waits([MANY]) == [PATIENT, PROMPT]
    assert waits([100 * MANY]) == [PATIENT, PROMPT]


def test_thread_with_few_jobs_is_woken_as_usual() -> None:
    assert waits([1, MANY - 1, 0]) == [PROMPT] * 4
    assert waits([MANY, 1, 0]) == [PATIENT, PROMPT, PROMPT, PROMPT]


def test_thread_that_found_no_job_waits_as_before() -> None:
    assert waits([0]) == [PROMPT, PROMPT]
    assert waits([MANY, 0, 0]) == [PATIENT, PATIENT, PATIENT, PROMPT]


CHOSEN = pytest.mark.parametrize("chosen", [os.SCHED_BATCH, os.SCHED_IDLE])


@CHOSEN
def test_policy_that_the_process_was_started_with_is_kept(chosen: int) -> None:
    def find_out() -> tuple[bool, int]:
        os.sched_setscheduler(0, chosen, os.sched_param(0))
        return can_take_turns(), policy()

    assert on_a_thread(find_out) == (False, chosen)
    assert on_a_thread(lambda: (can_take_turns(), policy())) == (True, PROMPT)


def test_policy_that_was_chosen_before_a_wait_is_kept() -> None:
    def wait() -> list[int]:
        idling = Idling(None, True)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        idling.begin(MANY)
        seen = [policy()]
        idling.end()
        return [*seen, policy()]

    assert on_a_thread(wait) == [os.SCHED_IDLE, os.SCHED_IDLE]


def test_policy_that_an_administrator_has_set_during_a_wait_is_kept() -> None:
    def wait() -> int:
        idling = Idling(None, True)
        idling.begin(MANY)
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
        idling.end()
        return policy()

    assert on_a_thread(wait) == os.SCHED_IDLE


def test_thread_that_was_started_in_the_midst_of_a_wait_is_as_usual() -> None:
    def begin() -> int:
        Idling(None, True)
        return policy()

    def start() -> int:
        Idling(None, True).begin(MANY)
        assert policy() == PATIENT
        started: int = on_a_thread(begin)
        return started

    assert on_a_thread(start) == PROMPT


def test_sandbox_may_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    pool = ThreadPool(1)
    try:
        done: list[bool] = []
        for _ in range(2 * MANY):
            pool.enqueue(lambda: done.append(True), wake=False)
        pool.wake()
        eventually(lambda: len(done) == 2 * MANY)
    finally:
        pool.shutdown()
    assert len(asked) == 1  # When the pool was made.


class Contended:
    """A ``Scheduling`` while several requests compute."""

    contended = True

    def __init__(self) -> None:
        self.told: list[str] = []

    def is_look_due(self, now: float) -> bool:
        return False

    def look(self, running: Iterable[JobThread], now: float) -> None:
        raise AssertionError("never due")

    def lengthen_slack(self) -> None:
        self.told.append("long")

    def restore_slack(self) -> None:
        self.told.append("usual")


def test_beside_requests_that_compute_it_is_woken_for_its_turn_at_the_interpreter() -> None:
    # Those would not let it have a turn at the core.
    scheduling = Contended()
    idling = Idling(scheduling, True)
    assert waits([MANY, 1], idling) == [PROMPT] * 3
    assert scheduling.told == ["usual", "long", "usual", "long", "usual"]


def test_pool_under_load_has_its_idle_threads_wait_for_their_turn() -> None:
    pool = ThreadPool(1)
    try:
        seen: list[int] = []
        threads: list[int] = []
        pool.enqueue(lambda: threads.append(threading.get_native_id()), wake=False)
        for _ in range(MANY):
            pool.enqueue(lambda: seen.append(policy()), wake=False)
        pool.wake()
        eventually(lambda: len(seen) == MANY)
        thread = threads[0]
        eventually(lambda: policy(thread) == PATIENT)
        # With a job it is as usual, and so is what the application starts.
        assert seen == [PROMPT] * MANY
        assert pool.submit(policy).result(TIMEOUT) == PROMPT
        assert pool.submit(lambda: on_a_thread(policy)).result(TIMEOUT) == PROMPT
        tell = [sys.executable, "-c", TELL_POLICY]
        told = pool.submit(subprocess.check_output, tell, timeout=TIMEOUT).result(TIMEOUT)
        assert int(told) == PROMPT
        # After jobs that came one by one, it is woken as usual again.
        eventually(lambda: policy(thread) == PROMPT)
    finally:
        pool.shutdown()
