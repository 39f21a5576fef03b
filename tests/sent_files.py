"""What the tests of files share: a file on its way, who sends it, who takes it, what is left."""

# ruff: noqa: SIM115 - files are opened here for others to close

import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import cast
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from descriptors import open_descriptors
from raw_client import RawClient, clients_of, connect, eventually

import aiowsgi

PLAIN = [("Content-Type", "text/plain")]
DATA = random.Random("file").randbytes(1_000_003)
# More than the kernel keeps for a connection of which nobody reads.
LARGE = 24 << 20
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
HELLO = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"


def write_file(folder: Path) -> Path:
    """Write a file of ``DATA``."""
    path = folder / "file"
    path.write_bytes(DATA)
    return path


def write_large_file(folder: Path) -> Path:
    """Write a file that takes no room on the disk, but for some islands."""
    path = folder / "large"
    with open(path, "wb") as file:
        file.truncate(LARGE)
        for offset in range(0, LARGE, 1_234_567):
            file.seek(offset)
            file.write(DATA[:1000])
    return path


def content(path: Path) -> bytes:
    return path.read_bytes()


def spy_on_sendfile(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the sizes of what ``os.sendfile`` sends from now on."""
    sent: list[int] = []
    sendfile = os.sendfile

    def spy(target: int, source: int, offset: int, size: int) -> int:
        assert size > 0, "on some systems 0 is everything"
        sent.append(sendfile(target, source, offset, size))
        return sent[-1]

    monkeypatch.setattr("os.sendfile", spy)
    return sent


def fail_sendfile(monkeypatch: pytest.MonkeyPatch, number: int, error: int) -> None:
    """Let ``os.sendfile`` fail behind that number of calls, each of which sends a little."""
    sendfile = os.sendfile
    count = 0

    def failing(target: int, source: int, offset: int, size: int) -> int:
        nonlocal count
        count += 1
        if count > number:
            raise OSError(error, os.strerror(error))
        return sendfile(target, source, offset, min(size, 50_000))

    monkeypatch.setattr("os.sendfile", failing)


class App:
    """Answers with a file, or with a greeting at /hello. Counts how often the file is closed."""

    def __init__(
        self, path: Path, *headers: tuple[str, str], status: str = "200 OK", position: int = 0
    ) -> None:
        self.path = path
        self.headers = [*PLAIN, *headers]
        self.status = status
        self.position = position
        self.closes = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/hello":
            start_response("200 OK", [*PLAIN])
            return [b"hello"]
        return self.answer(environ, start_response)

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(self.status, self.headers)
        return self.wrap(environ)

    def wrap(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        return cast(Iterable[bytes], environ["wsgi.file_wrapper"](_File(self)))


class _File:
    def __init__(self, app: App) -> None:
        self._app = app
        self._file = open(app.path, "rb")
        self._file.seek(app.position)
        self.read = self._file.read

    def close(self) -> None:
        # Counted first: who sees the descriptor back sees this, too.
        self._app.closes += 1
        self._file.close()


async def connect_slowly(server: aiowsgi.Server) -> RawClient:
    """Connect a client that takes little while it does not read."""
    return await connect(server, receive_buffer=1 << 14)


def phases(server: aiowsgi.Server) -> list[str]:
    return [request.phase for request in server.inspect().requests]


async def a_file_is_on_its_way(server: aiowsgi.Server) -> None:
    await eventually(lambda: any(one.sender.file for one in clients_of(server)))


@contextlib.asynccontextmanager
async def descriptors_come_back(server: aiowsgi.Server) -> AsyncIterator[None]:
    """Check that a block, in which clients come and go, leaves no descriptor open."""
    async with await connect(server) as client:
        # The first request opens some that stay.
        assert (await client.request(HELLO)).body == b"hello"
    await eventually(lambda: not clients_of(server))
    before = open_descriptors()
    yield
    await eventually(lambda: not clients_of(server))
    await eventually(lambda: open_descriptors() <= before)
