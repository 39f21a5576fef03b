"""A step that fails half way, as for want of memory: nobody waits for ever, nothing is left out.

Whatever a step takes note of, it does so once the step is done.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from fake_loop import TIMEOUT, FakeConnection, FakeLoop
from raw_client import StartServer, connect, eventually

import aiowsgi
from aiowsgi.bridge.body import RequestBody
from aiowsgi.bridge.budget import Budget
from aiowsgi.connection.deadline import Deadline
from aiowsgi.errors import RequestBodyError
from aiowsgi.http.response import ResponseEncoder
from aiowsgi.server.server import _deliver

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
@pytest.mark.parametrize("step", ["start", "encode", "finish", "post"])
def test_client_gets_a_part_of_the_response_and_its_end_or_a_500(
    name: str, step: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeConnection(APPLICATIONS[name])
    whole.receive(GET)
    whole.run_job()
    connection = FakeConnection(APPLICATIONS[name])
    connection.receive(GET)
    if step == "post":
        mailbox = connection.site.mailbox
        monkeypatch.setattr(mailbox, "post", FailsOnce(mailbox.post, at))
    else:
        failing = FailsOnce(getattr(ResponseEncoder, step), at)
        monkeypatch.setattr(
            ResponseEncoder, step, lambda self, *args, **more: failing(self, *args, **more)
        )
    connection.run_job()
    # So often nothing failed.
    if connection.sent == whole.sent and not connection.transport.closing:
        return
    assert connection.transport.eof_written or connection.closed
    if connection.status == 500:
        assert b"\r\nConnection: close\r\n" in connection.sent
    else:
        head, _, body = connection.sent.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert whole.sent.partition(b"\r\n\r\n")[2].startswith(body)


def test_file_is_closed_where_its_head_cannot_be_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        file: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
        return file

    connection = FakeConnection(app)
    connection.receive(GET)
    failing = FailsOnce(ResponseEncoder.finish)
    monkeypatch.setattr(ResponseEncoder, "finish", lambda self, *args: failing(self, *args))
    # A descriptor that is left open would be reported.
    connection.run_job()
    assert connection.status == 500


def test_connection_is_cut_where_what_was_taken_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = FakeConnection(APPLICATIONS["list"])
    connection.receive(GET)
    monkeypatch.setattr(connection.transport, "write", FailsOnce(connection.transport.write))
    connection.run_job()
    assert connection.transport.aborted
    assert connection.closed


def test_connection_is_cut_where_the_loop_thread_fails_to_look_after_it() -> None:
    connection = FakeConnection(APPLICATIONS["list"])
    connection.receive(GET)
    exchange = connection.protocol._exchange
    assert exchange is not None
    # Whatever is wrong with it.
    connection.protocol._receiver = cast(Any, None)
    exchange.stream_body(b"")
    with pytest.raises(AttributeError):
        _deliver(exchange)
    assert connection.transport.aborted


@pytest.mark.parametrize("initial", [b"", b"x" * 10], ids=["wanted", "drained"])
def test_reader_that_could_not_ask_does_not_wait(initial: bytes) -> None:
    def fail() -> None:
        raise MemoryError

    class NoSlots:
        def release_slot(self) -> None:
            raise AssertionError

        def reclaim_slot(self) -> None:
            raise AssertionError

    body = RequestBody(fail, high_water=10, budget=Budget(1000), slots=NoSlots(), initial=initial)
    with pytest.raises(MemoryError):
        body.read(100)
    ended = threading.Event()

    def read_on() -> None:
        with pytest.raises(RequestBodyError):
            body.read(100)
        ended.set()

    threading.Thread(target=read_on, daemon=True).start()
    assert ended.wait(TIMEOUT)


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
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_coroutine_that_cannot_be_started_does_not_keep_its_thread(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
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
        await eventually(lambda: server._site.connections)
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "create_task", FailsOnce(loop.create_task))
        await client.send(GET[-2:])
        assert (await client.receive()).body == b"no memory"


def test_deadline_that_could_not_be_moved_is_reached_when_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = FakeLoop()
    reached: list[float] = []
    deadline = Deadline(loop, lambda: reached.append(loop.now))  # type: ignore[arg-type]
    start = loop.now
    deadline.set(10.0)
    loop.advance(1)
    monkeypatch.setattr(loop, "call_later", FailsOnce(loop.call_later))
    with pytest.raises(MemoryError):
        deadline.set(2.0)
    loop.advance(20)
    assert reached == [start + 10.0]
