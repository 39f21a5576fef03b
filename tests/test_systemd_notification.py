"""What a service tells systemd: that it is ready, what it does, that it is alive, that it stops."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from served_process import ANSWER, PATIENCE, WAITING, served
from service_manager import Listening, listening, service

from aiowsgi.process.systemd.notification import Notifier, load
from aiowsgi.process.systemd.report import Report

COMMAND = (sys.executable, "-m", "aiowsgi", "app:application")


# A service.


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_service_tells_that_it_is_ready_and_that_it_stops(folder: Path, abstract: bool) -> None:
    with listening(folder, abstract=abstract) as systemd:
        given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address})
        with served(folder, ANSWER, "--threads", "3", **given) as server:
            assert systemd.hear() == {"READY": "1", "STATUS": "1 process, 0/3 threads busy"}
            # It is true.
            with socket.create_connection(("127.0.0.1", server.port()), PATIENCE):
                pass
            server.signal(signal.SIGTERM)
            assert systemd.hear() == {"STOPPING": "1", "STATUS": "1 process, 0/3 threads busy"}
            assert server.ended() == 0
        assert systemd.pending() == []


def test_service_that_stops_now_tells_so(folder: Path, systemd: Listening) -> None:
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address})
    with served(folder, ANSWER, **given) as server:
        systemd.hear_of("READY")
        server.signal(signal.SIGQUIT)
        assert "STOPPING" in systemd.hear()
        assert server.ended() == 128 + signal.SIGQUIT


def test_service_that_cannot_start_is_never_ready(folder: Path, systemd: Listening) -> None:
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address})
    with served(folder, "raise ValueError", **given) as server:
        assert server.ended() == 1
    assert systemd.pending() == []


# Asks, as a program that the application has started would: is there anybody to tell?
TELLTALE = """
import os
import subprocess
import sys

CHILD = "import os; print(sorted(n for n in os.environ if n.startswith(('NOTIFY', 'WATCHDOG'))))"
at_import = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True).stdout

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [at_import, str(sorted(os.environ.keys() & {"NOTIFY_SOCKET", "WATCHDOG_USEC"})).encode()]
"""


@pytest.mark.parametrize("how", ["command", "run"])
def test_what_the_application_starts_cannot_speak_for_it(
    folder: Path, systemd: Listening, how: str
) -> None:
    (folder / "program.py").write_text(
        "import aiowsgi\n"
        "config = aiowsgi.Config(bind=('127.0.0.1:0',))\n"
        "from app import application\n"
        "aiowsgi.run(application, config=config)\n"
    )
    command = COMMAND if how == "command" else (sys.executable, "program.py")
    bind = ("--bind", "127.0.0.1:0") if how == "command" else ()
    given = service(
        command, variables={"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "60000000"}
    )
    with served(folder, TELLTALE, bind=bind, **given) as server:
        assert "READY" in systemd.hear()
        client = HTTPConnection("127.0.0.1", server.port(), timeout=PATIENCE)
        client.request("GET", "/")
        answer = client.getresponse().read().decode()
        client.close()
        # A program imports its application before it runs the server.
        at_import = "[]\n" if how == "command" else answer.splitlines(keepends=True)[0]
        assert answer == f"{at_import}[]"
        assert server.stop() == 0


# An application that stops the event loop until the test lets go.
STOPPING_THE_LOOP = """
import aiowsgi
import socket

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    aiowsgi.run_coroutine(wait_for_the_test(int(environ["QUERY_STRING"])))
    return [b"hello"]

async def wait_for_the_test(port):
    with socket.create_connection(("127.0.0.1", port)) as gate:
        gate.recv(1)
"""


@pytest.fixture
def gate() -> Iterator[socket.socket]:
    """Where the application says that it waits, until the test closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(PATIENCE)
        yield sock


def request(port: int, gate: socket.socket) -> socket.socket:
    """Ask for a page that waits for the test."""
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.sendall(f"GET /wait?{gate.getsockname()[1]} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    return client


# Seconds after which systemd would end the service, and a time in which it says so several times.
WATCHED = {"WATCHDOG_USEC": "100000"}
LONG = 0.4


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_status_says_how_busy_it_is(
    folder: Path, systemd: Listening, gate: socket.socket, loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    options = ("--threads", "1", "--loop", loop)
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address, **WATCHED})
    with served(folder, WAITING, *options, **given) as server:
        port = server.port()
        assert systemd.hear() == {"READY": "1", "STATUS": "1 process, 0/1 threads busy"}
        # Nothing has changed.
        assert systemd.hear() == systemd.hear() == {"WATCHDOG": "1"}
        with request(port, gate) as busy:
            first, _ = gate.accept()
            # It may have looked when the request was queued, and no thread had it yet.
            systemd.hear_status("1 process, 1/1 threads busy")
            with request(port, gate) as waiting:
                queued = systemd.hear_status("1 process, 1/1 threads busy, 1 request queued")
                assert "WATCHDOG" in queued
                first.close()
                assert busy.recv(1)
                gate.accept()[0].close()
                assert waiting.recv(1)
        systemd.hear_status("1 process, 0/1 threads busy")
        assert server.stop() == 0


def test_service_whose_loop_is_stuck_does_not_say_that_it_is_alive(
    folder: Path, systemd: Listening, gate: socket.socket
) -> None:
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address, **WATCHED})
    with served(folder, STOPPING_THE_LOOP, **given) as server:
        systemd.hear_of("WATCHDOG")
        with request(server.port(), gate) as client:
            held, _ = gate.accept()
            with held:
                systemd.pending()
                assert systemd.is_silent_for(LONG)
            assert client.recv(1)
        systemd.hear_of("WATCHDOG")
        assert server.stop() == 0


def test_service_whose_threads_are_lost_does_not_say_that_it_is_alive(
    folder: Path, systemd: Listening, gate: socket.socket
) -> None:
    given = service(COMMAND, variables={"NOTIFY_SOCKET": systemd.address, **WATCHED})
    options = ("--timeout-request", "50ms", "--max-lost-threads", "1", "--threads", "1")
    with served(folder, WAITING, *options, **given) as server:
        systemd.hear_of("WATCHDOG")
        with request(server.port(), gate):
            held, _ = gate.accept()
            with held:
                while "not healthy" not in (last := systemd.hear_of("STATUS"))["STATUS"]:
                    pass
                assert last == {
                    "STATUS": "1 process, 1/1 threads busy; not healthy: threads are lost"
                }
                assert systemd.is_silent_for(LONG)
        # The thread has come back.
        assert "WATCHDOG" in systemd.hear()
        assert server.stop() == 0


async def test_server_tells_from_its_loop_what_it_does(
    start_server: StartServer, systemd: Listening
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise AssertionError("nobody asks")

    server = await start_server(app, threads=3)
    notifier = Notifier(systemd.address, 0.1)
    report = Report(notifier, server)
    report.end()  # It has not begun.
    report.begin()
    # On another thread: the loop is to run.
    assert await asyncio.to_thread(systemd.hear) == {
        "READY": "1",
        "STATUS": "1 process, 0/3 threads busy",
    }
    assert await asyncio.to_thread(systemd.hear) == {"WATCHDOG": "1"}
    report.on_stop()
    assert await asyncio.to_thread(systemd.hear_of, "STOPPING") == {
        "STOPPING": "1",
        "STATUS": "1 process, 0/3 threads busy",
    }
    report.end()
    systemd.pending()
    assert await asyncio.to_thread(systemd.is_silent_for, LONG)
    notifier.close()


@pytest.mark.parametrize(
    "variables", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}]
)
def test_watchdog_of_another_process_or_of_none_is_left_alone(variables: dict[str, str]) -> None:
    environment = {"NOTIFY_SOCKET": "/n", "WATCHDOG_PID": str(os.getpid()), "HOME": "/", **WATCHED}
    assert Notifier.of_process(dict(environment)).interval == 0.025
    environment |= variables
    # That of the status.
    assert Notifier.of_process(environment).interval == 5.0
    assert environment == {"HOME": "/"}


# What is sent.


@pytest.fixture
def notifier(systemd: Listening) -> Iterator[Notifier]:
    notifier = Notifier(systemd.address, 10.0)
    yield notifier
    notifier.close()


def test_reload_says_when_it_began(notifier: Notifier, systemd: Listening) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading("reloading")
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    message = systemd.hear()
    assert before <= int(message.pop("MONOTONIC_USEC")) <= after
    assert message == {"RELOADING": "1", "STATUS": "reloading"}
    notifier.ready("as before")
    assert systemd.hear() == {"READY": "1", "STATUS": "as before"}


def test_other_process_takes_over(notifier: Notifier, systemd: Listening) -> None:
    notifier.ready("as before")
    notifier.hand_over(4711)
    assert systemd.hear() == {"READY": "1", "STATUS": "as before"}
    assert systemd.hear() == {"MAINPID": "4711", "STATUS": "as before"}


def test_status_is_sent_when_it_changes(notifier: Notifier, systemd: Listening) -> None:
    notifier.ready("idle")
    for status, is_alive in (("idle", False), ("busy", False), ("busy", False), ("idle", True)):
        notifier.look(status, is_alive=is_alive)
    assert systemd.pending() == [
        "READY=1\nSTATUS=idle",
        "STATUS=busy",
        "STATUS=idle\nWATCHDOG=1",
    ]


def test_service_that_is_not_watched_does_not_say_that_it_is_alive(systemd: Listening) -> None:
    notifier = Notifier(systemd.address, float("inf"))
    notifier.look("idle", is_alive=True)
    notifier.close()
    assert systemd.pending() == ["STATUS=idle"]


def test_full_socket_keeps_nobody_and_loses_no_message_about_the_state(
    notifier: Notifier, systemd: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"X=1", systemd.address)
    notifier.ready("idle")
    notifier.look("busy", is_alive=True)
    notifier.reloading("reloading")
    notifier.ready("busy")
    assert set(systemd.pending()) == {"X=1"}
    notifier.look("idle", is_alive=True)
    ready, reloading, again, last = systemd.pending()
    assert (ready, again, last) == (
        "READY=1\nSTATUS=idle",
        "READY=1\nSTATUS=busy",
        "STATUS=idle\nWATCHDOG=1",
    )
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/nobody/is/there", "No such file or directory"),
        ("@nobody-is-there", "Connection refused"),
        ("vsock:2:1234", r"it is neither a path nor an abstract socket \(@\)"),
        ("/" + "x" * 200, "AF_UNIX path too long"),
    ],
)
def test_what_keeps_it_from_telling_is_logged_once(
    address: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(address, float("inf"))
    notifier.ready("idle")
    notifier.look("busy", is_alive=True)
    notifier.stopping("busy")
    notifier.close()
    (record,) = caplog.records
    assert re.fullmatch(
        f"systemd cannot be told what the service does, through .* \\(NOTIFY_SOCKET\\): {reason}",
        record.getMessage(),
    )


def test_without_systemd_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier.of_process({})
    assert notifier.interval == float("inf")
    notifier.ready("idle")
    notifier.look("busy", is_alive=True)
    notifier.close()
    assert caplog.records == []


def test_status_is_for_people() -> None:
    assert load("4 workers", 3, 32, 0) == "4 workers, 3/32 threads busy"
    assert load("1 process", 8, 8, 1) == "1 process, 8/8 threads busy, 1 request queued"
