"""Fuzz the parser, or what writes responses, guided by coverage. Needs atheris to find inputs.

    python tests/fuzz_parser.py --seconds 60 [--target response] [--corpus DIR]
    python tests/fuzz_parser.py --replay finding-...

``parser`` holds bytes in pieces against the bytes in one piece, httptools against h11, what is
remembered against what is read, and all of that against a naive reader, h11 alone and urllib;
``response`` lets h11 read as a client what is made of an application's answer. An input that breaks
a rule is left in the current directory. Exit codes: 0, 1 with a finding, 2 without atheris.
"""

import argparse
import contextlib
import importlib
import random
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from corpus_files import decode, load_corpus

try:
    atheris: Any = importlib.import_module("atheris")
    instrumented = atheris.instrument_imports(include=["aiowsgi", "h11"])
except ImportError:
    atheris, instrumented = None, contextlib.nullcontext()
with instrumented:
    import h11

    import aiowsgi.http
    from aiowsgi.errors import ApplicationError, Refusal
    from aiowsgi.http.parser import Parser
    from aiowsgi.http.readers.h11_reader import H11
    from aiowsgi.http.readers.httptools_reader import HTTPTOOLS
    from aiowsgi.http.request import BodyData, Event, Limits, RequestHead
    from aiowsgi.http.response import ResponseEncoder, ResponseHeads
    from aiowsgi.http.sections import FieldSections
    from aiowsgi.wsgi.headers import check_fields, check_status

LONGEST_INPUT = 2048
# One input may take so many seconds: a safety net, for work is counted in steps. These are lines
# that run in the parser and in h11: for each byte, for each piece, and for each input.
PATIENCE = 10
STEPS_PER_BYTE, STEPS_PER_PIECE, STEPS_AT_LEAST = 50, 80, 1000
WATCHED = tuple(str(Path(str(module.__file__)).parent) for module in (aiowsgi.http, h11))

CONTROLS = {*range(9), *range(10, 32), 127}
STATUSES = {400, 413, 414, 417, 421, 431, 501, 505}
LIMITS = (
    Limits(),
    Limits(request_line=64, fields=3, field_size=48, head=200, body=24),
    Limits(request_line=40, fields=3, field_size=300, head=90, body=5),
    Limits(request_line=200, fields=12, field_size=32, head=400, body=1000),
)
# In the notation of the corpus.
TOKENS = r"""
    \r\n \r\n\r\n \r \n \x00 \t \x20 \x0b \x0c \x7f \x80 \x85 \xa0 \xff : , ; = " % \r\n\x20 : \x20
    GET\x20 POST\x20 CONNECT\x20 OPTIONS\x20*\x20 \x20HTTP/1.1\r\n \x20HTTP/1.0\r\n http:// https://
    [::1] [v1.a] [::ffff:1.2.3.4] :80 %2f @ # ? \r\nHost:\x20a\r\n \r\nContent-Length: \r\nExpect:
    \r\nTransfer-Encoding: \r\nConnection: Trailer: If-Match: Proxy-A: Cookie: 100-continue upgrade
    chunked gzip close keep-alive 3\r\nabc\r\n 1;a=b\r\n 0\r\n\r\n ffffffffffffffff
    200\x20OK 204\x20 304\x20 101\x20 999999999999999999 Date Server \x1d \x1e \x1f
"""


@dataclass(slots=True)
class Message:
    """One request as it came out of a parser; its ends are offsets in the stream."""

    start: int
    head: RequestHead
    body: bytes = b""
    end: int | None = None


class Reader:
    """A parser under watch: what it said, and what has to hold whenever it says something."""

    def __init__(self, limits: Limits, sections: FieldSections | None) -> None:
        self.parser = Parser(sections or FieldSections(limits, H11, header_map="dangerous"))
        self.limits = limits
        self.fed = 0
        self.messages: list[Message] = []
        self.status: int | None = None
        self.reason = ""

    @property
    def open(self) -> Message | None:
        """The request whose end has not come."""
        return self.messages[-1] if self.messages and self.messages[-1].end is None else None

    @property
    def state(self) -> tuple[object, ...]:
        """What the bytes alone decide, however they came, once no event is left."""
        return list(self.messages), self.status, self.parser.buffered, self.parser.has_begun

    def feed(self, data: bytes) -> None:
        self.parser.feed(data)
        self.fed += len(data)

    def take(self, most: int | None = None) -> None:
        """Take events: so many at most, or all that there are."""
        for _ in range(2 * self.parser.buffered + 3 if most is None else most):
            before, status = self.parser.buffered, None
            try:
                event = self.parser.next_event()
            except Refusal as refusal:
                event, status = None, refusal.status
                self.reason = refusal.reason
            assert self.status in (None, status), "another answer behind a refusal"
            self.status = status
            if event is None:
                self._check_waiting(before)
                return
            self._check_event(event, before - self.parser.buffered)
        assert most is not None, "more events than bytes"

    def take_end(self) -> None:
        """End the stream: a refusal inside a message, nothing between two."""
        count, inside = len(self.messages), self.open is not None or self.parser.has_begun
        expected = 400 if self.status is None and inside else self.status
        self.parser.feed_eof()
        self.take()
        assert (self.status, len(self.messages)) == (expected, count)

    def _check_event(self, event: Event, taken: int) -> None:
        message, limits = self.open, self.limits
        if isinstance(event, RequestHead):
            assert message is None, "a head inside a message"
            self.messages.append(Message(self.fed - self.parser.buffered - taken, event))
            assert len(event.section.fields) <= limits.fields
            # The empty lines before and behind the head are free.
            assert taken <= limits.head + 4
            if not (event.section.chunked or event.section.content_length):
                self.messages[-1].end = self.fed - self.parser.buffered
            return
        assert message is not None, "a body without a head"
        if isinstance(event, BodyData):
            assert 0 < len(event.data) <= taken
            message.body += event.data
            assert len(message.body) <= limits.body
        else:
            message.end = self.fed - self.parser.buffered

    def _check_waiting(self, before: int) -> None:
        """Nothing is lost or hoarded by a parser that waits for more bytes, or refuses them."""
        buffered, limits, message = self.parser.buffered, self.limits, self.open
        if self.status is not None:
            assert (self.status in STATUSES, buffered) == (True, 0)
        elif message is not None and message.head.section.chunked:
            assert buffered <= max(256, limits.field_size) + 1
        else:
            assert buffered == before, "bytes are gone without an event"
            assert buffered <= (limits.head + 3 if message is None else 0)
        # httptools keeps no trailers.
        if (connection := getattr(self.parser._decoder, "_connection", None)) is not None:
            trailers = connection.trailing_data[0]
            assert trailers.count(b"\n") <= limits.fields
            assert len(trailers) <= limits.fields * (limits.field_size + 2)


def count_steps(work: Callable[[], object]) -> int:
    """Return how many lines ran in the parser and in h11."""
    count = 0

    def on_call(frame: FrameType, event: str, argument: object) -> Any:
        return on_line if frame.f_code.co_filename.startswith(WATCHED) else None

    def on_line(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return on_line

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def pieces(data: bytes, way: int, chance: random.Random) -> list[bytes]:
    """Split byte by byte, or at random in pieces of up to 2 to 128 bytes, or of none."""
    result = []
    while data:
        size = chance.randint(0, 1 << way) if way else 1
        result.append(data[:size])
        data = data[size:]
    return result


def read(
    limits: Limits,
    split: list[bytes],
    chance: random.Random | None = None,
    sections: FieldSections | None = None,
) -> Reader:
    """Feed the pieces; take all events behind each, or by chance one or none, as if too busy."""
    reader = Reader(limits, sections)
    for piece in split:
        reader.feed(piece)
        reader.take(chance.choice((0, 1, None)) if chance else None)
    reader.take()
    return reader


def fuzz_parser(data: bytes) -> None:
    """Four bytes say under which limits and in which pieces the others are read."""
    if len(data) < 4:
        return
    limits, way, lazy, counted = LIMITS[data[0] & 3], data[1] & 7, data[1] & 8, data[1] < 16
    chance, data = random.Random(data[2] | data[3] << 8), data[4:]
    split = pieces(data, way, chance)
    if counted:
        steps = count_steps(lambda: read(limits, split))
        ceiling = STEPS_PER_BYTE * len(data) + STEPS_PER_PIECE * len(split) + STEPS_AT_LEAST
        assert steps <= ceiling, f"{steps} steps for {len(data)} bytes"
    whole = read(limits, [data])
    reader = read(limits, split, chance if lazy else None)
    assert reader.state == whole.state, "what is read depends on the pieces"
    sections = FieldSections(limits, HTTPTOOLS, header_map="dangerous")
    for _ in range(3):  # At the third time it remembers.
        other = read(limits, split, sections=sections)
        assert (other.state, other.reason) == (whole.state, reader.reason), "httptools differs"
    # Not at the end only, where later bytes may have made up for it.
    some = split[: chance.randint(0, len(split))]
    assert read(limits, some).state == read(limits, [b"".join(some)]).state, "it did so for a while"

    for message in whole.messages:
        check_message(data, message, refused=whole.status is not None)
        check_target(message.head)
    if whole.open is None and whole.status is None:
        rest = data[whole.fed - whole.parser.buffered :].removeprefix(b"\r\n")
        assert b"\r\n\r\n" not in rest, "a whole head, and neither an event nor a refusal"
    if whole.status is not None:
        whole.feed(b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n")
    whole.take_end()
    reader.take_end()


def read_naively(data: bytes) -> tuple[bytes, bytes | None]:
    """Read a message in the simplest way there is: return its body, and what is behind it.

    The body is what there is of it; what is behind it is None where the body is not whole.
    """
    head, _, data = data.partition(b"\r\n\r\n")
    lines = [line.split(b":", 1) for line in head.split(b"\r\n")[1:]]
    fields = [(name.lower(), value.strip(b" \t")) for name, value in lines]
    assert not any(CONTROLS & set(value) for _, value in fields)
    lengths = [value for name, value in fields if name == b"content-length"]
    lists = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    codings = [coding.strip(b" \t") for coding in b",".join(lists).split(b",")]
    codings = [coding for coding in codings if coding]
    if not codings:
        assert not lengths or (len(lengths) == 1 and lengths[0].isdigit())
        length = int(lengths[0]) if lengths else 0
        return data[:length], data[length:] if length <= len(data) else None
    assert (codings, lengths) == ([b"chunked"], [])
    body = b""
    while b"\r\n" in data:
        line, _, rest = data.partition(b"\r\n")
        digits, extension, _ = line.partition(b";")
        if extension:  # White space before it is to be read (RFC 9112 §7.1.1).
            digits = digits.rstrip(b" \t")
        if not digits or not set(digits) <= set(b"0123456789abcdefABCDEF"):
            break
        if not (size := int(digits, 16)):
            _, end, behind = data[len(line) :].partition(b"\r\n\r\n")
            return body, behind if end else None
        body += rest[:size]
        if rest[size : size + 2] != b"\r\n":
            break
        data = rest[size + 2 :]
    return body, None


def read_by_h11(connection: h11.Connection) -> tuple[bytes, bytes | None]:
    """Return the same of the body behind a head that h11 has read."""
    body, event = b"", None
    with contextlib.suppress(h11.RemoteProtocolError):
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
    return body, connection.trailing_data[0] if isinstance(event, h11.EndOfMessage) else None


# White space that recipients must read, lists with empty elements or in several fields, and sizes
# with many zeros.
H11_IS_STRICTER = re.compile(
    rb"[ \t];|\n0{4}|(?i:transfer-encoding:[ \t]*+(?!chunked[ \t]*+\r)|content-length:[ \t]*+0)"
)


def check_message(data: bytes, message: Message, *, refused: bool) -> None:
    """Two other readers find the same body and the same end.

    h11 is stricter in a few places: see ``H11_IS_STRICTER``.
    """
    # h11 does not know the empty line before a request that RFC 9112 §2.2 allows.
    alone, head = data[message.start :].removeprefix(b"\r\n"), message.head
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    connection.receive_data(alone)
    found = [read_naively(alone)]
    if H11_IS_STRICTER.search(alone) is None:
        request = connection.next_event()
        assert isinstance(request, h11.Request)
        # RFC 9110 §2.5: a higher minor version is served as 1.1.
        version = min(request.http_version, b"1.1")
        line = b"%b %b HTTP/%b" % (request.method, request.target, version)
        assert line == f"{head.method} {head.target} {head.section.version}".encode()
        # h11 writes the coding in lower case; a single value that is repeated counts once.
        fields = [
            (n, v.lower() if n == b"transfer-encoding" else v) for n, v in head.section.fields
        ]
        assert list(dict.fromkeys(fields)) == list(dict.fromkeys(request.headers))
        assert head.section.expect_continue == connection.they_are_waiting_for_100_continue
        found.append(read_by_h11(connection))
    for body, behind in found:
        if message.end is not None:
            assert (body, behind) == (message.body, data[message.end :])
        else:
            assert body == message.body or (refused and body.startswith(message.body))
            assert refused or behind is None, "it waits for what is there"
    # h11 knows no keep-alive in 1.0, and has states of its own for an upgrade.
    if head.section.version == "HTTP/1.1" and connection.their_state in (h11.DONE, h11.MUST_CLOSE):
        assert head.section.keep_alive == (connection.their_state is h11.DONE)


def check_target(head: RequestHead) -> None:
    """Behind the authority, or alone, the target is a URL with these parts."""
    sent, authority = head.target.removeprefix("*"), head.host or ""
    url = f"http://{authority}{sent}" if sent[:1] in ("", "/") else sent
    scheme, netloc, path, query, fragment = urlsplit(url)
    assert not {"@", "\\", " "} & {*authority}
    assert (scheme in ("http", "https"), netloc) == (True, authority)
    assert (query, fragment) == (head.query, "")
    assert path == head.path or (path, head.path) == ("", "/")


def fuzz_response(data: bytes) -> None:
    """One byte says how it was requested and how the body is given; status, fields, body follow."""
    if not data:
        return
    flags, (head, *body) = data[0], data[1:].split(b"\x1d")
    text = head.decode("utf-8", "surrogateescape") if flags & 1 else head.decode("latin-1")
    given, *items = text.split("\x1e")
    try:
        status = check_status(given)
        fields = check_fields([tuple(item.split("\x1f")) for item in items])
    except ApplicationError:
        return
    assert not set("\r\n\0") & set(status.join(part for field in fields for part in field))

    method, version = "HEAD" if flags & 2 else "GET", "HTTP/1.1" if flags & 4 else "HTTP/1.0"
    encoder = ResponseEncoder(
        ResponseHeads("Server: fuzzed\r\n"),
        method=method,
        version=version,
        keep_alive=flags & 8 == 8,
    )
    if flags & 16:  # The application returned a list.
        body = [b"".join(body)]
    raw = encoder.start(status, fields, len(body[0]) if flags & 16 else None)
    check_response_head(raw, status, fields)
    raw += b"".join(part for piece in body[:-1] for part in encoder.encode(piece))
    raw += b"".join(encoder.finish(body[-1] if body else b""))
    if encoder.status_code >= 200:
        check_as_client(raw, method, b"".join(body), encoder)


def check_response_head(raw: bytes, status: str, fields: list[tuple[str, str]]) -> None:
    """A head holds what was given, then fields of the server's, and nothing frames it twice."""
    first, *lines, empty, end = raw.decode("latin-1").split("\r\n")
    assert (first, empty, end) == (f"HTTP/1.1 {status}", "", "")
    lengthless = status[0] == "1" or status.startswith("204")  # RFC 9110 §8.6
    if lengthless:
        fields = [field for field in fields if field[0].lower() != "content-length"]
    assert lines[: len(fields)] == [f"{name}: {value}" for name, value in fields]
    own = [line.partition(":")[0].lower() for line in lines[len(fields) :]]
    names = [name.lower() for name, _ in fields]
    assert len(own) == len({*own} - {*names}), "a field is there already"
    assert {*own} <= {"content-length", "transfer-encoding", "connection", "server", "date"}
    framing = [name for name in names + own if name in ("content-length", "transfer-encoding")]
    assert len(framing) <= (0 if lengthless else 1)


def check_as_client(raw: bytes, method: str, body: bytes, encoder: ResponseEncoder) -> None:
    """Read the response as h11 does; the connection ends behind it unless it is kept."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 24)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    if not encoder.keep_alive:
        client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == encoder.status_code
    received, behind = read_by_h11(client)
    assert behind == (None if encoder.missing else b""), "another end than the client sees"
    assert encoder.missing or encoder.keep_alive == (client.their_state is h11.DONE)
    bodiless = method == "HEAD" or encoder.status_code in (204, 205, 304)
    assert received == (b"" if bodiless else body[: len(body) - encoder.excess])
    assert len(received) == encoder.body_size


def parser_seeds() -> Iterator[bytes]:
    for case in load_corpus():
        yield zlib.crc32(case.name.encode()).to_bytes(4, "little") + case.data


def response_seeds() -> Iterator[bytes]:
    answers = r"""
        200\x20OK\x1eX\x1f\xe9\x1eX\x1f\x1dabc\x1d\x1dde 101\x20\x1eContent-Length\x1f1\x1da
        404\x20\x1eContent-Length\x1f3\x1eDate\x1fx\x1eServer\x1fy\x1dab\x1dcdef
        200\x20\x1eContent-Length\x1f5\x1da 204\x20\x1econtent-length\x1f0\x1eX\x1f\x1dab
        304\x20\x1eContent-Length\x1f70
    """
    for flags in range(32):
        yield from (bytes([flags]) + decode(answer) for answer in answers.split())


TARGETS = {"parser": (fuzz_parser, parser_seeds), "response": (fuzz_response, response_seeds)}


def fuzz(target: str, seconds: int, corpus: Path, scratch: Path) -> None:
    """Fuzz. Does not return: the fuzzer ends the process, and cleans nothing up."""
    test, seeds = TARGETS[target]
    folder, dictionary = scratch / "seeds", scratch / "tokens"
    folder.mkdir()
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        if len(seed) <= LONGEST_INPUT:
            (folder / f"{number}").write_bytes(seed)
    tokens = ["".join(f"\\x{byte:02x}" for byte in decode(token)) for token in TOKENS.split()]
    dictionary.write_text("".join(f'"{token}"\n' for token in tokens))
    flags = f"""
        -max_total_time={seconds} -max_len={LONGEST_INPUT} -timeout={PATIENCE}
        -dict={dictionary} -artifact_prefix=finding-{target}- -print_final_stats=1
    """
    atheris.Setup([sys.argv[0], *flags.split(), str(corpus), str(folder)], test)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--target", choices=TARGETS, default="parser")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="where new inputs are kept")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="show what one input breaks")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)  # In the child only.
    options = parser.parse_args()
    if options.replay:
        TARGETS[options.target][0](options.replay.read_bytes())
        print("no rule is broken")
        return 0
    if atheris is None:
        print("atheris is missing: pip install atheris (CPython 3.11 to 3.13)", file=sys.stderr)
        return 2
    if options.scratch:
        corpus = options.corpus or options.scratch / "corpus"
        fuzz(options.target, options.seconds, corpus, options.scratch)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, *sys.argv, "--scratch", scratch]
        # A fuzzer that does not end in time is a finding too.
        limit = options.seconds + PATIENCE + 60
        return int(subprocess.run(command, timeout=limit, check=False).returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
