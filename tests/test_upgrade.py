"""SIGUSR2: another supervisor takes the place of the one that serves, and no request is lost."""

import contextlib
import http.client
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import Certificates
from constant_load import ConstantLoad
from extent import representative
from processes import children_of, is_alive
from served_process import PATIENCE, ServedProcess, ask, served, without
from service_manager import Listening, listening, service
from test_rolling_reloads import WAYS, loaded, rounds
from test_workers import request_in_vain
from waiting import eventually

# Where there is a file of the name "gate", it is not loaded before the test has answered at the
# port in it. An answer names the supervisor and the version.
SOURCE = """
import os
import socket

def wait_for_the_test(port):
    with socket.create_connection(("127.0.0.1", port)) as gate:
        gate.recv(1)

if os.path.exists("gate"):
    with open("gate") as file:
        wait_for_the_test(int(file.read()))

def application(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        wait_for_the_test(int(environ["QUERY_STRING"]))
    if environ["PATH_INFO"] == "/variables":
        body = " ".join(os.environ).encode()
    else:
        body = f"{os.getppid()} one".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@contextlib.contextmanager
def upgradable(
    folder: Path, *options: str, source: str = SOURCE, **more: Any
) -> Iterator[ServedProcess]:
    """Serve with workers; at the end, nothing is left of any supervisor."""
    with (
        served(folder, source, "--workers", *options, start_new_session=True, **more) as process,
        all_killed_at_the_end(process),
    ):
        yield process


@contextlib.contextmanager
def all_killed_at_the_end(process: ServedProcess) -> Iterator[None]:
    """Leave nothing of any supervisor behind. The first one is the leader of a session."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def begin(process: ServedProcess, pid: int) -> int:
    """Have a supervisor start its successor; return the process of that."""
    os.kill(pid, signal.SIGUSR2)
    return int(process.said(rf"\[{pid}\] Upgrading on SIGUSR2: process (\d+) is started with: ")[1])


def upgrade(process: ServedProcess, pid: int) -> int:
    """Upgrade a supervisor; return the process of the new one once it has taken over."""
    successor = begin(process, pid)
    process.said(rf"\[{successor}\] Serving app:application at ")
    return successor


def wait_for_answer(port: int, text: str) -> None:
    """Wait until the new one answers. The old one may accept when that says that it serves."""
    eventually(lambda: ask(port) == text, lambda: f"{text!r}, not {ask(port)!r}")


def end(process: ServedProcess, pid: int) -> None:
    """Stop the supervisor that serves now, in order."""
    os.kill(pid, signal.SIGTERM)
    process.ended()
    eventually(lambda: not is_alive(pid), "the last one has ended")


def descriptors_of(process: ServedProcess) -> set[str]:
    return set(os.listdir(f"/proc/{process.pid}/fd"))


@contextlib.contextmanager
def held(folder: Path) -> Iterator[socket.socket]:
    """Let no worker load the application, from now on. What is accepted holds one of them."""
    with socket.create_server(("127.0.0.1", 0)) as gate:
        gate.settimeout(PATIENCE)
        (folder / "gate").write_text(str(gate.getsockname()[1]))
        try:
            yield gate
        finally:
            (folder / "gate").unlink(missing_ok=True)


def connection_to(port: int, supervisor: int) -> http.client.HTTPConnection:
    """Return an open connection to a worker of this supervisor, once that serves."""
    found: list[http.client.HTTPConnection] = []

    def is_found() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/")
        if connection.getresponse().read().decode() == str(supervisor):
            found.append(connection)
        else:
            connection.close()
        return bool(found)

    eventually(is_found, "a worker of it answers")
    return found[0]


# Without a loss.


@pytest.mark.parametrize("preload", representative(["--preload", "--no-preload"], "--preload"))
@pytest.mark.parametrize("way", representative(WAYS, "tcp"))
def test_every_request_is_answered_during_upgrades(tmp_path: Path, way: str, preload: str) -> None:
    began, upgrades = time.monotonic(), rounds(way, 20)
    with loaded(way, tmp_path, preload, start_new_session=True) as (process, load):
        pids, workers = [process.pid], set[int]()
        path = tmp_path / "server"
        has_file = path.exists()
        with all_killed_at_the_end(process):
            for _ in range(upgrades):
                workers |= children_of(process.pid)
                pids.append(upgrade(process, pids[-1]))
                load.wait_for_more()
                eventually(lambda: not is_alive(pids[-2]), "the one before has ended")
            assert not any(map(is_alive, workers))
            seconds = time.monotonic() - began
            for client in load.clients:
                client.finish()
            assert path.exists() == has_file
            end(process, pids[-1])
            assert not path.exists()
    load.assert_nothing_lost()
    print(
        f"{way} {preload}: {upgrades} upgrades in {seconds:.1f} s, {load.sent} requests, "
        f"longest wait {load.longest * 1000:.0f} ms"
    )


def test_requests_in_flight_are_finished_by_the_old_one(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as gate,
        upgradable(tmp_path, "1") as process,
    ):
        gate.settimeout(PATIENCE)
        port = process.port()
        answers: list[str] = []
        url = f"/wait?{gate.getsockname()[1]}"
        thread = threading.Thread(target=lambda: answers.append(ask(port, url)))
        thread.start()
        inside, _ = gate.accept()
        with inside:
            successor = upgrade(process, process.pid)
            wait_for_answer(port, f"{successor} one")
            # A service manager sends it to all processes of a service.
            os.kill(process.pid, signal.SIGTERM)
            process.said(rf"\[{process.pid}\] Stopping on SIGTERM: finishing requests in flight")
            inside.sendall(b"x")
        thread.join(PATIENCE)
        assert answers == [f"{process.pid} one"]
        assert process.process.wait(PATIENCE) == 0
        assert ask(port) == f"{successor} one"
        end(process, successor)


def test_a_second_signal_ends_the_old_one_now(tmp_path: Path) -> None:
    with upgradable(tmp_path, "1") as process:
        port = process.port()
        with request_in_vain(port):
            successor = upgrade(process, process.pid)
            process.signal(signal.SIGTERM)
            process.said(rf"\[{process.pid}\] Stopping on SIGTERM")
            process.signal(signal.SIGTERM)
            assert process.process.wait(PATIENCE) == 143
        assert ask(port) == f"{successor} one"
        end(process, successor)


def test_the_new_one_has_new_code_and_nothing_of_the_old_one_in_its_environment(
    tmp_path: Path,
) -> None:
    with upgradable(tmp_path, "1") as process:
        port = process.port()
        (tmp_path / "app.py").write_text(SOURCE.replace(" one", " another"))
        successor = upgrade(process, process.pid)
        wait_for_answer(port, f"{successor} another")
        variables = set(ask(port, "/variables").split())
        assert "PATH" in variables
        # Some are for the tests themselves.
        assert not [name for name in variables - set(os.environ) if name.startswith("AIOWSGI")]
        end(process, successor)


# What changes hands.


def test_the_pid_file_names_the_one_that_serves(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with upgradable(tmp_path, "1", "--pid-file", str(pid_file)) as process:
        process.port()
        with held(tmp_path) as gate:
            successor = begin(process, process.pid)
            inside, _ = gate.accept()
            assert pid_file.read_text() == f"{process.pid}\n"
            inside.close()
        process.said(rf"\[{successor}\] Serving")
        assert pid_file.read_text() == f"{successor}\n"
        assert process.process.wait(PATIENCE) == 0
        assert pid_file.read_text() == f"{successor}\n"
        end(process, successor)
        assert not pid_file.exists()


def test_a_relative_path_and_an_inherited_socket_are_handed_on(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "app.py").write_text(SOURCE)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        bind = ("--bind", f"fd:{sock.fileno()}", "--bind", "unix:socket", "--chdir", "sub")
        with upgradable(tmp_path, "1", bind=bind, pass_fds=[sock.fileno()]) as process:
            process.said("Serving")
            first = upgrade(process, process.pid)
            second = upgrade(process, first)
            assert ask(sock.getsockname()[1]) == f"{second} one"
            with ConstantLoad.on_path(str(tmp_path / "sub" / "socket")) as load:
                load.wait_for_more()
            load.assert_nothing_lost()
            end(process, second)
            assert not (tmp_path / "sub" / "socket").exists()


def test_the_new_one_speaks_tls_where_the_old_one_did(
    tmp_path: Path, certificates: Certificates
) -> None:
    bind = ("--bind", "127.0.0.1:0", "--bind", "http:127.0.0.1:0")
    with upgradable(tmp_path, "1", "--certfile", certificates.site, bind=bind) as process:
        urls = process.said(r" Serving .* at (https://\S+), (http://\S+) with ").groups()
        successor = upgrade(process, process.pid)
        with httpx.Client(
            verify=certificates.client_context(),
            trust_env=False,
            timeout=PATIENCE,
            # The old one may accept when the new one says that it serves.
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as client:
            for url in urls:
                eventually(lambda url=url: client.get(url).text == f"{successor} one", "it answers")
        end(process, successor)


def test_the_new_one_begins_in_the_directory_as_it_was_named(tmp_path: Path) -> None:
    for release, text in (("1", "one"), ("2", "another")):
        (tmp_path / release).mkdir()
        (tmp_path / release / "app.py").write_text(SOURCE.replace(" one", f" {text}"))
    current = tmp_path / "current"
    current.symlink_to("1")
    given = {"cwd": current, "env": {**os.environ, "PWD": str(current)}}
    with upgradable(tmp_path, "1", **given) as process:
        port = process.port()
        assert ask(port) == f"{process.pid} one"
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").replace(current)
        successor = upgrade(process, process.pid)
        wait_for_answer(port, f"{successor} another")
        end(process, successor)


def heard(systemd: Listening, name: str) -> dict[str, str]:
    """Wait for a message with this assignment among the next ones: there is always a next one."""
    return next(message for _ in range(20) if name in (message := systemd.hear()))


def test_systemd_hears_which_process_is_the_service(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "aiowsgi", "app:application")
    with (
        # With a short name: the path of a Unix socket has about 100 bytes.
        tempfile.TemporaryDirectory() as folder,
        listening(Path(folder)) as systemd,
        socket.create_server(("127.0.0.1", 0)) as sock,
    ):
        variables = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "2000000"}
        given = service(command, [sock], variables=variables)
        with upgradable(tmp_path, "1", bind=(), **given) as process:
            heard(systemd, "READY")
            process.port()
            successor = upgrade(process, process.pid)
            assert heard(systemd, "MAINPID")["MAINPID"] == str(successor)
            # The old one says nothing any more, so whatever comes is of the new one.
            assert "1 worker" in heard(systemd, "READY")["STATUS"]
            assert heard(systemd, "WATCHDOG")["WATCHDOG"] == "1"
            assert ask(sock.getsockname()[1]) == f"{successor} one"
            end(process, successor)
            heard(systemd, "STOPPING")
        assert [m["MAINPID"] for m in systemd.heard if "MAINPID" in m] == [str(successor)]
        assert sum("READY" in message for message in systemd.heard) == 2


def test_the_new_one_starts_before_the_old_one_stops(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(
        "import os, sys\n"
        "def started(): print('started', os.getpid(), file=sys.stderr, flush=True)\n"
        "def stopped(): print('stopped', os.getpid(), file=sys.stderr, flush=True)\n"
    )
    options = ("1", "--on-start", "hooks:started", "--on-stop", "hooks:stopped")
    with upgradable(tmp_path, *options) as process:
        process.port()
        successor = begin(process, process.pid)
        process.said(f"^started {successor}$")
        process.said(f"^stopped {process.pid}$")
        end(process, successor)
        assert f"stopped {successor}" in process.lines


def test_a_script_is_started_by_the_interpreter_that_it_names_now(tmp_path: Path) -> None:
    def write(interpreter: str) -> None:
        # As an installation does, not in place: the file may be a running program's.
        (tmp_path / "new").write_text(
            f"#!{interpreter}\nimport sys\nfrom aiowsgi.cli import main\nsys.exit(main())\n"
        )
        (tmp_path / "new").chmod(stat.S_IRWXU)
        (tmp_path / "new").replace(script)

    script = tmp_path / "serve"
    write(sys.executable)
    # Else its title would be shown in place of the command.
    untitled = without(tmp_path, "setproctitle")
    command = (str(script), "app:application")
    with upgradable(tmp_path, "1", command=command, env=untitled) as process:
        port = process.port()
        write(f"{sys.executable} -Xfrozen_modules=off")
        successor = upgrade(process, process.pid)
        arguments = Path(f"/proc/{successor}/cmdline").read_text().split("\0")
        assert arguments[:3] == [sys.executable, "-Xfrozen_modules=off", str(script)]
        script.unlink()
        begin(process, successor)
        process.said(rf"Not upgraded: the command cannot be run: {script}: No such file or")
        wait_for_answer(port, f"{successor} one")
        end(process, successor)


# Failures.


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import missing_module", "ModuleNotFoundError: No module named 'missing_module'"),
        ("import os; os._exit(9)", "aiowsgi: error: a worker ended with exit code 9 before it"),
    ],
)
def test_a_new_version_that_cannot_serve_leaves_the_old_one(
    tmp_path: Path, source: str, reason: str
) -> None:
    pid_file = tmp_path / "pid"
    path = tmp_path / "socket"
    bind = ("--bind", "127.0.0.1:0", "--bind", f"unix:{path}")
    with upgradable(tmp_path, "2", "--pid-file", str(pid_file), bind=bind) as process:
        port = int(process.said(r" Serving .* at http://127\.0\.0\.1:(\d+), unix:")[1])
        before = children_of(process.pid)
        descriptors = descriptors_of(process)
        with ConstantLoad.on_port(port) as load:
            (tmp_path / "app.py").write_text(source)
            successor = begin(process, process.pid)
            process.said(reason)
            process.said(
                r"ERROR .* Not upgraded: the new one ended with exit code 3, see above; "
                r"still serving with 2 workers of before$"
            )
            load.wait_for_more()
            assert not is_alive(successor)
            assert children_of(process.pid) == before
            assert descriptors_of(process) == descriptors
            assert pid_file.read_text() == f"{process.pid}\n"
            assert path.is_socket()
            # Later is another time.
            (tmp_path / "app.py").write_text(SOURCE)
            successor = upgrade(process, process.pid)
            load.wait_for_more()
        load.assert_nothing_lost()
        end(process, successor)


def test_one_of_two_new_workers_that_fails_costs_no_request(tmp_path: Path) -> None:
    # The second worker of the new one fails, once the first one serves and is asked.
    source = """
    import os, time
    if os.path.exists("new"):
        try:
            os.mkdir("first")
        except FileExistsError:
            while not os.path.exists("asked"):
                time.sleep(0.005)
            os._exit(9)

    def application(environ, start_response):
        body = str(os.getppid()).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    """
    with upgradable(tmp_path, "2", source=source) as process:
        port = process.port()
        with ConstantLoad.on_port(port, kept=4, fresh=2) as load:
            (tmp_path / "new").touch()
            successor = begin(process, process.pid)
            idle = connection_to(port, successor)
            load.wait_for_more()
            (tmp_path / "asked").touch()
            process.said("aiowsgi: error: a worker ended with exit code 9 before it served")
            # It is not closed under a request that may be on its way.
            assert select.select([idle.sock], [], [], 0.5)[0] == []
            idle.request("GET", "/")
            response = idle.getresponse()
            assert response.read().decode() == str(successor)
            assert response.getheader("Connection") == "close"
            idle.close()
            process.said("Not upgraded: the new one ended with exit code 3")
            load.wait_for_more()
        load.assert_nothing_lost()
        assert ask(port) == str(process.pid)
        assert process.stop() == 0


def test_a_new_one_that_is_killed_while_it_starts_leaves_the_old_one(tmp_path: Path) -> None:
    with upgradable(tmp_path, "1") as process:
        port = process.port()
        with ConstantLoad.on_port(port) as load, held(tmp_path) as gate:
            successor = begin(process, process.pid)
            inside, _ = gate.accept()
            with inside:
                os.kill(successor, signal.SIGKILL)
                process.said("Not upgraded: the new one was killed by SIGKILL, see above; still")
                # The worker of the new one has ended with it.
                assert inside.recv(1) == b""
            load.wait_for_more()
        load.assert_nothing_lost()
        end(process, upgrade(process, process.pid))


def test_while_an_upgrade_runs_there_is_no_other_one_and_no_reload(tmp_path: Path) -> None:
    with upgradable(tmp_path, "1") as process:
        port = process.port()
        with held(tmp_path) as gate:
            successor = begin(process, process.pid)
            inside, _ = gate.accept()
            with inside:
                process.signal(signal.SIGUSR2)
                process.said("Not upgraded on SIGUSR2: an upgrade is running already$")
                process.signal(signal.SIGHUP)
                process.said("Not reloaded: an upgrade is running, which loads all anew$")
                os.kill(successor, signal.SIGUSR2)
                process.said("Not upgraded on SIGUSR2: not all workers serve yet")
                process.signal(signal.SIGURG)
                process.said(rf"  upgrade: process {successor} starts, for \d+ s$")
                assert ask(port) == f"{process.pid} one"
        process.said(rf"\[{successor}\] Serving")
        end(process, successor)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_to_stop_stops_both(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with upgradable(tmp_path, "1") as process:
        process.port()
        with held(tmp_path) as gate:
            successor = begin(process, process.pid)
            inside, _ = gate.accept()
            with inside:
                os.kill(successor, signal.SIGSTOP)
                process.signal(number)
                eventually(
                    lambda: children_of(process.pid) == {successor}, "the old worker has ended"
                )
                # The old one waits for the new one.
                with pytest.raises(subprocess.TimeoutExpired):
                    process.process.wait(0.3)
                os.kill(successor, signal.SIGCONT)
                assert process.process.wait(PATIENCE) == code
                assert not is_alive(successor)
                assert inside.recv(1) == b""
        process.ended()
        assert not any("Upgraded" in line for line in process.lines)


def test_if_the_old_one_is_killed_the_new_one_takes_over(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with upgradable(tmp_path, "1", "--pid-file", str(pid_file)) as process:
        port = process.port()
        with held(tmp_path) as gate:
            successor = begin(process, process.pid)
            inside, _ = gate.accept()
            process.signal(signal.SIGKILL)
            process.process.wait(PATIENCE)
            inside.close()
        process.said(rf"\[{successor}\] Serving")
        assert pid_file.read_text() == f"{successor}\n"
        wait_for_answer(port, f"{successor} one")
        end(process, successor)


def test_a_variable_that_is_of_another_process_means_nothing(tmp_path: Path) -> None:
    variables = {**os.environ, "AIOWSGI_UPGRADE": '{"heir": 1}'}
    with upgradable(tmp_path, "1", env=variables) as process:
        assert "AIOWSGI_UPGRADE" not in ask(process.port(), "/variables").split()
        assert process.stop() == 0
