"""What a parser takes and yields, and the limits it holds a client to. Data, and an interface."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Of a header field: its name in lower case, and its value without the white space around it.
Field = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Ceilings on one request, in bytes; ``fields`` is a count."""

    request_line: int = 8190
    fields: int = 100
    field_size: int = 8190
    head: int = 1 << 16
    body: int = 1 << 30


@dataclass(slots=True)
class FieldSection:
    """What the header section of a request says, and the decisions taken from it.

    Requests that were sent with the same section share one of these, so nobody changes it, but for
    the place that belongs to the environ.
    """

    # "HTTP/1.1" or "HTTP/1.0", for it decides with the fields; any other that a web server in front
    # speaks with its clients.
    version: str
    # In the order in which they were sent; without those that the application must not see.
    fields: list[Field]
    # The Host field.
    host: str | None
    # None where no Content-Length was sent.
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    # What all environs of requests with this section have in common; None before the first one.
    environ: dict[str, Any] | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class RequestHead:
    """A request head that passed every check.

    Not frozen, because one is made for every request, and that would take three times as long.
    """

    method: str
    # As sent, percent-encoded.
    target: str
    # Of the target, percent-encoded; empty for ``OPTIONS *``.
    path: str
    query: str
    # The effective authority: of an absolute-form target, else the Host field (RFC 9112 §3.3).
    host: str | None
    section: FieldSection
    # What a web server in front has said of the environ, in a protocol that has place for it. It
    # counts more than what the connection and the request say themselves.
    variables: Mapping[str, str] | None = None


class BodyData(NamedTuple):
    """Bytes of a request body, decoded from their transfer coding; never empty."""

    data: bytes
    # Whether the parser has stopped here although there may be more: many chunks are much work.
    more: bool = False


class EndOfMessage(NamedTuple):
    """The request is complete. What follows belongs to the next one."""


Event = RequestHead | BodyData | EndOfMessage


class RequestParser(ABC):
    """Parses the requests of one connection, one after the other: bytes in, events out. No I/O.

    Once ``next_event`` has raised a Refusal, nothing behind the offending bytes is ever parsed.
    """

    # An abstract class and no protocol: compiled, its methods are found much faster.
    __slots__ = ()

    @property
    @abstractmethod
    def buffered(self) -> int:
        """How many bytes were fed and not parsed."""

    @property
    @abstractmethod
    def begun(self) -> bool:
        """Whether bytes of another request have arrived, which is not complete."""

    @property
    @abstractmethod
    def request_line(self) -> str:
        """What is known of a request line behind which there is no head, or none that is allowed.

        Anything may stand in it. It is cut short where it is long, and outlives ``drop``.
        """

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""

    @abstractmethod
    def feed_eof(self) -> None:
        """Take the end of the client's bytes: the connection is half-closed."""

    @abstractmethod
    def drop(self) -> None:
        """Forget the bytes that were not used: nobody asks for another event."""

    @abstractmethod
    def next_event(self) -> Event | None:
        """Return the next event, or None if it needs more bytes.

        Raises Refusal where the client broke the protocol or a limit. Between two messages the end
        of the stream is nothing special; inside a message it is a Refusal with 400.
        """
