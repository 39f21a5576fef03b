"""The client of the row `latency`: requests at times that are fixed beforehand, however long the
answers take.

A client that waits for an answer before it sends its next request asks a stalled server nothing, so
it misses nearly all requests that would have waited: coordinated omission. Here a request is timed
from the moment at which it was due, also when every connection was busy then.

A process of its own, like wrk: `python -m benchmarks.offered PORT RATE SECONDS CONNECTIONS` prints
one line of JSON. It looks at its sockets all the time instead of sleeping: to be woken takes tens
of microseconds, which would be taken for the server's.
"""

import gc
import json
import random
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from benchmarks.apps import HELLO_BODY

GRACE_SECONDS = 10.0
"""How long answers are waited for when all requests are sent."""
_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(slots=True)
class Report:
    """What was seen. Times are seconds."""

    seconds: float
    """For how long requests were due."""
    offered: int = 0
    """Requests that were due."""
    in_time: int = 0
    """Those that were answered before the last one was due."""
    latencies: list[float] = field(default_factory=list)
    """From the moment a request was due to the end of its answer."""
    delays: list[float] = field(default_factory=list)
    """What of it is the client's own doing: a request was due and a connection free."""
    failed: int = 0
    """Wrong answers, broken connections, and answers that did not come."""


class _Connection:
    """A keep-alive connection, made again whenever the server closes it."""

    def __init__(self, port: int, epoll: select.epoll) -> None:
        self._port = port
        self._epoll = epoll
        self.due: float | None = None
        """When the request was due that is in flight."""
        self._received = b""
        self._socket = self._connect()

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    def send(self, due: float) -> None:
        self.due = due
        self._socket.send(_REQUEST)

    def receive(self) -> bool | None:
        """Take what has come. Return whether the answer is right; None while it is unfinished."""
        try:
            piece = self._socket.recv(65536)
        except ConnectionError:
            piece = b""
        self._received += piece
        if piece and not self._received.endswith(HELLO_BODY):
            return None
        right = bool(piece) and self._received.startswith(b"HTTP/1.1 200 ")
        if not piece or b"connection: close" in self._received.lower():
            self.close()
            self._socket = self._connect()
        self._received = b""
        return right

    def close(self) -> None:
        self._epoll.unregister(self._socket)
        self._socket.close()

    def _connect(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._port), timeout=GRACE_SECONDS)
        connected.setblocking(False)
        self._epoll.register(connected, select.EPOLLIN)
        return connected


def schedule(rate: float, seconds: float) -> Iterator[float]:
    """Return the times at which requests are due, from 0 on.

    They come at random, as from many people who know nothing of each other (a Poisson process), and
    for each server at the same times.
    """
    chance = random.Random(1)
    due = chance.expovariate(rate)
    while due < seconds:
        yield due
        due += chance.expovariate(rate)


def measure(port: int, *, rate: float, seconds: float, connections: int) -> Report:
    """Send requests at `rate` for `seconds` and wait for their answers."""
    report = Report(seconds)
    with select.epoll() as epoll:
        idle = deque(_Connection(port, epoll) for _ in range(connections))
        by_descriptor = {connection.descriptor: connection for connection in idle}
        start = time.perf_counter()
        due = deque(start + offset for offset in schedule(rate, seconds))
        report.offered = len(due)
        end = start + seconds
        # Since when a connection has been free.
        free_since = start
        while due or len(idle) < connections:
            now = time.perf_counter()
            if now > end + GRACE_SECONDS:
                break
            while due and due[0] <= now and idle:
                was_due = due.popleft()
                report.delays.append(now - max(was_due, free_since))
                idle.popleft().send(was_due)
            for descriptor, _ in epoll.poll(0):
                connection = by_descriptor.pop(descriptor)
                right = connection.receive()
                by_descriptor[connection.descriptor] = connection
                # An idle connection that is closed is no failure.
                if right is None or connection.due is None:
                    continue
                now = time.perf_counter()
                if right:
                    report.latencies.append(now - connection.due)
                    report.in_time += now <= end
                connection.due = None
                if not idle:
                    free_since = now
                idle.append(connection)
        for connection in by_descriptor.values():
            connection.close()
    report.failed = report.offered - len(report.latencies)
    return report


if __name__ == "__main__":
    # A collection would delay requests that are due.
    gc.disable()
    _port, _rate, _seconds, _connections = map(int, sys.argv[1:])
    _report = measure(_port, rate=_rate, seconds=_seconds, connections=_connections)
    print(json.dumps(asdict(_report)))
