"""Applications that do what none should: they leak, spin, deadlock, fork, exit, and flood the log.

Each costs what it must, and nothing else: the others are served, and the supervisor ends in time.
``test_workers`` has those that crash, and those that hold the interpreter in C.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from constant_load import ConstantLoad
from extent import exhaustive
from gates import SOURCE, Gates
from served_process import PATIENCE, served
from waiting import eventually

APPLICATION = f"""{SOURCE}
import sys, threading, time

LOCKS = threading.Lock(), threading.Lock()
BOTH = threading.Barrier(2)
KEPT = []

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/spin":
        while True:
            pass
    if path == "/deadlock":
        first, second = LOCKS if environ["QUERY_STRING"] == "1" else LOCKS[::-1]
        with first:
            BOTH.wait(10)
            with second:
                pass
    if path == "/fork":
        fork()
    if path == "/exit":
        sys.exit(4)
    if path == "/flood":
        for _ in range(2000):
            print("x" * 1000, file=sys.stderr)
    if environ.get("HTTP_X_LEAK"):
        KEPT.append(b"x" * 100_000)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def fork():
    if os.fork() == 0:
        try:
            # The end of the log would be awaited otherwise.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            pass_gate("child")
        finally:
            os._exit(0)
"""


def ask(port: int, path: str = "/") -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE, trust_env=False)


# --- forks ---------------------------------------------------------------------------------------


@exhaustive
@pytest.mark.parametrize("where", ["loaded", "started", "asked"])
@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_children_of_the_application_that_outlive_the_server_do_not_keep_its_port(
    tmp_path: Path, preload: str, where: str
) -> None:
    source = APPLICATION + ("fork()\n" if where == "loaded" else "")
    options = ("--on-worker-start", "app:fork") if where == "started" else ()
    with contextlib.ExitStack() as stack:
        gates = stack.enter_context(Gates(tmp_path))
        gates.close("child")
        process = stack.enter_context(
            served(*(tmp_path, source, "--workers", "1", preload, *options), env=gates.environment)
        )
        port = process.port()
        if where == "asked":
            ask(port, "/fork")
        child = gates.wait_for("child")
        assert process.stop() == 0
        assert is_running(child)
        socket.create_server(("127.0.0.1", port)).close()


def is_running(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


# --- exits, spins and deadlocks ------------------------------------------------------------------


def test_an_application_that_exits_in_a_request_fails_that_request_alone(tmp_path: Path) -> None:
    with served(tmp_path, APPLICATION, "--workers", "1") as process:
        port = process.port()
        worker = ask(port).text
        assert ask(port, "/exit").status_code == 500
        process.said("SystemExit: 4")
        assert ask(port).text == worker
        assert process.stop() == 0


def test_a_request_that_spins_leaves_others_their_turn_and_is_given_up(tmp_path: Path) -> None:
    options = ("--timeout-request", "1", "--max-lost-threads", "1", "--timeout-graceful", "1")
    with served(
        *(tmp_path, APPLICATION, "--workers", "1", "--timeout-worker", "5", *options)
    ) as process:
        port = process.port()
        before = ask(port).text
        with ConstantLoad.on_port(port) as load:
            assert ask(port, "/spin").status_code == 504
            process.said("is to be replaced: too many threads are lost")
            eventually(lambda: ask(port).text != before, "its successor answers")
            eventually(lambda: not is_running(int(before)), "its end")
            load.wait_for_more()
        load.assert_nothing_lost()
        assert process.stop() == 0


@exhaustive
def test_a_worker_whose_threads_are_in_a_deadlock_is_replaced(tmp_path: Path) -> None:
    options = ("--threads", "2", "--timeout-request", "1", "--max-lost-threads", "2")
    with served(
        *(tmp_path, APPLICATION, "--workers", "1", "--timeout-graceful", "1", *options)
    ) as process:
        port = process.port()
        before = int(ask(port).text)
        with ThreadPoolExecutor(2) as executor:
            pages = executor.map(lambda number: ask(port, f"/deadlock?{number}"), (1, 2))
            assert [page.status_code for page in pages] == [504, 504]
        process.said("is to be replaced: too many threads are lost")
        eventually(lambda: not is_running(before), "its end")
        assert ask(port).status_code == 200
        assert process.stop() == 0


# --- memory and logs -----------------------------------------------------------------------------


def test_a_worker_that_leaks_is_replaced_and_no_request_is_lost(tmp_path: Path) -> None:
    with served(tmp_path, APPLICATION, "--workers", "1", "--max-rss", "80M") as process:
        port = process.port()
        seen = set()
        headers = {"X-Leak": "yes"}
        with httpx.Client(trust_env=False, timeout=PATIENCE, headers=headers) as client:
            while len(seen) < 3:
                page = client.get(f"http://127.0.0.1:{port}/")
                assert page.status_code == 200
                seen.add(page.text)
        process.said(r"is to be replaced: it takes \d+ MiB of memory \(--max-rss\)")
        assert process.stop() == 0


@exhaustive
@pytest.mark.parametrize("log", ["unread", "on a full disk"])
def test_logs_that_cannot_be_written_stop_neither_others_nor_the_end(
    tmp_path: Path, log: str
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION)
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "aiowsgi", "app:application", "--workers", "1"),
                # One that waits for its log is not replaced.
                *("--bind", "unix:socket", "--timeout-graceful", "1", "--timeout-worker", "0"),
            ],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE if log == "unread" else full,
        ) as process,
    ):
        try:
            eventually(lambda: (tmp_path / "socket").exists(), "it listens")
            before = ask_at(tmp_path).text
            if log == "unread":
                with pytest.raises(httpx.ReadTimeout):
                    ask_at(tmp_path, "/flood", timeout=1)
            else:
                assert ask_at(tmp_path, "/flood").status_code == 500
            assert ask_at(tmp_path).text == before
            # Others that the supervisor starts can say nothing either.
            process.send_signal(signal.SIGHUP)
            eventually(lambda: ask_at(tmp_path).text != before, "it is reloaded")
            worker = ask_at(tmp_path).text
            os.kill(int(worker), signal.SIGKILL)
            eventually(lambda: not is_running(int(worker)), "its end")
            assert ask_at(tmp_path).text != worker
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def ask_at(folder: Path, path: str = "/", timeout: float = PATIENCE) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=f"{folder}/socket")
    with httpx.Client(transport=transport, timeout=timeout) as client:
        return client.get(f"http://h{path}")
