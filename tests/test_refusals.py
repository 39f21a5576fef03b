"""What an operator is told of requests that are refused, and of header fields that are dropped."""

import logging
import re
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from http_streams import events
from hypothesis import given
from hypothesis import strategies as st
from memory import MemoryConnection
from raw_client import StartServer, connect, on_each_loop
from thread_waits import StillClock
from uwsgi_packets import packet, stock_variables
from uwsgi_packets import request as uwsgi_request

from aiowsgi import Config
from aiowsgi.config import ListenerProtocol
from aiowsgi.errors import ConfigError, IncompleteRequest, Refusal
from aiowsgi.http.grammar import TOKEN
from aiowsgi.http.parser import Parser
from aiowsgi.http.readers.h11_reader import H11
from aiowsgi.http.request import Limits
from aiowsgi.http.sections import FieldSections
from aiowsgi.observe.refusals import DroppedFields, Refusals

TWO_HOSTS = b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
BAD = Refusal(400, "it is bad")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(sorted(key for key in environ if key.startswith("HTTP_"))).encode()]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings since the last call."""
    messages = [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelno) == ("aiowsgi.error", logging.WARNING)
    ]
    caplog.clear()
    return messages


# --- how often -----------------------------------------------------------------------------------


def test_refusal_is_told_once_a_minute_for_each_client_and_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = StillClock()
    refusals = Refusals(clock)
    for _ in range(3):
        refusals.note("192.0.2.1", "GET / HTTP/1.1", BAD)
    assert told(caplog) == ['Refused "GET / HTTP/1.1" from 192.0.2.1 with 400: it is bad']
    refusals.note("192.0.2.2", "", BAD)
    assert told(caplog) == [
        "Refused a request from 192.0.2.2 with 400: it is bad (not shown since the last one: 2)"
    ]
    refusals.note("192.0.2.2", "", Refusal(431, "it is long"))
    assert told(caplog) == ["Refused a request from 192.0.2.2 with 431: it is long"]
    clock.now += 59.9
    refusals.note("192.0.2.1", "", BAD)
    assert told(caplog) == []
    clock.now += 0.2
    refusals.note("192.0.2.1", "", BAD)
    assert len(told(caplog)) == 1


def test_flood_of_clients_and_reasons_is_told_of_few(caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock()
    refusals = Refusals(clock)
    for _ in range(3):
        for number in range(1000):
            refusals.note(f"client {number}", "", Refusal(400, f"reason {number}"))
            clock.now += 0.001
        assert len(told(caplog)) == 30
        # What is remembered is bounded with it.
        assert len(refusals._repeats._logged) == 30
        clock.now += 60
    refusals.note("one", "", BAD)
    assert "(not shown since the last one: 970)" in told(caplog)[0]


def test_lack_of_room_is_told_once_for_all_clients(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(StillClock())
    for number in range(3):
        refusals.note(f"client {number}", "", Refusal(503, "it is busy", retry_after=5))
    assert len(told(caplog)) == 1


def test_client_that_went_away_is_nothing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    Refusals(StillClock()).note("192.0.2.1", "GET / HT", IncompleteRequest(400, "it ended"))
    assert told(caplog) == []


def test_what_clients_chose_is_escaped_and_cut_short(caplog: pytest.LogCaptureFixture) -> None:
    line = 'GET /"\x1b[2J\x85\n' + "x" * 5000
    Refusals(StillClock()).note("", line, Refusal(400, "reason\n" * 1000))
    (message,) = told(caplog)
    assert message.startswith('Refused "GET /\\x22\\x1b[2J\\x85\\x0axxx')
    assert 'xxx..." from a Unix socket with 400: reason\\x0areason' in message
    assert message.isprintable()
    assert len(message) < 1500


# --- what a connection tells ---------------------------------------------------------------------


def access_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aiowsgi.access"]


def test_refusal_says_what_was_refused_and_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    connection = MemoryConnection(app)
    connection.receive(TWO_HOSTS)
    assert connection.status == 400
    (line,) = access_lines(caplog)
    assert '] "GET /a HTTP/1.1" 400 ' in line
    assert told(caplog) == [
        'Refused "GET /a HTTP/1.1" from 127.0.0.1 with 400: more than one Host field'
    ]


def test_client_that_speaks_tls_is_told_apart_from_garbage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The beginning of a ClientHello: somebody wrote https:// where http:// is right.
    connection = MemoryConnection(app)
    connection.receive(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    (line,) = told(caplog)
    assert line.endswith(
        "with 400: the client speaks TLS (https), and this listener HTTP without; give --certfile, "
        "or have it ask for http://"
    )
    # It reads alerts only: a fatal one, handshake_failure (RFC 8446 §6).
    assert connection.wire.sent == b"\x15\x03\x01\x00\x02\x02\x28"
    assert connection.wire.half_closed


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET /a HTTP/1.1"),
        # Only so much of the second request.
        (b"\r\nGET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a\\x00b HTTP/1.1"),
        (b"GET /a HTTP/1.1\nHost: a\n\n", "GET /a HTTP/1.1"),
        (b"\r\nGET /a HTTP/3.0\r\nHost: a\r\n", "GET /a HTTP/3.0"),
        (b"GET /a HTTP/1.1\rCookie: a\r\n", "GET /a HTTP/1.1"),
        (b"GET /" + b"x" * 10000, "GET /" + "x" * 1021),
        (b"GET / HTTP/3.0\r\n", "GET / HTTP/3.0"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n", "GET / HTTP/1.1"),
        (
            b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "POST /p HTTP/1.1",
        ),
    ],
    ids=lambda value: repr(value[:24]),
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_access_line_has_what_is_known_of_the_request_line(
    sent: bytes, shown: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    connection = MemoryConnection(app)
    for start in range(0, len(sent), size):
        if not connection.status:
            connection.receive(sent[start : start + size])
    assert connection.status >= 400
    (line,) = access_lines(caplog)
    (known,) = line.split('"')[1:2]
    # Where it was refused in the midst of the line, the rest had not come.
    assert shown.startswith(known) if size == 1 else known == shown
    assert known


@pytest.mark.parametrize(
    ("sent", "protocol"), [(b"\r\n\r\n\r\n", "http"), (b"GET / HTTP/1.1\r\n", "uwsgi")]
)
def test_access_line_has_a_dash_where_nothing_is_known(
    sent: bytes, protocol: ListenerProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    connection = MemoryConnection(app, protocol=protocol)
    connection.receive(sent)
    assert connection.status == 400
    (line,) = access_lines(caplog)
    assert '] "-" 400 ' in line


SECRETS = {"HTTP_COOKIE": "session=hunter2", "HTTP_AUTHORIZATION": "Basic aHVudGVyMg=="}


@pytest.mark.parametrize(
    ("sent", "protocol"),
    [
        # What nginx sends where ``uwsgi_pass`` is written for ``proxy_pass``.
        (uwsgi_request(**SECRETS), "http"),
        (b"\r\n" + uwsgi_request(**SECRETS), "http"),
        (packet(stock_variables(SECRETS), modifier1=5), "http"),
        (packet(stock_variables(SECRETS), modifier1=71), "http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfchunter2", "http"),
        (b"Authorization: Basic hunter2\r\n\r\n", "http"),
        (b"password=hunter2&a=b HTTP/1.1\r\n\r\n", "http"),
        (b"hunter2" * 2000, "http"),
        (b"GET /hunter2 HTTP/1.1\r\nCookie: hunter2\r\n\r\n", "uwsgi"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfchunter2", "uwsgi"),
        (packet(stock_variables(SECRETS), modifier1=30), "uwsgi"),
        (uwsgi_request(REQUEST_METHOD="GET /\r\nCookie: hunter2"), "uwsgi"),
        (packet([(b"HTTP_COOKIE", b"hunter2"), (b"hunter 2", b"hunter2")]), "uwsgi"),
    ],
    ids=lambda value: repr(value[:12]),
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_nothing_of_what_is_no_request_is_logged(
    sent: bytes, protocol: ListenerProtocol, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    connection = MemoryConnection(app, protocol=protocol)
    for start in range(0, len(sent), size):
        if not connection.sent:
            connection.receive(sent[start : start + size])
    # An alert of TLS has no status.
    status = 400 if connection.sent[0] == 0x15 else connection.status
    assert status in (400, 414)
    (line,) = access_lines(caplog)
    assert f'] "-" {status} ' in line
    assert not {"hunter2", "aHVudGVyMg", "session", "Cookie"} & set(re.findall(r"\w+", caplog.text))
    assert "Refused a request from " in caplog.text


@given(st.binary(min_size=1))
def test_only_what_begins_with_a_method_is_shown(sent: bytes) -> None:
    parser = Parser(FieldSections(Limits(), H11, header_map="drop"))
    parser.feed(sent)
    begin = sent.removeprefix(b"\r\n").decode("latin-1")
    assert begin.startswith(parser.request_line)
    assert re.fullmatch(rf"|{TOKEN}(?: [^\r\n]*)?", parser.request_line)


def test_head_that_takes_too_long_shows_what_has_come(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    connection = MemoryConnection(app)
    connection.receive(b"GET /slow HT")
    connection.timers.advance(30)
    assert connection.status == 408
    (line,) = access_lines(caplog)
    assert '"GET /slow HT" 408 ' in line
    assert line.endswith(' "-" "-" 10.000000 0.000000')  # Since the first byte of the head.
    assert told(caplog)[0].startswith('Refused "GET /slow HT" from 127.0.0.1 with 408: ')


def test_second_request_is_shown_not_the_first(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    connection = MemoryConnection(app)
    connection.receive(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n" + TWO_HOSTS)
    connection.run_job()
    first, second = access_lines(caplog)
    assert '"GET /first HTTP/1.1" 200 ' in first
    assert '"GET /a HTTP/1.1" 400 ' in second


def test_client_that_leaves_in_its_request_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = MemoryConnection(app)
    connection.receive(b"GET / HTTP/1.1\r\nHo")
    connection.end()
    assert connection.status == 400
    assert told(caplog) == []


# --- names with underscores ----------------------------------------------------------------------

FORGED = b"GET / HTTP/1.1\r\nHost: h\r\nX_User: forged\r\nX-User: real\r\nContent_Length: 5\r\n\r\n"


def test_dropped_names_are_told_once_each_and_few_in_all(caplog: pytest.LogCaptureFixture) -> None:
    dropped = DroppedFields()
    for _ in range(2):
        dropped.note(b"x_user")
        dropped.note(b"_" * 5000)
    first, second = told(caplog)
    assert first.startswith("The header field x_user is dropped, now and later: ")
    assert "--header-map" in first
    assert len(second) < 1000
    for number in range(200):
        dropped.note(b"x_%d" % number)
    messages = told(caplog)
    assert len(messages) == 98
    assert messages[-1].endswith("; further names are not reported")


@on_each_loop
async def test_names_with_underscores_are_dropped(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start_server(app)
    async with await connect(server) as client:
        for _ in range(3):
            assert (await client.request(FORGED)).body == b"HTTP_HOST HTTP_X_USER"
    assert [message.split()[3] for message in told(caplog)] == ["x_user", "content_length"]


@on_each_loop
async def test_names_with_underscores_are_refused_where_that_is_asked_for(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start_server(app, header_map="refuse")
    for _ in range(3):  # None of it is remembered.
        async with await connect(server) as client:
            response = await client.request(FORGED)
            assert response.status == 400
            assert b"the header field x_user holds an underscore" in response.body
    assert len(told(caplog)) == 1


@on_each_loop
async def test_names_with_underscores_reach_the_application_where_that_is_asked_for(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = await start_server(app, header_map="dangerous", validate=False)
    async with await connect(server) as client:
        for _ in range(3):
            # It is not the length of the body even so.
            body = (await client.request(FORGED)).body
            assert body == b"HTTP_CONTENT_LENGTH HTTP_HOST HTTP_X_USER"
    assert told(caplog) == []


@pytest.mark.parametrize("header_map", ["drop", "refuse", "dangerous"])
def test_only_names_count(header_map: str) -> None:
    sections = FieldSections(Limits(), H11, header_map=header_map)
    data = b"GET /a_b HTTP/1.1\r\nHost: h_h\r\nCookie: a_b=c_d\r\n\r\n"
    for _ in range(3):
        parser = Parser(sections)
        parser.feed(data)
        head = next(events(parser))
        assert len(head.section.fields) == 2  # type: ignore[union-attr]


def test_header_map_knows_three_words() -> None:
    with pytest.raises(ConfigError, match="header_map must be one of drop, refuse, dangerous"):
        Config(header_map="allow")  # type: ignore[arg-type]


# --- requests that the event loop has answered ---------------------------------------------------

BAD_CHUNK = b"POST /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
HEALTHY = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"


def test_body_that_breaks_off_before_the_answer_is_on_its_way_is_refused() -> None:
    connection = MemoryConnection(app, health_path="/healthz", body_prefetch=1)
    connection.receive(BAD_CHUNK + b"zz\r\n")
    connection.timers.run_ready()
    assert connection.sent.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close\r\n" in connection.sent
    assert connection.sent.count(b"HTTP/1.1 ") == 1
    connection.receive(HEALTHY)
    connection.timers.run_ready()
    assert connection.sent.count(b"HTTP/1.1 ") == 1
    assert connection.wire.half_closed


def test_body_that_breaks_off_behind_the_answer_ends_the_connection_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = MemoryConnection(app, health_path="/healthz", body_prefetch=1)
    connection.wire.capacity = 5
    connection.receive(BAD_CHUNK)
    connection.timers.run_ready()
    assert connection.sent == b"HTTP/"
    connection.receive(b"zz\r\n")
    connection.wire.take(10_000)
    connection.timers.run_ready()
    assert connection.sent.startswith(b"HTTP/1.1 405 ")
    assert connection.sent.count(b"HTTP/1.1 ") == 1
    assert connection.wire.half_closed
    assert len(told(caplog)) == 1
    connection.receive(HEALTHY)
    connection.timers.run_ready()
    assert connection.sent.count(b"HTTP/1.1 ") == 1


# --- requests that a thread has begun with -------------------------------------------------------


def test_response_that_its_client_takes_slowly_is_not_refused_where_memory_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def long(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "30000")])
        return [bytes(30_000)]

    connection = MemoryConnection(long, max_buffered=100_000)
    connection.wire.capacity = 0
    connection.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    connection.pool.jobs.pop(0).run()
    connection.resources.budget.update(0, 200_000)  # Of other clients.
    connection.timers.run_ready()
    connection.wire.take(1 << 20)
    connection.timers.run_ready()
    assert connection.status == 200
    assert connection.sent.endswith(bytes(30_000))
    assert told(caplog) == []
    assert not connection.wire.half_closed


def test_request_that_is_running_is_not_refused_for_what_comes_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # The loop thread does not know yet that it has begun.
        connection.resources.budget.update(0, 200_000)  # Of other clients.
        connection.receive(b"GET /next HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20_000)
        start_response("200 OK", [("Content-Length", "1")])
        return [b"x"]

    connection = MemoryConnection(slow, max_buffered=100_000)
    connection.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    connection.pool.jobs.pop(0).run()
    assert told(caplog) == []
    stream = connection.connection.stream
    assert stream is not None
    assert stream.refusal is None
    assert not stream.is_last
