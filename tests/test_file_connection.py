"""Connections with a file on them, on a clock that the test moves.

The head goes to a client in memory, the file through a real socket.
"""

# ruff: noqa: SIM115 - files are opened here for others to close

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from fake_loop import TIMEOUT, FakeConnection
from sent_files import open_descriptors, spy_on_sendfile
from test_file_sender import DATA, Wire

from aiowsgi.connection.states import State

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


class FileConnection(FakeConnection):
    """Answers every request with the file at ``path``, wrapped by ``wrap``."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(self._answer, **options)
        self.path = path
        self.closes = 0
        self.in_application = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.wire = Wire()
        vars(self.loop).update(
            add_writer=self.wire.add_writer, remove_writer=self.wire.remove_writer
        )
        info = self.transport.get_extra_info
        vars(self.transport).update(
            get_extra_info=lambda name: self.wire.socket if name == "socket" else info(name)
        )

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

    def take(self) -> None:
        """Let the client read what has arrived; then let the server send."""
        self.wire.take()
        self.wire.turn()
        self.loop.run_ready()


@pytest.fixture
def connected(path: Path) -> Iterator[Callable[..., FileConnection]]:
    """Return a maker of ``FileConnection``. What is still open in the end is lost."""
    made: list[FileConnection] = []

    def make(**options: Any) -> FileConnection:
        made.append(FileConnection(path, **options))
        return made[-1]

    yield make
    for connection in made:
        connection.protocol.connection_lost(None)
        assert not connection.wire.writers
        assert connection.loop.timers == 0
        connection.wire.close()


Connect = Callable[..., FileConnection]


def test_thread_leaves_before_anything_of_the_file_is_taken(connected: Connect) -> None:
    connection = connected()
    connection.receive(GET)
    # Would block for ever if it took a client to return.
    connection.run_job()
    assert connection.status == 200
    assert b"\r\nContent-Length: 3000001\r\n" in connection.sent
    assert connection.closes == 1
    assert connection.wire.received == b""
    information = connection.protocol.inspect({})
    assert information is not None
    assert (information.phase, information.thread) == ("sending", "")
    assert not connection.protocol.blocks_thread
    assert not connection.protocol.holds_memory


def test_next_request_is_begun_when_the_kernel_has_the_file(connected: Connect) -> None:
    connection = connected()
    connection.receive(GET + GET)
    connection.run_job()
    while connection.protocol._state is State.ACTIVE:
        assert connection.pool.jobs == []
        assert connection.sent.count(b"HTTP/1.1 200 ") == 1
        connection.take()
    connection.take()
    assert connection.wire.received == DATA
    connection.run_job()
    assert connection.sent.count(b"HTTP/1.1 200 ") == 2


def test_file_waits_for_the_head(connected: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = spy_on_sendfile(monkeypatch)
    connection = connected()
    connection.transport.capacity = 10
    connection.receive(GET)
    connection.run_job()
    assert sent == []
    connection.transport.take(1000)
    assert sent == [], "in the midst of sending"
    connection.loop.run_ready()
    assert sent


def test_client_that_takes_nothing_of_a_file_is_cut(connected: Connect) -> None:
    connection = connected()
    connection.receive(GET)
    connection.run_job()
    connection.loop.advance(59.9)
    assert not connection.transport.aborted
    connection.loop.advance(2.2)
    assert connection.transport.aborted
    assert connection.closed
    assert connection.disconnects == 1
    assert connection.closes == 1


def test_client_that_takes_less_of_a_file_than_the_minimum_is_cut(connected: Connect) -> None:
    connection = connected(min_response_rate=1 << 30)
    connection.receive(GET)
    connection.run_job()
    connection.loop.advance(55)
    connection.take()
    connection.loop.advance(4.9)
    assert not connection.transport.aborted
    connection.loop.advance(2.2)
    assert connection.transport.aborted
    assert connection.closes == 1


def test_client_that_takes_little_of_a_file_is_not_cut(connected: Connect) -> None:
    connection = connected()
    connection.receive(GET)
    connection.run_job()
    for _ in range(10):
        connection.loop.advance(55)
        assert not connection.transport.aborted
        connection.take()
    connection.loop.advance(59.9)
    assert not connection.transport.aborted
    connection.loop.advance(2.2)
    assert connection.transport.aborted


def test_requests_that_a_client_sends_are_no_progress_of_the_file(connected: Connect) -> None:
    connection = connected()
    connection.receive(GET)
    connection.run_job()
    for _ in range(4):
        connection.loop.advance(15.5)
        if not connection.closed:
            connection.receive(GET)
    assert connection.transport.aborted


def test_time_that_a_file_takes_is_not_the_application_s(connected: Connect) -> None:
    connection = connected(timeout_request=1.0)
    connection.receive(GET)
    connection.run_job()
    for _ in range(5):
        connection.loop.advance(50)
        connection.take()
    assert not connection.transport.aborted
    assert connection.sent.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("moment", ["queued", "head", "file"])
def test_file_of_a_connection_that_is_lost_is_closed(connected: Connect, moment: str) -> None:
    connection = connected()
    connection.transport.capacity = 0 if moment == "head" else None
    connection.receive(GET)
    connection.pool.jobs.pop().run()
    if moment != "queued":
        connection.loop.run_ready()
    assert (connection.protocol._sender._file is not None) == (moment == "file")
    connection.protocol.connection_lost(None)
    connection.loop.run_ready()
    assert connection.closes == 1


def test_file_for_a_client_that_has_gone_is_closed(connected: Connect) -> None:
    connection = connected()
    connection.go_on.clear()
    connection.receive(GET)
    thread = connection.start_job()
    assert connection.in_application.wait(TIMEOUT)
    connection.protocol.connection_lost(None)
    connection.go_on.set()
    thread.join(TIMEOUT)
    connection.loop.run_ready()
    assert connection.closes == 1
    assert connection.sent == b""


def test_file_that_comes_too_late_is_closed(connected: Connect) -> None:
    connection = connected(timeout_request=1.0)
    connection.go_on.clear()
    connection.receive(GET)
    thread = connection.start_job()
    assert connection.in_application.wait(TIMEOUT)
    connection.loop.advance(2)
    assert connection.status == 504
    connection.go_on.set()
    thread.join(TIMEOUT)
    connection.loop.run_ready()
    assert connection.closes == 1
    assert connection.sent.count(b"HTTP/1.1") == 1


def test_file_of_a_client_that_gives_way_is_closed(connected: Connect) -> None:
    connection = connected()
    connection.receive(GET)
    connection.run_job()
    connection.protocol.give_way()
    assert connection.transport.aborted
    assert not connection.wire.writers


def test_rate_of_a_file_is_what_the_client_takes(connected: Connect) -> None:
    connection = connected()
    connection.receive(GET)
    connection.run_job()
    assert connection.protocol.rate() is None
    connection.loop.advance(10)
    file = connection.protocol._sender._file
    assert file is not None
    before, unsent = connection.protocol.rate(), file.unsent
    assert before is not None
    connection.take()
    taken = unsent - file.unsent
    assert taken > 0
    assert connection.protocol.rate() == pytest.approx(before + taken / 10)


def test_request_body_that_is_not_read_may_arrive_behind_the_file(connected: Connect) -> None:
    connection = connected(body_prefetch=1)
    connection.receive(POST + b"x")
    connection.run_job()
    while connection.protocol._sender._file is not None:
        connection.take()
    assert connection.protocol._state is State.DRAIN
    connection.receive(b"x" * 9 + GET)
    connection.run_job()
    assert connection.sent.count(b"HTTP/1.1 200 ") == 2
