"""What a request head decides about its message: body length, persistence, expectation.

Plain data in, plain data or a Refusal out. The steps are numbered in the order in which they are
taken; a message that two recipients could frame differently is refused, never interpreted.
"""

import re
from typing import NamedTuple

from ..errors import Refusal
from .request import Limits
from .target import is_authority

# A length above 18 digits is no length; int() of attackers' digits stays cheap.
_LENGTH = re.compile(r"[0-9]{1,18}")


class RequestFraming(NamedTuple):
    host: str | None
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool


def _check_host(version: str, hosts: list[str]) -> str | None:
    # RFC 9112 §3.2: exactly one Host in HTTP/1.1, and no malformed one in any version.
    if len(hosts) > 1:
        raise Refusal(400, "more than one Host field")
    if not hosts:
        if version == "HTTP/1.1":
            raise Refusal(400, "a request in HTTP/1.1 needs a Host field")
        return None
    if not is_authority(hosts[0]):
        raise Refusal(400, "the Host field is not host[:port]")
    return hosts[0]


def _check_transfer_encoding(version: str, values: list[str]) -> None:
    if version == "HTTP/1.0":
        # RFC 9112 §6.1: faulty framing, even where Content-Length is sent too.
        raise Refusal(400, "Transfer-Encoding in an HTTP/1.0 request")
    codings = [coding.strip(" \t").lower() for value in values for coding in value.split(",")]
    if "" in codings:
        raise Refusal(400, "Transfer-Encoding holds an empty coding")
    if "chunked" in codings[:-1]:
        raise Refusal(400, "chunked must be the last transfer coding, and be applied once")
    if codings != ["chunked"]:
        raise Refusal(501, "the only transfer coding understood is chunked")


def _check_content_length(values: list[str], limits: Limits) -> int:
    # RFC 9112 §6.3 allows to merge equal values; refusing them leaves no room for disagreement.
    if len(values) > 1:
        raise Refusal(400, "more than one Content-Length field")
    if _LENGTH.fullmatch(values[0]) is None:
        raise Refusal(400, "Content-Length is not a decimal number")
    length = int(values[0])
    if length > limits.body:
        raise Refusal(413, f"the request body is longer than {limits.body} bytes")
    return length


def request_framing(
    version: str, fields: list[tuple[bytes, bytes]], limits: Limits
) -> RequestFraming:
    """Decide how the message behind a head is framed.

    ``fields`` holds at least host, content-length, transfer-encoding, connection and expect, as
    they were sent. Raises Refusal with 400, 413, 417 or 501.
    """
    hosts: list[str] = []
    lengths: list[str] = []
    codings: list[str] = []
    options: list[str] = []
    expectations: list[str] = []
    for name, value in fields:
        text = value.decode("latin-1").strip(" \t")
        match name.lower():
            case b"host":
                hosts.append(text)
            case b"connection":
                options.append(text)
            case b"content-length":
                lengths.append(text)
            case b"transfer-encoding":
                codings.append(text)
            case b"expect":
                expectations.append(text)

    # 1. Host (RFC 9112 §3.2).
    host = _check_host(version, hosts)

    # 2. Body length (RFC 9112 §6.3). Both fields together are how requests are smuggled (§11.2).
    content_length: int | None = None
    if codings:
        if lengths:
            raise Refusal(400, "Transfer-Encoding together with Content-Length")
        _check_transfer_encoding(version, codings)
    elif lengths:
        content_length = _check_content_length(lengths, limits)

    # 3. Persistence (RFC 9112 §9.3).
    keep_alive = version == "HTTP/1.1"
    if options:
        tokens = {option.strip(" \t").lower() for value in options for option in value.split(",")}
        keep_alive = "close" not in tokens and (keep_alive or "keep-alive" in tokens)

    # 4. Expectation (RFC 9110 §10.1.1): a client in HTTP/1.0 cannot wait for a 100.
    expect_continue = False
    if expectations and version == "HTTP/1.1":
        if len(expectations) != 1 or expectations[0].lower() != "100-continue":
            raise Refusal(417, "the only expectation that can be met is 100-continue")
        expect_continue = True

    return RequestFraming(host, content_length, bool(codings), keep_alive, expect_continue)
