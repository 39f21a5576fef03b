"""Streams of requests for property tests, whole, split, damaged and wild; and how they are read."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from extent import examples
from hypothesis import settings
from hypothesis import strategies as st

from aiowsgi.errors import Refusal
from aiowsgi.http.parser import Parser
from aiowsgi.http.readers.h11_reader import H11
from aiowsgi.http.readers.httptools_reader import HTTPTOOLS
from aiowsgi.http.readers.reader import Reader
from aiowsgi.http.request import BodyData, EndOfMessage, Event, Limits, RequestHead
from aiowsgi.http.sections import FieldSections

EMPTY_LINE = b"\r\n"

READERS = (H11, HTTPTOOLS)
each_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)

properties = settings(max_examples=examples(150))


@dataclass(frozen=True, slots=True)
class Message:
    """A generated request: its bytes, and what has to be read from them."""

    raw: bytes
    method: str
    target: str
    version: str
    body: bytes


def events(parser: Parser) -> Iterator[Event]:
    """Yield events until more bytes are needed. Bounded: no byte may give more than two."""
    for _ in range(2 * parser.buffered + 2):
        if (event := parser.next_event()) is None:
            return
        yield event
    raise AssertionError("more events than bytes")


def ends_request(event: Event) -> bool:
    """Return whether a request is complete with this event."""
    if isinstance(event, RequestHead):
        return not (event.section.chunked or event.section.content_length)
    return isinstance(event, EndOfMessage)


def joined(stream: list[Event]) -> list[Event]:
    """Return the events with neighbouring body data made one: the pieces depend on the split."""
    result: list[Event] = []
    for event in stream:
        last = result[-1] if result else None
        if isinstance(event, BodyData) and isinstance(last, BodyData):
            result[-1] = BodyData(last.data + event.data)
        else:
            result.append(event)
    return result


def new_parser(limits: Limits | None = None, reader: Reader = H11) -> Parser:
    """Return a parser of a server of its own."""
    return Parser(FieldSections(limits or Limits(), reader, header_map="dangerous"))


def read(
    pieces: list[bytes], parser: Parser | None = None
) -> tuple[Parser, list[Event], int | None]:
    """Return the parser, the joined events, and the status of the refusal that ended them."""
    parser = parser or new_parser()
    stream: list[Event] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            stream.extend(events(parser))
        stream.extend(events(parser))
    except Refusal as refusal:
        return parser, joined(stream), refusal.status
    return parser, joined(stream), None


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


# Requests that are in order.

tokens = st.text("ABCxyz019-!#$%&'*+.^_`|~", min_size=1, max_size=8)
values = st.text(
    st.one_of(
        st.sampled_from('\t ,;="\\'),
        st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=["Cc"]),
    ),
    max_size=12,
)
paths = st.text("abc/%20+;=@:.~", max_size=10)
queries = st.text("abc/?&=%20+", max_size=8).map(lambda query: f"?{query}" if query else "")
pieces_of_body = st.lists(st.binary(min_size=1, max_size=30), max_size=5)
extensions = st.sampled_from(["", ";a", ";a=b", ';a="b c"', ';a;b="\xe9"'])
hexadecimal = st.sampled_from(["%x", "%X", "0%x", "00000%X"])


@st.composite
def messages(draw: st.DrawFn, *, empty_line: bool = True) -> Message:
    method = draw(st.sampled_from(["GET", "POST", "PUT", "BREW", "x-own!"]))
    target = "/" + draw(paths) + draw(queries)
    version = draw(st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]))
    space = draw(st.sampled_from(["", " ", "\t ", "  "]))
    fields = [f"{draw(st.sampled_from(['Host', 'host', 'HOST']))}:{space}a.test"]
    # Names of their own, so that none of them frames the message.
    fields += [
        f"X{name}:{space}{value}{space}"
        for name, value in draw(st.lists(st.tuples(tokens, values), max_size=4))
    ]
    pieces = draw(pieces_of_body)
    body = b"".join(pieces)
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "chunked" and version == "HTTP/1.1":
        fields.append(f"Transfer-Encoding:{space}{draw(st.sampled_from(['chunked', 'CHUNKED']))}")
        behind = b""
        for piece in pieces:
            behind += (draw(hexadecimal) % len(piece) + draw(extensions)).encode("latin-1")
            behind += b"\r\n" + piece + b"\r\n"
        trailers = [
            f"X{name}: {value}\r\n"
            for name, value in draw(st.lists(st.tuples(tokens, values), max_size=2))
        ]
        behind += ("0" + draw(extensions) + "\r\n" + "".join(trailers) + "\r\n").encode("latin-1")
    elif framing == "length" or body:
        fields.append(f"Content-Length:{space}{len(body)}")
        behind = body
    else:
        behind = b""
    fields = draw(st.permutations(fields))
    head = "\r\n".join([f"{method} {target} {version}", *fields, "", ""]).encode("latin-1")
    before = EMPTY_LINE if empty_line and draw(st.booleans()) else b""
    return Message(before + head + behind, method, target, version, body)


streams = st.lists(messages(), min_size=1, max_size=3)
cut_lists = st.lists(st.integers(0, 1 << 16), max_size=12)

# Any bytes.

fragments = st.sampled_from(
    [
        b"GET",
        b"POST",
        b"CONNECT",
        b" ",
        b"/",
        b"*",
        b"http://a.test/",
        b"#",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        b"Host: a\r\n",
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Expect",
        b"100-continue",
        b"chunked",
        b"gzip",
        b"Trailer",
        b":",
        b": ",
        b"\r\n",
        b"\r",
        b"\n",
        b"\t",
        b"\0",
        b"\xff",
        b"0",
        b"3",
        b"a",
        b"ffffffffffffffff",
        b"0\r\n\r\n",
        b"3\r\nabc\r\n",
        b";",
        b",",
    ]
)
wild = st.one_of(
    st.binary(max_size=80),
    st.lists(st.one_of(fragments, st.binary(max_size=3)), max_size=25).map(b"".join),
)
small_limits = st.builds(
    Limits,
    request_line=st.integers(1, 40),
    fields=st.integers(1, 4),
    field_size=st.integers(1, 40),
    head=st.integers(1, 90),
    body=st.integers(0, 8),
)


@st.composite
def damage(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with one place changed: much nearer to what a parser could overlook."""
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.integers(0, 3)))
    return data[:start] + draw(st.one_of(fragments, st.binary(max_size=3))) + data[end:]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Requests in order, but for one place."""
    return draw(damage(b"".join(message.raw for message in draw(streams))))
