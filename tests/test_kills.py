"""``kill -9`` of a worker, of the mold, and of the supervisor, in each state that they may be in.

A worker that is killed costs at most the requests that it had. Nobody notices that a mold was
killed. Nothing outlives a supervisor that was killed.
"""

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from constant_load import ConstantLoad
from extent import exhaustive, representative
from gates import SOURCE, Gates
from served_process import PATIENCE, ServedProcess, served
from waiting import eventually

# Seconds in which all processes have to end once their supervisor is gone: three for requests, and
# what a busy machine may need.
_ALL_GONE = 20.0

# Answers with the process, and with the one that has loaded it.
APPLICATION = f"""{SOURCE}
LOADER = os.getpid()
pass_gate("load")

def start():
    pass_gate("start")

def application(environ, start_response):
    if environ["PATH_INFO"] == "/held":
        pass_gate("request")
    body = f"{{os.getpid()}} {{LOADER}}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Site:
    """A supervisor with two workers, and what is done to it."""

    def __init__(self, process: ServedProcess, gates: Gates, *, preloads: bool) -> None:
        self.process = process
        self.gates = gates
        self.preloads = preloads
        self.port = 0
        # The mold and the worker that are of interest in the state that it is in.
        self.mold = 0
        self.worker = 0
        # What the requests that were held were answered with.
        self.answers: list[tuple[int, int]] = []
        self._threads: list[threading.Thread] = []

    def processes(self) -> set[int]:
        """Return all of its processes, itself included."""
        return processes_of_session(self.process.pid)

    def serve(self) -> None:
        """Wait until it serves."""
        self.port = self.process.port()
        self.worker, self.mold = self.ask()

    def ask(self, path: str = "/") -> tuple[int, int]:
        """Return who answers, and who has loaded that."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Connection": "close"})
            worker, loader = connection.getresponse().read().split()
        return int(worker), int(loader)

    def hold_a_request(self) -> None:
        """Have a request in flight."""

        def ask() -> None:
            # It may be answered, or not.
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.answers.append(self.ask("/held"))

        self.gates.close("request")
        thread = threading.Thread(target=ask)
        thread.start()
        self._threads.append(thread)
        self.worker = self.gates.wait_for("request")
        self.gates.close()

    def finish(self) -> None:
        """Let go of everything."""
        self.gates.open()
        for thread in self._threads:
            thread.join(PATIENCE)


def processes_of_session(leader: int) -> set[int]:
    """Return the processes of a session that have not ended."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and state not in "ZX":
                    found.add(int(entry.name))
    return found


@contextlib.contextmanager
def site(folder: Path, preload: str, closed: str = "", source: str = APPLICATION) -> Iterator[Site]:
    """Start one. ``closed`` is a gate that is closed before."""
    options = ("--workers", "2", preload, "--on-worker-start", "app:start")
    with contextlib.ExitStack() as stack:
        gates = stack.enter_context(Gates(folder))
        gates.close(closed)
        process = stack.enter_context(
            served(*(folder, source, *options), env=gates.environment, start_new_session=True)
        )
        site = Site(process, gates, preloads=preload == "--preload")
        try:
            yield site
        finally:
            site.finish()


# --- states --------------------------------------------------------------------------------------


def loading(site: Site) -> None:
    """The application is being imported at the start."""
    site.worker = site.mold = site.gates.wait_for("load")


def starting(site: Site) -> None:
    """A worker that has the application does not serve yet."""
    site.worker = site.gates.wait_for("start")


def serving(site: Site) -> None:
    """All workers serve."""
    site.serve()


def reloading(site: Site) -> None:
    """The new version is being imported."""
    site.serve()
    site.gates.close("load")
    site.process.signal(signal.SIGHUP)
    site.worker = site.mold = site.gates.wait_for("load")


def replacing(site: Site) -> None:
    """A worker of the new version has it, and does not serve yet."""
    site.serve()
    site.gates.close("start")
    site.process.signal(signal.SIGHUP)
    site.worker = site.gates.wait_for("start")


def draining(site: Site) -> None:
    """A worker has a successor, and a request to finish."""
    site.serve()
    site.hold_a_request()
    site.process.signal(signal.SIGHUP)
    site.process.said("Reloaded: 2 workers")
    before = site.mold
    # That of before has ended with its generation, of which one may have accepted a little longer.
    eventually(lambda: site.ask()[1] != before, "an answer of the new version")
    site.mold = site.ask()[1]


def stopping(site: Site) -> None:
    """Everything stops, and a worker has a request to finish."""
    site.serve()
    site.hold_a_request()
    site.process.signal(signal.SIGTERM)
    site.process.said("Stopping on SIGTERM")


STATES: dict[str, Callable[[Site], None]] = {
    state.__name__: state
    for state in (loading, starting, serving, reloading, replacing, draining, stopping)
}
# What is closed before the start, to reach them.
_CLOSED = {"loading": "load", "starting": "start"}


@contextlib.contextmanager
def site_in(folder: Path, state: str, preload: str) -> Iterator[Site]:
    with site(folder, preload, _CLOSED.get(state, "")) as found:
        STATES[state](found)
        yield found


PRELOAD = pytest.mark.parametrize("preload", ["--preload", "--no-preload"])


# --- the supervisor ------------------------------------------------------------------------------


@PRELOAD
@pytest.mark.parametrize("state", representative(STATES, "starting", "serving"))
def test_nothing_outlives_a_killed_supervisor(tmp_path: Path, state: str, preload: str) -> None:
    with site_in(tmp_path, state, preload) as it:
        assert len(it.processes()) > 1
        it.process.signal(signal.SIGKILL)
        limit = time.monotonic() + _ALL_GONE
        eventually(lambda: not it.processes(), "the end of all")
        assert time.monotonic() < limit


def test_a_request_in_flight_is_answered_when_the_supervisor_was_killed(tmp_path: Path) -> None:
    with site(tmp_path, "--no-preload") as it:
        it.serve()
        it.hold_a_request()
        it.process.signal(signal.SIGKILL)
        it.process.said(rf"\[{it.worker}\] The supervisor is gone: stopping")
        eventually(lambda: can_bind(it.port), "the port is free for the next one")
        it.finish()
        assert it.answers == [(it.worker, it.worker)]
        eventually(lambda: not it.processes(), "the end of all")


def can_bind(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_server(("127.0.0.1", port)).close()
        return True
    return False


@PRELOAD
def test_an_application_that_ignores_signals_does_not_outlive_it_either(
    tmp_path: Path, preload: str
) -> None:
    source = f"""import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
{APPLICATION}"""
    with site(tmp_path, preload, "load", source) as it:
        it.gates.wait_for("load")
        it.process.signal(signal.SIGKILL)
        eventually(lambda: not it.processes(), "the end of all")


# --- workers -------------------------------------------------------------------------------------


@PRELOAD
@pytest.mark.parametrize("state", representative(["loading", "starting"], "starting"))
def test_a_worker_or_mold_killed_at_the_start_ends_it(
    tmp_path: Path, state: str, preload: str
) -> None:
    with site_in(tmp_path, state, preload) as it:
        os.kill(it.worker, signal.SIGKILL)
        assert it.process.ended() == 3
        assert "was killed by SIGKILL" in "\n".join(it.process.lines)
        assert not it.processes()


@PRELOAD
@pytest.mark.parametrize("state", representative(["serving", "draining"], "serving"))
def test_a_killed_worker_costs_the_requests_that_it_had(
    tmp_path: Path, state: str, preload: str
) -> None:
    with site_in(tmp_path, state, preload) as it:
        before = it.processes()
        with ConstantLoad.on_port(it.port, kept=3, fresh=2) as load:
            load.wait_for_more()
            os.kill(it.worker, signal.SIGKILL)
            eventually(lambda: it.worker not in it.processes(), "its end")
            if state == "serving":
                it.process.said(f"Worker {it.worker} was killed by SIGKILL")
                eventually(lambda: len(it.processes()) == len(before), "another one")
            load.wait_for_more()
        for client in load.clients:
            # Each has one request at a time.
            assert len(client.lost) <= 1
        who = {int(loss.before.split()[0]) for loss in load.lost if loss.before}
        assert who <= {it.worker}
        if state == "draining":
            it.process.said(f"Worker {it.worker} was killed by SIGKILL while it was stopping")
            assert not load.lost
        assert it.process.stop() == 0


@PRELOAD
def test_all_that_a_supervisor_has_started_killed_at_once_is_there_again(
    tmp_path: Path, preload: str
) -> None:
    with site_in(tmp_path, "serving", preload) as it:
        before = it.processes()
        with ConstantLoad.on_port(it.port) as load:
            load.wait_for_more()
            for pid in before - {it.process.pid}:
                os.kill(pid, signal.SIGKILL)
            eventually(lambda: before & it.processes() == {it.process.pid}, "their end")
            eventually(lambda: len(it.processes()) == len(before), "others")
            load.wait_for_more()
        assert all(len(client.lost) <= 1 for client in load.clients)
        assert it.process.stop() == 0


@exhaustive
@PRELOAD
def test_a_killed_worker_of_a_new_version_leaves_the_old_one(tmp_path: Path, preload: str) -> None:
    with site_in(tmp_path, "replacing", preload) as it:
        with ConstantLoad.on_port(it.port) as load:
            load.wait_for_more()
            os.kill(it.worker, signal.SIGKILL)
            it.process.said("Not reloaded: still serving with 2 workers of before")
            load.wait_for_more()
        load.assert_nothing_lost()
        it.gates.open()
        it.process.signal(signal.SIGHUP)
        it.process.said("Reloaded: 2 workers")
        assert it.process.stop() == 0


@PRELOAD
def test_a_worker_killed_while_it_stops_does_not_keep_the_rest_from_that(
    tmp_path: Path, preload: str
) -> None:
    with site_in(tmp_path, "stopping", preload) as it:
        os.kill(it.worker, signal.SIGKILL)
        assert it.process.ended() == 0
        assert not it.processes()


# --- the mold ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", representative(["serving", "reloading", "draining", "stopping"], "serving")
)
def test_a_killed_mold_costs_no_request(tmp_path: Path, state: str) -> None:
    with site_in(tmp_path, state, "--preload") as it:
        if state == "stopping":
            # The supervisor may have ended it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(it.mold, signal.SIGKILL)
            it.gates.open()
            assert it.process.ended() == 0
            return
        with ConstantLoad.on_port(it.port) as load:
            load.wait_for_more()
            os.kill(it.mold, signal.SIGKILL)
            if state == "reloading":
                it.process.said("Not reloaded: still serving with 2 workers of before")
            eventually(lambda: it.mold not in it.processes(), "its end")
            load.wait_for_more()
            it.gates.open()
            it.process.signal(signal.SIGHUP)
            it.process.said("Reloaded: 2 workers")
            load.wait_for_more()
        load.assert_nothing_lost()
        assert it.process.stop() == 0


def _waits_for_orders(mold: int) -> bool:
    """Whether a mold that has forked sleeps, and not within a fork, where it blocks signals."""
    status = Path(f"/proc/{mold}/status").read_text()
    return "State:\tS" in status and "SigBlk:\t0000000000000000" in status


def test_a_mold_killed_while_its_workers_start_leaves_them(tmp_path: Path) -> None:
    with site_in(tmp_path, "starting", "--preload") as it:
        workers = {it.worker, it.gates.wait_for("start")}
        (mold,) = it.processes() - workers - {it.process.pid}
        # The supervisor has to know of the second one, or the start fails.
        eventually(lambda: _waits_for_orders(mold), "the mold has told of its forks")
        os.kill(mold, signal.SIGKILL)
        it.process.said(f"The mold {mold} was killed by SIGKILL")
        it.gates.open()
        it.serve()
        assert it.mold == mold
        assert it.process.stop() == 0


@exhaustive  # Ten seconds.
def test_a_mold_that_is_stopped_is_replaced_when_a_worker_is_to_be_forked(tmp_path: Path) -> None:
    with site_in(tmp_path, "serving", "--preload") as it:
        os.kill(it.mold, signal.SIGSTOP)
        os.kill(it.worker, signal.SIGKILL)
        it.process.said(rf"The mold {it.mold} has forked no worker for 10 s, and is killed$")
        eventually(lambda: it.ask()[1] != it.mold, "an answer of a worker of the next one")
        assert it.process.stop() == 0


def test_a_worker_of_which_a_killed_mold_has_not_told_ends_by_itself(tmp_path: Path) -> None:
    # Each child is held, and so is what the mold forks first, for which it waits.
    source = f"{APPLICATION}\nos.register_at_fork(after_in_child=lambda: pass_gate('fork'))\n"
    with site(tmp_path, "--preload", source=source) as it:
        it.serve()
        it.gates.close("fork")
        os.kill(it.worker, signal.SIGKILL)
        it.gates.wait_for("fork")
        os.kill(it.mold, signal.SIGKILL)
        it.process.said(f"The mold {it.mold} was killed by SIGKILL")
        it.gates.open(but="start")
        # That worker, and one of the next mold.
        both = {it.gates.wait_for("start"), it.gates.wait_for("start")}
        assert both < it.processes()
        with ConstantLoad.on_port(it.port) as load:
            it.gates.open()
            eventually(lambda: len(both & it.processes()) == 1, "the end of one of them")
            load.wait_for_more()
        load.assert_nothing_lost()
        # The supervisor and the other worker of before, and the new mold.
        assert len(it.processes()) == 4
        assert it.process.stop() == 0
