"""The applications of WSGI tutorials work, or the log says what is wrong with them."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from wsgiref.simple_server import demo_app
from wsgiref.types import WSGIApplication

import httpx
import pytest
import tutorial_apps as apps
from conftest import StartServer

import aiowsgi

PATIENCE = 30.0
SOURCE = Path(apps.__file__).read_bytes()


def client_of(server: aiowsgi.Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False)


# The validator wraps what the application returns in an iterator of its own, so behind it the
# server never sees a list, a file wrapper or an iterable of the user's.
both_ways = pytest.mark.parametrize("validate", [True, False], ids=["validated", "bare"])

Log = Callable[[], list[logging.LogRecord]]


@pytest.fixture
def error_log(caplog: pytest.LogCaptureFixture) -> Log:
    """Return a function that returns the records of aiowsgi.error at ERROR and above."""
    return lambda: [
        record
        for record in caplog.records
        if record.name == "aiowsgi.error" and record.levelno >= logging.ERROR
    ]


async def close(server: aiowsgi.Server) -> None:
    """Close the server, so that nothing is logged any more."""
    server.close()
    await server.wait_closed()


# --- what works ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "text"),
    [
        pytest.param(apps.function, "Hello from a function\n", id="function"),
        pytest.param(apps.AppClass, "Hello from a class at /a/b", id="class"),
        pytest.param(apps.instance, "Hello from an instance", id="instance"),
        pytest.param(apps.instance.method, "HELLO FROM AN INSTANCE", id="bound method"),
        pytest.param(apps.generator, "0\n1\n2\n3\n4\n", id="generator"),
        pytest.param(apps.writer, "written, written again, returned", id="write()"),
    ],
)
@both_ways
async def test_every_shape_of_application_is_served(
    start_server: StartServer, app: WSGIApplication, text: str, validate: bool
) -> None:
    server = await start_server(app, validate=validate)
    async with client_of(server) as client:
        for _ in range(2):
            answer = await client.get("/a/b")
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.text == text


@pytest.mark.parametrize("body", apps.BODIES)
@both_ways
async def test_every_iterable_of_bytes_is_a_body(
    start_server: StartServer, body: str, validate: bool
) -> None:
    server = await start_server(apps.returning(apps.BODIES[body]), validate=validate)
    async with client_of(server) as client:
        assert (await client.get("/")).content == b"abc"
        assert (await client.get("/")).content == b"abc"


async def test_list_of_one_gets_its_length_and_a_generator_is_chunked(
    start_server: StartServer,
) -> None:
    # Without the validator: it hides from the server that the body is a list of one (PEP 3333,
    # "Handling the Content-Length Header").
    server = await start_server(
        apps.Router({"list": apps.function, "generator": apps.generator}), validate=False
    )
    async with client_of(server) as client:
        whole = await client.get("/list")
        assert whole.headers["content-length"] == str(len(whole.content))
        pieces = await client.get("/generator")
        assert pieces.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in pieces.headers


async def test_hello_of_wsgiref_is_served(start_server: StartServer) -> None:
    server = await start_server(demo_app)
    async with client_of(server) as client:
        answer = await client.get("/a?b=c")
    assert answer.text.startswith("Hello world!\n\n")
    assert "PATH_INFO = '/a'\n" in answer.text
    assert "QUERY_STRING = 'b=c'\n" in answer.text


async def test_environment_dump_shows_the_request(start_server: StartServer) -> None:
    server = await start_server(apps.environment)
    async with client_of(server) as client:
        answer = await client.get("/sub%20page/%C3%A9?q=%C3%A9", headers={"x-thing": "1"})
    assert answer.headers["content-length"] == str(len(answer.content))
    lines = dict(line.split(": ", 1) for line in answer.text.splitlines())
    assert lines["REQUEST_METHOD"] == "GET"
    assert lines["SCRIPT_NAME"] == ""
    assert lines["PATH_INFO"] == "/sub page/é".encode().decode("latin-1")
    assert lines["QUERY_STRING"] == "q=%C3%A9"
    assert lines["HTTP_X_THING"] == "1"
    assert lines["HTTP_HOST"] == server.url.removeprefix("http://")
    assert lines["SERVER_PORT"] == server.url.rpartition(":")[2]
    assert lines["REMOTE_ADDR"] == "127.0.0.1"
    assert lines["wsgi.url_scheme"] == "http"
    assert lines["wsgi.version"] == "(1, 0)"
    assert lines["wsgi.multithread"] == "True"
    assert lines["wsgi.run_once"] == "False"
    assert "CONTENT_LENGTH" not in lines


async def test_empty_answer_has_no_body_and_keeps_the_connection(
    start_server: StartServer,
) -> None:
    server = await start_server(apps.Router({"nothing": apps.nothing, "hello": apps.function}))
    async with client_of(server) as client:
        answer = await client.get("/nothing")
        assert answer.status_code == 204
        # RFC 9110 section 8.6, RFC 9112 section 6.1: a 204 has neither.
        assert "content-length" not in answer.headers
        assert "transfer-encoding" not in answer.headers
        assert (await client.get("/hello")).text == "Hello from a function\n"


async def test_form_reads_its_input_by_content_length(start_server: StartServer) -> None:
    server = await start_server(apps.form)
    async with client_of(server) as client:
        assert "<form" in (await client.get("/")).text
        answer = await client.post("/", data={"name": "Zoë <b>", "hobby": ["chess", "tea & cake"]})
        assert answer.text == "<p>Hello Zoë &lt;b&gt;, you like: chess, tea &amp; cake</p>"
        # RFC 9110 section 8.6 lets a POST without content come with or without the field.
        assert (await client.post("/")).text == "<p>Hello nobody, you like: nothing</p>"


async def test_cookies_count_visits_and_repeat_their_field(start_server: StartServer) -> None:
    server = await start_server(apps.cookies)
    async with client_of(server) as client:
        first = await client.get("/")
        assert first.headers.get_list("set-cookie") == ["visits=1", "seen=yes; Path=/"]
        assert first.text == "visit 1"
        assert (await client.get("/")).text == "visit 2"
        assert (await client.get("/")).text == "visit 3"


async def test_start_response_with_exc_info_replaces_the_answer(
    start_server: StartServer,
) -> None:
    server = await start_server(apps.errors)
    async with client_of(server) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.reason_phrase) == (500, "Oops")
    assert answer.headers.get_list("content-type") == ["text/html"]
    assert answer.headers["x-why"] == "lookup"
    assert answer.text == "<p>the error page</p>"


@both_ways
async def test_file_is_served_by_the_file_wrapper(
    start_server: StartServer, validate: bool
) -> None:
    server = await start_server(apps.file, validate=validate)
    async with client_of(server) as client:
        answer = await client.get("/")
    assert answer.content == SOURCE


async def test_text_outside_ascii_passes_as_latin_1(start_server: StartServer) -> None:
    server = await start_server(apps.unicode_path)
    async with client_of(server) as client:
        answer = await client.get("/grüße/日本")
    assert answer.text == "/grüße/日本"
    assert answer.extensions["reason_phrase"] == "Grüße".encode("latin-1")
    fields = dict(answer.headers.raw)
    assert fields[b"X-Raw"] == b"caf\xe9"
    assert fields[b"X-Path"] == "/grüße/日本".encode()


async def test_router_middleware_shifts_the_path(start_server: StartServer) -> None:
    inner = apps.Router({"deep": apps.where, "": apps.where})
    server = await start_server(apps.Router({"a": apps.where, "b": inner}))
    async with client_of(server) as client:
        assert (await client.get("/a/x/y")).text == "/a|/x/y"
        assert (await client.get("/b/deep/z")).text == "/b/deep|/z"
        missing = await client.get("/c")
        assert missing.status_code == 404
        assert missing.text == "nothing at /c"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/hello", "HELLO FROM A FUNCTION\n"),
        ("/write", "WRITTEN, WRITTEN AGAIN, RETURNED"),
        ("/gen", "0\n1\n2\n3\n4\n"),
        ("/none", "NOTHING AT /NONE"),
    ],
)
async def test_stacked_middleware_changes_head_and_body(
    start_server: StartServer, path: str, text: str
) -> None:
    server = await start_server(apps.stacked)
    async with client_of(server) as client:
        answer = await client.get(path)
    assert answer.status_code == (404 if path == "/none" else 200)
    assert (answer.headers["x-a"], answer.headers["x-b"]) == ("1", "2")
    assert answer.text == text


async def test_bare_generator_is_sent_piece_by_piece(start_server: StartServer) -> None:
    clock = apps.Clock()
    server = await start_server(clock)
    # PEP 3333: the head travels with the first piece, so there is no answer before it.
    clock.tick.release()
    async with client_of(server) as client, client.stream("GET", "/") as answer:
        pieces = answer.aiter_raw()
        for number in range(1, 6):
            # The next piece is not made before this one has arrived.
            assert await anext(pieces) == f"tick {number}\n".encode()
            assert clock.made == number
            assert not clock.closed.is_set()
            if number == 5:
                clock.patience = 0.0
            clock.tick.release()
        assert [piece async for piece in pieces] == [b"tick 6\n"]
    assert await asyncio.to_thread(clock.closed.wait, PATIENCE)


async def test_endless_generator_is_closed_when_the_client_leaves(
    start_server: StartServer, error_log: Log
) -> None:
    clock = apps.Clock()
    server = await start_server(clock)
    clock.tick.release()
    async with client_of(server) as client:
        async with client.stream("GET", "/") as answer:
            assert await anext(answer.aiter_raw()) == b"tick 1\n"
        # The client is gone. More ticks than fit into any buffer: unless somebody notices, the
        # generator goes on to make all of them.
        clock.free = 5_000_000
        clock.patience = 0.0
        clock.tick.release()
        assert await asyncio.to_thread(clock.closed.wait, PATIENCE)
    assert clock.made < clock.free
    await close(server)
    # A client that goes away is not an error.
    assert error_log() == []


# --- what does not work, and says why ------------------------------------------------------------


# What the message says beside the name of the application: what it did, and the way out.
MISTAKES = {
    "returns_str": [" str", ".encode()"],
    "returns_list_of_str": [" str", "<h1>Hello", ".encode()"],
    "yields_str": [" str", "Hello", ".encode()"],
    "yields_int": [" int", "42", "bytes"],
    "writes_str": [" str", "Hello", ".encode()"],
    "returns_none": ["None", "return ", "bytes"],
    "returns_int": [" int", "iterable", "bytes"],
    "returns_bytes": [" bytes", "Hello", "list"],
    "forgets_start_response": ["call start_response"],
    "forgets_start_response_and_body": ["call start_response"],
    "starts_twice": ["start_response", "twice", "exc_info"],
    "bytes_header": [" bytes", "Content-Type", ".decode("],
    "int_header": [" int", "Content-Length", "str("],
    "dict_headers": [" dict", "list"],
    "bytes_status": [" bytes", "200 OK", ".decode("],
    "int_status": [" 200", "str"],
    "async_app": ["coroutine", "async def"],
    "not_wsgi": [" str", "Hello", ".encode()"],
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_mistake_is_a_500_and_one_message_that_names_the_fix(
    start_server: StartServer, error_log: Log, mistake: str
) -> None:
    # Without the validator: it would find the mistake before the server does.
    server = await start_server(getattr(apps, mistake), validate=False)
    async with client_of(server) as client:
        answer = await client.get("/")
        assert answer.status_code == 500
        assert answer.headers["content-type"].startswith("text/plain")
        # The client learns nothing about the inside.
        assert "Hello" not in answer.text
        assert "tutorial_apps" not in answer.text
    await close(server)
    (record,) = error_log()
    message = record.getMessage()
    name = "tutorial_apps:" + ("NotWSGI" if mistake == "not_wsgi" else mistake)
    assert [word for word in [f"{name} ", *MISTAKES[mistake]] if word not in message] == [], message


async def test_mistake_after_the_head_cuts_the_connection(
    start_server: StartServer, error_log: Log
) -> None:
    server = await start_server(apps.yields_str_late, validate=False)
    async with client_of(server) as client:
        # RFC 9112 section 8: an answer without its last chunk is incomplete.
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
    await close(server)
    (record,) = error_log()
    message = record.getMessage()
    assert [word for word in ("yields_str_late", " str", ".encode()") if word not in message] == []


async def test_right_application_logs_no_error(start_server: StartServer, error_log: Log) -> None:
    server = await start_server(apps.stacked)
    async with client_of(server) as client:
        await client.get("/hello")
        await client.get("/none")
    await close(server)
    assert error_log() == []
