"""What clients are answered with --reload while the application cannot be loaded."""

import sys
from pathlib import Path
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from aiowsgi.errors import ConfigError
from aiowsgi.process.importer import load_application
from aiowsgi.process.watch.failure_page import FailurePage

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"


def failure(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> ConfigError:
    """Return what loading an application raises."""
    (folder / "app_that_fails.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "app_that_fails", raising=False)
    with pytest.raises(ConfigError) as caught:
        load_application("app_that_fails:application")
    return caught.value


def answer(page: FailurePage, **more: object) -> tuple[str, str]:
    """Return the content type and the body of the answer to a client on this machine."""
    environ: dict[str, object] = {"REMOTE_ADDR": "127.0.0.1", "QUERY_STRING": ""}
    setup_testing_defaults(environ)  # The host is 127.0.0.1.
    environ |= more
    answered: list[tuple[str, str]] = []

    def start_response(status: str, fields: list[tuple[str, str]], *_: object) -> object:
        assert status == "500 Internal Server Error"
        answered.extend(fields)
        return lambda data: None

    body = validator(page)(environ, start_response)
    content = b"".join(body)
    body.close()  # type: ignore[attr-defined]
    found = dict(answered)
    assert found["Cache-Control"] == "no-store"
    if environ["REQUEST_METHOD"] != "HEAD":
        assert int(found["Content-Length"]) == len(content)
    return found["Content-Type"], content.decode()


BROKEN = 'x = 1\nif x == "<b>":\n    pass\nraise ValueError("<script>alert(1)</script>")\n'


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FailurePage:
    return FailurePage(failure(tmp_path, monkeypatch, BROKEN), is_local=True)


def test_a_browser_is_shown_the_traceback(page: FailurePage) -> None:
    content_type, body = answer(page, HTTP_ACCEPT=HTML)
    assert content_type.startswith("text/html")
    assert "app_that_fails.py, line 4" in body
    assert "ValueError: &lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert "if x == &quot;&lt;b&gt;&quot;:" in body
    assert "<script>" not in body
    assert "importing the module &#x27;app_that_fails&#x27; failed" in body
    assert "because reload is on" in body
    # What has led to the application is nobody's business.
    assert "importlib" not in body
    assert "The request" not in body


def test_other_clients_get_text(page: FailurePage) -> None:
    content_type, body = answer(page, HTTP_ACCEPT="*/*")
    assert content_type.startswith("text/plain")
    assert "ValueError: <script>alert(1)</script>" in body
    assert 'app_that_fails.py", line 4' in body
    assert "importlib" not in body
    assert "The request" not in body


def test_head_has_no_content(page: FailurePage) -> None:
    assert answer(page, REQUEST_METHOD="HEAD")[1] == ""


def test_a_syntax_error_is_shown_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = FailurePage(failure(tmp_path, monkeypatch, "x = 1\nif x\n"), is_local=True)
    for accept in (HTML, "*/*"):
        body = answer(page, HTTP_ACCEPT=accept)[1]
        assert "app_that_fails.py" in body
        assert "line 2" in body
        assert "if x" in body
        assert "SyntaxError: expected" in body


def test_a_mistake_without_an_exception_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = FailurePage(failure(tmp_path, monkeypatch, "aplication = print"), is_local=True)
    for accept in (HTML, "*/*"):
        assert "has no attribute" in answer(page, HTTP_ACCEPT=accept)[1]


def is_explained(body: str) -> bool:
    explained = "ValueError" in body
    assert explained or body == (
        "The application cannot be loaded. The log of the server says why.\n"
    )
    return explained


@pytest.mark.parametrize("accept", [HTML, "*/*"])
def test_clients_elsewhere_are_told_no_more_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    page = FailurePage(failure(tmp_path, monkeypatch, BROKEN), is_local=False)
    assert not is_explained(answer(page, HTTP_ACCEPT=accept)[1])


@pytest.mark.parametrize(
    ("host", "explained"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("shop.localhost:8000", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evillocalhost", False),
    ],
)
def test_pages_of_other_names_cannot_read_it(page: FailurePage, host: str, explained: bool) -> None:
    assert is_explained(answer(page, HTTP_HOST=host)[1]) is explained


@pytest.mark.parametrize(
    ("client", "host", "sent", "explained"),
    [
        ("127.0.0.1", "localhost", "127.0.0.1:8000", True),
        ("192.0.2.7", "localhost", "127.0.0.1:8000", False),
        ("unknown", "localhost", "127.0.0.1:8000", False),
        ("127.0.0.1", "shop.example", "127.0.0.1:8000", False),
        ("127.0.0.1", "localhost", "evil.example", False),
    ],
)
def test_it_is_shown_to_no_other_machine_by_a_proxy_that_tells_it(
    page: FailurePage, client: str, host: str, sent: str, explained: bool
) -> None:
    peer = {"aiowsgi.peer": {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": sent}}
    shown = answer(page, HTTP_HOST=host, REMOTE_ADDR=client, **peer)
    assert is_explained(shown[1]) is explained


def test_on_a_unix_socket_any_host_will_do(page: FailurePage) -> None:
    assert is_explained(answer(page, HTTP_HOST="shop.example", REMOTE_ADDR="")[1])
