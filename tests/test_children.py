"""The processes of a supervisor, as it holds them: what is read, and what is told of their ends."""

import logging
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from aiowsgi.process.supervisor import children as module
from aiowsgi.process.supervisor.children import Child, Children
from aiowsgi.process.supervisor.decisions.plan import Plan, Terms
from aiowsgi.process.supervisor.reports import OutOfMemory, Reports
from aiowsgi.process.worker.messages import READY, Message, encode

# No process has it.
PID = 1 << 30


class Ends:
    """A child, and its own ends of what connects it with the supervisor."""

    def __init__(self, number: int) -> None:
        ours, self.channel = socket.socketpair()
        ours.setblocking(False)
        reading, self.stacks = os.pipe()
        os.set_blocking(reading, False)
        self.child = Child(number, 1, PID, ours, reading, 0.0)

    def close(self) -> None:
        self.channel.close()
        if self.stacks >= 0:
            os.close(self.stacks)
            self.stacks = -1


@pytest.fixture
def ends(no_descriptor_is_left: None) -> Iterator[Ends]:
    ends = Ends(1)
    yield ends
    ends.close()
    ends.child.close()


def test_the_stacks_of_a_worker_are_kept_as_far_as_there_is_room(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_STACKS", 10)
    child = ends.child
    assert child.read(child.stacks) == []
    assert child.written == b""
    for _ in range(2):
        os.write(ends.stacks, b"Thread")
        child.read(child.stacks)
    assert child.written == b"ThreadThre"
    assert len(child.descriptors()) == 2
    ends.close()
    child.read(child.stacks)
    assert child.descriptors() == [child.channel.fileno()]
    assert child.written == b"ThreadThre"


def test_what_a_process_has_left_behind_is_read_though_others_have_its_ends(ends: Ends) -> None:
    ends.channel.send(encode(READY, "app", "4 threads"))
    os.write(ends.stacks, b"Thread")
    # The ends of the worker stay open: it has left a child.
    assert list(ends.child.read_rest()) == [Message(READY, ("app", "4 threads"))]
    assert ends.child.written == b"Thread"
    assert ends.child.descriptors() == []


def test_a_process_that_has_ended_is_neither_told_anything_nor_signalled(ends: Ends) -> None:
    ends.close()
    ends.child.tell("replaced")
    ends.child.signal(signal.SIGTERM)


@pytest.mark.usefixtures("no_descriptor_is_left")
def test_a_mold_that_has_ended_cannot_be_told_to_fork() -> None:
    children = Children(lambda: None)
    mold = Ends(-1)
    mold.close()
    with pytest.raises(OSError, match="Broken pipe"):
        children.order(2, None, mold.child)
    # There is nothing that could be given up.
    children.give_up(2)
    mold.child.close()
    close(children)


@pytest.mark.usefixtures("no_descriptor_is_left")
def test_a_worker_that_a_mold_will_not_fork_leaves_nothing_behind() -> None:
    children = Children(lambda: None)
    mold = Ends(-1)
    children.order(2, None, mold.child)
    children.give_up(2)
    mold.close()
    mold.child.close()
    close(children)


def close(children: Children) -> None:
    """Close the lifeline, which a supervisor has until its end."""
    os.close(children._held)
    os.close(children._lifeline)


# What is told of their ends.


@pytest.fixture
def plan() -> Plan:
    """A plan with a worker that serves."""
    plan = Plan(Terms(workers=1, stop_limit=35.0))
    plan.decide(0.0)
    plan.serves(1, 0.0)
    plan.decide(0.0)
    return plan


@pytest.fixture
def short_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutOfMemory, "has_struck", lambda self: True)


@pytest.mark.usefixtures("short_of_memory")
@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (signal.SIGKILL, "was killed by SIGKILL: the kernel has run out of memory (see memory.max"),
        (signal.SIGTERM, "was killed by SIGTERM after "),
    ],
)
def test_it_is_told_where_the_kernel_has_killed_a_worker_for_its_memory(
    ends: Ends, plan: Plan, caplog: pytest.LogCaptureFixture, status: int, reason: str
) -> None:
    Reports(plan).worker_ended(ends.child, status, [])
    assert f"Worker {PID} {reason}" in caplog.text
    assert ("memory" in caplog.text) is (status == signal.SIGKILL)


def test_a_worker_that_ends_as_it_was_told_to_is_hardly_worth_a_word(
    ends: Ends, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aiowsgi.error")
    plan.stop(0.0, 0)
    plan.decide(0.0)
    reports = Reports(plan)
    reports.worker_ended(ends.child, 0, [])
    ends.child.verdict = "did not end in time, and was killed"
    reports.worker_ended(ends.child, signal.SIGKILL, [])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", f"Worker {PID} ended with exit code 0"),
        ("ERROR", f"Worker {PID} did not end in time, and was killed"),
    ]


@pytest.mark.usefixtures("short_of_memory")
def test_the_end_of_a_mold_is_told_where_workers_might_have_been_forked_from_it(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends(-1)
    ends.child.written += b"Thread 0x1:\n  in load\n"
    reports = Reports(plan)
    reports.mold_ended(ends.child, signal.SIGKILL, has_lost_workers=False)
    assert f"The mold {PID} was killed by SIGKILL: the kernel has run out of memory" in caplog.text
    assert caplog.text.endswith("\nThread 0x1:\n  in load\n")
    caplog.clear()
    plan.stop(0.0, 0)
    reports.mold_ended(ends.child, signal.SIGKILL, has_lost_workers=False)
    assert caplog.records == []
    ends.close()
    ends.child.close()
