"""A server process: started on a core, awaited, checked, weighed, and stopped.

Linux only: reads /proc. Every wait has an end.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import certificate
from benchmarks.rows import Row

START_TIMEOUT = 20.0
CHECK_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
POLL_INTERVAL = 0.02


class ProcessError(Exception):
    """A server did not start or did not give the expected answer; the message shows its log."""


class ServerProcess:
    """One server, its child processes included, as a context manager.

    Entering starts it and returns when it accepts connections; leaving stops it and whatever it
    started. It leads a session of its own: that is how its children are found, and why Ctrl-C in
    a terminal reaches the harness alone. Without `cores` it may run on any.
    """

    def __init__(
        self,
        command: list[str],
        *,
        port: int,
        cores: Collection[int] | None,
        env: dict[str, str],
    ) -> None:
        self._command = command
        self._port = port
        self._cores = os.sched_getaffinity(0) if cores is None else cores
        self._env = env

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=self._env,
                start_new_session=True,
                # In the child before it runs anything, so that no thread starts elsewhere. The
                # harness has one thread, which is when preexec_fn is safe.
                preexec_fn=lambda: os.sched_setaffinity(0, self._cores),
            )
        except BaseException:
            self._log.close()
            raise
        try:
            self._wait_until_it_accepts()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def check(self, row: Row) -> None:
        """Send the row's request once.

        Raises `ProcessError` unless the answer is 200 with exactly the expected body.
        """
        method = "POST" if row.request_body else "GET"
        connection = self._connection(row)
        try:
            connection.request(
                method, "/", body=row.request_body or None, headers=dict(row.headers)
            )
            response = connection.getresponse()
            size, right, start = 0, True, b""
            while piece := response.read(len(row.expected_body)):
                right = right and piece == row.expected_body
                start = start or piece[:60]
                size += len(piece)
        except (OSError, http.client.HTTPException) as exc:
            raise self._error(f"{method} / failed: {exc!r}") from exc
        finally:
            connection.close()
        expected_size = len(row.expected_body) * row.expected_times
        if response.status != 200 or not right or size != expected_size:
            raise self._error(
                f"{method} / answered {response.status} with {size} bytes {start!r}, "
                f"expected 200 with {expected_size} bytes"
            )

    def _connection(self, row: Row) -> http.client.HTTPConnection:
        if not row.tls:
            return http.client.HTTPConnection("127.0.0.1", self._port, timeout=CHECK_TIMEOUT)
        return http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=CHECK_TIMEOUT, context=certificate.client_context()
        )

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def processes(self) -> int:
        """Return how many processes there are, the server and its children."""
        return len(_session(self._process.pid))

    def own_resident_bytes(self) -> int:
        """Return the resident memory of the process that was started, without its children."""
        return _resident_bytes(self._process.pid)

    def resident_bytes(self) -> int:
        """Return the resident memory of the server and its children, in bytes.

        A page shared by two of the processes counts twice, as it does in `ps`.
        """
        return sum(_resident_bytes(pid) for pid in _session(self._process.pid))

    def proportional_bytes(self) -> int:
        """Return the memory of the server and its children, in bytes.

        A page that several processes share counts once, divided among them (PSS).
        """
        return sum(_memory(pid, "Pss:") for pid in _session(self._process.pid))

    def descriptors(self) -> int:
        """Return how many files and sockets the server and its children have open."""
        return sum(_entries(f"/proc/{pid}/fd") for pid in _session(self._process.pid))

    def threads(self) -> int:
        """Return how many threads the server and its children have."""
        return sum(_entries(f"/proc/{pid}/task") for pid in _session(self._process.pid))

    def is_running(self) -> bool:
        """Return whether the server has not ended."""
        return self._process.poll() is None

    def terminate(self, timeout: float) -> int | None:
        """Ask the server to end; return its exit status, None if it goes on after `timeout`."""
        self._process.terminate()
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def log(self) -> str:
        """Return what the server has printed so far."""
        # Not read() at the shared offset: the server goes on writing where that stands.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def cpu_seconds(self) -> float:
        """Return the processor time the server and its living children have used so far."""
        return sum(_session(self._process.pid).values()) / os.sysconf("SC_CLK_TCK")

    def cpu_by_thread(self) -> dict[int, float]:
        """Return the processor time of each living thread so far, in seconds.

        Exact to the nanosecond, unlike `cpu_seconds`, which counts threads that have ended.
        """
        found = {}
        for pid in _session(self._process.pid):
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found[int(thread.parent.name)] = int(thread.read_text().split()[0]) * 1e-9
        return found

    def _wait_until_it_accepts(self) -> None:
        """Return once a connection is accepted; raise `ProcessError` if that never happens."""
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self._error(f"ended with status {self._process.returncode} at the start")
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1.0).close()
            except OSError:
                time.sleep(POLL_INTERVAL)
            else:
                return
        raise self._error(f"accepts no connection after {START_TIMEOUT:.0f} s")

    def _stop(self) -> None:
        """Ask the server to end, wait, and end by force what is left of its session."""
        try:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    self._process.kill()
            for pid in _session(self._process.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._process.wait(STOP_TIMEOUT)
        finally:
            self._log.close()

    def _error(self, message: str) -> ProcessError:
        """Return an error that ends with the last lines the server printed."""
        lines = self.log().strip().splitlines()[-8:]
        return ProcessError("\n    ".join([message, *lines]))


def free_port() -> int:
    """Return a TCP port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _session(leader: int) -> dict[int, int]:
    """Return the processes of a session, its leader included, with the clock ticks each used."""
    members = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        # proc_pid_stat(5): the name in parentheses may itself contain parentheses and spaces;
        # behind the last one follow state, parent, process group and session. utime and stime
        # are the twelfth and thirteenth there.
        fields = stat.rpartition(")")[2].split()
        if int(fields[3]) == leader:
            members[int(entry.name)] = int(fields[11]) + int(fields[12])
    return members


def _entries(path: str) -> int:
    """Return how many entries a folder of /proc has, 0 if its process has ended."""
    try:
        return len(os.listdir(path))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _resident_bytes(pid: int) -> int:
    """Return the resident memory of one process in bytes, 0 if it has ended."""
    return _memory(pid, "Rss:")


def _memory(pid: int, kind: str) -> int:
    """Return a line of proc_pid_smaps(5) for one process in bytes, 0 if it has ended."""
    # Not VmRSS of /proc/PID/status: kernels since 6.2 keep that figure per core and a little late.
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in rollup.splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024
    return 0
