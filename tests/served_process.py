"""A server in a process of its own, for tests that do not run on an event loop."""

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
from defects import check_log

# Long enough for a busy machine; a test that passes never waits for it.
PATIENCE = 20.0

# A worker that was stuck. Tests are as patient as supervisors are with such, and so would pass.
_KILLED = re.compile(r"Worker \d+ (has not answered for|did not end in time)")

# To be put behind what else a test has its application do.
ANSWER = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
"""

# An application that, at /wait?PORT, waits until the test sends a byte at that port.
WAITING = """
import socket

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    if environ["PATH_INFO"] == "/wait":
        wait_for_the_test(int(environ["QUERY_STRING"]))
    return [b"hello"]

def wait_for_the_test(port):
    with socket.create_connection(("127.0.0.1", port)) as gate:
        gate.recv(1)
"""


class ServedProcess:
    """What a test knows of it: what it has said on standard error, and its end."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.pid = process.pid
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._all: list[str] = []
        # Those that a test has waited for.
        self._awaited: set[str] = set()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._all.append(line)
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def said(self, pattern: str) -> re.Match[str]:
        """Wait for a line behind those that were waited for; return its match."""
        while (line := self._new.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
            if match := re.search(pattern, line):
                self._awaited.add(line)
                return match
        raise AssertionError(f"it ended, did not say {pattern!r}, but:\n" + "\n".join(self.lines))

    def port(self) -> int:
        """Wait until it serves."""
        return int(self.said(r" Serving .* at http://127\.0\.0\.1:(\d+) ")[1])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; return the exit code."""
        code = self.process.wait(PATIENCE)
        while (line := self._new.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return code

    def check_log(self) -> None:
        """Fail where it has logged a defect, or killed a worker for which the test did not wait.

        Called once it has ended.
        """
        # Its children may still have its standard error.
        self._reader.join(1.0)
        lines = list(self._all)
        check_log(lines)
        killed = [line for line in lines if _KILLED.search(line)]
        assert {line.rstrip("\n") for line in killed} <= self._awaited, killed

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.ended()


def ask(port: int, path: str = "/") -> str:
    """Return the text of an answer, on a connection of its own."""
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE, trust_env=False).text


def without(folder: Path, module: str) -> dict[str, str]:
    """Return an environment for processes in which a module is as if it were not installed."""
    (folder / f"without-{module}").mkdir()
    decoy = folder / f"without-{module}" / f"{module}.py"
    decoy.write_text("raise ImportError('not installed')\n")
    return {**os.environ, "PYTHONPATH": str(decoy.parent)}


@contextlib.contextmanager
def served(
    folder: Path,
    source: str,
    *options: str,
    command: tuple[str, ...] = (sys.executable, "-m", "aiowsgi", "app:application"),
    bind: tuple[str, ...] = ("--bind", "127.0.0.1:0"),
    preexec: Callable[[], object] | None = None,
    **more: Any,
) -> Iterator[ServedProcess]:
    """Serve the application in ``source``, which becomes ``app.py``."""
    (folder / "app.py").write_text(dedent(source))
    with subprocess.Popen(
        [*command, *bind, *options],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec,
        **{"cwd": folder, "stdout": subprocess.DEVNULL, **more},
    ) as process:
        server = ServedProcess(process)
        try:
            yield server
        finally:
            process.kill()
        process.wait(PATIENCE)
        server.check_log()
