"""The application that the fault harness serves: every way in which a request can take its time.

The query string of a request is its name. Some requests wait at the gate of their name until the
harness opens it. It does so, and asks what has become of requests, over a socket whose descriptor
is in the environment as FAULT_CONTROL: a line in, a line of JSON out. A thread of its own answers,
so that this works while every thread of the server is busy.
"""

import asyncio
import gc
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import aiowsgi

# Fail-safe: no test leaves a gate closed for so long.
PATIENCE = 90.0

BLOCK = bytes(1 << 16)
LARGE = 160  # Blocks: 10 MiB.


class Board:
    """What has become of requests, by name, and the gates at which they wait."""

    def __init__(self) -> None:
        # Protects everything below; taken by threads of the server and of the control socket.
        self._lock = threading.Lock()
        self._called: Counter[str] = Counter()
        self._active: Counter[str] = Counter()
        self._blocks: Counter[str] = Counter()
        self._gates: dict[str, Future[None]] = {}

    def gate(self, name: str) -> Future[None]:
        """Return what is done once the gate is open."""
        with self._lock:
            return self._gates.setdefault(name, Future())

    def open(self, name: str) -> None:
        """Open a gate, also for a request that is still to come."""
        gate = self.gate(name)
        if not gate.done():  # Where a coroutine waits, it may be cancelled.
            gate.set_result(None)

    def enter(self, name: str) -> None:
        """Take note of a call."""
        with self._lock:
            self._called[name] += 1
            self._active[name] += 1

    def leave(self, name: str) -> None:
        """Take note of the end of a call: its result is closed."""
        with self._lock:
            self._active[name] -= 1

    def produced(self, name: str) -> None:
        """Take note of a block that is handed to the server."""
        with self._lock:
            self._blocks[name] += 1

    def report(self, name: str) -> dict[str, int]:
        """Return how often a request was called, is active, and what it has produced."""
        with self._lock:
            return {
                "called": self._called[name],
                "active": self._active[name],
                "blocks": self._blocks[name],
                "running": self._active.total(),
            }


board = Board()


class Reply(list[bytes]):
    """A response in one piece."""

    def __init__(self, name: str, body: bytes) -> None:
        super().__init__([body])
        self._name = name

    def close(self) -> None:
        """Note the end of the call, as servers do (PEP 3333)."""
        board.leave(self._name)


class Stream:
    """A response in many pieces."""

    def __init__(self, name: str, blocks: Generator[bytes, None, None]) -> None:
        self._name = name
        self._blocks = blocks

    def __iter__(self) -> Generator[bytes, None, None]:
        return self._blocks

    def close(self) -> None:
        """Note the end of the call."""
        self._blocks.close()
        board.leave(self._name)


class Document:
    """A real file, with a descriptor that a server can send from."""

    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self._file = open(path, "rb")  # noqa: SIM115 - the server closes it
        self.read = self._file.read

    def close(self) -> None:
        """Note the end of the call."""
        self._file.close()
        board.leave(self._name)


async def _passage(name: str) -> None:
    await asyncio.wait_for(asyncio.wrap_future(board.gate(name)), PATIENCE)


async def _seize(name: str) -> None:
    """Keep the event loop from everything else."""
    board.produced(name)
    board.gate(name).result(PATIENCE)


def _read_all(environ: WSGIEnvironment) -> bytes:
    size = 0
    while data := environ["wsgi.input"].read(len(BLOCK)):
        size += len(data)
    return b"%d" % size


def _small_chunks(name: str) -> Generator[bytes, None, None]:
    yield b"first, "
    board.gate(name).result(PATIENCE)
    yield b"second"


def _blocks(name: str, count: float) -> Generator[bytes, None, None]:
    produced = 0
    while produced < count:
        produced += 1
        board.produced(name)
        yield BLOCK


def _failing() -> Generator[bytes, None, None]:
    yield b"first, "
    raise RuntimeError("in mid-response")


def _answer(path: str, name: str, environ: WSGIEnvironment) -> Iterable[bytes]:
    match path:
        case "/hello" | "/ignore":
            return Reply(name, b"hello")
        case "/wait":
            board.gate(name).result(PATIENCE)
            return Reply(name, b"done")
        case "/coroutine":
            aiowsgi.run_coroutine(_passage(name))
            return Reply(name, b"done")
        case "/seize":
            aiowsgi.run_coroutine(_seize(name))
            return Reply(name, b"done")
        case "/read":
            return Reply(name, _read_all(environ))
        case "/read-late":
            board.gate(name).result(PATIENCE)
            return Reply(name, _read_all(environ))
        case "/chunks":
            return Stream(name, _small_chunks(name))
        case "/half-mebibyte":
            return Reply(name, bytes(1 << 19))
        case "/large":
            return Stream(name, _blocks(name, LARGE))
        case "/endless":
            return Stream(name, _blocks(name, float("inf")))
        case "/file":
            wrapper: Callable[[Any], Iterable[bytes]] = environ["wsgi.file_wrapper"]
            return wrapper(Document(name, os.environ["FAULT_FILE"]))
        case "/failing":
            return Stream(name, _failing())
    raise LookupError(path)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Do what the path says, under the name in the query string."""
    name: str = environ["QUERY_STRING"]
    board.enter(name)
    try:
        answer = _answer(environ["PATH_INFO"], name, environ)
    except BaseException:
        board.leave(name)
        raise
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return answer


def _objects(_: str) -> dict[str, int]:
    """Return how many objects of the server's own classes are alive, by class."""
    gc.collect()
    types = [type(item) for item in gc.get_objects()]
    # Some classes that are written in C have a module that is no str.
    ours = [kind for kind in types if str(kind.__module__).startswith("aiowsgi.")]
    return Counter(kind.__qualname__ for kind in ours)


_VERBS: dict[str, Callable[[str], Any]] = {
    "open": board.open,
    "report": board.report,
    "objects": _objects,
}


def _obey(control: socket.socket) -> None:
    with control, control.makefile("rw") as lines:
        for line in lines:
            verb, _, name = line.strip().partition(" ")
            lines.write(json.dumps(_VERBS[verb](name)) + "\n")
            lines.flush()
    # Whoever had this process started is gone without a word.
    os._exit(1)


threading.Thread(
    target=_obey, args=[socket.socket(fileno=int(os.environ["FAULT_CONTROL"]))], daemon=True
).start()
