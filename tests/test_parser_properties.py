"""Properties of the parser with each reader: any split, any bytes, any end.

The second opinion is that of h11 alone.
"""

import re

import h11
import pytest
from extent import examples
from http_streams import (
    EMPTY_LINE,
    Message,
    cut_lists,
    damaged,
    each_reader,
    ends_request,
    events,
    new_parser,
    properties,
    read,
    small_limits,
    split,
    streams,
    wild,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aiowsgi.errors import Refusal
from aiowsgi.http.readers.reader import Reader
from aiowsgi.http.request import BodyData, EndOfMessage, Event, Field, Limits, RequestHead

STATUSES = {400, 413, 414, 417, 421, 431, 501, 505}


@each_reader
@given(streams)
@properties
def test_requests_in_order_are_read_as_they_were_written(
    reader: Reader, stream: list[Message]
) -> None:
    parser, seen, status = read(
        [b"".join(message.raw for message in stream)], new_parser(reader=reader)
    )
    assert status is None
    assert parser.buffered == 0
    for message in stream:
        head = seen.pop(0)
        assert isinstance(head, RequestHead)
        assert (head.method, head.target, head.section.version) == (
            message.method,
            message.target,
            message.version,
        )
        assert head.host == "a.test"
        assert head.section.keep_alive is (message.version == "HTTP/1.1")
        if message.body:
            assert seen.pop(0) == BodyData(message.body)
        # Also of a chunked body without chunks.
        if not ends_request(head):
            assert seen.pop(0) == EndOfMessage()
    assert seen == []


@each_reader
@given(streams, cut_lists)
@properties
def test_any_split_gives_the_same_events(
    reader: Reader, stream: list[Message], cuts: list[int]
) -> None:
    data = b"".join(message.raw for message in stream)
    _, expected, _ = read([data], new_parser(reader=reader))
    parser, seen, status = read(split(data, cuts), new_parser(reader=reader))
    assert status is None
    assert seen == expected
    assert parser.buffered == 0


@each_reader
@given(streams, st.integers(0, 1 << 16), cut_lists)
@properties
def test_the_end_of_the_stream_is_refused_inside_a_message_only(
    reader: Reader, stream: list[Message], cut: int, cuts: list[int]
) -> None:
    data = b"".join(message.raw for message in stream)
    data = data[: cut % (len(data) + 1)]
    parser, seen, status = read(split(data, cuts), new_parser(reader=reader))
    assert status is None
    heads = sum(isinstance(event, RequestHead) for event in seen)
    complete = sum(map(ends_request, seen))
    rest = data[sum(len(message.raw) for message in stream[:complete]) :]
    parser.feed_eof()
    if heads == complete and rest in (b"", b"\r", EMPTY_LINE):
        for _ in range(2):
            assert parser.next_event() is None
    else:
        for _ in range(2):
            with pytest.raises(Refusal, match="in the middle of a request") as caught:
                parser.next_event()
            assert caught.value.status == 400


@each_reader
def test_buffered_counts_what_was_fed_and_not_parsed(reader: Reader) -> None:
    parser = new_parser(reader=reader)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    parser.feed(head[:10])
    assert parser.buffered == 10
    assert parser.next_event() is None
    assert parser.buffered == 10
    parser.feed(head[10:] + b"abcdGET /next")
    assert parser.buffered == len(head) + 13
    assert isinstance(parser.next_event(), RequestHead)
    assert parser.buffered == 13
    assert parser.next_event() == BodyData(b"abcd")
    assert parser.buffered == 9
    assert parser.next_event() == EndOfMessage()
    assert parser.buffered == 9
    parser.feed(b" HTTP/2.0\r\n")
    with pytest.raises(Refusal):
        parser.next_event()
    assert parser.buffered == 0
    parser.feed(b"GET / HTTP/1.1\r\n")
    assert parser.buffered == 0


# Limits.


@each_reader
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.integers(0, 40),
    cut_lists,
    st.booleans(),
)
@properties
def test_the_limit_of_a_chunked_body_is_cumulative(
    reader: Reader, sizes: list[int], limit: int, cuts: list[int], ended: bool
) -> None:
    """CVE-2025-69228: a limit that begins again with each part is none."""
    data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes)
    data += b"0\r\n\r\n" * ended
    _, seen, status = read(split(data, cuts), new_parser(Limits(body=limit), reader))
    delivered = sum(len(event.data) for event in seen if isinstance(event, BodyData))
    assert delivered <= limit
    if sum(sizes) > limit:
        assert status == 413
        assert EndOfMessage() not in seen
    else:
        assert status is None
        assert delivered == sum(sizes)


@each_reader
def test_a_chunk_over_the_limit_is_refused_before_its_data(reader: Reader) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for line in (b"b\r\n", b"ffffffffffffffff\r\n"):
        parser, _, status = read([head + line], new_parser(Limits(body=10), reader))
        assert status == 413
        assert parser.buffered == 0


@each_reader
@given(st.integers(0, 40), st.integers(1, 40), cut_lists)
@properties
def test_the_limit_of_the_request_line(
    reader: Reader, length: int, limit: int, cuts: list[int]
) -> None:
    line = b"GET /" + b"a" * length + b" HTTP/1.1"
    data = line + b"\r\nHost: a\r\n\r\n"
    _, seen, status = read(split(data, cuts), new_parser(Limits(request_line=limit), reader))
    assert status == (414 if len(line) > limit else None)
    assert bool(seen) is (status is None)


@each_reader
@given(st.integers(0, 40), st.integers(8, 40), cut_lists)
@properties
def test_the_limit_of_a_field(reader: Reader, length: int, limit: int, cuts: list[int]) -> None:
    line = b"X:" + b"a" * length
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"
    _, seen, status = read(split(data, cuts), new_parser(Limits(field_size=limit), reader))
    assert status == (431 if len(line) > limit else None)
    assert bool(seen) is (status is None)


@each_reader
@given(st.integers(1, 8), st.integers(1, 8), cut_lists)
@properties
def test_the_limit_of_the_number_of_fields(
    reader: Reader, count: int, limit: int, cuts: list[int]
) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * (count - 1) + b"\r\n"
    _, seen, status = read(split(data, cuts), new_parser(Limits(fields=limit), reader))
    assert status == (431 if count > limit else None)
    assert bool(seen) is (status is None)


@each_reader
@given(st.integers(0, 12), st.integers(-8, 8), cut_lists)
@properties
def test_the_limit_of_the_head(reader: Reader, count: int, over: int, cuts: list[int]) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * count + b"\r\n"
    # The request line and all fields with their line ends; the empty line behind them is free.
    limit = len(data) - len(EMPTY_LINE) - over
    _, seen, status = read(split(data, cuts), new_parser(Limits(head=limit), reader))
    assert status == (431 if over > 0 else None)
    assert bool(seen) is (status is None)


# Any bytes.


@each_reader
@given(st.one_of(wild, damaged()), cut_lists, st.one_of(st.just(Limits()), small_limits))
@settings(max_examples=examples(500))
def test_any_bytes_give_events_or_a_refusal_however_split(
    reader: Reader, data: bytes, cuts: list[int], limits: Limits
) -> None:
    _, expected, expected_status = read([data], new_parser(limits, reader))
    parser, seen, status = read(split(data, cuts), new_parser(limits, reader))
    assert (seen, status) == (expected, expected_status)
    assert status is None or status in STATUSES
    # Heads, data and ends alternate as they have to.
    state = "between"
    for event in seen:
        assert (state == "between") is isinstance(event, RequestHead)
        assert not isinstance(event, BodyData) or event.data
        state = "between" if ends_request(event) else "in a message"
    if status is not None:
        assert parser.buffered == 0


@each_reader
@given(st.one_of(wild, damaged()), wild)
@properties
def test_nothing_behind_a_refusal_is_parsed(reader: Reader, data: bytes, more: bytes) -> None:
    parser, _, status = read([data], new_parser(reader=reader))
    assume(status is not None)
    for piece in (more, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        parser.feed(piece)
        with pytest.raises(Refusal) as caught:
            parser.next_event()
        assert caught.value.status == status
        assert parser.buffered == 0
    parser.feed_eof()
    with pytest.raises(Refusal) as caught:
        parser.next_event()
    assert caught.value.status == status


# The second opinion.


# White space that recipients must parse (RFC 9112 §7.1.1), and lists with empty elements or in
# several fields (RFC 9110 §5.6.1.2).
H11_IS_STRICTER = re.compile(rb"[ \t];|(?i:transfer-encoding:[ \t]*+(?!chunked[ \t]*+\r))")


def lower_coding(field: Field) -> Field:
    name, value = field
    return name, value.lower() if name == b"transfer-encoding" else value


def as_h11_reads(data: bytes) -> tuple[h11.Request, bytes, bytes]:
    """Return the first request, its body, and what is left for the next one."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += bytes(event.data)
    return request, body, connection.trailing_data[0]


@each_reader
@given(st.one_of(streams.map(lambda s: b"".join(m.raw for m in s)), damaged()))
@settings(max_examples=examples(300))
def test_what_is_accepted_is_read_by_h11_alone_in_the_same_way(reader: Reader, data: bytes) -> None:
    parser = new_parser(reader=reader)
    parser.feed(data)
    seen: list[Event] = []
    try:
        for event in events(parser):
            seen.append(event)
            if ends_request(event):
                break
    except Refusal:
        return
    assume(seen and ends_request(seen[-1]))
    head = seen[0]
    assert isinstance(head, RequestHead)

    # h11 refuses the one empty line before a request that RFC 9112 §2.2 allows.
    try:
        request, body, rest = as_h11_reads(data.removeprefix(EMPTY_LINE))
    except h11.RemoteProtocolError:
        assert H11_IS_STRICTER.search(data)
        return
    assert head.method.encode() == request.method
    assert head.target.encode() == request.target
    # RFC 9110 §2.5.
    assert head.section.version.encode() == b"HTTP/" + min(request.http_version, b"1.1")
    # h11 writes the name of a transfer coding in lower case.
    assert [lower_coding(field) for field in head.section.fields] == list(request.headers)
    assert b"".join(e.data for e in seen if isinstance(e, BodyData)) == body
    # Both end the message at the same byte: nothing can be smuggled between them.
    assert data[len(data) - parser.buffered :] == rest
