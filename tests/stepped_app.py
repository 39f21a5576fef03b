"""An application that does what a test says, on threads that take turns with the test.

Whoever has the turn runs, and nobody else: what happens is the same each time. A thread gives the
turn back where the application waits for its next order, and where it would block, on a condition
of a ``SteppedPool``.
"""

# ruff: noqa: SIM115 - files are opened here for others to close

import enum
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIEnvironment

from memory import TIMEOUT, HeldPool

from aiowsgi.bridge.locks import Lock
from aiowsgi.errors import ClientDisconnected
from aiowsgi.exchange.stream import Stream

# What applications answer with; each begins elsewhere in it.
DATA = random.Random("answers").randbytes(4_000_003)


class Fault(Exception):
    """What the application raises when it is told to."""


class _Stopped(BaseException):
    """Ends a thread that is left over."""


@dataclass(slots=True, eq=False)
class Wait:
    """A wait for a condition. ``brief``: it ends by itself too."""

    predicate: Callable[[], bool]
    brief: bool
    notified: bool = False

    @property
    def may_end(self) -> bool:
        return self.brief or self.notified

    @property
    def is_forgotten(self) -> bool:
        """Whether what is waited for has come, and nobody has said so."""
        return not self.notified and self.predicate()


class TurnCondition:
    """A condition whose waits end when a test gives the turn back, and not unless notified."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._waits: list[Wait] = []

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(*error)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        thread = threading.current_thread()
        assert isinstance(thread, SteppedThread), "the loop thread would block"
        while not predicate():  # Each turn is given by the test, which stops giving them.
            wait = Wait(predicate, brief=timeout is not None)
            self._waits.append(wait)
            self._lock.release()
            try:
                thread.pause(wait)
            finally:
                self._lock.acquire()
                self._waits.remove(wait)
            if not wait.notified:
                return predicate()
        return True

    def notify(self) -> None:
        for wait in self._waits[:1]:
            wait.notified = True

    def notify_all(self) -> None:
        for wait in self._waits:
            wait.notified = True


class SteppedPool(HeldPool):
    """A pool whose jobs are run by ``SteppedThread``."""

    def make_condition(self, lock: Lock) -> threading.Condition:
        return cast(threading.Condition, TurnCondition(lock))


class SteppedThread(threading.Thread):
    """Runs a job of a pool, a turn at a time."""

    def __init__(self, job: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._job = job
        self._orders: SimpleQueue[Any] = SimpleQueue()
        self._reports: SimpleQueue[Any] = SimpleQueue()
        self._stopped = False
        # What it waits for, an order for a run or a condition; None once it has ended.
        self.waits_for: Run | Wait | None = None

    def go(self, order: Any = None) -> None:
        """Give it the turn, until it gives it back. Called by the test."""
        if self.ident is None:
            self.start()
        else:
            self._orders.put(order)
        self.waits_for = self._reports.get(timeout=TIMEOUT)

    def stop(self) -> None:
        """End it, wherever it is. Called by the test."""
        if self.waits_for is not None:
            self._stopped = True
            self.go()

    def run(self) -> None:
        try:
            self._job()
        finally:
            self._reports.put(None)

    def pause(self, waits_for: "Run | Wait") -> Any:
        """Give the turn back; return the order that comes with the next one."""
        if not self._stopped:
            self._reports.put(waits_for)
            order = self._orders.get()
        if self._stopped:
            raise _Stopped
        return order


class Phase(enum.Enum):
    CALL = "the application was called"
    ITERATE = "what it returned is iterated"
    CLOSE = "what it returned is closed"


@dataclass(frozen=True, slots=True)
class Read:
    """Read from the input. ``tolerant``: go on without it should that fail."""

    size: int
    tolerant: bool


@dataclass(frozen=True, slots=True)
class Start:
    status: int
    # Of the body, in bytes; None where it is not declared.
    length: int | None


@dataclass(frozen=True, slots=True)
class Give:
    """Give a piece of the body: call ``write``, or yield it."""

    size: int
    by_write: bool
    tolerant: bool


@dataclass(frozen=True, slots=True)
class Return:
    """Return a list of pieces of these sizes; None: an iterator, which waits for orders."""

    sizes: tuple[int, ...] | None
    # Whether its ``close`` waits for an order.
    lingers: bool = False


@dataclass(frozen=True, slots=True)
class ReturnFile:
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class End:
    """Be done. ``fill``: give what is missing to the declared length before."""

    fill: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise an exception."""


class Run:
    """One call of the application, and what has become of it."""

    def __init__(
        self, folder: Path, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self._folder = folder
        self.environ = environ
        self._start_response = start_response
        self._write: Callable[[bytes], object] | None = None
        self._lingers = False
        self.stream: Stream = environ["aiowsgi.disconnected"].__self__.stream
        self.method: str = environ["REQUEST_METHOD"]
        self.token: str = environ["PATH_INFO"].removeprefix("/")
        self._data_at = hash_of(self.token)
        self.phase = Phase.CALL
        self.status = 0
        self.declared: int | None = None
        # The body as far as it was given to the server, or is being given.
        self.given = bytearray()
        # Whether the body was given to its end.
        self.complete = False
        # Whether an exception came out of the application: one of its own, or the server's.
        self.raised = False
        self.read = bytearray()
        self.has_read = False
        self.at_end = False
        self.errors: list[ClientDisconnected] = []
        # A file that is the body, or its end.
        self.path: Path | None = None
        # Whether it is read by the application's own means: its end is where it ends then.
        self._is_read = False
        self.is_shortened = False
        self.returned = False
        self.closes = 0

    @property
    def has_body(self) -> bool:
        return self.method != "HEAD" and self.status not in (204, 304)

    @property
    def body(self) -> bytes:
        """What the client may get of the body."""
        return bytes(self.given[: self.declared]) if self.has_body else b""

    @property
    def may_look_complete(self) -> bool:
        """Whether the client may take the response for all of it."""
        if not self.has_body:
            return True
        return self.complete if self.declared is None else len(self.given) >= self.declared

    @property
    def response_is_over(self) -> bool:
        """Whether nothing that the application does could change what the client gets."""
        return self.may_look_complete or self.complete or self.raised

    def call(self) -> Any:
        """Be the application."""
        while True:  # Each turn is given by the test.
            match order := self._next_order():
                case Return(None):
                    self._start()
                    self._lingers = order.lingers
                    self.phase = Phase.ITERATE
                    self.returned = True
                    return _Pieces(self)
                case Return(sizes):
                    self._start()
                    self._lingers = order.lingers
                    pieces = _List(self, [self._piece(size) for size in sizes])
                    self.complete = self.returned = True
                    return pieces
                case ReturnFile():
                    self._start()
                    self.returned = True
                    return self._file(order)
                case Give():
                    self._give(order)
                case _:
                    self._do(order)

    def next_piece(self) -> bytes:
        """Be the iterator."""
        while True:
            match order := self._next_order():
                case Give(by_write=False):
                    return self._piece(order.size)
                case Give():
                    self._give(order)
                case End():
                    missing = (self.declared or 0) - len(self.given)
                    if order.fill and missing > 0:
                        return self._piece(missing)
                    self.complete = True
                    raise StopIteration
                case _:
                    self._do(order)

    def close(self) -> None:
        """Be the ``close`` of what was returned."""
        self.phase = Phase.CLOSE
        self.closes += 1
        while self._lingers:
            match order := self._next_order():
                case End():
                    self._lingers = False
                case _:
                    self._do(order)

    def shorten(self, size: int) -> None:
        """Cut the file short, if it is longer. Called by the test."""
        if self.path is None:
            return
        with self.path.open("r+b") as file:
            file.truncate(min(size, self.path.stat().st_size))
        self.is_shortened = self._is_read

    def _next_order(self) -> Any:
        thread = threading.current_thread()
        assert isinstance(thread, SteppedThread)
        return thread.pause(self)

    def _do(self, order: Any) -> None:
        """Carry out what makes sense in each phase; pass other orders over."""
        match order:
            case Read(size, tolerant):
                self._read(size, tolerant)
            case Start(status, length) if not self.status:
                self.status = status
                self.declared = length
                self._start()
            case Fail():
                self.raised = True
                raise Fault("as it was told")

    def _start(self) -> None:
        if self._write is not None:
            return
        self.status = self.status or 200
        fields = [("Content-Type", "text/plain"), ("X-Token", self.token)]
        if self.declared is not None:
            fields.append(("Content-Length", str(self.declared)))
        self._write = self._start_response(f"{self.status} Said", fields)

    def _read(self, size: int, tolerant: bool) -> None:
        self.has_read = True
        try:
            data = self.environ["wsgi.input"].read(size)
        except ClientDisconnected as error:
            self.errors.append(error)
            self.raised = self.raised or not tolerant
            if not tolerant:
                raise
        else:
            self.read += data
            self.at_end = len(data) < size

    def _piece(self, size: int) -> bytes:
        start = self._data_at + len(self.given)
        piece = DATA[start : start + size]
        self.given += piece
        return piece

    def _give(self, order: Give) -> None:
        self._start()
        assert self._write is not None
        try:
            self._write(self._piece(order.size))
        except ClientDisconnected as error:
            self.errors.append(error)
            self.raised = self.raised or not order.tolerant
            if not order.tolerant:
                raise

    def _file(self, order: ReturnFile) -> Any:
        run = self
        self._is_read = bool(self.given) and self.declared is None
        self.path = self._folder / self.token
        self.path.write_bytes(b"x" * order.offset + self._piece(order.size))
        file = open(self.path, "rb")
        file.seek(order.offset)
        self.complete = True

        class File:
            read = file.read

            def close(self) -> None:
                file.close()
                run.close()

        return self.environ["wsgi.file_wrapper"](File(), 5000)


class _List(list[bytes]):
    """Pieces whose end is noted."""

    def __init__(self, run: Run, pieces: list[bytes]) -> None:
        super().__init__(pieces)
        self.close = run.close


class _Pieces:
    """Pieces that are given on demand."""

    def __init__(self, run: Run) -> None:
        self.close = run.close
        self._run = run

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._run.next_piece()


def hash_of(token: str) -> int:
    """Return where in ``DATA`` the answers of a request begin."""
    return sum(token.encode()) * 997 % 100_003
