"""Connections that are opened, used for one request each, and then kept without a word."""

import contextlib
import select
import socket
import time
from collections.abc import Iterator

from benchmarks import certificate
from benchmarks.rows import Row

ANSWER_TIMEOUT = 20.0
OPENING_TIMEOUT = 60.0
BATCH = 100
"""Connections opened at a time: servers that look at all of them for every event are slow else."""
_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextlib.contextmanager
def connections(row: Row, port: int) -> Iterator[list[socket.socket]]:
    """Open `row.idle` connections, and close them at the end.

    They are fewer where the server stops accepting or answering, or takes too long.
    """
    answered: list[socket.socket] = []
    end = time.monotonic() + OPENING_TIMEOUT
    context = certificate.client_context() if row.tls else None
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            while len(answered) < row.idle and time.monotonic() < end:
                batch = []
                for _ in range(min(BATCH, row.idle - len(answered))):
                    sock = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT)
                    stack.enter_context(sock)
                    if context is not None:
                        sock = stack.enter_context(context.wrap_socket(sock))
                    sock.sendall(_REQUEST)
                    batch.append(sock)
                for sock in batch:
                    _read_answer(sock, row.expected_body)
                    answered.append(sock)
        yield answered


def count_open(connections: list[socket.socket]) -> int:
    """Return how many of the connections the server has not closed."""
    # An idle connection becomes readable by its end only.
    poll = select.poll()
    for sock in connections:
        poll.register(sock, select.POLLIN)
    return len(connections) - len(poll.poll(0))


def _read_answer(sock: socket.socket, expected: bytes) -> None:
    """Read an answer to its end. Raises `OSError` where there is none."""
    received = b""
    while not received.endswith(expected):
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionResetError("closed before its answer")
        received += piece
