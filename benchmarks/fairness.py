"""The client of the row `cpu`: a few connections keep the server's processor busy with work that
holds the interpreter, and one more asks for something trivial, one request after the other.

A process of its own, like wrk: `python -m benchmarks.fairness PORT BURNERS SECONDS` prints one line
of JSON. One thread serves each connection; they wait nearly all the time, so they do not get into
each other's way.
"""

import http.client
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

from benchmarks import apps

ANSWER_TIMEOUT = 60.0
"""Longest wait for one answer: far more than all CPU-bound requests take together."""


@dataclass(slots=True)
class Report:
    """What was seen. Times are seconds."""

    burned: int = 0
    """CPU-bound requests that were answered."""
    burn_seconds: float = 0.0
    """From the first of them that was sent to the last that was answered."""
    latencies: list[float] = field(default_factory=list)
    """One for each trivial request that was sent while all burners were at work."""
    failed: int = 0
    """Connections that broke or answered too late; such a connection stops asking."""
    wrong: int = 0
    """Answers with another status or body than expected."""


class _Connection:
    """A keep-alive connection that sends one request over and over."""

    def __init__(self, port: int, path: str, expected: bytes) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT)
        self._path = path
        self._expected = expected
        self.failed = False
        self.wrong = 0

    def ask(self) -> bool:
        """Send the request and read its answer; return False once the connection has failed."""
        try:
            self._http.request("GET", self._path)
            answer = self._http.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self.failed = True
            self._http.close()
            return False
        if answer.status != 200 or body != self._expected:
            self.wrong += 1
        return True


class _Burner(_Connection):
    """Keeps one CPU-bound request running, on a thread of its own, until it is told to stop."""

    def __init__(self, port: int, expected: bytes) -> None:
        super().__init__(port, apps.BURN_PATH, expected)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.finished = 0
        self.last_finished = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send no further request. The one that runs is still finished."""
        self._stopping.set()

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set() and self.ask():
            self.finished += 1
            self.last_finished = time.perf_counter()


def measure(port: int, *, burners: int, seconds: float) -> Report:
    """Keep `burners` CPU-bound requests running for `seconds` and time trivial ones beside them.

    All requests that were begun are waited for, with the trivial ones going on: CPU-bound requests
    that run side by side end side by side, and a count that stops at an arbitrary moment would be
    wrong by nearly all of them.
    """
    expected = apps.burn()
    probe = _Connection(port, "/", apps.HELLO_BODY)
    busy = [_Burner(port, expected) for _ in range(burners)]
    report = Report()
    # Connects, and brings up what a server makes when it is first needed.
    probing = probe.ask()
    started = time.perf_counter()
    for burner in busy:
        burner.start()
    deadline = started + seconds
    while probing:
        sent = time.perf_counter()
        if sent >= deadline:
            break
        probing = probe.ask()
        if probing:
            report.latencies.append(time.perf_counter() - sent)
    for burner in busy:
        burner.stop()
    while probing and any(burner.is_running() for burner in busy):
        probing = probe.ask()
    report.burned = sum(burner.finished for burner in busy)
    report.burn_seconds = max(burner.last_finished for burner in busy) - started
    report.failed = sum(connection.failed for connection in (probe, *busy))
    report.wrong = sum(connection.wrong for connection in (probe, *busy))
    return report


if __name__ == "__main__":
    _port, _burners, _seconds = map(int, sys.argv[1:])
    print(json.dumps(asdict(measure(_port, burners=_burners, seconds=_seconds))))
