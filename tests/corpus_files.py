"""The corpus of raw requests: files of tests/corpus as data. The format is in its README.md.

Knows nothing of a parser, so that any parser, or a server behind a socket, can be held to it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CORPUS = Path(__file__).parent / "corpus"

End = Literal["idle", "incomplete", "refused"]

# What may be said about a request, beside its method, target and body.
ASSERTIONS = frozenset(
    {
        "version",
        "host",
        "path",
        "query",
        "field",
        "field-count",
        "content-length",
        "chunked",
        "keep-alive",
        "expect-continue",
    }
)

_REPETITION = r'\{"(?:[^"\\]|\\.)*" \* [1-9][0-9]*\}'
_TOKEN = re.compile(
    rf"(?P<repetition>{_REPETITION})"
    r"|\\x(?P<hex>[0-9a-fA-F]{2})"
    r"|\\(?P<escape>[rnt\\{])"
    r"|(?P<plain>[^\\{])"
)
_REQUEST = re.compile(rf'(?P<method>\S+) (?P<target>(?:{_REPETITION}|\S)+)(?: "(?P<body>.*)")?')
_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\", "{": b"{"}


class CorpusError(ValueError):
    """A file of the corpus does not follow the format. The message names the file."""


@dataclass(frozen=True, slots=True)
class ExpectedRequest:
    """A request that the file promises: ``complete`` unless only its beginning is there.

    ``body`` is None where the file does not say how much of a broken body was handed out.
    """

    method: str
    target: str
    body: bytes | None
    complete: bool
    assertions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One file: the bytes, and what has to come of them."""

    name: str
    why: str
    data: bytes
    limits: dict[str, int]
    requests: tuple[ExpectedRequest, ...]
    end: End
    status: int | None


def decode(text: str) -> bytes:
    """Return the bytes that ``text`` describes. Raise ValueError where it is not readable ASCII."""
    decoded = bytearray()
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"neither an escape nor a repetition: {text[position:][:20]!r}")
        position = match.end()
        if match["plain"] is not None:
            if not (match["plain"].isascii() and match["plain"].isprintable()):
                raise ValueError(f"{match['plain']!r} has to be written as an escape")
            decoded += match["plain"].encode("ascii")
        elif match["hex"] is not None:
            decoded.append(int(match["hex"], 16))
        elif match["escape"] is not None:
            decoded += _ESCAPES[match["escape"]]
        else:
            repeated, _, times = match["repetition"][2:-1].rpartition('" * ')
            decoded += decode(repeated) * int(times)
    return bytes(decoded)


def parse_case(name: str, text: str) -> Case:
    """Return the case that a file describes. Raise CorpusError with the name of the file."""
    try:
        return _parse_case(name, text)
    except ValueError as error:
        raise CorpusError(f"{name}: {error}") from error


def load_corpus(folder: Path = CORPUS) -> list[Case]:
    """Return every case below ``folder``, sorted by name, which is ``area/file``."""
    return [
        parse_case(
            path.relative_to(folder).with_suffix("").as_posix(), path.read_text(encoding="utf-8")
        )
        for path in sorted(folder.glob("*/*.http"))
    ]


def _parse_case(name: str, text: str) -> Case:
    lines = text.split("\n")
    if lines[-1] != "":
        raise ValueError("the last line has no line break")
    for line in lines:
        if line != line.rstrip():
            raise ValueError(f"a space at the end cannot be seen; write \\x20 or \\t: {line!r}")
    head = [line[1:].strip() for line in _leading_comments(lines)]
    if "" not in head:
        raise ValueError("no line with a single # between the reason and the expectations")
    why = " ".join(head[: head.index("")])
    if not why:
        raise ValueError("the comment does not say why the file is there")

    limits: dict[str, int] = {}
    requests: list[ExpectedRequest] = []
    end: End = "idle"
    status: int | None = None
    for line in head[head.index("") + 1 :]:
        key, _, value = (part.strip() for part in line.partition(":"))
        if end != "idle":
            raise ValueError(f"nothing may follow the end: {line!r}")
        if key in ("request", "begun"):
            if requests and not requests[-1].complete:
                raise ValueError("a request that only begun is the last one")
            requests.append(_expected_request(value, complete=key == "request"))
        elif key in ASSERTIONS:
            requests[-1:] = [_with_assertion(requests, key, value)]
        elif key == "limits":
            limits.update((n, int(v)) for n, v in (pair.split("=") for pair in value.split()))
        elif key == "refused":
            end, status = "refused", int(value)
        elif key in ("incomplete", "idle") and not value:
            if key == "idle" and requests:
                raise ValueError("idle is for files without a request")
            end = "incomplete" if key == "incomplete" else "idle"
        else:
            raise ValueError(f"not an expectation: {line!r}")
    if end == "idle" and requests and not requests[-1].complete:
        raise ValueError("a request that only begun has to end as refused or incomplete")
    if end == "idle" and not requests and "idle" not in head:
        raise ValueError("nothing is expected")

    data = decode("".join(lines[len(head) :]))
    return Case(name, why, data, limits, tuple(requests), end, status)


def _leading_comments(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _expected_request(value: str, *, complete: bool) -> ExpectedRequest:
    if (match := _REQUEST.fullmatch(value)) is None:
        raise ValueError(f'not METHOD target "body": {value!r}')
    target = decode(match["target"]).decode("ascii")
    if match["body"] is not None:
        body: bytes | None = decode(match["body"])
    else:
        body = b"" if complete else None
    return ExpectedRequest(match["method"], target, body, complete, ())


def _with_assertion(requests: list[ExpectedRequest], key: str, value: str) -> ExpectedRequest:
    if not requests:
        raise ValueError(f"{key!r} has no request to belong to")
    last = requests[-1]
    return ExpectedRequest(
        last.method, last.target, last.body, last.complete, (*last.assertions, (key, value))
    )
