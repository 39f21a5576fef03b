"""Connections with a file on them, in memory and on a clock that the test moves."""

# ruff: noqa: SIM115 - files are opened here for others to close

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from memory import TIMEOUT, MemoryConnection
from sent_files import DATA, open_descriptors

from aiowsgi.connection.states import ConnectionState

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"


@pytest.fixture(autouse=True)
def _descriptors_come_back() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


class FileConnection(MemoryConnection):
    """Answers every request with the file at ``path``, wrapped by ``wrap``."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(self._answer, **options)
        self.path = path
        self.closes = 0
        self.in_application = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        # Room for the head, and for nothing of the file.
        self.wire.capacity = 0

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.in_application.set()
        assert self.go_on.wait(TIMEOUT)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return cast(Iterable[bytes], environ["wsgi.file_wrapper"](self._open()))

    def _open(self) -> Any:
        connection = self

        class File:
            def __init__(self) -> None:
                self._file = open(connection.path, "rb")
                self.read = self._file.read

            def close(self) -> None:
                connection.closes += 1
                self._file.close()

        return File()

    def ask(self, request: bytes = GET) -> None:
        """Let a request arrive, its thread run, and the client read the head of the response."""
        self.receive(request)
        self.run_job()
        self.take(self.wire.buffered)

    def take(self, size: int = 100_000) -> None:
        """Let the client read so much, or what there is."""
        self.wire.take(size)
        self.timers.run_ready()

    @property
    def body(self) -> bytes:
        """What the client has got of the file, and of what follows it."""
        return self.sent.partition(b"\r\n\r\n")[2]


@pytest.fixture
def connected(path: Path) -> Iterator[Callable[..., FileConnection]]:
    """Return a maker of ``FileConnection``. What is still open in the end is lost."""
    made: list[FileConnection] = []

    def make(**options: Any) -> FileConnection:
        made.append(FileConnection(path, **options))
        return made[-1]

    yield make
    for connection in made:
        connection.connection.on_lost()
        assert connection.wire.file is None or connection.wire.file.closed
        assert len(connection.timers.pending) == 0
        assert connection.shared.files_being_sent == 0


Connect = Callable[..., FileConnection]


def test_thread_leaves_before_anything_of_the_file_is_taken(connected: Connect) -> None:
    connection = connected()
    # Would block for ever if it took a client to return.
    connection.ask()
    assert connection.status == 200
    assert b"\r\nContent-Length: 1000003\r\n" in connection.sent
    assert connection.closes == 1
    assert connection.body == b""
    information = connection.connection.inspect({})
    assert information is not None
    assert (information.phase, information.thread) == ("sending", "")
    assert not connection.connection.blocks_thread
    assert not connection.connection.holds_memory


def test_next_request_is_begun_when_the_kernel_has_the_file(connected: Connect) -> None:
    connection = connected()
    connection.ask(GET + GET)
    while len(connection.body) < len(DATA):
        assert connection.pool.jobs == []
        connection.take()
    assert connection.body == DATA
    connection.run_job()
    assert connection.sent.count(b"HTTP/1.1 200 ") == 2


def test_file_waits_for_the_head(connected: Connect) -> None:
    connection = connected()
    connection.wire.capacity = 10
    connection.receive(GET)
    connection.run_job()
    assert connection.sent == b"HTTP/1.1 2"
    connection.wire.take(1000)
    assert connection.sent.endswith(b"\r\n\r\n"), "in the midst of sending"
    connection.timers.run_ready()
    assert connection.body == DATA[: len(connection.body)] != b""


def test_client_that_takes_nothing_of_a_file_is_cut(connected: Connect) -> None:
    connection = connected()
    connection.ask()
    connection.timers.advance(59.9)
    assert not connection.wire.was_reset
    connection.timers.advance(2.2)
    assert connection.wire.was_reset
    assert connection.closed
    assert connection.disconnects == 1
    assert connection.closes == 1


def test_client_that_takes_less_of_a_file_than_the_minimum_is_cut(connected: Connect) -> None:
    connection = connected(min_response_rate=1 << 30)
    connection.ask()
    connection.timers.advance(55)
    connection.take()
    connection.timers.advance(4.9)
    assert not connection.wire.was_reset
    connection.timers.advance(2.2)
    assert connection.wire.was_reset
    assert connection.closes == 1


def test_client_that_takes_little_of_a_file_is_not_cut(connected: Connect) -> None:
    connection = connected(min_response_rate=0)
    connection.ask()
    for _ in range(10):
        connection.timers.advance(55)
        assert not connection.wire.was_reset
        connection.take(1)
    connection.timers.advance(59.9)
    assert not connection.wire.was_reset
    connection.timers.advance(2.2)
    assert connection.wire.was_reset


def test_requests_that_a_client_sends_are_no_progress_of_the_file(connected: Connect) -> None:
    connection = connected()
    connection.ask()
    for _ in range(4):
        connection.timers.advance(15.5)
        if not connection.closed:
            connection.receive(GET)
    assert connection.wire.was_reset


def test_time_that_a_file_takes_is_not_the_application_s(connected: Connect) -> None:
    connection = connected(timeout_request=1.0)
    connection.ask()
    for _ in range(5):
        connection.timers.advance(50)
        connection.take()
    assert not connection.wire.was_reset
    assert connection.sent.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("moment", ["queued", "head", "file"])
def test_file_of_a_connection_that_is_lost_is_closed(connected: Connect, moment: str) -> None:
    connection = connected()
    connection.receive(GET)
    connection.pool.jobs.pop().run()
    if moment != "queued":
        connection.timers.run_ready()
    if moment == "file":
        connection.take(connection.wire.buffered)
    assert (connection.wire.file is not None) == (moment == "file")
    # A descriptor that is left open would be reported.
    connection.connection.on_lost()
    connection.timers.run_ready()
    assert connection.closes == 1


def test_file_for_a_client_that_has_gone_is_closed(connected: Connect) -> None:
    connection = connected()
    connection.go_on.clear()
    connection.receive(GET)
    thread = connection.start_job()
    assert connection.in_application.wait(TIMEOUT)
    connection.connection.on_lost()
    connection.go_on.set()
    thread.join(TIMEOUT)
    connection.timers.run_ready()
    assert connection.closes == 1
    assert connection.sent == b""


def test_file_that_comes_too_late_is_closed(connected: Connect) -> None:
    connection = connected(timeout_request=1.0)
    connection.wire.capacity = None
    connection.go_on.clear()
    connection.receive(GET)
    thread = connection.start_job()
    assert connection.in_application.wait(TIMEOUT)
    connection.timers.advance(2)
    assert connection.status == 504
    connection.go_on.set()
    thread.join(TIMEOUT)
    connection.timers.run_ready()
    assert connection.closes == 1
    assert connection.sent.count(b"HTTP/1.1") == 1


def test_file_of_a_client_that_gives_way_is_closed(connected: Connect) -> None:
    connection = connected()
    connection.ask()
    file = connection.wire.file
    assert file is not None
    connection.connection.shed()
    assert connection.wire.was_reset
    assert file.closed


def test_rate_of_a_file_is_what_the_client_takes(connected: Connect) -> None:
    connection = connected()
    connection.ask()
    assert connection.connection.rate() is None
    connection.timers.advance(10)
    head = len(connection.sent)
    assert connection.connection.rate() == head / 10
    connection.take(50_000)
    assert connection.connection.rate() == (head + 50_000) / 10


def test_request_body_that_is_not_read_may_arrive_behind_the_file(connected: Connect) -> None:
    connection = connected(body_prefetch=1)
    connection.ask(POST + b"x")
    while connection.connection.state is ConnectionState.BUSY:
        connection.take()
    assert connection.connection.state is ConnectionState.DROPPING
    connection.receive(b"x" * 9 + GET)
    connection.run_job()
    assert connection.sent.count(b"HTTP/1.1 200 ") == 2
