"""The verdict of a soak with faults, from what was seen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import runs, verdict

CLIENTS = {"hello": 4, "hello-once": 3}


@pytest.mark.parametrize(
    ("errors", "passed"),
    [
        ({"hello": {}, "hello-once": {}}, True),
        ({"hello": {"broken": 13}, "hello-once": {"broken": 1}}, True),
        ({"hello": {"broken": 15}, "hello-once": {}}, False),
        ({"hello": {}, "hello-once": {"broken": 4}}, False),
        ({"hello": {"wrong": 1}, "hello-once": {}}, False),
        ({"hello": {"hang": 1}, "hello-once": {}}, False),
    ],
)
def test_a_worker_that_ends_may_cost_each_client_one_visit_and_a_single_request_only_if_killed(
    errors: dict[str, dict[str, int]], passed: bool
) -> None:
    assert verdict.answers_in_spite(errors, CLIENTS, ends=2, losses=1).passed is passed


def test_memory_may_grow_a_little_and_processes_may_become_neither_more_nor_fewer() -> None:
    mib = 1 << 20
    assert verdict.not_grown("memory", 20 * mib, 22 * mib).passed
    assert not verdict.not_grown("memory", 20 * mib, 23 * mib).passed
    assert verdict.not_grown("memory", 200 * mib, 209 * mib).passed
    assert verdict.same("processes", 3, 3).passed
    assert not verdict.same("processes", 3, 2).passed


@pytest.mark.parametrize(
    ("line", "passed"),
    [
        ("ERROR [7] Worker 12 was killed by SIGKILL after 3.1 s, and is replaced", True),
        ("ERROR [7] The mold 12 was killed by SIGKILL", True),
        ("ERROR [7] The mold 12 has forked no worker for 10 s, and is killed", True),
        ("ERROR [7] Worker 12 was killed by SIGSEGV after 3.1 s, and is replaced", False),
        ("ERROR [7] Cannot start a worker: Too many open files", False),
        ("ERROR [9] Traceback", False),
    ],
)
def test_the_log_may_tell_of_faults_that_were_meant(line: str, passed: bool) -> None:
    assert verdict.log(f"2026-01-02 03:04:05,678 {line}\n", runs.DUE).passed is passed


def test_a_mold_without_workers_is_refused() -> None:
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--preload"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert re.search(r"error: --workers: at least 1 with --preload$", run.stderr.rstrip())
