"""Every raw request of tests/corpus gives the same verdict, however its bytes are split.

With each library that may read it.
"""

import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from corpus_files import Case, CorpusError, ExpectedRequest, decode, load_corpus, parse_case
from extent import EXHAUSTIVE
from grouped import in_one_test
from http_streams import each_reader, ends_request, new_parser

from aiowsgi.errors import Refusal
from aiowsgi.http.parser import Parser
from aiowsgi.http.readers.reader import Reader
from aiowsgi.http.request import BodyData, EndOfMessage, Limits, RequestHead

CASES = load_corpus()
RANDOM_SPLITS = 6
STATUSES = {400, 413, 414, 417, 421, 431, 501, 505}
VALID_REQUEST = b"GET /behind HTTP/1.1\r\nHost: example.com\r\n\r\n"

# Each has to be named in the comment of at least one file.
ADVISORIES = (
    "CVE-2024-1135",
    "CVE-2024-6827",
    "CVE-2024-41671",
    "CVE-2024-49768",
    "CVE-2024-52304",
    "CVE-2025-14550",
    "CVE-2025-43859",
    "CVE-2025-53643",
    "CVE-2025-58068",
    "CVE-2025-69225",
    "CVE-2025-69228",
    "CVE-2025-69229",
    "CVE-2026-42544",
    "CVE-2026-48710",
    "CVE-2026-54282",
)


@dataclass(slots=True)
class Seen:
    """One request as it came out of the parser, its body in one piece."""

    head: RequestHead
    body: bytes = b""
    complete: bool = False


@dataclass(slots=True)
class Outcome:
    """What a stream of bytes came to."""

    requests: list[Seen] = field(default_factory=list)
    status: int | None = None


def run(case: Case, pieces: Iterable[tuple[bytes, bool]], reader: Reader) -> tuple[Parser, Outcome]:
    """Feed the pieces to a new parser; ask for events behind each piece that is marked."""
    parser, outcome = new_parser(Limits(**case.limits), reader), Outcome()
    for piece, ask in pieces:
        parser.feed(piece)
        if ask:
            take_events(parser, outcome)
    take_events(parser, outcome)
    return parser, outcome


def take_events(parser: Parser, outcome: Outcome) -> None:
    """Take events until the parser wants more bytes or refuses. Their order is checked here."""
    requests = outcome.requests
    while True:
        try:
            event = parser.next_event()
        except Refusal as refusal:
            outcome.status = refusal.status
            return
        if event is None:
            return
        assert outcome.status is None, f"{event} behind a refusal"
        open_request = requests[-1] if requests and not requests[-1].complete else None
        if isinstance(event, RequestHead):
            assert open_request is None, "a head inside a message"
            requests.append(Seen(event, complete=ends_request(event)))
            continue
        assert open_request is not None, f"{event} outside a message"
        if isinstance(event, BodyData):
            assert event.data, "body data without data"
            open_request.body += event.data
        else:
            assert isinstance(event, EndOfMessage)
            open_request.complete = True


def whole(data: bytes) -> Iterator[tuple[bytes, bool]]:
    yield data, True


def byte_by_byte(data: bytes) -> Iterator[tuple[bytes, bool]]:
    return ((data[i : i + 1], True) for i in range(len(data)))


def at_random(data: bytes, chance: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Split anywhere, now and then in very small pieces; ask for events only some of the time."""
    start = 0
    while start < len(data):
        longest = chance.choice((1, 2, 7, 40, 400, 5000))
        end = start + chance.randint(1, longest)
        yield data[start:end], chance.random() < 0.7
        start = end


def check_request(expected: ExpectedRequest, seen: Seen) -> None:
    assert (seen.head.method, seen.head.target) == (expected.method, expected.target)
    assert seen.complete is expected.complete
    if expected.body is not None:
        assert seen.body == expected.body
    for key, value in expected.assertions:
        check_assertion(seen.head, key, value)


def check_assertion(head: RequestHead, key: str, value: str) -> None:
    if key == "field":
        name, _, field_value = value.partition(":")
        assert (name.encode("ascii"), decode(field_value.strip())) in head.section.fields
    elif key == "field-count":
        assert len(head.section.fields) == int(value)
    else:
        assert described(head)[key] == (decode(value).decode("ascii") if value else "")


def described(head: RequestHead) -> dict[str, str]:
    """Return what was decided about a head in the words of the corpus."""

    def word(value: str | int | bool | None) -> str:
        if value is None:
            return "<none>"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return str(value)

    return {
        "version": word(head.section.version),
        "host": word(head.host),
        "path": word(head.path),
        "query": word(head.query),
        "content-length": word(head.section.content_length),
        "chunked": word(head.section.chunked),
        "keep-alive": word(head.section.keep_alive),
        "expect-continue": word(head.section.expect_continue),
    }


def check_outcome(case: Case, outcome: Outcome) -> None:
    assert outcome.status == case.status
    assert [(seen.head.method, seen.head.target) for seen in outcome.requests] == [
        (expected.method, expected.target) for expected in case.requests
    ]
    for expected, seen in zip(case.requests, outcome.requests, strict=True):
        check_request(expected, seen)


def check_end_of_stream(case: Case, parser: Parser) -> None:
    """The client half-closes: no error between two messages, a 400 inside one."""
    parser.feed_eof()
    if case.end == "idle":
        assert parser.next_event() is None
        return
    with pytest.raises(Refusal) as caught:
        parser.next_event()
    assert caught.value.status == (400 if case.status is None else case.status)


def check_nothing_behind(parser: Parser, status: int) -> None:
    """A refused connection stays refused, though a sound request follows."""
    for _ in range(3):
        parser.feed(VALID_REQUEST)
        with pytest.raises(Refusal) as caught:
            parser.next_event()
        assert caught.value.status == status


def each(cases: Sequence[Case]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have a test try each of the cases, which a failure names."""
    return in_one_test("case", cases, ids=lambda case: case.name)


each_case = each(CASES)
some_cases = each(CASES if EXHAUSTIVE else CASES[::10])


@each_reader
@each_case
def test_whole(case: Case, reader: Reader) -> None:
    parser, outcome = run(case, whole(case.data), reader)
    check_outcome(case, outcome)
    check_end_of_stream(case, parser)


@each_reader
@some_cases
def test_byte_by_byte_gives_the_same(case: Case, reader: Reader) -> None:
    parser, outcome = run(case, byte_by_byte(case.data), reader)
    check_outcome(case, outcome)
    assert outcome == run(case, whole(case.data), reader)[1]
    if case.status is not None:
        check_nothing_behind(parser, case.status)
    check_end_of_stream(case, parser)


@each_reader
@some_cases
def test_random_splits_give_the_same(case: Case, reader: Reader) -> None:
    expected = run(case, whole(case.data), reader)[1]
    for number in range(RANDOM_SPLITS):
        # Seeded by the name, so that another file does not move the splits of this one.
        chance = random.Random(zlib.crc32(case.name.encode()) + number)
        parser, outcome = run(case, at_random(case.data, chance), reader)
        assert outcome == expected, f"split number {number}"
        check_outcome(case, outcome)
        check_end_of_stream(case, parser)


@each_reader
@each([case for case in CASES if case.end == "refused"])
def test_nothing_behind_a_refusal_is_parsed(case: Case, reader: Reader) -> None:
    assert case.status is not None
    parser, outcome = run(case, whole(case.data), reader)
    assert outcome.status == case.status
    check_nothing_behind(parser, case.status)
    # In one piece with the offending bytes: what is behind them changes nothing. An unfinished
    # line goes on with the first bytes of the request, so its own end is put between.
    ends_a_line = case.data.endswith(b"\r\n")
    behind = VALID_REQUEST if ends_a_line else b"\r\n\r\n" + VALID_REQUEST
    assert run(case, whole(case.data + behind), reader)[1] == outcome


@each_reader
@each([case for case in CASES if case.end == "idle"])
def test_a_valid_stream_goes_on(case: Case, reader: Reader) -> None:
    # An empty line before the next request is allowed once, and some streams end with one already.
    limits = {**case.limits, "request_line": 8190, "fields": 3000, "head": 1 << 20}
    parser, outcome = run(
        replace(case, limits=limits), [(case.data, True), (VALID_REQUEST, True)], reader
    )
    assert outcome.status is None
    assert outcome.requests[-1].head.target == "/behind"
    assert len(outcome.requests) == len(case.requests) + 1
    assert parser.next_event() is None


def test_corpus_is_large_and_has_both_kinds() -> None:
    ends = Counter(case.end for case in CASES)
    assert len(CASES) >= 400
    assert ends["idle"] >= 120
    assert ends["incomplete"] >= 20
    assert ends["refused"] >= 200
    assert {case.status for case in CASES} == {None, *STATUSES}


def test_every_file_says_why() -> None:
    for case in CASES:
        assert len(case.why) >= 12, case.name
    # A reason in prose, not the name again.
    assert all(" " in case.why for case in CASES)


def test_every_stream_is_another_one() -> None:
    repeated = [
        stream
        for stream, count in Counter((c.data, tuple(c.limits.items())) for c in CASES).items()
        if count > 1
    ]
    assert repeated == []


@pytest.mark.parametrize("advisory", ADVISORIES)
def test_every_advisory_has_a_file(advisory: str) -> None:
    assert any(advisory in case.why for case in CASES)


@pytest.mark.parametrize("number", range(1, 18))
def test_every_gap_of_h11_has_a_file(number: int) -> None:
    assert any(re.search(rf"\bh11-{number}\b", case.why) for case in CASES)


# The reader of the files: a mistake in a file must not pass for an expectation.


def test_escapes_and_repetitions_are_decoded() -> None:
    assert decode(r'a\r\n\t\\\{\x00\xFf{"ab\n" * 2}}') == b"a\r\n\t\\{\x00\xffab\nab\n}"


@pytest.mark.parametrize(
    "text", ["\\q", "\\x1", "{", '{"a" * 0}', '{"a"}', "é", "\t", "\\"], ids=ascii
)
def test_what_cannot_be_read_is_no_data(text: str) -> None:
    with pytest.raises(ValueError, match="escape"):
        decode(text)


def test_a_file_is_read_into_a_case() -> None:
    case = parse_case(
        "area/name",
        "# Why it is\n# there.\n#\n# limits: fields=3 body=9\n"
        '# request: POST /x "a b"\n# keep-alive: no\n# begun: PUT /y\n# refused: 400\n'
        "\nPOST /x\\r\\n\n\n X\n",
    )
    assert case == Case(
        name="area/name",
        why="Why it is there.",
        data=b"POST /x\r\n X",
        limits={"fields": 3, "body": 9},
        requests=(
            ExpectedRequest("POST", "/x", b"a b", True, (("keep-alive", "no"),)),
            ExpectedRequest("PUT", "/y", None, False, ()),
        ),
        end="refused",
        status=400,
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("#\n# refused: 400\n\nx\n", "does not say why"),
        ("# why\n# refused: 400\n\nx\n", "no line with a single #"),
        ("# why\n#\n\nx\n", "nothing is expected"),
        ("# why\n#\n# refuesd: 400\n\nx\n", "not an expectation"),
        ("# why\n#\n# refused: 400\n# request: GET /\n\nx\n", "nothing may follow"),
        ("# why\n#\n# keep-alive: no\n# refused: 400\n\nx\n", "no request to belong to"),
        ("# why\n#\n# begun: GET /\n\nx\n", "has to end as"),
        ("# why\n#\n# begun: GET /\n# request: GET /\n\nx\n", "is the last one"),
        ("# why\n#\n# request: GET /\n# idle\n\nx\n", "without a request"),
        ("# why\n#\n# request: GET / body\n\nx\n", "not METHOD target"),
        ("# why\n#\n# refused: 400\n\nx \n", "cannot be seen"),
        ("# why\n#\n# refused: 400\n\nx", "no line break"),
    ],
)
def test_a_mistake_in_a_file_is_named(text: str, complaint: str) -> None:
    with pytest.raises(CorpusError, match=f"^area/name: .*{complaint}"):
        parse_case("area/name", text)
