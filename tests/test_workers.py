"""Several processes, as a user starts them: a supervisor and its workers, all of them real."""

import contextlib
import http.client
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from constant_load import ConstantLoad
from extent import exhaustive
from processes import children_of, is_alive, state_of
from served_process import PATIENCE, ServedProcess, ask, served
from waiting import eventually

APPLICATION = """
import ctypes
import os
import socket
import threading
import sys

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/segfault":
        ctypes.string_at(0)
    if path == "/stuck":
        ctypes.PyDLL(None).sleep(600)  # It does not let the interpreter go.
    if path == "/exit":
        os._exit(7)
    if path == "/wait":
        with socket.create_connection(("127.0.0.1", int(environ["QUERY_STRING"]))) as gate:
            gate.recv(1)
    body = f"{os.getpid()} one".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@contextlib.contextmanager
def request_in_vain(port: int) -> Iterator[None]:
    """Have a request wait in the application, which is cut inside of ``with``."""
    with (
        socket.create_server(("127.0.0.1", 0)) as gate,
        ThreadPoolExecutor(1) as executor,
    ):
        gate.settimeout(PATIENCE)
        answer = executor.submit(ask, port, f"/wait?{gate.getsockname()[1]}")
        with gate.accept()[0]:
            yield
        with pytest.raises(httpx.HTTPError):
            answer.result(PATIENCE)


def sockets_of(pid: int) -> int:
    number = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # It was closed meanwhile.
            number += os.readlink(file).startswith("socket:")
    return number


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[ServedProcess, int]]:
    """A supervisor with two workers, and its port."""
    with served(tmp_path, APPLICATION, "--workers", "2") as process:
        port = process.port()
        yield process, port
        assert process.stop() == 0


def test_workers_serve_and_end_with_their_supervisor(tmp_path: Path) -> None:
    with served(tmp_path, APPLICATION, "--workers", "2") as process:
        match = process.said(r"\[(\d+)\] Serving app:application at http://127.0.0.1:(\d+) (.*)$")
        assert int(match[1]) == process.pid
        assert match[3].startswith("with 2 workers of ")
        pids = children_of(process.pid)
        assert len(pids) == 2
        assert int(ask(int(match[2])).split()[0]) in pids
        assert process.stop() == 0
        assert not any(map(is_alive, pids))


def test_number_of_workers_may_come_from_the_environment(tmp_path: Path) -> None:
    environment = {**os.environ, "WEB_CONCURRENCY": "1"}
    with served(tmp_path, APPLICATION, env=environment) as process:
        process.said(r"Serving .* with 1 worker of ")
        assert len(children_of(process.pid)) == 1
        assert process.stop() == 0


def test_a_worker_that_crashes_is_replaced_and_its_stacks_are_told(
    two: tuple[ServedProcess, int],
) -> None:
    process, port = two
    with pytest.raises(httpx.HTTPError):
        ask(port, "/segfault")
    process.said(r"ERROR .* Worker \d+ was killed by SIGSEGV after .*, and is replaced$")
    process.said(r"^It was answering:$")
    process.said(r"^  GET /segfault \[.+\] \(for \d+\.\d s\)$")
    process.said(r"in application$")
    eventually(lambda: len(children_of(process.pid)) == 2, "it is replaced")
    assert ask(port).endswith("one")


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each loads it", "preloaded"])
def test_requests_of_a_killed_worker_are_told(tmp_path: Path, options: tuple[str, ...]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as gate,
        served(tmp_path, APPLICATION, "--workers", "1", *options) as process,
    ):
        gate.settimeout(PATIENCE)
        port, gate_port = process.port(), gate.getsockname()[1]
        worker = int(ask(port).split()[0])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"GET /wait?{gate_port} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            with gate.accept()[0]:  # The application has begun.
                os.kill(worker, signal.SIGKILL)
                process.said(rf"Worker {worker} was killed by SIGKILL after .*, and is replaced$")
                process.said(r"^It was answering:$")
                process.said(rf"^  GET /wait\?{gate_port} \[.+\] \(for \d+\.\d s\)$")
        assert ask(port).endswith("one")
        assert process.stop() == 0


def test_a_worker_that_exits_is_replaced(two: tuple[ServedProcess, int]) -> None:
    process, port = two
    with pytest.raises(httpx.HTTPError):
        ask(port, "/exit")
    process.said(r"Worker \d+ ended with exit code 7 after ")
    eventually(lambda: len(children_of(process.pid)) == 2, "it is replaced")
    assert ask(port).endswith("one")


def test_a_killed_supervisor_leaves_nobody_behind(tmp_path: Path) -> None:
    with served(tmp_path, APPLICATION, "--workers", "2") as process:
        process.port()
        pids = children_of(process.pid)
        process.signal(signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, pids)), "the workers end")


def test_a_supervisor_that_is_killed_during_the_start_leaves_nobody_behind(tmp_path: Path) -> None:
    source = "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(600)"
    with served(tmp_path, source, "--workers", "1") as process:
        process.said("importing")
        pids = children_of(process.pid)
        assert pids
        process.signal(signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, pids)), "the worker ends")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("application = None", "aiowsgi: error: 'app:application' is not an application: "),
        ("1 / 0", "aiowsgi: error: importing the module 'app' failed"),
        ("import os; os._exit(9)", "aiowsgi: error: a worker ended with exit code 9 before it"),
    ],
)
def test_an_application_that_cannot_be_loaded_ends_the_start_with_one_message(
    tmp_path: Path, source: str, message: str
) -> None:
    with served(tmp_path, source, "--workers", "3") as process:
        assert process.ended() == 3
        assert [line for line in process.lines if "aiowsgi: error:" in line] == [
            line for line in process.lines if line.startswith(message)
        ]
        assert sum(line.startswith(message) for line in process.lines) == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGQUIT, 131)], ids=["INT", "QUIT"]
)
def test_a_quick_end_does_not_wait_for_requests(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with served(tmp_path, APPLICATION, "--workers", "2") as process:
        with request_in_vain(process.port()):
            pids = children_of(process.pid)
            process.signal(number)
            assert process.ended() == code
        assert not any(map(is_alive, pids))


def test_hangup_replaces_all_workers_by_ones_with_new_code(
    tmp_path: Path, two: tuple[ServedProcess, int]
) -> None:
    process, port = two
    before = children_of(process.pid)
    # Later than the bytecode that is there, and of another size.
    (tmp_path / "app.py").write_text(APPLICATION.replace(" one", " another"))
    process.signal(signal.SIGHUP)
    process.said(r"INFO .* Reloaded: 2 workers, in ")
    eventually(lambda: not before & children_of(process.pid), "the old ones have ended")
    assert len(children_of(process.pid)) == 2
    assert ask(port).endswith("another")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--max-requests", "20", "--max-requests-jitter", "5"), r"it has had \d+ requests "),
        (("--max-age", "0.5"), r"it has served for 0\.5 s "),
        (("--max-rss", "1M"), r"it takes \d+ MiB of memory "),
    ],
    ids=["requests", "age", "memory"],
)
def test_worn_workers_are_replaced_and_no_request_is_lost(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    with served(tmp_path, APPLICATION, "--workers", "1", *options) as process:
        port = process.port()
        before = children_of(process.pid)
        with ConstantLoad.on_port(port, kept=1, fresh=0) as load:
            process.said(rf"Worker \d+ is to be replaced: {reason}\(--max-")
            eventually(lambda: not before & children_of(process.pid), "it is replaced")
            load.wait_for_more()
        load.assert_nothing_lost()
        assert process.stop() == 0


def test_a_worker_that_has_lost_its_threads_is_replaced(tmp_path: Path) -> None:
    options = ("--workers", "1", "--timeout-request", "0.2", "--max-lost-threads", "1")
    with (
        socket.create_server(("127.0.0.1", 0)) as gate,
        served(tmp_path, APPLICATION, *options, "--timeout-graceful", "0.5") as process,
    ):
        port = process.port()
        before = children_of(process.pid)
        assert ask(port, f"/wait?{gate.getsockname()[1]}").startswith("504 ")
        process.said(r"is to be replaced: too many threads are lost")
        eventually(lambda: not before & children_of(process.pid), "it is replaced")
        assert ask(port).endswith("one")
        assert process.stop() == 0


def test_a_worker_that_is_stuck_is_killed_and_its_stacks_are_told(tmp_path: Path) -> None:
    options = ("--workers", "2", "--timeout-worker", "1")
    with served(tmp_path, APPLICATION, *options) as process:
        port = process.port()
        with pytest.raises(httpx.HTTPError):
            ask(port, "/stuck")
        process.said(r"ERROR .* Worker \d+ has not answered for 1 s \(--timeout-worker\), and is ")
        process.said(r"^  GET /stuck \[.+\] \(for \d+\.\d s\)$")
        process.said(r"in application$")
        eventually(lambda: len(children_of(process.pid)) == 2, "it is replaced")
        assert ask(port).endswith("one")
        assert process.stop() == 0


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_what_takes_long_to_start_is_named_and_can_be_asked_where_it_is(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    hangs = tmp_path / "hangs"
    source = f"""
import pathlib, threading
def hang():
    pathlib.Path({str(hangs)!r}).touch()
    threading.Event().wait()
hang()
"""
    more = ("--workers", "1", "--timeout-worker", "0.5", *options)
    with served(tmp_path, source, *more) as process:
        who = "The mold" if options else "Worker"
        asked = process.said(rf"{who} (\d+) has not served within 0\.5 s of its start")
        eventually(hangs.exists, "the import that does not end")
        os.kill(int(asked[1]), signal.SIGABRT)
        assert process.ended() == 3
        assert any(line.endswith("in hang") for line in process.lines)


def test_signals_to_all_processes_end_no_worker_that_starts(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(
        "import sys\ndef begin(): print('begun', file=sys.stderr, flush=True)\n"
    )
    options = ("--workers", "2", "--on-start", "hooks:begin")
    with served(tmp_path, APPLICATION, *options, start_new_session=True) as process:
        process.said("^begun$")
        serves = threading.Event()

        def signal_all() -> None:
            while not serves.wait(0.01):
                os.killpg(process.pid, signal.SIGUSR1)

        thread = threading.Thread(target=signal_all)
        thread.start()
        try:
            port = process.port()
        finally:
            serves.set()
            thread.join(PATIENCE)
        assert ask(port).endswith("one")
        assert process.stop() == 0


@exhaustive
def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    options = ("--workers", "2", "--timeout-worker", "0", "--timeout-graceful", "0")
    with served(tmp_path, APPLICATION, *options) as process:
        process.port()
        pids = children_of(process.pid)
        stopped = min(pids)
        os.kill(stopped, signal.SIGSTOP)
        eventually(lambda: state_of(stopped) == "T", "it is stopped")
        process.signal(signal.SIGTERM)
        process.said(rf"ERROR .* Worker {stopped} did not end in time, and was killed$")
        assert process.ended() == 0
        assert not any(map(is_alive, pids))


# Called in the supervisor. Has neither it nor a mold fork while there is the file.
HOOKS = """
import errno
import os

def limit_processes():
    fork = os.fork
    def limited():
        if os.path.exists("no-more"):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()
    os.fork = limited
"""


@exhaustive
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each loads it", "preloaded"])
def test_where_no_process_can_be_had_the_others_serve_until_one_can(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    hook = ("--on-start", "hooks:limit_processes")
    with served(tmp_path, APPLICATION, "--workers", "2", *hook, *options) as process:
        port = process.port()
        before = children_of(process.pid)
        worker = int(ask(port).split()[0])
        (tmp_path / "no-more").touch()
        os.kill(worker, signal.SIGKILL)
        process.said(rf"Worker {worker} was killed by SIGKILL after .*, and is replaced$")
        # It is tried again.
        for _ in range(2):
            process.said(r"ERROR .* Cannot start a worker: .+; raise the limit of processes ")
        assert ask(port).endswith(" one")
        process.signal(signal.SIGUSR2)
        process.said(r"Not upgraded on SIGUSR2: no process can be had: Resource temporarily un")
        process.signal(signal.SIGHUP)
        process.said("Not reloaded: still serving with 1 worker of before, see above")
        assert children_of(process.pid) == before - {worker}
        (tmp_path / "no-more").unlink()
        eventually(lambda: len(children_of(process.pid)) == len(before), "it is replaced")
        assert process.stop() == 0


def test_a_broken_new_version_leaves_the_old_workers(
    tmp_path: Path, two: tuple[ServedProcess, int]
) -> None:
    process, port = two
    before = children_of(process.pid)
    (tmp_path / "app.py").write_text("import missing_module")
    process.signal(signal.SIGHUP)
    process.said(r"A new worker cannot serve:")
    process.said(r"No module named 'missing_module'")
    process.said(r"Not reloaded: still serving with 2 workers of before")
    assert children_of(process.pid) == before
    assert ask(port).endswith("one")


def test_a_reload_follows_the_links_by_which_the_directory_was_named(tmp_path: Path) -> None:
    for release, text in (("1", "one"), ("2", "another")):
        (tmp_path / release / "sub").mkdir(parents=True)
        (tmp_path / release / "sub" / "app.py").write_text(APPLICATION.replace(" one", f" {text}"))
    current = tmp_path / "current"
    current.symlink_to("1")
    options = ("--workers", "1", "--chdir", "sub")
    given = {"cwd": current, "env": {**os.environ, "PWD": str(current)}}
    with served(tmp_path, "", *options, **given) as process:
        port = process.port()
        assert ask(port).endswith(" one")
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").replace(current)
        process.signal(signal.SIGHUP)
        process.said("Reloaded: 1 worker")
        eventually(lambda: ask(port).endswith(" another"), "the old one accepts no more")
        assert process.stop() == 0


def test_workers_may_become_more_and_fewer(two: tuple[ServedProcess, int]) -> None:
    process, _ = two
    process.signal(signal.SIGTTIN)
    process.said("3 workers on SIGTTIN")
    eventually(lambda: len(children_of(process.pid)) == 3, "there is one more")
    process.signal(signal.SIGTTOU)
    process.said("2 workers on SIGTTOU")
    eventually(lambda: len(children_of(process.pid)) == 2, "there is one less")


def test_it_tells_what_workers_do_and_what_signals_mean(two: tuple[ServedProcess, int]) -> None:
    process, _ = two
    process.signal(signal.SIGURG)
    process.said(r"Asked by SIGURG: 2 workers$")
    process.said(r"  worker \d+: serving, for \d+ s$")
    process.said(r"  HUP +reload")
    process.signal(signal.SIGWINCH)
    process.signal(signal.SIGUSR1)
    process.said("Ignored SIGUSR1")


def test_it_tells_what_workers_do_also_beside_a_mold(tmp_path: Path) -> None:
    with served(tmp_path, APPLICATION, "--workers", "1", "--preload") as process:
        port = process.port()
        process.signal(signal.SIGURG)
        process.said(r"Asked by SIGURG: 1 worker$")
        assert ask(port).endswith("one")
        assert process.stop() == 0


def test_the_supervisor_is_small(two: tuple[ServedProcess, int]) -> None:
    process, _ = two
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    assert private < 12 << 10
    assert len(os.listdir(f"/proc/{process.pid}/task")) == 1


# Where a process does not get a processor for long, it is not waited for. So tests of who accepts
# tolerate that some connections go elsewhere.


def test_no_request_waits_for_a_thread_where_another_worker_has_a_free_one(tmp_path: Path) -> None:
    number, tolerated = 30, 3
    with (
        socket.create_server(("127.0.0.1", 0)) as gate,
        served(tmp_path, APPLICATION, "--workers", "2", "--threads", "1") as process,
        contextlib.ExitStack() as stack,
    ):
        gate.settimeout(PATIENCE)
        port = process.port()
        connect(stack, port, f"/wait?{gate.getsockname()[1]}")
        with gate.accept()[0]:  # The thread of one worker is busy from here on.
            clients = []
            for _ in range(number):
                clients.append(client := connect(stack, port, "/"))
                # One after the other: else the other worker would have no free thread either.
                select.select([client], [], [], 1.0)
            eventually(
                lambda: len(select.select(clients, [], [], 0.1)[0]) >= number - tolerated,
                "answers of the worker with a free thread",
            )
        assert process.stop() == 0


def connect(stack: contextlib.ExitStack, port: int, path: str) -> socket.socket:
    """Send a request on a connection of its own, which stays open until the end of the stack."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    return client


def hold(stack: contextlib.ExitStack, port: int, number: int) -> dict[int, list[socket.socket]]:
    """Open idle connections, one after the other; return them by the workers that have them."""
    held: dict[int, list[socket.socket]] = {}
    for _ in range(number):
        client = connect(stack, port, "/")
        client.settimeout(PATIENCE)
        with http.client.HTTPResponse(client) as response:
            response.begin()
            held.setdefault(int(response.read().split()[0]), []).append(client)
    return held


def test_connections_go_to_the_worker_that_has_fewer(two: tuple[ServedProcess, int]) -> None:
    process, port = two

    def is_so() -> bool:
        # Where the machine lets a worker run too late, the other one takes its connections.
        with contextlib.ExitStack() as stack:
            held = hold(stack, port, 20)
            one, other = children_of(process.pid)
            if min(len(held.get(worker, [])) for worker in (one, other)) < 7:
                return False
            for client in held[other]:
                client.close()
            # As soon as it knows that they are gone.
            eventually(lambda: sockets_of(other) < sockets_of(one) - 6)
            return len(hold(stack, port, 8).get(other, [])) >= 6

    # Mostly, and so not by chance.
    assert sum(is_so() for _ in range(7)) >= 5


def test_clients_do_not_wait_for_a_worker_that_does_not_accept(
    two: tuple[ServedProcess, int],
) -> None:
    process, port = two
    with contextlib.ExitStack() as stack:
        held = hold(stack, port, 8)
        stopped, other = children_of(process.pid)
        # It has fewer connections, and so connections are better left to it.
        for client in held.get(stopped, []):
            client.close()
        os.kill(stopped, signal.SIGSTOP)
        try:
            eventually(lambda: state_of(stopped) == "T", "it is stopped")
            assert {int(ask(port).split()[0]) for _ in range(10)} == {other}
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_a_stopped_supervisor_and_a_killed_worker_cost_nobody_else(
    two: tuple[ServedProcess, int],
) -> None:
    process, port = two
    process.signal(signal.SIGSTOP)
    os.kill(min(children_of(process.pid)), signal.SIGKILL)
    limit = time.monotonic() + 1
    while time.monotonic() < limit:
        assert ask(port).endswith("one")
    process.signal(signal.SIGCONT)
    process.said("was killed by SIGKILL")
