"""What costs a client little must cost the server little: bytes, looks and hand-overs are counted.

Nothing here is timed. Each count has a bound that grows with what was sent, and no faster.
"""

import re
from collections.abc import Iterator

import pytest
from http_streams import each_reader, new_parser
from memory import INFO, MemoryConnection, MemoryWire

from aiowsgi.connection.receiver import Receiver
from aiowsgi.errors import Refusal
from aiowsgi.http import lines
from aiowsgi.http.lines import ChunkScanner, HeadScanner
from aiowsgi.http.parser import Parser
from aiowsgi.http.readers.reader import Reader
from aiowsgi.http.request import BodyData, EndOfMessage, Limits, RequestHead

CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
# Chunks whose data is handed over at once; a pass of the loop has one such portion.
PORTION = 64


# --- many small chunks ---------------------------------------------------------------------------


class Handler:
    """Takes what a receiver hands over, and counts how often."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.ended = False
        self.refusal: Refusal | None = None

    def on_head(self, head: RequestHead) -> None:
        pass

    def on_body(self, data: bytes) -> None:
        self.bodies.append(data)

    def on_end(self) -> None:
        self.ended = True

    def refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal

    def on_buffer_change(self) -> None:
        pass


def receiving() -> tuple[Receiver, Handler, MemoryConnection]:
    """Return a receiver with nothing but a wire and a handler of what it reads."""
    connection = MemoryConnection(lambda environ, start_response: [])
    handler = Handler()
    wire = MemoryWire(connection.timers)
    return Receiver(connection.shared, wire, connection.codec, INFO, handler), handler, connection


def test_chunks_of_one_byte_are_handed_over_in_portions_one_a_pass() -> None:
    receiver, handler, connection = receiving()
    receiver.advance(CHUNKED + b"1\r\nx\r\n" * (10 * PORTION) + b"0\r\n\r\n")
    passes = 1
    # Others have their turn between two portions.
    assert handler.bodies == [b"x" * PORTION]
    while connection.timers.ready:
        connection.timers.ready.popleft()()
        passes += 1
        assert len(handler.bodies) <= passes
    assert handler.bodies == [b"x" * PORTION] * 10
    assert handler.ended
    assert passes == 11


def test_chunks_that_were_received_are_not_parsed_once_the_connection_is_cut() -> None:
    connection = MemoryConnection(lambda environ, start_response: [])
    handler = Handler()
    wire = MemoryWire(connection.timers)
    receiver = Receiver(connection.shared, wire, connection.codec, INFO, handler)
    receiver.advance(CHUNKED + b"1\r\nx\r\n" * (10 * PORTION))
    wire.is_closing = True
    while connection.timers.ready:
        connection.timers.ready.popleft()()
    assert handler.bodies == [b"x" * PORTION]


def test_chunks_of_one_read_are_one_hand_over() -> None:
    receiver, handler, connection = receiving()
    receiver.advance(CHUNKED)
    for _ in range(3):
        receiver.advance(b"5\r\nhello\r\n" * (PORTION - 1))
    receiver.advance(b"5\r\nhel")
    receiver.advance(b"lo\r\n0\r\nA: b\r\n\r\n")
    assert [len(data) for data in handler.bodies] == [*[5 * (PORTION - 1)] * 3, 3, 2]
    assert handler.ended
    assert not connection.timers.ready


def test_what_comes_before_an_unsound_chunk_is_handed_over_before_the_refusal() -> None:
    receiver, handler, _ = receiving()
    receiver.advance(CHUNKED + b"2\r\nab\r\n2\r\ncd\r\nx\r\n")
    assert handler.bodies == [b"abcd"]
    assert handler.refusal is not None
    assert handler.refusal.status == 400


@each_reader
def test_portions_leave_nothing_out(reader: Reader) -> None:
    parser = new_parser(reader=reader)
    data = bytes(range(256)) * 2
    trailers = b"".join(b"X-%d: y\r\n" % number for number in range(2 * PORTION))
    parser.feed(CHUNKED + b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in data) + b"0\r\n")
    assert isinstance(parser.next_event(), RequestHead)
    found = b""
    while (event := parser.next_event()) is not None:
        assert isinstance(event, BodyData)
        assert len(event.data) == PORTION
        found += event.data
    assert found == data
    # Fields of a trailer are bounded by a limit of their own.
    parser = new_parser(Limits(fields=len(trailers)), reader)
    parser.feed(CHUNKED + b"0\r\n" + trailers + b"\r\n")
    parser.next_event()
    assert parser.next_event() == EndOfMessage()
    assert parser.buffered == 0


# --- a byte at a time ----------------------------------------------------------------------------


class Looks:
    """How many bytes were searched."""

    def __init__(self) -> None:
        self.bytes = 0


class Watched(bytearray):
    """Bytes that count how many of them are searched for the end of a line."""

    def __init__(self, looks: Looks) -> None:
        super().__init__()
        self._looks = looks

    def find(self, sub: bytes, start: int = 0, stop: int | None = None) -> int:  # type: ignore[override]
        stop = len(self) if stop is None else min(stop, len(self))
        self._looks.bytes += max(0, stop - start)
        return super().find(sub, start, stop)


class WatchedPattern:
    """A pattern that counts how many bytes it searches."""

    def __init__(self, pattern: re.Pattern[bytes], looks: Looks) -> None:
        self._pattern = pattern
        self._looks = looks

    def search(self, buffer: bytes, start: int, stop: int) -> re.Match[bytes] | None:
        self._looks.bytes += max(0, stop - start)
        return self._pattern.search(buffer, start, stop)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Looks]:
    looks = Looks()
    for name in ("_NOT_IN_REQUEST_LINE", "_NOT_IN_FIELD_LINE"):
        monkeypatch.setattr(lines, name, WatchedPattern(getattr(lines, name), looks))
    return looks


def test_head_that_comes_a_byte_at_a_time_is_searched_once(looks: Looks) -> None:
    head = b"GET /%b HTTP/1.1\r\nHost: h\r\nA: %b\r\n\r\n" % (b"x" * 8000, b"y" * 8000)
    buffer, scanner = Watched(looks), HeadScanner(Limits())
    found = None
    for number in range(len(head)):
        assert found is None
        buffer += head[number : number + 1]
        found = scanner.scan(buffer)
    assert found == (0, len(head))
    # Each byte for the end of its line, and for what no line may hold; and a CR once more.
    assert looks.bytes <= 2 * len(head) + 100


@pytest.mark.parametrize(
    "tail",
    [b"0\r\nA: %b\r\nB: c\r\n\r\n" % (b"x" * 8000), b"0;%b\r\n\r\n" % (b"a" * 250)],
    ids=["trailer", "extension"],
)
def test_end_of_a_body_that_comes_a_byte_at_a_time_is_searched_once(
    looks: Looks, tail: bytes
) -> None:
    buffer, scanner = Watched(looks), ChunkScanner(Limits())
    for number in range(len(tail)):
        assert not scanner.finished
        buffer += tail[number : number + 1]
        del buffer[: scanner.scan(buffer, 0)]
    assert scanner.finished
    assert looks.bytes <= 2 * len(tail) + 100


def kept_in_place(parser: Parser, data: bytes, *, parse: bool) -> int:
    """Feed bytes one at a time; return how often what is kept was made anew."""
    copies, last = 0, None
    for number in range(len(data)):
        parser.feed(data[number : number + 1])
        if parse:
            assert parser.next_event() is None
        copies += parser._buffer is not last
        last = parser._buffer
    return copies


@pytest.mark.parametrize(
    "begun",
    [b"", b"\r\n", CHUNKED, CHUNKED + b"0\r\n", CHUNKED + b"1\r\nx\r\n0;"],
    ids=["head", "behind an empty line", "chunk line", "trailer", "extension"],
)
def test_what_comes_a_byte_at_a_time_is_not_copied_for_each(begun: bytes) -> None:
    parser = new_parser()
    parser.feed(begun)
    while parser.next_event() is not None:
        pass
    rest = b"0" * 16 if begun == CHUNKED else b"A:" + b"x" * 200
    assert kept_in_place(parser, rest, parse=True) <= 3


def test_pipelined_requests_that_wait_are_not_copied_for_each_byte() -> None:
    parser = new_parser()
    request = b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n"
    assert kept_in_place(parser, b"".join(request % n for n in range(100)), parse=False) <= 2
    targets = []
    while (event := parser.next_event()) is not None:
        if isinstance(event, RequestHead):
            targets.append(event.target)
    assert targets == [f"/{number}" for number in range(100)]
