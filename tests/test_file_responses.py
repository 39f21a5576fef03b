"""Files as applications and frameworks send them, in memory and over real sockets."""

# ruff: noqa: SIM115 - files are opened here for others to close

import contextlib
import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import flask
import pytest
from raw_client import StartServer, connect, eventually, on_each_loop, on_each_wire
from sent_files import (
    DATA,
    GET,
    HEAD,
    LARGE,
    PLAIN,
    App,
    a_file_is_on_its_way,
    connect_slowly,
    descriptors_come_back,
    spy_on_sendfile,
    write_file,
    write_large_file,
)
from test_task import Recorder, run
from werkzeug.middleware.shared_data import SharedDataMiddleware

import aiowsgi
from aiowsgi.errors import ClientDisconnected
from aiowsgi.wsgi.file_wrapper import FileWrapper

# What middleware does with every byte.
TURN = bytes(reversed(range(256)))
UPSIDE_DOWN = DATA.translate(TURN)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of what ``os.sendfile`` has sent."""
    return spy_on_sendfile(monkeypatch)


# In memory.


class Counted:
    """A file that counts how often it is closed."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")
        self.read = self._file.read
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        self._file.close()


def returning(result: Any) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return result

    return app


@pytest.mark.usefixtures("no_descriptor_is_left")
@pytest.mark.parametrize("block_size", [4, 1 << 16])
def test_file_goes_out_as_a_part(path: Path, block_size: int) -> None:
    file = open(path, "rb")
    recorder = run(returning(FileWrapper(file, block_size)))
    assert recorder.calls == ["start", "finish_with"]
    assert recorder.length == len(DATA)
    assert recorder.pieces == [DATA]
    assert file.closed


def test_file_in_memory_goes_out_in_blocks() -> None:
    file = io.BytesIO(b"a" * 10)
    recorder = run(returning(FileWrapper(file, 4)))
    assert recorder.calls == ["start", "send", "send", "send", "finish"]
    assert recorder.pieces == [b"aaaa", b"aaaa", b"aa"]
    assert file.closed


def test_file_behind_written_bytes_is_read(path: Path) -> None:
    def app(environ: Any, start_response: Any) -> FileWrapper:
        start_response("200 OK", [])(b"first")
        return FileWrapper(open(path, "rb"))

    recorder = run(app)
    assert "finish_with" not in recorder.calls
    assert recorder.body == b"first" + DATA


def test_file_in_a_generator_is_read(path: Path) -> None:
    """Middleware may change every block, and does as it likes with the file."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        with contextlib.closing(FileWrapper(open(path, "rb"))) as wrapper:
            for block in wrapper:
                yield block.translate(TURN)

    assert run(app).body == UPSIDE_DOWN


def test_subclass_with_its_own_blocks_is_iterated(path: Path) -> None:
    class Reversing(FileWrapper):
        def __next__(self) -> bytes:
            return super().__next__().translate(TURN)

    file = Counted(path)
    assert run(returning(Reversing(file))).body == UPSIDE_DOWN
    assert file.closed == 1


@pytest.mark.usefixtures("no_descriptor_is_left")
def test_file_without_start_response_is_a_500(path: Path) -> None:
    file = Counted(path)
    assert run(lambda environ, start_response: FileWrapper(file)).is_500
    assert file.closed == 1


@pytest.mark.usefixtures("no_descriptor_is_left")
@pytest.mark.parametrize("failing", ["start", "finish_with"])
@pytest.mark.parametrize("error", [ClientDisconnected("gone"), RuntimeError("a defect")])
def test_file_that_cannot_be_handed_over_is_closed(
    path: Path, failing: str, error: Exception
) -> None:
    file = Counted(path)
    recorder = run(returning(FileWrapper(file)), Recorder(fails={failing: error}))
    assert recorder.calls[-2:] == [failing, "abort"]
    assert file.closed == 1


def test_file_is_closed_once_and_behind_the_hand_over(path: Path) -> None:
    recorder = Recorder()

    class Checking(Counted):
        def close(self) -> None:
            super().close()
            assert recorder.calls == ["start", "finish_with"]

    file = Checking(path)
    run(returning(FileWrapper(file)), recorder)
    assert file.closed == 1


def test_a_text_file_is_named_as_the_mistake(caplog: pytest.LogCaptureFixture) -> None:
    assert run(returning(FileWrapper(io.StringIO("text")))).is_500  # type: ignore[arg-type]
    assert "it yielded str ('text'); encode it: .encode()" in caplog.text


# Over sockets.


@on_each_wire
@pytest.mark.parametrize("started", [False, True], ids=["not started", "bad headers"])
async def test_file_without_a_proper_head_is_a_500(
    start_server: StartServer, path: Path, started: bool
) -> None:
    class Careless(App):
        def answer(
            self, environ: WSGIEnvironment, start_response: StartResponse
        ) -> Iterable[bytes]:
            wrapper = self.wrap(environ)
            if started:
                # It goes on as if nothing had happened.
                with contextlib.suppress(aiowsgi.ApplicationError):
                    start_response("200 OK", [("Bad Name", "x")])
            return wrapper

    app = Careless(path)
    server = await start_server(app, validate=False)
    async with descriptors_come_back(server), await connect(server) as client:
        for _ in range(5):
            assert (await client.request(GET)).status == 500
        await eventually(lambda: app.closes == 5)


@on_each_wire
async def test_file_behind_written_bytes_arrives_in_order(
    start_server: StartServer, path: Path, sent: list[int]
) -> None:
    class Writing(App):
        def answer(
            self, environ: WSGIEnvironment, start_response: StartResponse
        ) -> Iterable[bytes]:
            start_response("200 OK", [*PLAIN])(b"first")
            return self.wrap(environ)

    server = await start_server(Writing(path), validate=False)
    async with await connect(server) as client:
        assert (await client.request(GET)).body == b"first" + DATA
    assert sent == []


@on_each_wire
async def test_middleware_may_change_a_file(start_server: StartServer, path: Path) -> None:
    class Upside(App):
        def wrap(self, environ: WSGIEnvironment) -> Iterable[bytes]:
            wrapper = super().wrap(environ)
            with contextlib.closing(cast(Any, wrapper)):
                for block in wrapper:
                    yield block.translate(TURN)

    app = Upside(path)
    server = await start_server(app)
    async with descriptors_come_back(server), await connect(server) as client:
        body = (await client.request(GET)).body
    assert body == UPSIDE_DOWN
    assert app.closes == 1


@on_each_wire
async def test_access_log_has_the_size_of_what_was_sent(
    start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiowsgi.access")

    def last() -> tuple[int, int]:
        line = caplog.messages[-1].split('" ')[1]
        return int(line.split()[0]), int(line.split()[1])

    server = await start_server(App(write_large_file(tmp_path)), validate=False)
    async with await connect(server) as client:
        await client.request(GET)
        await eventually(lambda: last() == (200, LARGE))
        await client.request(HEAD, "HEAD")
        await eventually(lambda: last() == (200, 0))
    async with await connect_slowly(server) as client:
        await client.send(GET)
        await a_file_is_on_its_way(server)
        # More than the head, so that something of the file was sent.
        received = 0
        while received < 1 << 16:
            received += len(await client.read(1 << 16))
        client.reset()
        await eventually(lambda: len(caplog.messages) == 3)
        status, size = last()
        assert status == 200
        assert 0 < size < LARGE


# Frameworks.


def temporary() -> Any:
    """Return a temporary file that has a name for as long as it is open."""
    file = tempfile.NamedTemporaryFile()
    file.write(DATA)
    file.seek(0)
    return file


@pytest.fixture
def flask_app(path: Path) -> flask.Flask:
    """Return an application that sends its files in every way that Flask has."""
    app = flask.Flask("files", static_folder=str(path.parent), static_url_path="/static")

    @app.get("/path")
    def path_() -> flask.Response:
        return flask.send_file(path, conditional=True, etag="tag")

    @app.get("/open")
    def open_() -> flask.Response:
        return flask.send_file(open(path, "rb"), mimetype="text/plain")

    @app.get("/temporary")
    def temporary_() -> flask.Response:
        return flask.send_file(temporary(), mimetype="text/plain")

    @app.get("/memory")
    def memory() -> flask.Response:
        return flask.send_file(io.BytesIO(DATA), mimetype="text/plain")

    @app.get("/hello")
    def hello() -> str:
        return "hello"

    return app


async def check_file(server: aiowsgi.Server, target: str, sent: list[int], *, whole: bool) -> None:
    """Get a file twice on one connection. ``whole``: the kernel sends all of it."""
    request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    async with descriptors_come_back(server), await connect(server) as client:
        sent.clear()
        for _ in range(2):
            response = await client.request(request)
            assert (response.status, response.body) == (200, DATA)
        assert sum(sent) == (2 * len(DATA) if whole else 0)


@on_each_loop
@pytest.mark.parametrize(
    ("target", "whole"),
    [
        ("/path", True),
        ("/open", True),
        ("/temporary", True),
        ("/static/file", True),
        ("/memory", False),
    ],
)
async def test_flask_sends_files(
    start_server: StartServer, flask_app: flask.Flask, sent: list[int], target: str, whole: bool
) -> None:
    server = await start_server(flask_app, validate=False)
    await check_file(server, target, sent, whole=whole)


@on_each_wire
async def test_flask_sends_what_a_client_asks_for(
    start_server: StartServer, flask_app: flask.Flask, sent: list[int]
) -> None:
    server = await start_server(flask_app, validate=False)
    request = b"%s /path HTTP/1.1\r\nHost: h\r\n%s\r\n"
    async with descriptors_come_back(server), await connect(server) as client:
        for asked, start, end in (b"1000-1499", 1000, 1500), (b"-5", len(DATA) - 5, len(DATA)):
            response = await client.request(request % (b"GET", b"Range: bytes=%s\r\n" % asked))
            assert (response.status, response.body) == (206, DATA[start:end])
            expected = f"bytes {start}-{end - 1}/{len(DATA)}"
            assert response.get("content-range") == expected
        response = await client.request(request % (b"GET", b'If-None-Match: "tag"\r\n'))
        assert (response.status, response.body) == (304, b"")
        response = await client.request(request % (b"HEAD", b""), "HEAD")
        assert (response.status, response.body) == (200, b"")
        assert response.get("content-length") == str(len(DATA))
        assert sent == []
        assert (await client.request(request % (b"GET", b""))).body == DATA


@on_each_loop
async def test_middleware_of_werkzeug_sends_files(
    start_server: StartServer, flask_app: flask.Flask, path: Path, sent: list[int]
) -> None:
    app = SharedDataMiddleware(flask_app, {"/shared": str(path.parent)})
    server = await start_server(cast(WSGIApplication, app), validate=False)
    await check_file(server, "/shared/file", sent, whole=True)


@pytest.fixture
def django_app(tmp_path_factory: pytest.TempPathFactory, path: Path) -> Iterator[WSGIApplication]:
    """Return an application that sends its files in the ways that Django has."""
    with pytest.MonkeyPatch.context() as patch:
        # Whichever test comes first sets Django up for the process; see ``test_django``.
        database = tmp_path_factory.mktemp("django") / "site.sqlite3"
        patch.setenv("DJANGO_SITE_DATABASE", str(database))
        patch.setenv("DJANGO_SETTINGS_MODULE", "django_site.settings")
        patch.setenv("TZ", "UTC")
        import django  # type: ignore[import-untyped]
        from django.core.files.base import File  # type: ignore[import-untyped]
        from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]
        from django.http import FileResponse, HttpResponse  # type: ignore[import-untyped]
        from django.test.utils import override_settings  # type: ignore[import-untyped]
        from django.urls import path as url  # type: ignore[import-untyped]
        from django.views.static import serve  # type: ignore[import-untyped]

        django.setup()
        urls = (
            url("open", lambda request: FileResponse(open(path, "rb"))),
            url("raw", lambda request: FileResponse(open(path, "rb", buffering=0))),
            url("file", lambda request: FileResponse(File(open(path, "rb")))),
            url("temporary", lambda request: FileResponse(temporary())),
            url("upload", lambda request: FileResponse(File(temporary()))),
            url("memory", lambda request: FileResponse(io.BytesIO(DATA))),
            url("static/<path:path>", serve, {"document_root": str(path.parent)}),
            url("hello", lambda request: HttpResponse("hello")),
        )
        with override_settings(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"]):
            yield WSGIHandler()
    time.tzset()


@on_each_loop
@pytest.mark.parametrize(
    ("target", "whole"),
    [
        ("/open", True),
        ("/raw", True),
        ("/file", True),
        ("/temporary", True),
        ("/upload", True),
        ("/static/file", True),
        ("/memory", False),
    ],
)
async def test_django_sends_files(
    start_server: StartServer,
    django_app: WSGIApplication,
    sent: list[int],
    target: str,
    whole: bool,
) -> None:
    server = await start_server(django_app, validate=False)
    await check_file(server, target, sent, whole=whole)


@on_each_wire
async def test_django_sends_nothing_of_a_file_that_has_not_changed(
    start_server: StartServer, django_app: WSGIApplication, sent: list[int]
) -> None:
    server = await start_server(django_app, validate=False)
    request = b"%s /static/file HTTP/1.1\r\nHost: h\r\n%s\r\n"
    now = formatdate(time.time() + 5, usegmt=True).encode()
    async with descriptors_come_back(server), await connect(server) as client:
        response = await client.request(request % (b"GET", b"If-Modified-Since: %s\r\n" % now))
        assert (response.status, response.body) == (304, b"")
        response = await client.request(request % (b"HEAD", b""), "HEAD")
        assert (response.status, response.body) == (200, b"")
        assert response.get("content-length") == str(len(DATA))
        assert sent == []
        assert (await client.request(request % (b"GET", b""))).body == DATA
