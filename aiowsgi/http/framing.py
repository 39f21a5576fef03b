"""What the header fields decide about a request: body length, persistence, expectation.

Plain data in, plain data or a Refusal out. The steps are numbered in their order. A request whose
end two recipients could find in different places is refused.
"""

import re

from ..errors import Refusal
from ..wording import counted
from .grammar import QUOTED_STRING, TOKEN
from .request import Field, FieldSection, Limits
from .target import is_authority

_LENGTH = re.compile(rb"[0-9]+")
# Digits without leading zeros. No body is as long as a longer number would say, and int() of a very
# long number would take long.
_LENGTH_DIGITS = 18

# The request fields that RFC 9110 defines as a single value, in lower case, without Host and
# Content-Length, which have rules of their own. Several fields with one of these names have no
# meaning (§5.3), and are dangerous if two recipients take different ones (§8.3).
_SINGLETONS = frozenset(
    b"authorization content-location content-range content-type date etag from if-modified-since "
    b"if-range if-unmodified-since last-modified max-forwards proxy-authorization range referer "
    b"user-agent".split()
)
# The fields whose values decide anything here. Of singletons it only counts whether they are
# repeated.
DECIDING = frozenset(b"connection content-length expect host transfer-encoding".split())

_CODING = (
    rf"({TOKEN})"
    rf"(?:[ \t]*+;[ \t]*+{TOKEN}[ \t]*+=[ \t]*+(?:{TOKEN}|{QUOTED_STRING}))*"
)
# RFC 9110 §5.6.1.2: recipients ignore empty elements of a list.
_CODING_LIST = re.compile(rf"[ \t]*+(?:{_CODING})?(?:[ \t]*+,[ \t]*+(?:{_CODING})?)*[ \t]*+")
_EACH_CODING = re.compile(_CODING)


def _list_members(values: list[bytes]) -> set[bytes]:
    """Return the members of a list (RFC 9110 §5.6.1) in lower case, without empty ones.

    For lists in which only tokens matter. A quoted string with a comma is split, too, but none of
    its parts is a token.
    """
    # The fields hold no white space other than spaces and tabs.
    members = set(map(bytes.strip, b",".join(values).lower().split(b",")))
    members.discard(b"")
    return members


def _values_of(name: bytes, fields: list[Field], values: dict[bytes, bytes]) -> list[bytes]:
    """Return the values of a field that was sent, in the order in which they were."""
    if len(values) == len(fields):  # No name comes twice.
        return [values[name]]
    return [value for other, value in fields if other == name]


def _check_host(hosts: list[bytes]) -> str:
    if len(hosts) > 1:
        raise Refusal(400, "more than one Host field")
    host = hosts[0].decode("latin-1")
    if not is_authority(host):
        raise Refusal(400, "the Host field is not host[:port]")
    return host


def _check_transfer_encoding(version: str, values: list[bytes]) -> None:
    if version == "HTTP/1.0":
        # RFC 9112 §6.1: this is faulty framing, even if Content-Length is sent too.
        raise Refusal(400, "Transfer-Encoding in an HTTP/1.0 request")
    # RFC 9110 §5.3: several fields are one list.
    value = b",".join(values).decode("latin-1")
    if value.lower() == "chunked":
        return
    if _CODING_LIST.fullmatch(value) is None:
        raise Refusal(400, "Transfer-Encoding is not a list of transfer codings")
    codings = [(match[0].lower(), match[1].lower()) for match in _EACH_CODING.finditer(value)]
    # RFC 9112 §6.3, step 4: if chunked is not the last coding, the end of the body is not known.
    # Chunked has no parameters (§7.1), and is applied once (§6.1).
    if not codings or codings[-1][0] != "chunked":
        raise Refusal(400, "the last transfer coding is not chunked")
    if any(name == "chunked" for _, name in codings[:-1]):
        raise Refusal(400, "the transfer coding chunked is applied more than once")
    if len(codings) > 1:
        raise Refusal(501, "the only transfer coding understood is chunked")


def _check_content_length(values: list[bytes], limits: Limits) -> int:
    # RFC 9110 §8.6 allows to refuse equal values or to merge them. If they are refused, recipients
    # cannot disagree.
    if len(values) > 1:
        raise Refusal(400, "more than one Content-Length field")
    if _LENGTH.fullmatch(values[0]) is None:
        raise Refusal(400, "Content-Length is not a decimal number")
    digits = values[0].lstrip(b"0")
    length = int(digits or b"0") if len(digits) <= _LENGTH_DIGITS else None
    if length is None or length > limits.body:
        raise Refusal(413, f"the request body is longer than {counted(limits.body, 'byte')}")
    return length


def without_repetitions(fields: list[Field]) -> list[Field]:
    """Return the fields without repetitions of fields that may be sent once only.

    Raises Refusal with 400 if such a field was sent with different values, because each recipient
    could take another one.
    """
    first: dict[bytes, bytes] = {}
    unique: list[Field] = []
    for name, value in fields:
        if name in _SINGLETONS:
            if name in first:
                if first[name] != value:
                    raise Refusal(400, f"more than one {name.decode()} field")
                continue
            first[name] = value
        unique.append((name, value))
    return unique


def decide_framing(
    version: str, fields: list[Field], values: dict[bytes, bytes], limits: Limits
) -> FieldSection:
    """Return a header section, and what its fields decide about the request.

    ``values`` holds the value of one field of each name. Raises Refusal with 400, 413, 417 or 501.
    """
    # 1. Host (RFC 9112 §3.2): exactly one in HTTP/1.1, and no malformed one in any version.
    host: str | None = None
    if b"host" in values:
        host = _check_host(_values_of(b"host", fields, values))
    elif version == "HTTP/1.1":
        raise Refusal(400, "a request in HTTP/1.1 needs a Host field")

    # 2. Body length (RFC 9112 §6.3). Attackers send both fields to smuggle requests (§11.2).
    content_length: int | None = None
    chunked = b"transfer-encoding" in values
    if chunked:
        if b"content-length" in values:
            raise Refusal(400, "Transfer-Encoding together with Content-Length")
        _check_transfer_encoding(version, _values_of(b"transfer-encoding", fields, values))
    elif b"content-length" in values:
        lengths = _values_of(b"content-length", fields, values)
        content_length = _check_content_length(lengths, limits)

    # 3. Persistence (RFC 9112 §9.3).
    keep_alive = version == "HTTP/1.1"
    if b"connection" in values:
        tokens = _list_members(_values_of(b"connection", fields, values))
        keep_alive = b"close" not in tokens and (keep_alive or b"keep-alive" in tokens)

    # 4. Expectation (RFC 9110 §10.1.1). It is ignored in HTTP/1.0, which knows no 100.
    expect_continue = False
    if b"expect" in values and version == "HTTP/1.1":
        members = _list_members(_values_of(b"expect", fields, values))
        if members - {b"100-continue"}:
            raise Refusal(417, "the only expectation that can be met is 100-continue")
        expect_continue = bool(members)

    return FieldSection(version, fields, host, content_length, chunked, keep_alive, expect_continue)
