"""``--preload``: one process loads the application, and workers are forked from it."""

import http.client
import os
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from processes import children_of, is_alive
from served_process import ServedProcess, served
from waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="--preload is for Linux")

# Answers with the process that has loaded it, the one that answers, and the parent of that.
SOURCE = """
import os
LOADER = os.getpid()
CALLS = []

def application(environ, start_response):
    CALLS.append(environ["PATH_INFO"])
    body = f"{LOADER} {os.getpid()} {os.getppid()} {len(CALLS)}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
FORKING = r"Loaded app:application, and workers are forked from there"


def ask(port: int, path: str = "/") -> list[int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return [int(word) for word in connection.getresponse().read().split()]
    finally:
        connection.close()


def start(
    folder: Path, source: str, *options: str, **more: Any
) -> AbstractContextManager[ServedProcess]:
    return served(folder, source, "--workers", "2", "--preload", *options, **more)


def test_the_workers_are_the_supervisors_and_share_what_the_mold_has_loaded(
    tmp_path: Path,
) -> None:
    with start(tmp_path, SOURCE) as server:
        server.said(FORKING)
        port = server.port()
        loader, worker, parent, _ = ask(port)
        assert parent == server.pid
        assert {loader, worker} < children_of(server.pid)
        assert len(children_of(server.pid)) == 3
        assert server.stop() == 0


def test_a_worker_loads_nothing_more_of_the_server(tmp_path: Path) -> None:
    source = """
    import sys

    LOADED = set(sys.modules)

    def application(environ, start_response):
        more = " ".join(set(sys.modules) - LOADED).encode()
        start_response("200 OK", [("Content-Length", str(len(more)))])
        return [more]

    def hook():
        pass
    """
    hooks = ("--on-worker-start", "app:hook", "--on-worker-stop", "app:hook")
    with start(tmp_path, source, *hooks, "--warm-up", "/", "--ready-path", "/") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port(), timeout=20)
        connection.request("GET", "/", headers={"Connection": "close"})
        more = connection.getresponse().read().decode().split()
        connection.close()
        # It is the application itself.
        assert [name for name in more if name != "app"] == []
        assert server.stop() == 0


def test_the_mold_has_warmed_the_application_up(tmp_path: Path) -> None:
    with start(tmp_path, SOURCE, "--warm-up", "/a", "--warm-up", "/b") as server:
        server.said(r"Warm-up: GET /a")
        server.said(r"Warm-up: GET /b")
        server.said(FORKING)
        assert ask(server.port())[3] == 3
        assert server.stop() == 0
    assert sum("Warm-up" in line for line in server.lines) == 2


def test_a_worker_that_dies_is_forked_again(tmp_path: Path) -> None:
    with start(tmp_path, SOURCE) as server:
        port = server.port()
        loader, worker, *_ = ask(port)
        before = children_of(server.pid)
        os.kill(worker, signal.SIGKILL)
        server.said(rf"Worker {worker} was killed by SIGKILL")
        eventually(lambda: len(children_of(server.pid) - before) == 1, "another worker")
        (new,) = children_of(server.pid) - before
        eventually(lambda: ask(port)[1] == new, "an answer of the new worker")
        assert ask(port)[0] == loader
        assert server.stop() == 0


def test_workers_go_on_without_a_mold_and_the_next_one_has_another(tmp_path: Path) -> None:
    with start(tmp_path, SOURCE) as server:
        port = server.port()
        loader, worker, *_ = ask(port)
        os.kill(loader, signal.SIGKILL)
        server.said(rf"The mold {loader} was killed by SIGKILL")
        assert ask(port)[0] == loader
        os.kill(worker, signal.SIGKILL)
        server.said(FORKING)
        eventually(lambda: ask(port)[0] != loader, "an answer of a worker of the new mold")
        assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_makes_a_new_mold_and_ends_the_old_one(tmp_path: Path, workers: int) -> None:
    with start(tmp_path, SOURCE, "--workers", str(workers)) as server:
        port = server.port()
        loader = ask(port)[0]
        server.signal(signal.SIGHUP)
        server.said(FORKING)
        server.said(f"Reloaded: {workers} worker")
        eventually(lambda: ask(port)[0] != loader, "an answer of a new worker")
        eventually(lambda: loader not in children_of(server.pid), "the end of the old mold")
        eventually(
            lambda: len(children_of(server.pid)) == 1 + workers, "the end of the old workers"
        )
        assert server.stop() == 0


def test_a_broken_new_version_leaves_the_old_workers_and_their_mold(tmp_path: Path) -> None:
    with start(tmp_path, SOURCE) as server:
        port = server.port()
        loader, worker, *_ = ask(port)
        (tmp_path / "app.py").write_text("raise ValueError('a mistake')\n")
        server.signal(signal.SIGHUP)
        server.said("A new mold cannot load the application")
        server.said("ValueError: a mistake")
        server.said("Not reloaded: still serving with 2 workers of before")
        os.kill(worker, signal.SIGKILL)
        server.said(rf"Worker {worker} was killed")
        eventually(lambda: len(children_of(server.pid)) == 3, "another worker")
        assert ask(port)[0] == loader
        assert server.stop() == 0


def test_an_application_that_cannot_be_loaded_is_told_once(tmp_path: Path) -> None:
    with start(tmp_path, "raise ValueError('a mistake')") as server:
        assert server.ended() == 3
    text = "\n".join(server.lines)
    assert text.count("ValueError: a mistake") == 1
    assert text.count("aiowsgi: error: importing the module 'app' failed") == 1


def test_a_mold_that_ends_without_a_word_ends_the_start_with_one_message(tmp_path: Path) -> None:
    with start(tmp_path, "import os\nos._exit(0)") as server:
        assert server.ended() == 3
        assert server.lines == [
            "aiowsgi: error: the mold ended with exit code 0 before all workers served"
        ]


def test_a_warm_up_that_fails_ends_the_start(tmp_path: Path) -> None:
    with start(tmp_path, "def application(e, s):\n    raise ValueError\n", "--warm-up", "/") as it:
        assert it.ended() == 3
    assert "aiowsgi: error: --warm-up /: the application answered '500" in "\n".join(it.lines)


def test_what_a_fork_would_break_is_named_and_each_worker_loads_the_application(
    tmp_path: Path,
) -> None:
    source = f"""
import threading
threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
{SOURCE}"""
    with start(tmp_path, source) as server:
        server.said("Not preloaded: each worker loads the application itself")
        server.said(rf"  the thread 'poller' \(File \"{tmp_path}/app.py\", line 3\)")
        port = server.port()
        loader, worker, parent, _ = ask(port)
        assert loader == worker
        assert parent == server.pid
        eventually(lambda: len(children_of(server.pid)) == 2, "the end of the mold")
        assert server.stop() == 0


def test_a_handler_of_the_application_is_called_in_the_worker(tmp_path: Path) -> None:
    source = f"""
import os, signal
def handler(number, frame):
    os.write(2, f"handled in {{os.getpid()}}\\n".encode())  # At once: two processes write.
signal.signal(signal.SIGTERM, handler)
{SOURCE}"""
    with start(tmp_path, source) as server:
        loader = ask(server.port())[0]
        server.signal(signal.SIGTERM)
        handled = {int(server.said(r"handled in (\d+)")[1]) for _ in range(2)}
        assert len(handled) == 2
        assert loader not in handled
        assert server.ended() == 0


def test_preload_without_workers_is_refused(tmp_path: Path) -> None:
    with served(tmp_path, SOURCE, "--preload") as server:
        assert server.ended() == 2
    text = (
        "--preload is for several processes, or for one that can be replaced; give --workers 1 or"
    )
    assert any(text in line for line in server.lines)


def test_nothing_outlives_the_supervisor(tmp_path: Path) -> None:
    with start(tmp_path, SOURCE) as server:
        server.port()
        left = children_of(server.pid)
        server.signal(signal.SIGKILL)
        server.process.wait(20)
        eventually(lambda: not any(map(is_alive, left)), "the end of mold and workers")


def test_an_application_that_prints_while_it_is_loaded_is_heard_once(tmp_path: Path) -> None:
    source = f"print('loading')\n{SOURCE}"
    output = tmp_path / "output"
    with (
        output.open("w") as file,
        start(tmp_path, source, "--no-access-log", stdout=file) as server,
    ):
        server.port()
        assert server.stop() == 0
    assert output.read_text() == "loading\n"
