"""The client: runs wrk on its core and reads the report it prints.

`parse` is a function from text to data; `Client.measure` is the only place that starts wrk.
"""

import os
import re
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass

from benchmarks.workloads import Workload

GRACE_SECONDS = 30.0
"""How much longer than asked wrk may run before it is taken for stuck."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class ClientError(Exception):
    """wrk is missing, failed, or printed something that is not its report."""


@dataclass(frozen=True, slots=True)
class Errors:
    """What wrk counted as wrong. `status` counts answers of 400 and above."""

    connect: int = 0
    read: int = 0
    write: int = 0
    timeout: int = 0
    status: int = 0

    @property
    def total(self) -> int:
        """Return the sum of all kinds."""
        return self.connect + self.read + self.write + self.timeout + self.status


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of wrk. Latencies are seconds."""

    requests: int
    requests_per_second: float
    p50: float
    p99: float
    errors: Errors
    elapsed: float
    """How long wrk ran, in seconds, its start included."""
    client_cpu: float
    """Processor time wrk used, in seconds."""

    @property
    def client_load(self) -> float:
        """Return the share of its core that wrk used: near 1, wrk itself was the limit."""
        return self.client_cpu / self.elapsed


class Client:
    """wrk on one core with one thread. Raises `ClientError` where wrk is not installed."""

    def __init__(self, *, core: int) -> None:
        path = shutil.which("wrk")
        if path is None:
            raise ClientError("wrk is not installed (Debian: apt-get install wrk)")
        self._path = path
        self._core = core

    def version(self) -> str:
        """Return the version wrk reports, "unknown" if it reports none."""
        # `wrk -v` ends with status 1 because it was given no address.
        done = subprocess.run(
            [self._path, "-v"], capture_output=True, text=True, timeout=10, check=False
        )
        match = re.match(r"wrk (\S+)", done.stdout + done.stderr)
        return match[1] if match else "unknown"

    def measure(
        self, workload: Workload, *, port: int, connections: int, duration: int
    ) -> Measurement:
        """Drive the server on `port` for `duration` seconds.

        Raises `ClientError` when wrk fails, does not end, or completes no request.
        """
        command = [self._path, "--latency", "--threads", "1"]
        command += ["--connections", str(connections), "--duration", f"{duration}s"]
        if workload.script is not None:
            command += ["--script", str(workload.script)]
        for name, value in workload.headers:
            command += ["--header", f"{name}: {value}"]
        command.append(f"http://127.0.0.1:{port}/")

        cpu_before = _children_cpu()
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=duration + GRACE_SECONDS,
                check=False,
                preexec_fn=lambda: os.sched_setaffinity(0, {self._core}),
            )
        except subprocess.TimeoutExpired as exc:
            raise ClientError(f"wrk did not end {GRACE_SECONDS:.0f} s after its time") from exc
        elapsed = time.perf_counter() - started
        if done.returncode != 0:
            raise ClientError(f"wrk failed: {(done.stderr or done.stdout).strip()}")
        return parse(done.stdout, elapsed=elapsed, client_cpu=_children_cpu() - cpu_before)


def parse(report: str, *, elapsed: float, client_cpu: float) -> Measurement:
    """Read what `wrk --latency` prints.

    Raises `ClientError` when a figure is missing or no request was completed: latencies of
    nothing would look like the best server of all.
    """
    requests = int(_find(r"^\s*(\d+) requests in ", report)[1])
    if requests == 0:
        raise ClientError("wrk completed no request")
    sockets = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report
    )
    connect, read, write, timeout = map(int, sockets.groups()) if sockets else (0, 0, 0, 0)
    status = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    return Measurement(
        requests=requests,
        requests_per_second=float(_find(r"^Requests/sec:\s+([\d.]+)", report)[1]),
        p50=_percentile(50, report),
        p99=_percentile(99, report),
        errors=Errors(connect, read, write, timeout, int(status[1]) if status else 0),
        elapsed=elapsed,
        client_cpu=client_cpu,
    )


def _percentile(percent: int, report: str) -> float:
    """Return one line of the latency distribution in seconds."""
    match = _find(rf"^\s*{percent}%\s+([\d.]+)(us|ms|s|m|h)\s*$", report)
    return float(match[1]) * _SECONDS[match[2]]


def _find(pattern: str, report: str) -> re.Match[str]:
    """Return the first match, or raise `ClientError` with the report."""
    match = re.search(pattern, report, re.MULTILINE)
    if match is None:
        raise ClientError(f"cannot read the report of wrk:\n{report}")
    return match


def _children_cpu() -> float:
    """Return the processor time in seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
