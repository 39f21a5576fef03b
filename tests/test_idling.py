"""Threads of a pool that wait for jobs: after many in a row, each waits for its turn when woken."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from waiting import eventually

from aiowsgi.bridge.pool.idling import Idling
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
        one = idling or Idling(None)
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


@pytest.mark.parametrize("chosen", [os.SCHED_BATCH, os.SCHED_IDLE])
def test_policy_that_was_chosen_is_kept(chosen: int) -> None:
    def wait() -> list[int]:
        os.sched_setscheduler(0, chosen, os.sched_param(0))
        idling = Idling(None)
        idling.begin(MANY)
        seen = [policy()]
        idling.end()
        return [*seen, policy()]

    assert on_a_thread(wait) == [chosen, chosen]


def test_sandbox_may_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert waits([MANY, MANY]) == [PROMPT] * 3


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
    idling = Idling(scheduling)
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
