"""``--ready-path``: what a process must answer before it serves."""

import http.client
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from processes import children_of
from served_process import ask, served
from waiting import eventually

from aiowsgi import Config
from aiowsgi.errors import ConfigError, NotReadyError
from aiowsgi.process.own_requests.readiness import prove_ready


def prove(app: Any, path: str, **options: Any) -> None:
    prove_ready(app, Config(ready_path=path, **options), multiprocess=True)


def answering(status: str) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response(status, [])
        return [b"x"]

    return app


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found"])
def test_2xx_and_3xx_prove_it(status: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response(status, [])
        return []

    seen: list[dict[str, Any]] = []
    prove(app, "https://example.com/health?deep", timeout_request=5)
    (environ,) = seen
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/health", "deep")
    assert (environ["HTTP_HOST"], environ["wsgi.url_scheme"]) == ("example.com", "https")
    assert environ["HTTP_USER_AGENT"] == "aiowsgi (ready)"
    assert environ["wsgi.multiprocess"] is True
    assert environ["aiowsgi.deadline"]() <= 5


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        ("404 Not Found", "$"),
        ("503 Service Unavailable", "$"),
        ("400 Bad Request", "; if it asks for a host, write http://HOST/health$"),
    ],
)
def test_what_else_it_answers_is_told(status: str, hint: str) -> None:
    with pytest.raises(
        NotReadyError,
        match=rf"^ready_path /health: the application answered '{status}', and is ready once it "
        rf"answers 2xx or 3xx{hint}",
    ):
        prove(answering(status), "/health")


def test_an_exception_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ValueError("no table")

    with pytest.raises(NotReadyError, match="answered '500 Internal Server Error'"):
        prove(app, "/")
    (record,) = caplog.records
    assert "raised an exception in the ready request GET /" in record.getMessage()
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no table"


def test_an_answer_that_breaks_off_proves_nothing() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"a"
        raise ValueError("in the midst")

    with pytest.raises(NotReadyError, match="the application broke its answer off"):
        prove(app, "/")


def test_an_application_that_does_not_answer_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        gate.wait()
        return []

    try:
        with pytest.raises(NotReadyError, match=r"has not answered within 0\.2 s; see the log"):
            prove(app, "/slow", timeout_request=0.2)
    finally:
        gate.set()
    assert "GET /slow (--ready-path) within 0.2 s; it is at:\n" in caplog.text
    assert "in app\n    gate.wait()" in caplog.text


@pytest.mark.parametrize("path", ["health", "http://a", "/a b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^ready_path: .* is neither a path .* nor a URL$"):
        prove(answering("200 OK"), path)


def test_the_option_is_one_text() -> None:
    with pytest.raises(ConfigError, match=r"^ready_path must be a path such as '/health' as str"):
        Config(ready_path=("/",))  # type: ignore[arg-type]


# It is ready as long as there is no file of the name "broken".
SOURCE = """
import os

def application(environ, start_response):
    ready = environ["PATH_INFO"] != "/health" or not os.path.exists("broken")
    start_response("200 OK" if ready else "503 Service Unavailable", [("Content-Length", "5")])
    return [b"hello"]
"""
_REASON = (
    r"aiowsgi: error: --ready-path /health: the application answered '503 Service Unavailable', "
)


@pytest.mark.parametrize(
    ("options", "code"),
    [((), 1), (("--workers", "2"), 3), (("--workers", "2", "--preload"), 3)],
    ids=["one process", "workers", "preload"],
)
def test_a_start_that_proves_nothing_ends_with_one_message(
    tmp_path: Path, options: tuple[str, ...], code: int
) -> None:
    (tmp_path / "broken").touch()
    with served(tmp_path, SOURCE, "--ready-path", "/health", *options) as process:
        process.said(_REASON)
        assert process.ended() == code
        assert "".join(process.lines).count("aiowsgi: error:") == 1
        assert "Serving" not in "".join(process.lines)


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_a_reload_that_proves_nothing_leaves_the_old_workers(tmp_path: Path, preload: str) -> None:
    options = ("--ready-path", "/health", "--workers", "2", preload)
    with served(tmp_path, SOURCE, *options) as process:
        port = process.port()
        before = children_of(process.pid)
        (tmp_path / "broken").touch()
        process.signal(signal.SIGHUP)
        process.said("A new worker cannot serve:")
        process.said(_REASON)
        process.said("Not reloaded: still serving with 2 workers of before")
        assert ask(port) == "hello"
        (tmp_path / "broken").unlink()
        process.signal(signal.SIGHUP)
        process.said("Reloaded: 2 workers")
        eventually(lambda: not before & children_of(process.pid), "the old ones have ended")
        assert process.stop() == 0


def test_a_replacement_is_tried_until_it_is_ready(tmp_path: Path) -> None:
    options = ("--ready-path", "/health", "--workers", "2")
    with served(tmp_path, SOURCE, *options) as process:
        port = process.port()
        (tmp_path / "broken").touch()
        os.kill(min(children_of(process.pid)), signal.SIGKILL)
        process.said("A new worker cannot serve:")
        process.said(_REASON)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        connection.close()
        (tmp_path / "broken").unlink()
        eventually(lambda: len(children_of(process.pid)) == 2, "it is replaced")
        assert process.stop() == 0
