"""Cached header sections: the cache changes no result, and has bounds."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from extent import examples
from grouped import in_one_test
from http_streams import (
    Message,
    cut_lists,
    damage,
    events,
    new_parser,
    properties,
    read,
    small_limits,
    split,
    streams,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from aiowsgi.errors import Refusal
from aiowsgi.http.forwarded.believing import Believing
from aiowsgi.http.forwarded.names import FOR, HOST
from aiowsgi.http.forwarded.policies import Dropping, ForwardedPolicy, Noticing
from aiowsgi.http.parser import Parser
from aiowsgi.http.readers.h11_reader import H11
from aiowsgi.http.request import BodyData, EndOfMessage, FieldSection, Limits, RequestHead
from aiowsgi.http.sections import FieldSections
from aiowsgi.wsgi.environ import base_environ, build_environ

SECTION = b"1.1\r\nHost: a"
MOST, LONGEST, MOST_FIELDS = 1024, 4096, 40
MOST_LINES, LONGEST_LINE = 1024, 200
MOST_HEADS = 256


def head_bytes(start: bytes = b"GET /", section: bytes = SECTION) -> bytes:
    return start + b" HTTP/" + section + b"\r\n\r\n"


def warm(*requests: bytes, limits: Limits | None = None, times: int = 2) -> FieldSections:
    """Return what a server remembers that has read these, each on a connection of its own."""
    sections = FieldSections(limits or Limits(), H11, header_map="dangerous")
    for _ in range(times):
        for request in requests:
            read([request], Parser(sections))
    return sections


def first_head(sections: FieldSections, data: bytes) -> RequestHead:
    parser = Parser(sections)
    parser.feed(data)
    head = next(events(parser))
    assert isinstance(head, RequestHead)
    return head


def refusal(sections: FieldSections, data: bytes) -> Refusal:
    parser = Parser(sections)
    parser.feed(data)
    with pytest.raises(Refusal) as caught:
        parser.next_event()
    return caught.value


def last_word(parser: Parser) -> str:
    """Return what a parser that has no event left says: nothing, or its refusal."""
    try:
        assert parser.next_event() is None
    except Refusal as refusal:
        return str(refusal)
    return ""


# What is read does not depend on what is remembered.


@given(streams, st.data(), cut_lists, st.one_of(st.just(Limits()), small_limits))
@settings(max_examples=examples(400))
def test_what_is_remembered_changes_nothing(
    stream: list[Message], data: st.DataObject, cuts: list[int], limits: Limits
) -> None:
    """Neither for the same requests, nor for others that differ in one place."""
    sound = b"".join(message.raw for message in stream)
    sections = warm(*(message.raw for message in stream), limits=limits)
    for sent in (sound, data.draw(damage(sound))):
        expected_parser, expected, expected_status = read([sent], new_parser(limits))
        parser, seen, status = read(split(sent, cuts), Parser(sections))
        assert (seen, status) == (expected, expected_status)
        assert parser.buffered == expected_parser.buffered
        assert last_word(parser) == last_word(expected_parser)


@given(streams, st.integers(2, 4))
@properties
def test_a_connection_that_repeats_itself_is_read_the_same_each_time(
    stream: list[Message], times: int
) -> None:
    data = b"".join(message.raw for message in stream)
    _, once, _ = read([data])
    parser, seen, status = read([data * times])
    assert (seen, status) == (once * times, None)
    assert parser.buffered == 0


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET  /", 400),
        (b"GET / ", 400),
        (b"GET /\x80", 400),
        (b"GET /\n", 400),
        (b"GET", 400),
        (b"G@T /", 400),
        (b"GET /#", 400),
        (b"GET a", 400),
        (b"GET *", 400),
        (b"CONNECT /", 501),
        (b"CONNECT a:1", 501),
        (b"GET /" + b"a" * 60, 414),
    ],
)
def test_the_request_line_is_held_to_the_rules(start: bytes, status: int) -> None:
    limits = Limits(request_line=60)
    sections = warm(head_bytes(), limits=limits)
    assert sections.known
    assert refusal(sections, head_bytes(start)).status == status
    assert str(refusal(sections, head_bytes(start))) == str(
        refusal(FieldSections(limits, H11, header_map="dangerous"), head_bytes(start))
    )


def test_the_limit_of_the_head_holds_with_a_longer_request_line() -> None:
    limits = Limits(head=len(head_bytes()) + 1)
    sections = warm(head_bytes(), limits=limits)
    assert first_head(sections, head_bytes(b"GET /bcd")).target == "/bcd"
    assert refusal(sections, head_bytes(b"GET /bcde")).status == 431


def test_the_authority_of_a_target_is_not_remembered() -> None:
    sections = warm(head_bytes(b"GET http://b/"), head_bytes(), head_bytes(b"GET http://c/"))
    assert len(sections.known) == 1
    for start, host in [(b"GET /", "a"), (b"GET http://d/", "d"), (b"GET /", "a")]:
        assert first_head(sections, head_bytes(start)).host == host


def test_versions_are_told_apart() -> None:
    sections = warm(head_bytes(), head_bytes(section=b"1.0\r\nHost: a"))
    assert len(sections.known) == 2
    for version in ("1.1", "1.0"):
        section = first_head(
            sections, head_bytes(section=version.encode() + b"\r\nHost: a")
        ).section
        assert (section.version, section.keep_alive) == (f"HTTP/{version}", version == "1.1")


def test_each_body_is_decoded_anew() -> None:
    data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    sections = warm(data)
    assert sections.known
    first, second = Parser(sections), Parser(sections)
    first.feed(data + b"3\r\nab")
    second.feed(data + b"2\r\nxy\r\n0\r\n\r\n")
    for parser, expected in [(first, b"ab"), (second, b"xy")]:
        assert isinstance(parser.next_event(), RequestHead)
        assert parser.next_event() == BodyData(expected)
    assert second.next_event() == EndOfMessage()
    assert first.next_event() is None


# What is remembered, and for how long.


class CountedReads:
    """Makes a reader that notes the lines that it is asked for."""

    def __init__(self) -> None:
        self.lines: list[list[bytes]] = []
        self.reader = replace(H11, fields=self._fields)

    def _fields(self, section: bytes) -> list[tuple[bytes, bytes]]:
        self.lines.append(section.split(b"\r\n")[1:])
        return H11.fields(section)


def test_a_section_is_remembered_at_its_second_coming() -> None:
    reads = CountedReads()
    sections = FieldSections(Limits(), reads.reader, header_map="dangerous")
    seen = []
    for number in range(4):
        # On any connection, for any target, and however it is split.
        data = head_bytes(b"GET /%d" % number)
        _, stream, _ = read(split(data, [number * 7]), Parser(sections))
        assert isinstance(stream[0], RequestHead)
        seen.append(stream[0].section)
    assert seen[0] == seen[1]
    assert seen[0] is not seen[1]
    assert seen[1] is seen[2] is seen[3]


def place(line: bytes) -> int:
    """Return where the cache notes that a line was offered."""
    return hash(line) % MOST_LINES


HOST_PLACE = place(b"Host:\ta")


def test_library_reads_unusual_lines_until_they_have_come_twice() -> None:
    """If they are not in a section that is like the one before, as none here is."""
    reads = CountedReads()
    sections = FieldSections(Limits(), reads.reader, header_map="dangerous")
    # A line may take the place of another one among those that were offered. None does here.
    numbers = [number for number in range(99) if place(b"X-Number: \xff%d" % number) != HOST_PLACE]
    values = (b" " * size + b"b " for size in range(2, 99))
    accept = next(value for value in values if place(b"Accept:" + value) != HOST_PLACE)
    for number in numbers[:4]:
        section = b"1.1\r\nHost:\ta\r\nX-Number: \xff%d\r\nAccept:%b" % (number, accept)
        head = first_head(sections, head_bytes(section=section))
        number_line = (b"x-number", b"\xff%d" % number)
        assert head.section.fields == [(b"host", b"a"), number_line, (b"accept", b"b")]
    assert reads.lines == [
        [b"Host:\ta", b"X-Number: \xff%d" % numbers[0]],
        [b"Host:\ta", b"X-Number: \xff%d" % numbers[1]],
        [b"X-Number: \xff%d" % numbers[2]],
        [b"X-Number: \xff%d" % numbers[3]],
    ]


def test_no_library_is_asked_for_simple_lines() -> None:
    """What it would make of them is known: see test_readers."""
    reads = CountedReads()
    sections = FieldSections(Limits(), reads.reader, header_map="dangerous")
    section = SECTION + b"\r\nA:\r\n~:  \r\nB:!~ : ~ \r\nC: d"
    fields = first_head(sections, head_bytes(section=section)).section.fields
    expected = [(b"host", b"a"), (b"a", b""), (b"~", b""), (b"b", b"!~ : ~"), (b"c", b"d")]
    assert fields == expected
    assert reads.lines == []


def test_line_that_comes_twice_in_a_section_is_there_twice() -> None:
    sections = FieldSections(Limits(), H11, header_map="dangerous")
    for number in range(2):
        section = b"1.1\r\nHost: a\r\nX: %d\r\nX: %d\r\nY: b" % (number, number)
        fields = first_head(sections, head_bytes(section=section)).section.fields
        number_line = (b"x", b"%d" % number)
        assert fields == [(b"host", b"a"), number_line, number_line, (b"y", b"b")]


def test_lines_that_are_remembered_have_a_bound() -> None:
    sections = FieldSections(Limits(), H11, header_map="dangerous")
    known = sections._lines.known
    for number in range(MOST_LINES + 10):
        for other in range(2):
            section = b"1.1\r\nHost: a\r\nConnection: %d\r\nX-Forwarded-For: %d" % (number, other)
            first_head(sections, head_bytes(section=section))
            assert len(known) <= MOST_LINES
    # The oldest made room.
    assert b"Connection: 0" not in known
    assert b"Connection: %d" % (MOST_LINES + 9) in known


def test_lines_that_come_once_leave_nothing_behind() -> None:
    """Secrets, and the numbers of requests: they drive out no line that others send."""
    sections = warm(head_bytes())
    for number in range(3 * MOST_LINES):
        first_head(sections, head_bytes(section=SECTION + b"\r\nConnection: %d" % number))
    assert [*sections._lines.known] == [b"Host: a"]


@pytest.mark.parametrize(("length", "reads"), [(LONGEST_LINE, 2), (LONGEST_LINE + 1, 4)])
def test_long_lines_are_read_again(length: int, reads: int) -> None:
    counted = CountedReads()
    sections = FieldSections(Limits(), counted.reader, header_map="dangerous")
    line = b"X:\t".ljust(length, b"x")
    for number in range(4):
        section = b"1.1\r\nHost: a\r\n%b\r\nConnection: %d" % (line, number)
        first_head(sections, head_bytes(section=section))
    assert sum(line in lines for lines in counted.lines) == reads


def test_line_with_an_underscore_is_dropped_and_told_of_each_time() -> None:
    dropped: list[bytes] = []
    sections = FieldSections(Limits(), H11, header_map="drop", on_dropped=dropped.append)
    for number in range(3):
        section = b"1.1\r\nHost: a\r\nA_b:\t1\r\nX: %d\r\na_C: 2" % number
        fields = first_head(sections, head_bytes(section=section)).section.fields
        assert fields == [(b"host", b"a"), (b"x", b"%d" % number)]
    assert dropped == [b"a_b", b"a_c"] * 3


@pytest.mark.parametrize("malformed", [b"X : a", b"X", b" a", b"X: \0", b"X: a\rb", b"X: \x7f"])
def test_malformed_line_among_known_ones_is_refused(malformed: bytes) -> None:
    """Wherever it stands, and with the words of a server that knows nothing."""
    lines = [b"Host: a", b"A: b", b"C: d"]
    sections = FieldSections(Limits(), H11, header_map="dangerous")
    for number in range(3):
        sent = [b"1.1", *lines, b"Connection: %d" % number]
        first_head(sections, head_bytes(section=b"\r\n".join(sent)))
    assert {*sections._lines.known} == {*lines}
    # In place of a line, too: then there is a precedent.
    for start, end in [(1, 1), (2, 2), (3, 3), (1, 2), (2, 3)]:
        sent = [b"1.1", *lines[:start], malformed, *lines[end:], b"Connection: 0"]
        data = head_bytes(section=b"\r\n".join(sent))
        expected = refusal(FieldSections(Limits(), H11, header_map="dangerous"), data)
        assert str(refusal(sections, data)) == str(expected)


# What was decided once, for sections that differ in what decides nothing.

# Sound values of fields of each kind: from which nothing, the framing, the client is decided.
SOUND = {
    "Accept": ["a", "b, c", "\xff"],
    "Cookie": ["a=1", "a=2; b=3"],
    "Proxy": ["a", "b"],
    "A_b": ["a", "b"],
    "Host": ["a", "b.test:1"],
    "Connection": ["close", "keep-alive"],
    "Content-Length": ["4", "05"],
    "Transfer-Encoding": ["chunked", "Chunked"],
    "Expect": ["100-continue", ","],
    "Referer": ["a", "b"],
    "X-Forwarded-For": ["192.0.2.1", "192.0.2.2"],
    "X-Forwarded-Host": ["a", "b.test:1"],
}
white = st.sampled_from(["", " ", " ", " ", "\t"])
any_name = st.sampled_from([*SOUND])
any_value = st.sampled_from(["", "a", "6", "x, y", "\0", "a\rb", "gzip", "close", "100-continue"])


def line(name: str, before: str, value: str, behind: str) -> bytes:
    return f"{name}:{before}{value}{behind}".encode("latin-1")


def line_of(name: str) -> st.SearchStrategy[bytes]:
    return st.builds(line, st.just(name), white, st.sampled_from(SOUND[name]), white)


any_line = st.builds(line, any_name, white, any_value, white)


def policies() -> list[ForwardedPolicy | None]:
    names = frozenset((FOR, HOST))
    believing = Believing(names, lambda _: True, scheme="http", script_name="")
    return [None, Noticing(lambda _: None), Dropping(lambda _: None), believing]


def sections_with(header_map: str, policy: int) -> FieldSections:
    return FieldSections(Limits(body=5), H11, header_map=header_map, forwarded=policies()[policy])


def read_by(sections: FieldSections, data: bytes) -> tuple[Any, ...]:
    """Return all that is known of a section, or why it is refused."""
    parser = Parser(sections)
    parser.feed(data)
    try:
        head = parser.next_event()
    except Refusal as refusal:
        return refusal.status, str(refusal), refusal.told_client
    assert isinstance(head, RequestHead)
    environ = environ_of(head)
    del environ["wsgi.input"]
    return head, environ


@given(
    st.data(),
    st.lists(any_name, max_size=3),
    st.sampled_from(["drop", "refuse", "dangerous"]),
    st.sampled_from(range(4)),
)
@settings(max_examples=examples(1000))
def test_precedent_changes_nothing(
    data: st.DataObject, names: list[str], header_map: str, policy: int
) -> None:
    """Whichever lines are another one, and whatever is done with them."""

    sections = sections_with(header_map, policy)
    names = ["Host", *(name for name in names if name != "Host")]
    lines = [data.draw(line_of(name)) for name in names]
    read_by(sections, head_bytes(section=b"\r\n".join([b"1.1", *lines])))
    for _ in range(3):
        for place in data.draw(st.sets(st.integers(0, len(names) - 1), max_size=2)):
            same = line_of(names[place])
            lines[place] = data.draw(st.one_of(same, same, same, any_line))
        version = data.draw(st.sampled_from([b"1.1"] * 4 + [b"1.0", b"1.2"]))
        sent = head_bytes(section=b"\r\n".join([version, *lines]))
        assert read_by(sections, sent) == read_by(sections_with(header_map, policy), sent)


@in_one_test("header_map", ["drop", "refuse", "dangerous"])
@in_one_test("policy", range(4))
@in_one_test("name", SOUND)
def test_precedent_is_none_where_the_value_matters(name: str, policy: int, header_map: str) -> None:
    others = [f"{other}: {SOUND[other][0]}" for other in ("Host", "Cookie") if other != name]
    for values in permutations([*SOUND[name], ""], 2):
        sections = sections_with(header_map, policy)
        for value in values:
            sent = head_bytes(
                section="\r\n".join(["1.1", *others, f"{name}: {value}"]).encode("latin-1")
            )
            assert read_by(sections, sent) == read_by(sections_with(header_map, policy), sent)


def test_only_lines_that_differ_from_a_precedent_are_read() -> None:
    reads = CountedReads()
    sections = FieldSections(Limits(), reads.reader, header_map="drop")
    for number in range(3):
        section = b"1.1\r\nHost:\ta\r\nCookie: %d\r\nAccept: \xff" % number
        first_head(sections, head_bytes(section=section))
    assert reads.lines == [[b"Host:\ta", b"Accept: \xff"]]


def test_precedents_are_few_and_small() -> None:
    sections = FieldSections(Limits(), H11, header_map="drop")
    for fields in range(1, 60):
        for size in (10, 40, LONGEST // fields):
            lines = [b"X%d: %b" % (number, b"x" * size) for number in range(fields)]
            first_head(sections, head_bytes(section=b"\r\n".join([SECTION, *lines])))
    kept = sections._precedents.values()
    assert len(kept) <= MOST_FIELDS
    assert all(sum(map(len, precedent._sent)) <= LONGEST for precedent in kept)


def numbered(number: int) -> bytes:
    return head_bytes(section=b"1.1\r\nHost: a\r\nX: %d" % number)


def test_sections_that_come_once_leave_nothing_behind() -> None:
    sections = warm(head_bytes())
    assert len(sections.known) == 1
    for number in range(3 * MOST):
        first_head(sections, numbered(number))
    assert [*sections.known] == [SECTION]


def test_the_oldest_section_makes_room() -> None:
    sections = FieldSections(Limits(), H11, header_map="dangerous")
    for number in range(MOST + 3):
        for _ in range(2):
            first_head(sections, numbered(number))
    assert len(sections.known) == MOST
    assert next(iter(sections.known)) == b"1.1\r\nHost: a\r\nX: 3"
    assert b"1.1\r\nHost: a\r\nX: %d" % (MOST + 2) in sections.known


@pytest.mark.parametrize(("length", "remembered"), [(LONGEST, True), (LONGEST + 1, False)])
def test_a_long_section_is_not_remembered(length: int, remembered: bool) -> None:
    section = SECTION + b"\r\nX:"
    section += b"x" * (length - len(section))
    assert bool(warm(head_bytes(section=section)).known) is remembered


@pytest.mark.parametrize(("fields", "remembered"), [(MOST_FIELDS, True), (MOST_FIELDS + 1, False)])
def test_a_section_of_many_fields_is_not_remembered(fields: int, remembered: bool) -> None:
    section = SECTION + b"\r\nX: x" * (fields - 1)
    assert bool(warm(head_bytes(section=section)).known) is remembered


@pytest.mark.parametrize(
    "section",
    [
        b"1.1",
        b"2.0\r\nHost: a",
        b"1.1\r\nHost: a\r\nFrom: a\r\nFrom: b",
        b"1.1\r\nHost: a\r\nHost: a",
        b"1.1\r\nHost: a\r\nX : a",
        b"1.1\r\nHost: a\r\nX: \0",
        b"1.1\r\nHost: a\r\nContent-Length: x",
        b"1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
        b"1.1\r\nHost: a\r\nExpect: x",
        b"1.1\r\nHost: a" + b"\r\nX: a" * 100,
    ],
)
def test_what_is_refused_is_not_remembered(section: bytes) -> None:
    assert not warm(head_bytes(section=section), times=4).known


def test_a_refused_request_line_leaves_no_section_behind() -> None:
    assert not warm(head_bytes(b"GET /#"), head_bytes(b"CONNECT /"), times=4).known


def test_servers_share_nothing() -> None:
    assert warm(head_bytes()).known
    assert not FieldSections(Limits(), H11, header_map="dangerous").known


def read_or_refused(sections: FieldSections, data: bytes) -> RequestHead | str:
    try:
        return first_head(sections, data)
    except Refusal as refused:
        return str(refused)


@pytest.mark.parametrize(
    "start",
    [b"G%cT /", b"%cGET /", b"GET%c /", b"GET%c/", b"GET %c", b"GET /%c", b"GET /?%c", b"%c"],
)
def test_ordinary_request_lines_are_read_as_others_are(start: bytes) -> None:
    """With every byte in each place."""
    sections, in_full = (FieldSections(Limits(), H11, header_map="drop") for _ in range(2))
    in_full.max_unmeasured = -1
    for byte in range(256):
        data = head_bytes(start % byte)
        assert read_or_refused(sections, data) == read_or_refused(in_full, data)


@pytest.mark.parametrize("start", [b"CONNECT /", b"GET /a b", b"GET  /", b" /", b"GET", b""])
def test_request_lines_without_a_sound_path_are_not_taken_for_ordinary_ones(start: bytes) -> None:
    sections = warm(head_bytes())
    with pytest.raises(Refusal):
        first_head(sections, head_bytes(start))


# Whole heads.


def repeated(
    sections: FieldSections, *requests: bytes, times: int = 4, apart: bool = True
) -> list[RequestHead]:
    """Return the heads of requests that one connection repeats."""
    parser = Parser(sections)
    heads: list[RequestHead] = []
    for data in requests * times if apart else [b"".join(requests * times)]:
        parser.feed(data)
        heads += [event for event in events(parser) if isinstance(event, RequestHead)]
    return heads


def test_a_head_that_is_repeated_is_read_once() -> None:
    sections = warm(head_bytes())
    heads = repeated(sections, head_bytes(b"GET /%41?b"), times=6)
    assert all(head == heads[0] for head in heads)
    assert heads[-1] is heads[-2]
    assert [*sections.known_heads] == [head_bytes(b"GET /%41?b")]
    # Also by another connection.
    assert repeated(sections, head_bytes(b"GET /%41?b"), times=1) == [heads[-1]]


def test_a_head_that_begins_connection_after_connection_is_read_once() -> None:
    sections = warm(head_bytes())
    heads = [repeated(sections, head_bytes(b"GET /%41?b"), times=1)[0] for _ in range(5)]
    assert all(head == heads[0] for head in heads)
    assert heads[-1] is heads[-2]
    # Another one is not kept at once.
    other = head_bytes(b"GET /another")
    assert repeated(sections, other, times=1) == repeated(sections, other, times=1)
    assert [*sections.known_heads] == [head_bytes(b"GET /%41?b")]


@pytest.mark.parametrize(
    "requests",
    [
        [head_bytes(b"GET /"), head_bytes(b"GET /a")],
        [head_bytes(b"PUT /", b"1.1\r\nHost: a\r\nContent-Length: 1") + b"x"],
        [head_bytes(b"PUT /", b"1.1\r\nHost: a\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n"],
        [b"\r\n" + head_bytes(b"GET /")],
        [head_bytes(b"GET http://a/")],
    ],
)
def test_heads_that_are_not_repeated_or_not_alone_are_not_kept(requests: list[bytes]) -> None:
    sections = warm(*requests, times=4)
    assert len(repeated(sections, *requests, times=4)) == 4 * len(requests)
    assert not sections.known_heads


def test_heads_that_arrive_together_are_not_kept_and_known_ones_are_read_in_full() -> None:
    sections = warm(head_bytes())
    together = repeated(sections, head_bytes(), apart=False)
    assert not sections.known_heads
    assert repeated(sections, head_bytes()) == together
    assert sections.known_heads
    assert repeated(sections, head_bytes(), apart=False) == together


def test_heads_with_numbers_are_not_looked_for() -> None:
    sections = warm(head_bytes())
    repeated(sections, *(numbered(number) for number in range(100, 900)), times=1)
    assert not any(sections._heads._offered)


def test_heads_that_are_kept_are_few_and_small() -> None:
    sections = FieldSections(Limits(), H11, header_map="dangerous")
    size = len(head_bytes())
    for number in range(MOST_HEADS + 40):
        repeated(sections, head_bytes(b"GET /%d" % number))
    assert len(sections.known_heads) == MOST_HEADS
    fits, too_long = (head_bytes(b"GET /" + b"x" * (LONGEST - size + more)) for more in (0, 1))
    for data in (fits, too_long):
        repeated(sections, data)
    assert fits in sections.known_heads
    assert too_long not in sections.known_heads


def test_environs_of_one_head_differ_in_what_is_the_connections_own() -> None:
    sections = warm(head_bytes())
    heads = repeated(sections, head_bytes(b"GET /%41?x"), times=6)
    first, *others = map(environ_of, heads)
    assert heads[-1].is_kept
    assert heads[-1].environ is not None
    for environ in others:
        assert environ == {**first, "wsgi.input": environ["wsgi.input"]}
        environ["PATH_INFO"] = environ["mine"] = "changed by the application"
    other = build_environ(
        BASE, heads[-1], BytesIO(), scheme="https", server=("s2", "3"), client=("c2", "4")
    )
    told = {"SERVER_NAME": "s2", "SERVER_PORT": "3", "REMOTE_ADDR": "c2", "REMOTE_PORT": "4"}
    assert other == {**first, **told, "wsgi.url_scheme": "https", "wsgi.input": other["wsgi.input"]}


# The environ's part.

BASE = base_environ(software="x", multithread=True, multiprocess=False)


def environ_of(head: RequestHead) -> dict[str, Any]:
    return build_environ(BASE, head, BytesIO(), scheme="http", server=("s", "1"), client=("c", "2"))


def test_environs_of_one_section_differ_in_what_is_the_requests_own() -> None:
    sections = warm(head_bytes())
    first = environ_of(first_head(sections, head_bytes(b"GET http://b/%41?x")))
    first["HTTP_HOST"] = first["mine"] = "changed by the application"
    second = environ_of(first_head(sections, head_bytes(b"PUT /c?y")))
    assert "mine" not in second
    keys = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "RAW_URI", "HTTP_HOST")
    assert [second[key] for key in keys] == ["PUT", "/c", "y", "/c?y", "a"]
    fresh = new_parser()
    fresh.feed(head_bytes(b"PUT /c?y"))
    head = fresh.next_event()
    assert isinstance(head, RequestHead)
    del second["wsgi.input"]
    assert second.items() <= environ_of(head).items()


class Meeting(bytes):
    """A field value that is decoded only when so many threads are decoding it."""

    meet: Callable[[], object]

    def decode(self, *args: Any, **kwargs: Any) -> str:
        self.meet()
        return super().decode(*args, **kwargs)


def test_threads_may_make_the_environ_of_a_section_at_the_same_time() -> None:
    threads = 4
    value = Meeting(b"v")
    barrier = threading.Barrier(threads)
    value.meet = lambda: barrier.wait(10)
    section = FieldSection("HTTP/1.1", [(b"x", value)], "a", None, False, True, False)
    head = RequestHead("GET", "/", "/", "", "a", section)
    with ThreadPoolExecutor(threads) as pool:
        made = [*pool.map(lambda _: environ_of(head), range(threads))]
    assert len({id(environ) for environ in made}) == threads
    for environ in made:
        del environ["wsgi.input"]
        assert environ == made[0]
        assert environ["HTTP_X"] == "v"
    # And it is not made again.
    value.meet = lambda: pytest.fail("it was made again")
    assert environ_of(head)["HTTP_X"] == "v"


@pytest.mark.parametrize("field", [(b"content-length", b"6"), (b"x-length", b"5")])
def test_no_library_decides_how_a_body_is_framed(field: tuple[bytes, bytes]) -> None:
    """What it takes for the field of a line is what the line says."""
    wrong = replace(H11, fields=lambda _: [field])
    parser = Parser(FieldSections(Limits(), wrong, header_map="dangerous"))
    parser.feed(head_bytes(b"POST /", SECTION + b"\r\nContent-Length:\t5"))
    with pytest.raises(AssertionError):
        parser.next_event()


# Fields that cannot be repeated (RFC 9110 §5.3). Host and Content-Length: see test_framing.

SINGLETONS = [
    "Authorization",
    "Content-Location",
    "Content-Range",
    "Content-Type",
    "Date",
    "ETag",
    "From",
    "If-Modified-Since",
    "If-Range",
    "If-Unmodified-Since",
    "Last-Modified",
    "Max-Forwards",
    "Proxy-Authorization",
    "Range",
    "Referer",
    "User-Agent",
]


@pytest.mark.parametrize("name", SINGLETONS)
def test_a_singleton_counts_once_and_has_one_value(name: str) -> None:
    first, same, other = (
        f"{name}{rest}".encode() for rest in (": 1, a", ":\t1, a ", ": 1, b, \x22a\x22")
    )
    section = b"\r\n".join([SECTION, first, b"Via: x", same.lower(), b"Via: y"])
    fields = first_head(
        FieldSections(Limits(), H11, header_map="dangerous"), head_bytes(section=section)
    ).section.fields
    assert fields[0] == (b"host", b"a")
    assert fields[1:] == [(name.lower().encode(), b"1, a"), (b"via", b"x"), (b"via", b"y")]
    refused = refusal(
        FieldSections(Limits(), H11, header_map="dangerous"),
        head_bytes(section=b"\r\n".join([SECTION, first, other])),
    )
    assert (refused.status, name.lower() in str(refused)) == (400, True)


def test_the_documentation_names_all_singletons() -> None:
    page = (Path(__file__).parent.parent / "docs" / "http.md").read_text()
    paragraph = page.partition("These fields hold a single value:")[2].partition(".")[0]
    assert re.findall(r"`([^`]+)`", paragraph) == SINGLETONS


def test_refusal_shows_the_beginning_only_of_a_long_name() -> None:
    sections = FieldSections(Limits(), H11, header_map="refuse")
    section = SECTION + b"\r\nX_%b: 1" % (b"n" * 1000)
    reason = refusal(sections, head_bytes(section=section)).reason
    assert reason == f"the name of the header field x_{'n' * 98} holds an underscore"
