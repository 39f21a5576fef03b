"""The uwsgi protocol without a socket: packets to requests and refusals, responses to bytes."""

import io
from typing import Any
from wsgiref.validate import check_environ

import http_streams
import pytest
from extent import examples
from grouped import in_one_test
from http_streams import cut_lists, properties, small_limits, split
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import INFO
from uwsgi_packets import block, packet, request, stock_variables

from aiowsgi.errors import IncompleteRequest, Refusal
from aiowsgi.fronts.uwsgi import Uwsgi
from aiowsgi.http.request import BodyData, EndOfMessage, Event, Limits, RequestHead, RequestParser
from aiowsgi.http.response import ResponseHeads
from aiowsgi.wsgi.environ import base_environ, build_environ

BASE = base_environ(software="aiowsgi/1", multithread=True, multiprocess=False)


CODEC = Uwsgi(Limits(), ResponseHeads("Server: aiowsgi\r\n"))


def new_parser(limits: Limits | None = None) -> RequestParser:
    return Uwsgi(limits or Limits(), ResponseHeads("")).parser(INFO)


def read(pieces: list[bytes], parser: RequestParser) -> tuple[list[Event], Refusal | None]:
    """Return the events, body data joined, and the refusal that ended them."""
    events: list[Event] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            while (event := parser.next_event()) is not None:
                last = events[-1] if events else None
                if isinstance(event, BodyData) and isinstance(last, BodyData):
                    events[-1] = BodyData(last.data + event.data)
                else:
                    events.append(event)
    except Refusal as refusal:
        return events, refusal
    return events, None


def head_of(data: bytes, limits: Limits | None = None) -> RequestHead:
    events, refusal = read([data], new_parser(limits))
    assert refusal is None
    head = events[0]
    assert isinstance(head, RequestHead)
    return head


def head_with(**changes: str | None) -> RequestHead:
    return head_of(request(**changes))


def environ_of(head: RequestHead) -> dict[str, Any]:
    return build_environ(
        BASE,
        head,
        io.BytesIO(),
        scheme="http",
        server=("127.0.0.1", "3031"),
        client=("127.0.0.1", "4"),
    )


def environ_with(**changes: str | None) -> dict[str, Any]:
    return environ_of(head_with(**changes))


def refusal_of(data: bytes, limits: Limits | None = None) -> Refusal:
    parser = new_parser(limits)
    events, refusal = read([data], parser)
    assert events == []
    assert refusal is not None
    assert parser.buffered == 0
    return refusal


# --- requests ------------------------------------------------------------------------------------


def test_a_request_as_nginx_sends_it() -> None:
    head = head_with(
        REQUEST_URI="/a%2Fb/%C3%A9?c=%20", PATH_INFO="/a/b/\xc3\xa9", QUERY_STRING="c=%20"
    )
    assert (head.method, head.target) == ("GET", "/a%2Fb/%C3%A9?c=%20")
    assert (head.path, head.query, head.host) == ("/a%2Fb/%C3%A9", "c=%20", "shop.test")
    section = head.section
    assert section.version == "HTTP/1.1"
    assert section.fields == [(b"host", b"shop.test")]
    assert section.content_length is None
    assert (section.chunked, section.keep_alive, section.expect_continue) == (False, False, False)


def test_the_environ_is_what_the_web_server_says() -> None:
    environ = environ_with(
        REQUEST_URI="/shop/a%2Fb?c",
        SCRIPT_NAME="/shop",
        PATH_INFO="/a/b%20",
        QUERY_STRING="c",
        REMOTE_USER="jo",
        HTTP_X_TWO_WORDS="x",
        TENANT="acme",
    )
    check_environ({**environ, "wsgi.input": io.BytesIO()})
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/shop",
        # It is decoded already, and must not be decoded again.
        "PATH_INFO": "/a/b%20",
        "QUERY_STRING": "c",
        "REQUEST_URI": "/shop/a%2Fb?c",
        "RAW_URI": "/shop/a%2Fb?c",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "shop.test",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "54321",
        "REMOTE_USER": "jo",
        "DOCUMENT_ROOT": "/usr/share/nginx/html",
        "REQUEST_SCHEME": "http",
        "TENANT": "acme",
        "HTTP_HOST": "shop.test",
        "HTTP_X_TWO_WORDS": "x",
    }
    assert {key: environ[key] for key in expected} == expected
    assert {key for key in environ if key.isupper()} == {*expected, "SERVER_SOFTWARE"}


@pytest.mark.parametrize(
    ("changes", "scheme"),
    [
        ({}, "http"),
        ({"REQUEST_SCHEME": None}, "http"),
        ({"REQUEST_SCHEME": "https"}, "https"),
        ({"HTTPS": "on"}, "https"),
        ({"HTTPS": "1"}, "https"),
        ({"HTTPS": "TRUE"}, "https"),
        ({"HTTPS": "off"}, "http"),
        ({"HTTPS": ""}, "http"),
        ({"UWSGI_SCHEME": "https"}, "https"),
        ({"UWSGI_SCHEME": "http", "HTTPS": "on"}, "http"),
        ({"UWSGI_SCHEME": "gopher", "REQUEST_SCHEME": "https"}, "https"),
        ({"REQUEST_SCHEME": "gopher"}, "http"),
    ],
)
def test_the_scheme_is_that_of_the_web_servers_client(
    changes: dict[str, str | None], scheme: str
) -> None:
    assert environ_with(**changes)["wsgi.url_scheme"] == scheme


def test_what_the_web_server_leaves_out_is_taken_from_request_and_connection() -> None:
    names = ("PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "SERVER_PROTOCOL", "HTTP_HOST")
    environ = environ_with(
        REQUEST_URI="/a%20b?c", SERVER_NAME="", SERVER_PORT="", **dict.fromkeys(names)
    )
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a b", "c")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", "3031")
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "HTTP_HOST" not in environ


def test_empty_variables_are_no_header_fields() -> None:
    # nginx sends the first one empty where a client in HTTP/1.0 names no host.
    environ = environ_with(HTTP_HOST="", CONTENT_TYPE="", CONTENT_LENGTH="", HTTP_X="")
    assert environ["HTTP_X"] == ""
    assert not {"HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH"} & set(environ)


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/1.0", "HTTP/2.0", "HTTP/3"])
def test_the_version_is_that_of_the_web_servers_client(version: str) -> None:
    assert environ_with(SERVER_PROTOCOL=version)["SERVER_PROTOCOL"] == version


def test_what_the_web_server_has_taken_care_of_is_not_told_again() -> None:
    body = b"abc"
    environ = environ_of(
        head_of(
            request(
                body,
                CONTENT_TYPE="text/plain",
                HTTP_CONTENT_LENGTH="77",
                HTTP_CONTENT_TYPE="text/html",
                HTTP_TRANSFER_ENCODING="chunked",
                HTTP_PROXY="evil.test",
            )
        )
    )
    assert (environ["CONTENT_LENGTH"], environ["CONTENT_TYPE"]) == ("3", "text/plain")
    assert [key for key in environ if key.startswith("HTTP_")] == ["HTTP_HOST"]


def test_of_a_variable_that_comes_twice_the_last_counts() -> None:
    # As nginx sends them where uwsgi_params is included, and something set instead.
    variables = stock_variables({"REQUEST_URI": "/own/a"})
    variables += [
        (b"PATH_INFO", b"/a"),
        (b"HTTP_HOST", b"shop.test:8080"),
        (b"SERVER_PORT", b"8080"),
    ]
    environ = environ_of(head_of(packet(variables)))
    assert (environ["PATH_INFO"], environ["SERVER_PORT"]) == ("/a", "8080")
    assert environ["HTTP_HOST"] == "shop.test:8080"


def test_header_fields_that_come_twice_are_joined() -> None:
    # nginx 1.22 and before sends them so.
    variables = stock_variables({})
    for name, value in [("ACCEPT", "a"), ("COOKIE", "a=1"), ("ACCEPT", "b"), ("COOKIE", "b=2")]:
        variables.append((f"HTTP_{name}".encode(), value.encode()))
    environ = environ_of(head_of(packet(variables)))
    assert (environ["HTTP_ACCEPT"], environ["HTTP_COOKIE"]) == ("a,b", "a=1; b=2")


def test_white_space_around_a_field_is_no_part_of_it() -> None:
    environ = environ_with(HTTP_X=" \ta b\t ", HTTP_HOST=" h ", CONTENT_TYPE="\ttext/x ")
    assert (environ["HTTP_X"], environ["HTTP_HOST"], environ["CONTENT_TYPE"]) == (
        "a b",
        "h",
        "text/x",
    )


@pytest.mark.parametrize("name", ["X-Real-IP", "geo_city", "UWSGI_FILE", "_x", "Host"])
def test_variables_of_any_usual_name_reach_the_environ(name: str) -> None:
    assert environ_with(**{name: "x"})[name] == "x"


def test_a_decoded_path_may_hold_any_byte_but_nul() -> None:
    text = "/" + "".join(map(chr, range(1, 256)))
    environ = environ_with(PATH_INFO=text, PATH_TRANSLATED=text, SCRIPT_NAME=text)
    assert environ["PATH_INFO"] == environ["PATH_TRANSLATED"] == environ["SCRIPT_NAME"] == text


@given(st.binary(max_size=300), st.binary(max_size=20), cut_lists)
@properties
def test_the_body_is_as_long_as_content_length_says_however_split(
    body: bytes, behind: bytes, cuts: list[int]
) -> None:
    parser = new_parser()
    events, refusal = read(split(request(body) + behind, cuts), parser)
    assert refusal is None
    assert [type(event) for event in events] == (
        [RequestHead, BodyData, EndOfMessage] if body else [RequestHead]
    )
    assert b"".join(event.data for event in events if isinstance(event, BodyData)) == body
    # There is one request on a connection: what comes behind it belongs to none.
    assert (parser.buffered, parser.has_begun) == (0, False)
    parser.feed(request())
    parser.feed_eof()
    assert parser.next_event() is None
    assert parser.buffered == 0


def test_the_body_is_handed_on_as_it_arrives() -> None:
    parser = new_parser()
    parser.feed(packet(stock_variables({"CONTENT_LENGTH": "5"})))
    assert isinstance(parser.next_event(), RequestHead)
    assert parser.next_event() is None
    parser.feed(b"abc")
    assert parser.buffered == 3
    assert parser.next_event() == BodyData(b"abc")
    assert parser.next_event() is None
    parser.feed(b"de")
    assert parser.next_event() == BodyData(b"de")
    assert parser.next_event() == EndOfMessage()
    assert parser.next_event() is None


def test_leading_zeros_of_a_length_mean_nothing() -> None:
    environ = environ_of(head_of(request(b"abc", CONTENT_LENGTH="0003")))
    assert environ["CONTENT_LENGTH"] == "3"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x05\x00\x00\x00", "modifier1 5; only 0 is known, WSGI; remove uwsgi_modifier1 from"),
        (b"\x1e", "'s configuration, and set SCRIPT_NAME and PATH_INFO"),
        (b"\xff", "modifier1 255"),
        (b"\x00\x00\x00\x01", "modifier2 1"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "use uwsgi_pass, or --bind without uwsgi:"),
        (b"p", "speaks HTTP"),
        (b"\x16\x03\x01", "speaks TLS"),
        (b"\x00\x00\x00\x00", "no REQUEST_METHOD; is `include uwsgi_params;` missing in nginx?"),
    ],
)
def test_what_is_no_wsgi_request_is_refused_as_soon_as_that_is_known(
    data: bytes, reason: str
) -> None:
    refusal = refusal_of(data)
    assert refusal.status == 400
    assert reason in refusal.reason


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_listener_for_http_says_what_it_is_sent(size: int) -> None:
    parser = http_streams.new_parser()
    parser.feed(request()[:size])
    with pytest.raises(
        Refusal, match=r"the client speaks uwsgi.*; use proxy_pass, or --bind uwsgi:"
    ):
        parser.next_event()


@pytest.mark.parametrize(
    "content",
    [
        b"\x01",
        b"\x01\x00",
        b"\x02\x00A",
        b"\x01\x00A",
        b"\x01\x00A\x00",
        b"\x01\x00A\x02\x00b",
        b"\xff\xffA\x00\x00",
        b"\x01\x00A\xff\xffb",
        block([(b"A", b"b")]) + b"\x00",
    ],
)
def test_lengths_that_lead_beyond_the_packet_are_refused(content: bytes) -> None:
    data = b"\x00" + len(content).to_bytes(2, "little") + b"\x00" + content
    refusal = refusal_of(data + b"\x00" * 100)
    assert (refusal.status, "does not end" in refusal.reason) == (400, True)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1A",
        "A B",
        "A.B",
        "A=B",
        "A\n",
        "\xc4",
        "wsgi.url_scheme",
        "aiowsgi.request_id",
        "HTTP_",
        "HTTP_x",
        "HTTP_X-REAL-IP",
        "HTTP_X Y",
        "HTTP_X\n",
        "HTTP_X:",
    ],
)
def test_names_that_no_web_server_sends_are_refused(name: str) -> None:
    refusal = refusal_of(request(**{name: "x"}))
    assert refusal.status == 400
    assert "name" in refusal.reason or "called" in refusal.reason


@in_one_test(
    "name",
    [
        "HTTP_X",
        "HTTP_HOST",
        "HTTP_TRANSFER_ENCODING",
        "CONTENT_TYPE",
        "QUERY_STRING",
        "REMOTE_ADDR",
        "REMOTE_USER",
        "REQUEST_URI",
        "SERVER_NAME",
    ],
)
@in_one_test("byte", ["\0", "\r", "\n", "\x1b", "\x7f"])
def test_bytes_that_no_header_field_may_hold_are_refused(name: str, byte: str) -> None:
    refusal = refusal_of(request(**{name: f"/a{byte}b"}))
    assert refusal.status == 400
    assert f"{name} holds the byte 0x{ord(byte):02x}" in refusal.reason


@pytest.mark.parametrize("name", ["PATH_INFO", "SCRIPT_NAME", "TENANT"])
def test_nul_is_refused_everywhere(name: str) -> None:
    assert refusal_of(request(**{name: "/a\0"})).reason.startswith(f"{name} holds the byte 0x00")


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"REQUEST_METHOD": None}, 400, "no REQUEST_METHOD"),
        ({"REQUEST_METHOD": ""}, 400, "no REQUEST_METHOD"),
        ({"REQUEST_METHOD": "GET /"}, 400, "REQUEST_METHOD is not"),
        ({"REQUEST_METHOD": "G\xc4T"}, 400, "REQUEST_METHOD is not"),
        ({"REQUEST_METHOD": "CONNECT", "REQUEST_URI": "a:1"}, 501, "CONNECT"),
        ({"REQUEST_URI": None}, 400, "no REQUEST_URI"),
        ({"REQUEST_URI": ""}, 400, "no REQUEST_URI"),
        ({"REQUEST_URI": "/a b"}, 400, "REQUEST_URI holds the byte 0x20"),
        ({"REQUEST_URI": "/\xe9"}, 400, "0xe9"),
        ({"REQUEST_URI": "/a#b"}, 400, "fragment"),
        ({"REQUEST_URI": "a"}, 400, "neither a path"),
        ({"PATH_INFO": "a"}, 400, "PATH_INFO does not begin"),
        ({"SCRIPT_NAME": "a"}, 400, "SCRIPT_NAME does not begin"),
        ({"SERVER_PROTOCOL": "HTTP"}, 400, "SERVER_PROTOCOL"),
        ({"SERVER_PROTOCOL": "HTTP/1.1 "}, 400, "SERVER_PROTOCOL"),
        ({"SERVER_PROTOCOL": "HTTP/1.10"}, 400, "SERVER_PROTOCOL"),
        ({"HTTP_HOST": "a b"}, 400, "Host"),
        ({"HTTP_HOST": "a@b"}, 400, "Host"),
        ({"CONTENT_LENGTH": "-1"}, 400, "decimal"),
        ({"CONTENT_LENGTH": "+1"}, 400, "decimal"),
        ({"CONTENT_LENGTH": "1 "}, 400, "decimal"),
        ({"CONTENT_LENGTH": " "}, 400, "decimal"),
        ({"CONTENT_LENGTH": "1,1"}, 400, "decimal"),
        ({"CONTENT_LENGTH": "0x1"}, 400, "decimal"),
        ({"CONTENT_LENGTH": "\xb2"}, 400, "decimal"),
        ({"CONTENT_LENGTH": "9" * 5000}, 413, "longer than"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    changes: dict[str, str | None], status: int, reason: str
) -> None:
    refusal = refusal_of(request(**changes))
    assert refusal.status == status
    assert reason in refusal.reason


def test_a_field_that_has_one_value_is_refused_with_two() -> None:
    variables = [*stock_variables({}), (b"HTTP_AUTHORIZATION", b"a"), (b"HTTP_AUTHORIZATION", b"b")]
    refusal = refusal_of(packet(variables))
    assert (refusal.status, "authorization" in refusal.reason) == (400, True)


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize(
    ("limits", "changes", "status"),
    [
        # "GET /aaaa HTTP/1.1"
        (Limits(request_line=18), {"REQUEST_URI": "/aaaa"}, 414),
        # "host:shop.test"
        (Limits(field_size=14), {}, 431),
        (Limits(fields=2), {"HTTP_X": "a"}, 431),
        # "GET / HTTP/1.1", "host:shop.test" and "x:aa" with their line ends.
        (Limits(head=14 + 14 + 4 + 6), {"HTTP_X": "aa"}, 431),
        (Limits(body=10), {"CONTENT_LENGTH": "10"}, 413),
    ],
)
def test_a_request_is_held_to_the_limits_that_it_has_over_http(
    limits: Limits, changes: dict[str, str | None], status: int, over: int
) -> None:
    if over:
        name = {414: "REQUEST_URI", 413: "CONTENT_LENGTH"}.get(status, "HTTP_HOST")
        grown = {"REQUEST_URI": "/aaaaa", "CONTENT_LENGTH": "11", "HTTP_HOST": "shop.tests"}[name]
        if limits.fields == 2:
            name, grown = "HTTP_Y", ""
        assert refusal_of(request(**{**changes, name: grown}), limits).status == status
    else:
        head_of(request(**changes), limits)


def test_the_largest_packet_is_read() -> None:
    variables = stock_variables({"PADDING": ""})
    data = b"x" * (0xFFFF - len(block(variables)))
    packed = packet(stock_variables({"PADDING": data.decode()}))
    assert len(packed) == 4 + 0xFFFF
    assert environ_of(head_of(packed))["PADDING"] == data.decode()


@given(st.integers(0, 1 << 16), cut_lists)
@properties
def test_the_end_of_the_bytes_within_a_request_is_refused(cut: int, cuts: list[int]) -> None:
    data = request(b"body of it")
    data = data[: cut % len(data)]
    parser = new_parser()
    _, refusal = read(split(data, cuts), parser)
    assert refusal is None
    parser.feed_eof()
    if not data:
        assert parser.next_event() is None
        return
    for _ in range(2):
        with pytest.raises(IncompleteRequest, match="in the middle of a request") as caught:
            parser.next_event()
        assert caught.value.status == 400


def test_nothing_behind_a_refusal_is_read() -> None:
    parser = new_parser()
    parser.feed(request(REQUEST_METHOD="", REQUEST_URI="/a"))
    for _ in range(2):
        with pytest.raises(Refusal, match="REQUEST_METHOD"):
            parser.next_event()
        parser.feed(request())
        assert parser.buffered == 0


# --- any bytes -----------------------------------------------------------------------------------

names = st.one_of(
    st.sampled_from([name for name, _ in stock_variables({})]),
    st.sampled_from([b"HTTP_X", b"HTTP_CONTENT_LENGTH", b"HTTPS", b"wsgi.input", b""]),
    st.binary(max_size=6),
)
values = st.one_of(
    st.sampled_from([b"GET", b"/", b"3", b"HTTP/1.1", b"http://a/", b"https://a/", b""]),
    st.binary(max_size=6),
)
sound = st.lists(st.tuples(names, values), max_size=6).map(
    lambda more: packet([*stock_variables({"CONTENT_LENGTH": "3"}), *more]) + b"abcd"
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = draw(sound)
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.integers(0, 3)))
    return data[:start] + draw(st.binary(max_size=3)) + data[end:]


@given(
    st.one_of(sound, damaged(), st.binary(max_size=60)),
    cut_lists,
    st.one_of(st.just(Limits()), small_limits),
    st.booleans(),
)
@settings(max_examples=examples(500))
def test_any_bytes_give_one_request_or_a_refusal_however_split(
    data: bytes, cuts: list[int], limits: Limits, ended: bool
) -> None:
    def verdict(pieces: list[bytes]) -> tuple[list[Event], str, str, int]:
        parser = new_parser(limits)
        events, refusal = read(pieces, parser)
        if ended and refusal is None:
            parser.feed_eof()
            try:
                assert parser.next_event() is None
            except IncompleteRequest as error:
                refusal = error
        return events, str(refusal), parser.request_line, parser.buffered

    events, refusal, line, buffered = verdict(split(data, cuts))
    assert (events, refusal, line, buffered) == verdict([data])
    assert [type(event) for event in events] in (
        [],
        [RequestHead],
        [RequestHead, BodyData],
        [RequestHead, BodyData, EndOfMessage],
    )
    assert refusal == "None" or refusal[:3] in ("400", "413", "414", "421", "431", "501")
    for event in events:
        if isinstance(event, RequestHead):
            environ = environ_of(event)
            assert environ["wsgi.version"] == (1, 0)
            assert environ["wsgi.url_scheme"] in ("http", "https")
            assert {key for key in environ if "." in key} <= {*BASE} | {
                key for key in environ if key.startswith("HTTP_")
            }
            for key, value in environ.items():
                assert key.startswith("wsgi.") or type(value) is str


# --- responses -----------------------------------------------------------------------------------


def answered(head: RequestHead, length: int | None) -> bytes:
    encoder = CODEC.encoder(head)
    assert not encoder.keep_alive
    start = encoder.start("200 OK", (("X-A", "b"), ("Date", "now")), length)
    return b"".join([start, *encoder.encode(b"ab"), *encoder.finish(b"c")])


def test_a_response_is_plain_http_and_the_last_of_its_connection() -> None:
    lines = b"HTTP/1.1 200 OK\r\nX-A: b\r\nDate: now\r\n"
    end = b"Connection: close\r\nServer: aiowsgi\r\n\r\n"
    length = b"Content-Length: 3\r\n"
    assert answered(head_with(), 3) == lines + length + end + b"abc"
    # No transfer coding: its end is that of the connection.
    assert answered(head_with(), None) == lines + end + b"abc"
    assert answered(head_with(REQUEST_METHOD="HEAD"), 3) == lines + length + end


def test_the_request_line_is_known_with_the_packet_and_outlives_it() -> None:
    parser = new_parser(Limits(request_line=2000))
    data = request(REQUEST_URI="/" + "a" * 3000)
    assert not parser.has_begun
    parser.feed(data[:1])
    assert parser.has_begun
    parser.feed(data[1:-1])
    assert parser.next_event() is None
    assert parser.has_begun
    assert parser.request_line == ""
    parser.feed(data[-1:])
    with pytest.raises(Refusal, match="414"):
        parser.next_event()
    parser.drop()
    assert parser.request_line == "GET /" + "a" * 1019
