"""Connections and the descriptors that a process may have."""

import asyncio
import contextlib
import logging
import os
import re
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from extent import exhaustive
from raw_client import StartServer, connect, eventually
from served_process import PATIENCE, served

from aiowsgi.errors import ConfigError
from aiowsgi.net.accept import descriptors

INFINITY = resource.RLIM_INFINITY
OPEN = 16


class FakeLimit:
    """RLIMIT_NOFILE of a system that gives no more than ``most``, whatever it claims."""

    def __init__(self, soft: int, hard: int, most: int) -> None:
        self.soft, self.hard, self.most = soft, hard, most

    def getrlimit(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.soft, self.hard

    def setrlimit(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        soft, hard = limits
        assert hard == self.hard
        if soft > self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.soft = soft


@pytest.fixture
def set_limit(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(soft: int, hard: int = INFINITY, most: int = 1 << 30) -> FakeLimit:
        limit = FakeLimit(soft, hard, most)
        monkeypatch.setattr(descriptors.resource, "getrlimit", limit.getrlimit)
        monkeypatch.setattr(descriptors.resource, "setrlimit", limit.setrlimit)
        monkeypatch.setattr(descriptors, "_open_now", lambda: OPEN)
        return limit

    return make


@pytest.mark.parametrize(
    ("soft", "connections"),
    [
        (256, 256 - 64 - OPEN),
        (1024, 1024 - 256 - OPEN),
        (20_000, 20_000 - 1024 - OPEN),
        (70, 1),
        (INFINITY, float("inf")),
    ],
)
def test_application_keeps_some_of_the_descriptors(
    set_limit: Any, soft: int, connections: float
) -> None:
    set_limit(soft)
    assert descriptors.left_for_connections() == connections


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [
        (1024, 524_288, 524_288, 31_040),  # As most systems have it.
        (256, INFINITY, 1 << 30, 31_040),
        (256, INFINITY, 24_576, 10_240),  # macOS claims to have no limit.
        (256, INFINITY, 1000, 256),
        (1024, 4096, 4096, 4096),
        (4096, 4096, 4096, 4096),
        (65_536, 524_288, 524_288, 65_536),
        (INFINITY, INFINITY, 1 << 30, INFINITY),
    ],
)
def test_limit_is_raised_as_far_as_it_may_be_and_has_to_be(
    set_limit: Any, soft: int, hard: int, most: int, raised: int
) -> None:
    limit = set_limit(soft, hard, most)
    descriptors.raise_limit(10_000)
    assert limit.soft == raised


def test_system_without_such_a_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "resource", None)
    descriptors.raise_limit(10_000)
    assert descriptors.left_for_connections() == float("inf")


def test_descriptors_that_are_open_are_counted() -> None:
    before = descriptors._open_now()
    with open(os.devnull):
        assert descriptors._open_now() == before + 1


@pytest.mark.parametrize(("soft", "fits"), [(31, False), (32, True)])
def test_too_few_for_what_needs_them_are_told(set_limit: Any, soft: int, fits: bool) -> None:
    limit = set_limit(24, hard=soft)
    with (
        contextlib.nullcontext()
        if fits
        else pytest.raises(
            ConfigError,
            match=r"^it needs to have 32 files open, and this process may have 31; raise",
        )
    ):
        descriptors.raise_limit_by(100, 16, "it")
    assert limit.soft == soft


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


async def test_embedded_server_says_so_and_takes_no_more_connections(
    start_server: StartServer, set_limit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    limit = set_limit(64 + OPEN + 2)
    server = await start_server(hello, max_connections=50)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith(
        "There is room for 2 connections, not for max_connections (50)"
    )
    assert limit.soft == 64 + OPEN + 2
    async with await connect(server), await connect(server), await connect(server) as third:
        await eventually(lambda: server.inspect().connections == 2)
        await third.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        # The two are idle, and make room once somebody waits for it in vain.
        assert (await third.receive()).status == 200


async def test_embedded_server_with_room_says_nothing(
    start_server: StartServer, set_limit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    set_limit(1024)
    await start_server(hello, max_connections=700)
    assert caplog.messages == []


async def test_files_that_are_sent_count(
    start_server: StartServer, set_limit: Any, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(64 << 20)

    def application(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    # For the socket, the file, and a duplicate to wait with.
    set_limit(64 + OPEN + 3)
    server = await start_server(application, validate=False, max_connections=3)
    async with await connect(server) as reader:
        await reader.send(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.read_until(b"\r\n\r\n")
        await eventually(lambda: [r.phase for r in server.inspect().requests] == ["sending"])
        async with await connect(server) as third:
            await third.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await third.receive()
            reader.reset()
            assert (await third.receive()).status == 200


@pytest.fixture
def silent_clients() -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    yield clients
    for client in clients:
        client.close()


# Opens a file for each request, and keeps sixteen; answers the limit of its process.
OPENING = """
    import resource

    kept = []

    def application(environ, start_response):
        kept.append(open("/dev/null"))
        del kept[:-16]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]).encode()]
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nothing tells what is open")
def test_silent_clients_leave_descriptors_to_the_application(
    tmp_path: Path, silent_clients: list[socket.socket]
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    with served(tmp_path, OPENING, preexec=limit) as process:
        process.said(
            r"WARNING There is room for 1\d\d connections, not for max_connections \(10000\): "
            r"the process may have 256 open files"
        )
        port = process.port()
        with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
            assert client.get(f"http://127.0.0.1:{port}/").text == "256"
            for _ in range(300):
                silent_clients.append(socket.create_connection(("127.0.0.1", port), PATIENCE))
            for _ in range(16):
                assert client.get(f"http://127.0.0.1:{port}/").text == "256"
        assert process.stop() == 0


@pytest.mark.skipif(
    0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096, reason="the limit is low"
)
def test_process_raises_the_limit(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))

    with served(tmp_path, OPENING, "--max-connections", "500", preexec=limit) as process:
        port = process.port()
        found = int(httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=PATIENCE).text)
        assert 500 * 3 + 1024 < found < 4096
        assert process.stop() == 0
        assert not any("room" in line for line in process.lines)


needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="nothing tells what is open"
)


def limited(files: int) -> Any:
    """Return what gives a process so low a limit that it cannot raise it."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


@exhaustive
@needs_proc
def test_workers_with_few_descriptors_serve_one_connection_each_and_say_so(tmp_path: Path) -> None:
    with served(tmp_path, OPENING, "--workers", "4", preexec=limited(64)) as process:
        for _ in range(4):
            process.said(r"WARNING \[\d+\] There is room for 1 connection, not for max_connect")
        port = process.port()
        # Idle ones, which wait for nothing, make room for those that ask.
        with contextlib.ExitStack() as clients:
            for _ in range(8):
                clients.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE))
            for _ in range(8):
                answer = httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE, trust_env=False)
                assert answer.text == "64"
        process.signal(signal.SIGHUP)
        process.said("Reloaded: 4 workers")
        assert process.stop() == 0


@needs_proc
@pytest.mark.parametrize(
    ("files", "options", "code", "message"),
    [
        (
            64,
            ("--workers", "40"),
            2,
            "the supervisor of 40 workers needs to have 1[89]. files",
        ),
        (20, (), 2, "a server needs to have 2. files open, and this process may have 20; raise"),
    ],
)
def test_a_start_that_needs_more_descriptors_ends_with_one_message(
    tmp_path: Path, files: int, options: tuple[str, ...], code: int, message: str
) -> None:
    with served(tmp_path, OPENING, *options, preexec=limited(files)) as process:
        assert process.ended() == code
        (line,) = process.lines
        assert re.match(f"aiowsgi: error: {message}", line)


@needs_proc
def test_a_supervisor_has_the_descriptors_that_its_workers_need(tmp_path: Path) -> None:
    def low() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 4096))

    with served(tmp_path, OPENING, "--workers", "12", "--threads", "1", preexec=low) as process:
        process.said("Serving .* with 12 workers")
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] < 128
        assert process.stop() == 0
