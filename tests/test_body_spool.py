"""``--body-spool``: the application is called when a long body is there, with its length."""

import asyncio
import errno
import hashlib
import io
import itertools
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from memory import HeldPool, ManualTimers, MemoryConnection
from raw_client import (
    TIMEOUT,
    Incomplete,
    RawClient,
    StartServer,
    clients_of,
    connect,
    eventually,
    in_thread,
    on_each_wire,
    parts_of,
)

import aiowsgi
from aiowsgi.bridge import spool as spool_module
from aiowsgi.bridge.pool.jobs import Job
from aiowsgi.bridge.spool import Spool, Spooler

CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PREFETCH = 10_000
OPTIONS = {"body_prefetch": PREFETCH, "body_spool": 1 << 24}
BODY = random.Random("body").randbytes(3_000_001)


def length_head(size: int, *fields: bytes) -> bytes:
    lines = [b"POST / HTTP/1.1", b"Host: h", b"Content-Length: %d" % size, *fields, b"", b""]
    return b"\r\n".join(lines)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def upload(body: bytes, chunked: bool) -> list[bytes]:
    """Return a request in pieces, of which only the last one makes it complete."""
    half = len(body) // 2
    if chunked:
        return [CHUNKED + chunk(body[:half]), chunk(body[half:]), b"0\r\n\r\n"]
    return [length_head(len(body)) + body[:half], body[half:-1], body[-1:]]


class App:
    """Answers with what it is told of the body and what it finds."""

    def __init__(self) -> None:
        self.calls = itertools.count()
        self.called = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.called = next(self.calls) + 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        body = environ["wsgi.input"].read(-1)
        announced = environ.get("CONTENT_LENGTH", "none")
        return [f"{announced} {hashlib.sha256(body).hexdigest()}".encode()]


def expected(body: bytes, announced: str | None = None) -> bytes:
    return f"{announced or len(body)} {hashlib.sha256(body).hexdigest()}".encode()


def used(server: aiowsgi.Server) -> int:
    """Return the bytes that count as spooled."""
    spooler = parts_of(server).resources.spooler
    assert spooler is not None
    return spooler.budget.used


def descriptors() -> int:
    """Return how many the process has open, where the system tells."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0


class Files:
    """Stands for the disk: counts the files that are open, and can be slow or broken."""

    def __init__(self) -> None:
        self.open = 0
        self.made = 0
        self.written = 0
        self.error: OSError | None = None
        self.ready = threading.Event()
        self.ready.set()

    def make(self) -> "DiskFile":
        self.made += 1
        self.open += 1
        return DiskFile(self)


class DiskFile(io.FileIO):
    def __init__(self, files: Files) -> None:
        self._files = files
        with tempfile.TemporaryFile(buffering=0) as file:
            super().__init__(os.dup(file.fileno()), "r+b")

    def write(self, data: Any, /) -> int:
        assert self._files.ready.wait(TIMEOUT)
        if self._files.error is not None:
            raise self._files.error
        # Not all at once: the kernel is free to do so.
        written = super().write(memoryview(data)[:50_000])
        self._files.written += written
        return written

    def close(self) -> None:
        if not self.closed:
            self._files.open -= 1
        super().close()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    files = Files()
    monkeypatch.setattr(spool_module, "_temporary_file", files.make)
    yield files
    files.ready.set()
    # The thread that removes them may be about to.
    limit = time.monotonic() + TIMEOUT
    while files.open:
        assert time.monotonic() < limit
        time.sleep(0.002)


# What the application gets.


@on_each_wire
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [PREFETCH + 1, 100_000, len(BODY)])
async def test_the_application_is_called_when_the_body_is_there(
    start_server: StartServer, files: Files, size: int, chunked: bool
) -> None:
    app = App()
    server = await start_server(app, **OPTIONS)
    async with await connect(server) as client:
        for number in range(2):
            *pieces, last = upload(BODY[:size], chunked)
            for piece in pieces:
                await client.send(piece)
            # As far as it has come it is on the disk, and no thread waits for it.
            await eventually(lambda: files.written >= (size - 1) * (number + 1))  # noqa: B023
            assert app.called == number
            await client.send(last)
            assert (await client.receive()).body == expected(BODY[:size])
        # The connection goes on.
        assert (await client.request(GET)).body == expected(b"", "none")
        assert files.made == 2
        await eventually(lambda: files.open == used(server) == 0)


@on_each_wire
async def test_a_short_body_stays_in_memory(start_server: StartServer, files: Files) -> None:
    server = await start_server(App(), **OPTIONS)
    async with await connect(server) as client:
        for body in (b"", b"x", BODY[: PREFETCH - 1]):
            assert (
                await client.request(CHUNKED + (chunk(body) if body else b"") + b"0\r\n\r\n")
            ).body == expected(body)
        body = BODY[:PREFETCH]
        assert (await client.request(length_head(len(body)) + body)).body == expected(body)
    assert files.made == 0


async def test_the_input_has_the_methods_of_a_file(start_server: StartServer, files: Files) -> None:
    body = b"".join(b"line %d\n" % number for number in range(5000))
    found: list[Any] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        source = environ["wsgi.input"]
        found.extend([source.readline(), source.read(7), source.readlines(20), next(iter(source))])
        found.append(source.read())
        found.append((source.read(), source.read(5)))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"read"]

    server = await start_server(app, validate=False, **OPTIONS)
    async with await connect(server) as client:
        assert (await client.request(length_head(len(body)) + body)).body == b"read"
    plain = io.BytesIO(body)
    assert found[:4] == [plain.readline(), plain.read(7), plain.readlines(20), next(plain)]
    assert found[4:] == [plain.read(), (b"", b"")]


async def test_a_body_that_could_never_be_kept_is_streamed_with_its_length(
    start_server: StartServer, files: Files
) -> None:
    app = App()
    server = await start_server(app, body_prefetch=PREFETCH, body_spool=PREFETCH * 2)
    size = PREFETCH * 2 + 1
    async with await connect(server) as client:
        await client.send(length_head(size) + BODY[:PREFETCH])
        await eventually(lambda: app.called == 1)
        await client.send(BODY[PREFETCH:size])
        assert (await client.receive()).body == expected(BODY[:size])
    assert files.made == 0


async def test_a_body_without_a_length_that_could_never_be_kept_gets_a_413(
    start_server: StartServer, files: Files
) -> None:
    app = App()
    server = await start_server(app, body_prefetch=PREFETCH, body_spool=PREFETCH * 2)
    async with await connect(server) as client:
        await client.send(CHUNKED + chunk(BODY[: PREFETCH * 2]))
        await eventually(lambda: files.written == PREFETCH * 2)
        response = await client.request(chunk(b"x"))
        assert response.status == 413
        assert response.get("connection") == "close"
    await eventually(lambda: files.open == 0)
    assert app.called == 0


@on_each_wire
async def test_a_client_that_waits_for_a_100_gets_it_without_a_thread(
    start_server: StartServer, files: Files
) -> None:
    app, busy, go_on = App(), threading.Event(), threading.Event()

    def first_waits(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            busy.set()
            assert go_on.wait(TIMEOUT)
        return app(environ, start_response)

    server = await start_server(first_waits, threads=1, **OPTIONS)
    async with await connect(server) as client, await connect(server) as other:
        await other.send(GET)
        await in_thread(busy.wait, TIMEOUT)
        for body in (BODY[:5], BODY):
            await client.send(length_head(len(body), b"Expect: 100-continue"))
            assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(body)
            if body == BODY:
                await eventually(lambda: files.written == len(BODY))
            go_on.set()
            response = await client.receive()
            assert response.body == expected(body)
            assert response.get("connection") is None


def test_no_response_may_pass_the_100_by() -> None:
    """The wire may send it later than a thread would send the response."""
    connection = MemoryConnection(App(), is_plain=True, **OPTIONS)
    connection.resources.spooler = Spooler(OPTIONS["body_spool"])
    connection.receive(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n")
    connection.run_job()
    first = len(connection.wire.sent_now)
    assert first > 0
    connection.receive(length_head(5, b"Expect: 100-continue").replace(b" / ", b" /second "))
    connection.receive(b"hello")
    connection.run_job()
    assert len(connection.wire.sent_now) == first
    connection.receive(b"GET /third HTTP/1.1\r\nHost: h\r\n\r\n")
    connection.run_job()
    assert len(connection.wire.sent_now) > first
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", connection.sent)
    assert statuses == [b"200", b"100", b"200", b"200"]


class InterruptingPool(HeldPool):
    """Interrupts each job before it has done anything."""

    def enqueue(
        self, run: Callable[[], None], failed: Callable[[], None], *, wake: bool = True
    ) -> Job:
        return super().enqueue(failed, failed, wake=wake)


def test_interrupted_call_removes_the_file() -> None:
    timers = ManualTimers()
    connection = MemoryConnection(
        App(), timers=timers, pool=InterruptingPool(timers.time), **OPTIONS
    )
    connection.resources.spooler = spooler = Spooler(OPTIONS["body_spool"])
    body = BODY[: 2 * PREFETCH]
    for piece in upload(body, chunked=False):
        connection.receive(piece)
    timers.run_until(lambda: connection.pool.jobs)
    assert (spooler.budget.used, spooler.open_files) == (len(body), 1)
    connection.run_job()
    assert connection.status == 500
    stopped = threading.Event()
    spooler.stop(stopped.set)
    assert stopped.wait(TIMEOUT)
    spooler.join()
    assert (spooler.budget.used, spooler.open_files) == (0, 0)


async def test_nothing_has_a_name_and_nothing_is_left(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server = await start_server(App(), **OPTIONS)
    before = descriptors()
    async with await connect(server) as client:
        await client.send(length_head(len(BODY)) + BODY[:-1])
        await eventually(lambda: used(server) == len(BODY) - 1)
        # A crash leaves nothing behind.
        assert os.listdir(tmp_path) == []
        assert (await client.request(BODY[-1:])).body == expected(BODY)
    await eventually(lambda: used(server) == 0)
    server.close()
    await server.wait_closed()
    assert not [thread for thread in threading.enumerate() if thread.name == "aiowsgi-spool"]
    assert descriptors() <= before


# Clients that do not send it all.


@on_each_wire
@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset, RawClient.half_close])
async def test_a_client_that_leaves(
    start_server: StartServer, files: Files, leave: Callable[[RawClient], None]
) -> None:
    app = App()
    server = await start_server(app, **OPTIONS)
    async with await connect(server) as client:
        await client.send(length_head(len(BODY)) + BODY[:-1])
        await eventually(lambda: files.written == len(BODY) - 1)
        leave(client)
        await eventually(lambda: files.open == 0)
    assert app.called == used(server) == 0


async def test_a_client_that_leaves_while_the_disk_is_slow(
    start_server: StartServer, files: Files
) -> None:
    server = await start_server(App(), **OPTIONS)
    files.ready.clear()
    async with await connect(server) as client:
        await client.send(length_head(len(BODY)) + BODY[:50_000])
        await eventually(lambda: files.open == 1)
        client.reset()
        await eventually(lambda: used(server) == 0)
        files.ready.set()
        await eventually(lambda: files.open == 0)


async def test_a_client_that_sends_no_more_gets_a_408(
    start_server: StartServer, files: Files
) -> None:
    server = await start_server(App(), timeout_body=0.1, **OPTIONS)
    async with await connect(server) as client:
        await client.send(length_head(len(BODY)) + BODY[:50_000])
        assert (await client.receive()).status == 408
    await eventually(lambda: files.open == 0)


# Disks.


@on_each_wire
async def test_a_full_disk_is_a_503_and_a_message(
    start_server: StartServer, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    server = await start_server(app, **OPTIONS)
    files.error = OSError(errno.ENOSPC, "No space left on device")
    async with await connect(server) as client, await connect(server) as other:
        response = await client.request(length_head(len(BODY)) + BODY[:50_000])
        assert response.status == 503
        assert response.get("retry-after") is not None
        await eventually(lambda: files.open == 0)
        assert app.called == used(server) == 0
        assert "No space left on device" in caplog.text
        assert "--body-spool" in caplog.text
        # Others are served, and uploads once there is room.
        assert (await other.request(GET)).status == 200
        files.error = None
        assert (await other.request(length_head(len(BODY)) + BODY)).body == expected(BODY)


async def test_a_disk_that_is_full_at_the_last_moment_is_a_503(
    start_server: StartServer, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails between two looks at what it does: a body that is not whole is not read."""
    look = Spool.error.fget
    assert look is not None

    def look_and_fail(spool: Spool) -> Exception | None:
        found: Exception | None = look(spool)
        if not receiver.is_parsing and not files.ready.is_set():
            files.error = OSError(errno.ENOSPC, "No space left on device")
            files.ready.set()
            limit = time.monotonic() + TIMEOUT
            while spool.pending:
                assert time.monotonic() < limit
                time.sleep(0.002)
        return found

    app = App()
    server = await start_server(app, **OPTIONS)
    async with await connect(server) as client:
        await client.send(length_head(50_000) + BODY[:49_000])
        await eventually(lambda: files.written == 49_000)
        (connection,) = clients_of(server)
        receiver = connection.receiver
        files.ready.clear()
        monkeypatch.setattr(Spool, "error", property(look_and_fail))
        assert (await client.request(BODY[49_000:50_000])).status == 503
    assert not app.called


async def test_without_a_directory_for_files_it_is_a_503(
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    server = await start_server(App(), **OPTIONS)
    async with await connect(server) as client:
        assert (await client.request(CHUNKED + chunk(BODY[:50_000]))).status == 503
    assert "TMPDIR" in caplog.text


async def test_without_a_thread_to_write_it_is_a_503(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server = await start_server(App(), **OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        async with await connect(server) as client:
            assert (await client.request(CHUNKED + chunk(BODY[:50_000]))).status == 503
        assert used(server) == 0


@on_each_wire
async def test_a_slow_disk_makes_the_client_wait(start_server: StartServer, files: Files) -> None:
    app = App()
    server = await start_server(app, **OPTIONS)
    files.ready.clear()
    async with await connect(server) as client:
        body = BODY * 5
        sending = asyncio.create_task(client.send(length_head(len(body)) + body))
        await eventually(lambda: used(server) > 1 << 18)
        (connection,) = clients_of(server)
        await eventually(lambda: not connection.receiver.is_reading)
        # What is in memory is bounded, and counted.
        assert 1 << 18 <= connection.receiver.kept < 1 << 20
        assert parts_of(server).resources.budget.used >= 1 << 18
        assert not sending.done()
        files.ready.set()
        await sending
        assert (await client.receive()).body == expected(body)
    await eventually(lambda: parts_of(server).resources.budget.used == 0)


class Writes(threading.Event):
    """Lets one write pass at a time, until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self._allowed = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set() or self._allowed.acquire(timeout=timeout)

    def allow_one(self) -> None:
        self._allowed.release()

    def set(self) -> None:
        super().set()
        self._allowed.release()


def test_a_disk_has_its_time_anew_with_each_write(files: Files) -> None:
    files.ready = writes = Writes()
    connection = MemoryConnection(App(), timeout_body=30.0, **OPTIONS)
    connection.resources.spooler = spooler = Spooler(OPTIONS["body_spool"])
    connection.receive(length_head(len(BODY)) + BODY[:PREFETCH])
    connection.timers.run_until(lambda: files.made)
    # More than may be in memory: the client has to wait for the disk.
    connection.receive(BODY[PREFETCH:400_000])
    assert not connection.wire.reading
    connection.timers.advance(20)
    writes.allow_one()
    spool = connection.connection.receiver.spool
    assert spool is not None
    connection.timers.run_until(lambda: spool.pending < 400_000 and connection.timers.ready)
    connection.timers.advance(20)
    assert connection.sent == b""
    connection.timers.advance(11)
    assert connection.status == 503
    writes.set()
    stopped = threading.Event()
    spooler.stop(stopped.set)
    assert stopped.wait(TIMEOUT)
    spooler.join()


@pytest.mark.parametrize("size", [50_000, len(BODY)], ids=["at the end", "in the midst"])
async def test_a_disk_that_hangs_is_a_503(
    start_server: StartServer, files: Files, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    server = await start_server(App(), timeout_body=0.2, **OPTIONS)
    files.ready.clear()
    async with await connect(server) as client:
        request = CHUNKED + chunk(BODY[:size]) + b"0\r\n\r\n"
        sending = asyncio.create_task(client.send(request))
        assert (await client.receive()).status == 503
        sending.cancel()
        await asyncio.wait([sending])
    assert "The disk takes no request body" in caplog.text
    files.ready.set()
    await eventually(lambda: files.open == 0)


async def test_whatever_goes_wrong_with_a_body_the_next_one_is_written(
    start_server: StartServer,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(spool: Spool) -> None:
        raise SystemExit("raised in the thread from outside")

    request = CHUNKED + chunk(BODY[:50_000]) + b"0\r\n\r\n"
    server = await start_server(App(), timeout_body=0.2, **OPTIONS)
    async with await connect(server) as client, await connect(server) as other:
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "work", fail)
            assert (await client.request(request)).status == 503
        assert (await other.request(request)).status == 200
    assert "A request body was lost on its way to the disk" in caplog.text


# Many at once.


async def test_the_slowest_make_room(start_server: StartServer, files: Files) -> None:
    server = await start_server(App(), body_prefetch=PREFETCH, body_spool=200_000)
    async with await connect(server) as slow, await connect(server) as client:
        await slow.send(length_head(200_000) + BODY[:150_000])
        await eventually(lambda: used(server) == 150_000)
        (protocol,) = (each for each in clients_of(server) if each.holds_spool)
        await eventually(lambda: protocol.rate() is not None)
        body = BODY[:100_000]
        request = CHUNKED + chunk(body) + b"0\r\n\r\n"
        assert (await client.request(request)).body == expected(body)
        assert (await slow.receive()).status == 408


async def test_a_client_that_is_the_slowest_makes_room_itself(
    start_server: StartServer, files: Files
) -> None:
    server = await start_server(App(), body_prefetch=PREFETCH, body_spool=200_000)
    async with await connect(server) as client, await connect(server) as other:
        await client.send(length_head(200_000) + BODY[:20_000])
        await eventually(lambda: used(server) == 20_000)
        (slow,) = (each for each in clients_of(server) if each.holds_spool)
        await eventually(lambda: slow.rate() is not None)
        await other.send(length_head(200_000) + BODY[:170_000])
        await eventually(lambda: used(server) == 190_000)
        assert (await client.request(BODY[:40_000])).status == 408
        assert used(server) == 170_000
    await eventually(lambda: used(server) == 0)


async def test_without_room_it_is_a_503(start_server: StartServer, files: Files) -> None:
    go_on, busy = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        busy.set()
        assert go_on.wait(TIMEOUT)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d" % len(environ["wsgi.input"].read(-1))]

    server = await start_server(app, body_prefetch=PREFETCH, body_spool=200_000)
    async with await connect(server) as client, await connect(server) as other:
        await client.send(length_head(150_000) + BODY[:150_000])
        await in_thread(busy.wait, TIMEOUT)
        assert (await other.request(length_head(100_000) + BODY[:60_000])).status == 503
        go_on.set()
        assert (await client.receive()).body == b"150000"


async def test_a_full_queue_drops_the_file(start_server: StartServer, files: Files) -> None:
    go_on, busy = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        busy.set()
        assert go_on.wait(TIMEOUT)
        return App()(environ, start_response)

    server = await start_server(app, threads=1, spare_threads=0, queue_size=0, **OPTIONS)
    async with await connect(server) as client, await connect(server) as other:
        await client.send(GET)
        await in_thread(busy.wait, TIMEOUT)
        assert (await other.request(length_head(len(BODY)) + BODY)).status == 503
        await eventually(lambda: files.open == 0)
        go_on.set()
        assert (await client.receive()).status == 200


# The end.


async def test_a_shutdown_waits_for_an_upload(start_server: StartServer, files: Files) -> None:
    server = await start_server(App(), **OPTIONS)
    async with await connect(server) as client:
        await client.send(length_head(len(BODY)) + BODY[:-1])
        await eventually(lambda: files.written == len(BODY) - 1)
        server.close()
        response = await client.request(BODY[-1:])
        assert response.body == expected(BODY)
        assert response.get("connection") == "close"
    await server.wait_closed()


@pytest.mark.parametrize("slow", [False, True])
async def test_a_shutdown_cuts_an_upload_that_takes_too_long(
    start_server: StartServer, files: Files, slow: bool
) -> None:
    server = await start_server(App(), timeout_graceful=0.05, **OPTIONS)
    if slow:
        files.ready.clear()
    async with await connect(server) as client:
        await client.send(length_head(len(BODY)) + BODY[:50_000])
        await eventually(lambda: files.open == 1)
        server.close()
        with pytest.raises((Incomplete, ConnectionResetError)):
            await client.receive()
        files.ready.set()
        await server.wait_closed()
    assert files.open == 0


# The parts.


@pytest.fixture
def spooler() -> Iterator[Spooler]:
    spooler = Spooler(1 << 20)
    yield spooler
    spooler.stop(lambda: None)
    spooler.join()


def test_a_spool_is_closed_while_it_is_written(spooler: Spooler, files: Files) -> None:
    files.ready.clear()
    spool = Spool(spooler, lambda: None)
    spool.feed(BODY[:20_000])
    spool.close()
    spool.close()
    assert spooler.budget.used == 0
    files.ready.set()


def test_a_spool_is_closed_behind_the_end(files: Files) -> None:
    spooler, written = Spooler(1 << 20), threading.Event()
    spool = Spool(spooler, written.set)
    spool.feed(BODY[:20_000])
    assert written.wait(TIMEOUT)
    ended = threading.Event()
    spooler.stop(ended.set)
    assert ended.wait(TIMEOUT)
    spooler.join()
    # By a thread that was left behind.
    assert spool.open().read() == BODY[:20_000]
    spool.close()
    assert files.open == 0


def test_a_spooler_without_a_thread_ends_at_once() -> None:
    spooler, ended = Spooler(1), threading.Event()
    spooler.stop(ended.set)
    assert ended.is_set()
    spooler.join()


def test_the_bound_is_no_less_than_what_is_kept_in_memory() -> None:
    with pytest.raises(aiowsgi.ConfigError, match="at least body_prefetch"):
        aiowsgi.Config(body_spool=5)
