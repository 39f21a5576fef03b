"""The client: runs wrk, or `fairness` for the row `cpu`, on its core and reads the report.

`parse` and `parse_fairness` are functions from text to data; `Client.measure` is the only place
that starts a client.
"""

import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.fairness import Report
from benchmarks.workloads import Workload

GRACE_SECONDS = 30.0
"""How much longer than asked a client may run before it is taken for stuck."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class ClientError(Exception):
    """A client is missing, failed, or printed something that is not its report."""


@dataclass(frozen=True, slots=True)
class Errors:
    """What the client counted as wrong.

    `status` counts answers of 400 and above; for `fairness`, all but the expected answer.
    """

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
    """One run of the client. Latencies are seconds."""

    requests: int
    requests_per_second: float
    p50: float
    p99: float
    errors: Errors
    elapsed: float
    """How long the client ran, in seconds, its start included."""
    client_cpu: float
    """Processor time the client used, in seconds."""

    @property
    def client_load(self) -> float:
        """Return the share of its core that the client used: near 1, it was the limit itself."""
        return self.client_cpu / self.elapsed


class Client:
    """Clients on one core, wrk with one thread. Raises `ClientError` where wrk is not installed."""

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

        Raises `ClientError` when the client fails, does not end, or completes no request.
        """
        if workload.burners:
            command = [sys.executable, "-m", "benchmarks.fairness"]
            command += [str(port), str(workload.burners), str(duration)]
            return parse_fairness(*self._run(command, duration))
        command = [self._path, "--latency", "--threads", "1"]
        command += ["--connections", str(connections), "--duration", f"{duration}s"]
        if workload.script is not None:
            command += ["--script", str(workload.script)]
        for name, value in workload.headers:
            command += ["--header", f"{name}: {value}"]
        command.append(f"http://127.0.0.1:{port}/")
        return parse(*self._run(command, duration))

    def _run(self, command: list[str], duration: int) -> tuple[str, float, float]:
        """Run a client to its end; return what it printed, the seconds and the processor time."""
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
            raise ClientError(f"no end {GRACE_SECONDS:.0f} s after the client's time") from exc
        elapsed = time.perf_counter() - started
        if done.returncode != 0:
            raise ClientError(f"the client failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout, elapsed, _children_cpu() - cpu_before


def parse(report: str, elapsed: float, client_cpu: float) -> Measurement:
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


def parse_fairness(text: str, elapsed: float, client_cpu: float) -> Measurement:
    """Read what `fairness` prints.

    Raises `ClientError` when not one request of either kind was answered.
    """
    report = Report(**json.loads(text))
    latencies = sorted(report.latencies)
    if not report.burned or not latencies:
        raise ClientError(
            f"{report.burned} CPU-bound and {len(latencies)} trivial requests were answered"
        )
    return Measurement(
        requests=report.burned,
        requests_per_second=report.burned / report.burn_seconds,
        p50=_nearest_rank(latencies, 0.50),
        p99=_nearest_rank(latencies, 0.99),
        errors=Errors(read=report.failed, status=report.wrong),
        elapsed=elapsed,
        client_cpu=client_cpu,
    )


def _nearest_rank(ordered: list[float], share: float) -> float:
    """Return the smallest value that is not exceeded by this share of the values."""
    return ordered[math.ceil(share * len(ordered)) - 1]


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
