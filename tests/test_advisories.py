"""Security advisories of other servers, and traps that others have paid for, as tests of this one.

Where the parser alone decides, files of ``tests/corpus`` hold the bytes: ``test_corpus.py`` feeds
them to the parser, and the first test below sends those that name an advisory through a socket.

| id | covered by |
|---|---|
| CVE-2024-1135 | corpus: framing/transfer-encoding-* |
| CVE-2024-6827 | corpus: framing/transfer-encoding-xchunked, -unknown-with-length |
| CVE-2024-41671 | corpus: pipelining/many; test_http_semantics: pipelined, slow first request |
| CVE-2024-49768 | corpus: pipelining/after-*; test_http_semantics: refusals; here |
| CVE-2024-49769 | test_disconnect: storms of clients that reset |
| CVE-2024-52304 | corpus: chunked/extension-lf |
| CVE-2025-14550 | corpus: fields/repeated-2000-times; here |
| CVE-2025-43859 | corpus: chunked/*-behind-data; here: the version of h11 |
| CVE-2025-47287, -69230 | here: nothing in the error log for what clients do |
| CVE-2025-53643, -58068 | corpus: trailers/not-parsed-as-request, request-line-in-trailers |
| CVE-2025-69223 | here: compressed bodies are left alone |
| CVE-2025-69225 | corpus: digits that are not ASCII |
| CVE-2025-69227 | here: the same verdicts under ``python -O`` |
| CVE-2025-69228 | corpus: chunked/limit-exceeded-by-*; here: also while the body is streamed |
| CVE-2025-69229 | corpus: chunked/one-byte-chunks; test_backpressure: the loop is not held |
| CVE-2026-42544 | corpus: fields/obs-text-in-websocket-protocol; here: every field |
| CVE-2026-42545 | here |
| CVE-2026-48710 | corpus: host/* |
| CVE-2026-54282 | corpus: target/at-sign-host and others |
| CVE-2023-27522, CVE-2024-24795 | here: response splitting |
| CVE-2016-5385 | here |
| waitress 3.0.2 | here: forwarded fields are never trusted |
| Emmett-Framework/granian#885 | test_backpressure: flat memory |
| Emmett-Framework/granian#873 | here |
| python/cpython#140947 | test_http_semantics: context variables |
| Soju06/codex-lb#2041 | test_timeouts: no timer is left; here: no object is left |
| abersheeran/a2wsgi#48, #49; Pylons/waitress#499 | test_disconnect: blocked in a write |
| benoitc/gunicorn#3301 | test_http_semantics: unread bodies; here: with one thread |
| rapidpro/ureport#1397 | test_disconnect: aborted requests; here: refused and shed ones |
"""

import gc
import gzip
import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import h11
import pytest
from corpus_files import Case, load_corpus
from extent import exhaustive
from http_streams import READERS
from raw_client import (
    TIMEOUT,
    Incomplete,
    StartServer,
    clients_of,
    connect,
    eventually,
    in_thread,
    on_each_loop,
)

from aiowsgi.http.request import FieldSection, RequestHead
from aiowsgi.wsgi.environ import build_environ

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n"

ADVISED = [case for case in load_corpus() if "CVE-" in case.why]


class Recorder:
    """An application that notes the requests that reach it, and what it can read of them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(-1)
        self.seen.append((environ["REQUEST_METHOD"], environ["REQUEST_URI"], body))
        start_response("200 OK", [*PLAIN])
        return [b"ok"]


@pytest.mark.parametrize("case", ADVISED, ids=lambda case: case.name)
async def test_advised_request_through_a_socket(start_server: StartServer, case: Case) -> None:
    """Exactly the complete requests reach the application; then comes the refusal, and the end."""
    app = Recorder()
    limits = {f"limit_request_{name}": limit for name, limit in case.limits.items()}
    server = await start_server(app, validate=False, **limits)
    complete = [request for request in case.requests if request.complete]
    async with await connect(server) as client:
        await client.send(case.data)
        client.half_close()
        for request in complete:
            assert (await client.receive(request.method)).status == 200
        status = 400 if case.end == "incomplete" else case.status
        if status is not None:
            response = await client.receive()
            assert response.status == status
            assert response.get("connection") == "close"
        assert await client.read_until_eof() == b""
    expected = [(request.method, request.target, request.body) for request in complete]
    assert app.seen == expected


# --- parsing and framing -------------------------------------------------------------------------


@on_each_loop
async def test_cve_2024_49768_nothing_behind_a_refusal_is_executed(
    start_server: StartServer,
) -> None:
    """Neither what came along with it, nor what comes while the answer is read."""
    begun, go_on = threading.Event(), threading.Event()
    paths: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        paths.append(environ["PATH_INFO"])
        begun.set()
        assert go_on.wait(TIMEOUT)
        start_response("200 OK", [*PLAIN])
        return [b"ok"]

    server = await start_server(app)
    async with await connect(server) as client:
        await client.send(GET + b"GET /bad HTTP/1.1\r\nHost: a b\r\n\r\n" + PING * 100)
        await in_thread(begun.wait, TIMEOUT)
        await client.send(PING * 100)
        go_on.set()
        assert (await client.receive()).status == 200
        assert (await client.receive()).status == 400
        await client.send(PING * 100)
        assert await client.read_until_eof() == b""
    assert paths == ["/"]


def test_cve_2025_43859_h11_is_recent_enough() -> None:
    assert tuple(map(int, h11.__version__.split(".")[:2])) >= (0, 16)


@on_each_loop
@pytest.mark.parametrize("streamed", [False, True], ids=["prefetched", "streamed"])
async def test_cve_2025_69228_limit_of_a_chunked_body_is_cumulative(
    start_server: StartServer, streamed: bool
) -> None:
    read = 0
    errors: list[BaseException] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal read
        try:
            while data := environ["wsgi.input"].read(100):
                read += len(data)
        except ConnectionError as error:
            errors.append(error)
            raise
        raise AssertionError("a body beyond the limit looks complete")

    prefetch = 1000 if streamed else 1 << 20
    server = await start_server(app, limit_request_body=10_000, body_prefetch=prefetch)
    async with await connect(server) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        # Small chunks, each far below any limit. None of them completes the body.
        await client.send((b"64\r\n" + b"x" * 100 + b"\r\n") * 150)
        response = await client.receive()
        assert response.status == 413
        assert await client.read_until_eof() == b""
    assert read <= 10_000
    assert all("longer than 10000 bytes" in str(error) for error in errors)


VERDICTS = """
import json, sys
sys.path[:0] = [sys.argv[1]]
from corpus_files import load_corpus
from aiowsgi.errors import Refusal
from http_streams import READERS, new_parser
from aiowsgi.http.request import Limits
assert False, "asserts are off"
verdicts = {}
for case in load_corpus():
    parser = new_parser(Limits(**case.limits), READERS[int(sys.argv[2])])
    parser.feed(case.data)
    verdicts[case.name] = None
    try:
        while parser.next_event() is not None:
            pass
    except Refusal as refusal:
        verdicts[case.name] = refusal.status
print(json.dumps(verdicts))
"""


@exhaustive
@pytest.mark.parametrize("reader", [0, 1], ids=lambda number: READERS[number].name)
def test_cve_2025_69227_verdicts_are_the_same_without_asserts(reader: int) -> None:
    """An assert is no check of what clients send: ``python -O`` removes it."""
    folder = str(Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-O", "-c", VERDICTS, folder, str(reader)],
        capture_output=True,
        check=True,
        cwd=Path(folder).parent,
        timeout=30,
    )
    verdicts: dict[str, int | None] = json.loads(run.stdout)
    assert verdicts == {case.name: case.status for case in load_corpus()}


# --- header fields -------------------------------------------------------------------------------


async def environ_of(start_server: StartServer, request: bytes, **options: Any) -> dict[str, Any]:
    """Return the environ that an application gets for a request."""
    environs: list[dict[str, Any]] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environs.append(dict(environ))
        start_response("200 OK", [*PLAIN])
        return [environ["wsgi.input"].read(-1)]

    server = await start_server(app, **options)
    async with await connect(server) as client:
        response = await client.request(request)
        assert response.status == 200
    environs[0]["body"] = response.body
    return environs[0]


async def test_cve_2025_14550_repeated_fields_are_joined_in_linear_time(
    start_server: StartServer,
) -> None:
    number = 2000
    request = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X-Many: 1\r\n" * number + b"\r\n"
    environ = await environ_of(start_server, request, limit_request_fields=number + 1)
    assert environ["HTTP_X_MANY"] == ",".join("1" * number)

    def work(times: int) -> float:
        """Return the processor's time, in seconds, for so many fields, at the best of 5 tries."""
        fields = [(b"x-many", b"1")] * times
        section = FieldSection("HTTP/1.1", fields, "h", None, False, True, False)
        head = RequestHead("GET", "/", "/", "", "h", section)
        took = []
        for _ in range(5):
            begun = time.process_time()
            build_environ(
                {}, head, io.BytesIO(), scheme="http", server=("h", "80"), client=("h", "1")
            )
            took.append(time.process_time() - begun)
        return min(took)

    # Eight times as much for eight times as many; what is quadratic takes 64 times as much.
    assert work(8 * number) < 24 * work(number)


async def test_cve_2026_42544_bytes_outside_ascii_in_every_field(start_server: StartServer) -> None:
    names = (
        b"Accept Accept-Language Authorization Connection Content-Type Cookie From If-Match Origin "
        b"Range Referer Sec-WebSocket-Protocol Sec-WebSocket-Key TE Upgrade User-Agent Via X-Any"
    ).split()
    value = bytes(range(0x80, 0x100))
    fields = b"".join(b"%b: a%bz\r\n" % (name, value) for name in names)
    environ = await environ_of(start_server, b"GET / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n")
    for name in names:
        key = name.decode().upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        assert environ[key] == f"a{value.decode('latin-1')}z"


async def test_cve_2016_5385_fields_that_impersonate_others_are_dropped(
    start_server: StartServer,
) -> None:
    environ = await environ_of(
        start_server,
        b"GET / HTTP/1.1\r\nHost: h\r\nProxy: http://evil\r\nX_Forwarded_For: evil\r\n"
        b"X-Forwarded_For: evil\r\nContent_Length: 5\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n",
    )
    assert "HTTP_PROXY" not in environ
    assert "CONTENT_LENGTH" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ
    assert environ["HTTP_X_FORWARDED_FOR"] == "10.0.0.1"


async def test_waitress_3_0_2_forwarded_fields_change_nothing(start_server: StartServer) -> None:
    environ = await environ_of(
        start_server,
        b"GET / HTTP/1.1\r\nHost: h:81\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: evil\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /evil\r\n"
        b"Forwarded: for=10.0.0.1;proto=https;host=evil\r\nX-Real-IP: 10.0.0.1\r\n"
        b"Script-Name: /evil\r\nRemote-User: root\r\n\r\n",
    )
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == "h:81"
    assert environ["SERVER_NAME"] == "127.0.0.1"
    assert environ["SCRIPT_NAME"] == ""
    assert "REMOTE_USER" not in environ


async def test_cve_2025_69223_compressed_body_is_left_alone(start_server: StartServer) -> None:
    """Unpacked, it would be beyond every limit. That is for the application to decide."""
    body = gzip.compress(bytes(10_000_000))
    environ = await environ_of(
        start_server,
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body,
    )
    assert environ["body"] == body
    assert environ["HTTP_CONTENT_ENCODING"] == "gzip"


# --- what applications put into a head -----------------------------------------------------------

INJECTED = "x\r\nX-Injected: 1"


@on_each_loop
@pytest.mark.parametrize(
    ("status", "fields"),
    [
        ("200 OK", [("X-Value", INJECTED)]),
        ("200 OK", [("X-Value", "x\nX-Injected: 1")]),
        ("200 OK", [("X-Value", "x\rX-Injected: 1")]),
        ("200 OK", [("X-Value", "x\0")]),
        ("200 OK", [("X-Value", "\u20ac")]),
        ("200 OK", [("X-Value", "x\x7f")]),
        ("200 OK", [("X-Name: x\r\nX-Injected", "1")]),
        ("200 OK", [("X-Name\u20ac", "1")]),
        ("200 OK", [("", "1")]),
        (f"200 {INJECTED}", []),
        ("200 \u20ac", []),
        ("200\r\nX-Injected: 1", []),
    ],
    ids=repr,
)
async def test_cve_2026_42545_bad_bytes_of_an_application_are_a_500(
    start_server: StartServer, status: str, fields: list[tuple[str, str]]
) -> None:
    """Also CVE-2023-27522 and CVE-2024-24795: and no second response comes out of it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/ping":
            start_response("200 OK", [*PLAIN])
        else:
            start_response(status, [*PLAIN, *fields])
        return [b"ok"]

    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        response = await client.request(GET)
        assert response.status == 500
        assert response.get("x-injected") is None
        # The process lives, and so does the connection.
        assert (await client.request(PING)).body == b"ok"


@on_each_loop
async def test_cve_2024_24795_body_cannot_become_a_second_response(
    start_server: StartServer,
) -> None:
    """Bytes beyond the declared length, and those of a response that has no body, are not sent."""
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/ping":
                start_response("200 OK", [*PLAIN])
                return [b"pong"]
            case "/length":
                start_response("200 OK", [*PLAIN, ("Content-Length", "0")])
            case _:
                start_response("304 Not Modified", [])
        return [smuggled]

    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        for path in (b"/length", b"/304"):
            await client.send(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path + PING)
            assert (await client.receive()).body == b""
            assert (await client.receive()).body == b"pong"


# --- logs ----------------------------------------------------------------------------------------


async def test_cve_2025_47287_clients_cannot_fill_the_error_log(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Also CVE-2025-69230: each broken request is one line of the access log. Why it was refused is
    said once for each reason and client, in a minute.
    """
    caplog.set_level(logging.INFO)
    server = await start_server(Recorder())
    bad = [
        b"\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nCookie\r\n\r\n",
    ]
    for request in bad * 20:
        async with await connect(server) as client:
            assert (await client.request(request)).status == 400
    await eventually(lambda: not clients_of(server))
    lines = Counter(record.name for record in caplog.records)
    assert lines == {"aiowsgi.access": 20 * len(bad), "aiowsgi.error": len(bad)}


async def test_ureport_1397_refused_and_shed_requests_get_a_line_in_the_access_log(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun.set()
        assert go_on.wait(TIMEOUT)
        start_response("200 OK", [*PLAIN])
        return [b"ok"]

    caplog.set_level(logging.INFO, logger="aiowsgi.access")
    server = await start_server(app, threads=1, queue_size=0)
    async with await connect(server) as client:
        await client.send(b"GET /served HTTP/1.1\r\nHost: h\r\n\r\n")
        await in_thread(begun.wait, TIMEOUT)
        for request, status in {
            b"GET /shed HTTP/1.1\r\nHost: h\r\n\r\n": 503,
            b"GET /refused HTTP/9.9\r\n\r\n": 505,
        }.items():
            async with await connect(server) as other:
                assert (await other.request(request)).status == status
        go_on.set()
        assert (await client.receive()).status == 200

    def logged() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "aiowsgi.access"]

    await eventually(lambda: len(logged()) == 3)
    lines = logged()
    assert '"GET /shed HTTP/1.1" 503 ' in lines[0]
    assert '"GET /refused HTTP/9.9" 505 ' in lines[1]
    assert '"GET /served HTTP/1.1" 200 2 ' in lines[2]
    # More say why: that is for the operator.
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 3
    assert "1 request got a 503 at once" in said[0]
    assert '"GET /shed HTTP/1.1" from 127.0.0.1 with 503' in said[1]
    assert '"GET /refused HTTP/9.9" from 127.0.0.1 with 505' in said[2]


# --- traps of asyncio and of thread pools --------------------------------------------------------


@on_each_loop
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP", GET, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx"],
    ids=["idle", "head", "kept", "body"],
)
async def test_codex_lb_2041_connection_that_was_reset_leaves_no_object(
    start_server: StartServer, sent: bytes
) -> None:
    server = await start_server(Recorder())
    client = await connect(server)
    await client.send(sent)
    if sent == GET:
        assert (await client.receive()).status == 200
    await eventually(lambda: clients_of(server))
    (protocol,) = clients_of(server)
    # It has slots, and no weak references.
    kind, number = type(protocol), id(protocol)
    del protocol
    client.reset()
    await eventually(lambda: not clients_of(server))

    def collected() -> bool:
        gc.collect()
        return not any(type(it) is kind and id(it) == number for it in gc.get_objects())

    await eventually(collected)


@on_each_loop
async def test_granian_873_stream_does_not_starve_others(start_server: StartServer) -> None:
    stop = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        if environ["PATH_INFO"] == "/ping":
            yield b"pong"
            return
        while not stop.is_set():
            yield b"data: x\n\n"
            stop.wait(0.001)

    server = await start_server(app, threads=2)
    async with await connect(server) as stream, await connect(server) as other:
        await stream.send(GET)
        await stream.read_until(b"data: x")
        for _ in range(50):
            assert (await other.request(PING)).body == b"pong"
        stop.set()
        await stream.read_until(b"0\r\n\r\n")


@on_each_loop
async def test_gunicorn_3301_unread_body_does_not_wedge_the_thread(
    start_server: StartServer,
) -> None:
    """The rest of the body is the loop's business: the only thread is free meanwhile."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        return [b"unread"]

    server = await start_server(app, threads=1, body_prefetch=1000)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"
    async with await connect(server) as client, await connect(server) as other:
        await client.send(head + b"x" * 5000)
        assert (await client.receive()).body == b"unread"
        for _ in range(10):
            assert (await other.request(PING)).body == b"unread"
        await client.send(b"x" * 95_000 + PING)
        assert (await client.receive()).body == b"unread"


@on_each_loop
async def test_waitress_499_shutdown_frees_a_thread_that_waits_for_a_slow_reader(
    start_server: StartServer,
) -> None:
    """Also abersheeran/a2wsgi#48: every wait of a thread ends with the server."""
    closed = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        try:
            while True:
                yield b"x" * 50_000
        finally:
            closed.set()

    server = await start_server(app, threads=1, timeout_graceful=0.0)
    async with await connect(server, receive_buffer=1 << 14) as client:
        await client.send(GET)
        await eventually(lambda: any(one.blocks_thread for one in clients_of(server)))
        server.close()
        await server.wait_closed()
        assert closed.is_set()
        with pytest.raises(Incomplete):
            await client.receive()
