"""The client of the row `tls-handshakes`: each request on a connection of its own, none resumed.

wrk resumes the session of the connection before, and has no option against that.

A process of its own, like wrk: `python -m benchmarks.handshakes PORT THREADS SECONDS` prints one
line of JSON. Each thread waits for its answer before it connects again. OpenSSL computes without
the interpreter, so that threads overlap. With P-256 the client's part of a handshake costs more
than the server's. So what compares servers is the processor time that each of them needs.
"""

import json
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

from benchmarks.apps import HELLO_BODY
from benchmarks.certificate import client_context

ANSWER_TIMEOUT = 10.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


@dataclass(slots=True)
class Report:
    """What was seen. Times are seconds."""

    seconds: float
    """For how long connections were made."""
    latencies: list[float] = field(default_factory=list)
    """From the beginning of the connection to the end of the answer."""
    failed: int = 0
    """Connections that failed, and answers that were wrong or did not come."""


def main(port: int, threads: int, seconds: float) -> Report:
    """Make connections for so long; return the report."""
    report = Report(seconds)
    # Protects the report, to which each thread adds what it has seen at its end.
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def work() -> None:
        latencies = []
        failed = 0
        while (begin := time.monotonic()) < end:
            try:
                right = _ask(port)
            except OSError:
                right = False
            if right:
                latencies.append(time.monotonic() - begin)
            else:
                failed += 1
        with lock:
            report.latencies += latencies
            report.failed += failed

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return report


def _ask(port: int) -> bool:
    """Return whether a new connection gets the right answer."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT) as plain,
        client_context().wrap_socket(plain) as sock,
    ):
        sock.sendall(_REQUEST)
        received = b""
        while piece := sock.recv(65536):
            received += piece
    return received.startswith(b"HTTP/1.1 200 ") and received.endswith(HELLO_BODY)


if __name__ == "__main__":
    print(json.dumps(asdict(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
