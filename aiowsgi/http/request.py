"""What a parser yields, the limits of a request, and the interface of a parser."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

# So many bytes of a request line are kept to show them if the request is refused.
MAX_SHOWN_LINE = 1024
# A header field: its name in lower case, and its value without the white space around it.
Field = tuple[bytes, bytes]
# The same as an environ has it (RFC 3875 §4.1.18): its key and its value.
MetaVariable = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one request, in bytes; ``fields`` is a number of fields."""

    request_line: int = 8190
    fields: int = 100
    field_size: int = 8190
    head: int = 1 << 16
    body: int = 1 << 30


@dataclass(slots=True)
class FieldSection:
    """The header section of a request, and what was decided from it.

    Requests with the same section share one of these objects. So it is never changed once it is
    read, except for ``environ``, which is set once.
    """

    # The version of HTTP, because it decides together with the fields. Our own clients speak
    # "HTTP/1.1" or "HTTP/1.0"; a web server in front may report any other that it speaks with its
    # clients.
    version: str
    # In the order in which they were sent, without those that the application must not see.
    fields: list[Field]
    # The Host field.
    host: str | None
    # None if no Content-Length was sent.
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    # The fields as an environ has them; None if that is not known yet.
    meta_variables: list[MetaVariable] | None = field(default=None, compare=False, repr=False)
    # The part of the environ that all requests with this section have in common; None before the
    # first of them.
    environ: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    # Values for the environ that follow from what proxies tell, which are trusted; else None.
    variables: Mapping[str, str] | None = None

    def with_fields(
        self, fields: list[Field], meta_variables: list[MetaVariable]
    ) -> "FieldSection":
        """Return a section of which all the same was decided."""
        return FieldSection(
            self.version,
            fields,
            self.host,
            self.content_length,
            self.chunked,
            self.keep_alive,
            self.expect_continue,
            meta_variables,
            None,
            self.variables,
        )


@dataclass(slots=True, init=False)
class RequestHead:
    """A request head that has passed every check.

    Requests with the same head may share one of these objects. So it is never changed once it is
    read, except for ``environ``, which is set once. It is not frozen: most requests have one of
    their own, and to make a frozen one takes three times as long.
    """

    method: str
    # As sent, percent-encoded.
    target: str
    # The parts of the target, percent-encoded; empty for ``OPTIONS *``.
    path: str
    query: str
    # The authority of a target in absolute-form, else the Host field (RFC 9112 §3.3).
    host: str | None
    section: FieldSection
    # Values for the environ from a web server in front, if its protocol can send such or it is
    # trusted. They replace what the server itself knows from the connection and the request.
    variables: Mapping[str, str] | None
    # Whether it is kept for further requests with the same head.
    is_kept: bool = field(compare=False, repr=False)
    # The part of the environ that all of them have in common; None before the first of them.
    environ: dict[str, Any] | None = field(compare=False, repr=False)

    # Written out: compiled code calls it without the interpreter, and not what dataclasses make.
    def __init__(
        self,
        method: str,
        target: str,
        path: str,
        query: str,
        host: str | None,
        section: FieldSection,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.host = host
        self.section = section
        self.variables = variables
        self.is_kept = False
        self.environ = None


class BodyData(NamedTuple):
    """Bytes of a request body, decoded from their transfer coding; never empty."""

    data: bytes
    # Whether the parser has more bytes that it has not looked at yet, because many chunks are much
    # work.
    more: bool = False


class EndOfMessage(NamedTuple):
    """The body is complete. What follows belongs to the next request.

    A request whose section announces no body is complete with its head, and has no such event.
    """


END_OF_MESSAGE: Final = EndOfMessage()
Event = RequestHead | BodyData | EndOfMessage


class RequestParser(ABC):
    """Parses the requests of one connection, one after the other: bytes in, events out. No I/O.

    After ``next_event`` has raised a Refusal, no further bytes are parsed.
    """

    # An abstract class, not a ``typing.Protocol``: compiled code finds its methods much faster.
    __slots__ = ()

    @property
    @abstractmethod
    def buffered(self) -> int:
        """How many bytes were fed and are not parsed yet."""

    @property
    @abstractmethod
    def has_begun(self) -> bool:
        """Whether bytes of another request have arrived, whose head is not complete."""

    @property
    @abstractmethod
    def request_line(self) -> str:
        """The request line of a head that is incomplete or refused, as far as it has arrived.

        It may hold any characters, and is cut short if it is long. Empty where what has arrived
        does not look like one: that must not be shown. ``drop`` does not change it.
        """

    @property
    def told_client(self) -> str:
        """The host of the client that a web server in front has named in a head that was refused.

        Empty where it has named none. It may hold any characters.
        """
        return ""

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Take bytes from the client."""

    @abstractmethod
    def feed_eof(self) -> None:
        """Take note that the client has ended its side of the connection."""

    @abstractmethod
    def drop(self) -> None:
        """Drop the bytes that are not parsed. ``next_event`` is not called any more."""

    @abstractmethod
    def next_event(self) -> Event | None:
        """Return the next event, or None if it needs more bytes.

        Raises Refusal if the client has broken the protocol or a limit. The end of the client's
        bytes is a Refusal with 400 in the middle of a request, and no event between two requests.
        """
