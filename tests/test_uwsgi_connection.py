"""Connections that speak uwsgi, in memory: the same states, timeouts and ends as with HTTP."""

import logging
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from http_streams import cut_lists, properties, split
from hypothesis import given
from hypothesis import strategies as st
from memory import INFO, MemoryConnection, MemoryWire
from uwsgi_packets import packet, request, stock_variables

from aiowsgi.errors import Refusal
from aiowsgi.fronts.uwsgi import Uwsgi
from aiowsgi.http.request import Limits, RequestHead
from aiowsgi.http.response import ResponseHeads

OPTIONS = {"timeout_header": 11.0, "timeout_body": 31.0, "timeout_keep_alive": 65.0}


class Echo:
    """Counts its calls, and answers with the body."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self.calls += 1
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]


def connection_with(app: WSGIApplication, **options: object) -> MemoryConnection:
    return MemoryConnection(app, protocol="uwsgi", **{"access_log": False, **OPTIONS, **options})


def test_a_request_is_answered_and_the_connection_closed() -> None:
    connection = connection_with(Echo())
    connection.receive(request(b"body"))
    connection.run_job()
    assert connection.sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert connection.sent.endswith(b"\r\n\r\nbody")
    assert connection.closed


def test_a_second_packet_is_no_request() -> None:
    app = Echo()
    connection = connection_with(app)
    connection.receive(request() * 3)
    connection.run_job()
    assert connection.pool.jobs == []
    assert (app.calls, connection.closed) == (1, True)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_slow_packet_gets_as_long_as_a_slow_head_in_all(size: int) -> None:
    connection = connection_with(Echo())
    connection.receive(request()[:size])
    connection.timers.advance(6)
    connection.receive(request()[size : size + 1])
    connection.timers.advance(4.9)
    assert connection.status == 0
    connection.timers.advance(0.2)
    assert connection.status == 408
    assert connection.pool.jobs == []


def test_a_body_that_stalls_is_given_up() -> None:
    connection = connection_with(Echo())
    connection.receive(packet(stock_variables({"CONTENT_LENGTH": "5"})) + b"ab")
    connection.timers.advance(30.9)
    assert connection.status == 0
    connection.timers.advance(0.2)
    assert connection.status == 408
    assert connection.pool.jobs == []


def test_a_connection_without_a_byte_is_closed_in_silence() -> None:
    connection = connection_with(Echo())
    connection.timers.advance(65.1)
    assert connection.closed
    assert connection.sent == b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_refusal_is_a_response_without_content_for_head(method: str) -> None:
    connection = connection_with(Echo())
    connection.receive(request(REQUEST_METHOD=method, HTTP_HOST="a b"))
    assert connection.status == 400
    assert connection.sent.endswith(b"\r\n\r\n") is (method == "HEAD")
    assert connection.pool.jobs == []


@pytest.mark.parametrize("length", [None, 100])
def test_a_response_that_breaks_off_never_looks_complete(length: int | None) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(length))] if length else [])
        yield b"half"
        raise ValueError("in the midst of it")

    connection = connection_with(app)
    connection.receive(request())
    connection.run_job()
    assert connection.sent.endswith(b"half")
    assert connection.closed
    # Where there is no length, only a reset tells.
    assert connection.wire.was_reset is (length is None)


def test_a_refusal_names_the_client_that_the_web_server_has_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    connection = connection_with(Echo(), access_log=True)
    head = {"REMOTE_ADDR": "192.0.2.99", "REQUEST_URI": "/slow", "CONTENT_LENGTH": "9"}
    connection.receive(packet(stock_variables(head)))
    connection.timers.advance(32)
    warning, line = [record.getMessage() for record in caplog.records]
    assert warning.startswith('Refused "GET /slow HTTP/1.1" from 192.0.2.99 with 408: ')
    assert line.startswith("192.0.2.99 - - [")


@pytest.mark.parametrize("last", [False, True])
def test_a_refusal_of_the_head_names_the_client_that_the_web_server_has_named(
    last: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = connection_with(Echo(), access_log=True, limit_request_body=10)
    for number in (1, 2):
        wire = MemoryWire(server.timers)
        others = stock_variables({"CONTENT_LENGTH": "99", "REMOTE_ADDR": None})
        client = (b"REMOTE_ADDR", f"192.0.2.{number}".encode())
        server.connect(wire).receive(packet([*others, client] if last else [client, *others]))
        server.timers.run_ready()
        assert wire.sent.startswith(b"HTTP/1.1 413 ")
        warning, line = [record.getMessage() for record in caplog.records]
        assert f" from 192.0.2.{number} with 413: " in warning
        assert line.startswith(f"192.0.2.{number} - - [")
        caplog.clear()


def test_a_client_that_was_named_in_front_of_what_is_refused_is_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection = connection_with(Echo())
    connection.receive(packet([(b"REMOTE_ADDR", b"192.0.2.9"), (b"wsgi.input", b"")]))
    assert connection.status == 400
    assert " from 192.0.2.9 with 400: " in caplog.text


@pytest.mark.parametrize("told", ["a b", "a\nb"])
def test_what_is_no_host_is_not_warned_of_as_one(
    told: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = connection_with(Echo())
    connection.receive(packet([(b"REMOTE_ADDR", told.encode()), (b"wsgi.input", b"")]))
    assert connection.status == 400
    assert " from 127.0.0.1 with 400: " in caplog.text


@pytest.mark.parametrize("told", ["", "a b", 'a"b', "a\\b", "\xe9", "a" * 101])
def test_what_is_no_host_is_not_logged_as_one(told: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    connection = connection_with(Echo(), access_log=True)
    connection.receive(request(REMOTE_ADDR=told))
    connection.run_job()
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("127.0.0.1 - - [")


NAMES = "REQUEST_METHOD REQUEST_URI HTTP_HOST CONTENT_LENGTH SERVER_PROTOCOL PATH_INFO X"


@given(
    st.dictionaries(
        st.sampled_from(NAMES.split()), st.text(st.characters(max_codepoint=255), max_size=5)
    ),
    st.integers(0, 1 << 16),
    st.binary(max_size=3),
    cut_lists,
)
@properties
def test_what_the_codec_refuses_never_reaches_the_application(
    changes: dict[str, str], place: int, damage: bytes, cuts: list[int]
) -> None:
    data = request(**changes)
    place %= len(data)
    data = data[:place] + damage + data[place + len(damage) :]
    parser = Uwsgi(Limits(), ResponseHeads("")).parser(INFO)
    parser.feed(data)
    refused = False
    head = None
    try:
        head = parser.next_event()
    except Refusal:
        refused = True
    app = Echo()
    connection = connection_with(app)
    for piece in split(data, cuts):
        if piece and not connection.wire.is_closing:
            connection.receive(piece)
    while connection.pool.jobs:
        connection.run_job()
    assert app.calls <= 1
    if refused:
        assert 400 <= connection.status < 502
        assert app.calls == 0
    elif isinstance(head, RequestHead) and not head.section.content_length:
        assert (app.calls, connection.status) == (1, 200)
    else:
        assert (app.calls, connection.status) == (0, 0)
