"""The client: runs wrk, or `fairness`, `offered` or `handshakes` where that is not enough.

It reads their reports.

The functions `parse...` go from text to data; `Client.measure` is the only place that starts a
client.
"""

import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from benchmarks import fairness, handshakes, offered
from benchmarks.figures import THROUGHPUT
from benchmarks.machine import program, program_version
from benchmarks.rows import Row

GRACE_SECONDS = 30.0
"""How much longer than asked a client may run before it is taken for stuck."""
ANSWER_TIMEOUT = 10
"""Seconds after which wrk counts an answer as an error: streaming to eight clients takes a few."""
_BURST_TICK = 0.1
"""Seconds: how often wrk looks whether it has been told to end."""
_BURST_ATTEMPTS = 5
_BURST_LIMIT = 2
"""Seconds after which wrk would end by itself."""

SHARES = (50, 75, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)
"""Percentiles of a distribution of latencies."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class ClientError(Exception):
    """A client is missing, failed, or printed something that is not its report."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a client reports of its requests."""

    figures: dict[str, float]
    """By the key of a `Figure`; latencies are seconds."""
    errors: int
    """Failed connections, reads and writes, answers too late, and answers that are wrong."""
    distribution: dict[str, float] = field(default_factory=dict)
    """Latencies by percentile, of clients that know them exactly."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of the client. Times are seconds."""

    findings: Findings
    elapsed: float
    """How long the client ran, its start included."""
    cpu: float
    """Processor time the client used."""


@dataclass(frozen=True, slots=True)
class Burst:
    """A short run of wrk."""

    amount: float
    """Requests that were answered, or bytes that were read."""
    seconds: float
    errors: int


class Client:
    """Clients, wrk with one thread. Raises `ClientError` where wrk is not installed."""

    def __init__(self) -> None:
        path = program("wrk")
        if path is None:
            raise ClientError("wrk is not installed (Debian: apt-get install wrk)")
        self._path = path

    def version(self) -> str:
        """Return the version of wrk."""
        return program_version(self._path)

    def measure(
        self,
        row: Row,
        *,
        port: int,
        connections: int,
        duration: int,
        rate: int,
        cores: Collection[int],
    ) -> Measurement:
        """Drive the server on `port` for `duration` seconds, in some rows at `rate` a second.

        Raises `ClientError` when the client fails, does not end, or completes no request.
        """
        if row.burners:
            command = [sys.executable, "-m", "benchmarks.fairness"]
            command += [str(port), str(row.burners), str(duration)]
        elif row.offered:
            command = [sys.executable, "-m", "benchmarks.offered"]
            command += [str(port), str(rate), str(duration), str(connections)]
        elif row.handshakes:
            command = [sys.executable, "-m", "benchmarks.handshakes"]
            command += [str(port), str(connections), str(duration)]
        else:
            command = self._wrk(row, port, connections, duration)
        cpu_before = _children_cpu()
        started = time.perf_counter()
        printed = _run(command, timeout=duration + GRACE_SECONDS, cores=cores)
        elapsed = time.perf_counter() - started
        findings = _reader(row)(printed)
        return Measurement(findings, elapsed=elapsed, cpu=_children_cpu() - cpu_before)

    def burst(self, row: Row, port: int, connections: int, seconds: float, core: int) -> Burst:
        """Ask the server on `port` for about so many seconds, a multiple of a tenth.

        Raises `ClientError` when wrk fails or does not end.
        """
        command = self._wrk(row, port, connections, _BURST_LIMIT)
        for _ in range(_BURST_ATTEMPTS):
            status, printed = _run_until_told(command, seconds - _BURST_TICK / 2, core)
            # On a busy machine, the signal may come before wrk handles it, or before it
            # sleeps. Then it asks no more, and counts the time in which it sleeps.
            if status == -signal.SIGINT:
                continue
            if status != 0:
                raise ClientError(f"wrk failed: {printed.strip() or status}")
            burst = parse_burst(printed, counts_bytes=row.headlines[0] == THROUGHPUT)
            if burst.seconds < _BURST_LIMIT:
                return burst
        raise ClientError("the machine is too busy for bursts")

    def _wrk(self, row: Row, port: int, connections: int, duration: int) -> list[str]:
        """Return the command of wrk for a row."""
        command = [self._path, "--latency", "--threads", "1", "--timeout", f"{ANSWER_TIMEOUT}s"]
        command += ["--connections", str(connections), "--duration", f"{duration}s"]
        if row.script is not None:
            command += ["--script", str(row.script)]
        for name, value in row.headers:
            command += ["--header", f"{name}: {value}"]
        return [*command, f"{'https' if row.tls else 'http'}://127.0.0.1:{port}/"]


def _reader(row: Row) -> Callable[[str], Findings]:
    """Return what reads the report of the row's client."""
    if row.burners:
        return parse_fairness
    if row.offered:
        return parse_offered
    return parse_handshakes if row.handshakes else parse


def _run_until_told(command: list[str], seconds: float, core: int) -> tuple[int, str]:
    """Run wrk, tell it to end, and return its exit status and what it printed.

    By itself it would measure full seconds. Told to end, it does so at the next tenth of one.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    ) as process:
        try:
            time.sleep(seconds)
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired as exc:
            raise ClientError("wrk does not end") from exc
        finally:
            process.kill()
    return process.returncode, printed


def _run(command: list[str], *, timeout: float, cores: Collection[int]) -> str:
    """Run a client to its end and return what it printed."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    except subprocess.TimeoutExpired as exc:
        raise ClientError(f"no end {GRACE_SECONDS:.0f} s after the client's time") from exc
    if done.returncode != 0:
        raise ClientError(f"the client failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def parse(report: str) -> Findings:
    """Read what `wrk --latency` prints.

    Raises `ClientError` when a figure is missing or no request was completed: latencies of
    nothing would look like the best server of all.
    """
    if int(_find(r"^\s*(\d+) requests in ", report)[1]) == 0:
        raise ClientError("wrk completed no request")
    transfer = _find(r"^Transfer/sec:\s+([\d.]+)([KMGT]?)B", report)
    return Findings(
        {
            "requests_per_second": float(_find(r"^Requests/sec:\s+([\d.]+)", report)[1]),
            "bytes_per_second": float(transfer[1]) * _BYTES[transfer[2]],
            "p50": _percentile(50, report),
            "p99": _percentile(99, report),
        },
        errors=_errors(report),
    )


def parse_burst(report: str, *, counts_bytes: bool) -> Burst:
    """Read what wrk prints of a burst, in which perhaps no request was completed."""
    line = _find(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h), ([\d.]+)([KMGT]?)B read", report)
    requests, seconds = int(line[1]), float(line[2]) * _SECONDS[line[3]]
    read = float(line[4]) * _BYTES[line[5]]
    return Burst(read if counts_bytes else requests, seconds, _errors(report))


def _errors(report: str) -> int:
    """Return how many requests and connections of wrk have failed."""
    sockets = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report
    )
    status = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    return sum(int(count) for match in (sockets, status) if match for count in match.groups())


def parse_fairness(text: str) -> Findings:
    """Read what `fairness` prints.

    Raises `ClientError` when not one request of either kind was answered.
    """
    report = fairness.Report(**json.loads(text))
    latencies = sorted(report.latencies)
    if not report.burned or not latencies:
        raise ClientError(
            f"{report.burned} CPU-bound and {len(latencies)} trivial requests were answered"
        )
    return Findings(
        {
            "requests_per_second": report.burned / report.burn_seconds,
            "p50": nearest_rank(latencies, 0.50),
            "p99": nearest_rank(latencies, 0.99),
        },
        errors=report.failed + report.wrong,
    )


def parse_offered(text: str) -> Findings:
    """Read what `offered` prints. Raises `ClientError` when not one request was answered."""
    report = offered.Report(**json.loads(text))
    latencies = sorted(report.latencies)
    if not latencies:
        raise ClientError(f"not one of {report.offered} requests was answered")
    return Findings(
        {
            "sustained": report.in_time / report.offered,
            "requests_per_second": report.in_time / report.seconds,
            "p50": nearest_rank(latencies, 0.50),
            "p99": nearest_rank(latencies, 0.99),
            "p999": nearest_rank(latencies, 0.999),
            "client_delay": nearest_rank(sorted(report.delays), 0.99),
        },
        errors=report.failed,
        distribution={f"{share}": nearest_rank(latencies, share / 100) for share in SHARES},
    )


def parse_handshakes(text: str) -> Findings:
    """Read what `handshakes` prints. Raises `ClientError` when not one request was answered."""
    report = handshakes.Report(**json.loads(text))
    latencies = sorted(report.latencies)
    if not latencies:
        raise ClientError("not one handshake came to an answer")
    return Findings(
        {
            "requests_per_second": len(latencies) / report.seconds,
            "p50": nearest_rank(latencies, 0.50),
            "p99": nearest_rank(latencies, 0.99),
        },
        errors=report.failed,
    )


def nearest_rank(ordered: list[float], share: float) -> float:
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
