"""The response as bytes, read back by h11 as a client."""

import re
from email.utils import formatdate

import h11
import pytest
from grouped import in_one_test
from hypothesis import given
from hypothesis import strategies as st
from memory import MemoryConnection

from aiowsgi.bridge.locks import make_lock
from aiowsgi.bridge.source import Progress
from aiowsgi.errors import Refusal
from aiowsgi.exchange.refusal import respond_with_refusal, unknown_head
from aiowsgi.exchange.stream import Stream
from aiowsgi.http.response import (
    CONTINUE,
    BodyFraming,
    ResponseEncoder,
    ResponseHeads,
    response_framing,
    status_text,
)

NONE, LENGTH, CHUNKED, CLOSE = BodyFraming
SERVER = "Server: aiowsgi/1\r\n"
NOW = 784111777  # RFC 9110 §5.6.7: Sun, 06 Nov 1994 08:49:37 GMT.
HEADS = ResponseHeads(SERVER, lambda: NOW + 0.9)


def encoder(
    method: str = "GET",
    version: str = "HTTP/1.1",
    *,
    keep_alive: bool = True,
    heads: ResponseHeads = HEADS,
) -> ResponseEncoder:
    return ResponseEncoder(heads, method=method, version=version, keep_alive=keep_alive)


def refused(refusal: Refusal, method: str = "GET") -> bytes:
    """Return the whole response to a request that is refused."""
    connection = MemoryConnection(lambda environ, start_response: [])
    head = unknown_head(f"{method} / HTTP/1.1", "")
    stream = Stream(
        connection.resources,
        connection.connection,
        connection.connection.info,
        head,
        encoder(method),
        make_lock(),
    )
    respond_with_refusal(stream, refusal)
    pieces, progress = stream.source.take(1 << 20)
    assert progress is Progress.FINISHED
    return b"".join(pieces)


def head_lines(raw: bytes) -> list[str]:
    """Return the lines of a head, which has to be nothing but a head."""
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1
    return raw.decode("latin-1").split("\r\n")[:-2]


def as_client_reads(raw: bytes, method: str = "GET") -> tuple[h11.Response, bytes, bytes]:
    """Return the response, its body, and the bytes behind it. The connection ends with ``raw``."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    return response, body, client.trailing_data[0]


def whole(
    encoder: ResponseEncoder,
    pieces: list[bytes],
    *,
    status: str = "200 OK",
    fields: list[tuple[str, str]] | None = None,
    length: int | None = None,
) -> bytes:
    raw = [encoder.start(status, tuple(fields or ()), length)]
    for piece in pieces[:-1]:
        raw += encoder.encode(piece)
    raw += encoder.finish(pieces[-1] if pieces else b"")
    return b"".join(raw)


# Framing.


@in_one_test("http_11", [True, False])
@in_one_test("length", [None, 0, 5])
@in_one_test(
    ("head_request", "status_code"),
    [
        (True, 200),
        (True, 204),
        (True, 404),
        (False, 100),
        (False, 101),
        (False, 199),
        (False, 204),
        # RFC 9110 §15.3.6.
        (False, 205),
        (False, 304),
    ],
)
def test_no_body_follows(
    http_11: bool, length: int | None, head_request: bool, status_code: int
) -> None:
    framing = response_framing(
        head_request=head_request, http_11=http_11, status_code=status_code, length=length
    )
    assert framing is NONE


@in_one_test("status_code", [200, 201, 203, 206, 299, 303, 305, 404, 500, 999])
@in_one_test(
    ("http_11", "length", "expected"),
    [
        (True, 0, LENGTH),
        (True, 5, LENGTH),
        (True, None, CHUNKED),
        (False, 0, LENGTH),
        (False, 5, LENGTH),
        (False, None, CLOSE),
    ],
)
def test_a_body_is_framed(
    status_code: int, http_11: bool, length: int | None, expected: BodyFraming
) -> None:
    framing = response_framing(
        head_request=False, http_11=http_11, status_code=status_code, length=length
    )
    assert framing is expected


@pytest.mark.parametrize(
    ("method", "status", "given_length", "known", "framing_lines"),
    [
        # The application's own length, the one that is known, or neither.
        ("GET", "200 OK", "5", 5, ["Content-Length: 5"]),
        ("GET", "200 OK", "5", None, ["Content-Length: 5"]),
        ("GET", "200 OK", "5", 7, ["Content-Length: 5"]),
        ("GET", "200 OK", None, 5, ["Content-Length: 5"]),
        ("GET", "200 OK", None, 0, ["Content-Length: 0"]),
        ("GET", "200 OK", "0", None, ["Content-Length: 0"]),
        ("GET", "200 OK", None, None, ["Transfer-Encoding: chunked"]),
        # RFC 9110 §15.3.6: no content, and said so.
        ("GET", "205 Reset Content", None, 0, ["Content-Length: 0"]),
        ("GET", "205 Reset Content", None, 5, ["Content-Length: 0"]),
        ("GET", "205 Reset Content", "5", None, ["Content-Length: 0"]),
        ("GET", "205 Reset Content", None, None, ["Content-Length: 0"]),
        ("HEAD", "205 Reset Content", "5", 0, ["Content-Length: 0"]),
        # RFC 9110 §9.3.2: HEAD may leave out what only the body would tell, not say it wrongly.
        ("HEAD", "200 OK", "5", 0, ["Content-Length: 5"]),
        ("HEAD", "200 OK", None, 5, ["Content-Length: 5"]),
        ("HEAD", "200 OK", None, 0, []),
        ("HEAD", "200 OK", None, None, []),
        # RFC 9110 §8.6: never in 1xx and 204.
        ("GET", "204 No Content", "5", 0, []),
        ("GET", "204 No Content", None, 5, []),
        ("GET", "204 No Content", None, None, []),
        ("HEAD", "204 No Content", "5", 0, []),
        # A 304 may say the length that the 200 would have, and nothing else.
        ("GET", "304 Not Modified", "5", 0, ["Content-Length: 5"]),
        ("GET", "304 Not Modified", None, 0, []),
        ("GET", "304 Not Modified", None, None, []),
    ],
)
def test_the_fields_that_frame(
    method: str,
    status: str,
    given_length: str | None,
    known: int | None,
    framing_lines: list[str],
) -> None:
    fields = [] if given_length is None else [("Content-Length", given_length)]
    lines = head_lines(encoder(method).start(status, tuple(fields), known))
    names = ("content-length", "transfer-encoding", "connection")
    assert [line for line in lines if line.lower().startswith(names)] == framing_lines


def test_an_informational_status_as_final_answer_ends_the_connection() -> None:
    # The client goes on waiting for a final response, which does not come.
    response = encoder()
    lines = head_lines(response.start("101 Switching", (("Content-Length", "5"),), 5))
    assert lines == ["HTTP/1.1 101 Switching", "Connection: close", SERVER.strip()]
    assert not response.keep_alive


# Persistence.


@pytest.mark.parametrize(
    ("version", "keep_alive", "length", "announced", "kept"),
    [
        ("HTTP/1.1", True, 5, None, True),
        ("HTTP/1.1", True, None, None, True),
        ("HTTP/1.1", False, 5, "close", False),
        ("HTTP/1.1", False, None, "close", False),
        ("HTTP/1.0", True, 5, "keep-alive", True),
        ("HTTP/1.0", False, 5, "close", False),
        # Only the end of the connection can end this body.
        ("HTTP/1.0", True, None, "close", False),
        ("HTTP/1.0", False, None, "close", False),
    ],
)
def test_persistence_is_announced(
    version: str, keep_alive: bool, length: int | None, announced: str | None, kept: bool
) -> None:
    response = encoder(version=version, keep_alive=keep_alive)
    lines = head_lines(response.start("200 OK", (), length))
    found = [line for line in lines if line.startswith("Connection")]
    assert found == ([] if announced is None else [f"Connection: {announced}"])
    assert response.keep_alive is kept


# The rest of the head.


def test_a_whole_head() -> None:
    raw = encoder().start(
        "200 OK",
        (
            ("Content-Type", "text/plain"),
            ("X-A", "1"),
        ),
        5,
    )
    assert raw == (
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: text/plain\r\nX-A: 1\r\nContent-Length: 5\r\n"
        b"Server: aiowsgi/1\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"
    )


def test_http_1_0_is_answered_with_the_servers_own_version() -> None:
    # RFC 9110 §6.2: the highest version it conforms to, not the client's.
    assert encoder(version="HTTP/1.0").start("200 OK", (), 0).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("status", ["200 ", "404 Nicht gefunden \xfc", "599 A  B"])
def test_the_status_is_sent_as_given(status: str) -> None:
    response = encoder()
    raw = response.start(status, (), 0)
    assert raw.startswith(b"HTTP/1.1 " + status.encode("latin-1") + b"\r\n")
    assert response.status_code == int(status[:3])


@pytest.mark.parametrize("name", ["Date", "date", "DATE", "Server", "server"])
def test_date_and_server_of_the_application_win(name: str) -> None:
    lines = head_lines(encoder().start("200 OK", ((name, "own"),), 0))
    assert [line for line in lines if line.lower().startswith(name.lower())] == [f"{name}: own"]
    # The other one is the server's.
    assert sum(line.lower().startswith(("date:", "server:")) for line in lines) == 2


def test_the_date_moves_with_the_clock() -> None:
    times = [NOW, NOW + 1, NOW + 86400]
    passing = iter(times)
    heads = ResponseHeads(SERVER, lambda: next(passing))
    seen = []
    for now in times:
        lines = head_lines(encoder(heads=heads).start("200 OK", (), 0))
        (line,) = [line for line in lines if line.startswith("Date")]
        assert line == f"Date: {formatdate(now, usegmt=True)}"
        seen.append(line)
    assert len(set(seen)) == 3


def test_fields_keep_their_order_their_case_and_their_repetitions() -> None:
    fields = [("Set-Cookie", "a"), ("x-b", "\xe9"), ("Set-Cookie", "c"), ("X-Empty", "")]
    lines = head_lines(encoder().start("200 OK", tuple(fields), 0))
    assert lines[1:5] == ["Set-Cookie: a", "x-b: \xe9", "Set-Cookie: c", "X-Empty: "]


# The body.

bodies = st.lists(st.binary(max_size=40), max_size=8)


@given(bodies)
def test_chunks_decode_to_what_was_encoded(pieces: list[bytes]) -> None:
    response = encoder()
    message, body, behind = as_client_reads(whole(response, pieces))
    assert (b"transfer-encoding", b"chunked") in message.headers
    assert (body, behind) == (b"".join(pieces), b"")
    assert (response.body_size, response.missing, response.excess) == (len(body), 0, 0)
    assert response.keep_alive


@given(bodies)
def test_a_body_until_the_end_of_the_connection(pieces: list[bytes]) -> None:
    response = encoder(version="HTTP/1.0")
    _, body, _ = as_client_reads(whole(response, pieces))
    assert body == b"".join(pieces)
    assert response.body_size == len(body)
    assert not response.keep_alive
    assert not response.is_self_delimiting


@given(bodies, st.integers(0, 200), st.booleans())
def test_never_more_than_the_length_and_less_is_flagged(
    pieces: list[bytes], length: int, declared: bool
) -> None:
    response = encoder()
    if declared:
        raw = whole(response, pieces, fields=[("Content-Length", str(length))])
    else:
        raw = whole(response, pieces, length=length)
    head, _, sent = raw.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % length in head
    given_body = b"".join(pieces)
    assert sent == given_body[:length]
    assert response.body_size == len(sent)
    assert response.excess == max(0, len(given_body) - length)
    assert response.missing == max(0, length - len(given_body))
    # Nothing may follow a body whose end the client still waits for.
    assert response.keep_alive is (response.missing == 0)
    assert response.is_complete is (response.missing == 0)
    assert response.wants_more is (response.excess == 0)


@given(bodies, st.sampled_from(["1.1", "1.0"]), st.sampled_from([None, 0, 3, 1000]))
def test_head_has_no_body(pieces: list[bytes], version: str, length: int | None) -> None:
    response = encoder("HEAD", f"HTTP/{version}")
    raw = whole(response, pieces, length=length)
    head_lines(raw)
    _, body, behind = as_client_reads(raw, "HEAD")
    assert (body, behind) == (b"", b"")
    assert (response.body_size, response.missing, response.excess) == (0, 0, 0)
    assert response.keep_alive
    assert response.is_complete
    assert not response.wants_more


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("length", [None, 0, 3])
def test_what_an_application_gives_to_204_and_304_is_dropped(
    status: str, length: int | None
) -> None:
    response = encoder()
    raw = whole(response, [b"abc", b"def"], status=status, length=length)
    _, body, behind = as_client_reads(raw)
    assert (body, behind) == (b"", b"")
    assert response.keep_alive


def test_chunks_are_written_without_a_copy_of_the_data() -> None:
    response = encoder()
    response.start("200 OK", (), None)
    data = b"x" * 0x8000
    first, second = response.encode(data, b"head"), response.encode(data)
    assert first == [b"head8000\r\n", data]
    assert first[1] is data
    # The CRLF behind the first chunk comes with the second.
    assert second == [b"\r\n8000\r\n", data]
    # An empty chunk would end the body.
    assert response.encode(b"") == []
    assert response.finish(b"") == [b"\r\n0\r\n\r\n"]


def test_an_empty_chunked_body_is_its_end() -> None:
    response = encoder()
    response.start("200 OK", (), None)
    assert response.finish(b"") == [b"0\r\n\r\n"]


@pytest.mark.parametrize(
    ("method", "version", "length", "complete", "self_delimiting"),
    [
        ("GET", "HTTP/1.1", 0, True, True),
        ("GET", "HTTP/1.1", 1, False, True),
        ("GET", "HTTP/1.1", None, False, True),
        ("GET", "HTTP/1.0", None, False, False),
        ("HEAD", "HTTP/1.0", None, True, True),
    ],
)
def test_what_is_known_behind_the_head(
    method: str, version: str, length: int | None, complete: bool, self_delimiting: bool
) -> None:
    response = encoder(method, version)
    response.start("200 OK", (), length)
    assert response.is_complete is complete
    assert response.is_self_delimiting is self_delimiting


def test_a_response_with_a_length_is_complete_with_its_last_byte() -> None:
    response = encoder()
    response.start("200 OK", (("Content-Length", "4"),), None)
    response.encode(b"abc")
    assert not response.is_complete
    response.encode(b"d")
    assert response.is_complete
    # More could still come, and be worth a line in the log.
    assert response.wants_more
    assert response.encode(b"e") == []
    assert not response.wants_more


# Pieces.


@pytest.mark.parametrize(
    ("length", "head", "size", "sizes"),
    [
        (0, b"", 0, []),
        (0, b"head", 0, [4]),
        (1, b"", 1, [1]),
        (1, b"head", 1, [5]),
        (1 << 14, b"head", 1 << 14, [4 + (1 << 14)]),
        ((1 << 14) + 1, b"", (1 << 14) + 1, [(1 << 14) + 1]),
        ((1 << 14) + 1, b"head", (1 << 14) + 1, [4, (1 << 14) + 1]),
        (None, b"", 0, [5]),
        (None, b"head", 0, [9]),
        (None, b"head", 3, [4 + 3 + 3 + 7]),
        (None, b"head", (1 << 14) + 1, [4 + 6, (1 << 14) + 1, 7]),
    ],
)
def test_small_pieces_are_joined(
    length: int | None, head: bytes, size: int, sizes: list[int]
) -> None:
    response = encoder()
    response.start("200 OK", (), length)
    pieces = response.finish(b"a" * size, head)
    assert [len(piece) for piece in pieces] == sizes
    assert b"".join(pieces).startswith(head)


# Answers of the server's own.


def test_a_continue_is_an_interim_response() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(
        h11.Request(
            method="POST",
            target="/",
            headers=[("Host", "a"), ("Expect", "100-continue"), ("Content-Length", "1")],
        )
    )
    client.receive_data(CONTINUE)
    event = client.next_event()
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 100
    assert client.next_event() is h11.NEED_DATA


@pytest.mark.parametrize("status", [400, 408, 413, 414, 417, 431, 500, 501, 503, 505])
def test_a_refusal_is_a_whole_response_that_closes(status: int) -> None:
    raw = refused(Refusal(status, "because of this"), "POST")
    message, body, behind = as_client_reads(raw, "POST")
    headers = dict(message.headers)
    assert (message.status_code, behind) == (status, b"")
    assert body == f"{status_text(status)}: because of this\n".encode()
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert int(headers[b"content-length"]) == len(body)
    assert headers[b"connection"] == b"close"
    assert {b"date", b"server"} <= set(headers)
    assert b"retry-after" not in headers


@pytest.mark.parametrize("seconds", [0, 1, 30])
def test_a_refusal_says_when_to_try_again(seconds: int) -> None:
    refusal = Refusal(503, "full", retry_after=seconds)
    message, _, _ = as_client_reads(refused(refusal))
    assert dict(message.headers)[b"retry-after"] == str(seconds).encode()


def test_a_refusal_of_head_has_no_body() -> None:
    raw = refused(Refusal(400, "because"), "HEAD")
    assert re.search(rb"\r\nContent-Length: [1-9][0-9]*\r\n", raw)
    head_lines(raw)


def test_a_refusal_is_encoded_as_it_says() -> None:
    raw = refused(Refusal(400, "caf\xe9 \u2603"))
    _, body, _ = as_client_reads(raw)
    assert body.decode("utf-8").endswith(": caf\xe9 \u2603\n")


def test_the_status_text_is_what_start_response_takes() -> None:
    assert status_text(404) == "404 Not Found"
