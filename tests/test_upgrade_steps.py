"""What an old and a new supervisor do with each other where something fails, without a process."""

import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from aiowsgi.observe.scoreboard import Row
from aiowsgi.process.supervisor.decisions import upgrades
from aiowsgi.process.supervisor.decisions.plan import Plan, Terms
from aiowsgi.process.systemd.notification import Notifier
from aiowsgi.process.systemd.supervised import SupervisorReport
from aiowsgi.process.upgrade import STOP, TAKE_OVER
from aiowsgi.process.upgrade.predecessor import Predecessor
from aiowsgi.process.upgrade.successor import Successor
from aiowsgi.process.upgrade.upgrade import Upgrade
from aiowsgi.process.worker.messages import FAILED, READY, Lines, encode

# No process has it.
PID = 1 << 30


class Ends:
    """How processes have ended, in the place of the children of a supervisor."""

    def __init__(self) -> None:
        self.expected: list[int] = []
        self.statuses: dict[int, int] = {}

    def expect(self, pid: int) -> None:
        self.expected.append(pid)

    def status_of(self, pid: int) -> int | None:
        return self.statuses.pop(pid, None)


class Scene:
    """A supervisor with one worker, and the other end of the channel to its successor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan = Plan(Terms(workers=1, stop_limit=35.0))
        self.plan.decide(0.0)
        self.plan.serves(1, 0.0)
        self.plan.decide(0.0)
        rows: dict[int, Row] = {}
        report = SupervisorReport(Notifier("", float("inf")), self.plan, rows)
        self.ends = Ends()
        self.upgrade = Upgrade(
            *(self.plan, self.ends, (), "", report),  # type: ignore[arg-type]
            lambda: None,
        )
        self.ours, self.theirs = ours, _ = socket.socketpair()
        ours.setblocking(False)
        self.signals: list[int] = []
        monkeypatch.setattr(Successor, "start", lambda *_: Successor(PID, ours))
        monkeypatch.setattr(os, "kill", lambda pid, number: self.signals.append(number))

    def told(self) -> list[str]:
        """Return what the successor was told."""
        self.theirs.setblocking(False)
        return [message.word for message in Lines().receive(self.theirs)]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Scene]:
    caplog.set_level(logging.INFO, "aiowsgi.error")
    scene = Scene(monkeypatch)
    yield scene
    scene.upgrade.close()
    scene.ours.close()
    scene.theirs.close()


def test_without_a_process_for_the_new_one_nothing_changes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Successor:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(Successor, "start", fail)
    scene.upgrade.begin()
    scene.upgrade.look()
    assert not scene.upgrade.is_running
    assert scene.upgrade.descriptors() == []
    assert scene.ends.expected == []
    assert "Not upgraded on SIGUSR2: no process can be had: Resource temporarily" in caplog.text


def test_a_new_one_that_ends_when_it_is_to_take_over_has_not(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.upgrade.begin()
    scene.theirs.send(encode(READY))
    scene.upgrade.hear()
    scene.theirs.close()
    scene.upgrade.look()
    assert scene.upgrade.is_running
    assert not scene.plan.is_ending
    scene.ends.statuses[PID] = signal.SIGKILL
    scene.upgrade.look()
    assert not scene.upgrade.is_running
    assert "Not upgraded: the new one was killed by SIGKILL, see above" in caplog.text


def test_the_last_words_of_the_new_one_say_why(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.upgrade.begin()
    # With a word that is none of its words.
    scene.theirs.send(encode("other") + encode(FAILED, "python: No such file"))
    scene.ends.statuses[PID] = 127 << 8
    scene.upgrade.look()
    assert "Not upgraded: the command cannot be run: python: No such file; still " in caplog.text


def test_the_end_of_one_that_has_taken_over_is_told(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.upgrade.begin()
    scene.theirs.send(encode(READY))
    scene.upgrade.hear()
    scene.upgrade.look()
    assert scene.told() == [TAKE_OVER]
    assert scene.plan.is_ending
    scene.ends.statuses[PID] = signal.SIGSEGV
    scene.upgrade.look()
    assert "The new supervisor was killed by SIGSEGV, after it had taken over" in caplog.text
    assert scene.upgrade.descriptors() == []


def test_a_new_one_that_does_not_become_ready_is_told_to_stop_and_killed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrades, "LIMIT", 0.0)
    monkeypatch.setattr(upgrades, "_MARGIN", -35.0)  # The time to stop is over at once.
    scene.upgrade.begin()
    scene.upgrade.look()
    assert scene.told() == [STOP]
    assert scene.signals == []
    scene.upgrade.look()
    assert scene.signals == [signal.SIGKILL]
    assert scene.upgrade.is_running


# The new one.


@pytest.mark.parametrize(
    ("said", "stops"), [(encode(TAKE_OVER), False), (encode(STOP) + encode(TAKE_OVER), True)]
)
def test_the_new_one_does_what_the_old_one_says(said: bytes, stops: bool) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        predecessor = Predecessor(ours)
        assert predecessor.serves
        predecessor.say_ready()
        assert theirs.recv(100) == encode(READY)
        theirs.send(said)
        predecessor.hear()
    assert not predecessor.serves
    assert predecessor.says_stop is stops
    # Nobody is there any more.
    predecessor.say_ready()
    predecessor.leave()
    assert predecessor.descriptors() == []


def test_the_new_one_takes_over_where_the_old_one_is_killed_with_something_unread() -> None:
    ours, theirs = socket.socketpair()
    predecessor = Predecessor(ours)
    predecessor.say_ready()
    theirs.close()  # The kernel reports that as an error.
    predecessor.say_ready()
    predecessor.hear()
    assert not predecessor.serves
    assert not predecessor.says_stop
