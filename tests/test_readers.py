"""The libraries that read HTTP are told apart by nothing: not one event, refusal or word of it."""

import gc
import itertools
import subprocess
import sys
from collections.abc import Callable

import pytest
from corpus_files import Case, load_corpus
from extent import examples
from grouped import in_one_test
from http_streams import (
    READERS,
    cut_lists,
    damage,
    damaged,
    each_reader,
    events,
    new_parser,
    properties,
    small_limits,
    split,
    streams,
    wild,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from smuggling import TECHNIQUES, Technique

from aiowsgi.errors import ConfigError, Refusal
from aiowsgi.http.lines import match_field_line, match_simple_line
from aiowsgi.http.readers.choice import find_reader
from aiowsgi.http.readers.h11_reader import H11
from aiowsgi.http.readers.httptools_reader import HTTPTOOLS
from aiowsgi.http.readers.reader import Reader
from aiowsgi.http.request import Event, Limits

CASES = load_corpus()


def outcome(
    reader: Reader, pieces: list[bytes], limits: Limits
) -> tuple[list[Event], tuple[int, str] | None, int]:
    """Return every event, the refusal, and the number of bytes that are left."""
    parser = new_parser(limits, reader)
    seen: list[Event] = []
    try:
        for piece in pieces:
            parser.feed(piece)
            seen.extend(events(parser))
        parser.feed_eof()
        assert parser.next_event() is None
    except Refusal as refusal:
        return seen, (refusal.status, refusal.reason), parser.buffered
    return seen, None, parser.buffered


def assert_no_difference(pieces: list[bytes], limits: Limits | None = None) -> None:
    expected = outcome(H11, pieces, limits or Limits())
    assert outcome(HTTPTOOLS, pieces, limits or Limits()) == expected


@in_one_test("case", CASES, ids=lambda case: case.name)
def test_corpus_is_read_the_same(case: Case) -> None:
    assert_no_difference([case.data], Limits(**case.limits))


@in_one_test("technique", TECHNIQUES, ids=lambda technique: technique.name)
def test_smuggled_requests_are_read_the_same(technique: Technique) -> None:
    assert_no_difference([technique.data])


# Near to what is right, and full of what the libraries know of by themselves.

KNOWN_NAMES = """
    Host host Content-Length content-LENGTH Transfer-Encoding Connection Proxy-Connection Upgrade
    Expect Trailer TE Keep-Alive HTTP2-Settings Content-Type Cookie Date Proxy-Authorization
    Sec-WebSocket-Key Origin Max-Forwards
"""
METHODS = "GET HEAD POST PRI SOURCE M-SEARCH CONNECT OPTIONS get x-own! _"
TARGETS = "/ * /a?b //c http://a.test/ a.test:443 /#"

own_names = st.text("abXY019-!#$%&'*+.^_`|~", min_size=1, max_size=6)
names = st.one_of(own_names, st.sampled_from(KNOWN_NAMES.split()))
own_values = st.text(
    st.one_of(
        st.sampled_from("\t \t ,;=\"\\'\x80\xa0\xff"),
        st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]),
    ),
    max_size=8,
)
values = st.one_of(
    own_values,
    st.sampled_from(
        [
            "",
            "0",
            "3",
            "03",
            "3, 3",
            "+3",
            "18446744073709551616",
            "chunked",
            "Chunked",
            "gzip, chunked",
            "chunked, chunked",
            ",chunked",
            'x;a="b,c", chunked',
            "identity",
            "close",
            "keep-alive, Upgrade",
            "upgrade",
            "websocket",
            "h2c",
            "100-continue",
            "100-Continue",
            "trailers",
            "a.test",
            "[::1]:80",
        ]
    ),
)
spaces = st.sampled_from(["", " ", "\t", "  ", " \t"])
lines = st.builds("{}:{}{}{}\r\n".format, names, spaces, values, spaces)
methods = st.sampled_from(METHODS.split())
targets = st.sampled_from(TARGETS.split())
versions = st.sampled_from(["1.1", "1.1", "1.1", "1.0", "1.9", "2.0"])
hosts = st.sampled_from(["Host: a\r\n"] * 3 + ["", "hOST:\t\r\n"])
frames = st.sampled_from(
    ["", "Content-Length: 3\r\n", "Content-Length:3\t\r\n"]
    + ["Transfer-Encoding: chunked\r\n", "transfer-encoding:\tCHUNKED\t\r\n"] * 2
)
heads = st.builds(
    "{} {} HTTP/{}\r\n{}{}{}\r\n".format,
    methods,
    targets,
    versions,
    hosts,
    frames,
    st.lists(lines, max_size=3).map("".join),
)
extensions = st.one_of(
    st.just(""),
    own_values.map(";{}".format),
    st.sampled_from([';a="b;c"', ';a="', ";", ";;", " ;\ta = b", ";a=b;", ';a="\\"']),
)
sizes = st.sampled_from(
    ["3", "03", "0" * 30 + "3", "f" * 17, "3 ", "0x3", "3\t", "-3", "4", "2", "+3"]
)
chunks = st.builds("{}{}\r\nabc\r\n".format, st.one_of(st.just("3"), sizes), extensions)
bodies = st.builds(
    "{}{}{}\r\n{}\r\n".format,
    st.lists(chunks, max_size=3).map("".join),
    st.sampled_from(["0", "0", "000", "0000000000000000"]),
    extensions,
    st.lists(lines, max_size=2).map("".join),
)
hostile = st.lists(
    st.builds("{}{}".format, heads, st.one_of(st.just(""), st.just("abc"), bodies)), max_size=3
).map(lambda parts: "".join(parts).encode("latin-1"))


@given(st.one_of(hostile, streams.map(lambda s: b"".join(m.raw for m in s))), st.data(), cut_lists)
@settings(max_examples=examples(400))
def test_nearly_right_requests_are_read_the_same(
    data: bytes, more: st.DataObject, cuts: list[int]
) -> None:
    assert_no_difference([data])
    assert_no_difference(split(more.draw(damage(data)), cuts))


@given(st.sampled_from(CASES), st.data(), cut_lists)
@settings(max_examples=examples(400))
def test_damaged_files_of_the_corpus_are_read_the_same(
    case: Case, more: st.DataObject, cuts: list[int]
) -> None:
    damaged_once = more.draw(damage(case.data[:3000]))
    assert_no_difference(split(damaged_once, cuts), Limits(**case.limits))


@given(st.one_of(wild, damaged(), hostile), cut_lists, small_limits)
@settings(max_examples=examples(400))
def test_limits_are_the_same(data: bytes, cuts: list[int], limits: Limits) -> None:
    assert_no_difference(split(data, cuts), limits)


# The readers alone.

fields = st.lists(
    st.tuples(names, spaces, own_values.map(lambda value: value.strip(" \t")), spaces), max_size=6
)


@given(fields, st.booleans())
@properties
def test_any_sound_fields_are_found(fields: list[tuple[str, str, str, str]], chunked: bool) -> None:
    """Whatever their names are: what frames a message is not the reader's concern."""
    framing = ("host", "content-length", "transfer-encoding")
    fields = [field for field in fields if field[0].lower() not in framing]
    fields.append(("Transfer-Encoding", " ", "chunked", "") if chunked else ("X", "", "", ""))
    fields.append(("Host", "", "a", ""))
    section = "1.1" + "".join(f"\r\n{n}:{before}{v}{after}" for n, before, v, after in fields)
    expected = [(name.lower().encode(), value.encode("latin-1")) for name, _, value, _ in fields]
    for reader in READERS:
        assert reader.fields(section.encode("latin-1")) == expected


# Simple lines, which no library is asked for: what each would say.


def lines_of(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\r\n") if match_simple_line(line)]


def assert_read_as_we_do(reader: Reader, simple: list[bytes]) -> None:
    """A reader splits lines at the colon, and takes the spaces around the value away."""
    assert simple
    for start in range(0, len(simple), 5000):
        lines = simple[start : start + 5000]
        ours = []
        for line in lines:
            match = match_simple_line(line)
            assert match is not None
            assert match_field_line(line)
            ours.append((match[1].lower(), match[2].rstrip(b" ")))
        assert reader.fields(b"\r\n".join([b"1.1", *lines])) == ours


@each_reader
def test_simple_lines_of_each_form_are_read_as_we_do(reader: Reader) -> None:
    """All lines of up to seven bytes of each kind that the grammar tells apart.

    They are: letters of a token, the colon, the space, and what may be in a value only.
    """
    every = (
        bytes(line) for size in range(1, 8) for line in itertools.product(b"a: (", repeat=size)
    )
    assert_read_as_we_do(reader, [line for line in every if match_simple_line(line)])


@each_reader
def test_every_byte_of_a_simple_line_is_read_as_we_do(reader: Reader) -> None:
    forms = (b"%b:", b"%b%b: a", b"a%b: a", b"a:%b", b"a: %b", b"a:b%b", b"a: %b ", b"a: b%bc %b")
    bytes_of_each = (bytes([byte]) for byte in range(256))
    lines = [form.replace(b"%b", byte) for byte in bytes_of_each for form in forms]
    simple = [line for line in lines if match_simple_line(line)]
    assert {byte for line in simple for byte in line} == {*range(0x20, 0x7F)}
    assert_read_as_we_do(reader, simple)


simple_names = st.one_of(own_names, st.sampled_from(KNOWN_NAMES.split()))
simple_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))


@given(st.lists(st.builds("{}:{}".format, simple_names, simple_values), min_size=1, max_size=20))
@settings(max_examples=examples(400))
def test_any_simple_lines_are_read_as_we_do(lines: list[str]) -> None:
    for reader in READERS:
        assert_read_as_we_do(reader, [line.encode() for line in lines])


@each_reader
def test_simple_lines_of_hostile_requests_are_read_as_we_do(reader: Reader) -> None:
    data = [*(case.data for case in CASES), *(technique.data for technique in TECHNIQUES)]
    assert_read_as_we_do(reader, [line for request in data for line in lines_of(request)])


@each_reader
@pytest.mark.parametrize("section", [b"1.1\r\nHost : a", b"1.1\r\nHost: a\r\nX: \0", b"1.1\r\n"])
def test_an_error_in_a_section_becomes_a_refusal(reader: Reader, section: bytes) -> None:
    # Nothing that passes our own rules is known to fail there; another release may be stricter.
    with pytest.raises(Refusal) as caught:
        reader.fields(section)
    assert caught.value.status == 400
    assert caught.value.__cause__ is not None


@each_reader
def test_an_error_in_a_body_becomes_a_refusal(reader: Reader) -> None:
    with pytest.raises(Refusal) as caught:
        reader.chunk_decoder().decode(b"x\r\n")
    assert caught.value.status == 400
    assert caught.value.__cause__ is not None


@each_reader
def test_nothing_is_left_to_the_garbage_collector(reader: Reader) -> None:
    gc.collect()
    gc.disable()
    try:
        reader.fields(b"1.1\r\nHost: a")
        decoder = reader.chunk_decoder()
        assert decoder.decode(b"3\r\nabc") == b"abc"
        del decoder
        assert gc.collect() == 0
    finally:
        gc.enable()


# Which one it is.


def test_names() -> None:
    assert (find_reader("h11"), find_reader("httptools")) == (H11, HTTPTOOLS)
    assert (H11.name, HTTPTOOLS.name) == ("h11", "httptools")


def test_auto_takes_the_faster_one_where_it_is_installed(
    without_httptools: Callable[[], None],
) -> None:
    assert find_reader("auto") is HTTPTOOLS
    without_httptools()
    assert find_reader("auto") is H11


def test_what_is_missing_is_told(without_httptools: Callable[[], None]) -> None:
    without_httptools()
    with pytest.raises(ConfigError, match=r"^httptools is not installed.*aiowsgi-server\[speed\]"):
        find_reader("httptools")


@pytest.fixture
def without_httptools(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes it as if httptools were not installed."""

    def remove() -> None:
        monkeypatch.delitem(sys.modules, "aiowsgi.http.readers.httptools_reader")
        monkeypatch.setitem(sys.modules, "httptools", None)

    return remove


@pytest.mark.parametrize(("choice", "other"), [("h11", "httptools"), ("httptools", "h11")])
def test_the_other_library_is_not_loaded(choice: str, other: str) -> None:
    code = f"""
import sys
from aiowsgi.http.readers.choice import find_reader
from aiowsgi import serve
assert find_reader("{choice}").name == "{choice}"
sys.exit("{other}" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
