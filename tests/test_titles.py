"""What ``ps`` shows of the processes of ``--workers``."""

import os
import signal
import socket
import sys
import threading
from pathlib import Path

import httpx
import pytest
from processes import children_of
from served_process import PATIENCE, WAITING, ServedProcess, served, without
from waiting import eventually

from aiowsgi.process.identity import title as title_module
from aiowsgi.process.identity.title import Title

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="nothing tells what is shown"
)


def shown(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")
    except OSError:
        return ""


def titles(process: ServedProcess) -> list[str]:
    """Return what is shown of the supervisor and of the processes below it, sorted."""
    return sorted(shown(pid) for pid in (process.pid, *children_of(process.pid)))


def wait_for(process: ServedProcess, expected: list[str]) -> None:
    eventually(lambda: titles(process) == expected, lambda: f"{expected}, not {titles(process)}")


def test_titles_show_roles_and_busy_threads(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as gate,
        served(tmp_path, WAITING, "--workers", "2", "--threads", "3") as process,
    ):
        gate.settimeout(PATIENCE)
        port = process.port()
        idle = "aiowsgi: worker app:application, 0/3 threads busy"
        supervisor = "aiowsgi: supervisor app:application, 2 workers"
        wait_for(process, [supervisor, idle, idle])
        url = f"http://127.0.0.1:{port}/wait?{gate.getsockname()[1]}"
        thread = threading.Thread(
            target=httpx.get, args=(url,), kwargs={"timeout": PATIENCE, "trust_env": False}
        )
        thread.start()
        inside, _ = gate.accept()
        with inside:
            busy = "aiowsgi: worker app:application, 1/3 threads busy"
            wait_for(process, [supervisor, idle, busy])
            process.signal(signal.SIGTERM)
            wait_for(
                process,
                [
                    "aiowsgi: supervisor app:application, stopping, 1 worker",
                    "aiowsgi: worker app:application, draining, 1/3 threads busy",
                ],
            )
            inside.sendall(b"x")
        thread.join(PATIENCE)
        assert process.ended() == 0


def test_titles_show_the_watcher(tmp_path: Path) -> None:
    with served(tmp_path, WAITING, "--reload", "--threads", "3") as process:
        process.port()
        wait_for(
            process,
            [
                "aiowsgi: supervisor app:application, 1 worker",
                "aiowsgi: watcher app:application, watching",
                "aiowsgi: worker app:application, 0/3 threads busy",
            ],
        )
        assert process.stop() == 0


def test_titles_show_the_mold_and_the_start(tmp_path: Path) -> None:
    source = """
        import os

        with open("gate") as gate:
            gate.read()

        def application(environ, start_response):
            start_response("200 OK", [("Content-Length", "0")])
            return []
    """
    os.mkfifo(tmp_path / "gate")
    with served(tmp_path, source, "--workers", "1", "--threads", "3", "--preload") as process:
        # It opens only once the mold does the same.
        with open(tmp_path / "gate", "w"):
            wait_for(
                process,
                [
                    "aiowsgi: mold app:application, loading",
                    "aiowsgi: supervisor app:application, starting, 0 workers",
                ],
            )
        process.port()
        wait_for(
            process,
            [
                "aiowsgi: mold app:application, ready",
                "aiowsgi: supervisor app:application, 1 worker",
                "aiowsgi: worker app:application, 0/3 threads busy",
            ],
        )
        assert process.stop() == 0


def test_processes_are_shown_as_they_were_started_without_the_library(tmp_path: Path) -> None:
    environment = without(tmp_path, "setproctitle")
    with served(tmp_path, WAITING, "--workers", "1", env=environment) as process:
        process.port()
        assert all(title.startswith(sys.executable) for title in titles(process))
        assert process.stop() == 0
        assert not any("setproctitle" in line for line in process.lines)


def test_a_title_is_set_only_where_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(title_module, "_set", calls.append)
    title = Title("worker app")
    for state in ("starting", "ready", "ready", "starting"):
        title.show(state)
    assert calls == [
        "aiowsgi: worker app, starting",
        "aiowsgi: worker app, ready",
        "aiowsgi: worker app, starting",
    ]
