"""The demo application: in memory under wsgiref's validator, then over a real server."""

import asyncio
import contextlib
import hashlib
import html
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from types import TracebackType
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import httpx
import pytest

import aiowsgi
from aiowsgi import demo

Headers = list[tuple[str, str]]


@dataclass
class Answer:
    status: str
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    target: str,
    method: str = "GET",
    body: bytes = b"",
    application: WSGIApplication = demo.application,
    **environ: Any,
) -> Answer:
    """Call the demo once, under the validator, and return the whole answer."""
    started: list[tuple[str, Headers]] = []

    def start_response(
        status: str,
        headers: Headers,
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | None = None,
        /,
    ) -> Any:
        started.append((status, headers))
        return pytest.fail

    response = validator(application)(
        request(target, method, body, **environ),
        start_response,
    )
    with contextlib.closing(response):
        content = b"".join(response)
    ((status, headers),) = started
    return Answer(status, dict(headers), content)


def request(target: str, method: str = "GET", body: bytes = b"", **environ: Any) -> WSGIEnvironment:
    path, _, query = target.partition("?")
    full: WSGIEnvironment = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": io.BytesIO(body),
        **environ,
    }
    if body and not full.get("wsgi.input_terminated"):
        full["CONTENT_LENGTH"] = str(len(body))
    setup_testing_defaults(full)
    return full


class PageReader(HTMLParser):
    """Reads the environ's tables, and every address that the page names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, str] = {}
        self.addresses: list[str] = []
        self.elements: list[str] = []
        self._cell = ""
        self._key = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "action")]
        if tag in ("th", "td"):
            self._cell = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        if self._cell == "th":
            self._key = data
        elif self._cell == "td":
            self.rows[self._key] = self.rows.get(self._key, "") + data


def test_page_shows_headers_request_and_wsgi_keys():
    answer = ask(
        "/?a=1",
        HTTP_USER_AGENT="test/1",
        CONTENT_TYPE="text/x",
        SERVER_SOFTWARE="server/2",
        REMOTE_ADDR="127.0.0.9",
        REMOTE_PORT="4711",
        **{"wsgi.multithread": True, "server.answer": "".upper},
    )

    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    rows = PageReader(answer.text).rows
    assert rows["HTTP_USER_AGENT"] == "test/1"
    assert rows["CONTENT_TYPE"] == "text/x"
    assert rows["QUERY_STRING"] == "a=1"
    assert rows["SCRIPT_NAME"] == "empty"
    assert rows["wsgi.version"] == "(1, 0)"
    assert rows["wsgi.multithread"] == "True"
    assert rows["server.answer"] == "a function"
    # Objects are shown by their type. An address in memory must not be shown.
    assert rows["wsgi.input"] == "wsgiref.validate.InputWrapper"
    assert "127.0.0.9 port 4711" in answer.text
    assert '<strong id="server">server/2</strong>' in answer.text
    assert f'id="thread">{threading.current_thread().name}<' in answer.text


def test_page_names_a_type_for_a_class_in_the_environ():
    rows = PageReader(ask("/", **{"x.wrapper": io.BytesIO}).text).rows

    assert rows["x.wrapper"] == "_io.BytesIO"


def test_page_does_without_the_optional_keys():
    environ = request("/")
    for key in ("QUERY_STRING", "REMOTE_ADDR", "REMOTE_PORT", "SERVER_SOFTWARE", "PATH_INFO"):
        environ.pop(key, None)

    text = b"".join(demo.application(environ, lambda *_: pytest.fail)).decode()

    assert "a local socket" in text
    assert "a server without a name" in text


def test_page_escapes_what_the_client_sent():
    evil = "<script>alert(1)</script>&\"'"

    text = ask("/?" + evil, HTTP_X_EVIL=evil, REMOTE_ADDR=evil, SERVER_SOFTWARE=evil).text

    assert PageReader(text).rows["HTTP_X_EVIL"] == evil
    assert "<script>alert" not in text


def test_page_shows_the_version():
    assert f'id="version">{aiowsgi.__version__}<' in ask("/").text


def test_page_links_to_the_documentation_that_is_installed_with_it():
    addresses = [a for a in PageReader(ask("/").text).addresses if a.startswith("/docs/")]

    for address in addresses:
        answer = ask(address)
        assert answer.status == "200 OK"
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.text.startswith("# ")
    assert len(addresses) == 5


def test_page_shows_an_application_that_works():
    match = re.search(r'<code id="own-code">(.*?)</code>', ask("/").text, re.DOTALL)
    assert match is not None
    module: dict[str, Any] = {}
    exec(html.unescape(match[1]), module)  # noqa: S102

    answer = ask("/", application=module["application"])

    assert answer.status == "200 OK"
    assert answer.text == "This is my own application.\n"


def test_page_keeps_the_servers_own_environment_to_itself():
    text = ask("/", DATABASE_PASSWORD="hunter2").text

    assert "DATABASE_PASSWORD" not in text
    assert "hunter2" not in text


def test_page_names_nothing_outside_itself_and_forbids_it():
    answer = ask("/")
    page = PageReader(answer.text)

    assert {a.partition("?")[0] for a in page.addresses if not a.startswith("data:")} == {
        "/clock",
        "/upload",
        "/slow",
        "/error",
        "/docs/running.md",
        "/docs/options.md",
        "/docs/deploy.md",
        "/docs/applications.md",
        "/docs/embedding.md",
    }
    assert not {"base", "iframe", "img", "object"} & set(page.elements)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
    assert answer.text.count(f'nonce="{nonce}"') == 2
    assert nonce not in ask("/").text


def test_page_links_below_the_place_it_is_mounted_at():
    answer = ask("", SCRIPT_NAME="/caf\xc3\xa9 1")

    assert answer.status == "200 OK"
    assert 'data-base="/caf%C3%A9%201"' in answer.text
    assert 'href="/caf%C3%A9%201/error"' in answer.text


def test_clock_sends_one_numbered_line_a_tick():
    answer = ask("/clock?ticks=3&interval=0")

    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "Content-Length" not in answer.headers
    name = re.escape(threading.current_thread().name)
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"1/3 {time} {name}\n2/3 {time} {name}\n3/3 {time} {name}\n", answer.text)


@pytest.mark.parametrize(
    ("query", "ticks", "interval"),
    [
        ("", 60, 1.0),
        ("?ticks=0&interval=-3", 1, 0.0),
        ("?ticks=1e9&interval=1e9", demo.MAX_TICKS, demo.MAX_INTERVAL),
        ("?ticks=2&ticks=3", 3, 1.0),
    ],
)
def test_clock_is_bounded(monkeypatch, query, ticks, interval):
    now = 0.0
    longest = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now, longest
        now += seconds
        longest = max(longest, seconds)

    monkeypatch.setattr(demo.time, "sleep", sleep)
    monkeypatch.setattr(demo.time, "monotonic", lambda: now)

    lines = ask("/clock" + query).text.splitlines()

    assert len(lines) == ticks
    assert lines[-1].startswith(f"{ticks}/{ticks} ")
    assert now == pytest.approx(interval * (ticks - 1))
    assert longest <= demo.STOP_INTERVAL


def test_clock_ends_within_a_tick_when_the_server_stops(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(demo.time, "sleep", slept.append)
    monkeypatch.setattr(demo.time, "monotonic", lambda: 0.0)

    answer = ask("/clock?interval=1", **{"aiowsgi.stopping": lambda: len(slept) == 3})

    # The first line needs no sleep; the second one, which would take ten of these, never comes.
    assert len(answer.text.splitlines()) == 1
    assert slept == [demo.STOP_INTERVAL] * 3


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "-inf", "1" * 400])
@pytest.mark.parametrize(
    ("path", "name"), [("/clock", "ticks"), ("/clock", "interval"), ("/slow", "seconds")]
)
def test_a_query_that_is_no_number_is_refused(path, name, value):
    answer = ask(f"{path}?{name}={value}")

    assert answer.status == "400 Bad Request"
    assert answer.text.startswith(f"{name} must be a number from ")


def test_clock_makes_no_line_after_it_was_closed(monkeypatch):
    monkeypatch.setattr(demo.time, "sleep", lambda seconds: None)
    lines = demo.application(request("/clock"), lambda *_: pytest.fail)
    assert isinstance(lines, Iterator)
    assert next(lines).startswith(b"1/60 ")

    lines.close()

    assert list(lines) == []


@pytest.mark.parametrize("size", [0, 1, demo.UPLOAD_PIECE, 3 * demo.UPLOAD_PIECE + 7])
@pytest.mark.parametrize("terminated", [False, True])
def test_upload_reports_size_and_hash(size, terminated):
    body = bytes(i % 251 for i in range(size))

    answer = ask("/upload", "POST", body, **{"wsgi.input_terminated": terminated})

    assert answer.headers["Content-Type"] == "application/json"
    report = json.loads(answer.body)
    assert report["bytes"] == size
    assert report["sha256"] == hashlib.sha256(body).hexdigest()
    assert report["reads"] == -(-size // demo.UPLOAD_PIECE)
    assert report["thread"] == threading.current_thread().name


def test_upload_never_reads_past_the_declared_length():
    # PEP 3333: "A server should allow read() to be called without an argument", but one whose
    # input is the bare socket blocks for ever on a byte more than was sent.
    stream = io.BytesIO(b"12345GET / HTTP/1.1")

    report = json.loads(
        ask("/upload", "POST", **{"wsgi.input": stream, "CONTENT_LENGTH": "5"}).body
    )

    assert report["bytes"] == 5
    assert stream.read() == b"GET / HTTP/1.1"


@pytest.mark.parametrize(("query", "seconds"), [("", 2.0), ("?seconds=1e9", 10.0)])
def test_slow_page_sleeps_within_its_bound(monkeypatch, query, seconds):
    slept: list[float] = []
    monkeypatch.setattr(demo.time, "sleep", slept.append)

    answer = ask("/slow" + query)

    assert slept == [seconds]
    assert f"slept {seconds:g} s" in answer.text


def test_error_page_raises():
    with pytest.raises(RuntimeError, match="on purpose"):
        ask("/error")


@pytest.mark.parametrize("path", ["/nothing", "/clock/", "//", "*", "/page.html"])
def test_other_paths_are_not_found(path):
    answer = Answer("", {}, b"")

    def start_response(status: str, headers: Headers, exc_info: object = None, /) -> Any:
        answer.status = status

    b"".join(demo.application(request(path), start_response))

    assert answer.status == "404 Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/", "GET, HEAD"),
        ("DELETE", "/clock", "GET, HEAD"),
        ("OPTIONS", "/slow", "GET, HEAD"),
        ("PUT", "/error", "GET, HEAD"),
        ("GET", "/upload", "POST"),
        ("HEAD", "/upload", "POST"),
    ],
)
def test_other_methods_are_refused_with_those_that_work(method, path, allow):
    answer = ask(path, method)

    assert answer.status == "405 Method Not Allowed"
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize("target", ["/", "/clock?ticks=2&interval=0", "/slow?seconds=0", "/none"])
def test_head_has_the_fields_of_get_and_no_body(target):
    head, get = ask(target, "HEAD"), ask(target)

    assert head.body == b""
    assert head.status == get.status
    assert head.headers.keys() == get.headers.keys()
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


# Over a real server


async def test_served_page_names_the_server_and_a_pool_thread(start_server):
    server = await start_server(demo.application, threads=4)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        page = await client.get("/")
        head = await client.head("/")

    assert page.status_code == head.status_code == 200
    rows = PageReader(page.text).rows
    assert rows["SERVER_SOFTWARE"].lower().startswith("aiowsgi")
    assert rows["REMOTE_ADDR"] == "127.0.0.1"
    match = re.search(r'id="thread">([^<]+)<', page.text)
    assert match is not None
    assert match[1] != threading.current_thread().name
    assert head.content == b""
    assert abs(int(head.headers["content-length"]) - len(page.content)) < 100


async def test_served_clock_arrives_line_by_line(start_server):
    gate = threading.Semaphore(0)

    def gated(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        for line in demo.application(environ, start_response):
            assert gate.acquire(timeout=10)
            yield line

    server = await start_server(gated, threads=4)
    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
        asyncio.timeout(20),
    ):
        # The head travels with the first line, so that one must be let through first.
        gate.release()
        async with client.stream("GET", "/clock?ticks=3&interval=0") as response:
            assert response.headers["transfer-encoding"] == "chunked"
            lines = response.aiter_lines()
            # Each line is allowed only after the one before has been read here.
            for tick in (1, 2, 3):
                assert (await anext(lines)).startswith(f"{tick}/3 ")
                gate.release()
            assert [line async for line in lines] == []


async def test_served_clock_stops_when_the_client_leaves(start_server):
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    sent = 0

    def watched(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        nonlocal sent
        lines = demo.application(environ, start_response)
        try:
            for line in lines:
                sent += 1
                yield line
        finally:
            loop.call_soon_threadsafe(closed.set)

    server = await start_server(watched, threads=4)
    async with (
        asyncio.timeout(20),
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        async with client.stream("GET", "/clock?ticks=300&interval=0.1") as response:
            assert (await anext(response.aiter_lines())).startswith("1/300 ")
        await closed.wait()
    assert sent < 300


async def test_served_clock_ends_complete_when_the_server_stops(start_server):
    server = await start_server(demo.application, threads=4, timeout_graceful=60)
    async with (
        asyncio.timeout(40),
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
        client.stream("GET", "/clock?ticks=300&interval=1") as response,
    ):
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("1/300 ")
        server.close()
        # A stream that is cut raises.
        assert [line async for line in lines if line.startswith("300/")] == []
        await server.wait_closed()


@pytest.mark.parametrize("chunked", [False, True])
async def test_served_upload_is_hashed_with_and_without_a_length(start_server, chunked):
    server = await start_server(demo.application, threads=4)
    body = bytes(range(256)) * 1024

    async def pieces() -> Any:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        answer = await client.post("/upload", content=pieces() if chunked else body)

    assert answer.json()["bytes"] == len(body)
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


async def test_served_error_is_a_500_without_the_traceback(start_server):
    server = await start_server(demo.application, threads=4)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        answer = await client.get("/error")
        after = await client.get("/slow?seconds=0")

    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert after.status_code == 200


async def test_served_refusals_carry_their_fields(start_server):
    server = await start_server(demo.application, threads=4)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        missing = await client.get("/nothing")
        refused = await client.post("/", content=b"x" * 1000)

    assert missing.status_code == 404
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, HEAD"
