"""What a supervisor and its workers tell systemd as one service."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from extent import exhaustive
from processes import children_of
from served_process import ANSWER, PATIENCE, WAITING, ServedProcess, served
from service_manager import Listening, service

from aiowsgi import Config
from aiowsgi.errors import ConfigError
from aiowsgi.observe.scoreboard import Row, Scoreboard
from aiowsgi.process.supervisor import operations as operations_module
from aiowsgi.process.supervisor.children import Children
from aiowsgi.process.supervisor.decisions.plan import Event, Plan, Terms
from aiowsgi.process.supervisor.generations import Generations
from aiowsgi.process.supervisor.operations import Operations
from aiowsgi.process.systemd.notification import Notifier
from aiowsgi.process.systemd.supervised import SupervisorReport
from aiowsgi.process.upgrade.upgrade import Upgrade

COMMAND = (sys.executable, "-m", "aiowsgi", "app:application")
# A supervisor looks every 25 ms then.
WATCHED = {"WATCHDOG_USEC": "100000"}
# Seconds: several looks.
LONG = 0.4


@pytest.fixture
def two(folder: Path, systemd: Listening) -> Iterator[ServedProcess]:
    """Two workers that are a service with a watchdog, and that are not replaced."""
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address, **WATCHED})
    with served(folder, ANSWER, "--workers", "2", "--timeout-worker", "0", **given) as server:
        systemd.hear_of("READY")
        yield server


def falls_silent(systemd: Listening) -> bool:
    """Return whether nothing is heard any more, some time from now."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        systemd.pending()
        if systemd.is_silent_for(LONG):
            return True
    return False


# A service.


def test_service_of_workers_tells_that_it_is_ready_and_that_it_stops(
    folder: Path, systemd: Listening
) -> None:
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address})
    with served(folder, ANSWER, "--workers", "2", **given) as server:
        assert systemd.hear_of("READY")["STATUS"].startswith("2 workers")
        server.said("Serving .* with 2 workers")
        server.signal(signal.SIGTERM)
        assert systemd.hear_of("STOPPING") == {
            "STOPPING": "1",
            "STATUS": "stopping, 2 workers left",
        }
        assert server.ended() == 0


def test_service_whose_workers_cannot_start_is_never_ready(
    folder: Path, systemd: Listening
) -> None:
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address})
    with served(folder, "raise ValueError", "--workers", "2", **given) as server:
        assert server.ended() == 3
    assert not any("READY" in message for message in systemd.pending())


# Says what there is of the socket for systemd: in the environment of a child, and among the
# descriptors of the process.
TELLTALE = """
import os
import subprocess
import sys

CHILD = "import os; print(sorted(n for n in os.environ if n.startswith(('NOTIFY', 'WATCHDOG'))))"
at_import = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True).stdout

def datagram_sockets():
    inodes = set()
    with open("/proc/net/unix") as table:
        for line in list(table)[1:]:
            words = line.split()
            if words[4] == "0002":
                inodes.add(f"socket:[{words[6]}]")
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass
    return sorted(inodes & set(found))

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [at_import, str(datagram_sockets()).encode()]
"""


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_what_a_worker_starts_cannot_speak_for_the_service(
    folder: Path, systemd: Listening, options: tuple[str, ...]
) -> None:
    variables = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "60000000"}
    given = service(COMMAND, variables=variables)
    with served(folder, TELLTALE, "--workers", "1", *options, **given) as server:
        port = server.port()
        systemd.hear_of("READY")
        # From now on, the supervisor has a socket that those which it forks could have.
        server.signal(signal.SIGHUP)
        server.said("Reloaded: 1 worker")
        client = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        client.request("GET", "/")
        assert client.getresponse().read().decode() == "[]\n[]"
        client.close()
        assert server.stop() == 0


def test_reload_is_told_from_its_beginning_to_its_end(
    two: ServedProcess, systemd: Listening
) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    two.signal(signal.SIGHUP)
    reloading = systemd.hear_of("RELOADING")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    # systemd takes it for the answer to its order, if it is later.
    assert before <= int(reloading["MONOTONIC_USEC"]) <= after
    assert reloading["STATUS"].startswith("reloading, 2 workers")
    ready = systemd.hear_of("READY")
    assert ready["STATUS"].startswith("2 workers")
    two.said("Reloaded: 2 workers")
    assert two.stop() == 0


def test_reload_that_fails_ends_too_and_is_told(
    folder: Path, two: ServedProcess, systemd: Listening
) -> None:
    (folder / "app.py").write_text("raise ValueError('the new version is broken')")
    two.signal(signal.SIGHUP)
    systemd.hear_of("RELOADING")
    assert systemd.hear_of("READY")["STATUS"].endswith("; not reloaded, see the log")
    two.said("Not reloaded: still serving with 2 workers of before")
    # Until it succeeds.
    (folder / "app.py").write_text(ANSWER)
    two.signal(signal.SIGHUP)
    systemd.hear_of("RELOADING")
    assert "not reloaded" not in systemd.hear_of("READY")["STATUS"]
    assert two.stop() == 0


def test_status_tells_how_many_workers_there_are(two: ServedProcess, systemd: Listening) -> None:
    two.signal(signal.SIGTTIN)
    while not systemd.hear_of("STATUS")["STATUS"].startswith("3 workers"):
        pass
    two.signal(signal.SIGTTOU)
    while not systemd.hear_of("STATUS")["STATUS"].startswith("2 workers"):
        pass
    assert two.stop() == 0


def test_status_says_how_busy_the_workers_are(folder: Path, systemd: Listening) -> None:
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address, **WATCHED})
    options = ("--workers", "2", "--threads", "3")
    with (
        socket.create_server(("127.0.0.1", 0)) as gate,
        served(folder, WAITING, *options, **given) as server,
    ):
        gate.settimeout(PATIENCE)
        port = server.port()
        path = f"/wait?{gate.getsockname()[1]}"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            inside, _ = gate.accept()
            with inside:
                systemd.hear_status("2 workers, 1/6 threads busy")
            assert client.recv(1)
        systemd.hear_status("2 workers, 0/6 threads busy")
        assert server.stop() == 0


@exhaustive
def test_service_is_alive_as_long_as_one_of_its_workers_answers(
    two: ServedProcess, systemd: Listening
) -> None:
    first, second = children_of(two.pid)
    systemd.hear_of("WATCHDOG")
    try:
        os.kill(first, signal.SIGSTOP)
        # Longer than the patience with one that says nothing.
        began = time.monotonic()
        while time.monotonic() < began + 1.5:
            systemd.hear_of("WATCHDOG")
        os.kill(second, signal.SIGSTOP)
        assert falls_silent(systemd)
    finally:
        for pid in (first, second):
            os.kill(pid, signal.SIGCONT)
    systemd.hear_of("WATCHDOG")
    assert two.stop() == 0


def test_service_whose_supervisor_is_stuck_is_not_alive(
    two: ServedProcess, systemd: Listening
) -> None:
    systemd.hear_of("WATCHDOG")
    two.signal(signal.SIGSTOP)
    assert falls_silent(systemd)
    two.signal(signal.SIGCONT)
    systemd.hear_of("WATCHDOG")
    assert two.stop() == 0


# In memory.


class Service:
    """What is told of a plan, whose workers serve."""

    def __init__(self, address: str, workers: int) -> None:
        self.plan = Plan(Terms(workers=workers, stop_limit=35.0))
        self.rows: dict[int, Row] = {}
        self.report = SupervisorReport(Notifier(address, float("inf")), self.plan, self.rows)
        board = Scoreboard(workers, 1)
        self.plan.decide(0.0)
        for number in list(self.plan.members):
            row = board.take(1)
            assert row is not None
            self.rows[number] = row
            self.plan.serves(number, 0.0)
        self.plan.decide(0.0)


@pytest.fixture
def four(systemd: Listening) -> Iterator[Service]:
    four = Service(systemd.address, 4)
    yield four
    four.report.close()


def test_status_adds_up_what_the_workers_do(four: Service, systemd: Listening) -> None:
    def status() -> str:
        four.report.announce(Event.STARTED)
        return systemd.hear()["STATUS"]

    # They have not said yet what they do.
    assert status() == "4 workers"
    for busy, row in enumerate(four.rows.values()):
        row.note_threads(8, lost=0)
        row.note_jobs(busy)
    assert status() == "4 workers, 6/32 threads busy"
    four.rows[4].note_jobs(10)
    assert status() == "4 workers, 11/32 threads busy, 2 requests queued"
    # One that has ended, and one that is about to.
    four.plan.died(1, 20.0)
    four.plan.leaves(2, 20.0)
    assert status() == "2 of 4 workers, 10/16 threads busy, 2 requests queued"
    # One that has no row.
    del four.rows[3]
    assert status() == "2 of 4 workers, 8/8 threads busy, 2 requests queued"


def operations_of(service: Service, read_again: Callable[[], tuple[str, Config]]) -> Operations:
    """Return what acts on signals. ``read_again()`` is called for a reload."""
    generations = Generations("app:application", Config(workers=4), read_again)
    children = Children(lambda: None)
    upgrade = Upgrade(service.plan, children, (), "", service.report, lambda: None)
    return Operations(service.plan, children, generations, service.report, upgrade)


def test_hangup_of_a_terminal_that_is_gone_stops_in_order(
    four: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_again() -> tuple[str, Config]:
        return "app:application", Config(workers=4)

    monkeypatch.setattr(operations_module, "has_terminal", lambda: True)
    operations = operations_of(four, read_again)
    # It is sent by somebody, and the terminal is still there.
    operations.act(signal.SIGHUP)
    assert not four.plan.is_ending
    monkeypatch.setattr(operations_module, "has_terminal", lambda: False)
    operations.act(signal.SIGHUP)
    assert four.plan.is_ending
    assert not four.plan.ends_now


def test_reload_with_wrong_options_is_over_at_once(four: Service, systemd: Listening) -> None:
    def read_again() -> tuple[str, Config]:
        raise ConfigError("an option is wrong")

    operations_of(four, read_again).act(signal.SIGHUP)
    reloading, ready = systemd.hear(), systemd.hear()
    assert reloading["RELOADING"] == ready["READY"] == "1"
    assert ready["STATUS"] == "4 workers; not reloaded, see the log"


def test_status_says_that_a_reload_is_under_way(four: Service, systemd: Listening) -> None:
    four.plan.reload(four.plan.terms)
    # One worker serves that was started before it was asked for.
    four.report.announce(Event.STARTED)
    assert systemd.hear()["STATUS"] == "reloading, 4 workers"


def test_status_says_that_workers_are_starting(systemd: Listening) -> None:
    plan = Plan(Terms(workers=4, stop_limit=35.0))
    plan.decide(0.0)
    report = SupervisorReport(Notifier(systemd.address, 0.001), plan, {})
    while time.monotonic() < report.next_look:
        pass
    report.look()
    assert systemd.hear() == {"STATUS": "starting, 0 of 4 workers", "WATCHDOG": "1"}
    report.close()
