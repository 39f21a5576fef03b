"""``debug``: what a client is told of an application that has failed, where, and to whom."""

import asyncio
import logging
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import uwsgi_packets
from conftest import StartServer
from hypothesis import example, given
from hypothesis import strategies as st
from raw_client import Response, connect
from served_process import served

import aiowsgi
from aiowsgi.answers.debug import html_page, plain_text, report
from aiowsgi.answers.debug.local_host import asks_for_this_machine
from aiowsgi.answers.debug.report import accepts_html
from aiowsgi.answers.debug.traces import ShownError, ShownFrame, shown_errors
from aiowsgi.answers.debug.view import View, visible

App = Callable[..., Any]

_INTERFACES = Path("/proc/net/if_inet6")
NEEDS_IPV6 = pytest.mark.skipif(
    not _INTERFACES.exists() or not _INTERFACES.read_text(), reason="this machine has no IPv6"
)
HTML = "Accept: text/html\r\n"
SCRIPT = "<script>alert('1')</script>"


def answering(result: Any, *fields: tuple[str, str], status: Any = "200 OK") -> App:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, list(fields))
        return result

    return app


def yielding(*chunks: Any) -> App:
    def app(environ: Any, start_response: Any) -> Iterator[Any]:
        start_response("200 OK", [("Content-Length", "5")])
        yield from chunks

    return app


def raising(error: BaseException) -> App:
    def app(environ: Any, start_response: Any) -> Any:
        raise error

    return app


async def ask(
    start_server: StartServer,
    app: App,
    fields: str = "",
    *,
    request_line: str = "GET / HTTP/1.1",
    debug: bool = True,
    host: str = "localhost",
) -> Response:
    server = await start_server(app, validate=False, debug=debug)
    method = request_line.partition(" ")[0]
    async with await connect(server) as client:
        return await client.request(
            f"{request_line}\r\nHost: {host}\r\n{fields}\r\n".encode("latin-1"), method
        )


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return the one error that was logged."""
    (message,) = (r.getMessage() for r in caplog.records if r.levelno == logging.ERROR)
    return message


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"there is no comment in the page, but {data!r}")


# What is told.


def _never_starts(environ: Any, start_response: Any) -> Any:
    return [b"text"]


def _writes_str(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])("text")


def _starts_twice(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    start_response("200 OK", [])


MISTAKES = [
    (answering("text"), "it returned str ('text'); encode it: return [text.encode()]"),
    (answering(["text"]), "it yielded str ('text'); encode it: .encode()"),
    (yielding("text"), "it yielded str ('text'); encode it: .encode()"),
    (answering(None), "it returned None; return an iterable of bytes, such as [b'...'] or []"),
    (answering(7), "it returned int; return an iterable of bytes, such as [b'...']"),
    (_writes_str, "it wrote str ('text'); encode it: .encode()"),
    (_never_starts, "call start_response('200 OK', headers) first"),
    (_starts_twice, "it called start_response twice; only an error handler may, with exc_info"),
    (answering([], status=200), "write a str such as '200 OK'"),
    (answering([], status="200"), "write three digits, a space and a reason, such as '200 OK'"),
    (answering([], ("X-A", 1)), "the header ('X-A', 1) holds int; convert it: str(...)"),  # type: ignore[arg-type]
    (answering([], ("X-A", "a\nb")), "which holds a line break, another control character"),
    (answering([], ("Content-Length", "-1")), "give it once, as a decimal number of bytes"),
    (
        answering(["ö".encode()], ("Content-Length", "1")),
        "its response has 1 byte more than its Content-Length (1); give the number of bytes",
    ),
    (
        answering([b"abc"], ("Content-Length", "5")),
        "its response has 2 bytes less than its Content-Length (5); give the number of bytes",
    ),
    (
        yielding(b"abcdefg"),
        "its response has 2 bytes more than its Content-Length (5)",
    ),
    (
        yielding(b"", b""),
        "its response has 5 bytes less than its Content-Length (5)",
    ),
]


@pytest.mark.parametrize(("app", "advice"), MISTAKES, ids=[advice for _, advice in MISTAKES])
@pytest.mark.parametrize("accept", [HTML, ""], ids=["html", "text"])
async def test_a_classic_mistake_is_told_in_the_words_of_the_log(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    app: App,
    advice: str,
    accept: str,
) -> None:
    response = await ask(start_server, app, accept)
    assert response.status == 500
    text = response.body.decode()
    if accept:
        text = Page(text).text
    assert advice in logged(caplog)
    assert logged(caplog) in text
    assert "The application" in text
    assert 'test_debug.py", line' in text
    # The line that the message names is shown.
    assert "def " in text


async def test_an_exception_is_told_with_its_source(start_server: StartServer) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        before = "this line is before the call"
        return helper(before)

    def helper(value: str) -> Any:
        raise LookupError(f"nothing for {value!r}")  # the line that fails

    text = (await ask(start_server, app)).body.decode()
    assert "LookupError: nothing for 'this line is before the call'" in text
    assert 'before = "this line is before the call"' in text
    assert re.search(r"\n  > +\d+ +return helper\(before\)\n", text)
    assert re.search(r"\n  > +\d+ .*# the line that fails\n", text)
    assert re.search(rf'  File "{re.escape(__file__)}", line \d+, in \S+helper\n', text)
    # The calls of the server led to none of it.
    assert "wsgi/task.py" not in text


async def test_exceptions_that_led_to_it_are_told(start_server: StartServer) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("second")  # noqa: B904 - as applications do
        except ValueError as error:
            raise ExceptionGroup("several", [OSError("part")]) from error

    text = (await ask(start_server, app)).body.decode()
    told = [
        "ExceptionGroup: several",
        "It was raised from this exception:\nValueError: second",
        "The group holds this exception:\nOSError: part",
        "It was raised while this exception was handled:\nKeyError: 'first'",
    ]
    assert [text.index(part) for part in told] == sorted(text.index(part) for part in told)


async def test_the_request_is_told_but_for_what_opens_doors(start_server: StartServer) -> None:
    fields = (
        "X-Custom: one\r\nAuthorization: Basic c2VjcmV0\r\nX-Custom: two\r\n"
        "Cookie: session=secret\r\nUser-Agent: \xfcber\r\n"
    )
    for accept in (HTML, ""):
        response = await ask(
            start_server,
            raising(ValueError("x")),
            fields + accept,
            request_line="PUT /pfad%20x?a=1&b=2 HTTP/1.1",
        )
        text = response.body.decode()
        text = Page(text).text.replace("\n", " ") if accept else text
        assert "PUT /pfad%20x?a=1&b=2 HTTP/1.1" in text
        assert re.search(r"X-Custom\W*one.*X-Custom\W*two", text, re.DOTALL)
        assert re.search(r"User-Agent\W*über", text)
        assert "c2VjcmV0" not in text
        assert "secret" not in text
        assert re.search(r"Authorization\W*not shown: 14 bytes", text)
        assert re.search(r"Cookie\W*not shown: 14 bytes", text)


async def test_an_endless_recursion_is_told_in_short(start_server: StartServer) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        return app(environ, start_response)

    response = await ask(start_server, app)
    assert b"RecursionError" in response.body
    assert re.search(rb"\d{3} calls not shown", response.body)
    assert len(response.body) < 60_000


class _Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (_Hostile(), b"_Hostile: <exception str() failed>"),
        (SystemExit(3), b"SystemExit: 3"),
        (ValueError("\x1b[31m \u202e"), rb"ValueError: \x1b[31m \u202e"),
        (ValueError("first\nsecond"), b"ValueError: first\nsecond"),
        (SyntaxError("bad", ("app.py", 3, 1, "x = = 1\n")), b"x = = 1"),
    ],
    ids=["no text", "exit", "unseen", "lines", "syntax"],
)
async def test_an_exception_of_any_kind_is_told(
    start_server: StartServer, error: BaseException, told: bytes
) -> None:
    for accept in ("", HTML):
        response = await ask(start_server, raising(error), accept)
        assert response.status == 500
        assert told in response.body.replace(b"&lt;", b"<").replace(b"&gt;", b">")


def test_exceptions_in_a_circle_are_shown_once() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    shown = shown_errors(first, None)
    assert [error.text for error in shown] == ["ValueError: first", "ValueError: second"]


def test_a_long_chain_of_exceptions_is_cut() -> None:
    error = ValueError("0")
    for number in range(1, 50):
        other = ValueError(str(number))
        other.__cause__ = error
        error = other
    shown = shown_errors(error, None)
    assert (len(shown), shown[0].text, shown[-1].text) == (10, "ValueError: 49", "ValueError: 40")


async def test_what_cannot_be_told_is_answered_as_without_debug(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object) -> Any:
        raise RuntimeError("no view")

    monkeypatch.setattr(report, "shown_errors", fail)
    response = await ask(start_server, raising(ValueError("x")), HTML)
    assert (response.status, response.body) == (500, b"500 Internal Server Error\n")
    assert "The page of debug cannot be made" in caplog.text


# To whom, and in which form.


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("TEXT/HTML; charset=utf-8;q=0.4", True),
        ("text/plain;q=0.5, text/html", True),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("text/plain", False),
        ("application/json, text/html;q=0", False),
        ("text/plain, text/html;q=0.5", False),
        ("text/html;q=x", False),
        (", ; q=1,", False),
    ],
)
def test_html_is_for_clients_that_ask_for_it(accept: str, html: bool) -> None:
    assert accepts_html([(b"host", b"h"), (b"accept", accept.encode())]) is html


async def test_both_forms_are_stored_nowhere_and_run_nothing(start_server: StartServer) -> None:
    page = await ask(start_server, raising(ValueError("x")), HTML)
    assert page.get("content-type") == "text/html; charset=utf-8"
    policy = page.get("content-security-policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "script-src" not in policy
    text = await ask(start_server, raising(ValueError("x")))
    assert text.get("content-type") == "text/plain; charset=utf-8"
    for response in (page, text):
        assert response.get("cache-control") == "no-store"
        assert response.get("x-content-type-options") == "nosniff"


async def test_a_head_request_gets_the_head_of_it(start_server: StartServer) -> None:
    response = await ask(
        start_server, raising(ValueError("x")), HTML, request_line="HEAD / HTTP/1.1"
    )
    assert (response.status, response.body) == (500, b"")
    assert int(response.get("content-length") or 0) > 1000


@pytest.mark.parametrize(
    ("app", "request_line", "body"),
    [
        (answering([], ("Content-Length", "5")), "HEAD / HTTP/1.1", b""),
        (answering([], ("Content-Length", "5"), status="304 Not Modified"), "GET / HTTP/1.1", b""),
        (answering([b"abc"], ("Content-Length", "3")), "GET / HTTP/1.1", b"abc"),
        (yielding(b"ab", b"cde"), "GET / HTTP/1.1", b"abcde"),
        (answering([b"abc"]), "GET / HTTP/1.1", b"abc"),
    ],
    ids=["HEAD", "304", "list", "iterable", "none"],
)
async def test_a_response_without_a_mistake_is_sent_as_it_is(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    app: App,
    request_line: str,
    body: bytes,
) -> None:
    response = await ask(start_server, app, request_line=request_line)
    assert response.status in (200, 304)
    assert response.body == body
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_a_part_of_a_file_is_sent_as_it_is(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("206 Partial Content", [("Content-Length", "4")])
        return environ["wsgi.file_wrapper"](open(tmp_path / "file", "rb"))

    response = await ask(start_server, app)
    assert (response.status, response.body) == (206, b"0123")


async def test_a_response_that_has_begun_is_cut_and_only_the_log_tells(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"begun"
        raise ValueError("behind the head")

    server = await start_server(app, validate=False, debug=True)
    async with await connect(server) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + HTML.encode() + b"\r\n")
        await client.read_until(b"begun")
        try:
            rest = await client.read_until_eof()
        except ConnectionResetError:
            rest = b""
    assert b"ValueError" not in rest
    assert "raised an exception in GET /" in logged(caplog)


async def test_without_debug_a_client_is_told_nothing(start_server: StartServer) -> None:
    response = await ask(start_server, raising(ValueError("secret")), HTML, debug=False)
    assert response.get("content-type") == "text/plain"
    assert response.body == b"500 Internal Server Error\n"


def test_nothing_of_it_is_imported_without_the_option(tmp_path: Path) -> None:
    source = """
        import sys

        def application(environ, start_response):
            found = [name for name in sys.modules if "debug" in name and "aiowsgi" in name]
            print("modules:", *sorted(found), file=sys.stderr, flush=True)
            raise ValueError("x")
    """
    expected = {
        "--no-debug": "",
        "--debug": r" aiowsgi\.answers\.debug aiowsgi\.answers\.debug\.html_page",
    }
    for option, modules in expected.items():
        with served(tmp_path, source, option) as server:
            with socket.create_connection(("127.0.0.1", server.port()), timeout=20) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            server.said(rf"^modules:{modules}{'' if modules else '$'}")
            assert (b"ValueError: x" in answer) is (option == "--debug")
            assert server.stop() == 0


# Who is told nothing: other websites.


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("shop.localhost:8000", True),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("", True),
        (None, True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evillocalhost", False),
    ],
)
def test_a_website_cannot_take_the_names_of_this_machine(host: str | None, told: bool) -> None:
    assert asks_for_this_machine("127.0.0.1", host) is told


@pytest.mark.parametrize(
    ("host", "request_line"),
    [
        ("evil.example", "GET / HTTP/1.1"),
        ("localhost", "GET http://evil.example/ HTTP/1.1"),
    ],
)
@pytest.mark.parametrize("accept", ["", HTML], ids=["text", "html"])
async def test_a_page_under_another_name_cannot_read_it(
    start_server: StartServer, host: str, request_line: str, accept: str
) -> None:
    response = await ask(
        start_server, raising(ValueError("x")), accept, request_line=request_line, host=host
    )
    assert (response.status, response.get("content-type")) == (500, "text/plain; charset=utf-8")
    assert response.body.decode() == (
        "500 Internal Server Error\n"
        "The log of the server says why. debug shows it on this machine, and under names such as "
        "localhost only.\n"
    )


@pytest.mark.parametrize(
    ("protocol", "shown"), [("", True), ("uwsgi:", False)], ids=["http", "uwsgi"]
)
async def test_on_a_unix_socket_only_clients_of_a_web_server_are_asked_for_the_host(
    protocol: str, shown: bool
) -> None:
    sent = b"GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n"
    if protocol:
        sent = uwsgi_packets.request(REMOTE_ADDR="127.0.0.1", HTTP_HOST="shop.example")
    with tempfile.TemporaryDirectory() as folder:
        config = aiowsgi.Config(bind=(f"{protocol}unix:{folder}/s",), debug=True)
        async with asyncio.timeout(20), aiowsgi.serve(raising(ValueError("x")), config=config):
            reader, writer = await asyncio.open_unix_connection(f"{folder}/s")
            writer.write(sent)
            answer = await reader.read()
            writer.close()
    assert (b"ValueError: x" in answer) is shown


# Nothing from elsewhere becomes a part of the page.

texts = st.text() | st.sampled_from([SCRIPT, '" onload="x', "'><b>", "<!-- -->", "&lt;", "\ud800"])
frames = st.builds(
    ShownFrame,
    texts,
    st.integers(1, 9),
    texts,
    st.lists(st.tuples(st.integers(1, 9), texts), max_size=3).map(tuple),
    st.booleans(),
)
views = st.builds(
    View,
    summary=texts,
    advice=texts,
    broke_the_rules=st.booleans(),
    errors=st.lists(
        st.builds(
            ShownError,
            texts,
            texts,
            st.lists(frames, max_size=2).map(tuple),
            st.integers(0, 2),
            st.lists(frames, max_size=2).map(tuple),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    request_line=texts.filter(bool),  # Without one there is no request to show.
    fields=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
)
EVIL = View(
    summary=SCRIPT,
    advice=SCRIPT,
    broke_the_rules=False,
    errors=(
        ShownError(
            SCRIPT, SCRIPT, (ShownFrame(SCRIPT, 1, SCRIPT, ((1, SCRIPT),), is_library=True),), 1, ()
        ),
    )
    * 2,
    request_line=SCRIPT,
    fields=((SCRIPT, SCRIPT),),
)


@given(views)
@example(EVIL)
def test_every_text_from_elsewhere_is_text_in_the_page(view: View) -> None:
    page = Page(html_page.render(view).decode())
    assert set(page.tags) <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "code"),
        *("details", "summary", "pre", "span", "b", "table", "tr", "th", "td"),
    }
    assert {name for name, _ in page.attributes} <= {"lang", "charset", "name", "content"} | {
        *("class", "open")
    }
    shown = {view.summary, view.advice, view.request_line, *(e.text for e in view.errors[1:])}
    for error in view.errors:
        for frame in (*error.first, *error.last):
            shown |= {frame.file, frame.function, *(text for _, text in frame.source)}
    for name, value in view.fields:
        shown |= {name, value}
    for text in shown:
        assert visible(text) in page.text


@given(views)
@example(EVIL)
def test_plain_text_obeys_no_control_characters(view: View) -> None:
    text = plain_text.render(view).decode()
    assert not [
        letter for letter in text if not letter.isprintable() and letter in "\x1b\x07\r\x9b"
    ]
    assert visible(view.request_line) in text


# Where it is refused.


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0"])
async def test_an_address_that_other_machines_reach_is_refused(address: str) -> None:
    config = aiowsgi.Config(bind=("127.0.0.1:0", address), debug=True)
    message = r"^debug shows source code .* connect to (0\.0\.0\.0|\[::\]):\d+; listen on 127\.0"
    with pytest.raises(aiowsgi.ConfigError, match=message):
        await aiowsgi.serve(answering([]), config=config)


async def test_a_socket_that_was_bound_elsewhere_is_refused() -> None:
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        inherited = aiowsgi.Config(bind=(f"fd:{os.dup(sock.fileno())}",), debug=True)
        with pytest.raises(aiowsgi.ConfigError, match=r"other machines can connect to 0\.0\.0\.0"):
            await aiowsgi.serve(answering([]), config=inherited)
        config = aiowsgi.Config(debug=True)
        with pytest.raises(aiowsgi.ConfigError, match=r"other machines can connect to 0\.0\.0\.0"):
            await aiowsgi.serve(answering([]), sock=sock, config=config)
        # It stays the caller's.
        assert sock.fileno() >= 0


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:0",
        "127.1.2.3:0",
        "localhost:0",
        "unix:{folder}/s",
        pytest.param("[::1]:0", marks=NEEDS_IPV6),
        pytest.param("[::ffff:127.0.0.1]:0", marks=NEEDS_IPV6),
    ],
)
async def test_an_address_that_only_this_machine_reaches_is_taken(
    caplog: pytest.LogCaptureFixture, address: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = aiowsgi.Config(bind=(address.format(folder=folder),), debug=True)
        async with asyncio.timeout(20), aiowsgi.serve(answering([]), config=config) as server:
            assert server.is_serving()
    assert "it is for development only" in caplog.text


def test_the_command_says_what_to_write_instead(tmp_path: Path) -> None:
    bind = ("--bind", "0.0.0.0:0")
    with served(tmp_path, "def application(e, s): ...", "--debug", bind=bind) as server:
        server.said(r"^aiowsgi: error: --debug shows source code .* listen on 127\.0\.0\.1:\d+, ")
        assert server.ended() == 2
