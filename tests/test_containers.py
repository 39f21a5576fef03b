"""Containers, where the machine lets tests have what makes them: PID 1, and a limit of memory."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gates import SOURCE, Gates
from processes import children_of
from served_process import PATIENCE, ServedProcess, ask, served
from tools import tool
from waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these are Linux's")

APPLICATION = f"""{SOURCE}
def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/orphan":
        leave_an_orphan()
    if path == "/eat":
        eaten = []
        while True:
            eaten.append(b"x" * 1_000_000)
    body = f"{{os.getpid()}} {{os.getppid()}}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def leave_an_orphan():
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            try:
                pass_gate("orphan")
            finally:
                os._exit(0)
        os._exit(0)
    os.waitpid(between, 0)
"""


# --- PID 1 ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def first_process(
    folder: Path, gates: Gates, *options: str, source: str = APPLICATION
) -> Iterator[tuple[ServedProcess, int]]:
    """Start it as PID 1 of a namespace; give it, and its number outside of that."""
    unshare = (tool("unshare", package="util-linux"), "--fork", "--pid", "--mount-proc")
    if subprocess.run([*unshare, "true"], capture_output=True, timeout=PATIENCE).returncode:
        pytest.skip("needs the right to make a PID namespace")
    command = (*unshare, "--kill-child", sys.executable, "-m", "aiowsgi", "app:application")
    with served(folder, source, *options, command=command, env=gates.environment) as process:
        eventually(lambda: children_of(process.pid), "it is started")
        (first,) = children_of(process.pid)
        yield process, first


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--workers", "2", "--preload")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_the_first_process_of_a_container_ends_on_signals(
    tmp_path: Path, options: tuple[str, ...], number: int
) -> None:
    with Gates(tmp_path) as gates, first_process(tmp_path, gates, *options) as (process, first):
        # All messages name it as it is known inside.
        port = process.port()
        worker, parent = ask(port).split()
        assert (parent if options else worker) == "1"
        os.kill(first, number)
        # One process stops in order on both.
        assert process.ended() == (130 if options and number == signal.SIGINT else 0)


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--workers", "2", "--preload")])
def test_the_first_process_of_a_container_ends_on_a_signal_while_it_starts(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    source = f"{APPLICATION}\npass_gate('load')\n"
    with Gates(tmp_path) as gates:
        gates.close("load")
        with first_process(tmp_path, gates, *options, source=source) as (process, first):
            gates.wait_for("load")
            os.kill(first, signal.SIGTERM)
            assert process.ended() == 143


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_the_first_process_of_a_container_waits_for_orphans(tmp_path: Path, preload: str) -> None:
    with (
        Gates(tmp_path) as gates,
        first_process(tmp_path, gates, "--workers", "1", preload) as (process, first),
    ):
        port = process.port()
        before = children_of(first)
        gates.close("orphan")
        ask(port, "/orphan")
        gates.wait_for("orphan")
        assert len(children_of(first)) == len(before) + 1
        gates.open()
        eventually(lambda: children_of(first) == before, "nothing is left of it")
        os.kill(first, signal.SIGTERM)
        assert process.ended() == 0


# --- memory --------------------------------------------------------------------------------------

_GROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Make a cgroup that may have so many bytes of memory."""
    name = f"aiowsgi-test-{uuid.uuid4()}"
    v1 = (_GROUPS / "memory" / name, "memory.limit_in_bytes")
    v2 = (_GROUPS / name, "memory.max")
    folder, file = v1 if v1[0].parent.exists() else v2
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("needs the right to make a cgroup")
    try:
        if not (folder / file).exists():
            pytest.skip("needs cgroups that limit memory")
        (folder / file).write_text(str(limit))
        yield folder
    finally:
        eventually(lambda: is_removed(folder), "all processes of the group have ended")


def is_removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_a_worker_that_the_kernel_ends_for_its_memory_is_replaced_and_the_log_says_so(
    tmp_path: Path, preload: str
) -> None:
    with memory_group(200 << 20) as group:

        def join() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

        with served(*(tmp_path, APPLICATION, "--workers", "2", preload), preexec=join) as process:
            port = process.port()
            before = children_of(process.pid)
            with pytest.raises(httpx.HTTPError):
                ask(port, "/eat")
            process.said(
                r"Worker \d+ was killed by SIGKILL: the kernel has run out of memory \(see "
            )
            process.said("GET /eat")
            eventually(lambda: len(children_of(process.pid)) == len(before), "another one")
            assert ask(port)
            assert process.stop() == 0
