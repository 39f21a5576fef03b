"""Files over real sockets: they leave their thread at once and arrive whole, or visibly not."""

import contextlib
import errno
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIEnvironment

import pytest
from log_records import loud
from raw_client import (
    TIMEOUT,
    Incomplete,
    RawClient,
    StartServer,
    clients_of,
    connect,
    eventually,
    in_thread,
    on_each_loop,
)
from sent_files import (
    DATA,
    GET,
    HEAD,
    HELLO,
    LARGE,
    App,
    a_file_is_on_its_way,
    connect_slowly,
    content,
    descriptors_come_back,
    fail_sendfile,
    phases,
    spy_on_sendfile,
    write_file,
    write_large_file,
)

import aiowsgi


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write_large_file(tmp_path)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of what ``os.sendfile`` has sent."""
    return spy_on_sendfile(monkeypatch)


@on_each_loop
async def test_file_is_sent_by_the_kernel(
    start_server: StartServer, path: Path, sent: list[int]
) -> None:
    app = App(path)
    server = await start_server(app, validate=False)
    async with descriptors_come_back(server), await connect(server) as client:
        response = await client.request(GET)
        assert response.body == DATA
        assert response.get("content-length") == str(len(DATA))
        assert response.get("transfer-encoding") is None
        assert sum(sent) == len(DATA)
    assert app.closes == 1


@on_each_loop
@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor], ids=["own", "foreign"])
async def test_thread_is_free_while_a_file_is_on_its_way(
    start_server: StartServer,
    large: Path,
    sent: list[int],
    executor: Callable[[int], Any] | None,
) -> None:
    app = App(large)
    pool = None if executor is None else executor(1)
    server = await start_server(app, validate=False, executor=pool, threads=1, spare_threads=0)
    async with (
        descriptors_come_back(server),
        await connect_slowly(server) as slow,
        await connect(server) as other,
    ):
        await slow.send(GET)
        await eventually(lambda: "sending" in phases(server))
        for _ in range(5):
            assert (await other.request(HELLO)).body == b"hello"
        await eventually(lambda: app.closes == 1)
        assert "sending" in phases(server)
        assert (await slow.receive()).body == content(large)
        assert sum(sent) == LARGE
    assert app.closes == 1
    if pool is not None:
        pool.shutdown()


@on_each_loop
async def test_many_clients_take_a_file_at_the_same_time(
    start_server: StartServer, path: Path, sent: list[int]
) -> None:
    server = await start_server(App(path), validate=False, threads=2)
    async with descriptors_come_back(server), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(await connect(server)) for _ in range(20)]
        for client in clients:
            await client.send(GET)
        await eventually(lambda: phases(server).count("sending") == len(clients))
        for client in clients:
            assert (await client.receive()).body == DATA
    assert sum(sent) == len(clients) * len(DATA)


@on_each_loop
async def test_file_is_sent_over_a_unix_socket(
    start_server: StartServer, path: Path, tmp_path: Path, sent: list[int]
) -> None:
    address = str(tmp_path / "socket")
    config = aiowsgi.Config(bind=(f"unix:{address}",))
    with socket.socket(socket.AF_UNIX) as sock:
        async with aiowsgi.serve(App(path), config=config):
            sock.connect(address)
            sock.setblocking(False)
            assert (await RawClient(sock).request(GET)).body == DATA
    assert sum(sent) == len(DATA)


# How much of it.


@on_each_loop
@pytest.mark.parametrize("declared", [1, 1000, len(DATA) - 1, len(DATA)])
async def test_no_more_is_sent_than_content_length_says(
    start_server: StartServer, path: Path, sent: list[int], declared: int
) -> None:
    app = App(path, ("Content-Length", str(declared)))
    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        for _ in range(2):
            assert (await client.request(GET)).body == DATA[:declared]
        assert (await client.request(HELLO)).body == b"hello"
    assert sum(sent) == 2 * declared


@on_each_loop
async def test_range_of_a_file_is_sent(
    start_server: StartServer, path: Path, sent: list[int]
) -> None:
    app = App(
        path,
        ("Content-Range", f"bytes 1000-1499/{len(DATA)}"),
        ("Content-Length", "500"),
        status="206 Partial Content",
        position=1000,
    )
    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        response = await client.request(GET)
        assert (response.status, response.body) == (206, DATA[1000:1500])
        assert (await client.request(HELLO)).body == b"hello"
    assert sum(sent) == 500


@on_each_loop
async def test_file_that_is_shorter_than_content_length_ends_the_connection(
    start_server: StartServer, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(path, ("Content-Length", str(len(DATA) + 7)))
    server = await start_server(app, validate=False)
    async with descriptors_come_back(server), await connect(server) as client:
        with pytest.raises(Incomplete) as incomplete:
            await client.request(GET + HELLO)
        assert incomplete.value.received == DATA
    assert [record.levelname for record in loud(caplog)] == ["WARNING"]
    assert "7 bytes less than its Content-Length" in caplog.text


@on_each_loop
@pytest.mark.parametrize(
    ("request_", "status", "headers", "length"),
    [
        (HEAD, "200 OK", [], str(len(DATA))),
        (HEAD, "200 OK", [("Content-Length", "9999999")], "9999999"),
        (GET, "304 Not Modified", [], None),
        (GET, "204 No Content", [], None),
        (GET, "200 OK", [("Content-Length", "0")], "0"),
    ],
    ids=["HEAD", "HEAD with length", "304", "204", "length 0"],
)
async def test_file_is_not_sent_where_nothing_of_it_belongs(
    start_server: StartServer,
    path: Path,
    sent: list[int],
    request_: bytes,
    status: str,
    headers: list[tuple[str, str]],
    length: str | None,
) -> None:
    app = App(path, *headers, status=status)
    server = await start_server(app, validate=False)
    async with descriptors_come_back(server), await connect(server) as client:
        for _ in range(2):
            response = await client.request(request_, request_.split()[0].decode())
            assert (response.status, response.body) == (int(status[:3]), b"")
            assert response.get("content-length") == length
        assert (await client.request(HELLO)).body == b"hello"
        # Not even with a size of 0, which on some systems is everything.
        assert sent == []
    assert app.closes == 2


@on_each_loop
@pytest.mark.parametrize("keep", [False, True], ids=["close", "keep-alive"])
async def test_client_of_http_1_0_gets_a_file(
    start_server: StartServer, path: Path, sent: list[int], keep: bool
) -> None:
    server = await start_server(App(path), validate=False)
    field = b"Connection: keep-alive\r\n" if keep else b""
    async with await connect(server) as client:
        for _ in range(1 + keep):
            response = await client.request(b"GET / HTTP/1.0\r\n" + field + b"\r\n")
            assert response.body == DATA
            assert response.get("content-length") == str(len(DATA))
        assert keep or await client.read_until_eof() == b""
    assert sum(sent) == len(DATA) * (1 + keep)


# What follows it.


@on_each_loop
@pytest.mark.parametrize("pipelined", [False, True], ids=["in turn", "pipelined"])
async def test_requests_behind_a_file_are_answered_in_order(
    start_server: StartServer, path: Path, pipelined: bool
) -> None:
    server = await start_server(App(path), validate=False)
    requests = [GET, HELLO, GET, GET, HELLO]
    async with await connect(server) as client:
        if pipelined:
            await client.send(b"".join(requests))
        for request in requests:
            if not pipelined:
                await client.send(request)
            assert (await client.receive()).body == (b"hello" if request == HELLO else DATA)


@on_each_loop
async def test_requests_wait_in_the_kernel_while_a_file_is_taken_slowly(
    start_server: StartServer, large: Path
) -> None:
    server = await start_server(App(large), validate=False, threads=1)
    long_hello = HELLO[:-2] + b"X-Long: " + b"x" * 7000 + b"\r\n\r\n"
    async with await connect_slowly(server) as client:
        await client.send(GET + long_hello * 20)
        await a_file_is_on_its_way(server)
        (connection,) = clients_of(server)
        await eventually(lambda: not connection.receiver.is_reading)
        assert (await client.receive()).body == content(large)
        for _ in range(20):
            assert (await client.receive()).body == b"hello"


@on_each_loop
async def test_client_that_ends_its_side_gets_the_file(
    start_server: StartServer, large: Path
) -> None:
    server = await start_server(App(large), validate=False)
    async with descriptors_come_back(server), await connect_slowly(server) as client:
        await client.send(GET)
        await a_file_is_on_its_way(server)
        client.half_close()
        assert (await client.receive()).body == content(large)
        assert await client.read_until_eof() == b""


# What may become of it on its way.


@on_each_loop
async def test_file_that_is_deleted_is_sent(start_server: StartServer, large: Path) -> None:
    data = content(large)
    server = await start_server(App(large), validate=False)
    async with await connect_slowly(server) as client:
        await client.send(GET)
        await a_file_is_on_its_way(server)
        os.unlink(large)
        assert (await client.receive()).body == data


@on_each_loop
async def test_file_that_becomes_shorter_looks_incomplete(
    start_server: StartServer, large: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = content(large)
    server = await start_server(App(large), validate=False)
    async with descriptors_come_back(server), await connect_slowly(server) as client:
        await client.send(GET + HELLO)
        await a_file_is_on_its_way(server)
        os.truncate(large, LARGE // 2)
        with pytest.raises(Incomplete) as incomplete:
            await client.receive()
        assert data.startswith(incomplete.value.received)
        assert len(incomplete.value.received) <= LARGE // 2
    assert [record.levelname for record in loud(caplog)] == ["ERROR"]


@on_each_loop
async def test_file_that_cannot_be_read_looks_incomplete(
    start_server: StartServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail_sendfile(monkeypatch, 3, errno.EIO)
    server = await start_server(App(path), validate=False)
    async with descriptors_come_back(server), await connect(server) as client:
        with pytest.raises(Incomplete) as incomplete:
            await client.request(GET)
        assert DATA.startswith(incomplete.value.received)
        assert len(incomplete.value.received) <= 150_000
    (record,) = loud(caplog)
    assert (record.levelname, record.name) == ("ERROR", "aiowsgi.error")
    assert os.strerror(errno.EIO) in caplog.text


@on_each_loop
@pytest.mark.parametrize("number", [0, 3], ids=["at once", "later"])
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
async def test_file_that_the_kernel_does_not_send_is_copied(
    start_server: StartServer,
    large: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    number: int,
) -> None:
    fail_sendfile(monkeypatch, number, error)
    server = await start_server(App(large), validate=False, threads=1, spare_threads=0)
    async with (
        descriptors_come_back(server),
        await connect_slowly(server) as slow,
        await connect(server) as other,
    ):
        await slow.send(GET + HELLO)
        await a_file_is_on_its_way(server)
        assert (await other.request(HELLO)).body == b"hello"
        assert (await slow.receive()).body == content(large)
        assert (await slow.receive()).body == b"hello"


@on_each_loop
@pytest.mark.parametrize("which", [stat.S_ISREG, stat.S_ISSOCK], ids=["file", "socket"])
async def test_file_is_copied_where_descriptors_run_out(
    start_server: StartServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: Callable[[int], bool],
) -> None:
    dup = os.dup

    def no_descriptor_left(descriptor: int) -> int:
        if which(os.fstat(descriptor).st_mode):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return dup(descriptor)

    server = await start_server(App(path), validate=False)
    async with descriptors_come_back(server), await connect(server) as client:
        monkeypatch.setattr("os.dup", no_descriptor_left)
        await client.send(GET + HELLO)
        assert (await client.receive()).body == DATA
        assert (await client.receive()).body == b"hello"


# Clients that do not take it, and servers that stop.


@on_each_loop
@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["fin", "rst"])
@pytest.mark.parametrize("moment", ["before", "in the middle"])
async def test_client_that_leaves_lets_go_of_the_file(
    start_server: StartServer, large: Path, leave: Callable[[RawClient], None], moment: str
) -> None:
    class Waiting(App):
        begun, go_on = threading.Event(), threading.Event()

        def wrap(self, environ: WSGIEnvironment) -> Iterable[bytes]:
            self.begun.set()
            assert self.go_on.wait(TIMEOUT)
            return super().wrap(environ)

    app = Waiting(large)
    server = await start_server(app, validate=False, threads=1)
    async with descriptors_come_back(server):
        client = await connect_slowly(server)
        await client.send(GET + HELLO)
        await in_thread(app.begun.wait, TIMEOUT)
        if moment == "before":
            leave(client)
            if leave is RawClient.reset:
                await eventually(lambda: not clients_of(server))
            app.go_on.set()
        else:
            app.go_on.set()
            await client.read(100_000)
            await a_file_is_on_its_way(server)
            leave(client)
        await eventually(lambda: app.closes == 1)
    assert app.closes == 1


@on_each_loop
async def test_client_that_never_reads_is_cut(start_server: StartServer, large: Path) -> None:
    app = App(large)
    server = await start_server(app, validate=False, threads=1, timeout_write=0.3)
    async with descriptors_come_back(server), await connect_slowly(server) as client:
        await client.send(GET)
        await a_file_is_on_its_way(server)
        await eventually(lambda: not clients_of(server))
        with pytest.raises(Incomplete):
            await client.receive()
    assert app.closes == 1


@on_each_loop
async def test_server_that_closes_sends_the_file_to_its_end(
    start_server: StartServer, large: Path
) -> None:
    server = await start_server(App(large), validate=False)
    async with await connect_slowly(server) as client:
        await client.send(GET)
        await a_file_is_on_its_way(server)
        server.close()
        assert (await client.receive()).body == content(large)
        assert await client.read_until_eof() == b""
    await server.wait_closed()
    assert not server.was_cut


@on_each_loop
@pytest.mark.parametrize("stop", [aiowsgi.Server.close, aiowsgi.Server.abort])
async def test_server_that_stops_cuts_a_file_that_nobody_takes(
    start_server: StartServer, large: Path, stop: Callable[[aiowsgi.Server], None]
) -> None:
    app = App(large)
    server = await start_server(app, validate=False, timeout_graceful=0.2)
    async with descriptors_come_back(server), await connect_slowly(server) as client:
        await client.send(GET)
        await a_file_is_on_its_way(server)
        stop(server)
        await server.wait_closed()
        assert server.was_cut
        with pytest.raises(Incomplete):
            await client.receive()
    assert app.closes == 1
