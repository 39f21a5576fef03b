"""What a parser yields, and the limits it holds a client to. Data only."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Ceilings on one request, in bytes; ``fields`` is a count."""

    request_line: int = 8190
    fields: int = 100
    field_size: int = 8190
    head: int = 1 << 16
    body: int = 1 << 30


class RequestHead(NamedTuple):
    """A request head that passed every check, with the decisions taken from it.

    A named tuple, because one is made for every request and a frozen dataclass costs three times
    as much to make.
    """

    method: str
    # As sent, percent-encoded.
    target: str
    # "HTTP/1.1" or "HTTP/1.0".
    version: str
    # Lower-case names, in order; values without the white space around them.
    fields: list[tuple[bytes, bytes]]
    # Of the target, percent-encoded; empty for ``OPTIONS *``.
    path: str
    query: str
    # The effective authority: of an absolute-form target, else the Host field (RFC 9112 §3.3).
    host: str | None
    # None where no Content-Length was sent.
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool


class BodyData(NamedTuple):
    """Bytes of a request body, decoded from their transfer coding; never empty."""

    data: bytes


class EndOfMessage(NamedTuple):
    """The request is complete. What follows belongs to the next one."""


Event = RequestHead | BodyData | EndOfMessage
