"""What a supervisor asks the system: how many processors it may use, how a process has ended."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from aiowsgi.process.supervisor import cores, reports
from aiowsgi.process.supervisor.cores import usable_cores
from aiowsgi.process.supervisor.reports import OutOfMemory, describe_status, was_killed

Write = Callable[[dict[str, str]], list[str]]


@pytest.fixture
def folders(tmp_path: Path) -> Write:
    """Return a function that writes files of a cgroup, and returns its folder in a list."""

    def write(files: dict[str, str]) -> list[str]:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return [str(tmp_path / "missing"), str(tmp_path)]

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "nonsense\n"}, float("inf")),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "0\n"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_the_limit_of_a_cgroup_counts(
    folders: Write, files: dict[str, str], expected: float
) -> None:
    assert cores._quota(folders(files)) == expected


def test_the_affinity_and_the_limit_bound_the_cores(
    folders: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = folders({"cpu.max": "150000 100000\n"})
    monkeypatch.setattr(cores, "_folders", lambda: found)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert usable_cores() == 2
    folders({"cpu.max": "max 100000\n"})
    assert usable_cores() == 8
    folders({"cpu.max": "1000 100000\n"})
    assert usable_cores() == 1


def test_a_system_without_affinity_counts_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_folders", list)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_this_machine_has_a_core() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, "ended with exit code 0"),
        (3 << 8, "ended with exit code 3"),
        (signal.SIGKILL, "was killed by SIGKILL"),
        (signal.SIGSEGV | 0x80, "was killed by SIGSEGV, and has left a core dump"),
        (signal.SIGRTMIN + 1, f"was killed by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(status: int, expected: str) -> None:
    assert describe_status(status) == expected
    assert was_killed(status) is (status == signal.SIGKILL)


def test_what_the_kernel_kills_for_want_of_memory_is_noticed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("max 5\noom 1\noom_kill 1\n")
    monkeypatch.setattr(reports, "_events_file", lambda: str(events))
    memory = OutOfMemory()
    assert not memory.has_struck()
    events.write_text("max 5\noom 2\noom_kill 2\n")
    assert memory.has_struck()
    assert not memory.has_struck()
    # It tells nothing any more.
    events.write_text("oom_kill many\n")
    assert not memory.has_struck()
    events.unlink()
    assert not memory.has_struck()


def test_without_a_file_that_tells_it_memory_is_never_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports, "_events_file", lambda: "")
    assert not OutOfMemory().has_struck()


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EACCES, "Permission denied")


def test_a_system_that_tells_nothing_of_cgroups_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("builtins.open", refuse)
    assert reports._events_file() == ""
    assert cores._folders() == [cores._V2, cores._V1]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EMFILE, "raise that limit (ulimit -n"), (errno.EAGAIN, "raise the limit of processes")],
)
def test_what_to_do_is_said_where_no_process_can_be_had(number: int, remedy: str) -> None:
    text = reports.reason_of(OSError(number, os.strerror(number)))
    assert text.startswith(f"{os.strerror(number)}; {remedy}")
    assert reports.reason_of(OSError(errno.ENOMEM, "No memory")) == "No memory"
