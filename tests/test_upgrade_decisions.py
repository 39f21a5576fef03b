"""What a supervisor decides during an upgrade, and what it passes on, in memory."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest
from test_plan import LIMIT as STOP_LIMIT
from test_plan import Driver

from aiowsgi.config import ListenerConfig
from aiowsgi.errors import ConfigError, PidFileError
from aiowsgi.net.bind.listening import ListeningSocket
from aiowsgi.net.bind.socket_file import bind_file
from aiowsgi.process.identity.pid_file import PidFile
from aiowsgi.process.supervisor.decisions.plan import CloseSockets, End, Plan, Stop, Terms
from aiowsgi.process.supervisor.decisions.upgrades import (
    LIMIT,
    Failed,
    HandOver,
    KillSuccessor,
    Lost,
    Phase,
    TellToStop,
    UpgradeAction,
    Upgrades,
)
from aiowsgi.process.upgrade.command import starting_command
from aiowsgi.process.upgrade.inheritance import VARIABLE, describe, inheritance_of

LISTENER = ListenerConfig.parse("uwsgi:unix:socket?mode=600", backlog=5)


class Supervisor:
    """Upgrades, the clock by which they decide, and what else they look at."""

    def __init__(self) -> None:
        self.upgrades = Upgrades()
        self.now = 100.0
        self.is_ending = False
        self.ends_now = False

    def decide(self, *, after: float = 0.0) -> list[UpgradeAction]:
        self.now += after
        return self.upgrades.decide(
            self.now, is_ending=self.is_ending, ends_now=self.ends_now, stop_limit=30.0
        )

    def begun(self) -> "Supervisor":
        self.upgrades.begin(self.now)
        assert self.decide() == []
        return self


# When there may be a successor.


@pytest.mark.parametrize(
    ("facts", "objection"),
    [
        ({}, ""),
        ({"pid": 1}, "this is the first process of a container"),
        ({"has_started": False}, "not all workers serve yet"),
        ({"is_ending": True}, "it stops already"),
    ],
)
def test_who_may_have_a_successor(facts: dict[str, int], objection: str) -> None:
    given = {"pid": 7, "has_started": True, "is_ending": False, **facts}
    found = Upgrades().objection(
        pid=given["pid"],
        has_started=bool(given["has_started"]),
        is_ending=bool(given["is_ending"]),
    )
    assert found.startswith(objection)
    assert bool(found) == bool(objection)


def test_there_is_one_at_a_time() -> None:
    supervisor = Supervisor().begun()
    assert supervisor.upgrades.objection(pid=7, has_started=True, is_ending=False) == (
        "an upgrade is running already"
    )
    supervisor.upgrades.ended("was killed by SIGKILL")
    supervisor.decide()
    assert supervisor.upgrades.objection(pid=7, has_started=True, is_ending=False) == ""


# What becomes of it.


def test_one_that_is_ready_takes_over() -> None:
    supervisor = Supervisor().begun()
    supervisor.upgrades.ready()
    assert supervisor.decide() == [HandOver()]
    assert not supervisor.upgrades.is_running
    supervisor.is_ending = True
    assert supervisor.decide(after=2 * LIMIT) == []
    supervisor.upgrades.ended("was killed by SIGKILL")
    assert supervisor.decide() == [Lost("was killed by SIGKILL")]
    assert supervisor.decide() == []


def test_one_that_ends_has_failed() -> None:
    supervisor = Supervisor().begun()
    # It may have said so a moment before.
    supervisor.upgrades.ready()
    supervisor.upgrades.ended("ended with exit code 3")
    assert supervisor.decide() == [Failed("the new one ended with exit code 3, see above")]
    assert supervisor.upgrades.phase is Phase.ABSENT
    assert supervisor.decide(after=2 * LIMIT) == []


def test_one_that_cannot_take_over_any_more_has_failed() -> None:
    supervisor = Supervisor().begun()
    supervisor.upgrades.ready()
    assert supervisor.decide() == [HandOver()]
    supervisor.upgrades.refused()
    assert supervisor.upgrades.is_running
    assert supervisor.decide() == []
    supervisor.upgrades.ended("was killed by SIGKILL")
    assert supervisor.decide() == [Failed("the new one was killed by SIGKILL, see above")]


def test_what_it_says_about_its_failure_is_told() -> None:
    supervisor = Supervisor().begun()
    supervisor.upgrades.fails("there is no such command")
    supervisor.upgrades.ended("ended with exit code 127")
    assert supervisor.decide() == [Failed("there is no such command")]


def test_one_that_is_not_ready_in_time_is_told_to_stop_and_then_killed() -> None:
    supervisor = Supervisor().begun()
    assert supervisor.upgrades.wake_at == supervisor.now + LIMIT
    assert supervisor.decide(after=LIMIT - 1) == []
    assert supervisor.decide(after=1) == [TellToStop(now=False)]
    # It is too late for that.
    supervisor.upgrades.ready()
    assert supervisor.decide(after=34) == []
    assert supervisor.upgrades.wake_at == supervisor.now + 1
    assert supervisor.decide(after=1) == [KillSuccessor()]
    assert supervisor.decide() == []
    assert supervisor.decide(after=5) == [KillSuccessor()]
    supervisor.upgrades.ended("was killed by SIGKILL")
    assert supervisor.decide() == [Failed(f"the new one was not ready within {LIMIT:g} s")]


def test_a_supervisor_that_stops_takes_it_along() -> None:
    supervisor = Supervisor().begun()
    supervisor.is_ending = True
    supervisor.upgrades.ready()
    assert supervisor.decide() == [TellToStop(now=False)]
    assert supervisor.upgrades.is_running
    assert supervisor.decide() == []
    supervisor.ends_now = True
    assert supervisor.decide() == [TellToStop(now=True)]
    assert supervisor.decide(after=4) == []
    assert supervisor.decide(after=1) == [KillSuccessor()]
    supervisor.upgrades.ended("was killed by SIGKILL")
    assert supervisor.decide() == [Failed("this supervisor stops")]
    assert not supervisor.upgrades.is_running


# The workers of one that has handed over.


def test_workers_of_one_that_has_handed_over_stop_without_a_delay() -> None:
    driver = Driver(drain_delay=9.0).started()
    driver.plan.hand_over(driver.now)
    assert driver.plan.others_serve
    assert driver.decide() == [CloseSockets(), Stop(1), Stop(2)]
    assert not driver.plan.was_told_to_stop
    driver.plan.stop(driver.now, 0)
    assert driver.plan.was_told_to_stop
    assert driver.decide(after=STOP_LIMIT - 1) == []
    assert driver.die(1) == []
    assert driver.die(2) == [End(0)]


def test_a_new_one_that_stops_before_it_has_taken_over_has_no_delay_either() -> None:
    plan = Plan(Terms(workers=1, stop_limit=STOP_LIMIT, drain_delay=9.0), others_serve=True)
    plan.decide(0.0)
    plan.serves(1, 0.0)
    plan.decide(0.0)
    plan.stop(1.0, 0)
    assert plan.decide(1.0) == [CloseSockets(), Stop(1)]


# What is passed on.


def test_what_is_described_is_inherited(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    first = socket.create_server(("127.0.0.1", 0))
    second = socket.socket(socket.AF_UNIX)
    file = bind_file(second, path, LISTENER)
    sockets = [
        ListeningSocket(first, inherited=True),
        ListeningSocket(second, file, listener=LISTENER),
    ]
    ours, theirs = socket.socketpair()
    # As in a process that is another program by now: it has the descriptors, and no objects.
    copies = [os.dup(sock.fileno()) for sock in (first, second, theirs)]
    given = json.loads(describe(sockets, theirs.fileno(), 77))
    given["sockets"][0]["descriptor"], given["sockets"][1]["descriptor"], given["channel"] = copies
    environment = {VARIABLE: json.dumps(given), "A": "b"}
    inherited = inheritance_of(environment)
    assert environment == {"A": "b"}
    assert inherited is not None
    assert inherited.predecessor == 77
    inherited.channel.send(b"x")
    assert ours.recv(1) == b"x"
    tcp, unix = inherited.sockets
    assert tcp.socket.getsockname() == first.getsockname()
    assert (tcp.listener.protocol, tcp.inherited, tcp.file) == ("http", True, None)
    assert unix.socket.getsockname() == path
    assert (unix.listener, unix.inherited) == (LISTENER, False)
    assert not any(os.get_inheritable(copy) for copy in copies)
    # The file is that of the old one, until the new one takes it over.
    sockets[1].disown_file()
    sockets[1].close()
    assert os.path.exists(path)
    unix.own_file()
    unix.close()
    assert not os.path.exists(path)
    for sock in (first, theirs, ours, inherited.channel, tcp.socket):
        sock.close()


def test_a_file_that_was_not_taken_over_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as sock:
        file = bind_file(sock, str(path), LISTENER)
        listening = ListeningSocket(sock, type(file).of_other(*file.describe()))
        listening.close()
    assert path.exists()
    file.remove()
    assert not path.exists()


def test_what_is_for_another_process_is_not_inherited() -> None:
    text = describe([], 0, 77).replace(f'"heir": {os.getpid()}', '"heir": 1')
    environment = {VARIABLE: text}
    assert inheritance_of(environment) is None
    assert environment == {}


def test_descriptors_that_are_not_open_are_told() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(ConfigError, match=r"^cannot take over the sockets of process 77: they "):
        inheritance_of({VARIABLE: describe([], read, 77)})


def test_a_pid_file_may_be_that_of_the_predecessor(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    other = os.getppid()
    path.write_text(f"{other}\n")
    with pytest.raises(PidFileError, match=f"process {other} is running"):
        PidFile(path, other + 1).check()
    pid_file = PidFile(path, other)
    pid_file.check()
    pid_file.write()
    assert path.read_text() == f"{os.getpid()}\n"


# The command.


def test_the_command_is_the_one_that_was_given() -> None:
    command = ["python3", "-X", "dev", "-m", "aiowsgi", "app", "--workers", "2"]
    assert starting_command(command, "/lib/aiowsgi/__main__.py") == command


@pytest.mark.parametrize(
    ("line", "before"),
    [
        ("#!/venv/bin/python", ["/venv/bin/python"]),
        ("#! /venv/bin/python -I -E ", ["/venv/bin/python", "-I -E"]),
    ],
)
def test_a_script_that_was_started_by_its_name_is_so_again(
    tmp_path: Path, line: str, before: list[str]
) -> None:
    script = tmp_path / "serve"
    script.write_text(f"{line}\nimport aiowsgi\n")
    script.chmod(stat.S_IRWXU)
    assert starting_command([*before, str(script), "app"], str(script)) == [str(script), "app"]
    # Here somebody has chosen the interpreter.
    command = ["python3", str(script), "app"]
    assert starting_command(command, str(script)) == command
    # Its own argument is the application.
    assert starting_command([*before, str(script)], str(script)) == [str(script)]


def test_a_script_without_an_interpreter_or_without_a_file_is_given_to_one(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    command = ["python3", str(script), "app"]
    assert starting_command(command, str(script)) == command
    script.write_text("import aiowsgi\n")
    assert starting_command(command, str(script)) == command
