"""``--warm-up``: the process calls its application before it serves."""

import contextvars
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from served_process import served

from aiowsgi import Config
from aiowsgi.errors import ConfigError, WarmUpError
from aiowsgi.process.own_requests.warm_up import warm_up


class Application:
    """Answers with a status, and keeps the environs that it was called with."""

    def __init__(self, status: str = "200 OK", body: Any = (b"hello",)) -> None:
        self.status = status
        self.body = body
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.environs.append(environ)
        start_response(self.status, [("Content-Type", "text/plain")])
        return self.body


def warm(app: Any, *paths: str, **options: Any) -> None:
    warm_up(app, Config(warm_up=paths, **options), multiprocess=False)


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aiowsgi.error")


def test_the_application_is_called_for_each_path_in_turn(caplog: pytest.LogCaptureFixture) -> None:
    app = Application()
    warm(app, "/a%20b?c=d", "/e")
    assert [environ["PATH_INFO"] for environ in app.environs] == ["/a b", "/e"]
    assert [environ["QUERY_STRING"] for environ in app.environs] == ["c=d", ""]
    (first_level, first), (_, second) = messages(caplog)
    assert first_level == "INFO"
    assert first.startswith("Warm-up: GET /a%20b?c=d was answered '200 OK', 5 bytes, in ")
    assert second.startswith("Warm-up: GET /e ")


def test_without_a_path_nothing_is_called() -> None:
    app = Application()
    warm(app)
    assert app.environs == []


def test_the_environ_is_that_of_a_request() -> None:
    app = Application()
    warm(app, "/", threads=4)
    (environ,) = app.environs
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["HTTP_HOST"] == "localhost"
    assert environ["HTTP_USER_AGENT"] == "aiowsgi (warm-up)"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.input"].read() == b""
    assert environ["wsgi.multithread"] is True
    assert environ["aiowsgi.disconnected"]() is environ["aiowsgi.stopping"]() is False
    assert environ["aiowsgi.deadline"]() == float("inf")
    assert all(value is not None for value in environ.values())


def test_a_url_names_scheme_and_host() -> None:
    app = Application()
    warm(app, "https://www.example.com:8443/x")
    (environ,) = app.environs
    assert environ["HTTP_HOST"] == "www.example.com:8443"
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["PATH_INFO"] == environ["REQUEST_URI"] == "/x"


def test_it_runs_on_the_calling_thread_in_a_context_of_its_own() -> None:
    variable = contextvars.ContextVar("variable", default="untouched")
    threads = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        threads.append((threading.current_thread(), variable.get()))
        variable.set("touched")
        start_response("204 No Content", [])
        return []

    warm(app, "/", "/")
    assert threads == [(threading.current_thread(), "untouched")] * 2
    assert variable.get() == "untouched"


def test_the_result_is_read_and_closed() -> None:
    class Body:
        closed = False
        pieces = iter([b"ab", b"", b"c"])

        def __iter__(self) -> Any:
            return self.pieces

        def close(self) -> None:
            self.closed = True

    body = Body()
    warm(Application(body=body), "/")
    assert body.closed
    assert list(body.pieces) == []


def test_a_file_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    files = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        files.append((tmp_path / "file").open("rb"))
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](files[0])

    warm(app, "/")
    assert files[0].closed


@pytest.mark.parametrize(
    ("path", "status", "hint"),
    [
        ("/", "404 Not Found", ""),
        ("/", "400 Bad Request", "; if it asks for a host, write http://HOST/"),
        ("http://a/", "400 Bad Request", ""),
    ],
)
def test_a_wrong_path_is_a_warning(
    caplog: pytest.LogCaptureFixture, path: str, status: str, hint: str
) -> None:
    app = Application(status)
    warm(app, path, "/")
    assert len(app.environs) == 2
    text = f"Warm-up: GET {path} was answered {status!r}{hint}"
    assert messages(caplog)[0] == ("WARNING", text)


def test_an_application_that_answers_5xx_has_failed() -> None:
    app = Application("503 Service Unavailable")
    with pytest.raises(WarmUpError, match=r"^warm_up /a: the application answered '503 Service"):
        warm(app, "/a", "/b")
    assert len(app.environs) == 1


def test_an_application_that_raises_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ValueError("no table")

    with pytest.raises(WarmUpError, match=r"^warm_up /: the application answered '500 Internal"):
        warm(app, "/")
    (record,) = caplog.records
    assert "raised an exception in the warm-up request GET /" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no table"


def test_an_application_that_breaks_off_has_failed() -> None:
    def body() -> Any:
        yield b"a"
        raise ValueError("in the midst")

    with pytest.raises(WarmUpError, match=r"^warm_up /: the application broke its answer off"):
        warm(Application(body=body()), "/")


@pytest.mark.parametrize("path", ["", "a", "ftp://a/", "http://a", "/a b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    app = Application()
    with pytest.raises(ConfigError, match=r"^warm_up: .* is neither a path .* nor a URL$"):
        warm(app, path)
    assert app.environs == []


@pytest.mark.parametrize("path", ["/#a", "/\xe4", "http://a b@c/", "http://u:p@a/"])
def test_what_the_server_would_refuse_is_refused(path: str) -> None:
    app = Application()
    with pytest.raises(ConfigError, match=r"^warm_up"):
        warm(app, "/", path)
    assert app.environs == []


@pytest.mark.parametrize(
    ("value", "message"),
    [("/", r"write warm_up=\('/',\)$"), ((1,), "not 1$"), (1, "not 1$"), (b"/", "not b'/'$")],
)
def test_the_option_is_a_tuple_of_str(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^warm_up is a tuple of paths.*{message}"):
        Config(warm_up=value)


SOURCE = """
def application(environ, start_response):
    if environ["PATH_INFO"] == "/broken":
        raise ValueError("no table")
    start_response("200 OK", [])
    return [b"hello"]
"""


def test_a_process_warms_up_before_it_serves(tmp_path: Path) -> None:
    with served(tmp_path, SOURCE, "--warm-up", "/a", "--warm-up", "/b") as server:
        server.said(r"Warm-up: GET /a was answered '200 OK'")
        server.said(r"Warm-up: GET /b was answered '200 OK'")
        server.port()
        assert server.stop() == 0


def test_a_process_whose_warm_up_fails_does_not_serve(tmp_path: Path) -> None:
    with served(tmp_path, SOURCE, "--warm-up", "/broken") as server:
        server.said(r"ValueError: no table")
        server.said(r"^aiowsgi: error: --warm-up /broken: the application answered '500 ")
        assert server.ended() == 1
