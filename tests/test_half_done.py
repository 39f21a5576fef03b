"""A step that fails half way, because memory is short: no thread waits for ever, nothing is lost.

Each step notes that it is done only after it is done.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from log_records import loud
from memory import TIMEOUT, ManualTimer, ManualTimers, MemoryConnection, MemoryServer, MemoryWire
from raw_client import StartServer, connect, eventually, on_each_wire, parts_of
from thread_waits import pieces_of, read

import aiowsgi
from aiowsgi.bridge.body import RequestBody
from aiowsgi.bridge.budget import Budget
from aiowsgi.bridge.locks import Lock, make_condition
from aiowsgi.bridge.mailbox import Mailbox
from aiowsgi.connection.connection import Connection
from aiowsgi.connection.deadline import Deadline, FirstChecks
from aiowsgi.errors import RequestBodyError
from aiowsgi.exchange.info import ConnectionInfo
from aiowsgi.exchange.interfaces import Codec
from aiowsgi.exchange.report import Observers
from aiowsgi.exchange.stream import Stream
from aiowsgi.http import response
from aiowsgi.http.request import RequestHead, RequestParser
from aiowsgi.http.response import ResponseEncoder, ResponseHeads

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class FailsOnce:
    """Takes the place of a callable, and fails the given time it is called."""

    def __init__(self, call: Callable[..., Any], at: int = 1) -> None:
        self._call = call
        self._left = at

    def __call__(self, *args: Any, **more: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise MemoryError
        return self._call(*args, **more)


class FailingCodec(Codec):
    """HTTP/1.1, but a step of the encoders fails the given time it is taken."""

    def __init__(self, codec: Codec, step: str, failing: FailsOnce) -> None:
        self._codec = codec
        self.continue_response = codec.continue_response
        self._heads = ResponseHeads("")

        def take_step(encoder: ResponseEncoder, *args: Any) -> Any:
            return failing(encoder, *args)

        self._encoder = type("FailingEncoder", (ResponseEncoder,), {step: take_step})

    def parser(self, info: ConnectionInfo) -> RequestParser:
        return self._codec.parser(info)

    def encoder(self, head: RequestHead) -> ResponseEncoder:
        section = head.section
        return self._encoder(
            self._heads,
            method=head.method,
            version=section.version,
            keep_alive=section.keep_alive,
        )


class FailingConnection(MemoryConnection):
    """A connection on which a step of the response fails, the given time it is taken."""

    def __init__(self, app: WSGIApplication, step: str, at: int = 1) -> None:
        self._step = step, at
        super().__init__(app)

    def connect(self, wire: MemoryWire) -> Connection:
        step, at = self._step
        if step == "wake":
            failing = FailsOnce(self.timers.call_soon, at)
            mailbox = Mailbox[Stream](failing, lambda stream: stream.owner.look_after(stream))
            self.resources.mailbox = self.resources.writer_terms.mailbox = mailbox
        else:
            failing = FailsOnce(getattr(ResponseEncoder, step), at)
            self.codec = FailingCodec(self.codec, step, failing)
        return super().connect(wire)


_COMPILED = str(response.__file__).endswith(tuple(EXTENSION_SUFFIXES))
no_other_encoder = pytest.mark.skipif(_COMPILED, reason="a compiled encoder has no other kinds")


def answer(parts: list[bytes], *, size: bool = False) -> Callable[..., Iterable[bytes]]:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = [("Content-Length", str(len(b"".join(parts))))] if size else []
        start_response("200 OK", PLAIN + length)
        return iter(parts)

    return app


def answer_by_write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Go on whatever happens."""
    write = start_response("200 OK", PLAIN)
    for part in (b"one", b"two", b"three"):
        try:
            write(part)
        except MemoryError:
            environ["wsgi.errors"].write("")
    return []


APPLICATIONS = {
    "list": lambda environ, start_response: (start_response("200 OK", PLAIN), [b"hello"])[1],
    "iterable": answer([b"one", b"two"]),
    "declared": answer([b"one", b"two"], size=True),
    "write": answer_by_write,
}


@pytest.mark.parametrize("name", APPLICATIONS)
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize(
    "step",
    [
        pytest.param("start", marks=no_other_encoder),
        pytest.param("encode", marks=no_other_encoder),
        pytest.param("finish", marks=no_other_encoder),
        "wake",
    ],
)
def test_client_gets_a_part_of_the_response_and_its_end_or_a_500(
    name: str, step: str, at: int
) -> None:
    whole = MemoryConnection(APPLICATIONS[name])
    whole.receive(GET)
    whole.run_job()
    connection = FailingConnection(APPLICATIONS[name], step, at)
    connection.receive(GET)
    connection.run_job()
    body = whole.sent.partition(b"\r\n\r\n")[2]
    head, _, sent = connection.sent.partition(b"\r\n\r\n")
    # So often nothing failed, or only what came behind the response.
    if connection.status == 200 and sent == body and not connection.wire.is_closing:
        return
    assert connection.wire.half_closed or connection.closed
    if connection.status == 500:
        assert b"\r\nConnection: close\r\n" in connection.sent
    else:
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body.startswith(sent)


@no_other_encoder
def test_file_is_closed_where_its_head_cannot_be_encoded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        file: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
        return file

    connection = FailingConnection(app, "finish")
    connection.receive(GET)
    # A descriptor that is left open would be reported.
    connection.run_job()
    assert connection.status == 500


class FailingWire(MemoryWire):
    """Fails to send what it is first told to."""

    fails = True

    def write(self, pieces: list[bytes]) -> None:
        if self.fails:
            self.fails = False
            raise MemoryError
        super().write(pieces)


def test_connection_is_cut_where_what_was_taken_cannot_be_sent() -> None:
    server = MemoryServer(APPLICATIONS["list"])
    wire = FailingWire(server.timers)
    server.connect(wire).receive(GET)
    server.pool.jobs[0].run()
    server.timers.run_ready()
    assert wire.was_reset
    assert wire.lost
    assert not server.shared.connections


class FailingObservers(Observers):
    """Let the loop thread fail once when it is done with a request."""

    fails = True

    def note_end(self, stream: Stream) -> None:
        if self.fails:
            self.fails = False
            raise MemoryError


@on_each_wire
async def test_connection_is_cut_where_the_loop_thread_fails_to_look_after_it(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start_server(APPLICATIONS["list"])
    parts = parts_of(server)
    clock = parts.resources.clock
    parts.shared.observers = FailingObservers(
        access_log=True, threads=1, queue_target=math.inf, clock=clock
    )
    async with await connect(server) as client:
        assert (await client.request(GET)).body == b"hello"
        with contextlib.suppress(ConnectionResetError):
            assert await client.read_until_eof() == b""
    assert "A delivery to the event loop failed" in caplog.text
    async with await connect(server) as other:
        for _ in range(2):
            assert (await other.request(GET)).body == b"hello"


@pytest.mark.parametrize("initial", [b"", b"x" * 10], ids=["wanted", "drained"])
def test_reader_that_could_not_ask_does_not_wait(initial: bytes) -> None:
    def fail() -> None:
        raise MemoryError

    class NoSlots:
        def make_condition(self, lock: Lock) -> threading.Condition:
            return make_condition(lock)

        def release_slot(self) -> None:
            raise AssertionError

        def reclaim_slot(self) -> None:
            raise AssertionError

    body = RequestBody(
        fail, high_water=10, budget=Budget(1000), slots=NoSlots(), initial=pieces_of(initial)
    )
    with pytest.raises(MemoryError):
        read(body, 100)
    ended = threading.Event()

    def read_on() -> None:
        with pytest.raises(RequestBodyError):
            read(body, 100)
        ended.set()

    threading.Thread(target=read_on, daemon=True).start()
    assert ended.wait(TIMEOUT)


@on_each_wire
async def test_coroutine_that_fails_when_it_is_cancelled_is_logged(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("a mistake in the cleaning up")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        aiowsgi.run_coroutine(wait())
        return []

    server = await start_server(app)
    async with await connect(server) as client:
        await client.send(GET)
        async with asyncio.timeout(TIMEOUT):
            await begun.wait()
    await eventually(lambda: "a mistake in the cleaning up" in caplog.text)
    assert [record.levelname for record in loud(caplog)] == ["ERROR"]


@on_each_wire
async def test_coroutine_that_cannot_be_started_does_not_keep_its_thread(
    start_server: StartServer,
) -> None:
    async def nothing() -> None:
        raise AssertionError

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        try:
            aiowsgi.run_coroutine(nothing())
        except MemoryError:
            return [b"no memory"]
        return []

    server = await start_server(app)
    async with await connect(server) as client:
        await client.send(GET[:-2])
        # From here on the server itself makes no tasks.
        await eventually(lambda: server.inspect().requests)
        loop = asyncio.get_running_loop()
        loop.set_task_factory(FailsOnce(asyncio.Task))
        try:
            await client.send(GET[-2:])
            assert (await client.receive()).body == b"no memory"
        finally:
            loop.set_task_factory(None)


class FailingTimers(ManualTimers):
    """Makes no timer while ``fails`` is set."""

    fails = False

    def call_later(self, delay: float, callback: Callable[[], object]) -> ManualTimer:
        if self.fails:
            raise MemoryError
        return super().call_later(delay, callback)


def test_deadline_that_could_not_be_moved_is_reached_when_it_was() -> None:
    timers = FailingTimers()
    reached: list[float] = []
    deadline = Deadline(FirstChecks(timers), timers.time, lambda: reached.append(timers.now))
    start = timers.now
    deadline.set(10.0, timers.now)
    timers.advance(1)
    timers.fails = True
    with pytest.raises(MemoryError):
        deadline.set(2.0, timers.now)
    timers.fails = False
    timers.advance(20)
    assert reached == [start + 10.0]
