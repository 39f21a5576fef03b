"""What a head decides about its message, as tables: RFC 9112 §3.2, §6 and §9, RFC 9110 §10.1.1."""

from typing import NamedTuple

import pytest
from extent import examples
from grouped import in_one_test
from hypothesis import given, settings
from hypothesis import strategies as st

from aiowsgi.errors import Refusal
from aiowsgi.http.framing import decide_framing
from aiowsgi.http.request import Limits

HOST = (b"host", b"a.test")


class Framing(NamedTuple):
    host: str | None
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool


def framing(*fields: tuple[bytes, bytes], version: str = "HTTP/1.1", body: int = 1000) -> Framing:
    section = decide_framing(version, list(fields), dict(fields), Limits(body=body))
    return Framing(*(getattr(section, name) for name in Framing._fields))


def refusal(*fields: tuple[bytes, bytes], version: str = "HTTP/1.1", body: int = 1000) -> Refusal:
    with pytest.raises(Refusal) as caught:
        framing(*fields, version=version, body=body)
    return caught.value


def te(*values: str) -> list[tuple[bytes, bytes]]:
    return [HOST, *((b"transfer-encoding", value.encode("latin-1")) for value in values)]


def cl(*values: str) -> list[tuple[bytes, bytes]]:
    return [HOST, *((b"content-length", value.encode("latin-1")) for value in values)]


def test_nothing_but_a_host() -> None:
    assert framing(HOST) == Framing("a.test", None, False, True, False)


def test_other_fields_decide_nothing() -> None:
    others = [(b"x-content-length", b"5"), (b"te", b"chunked"), (b"proxy-connection", b"close")]
    assert framing(HOST, *others) == framing(HOST)


# Host.


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_more_than_one_host_is_refused(version: str) -> None:
    assert refusal(HOST, HOST, version=version).status == 400


def test_host_is_needed_in_1_1_only() -> None:
    assert refusal().status == 400
    assert framing(version="HTTP/1.0").host is None


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize(
    "host", [b"a/b?c", b"user@a", b"a b", b"[::1", b"a:b", b"a,b c", b"\xe9", b"[fe80::1%25a]"]
)
def test_a_malformed_host_is_refused(version: str, host: bytes) -> None:
    assert refusal((b"host", host), version=version).status == 400


def test_an_empty_host_is_allowed() -> None:
    # RFC 9112 §3.2: sent where the target's URI has no authority.
    assert framing((b"host", b"")).host == ""


# Body length.


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("5", 5), ("1000", 1000), ("007", 7), ("0" * 9000 + "5", 5)],
)
def test_content_length(text: str, length: int) -> None:
    assert framing(*cl(text)) == Framing("a.test", length, False, True, False)
    assert framing(*cl(text), version="HTTP/1.0").content_length == length


@pytest.mark.parametrize(
    "text",
    # CVE-2025-69225: "²" and "٣" are digits for \d and str.isdigit.
    ["", "-1", "+1", "1.0", "0x5", "5,5", "5, 5", "5;", "1_0", "five", "5 5", "²"],
    ids=ascii,
)
def test_a_content_length_that_is_no_number_is_refused(text: str) -> None:
    assert refusal(*cl(text)).status == 400


@pytest.mark.parametrize("values", [("5", "5"), ("5", "6"), ("0", "0"), ("5", "")])
def test_more_than_one_content_length_is_refused(values: tuple[str, str]) -> None:
    assert refusal(*cl(*values)).status == 400


@pytest.mark.parametrize(
    ("length", "limit", "accepted"),
    [
        (10, 10, True),
        (11, 10, False),
        (0, 0, True),
        (1, 0, False),
        (10**18 - 1, 10, False),
        (10**18, 10**18, False),
    ],
)
def test_the_limit_of_the_body_is_held_before_its_first_byte(
    length: int, limit: int, accepted: bool
) -> None:
    fields = cl(str(length))
    if accepted:
        assert framing(*fields, body=limit).content_length == length
    else:
        refused = refusal(*fields, body=limit)
        assert refused.status == 413
        assert str(limit) in refused.reason


@pytest.mark.parametrize(
    "values",
    [
        ["chunked"],
        ["Chunked"],
        ["CHUNKED"],
        [" chunked\t"],
        # RFC 9110 §5.6.1.2: recipients ignore empty elements of a list.
        ["chunked,"],
        [",chunked"],
        ["chunked", ""],
        [", ,\t, chunked , "],
    ],
)
def test_chunked(values: list[str]) -> None:
    assert framing(*te(*values)) == Framing("a.test", None, True, True, False)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        # CVE-2024-1135 and CVE-2024-6827: neither taken as chunked nor as "no Transfer-Encoding".
        (["gzip"], 400),
        (["identity"], 400),
        (["xchunked"], 400),
        (["chunkedx"], 400),
        (["chunked;q=1"], 400),
        (["\x0bchunked"], 400),
        (['"chunked"'], 400),
        (['x;a="b,c", chunked'], 501),
        (['x;a="b, chunked"'], 400),
        (['x;a="b, chunked'], 400),
        (["x;a, chunked"], 400),
        (["gzip, chunked"], 501),
        (["gzip", "chunked"], 501),
        (["gzip, deflate"], 400),
        (["chunked, gzip, chunked"], 400),
        (["chunked, gzip"], 400),
        (["chunked", "gzip"], 400),
        (["chunked", "identity"], 400),
        (["chunked, chunked"], 400),
        (["chunked", "chunked"], 400),
        (["CHUNKED, chunked"], 400),
        ([""], 400),
        ([","], 400),
        ([" \t"], 400),
    ],
)
def test_other_transfer_codings_are_refused(values: list[str], status: int) -> None:
    assert refusal(*te(*values)).status == status


@in_one_test("order", [1, -1])
@in_one_test("length", ["5", "0", "x", ""])
@in_one_test("coding", ["chunked", "gzip", "identity", ""])
@in_one_test("version", ["HTTP/1.1", "HTTP/1.0"])
def test_transfer_encoding_with_content_length_is_refused(
    order: int, length: str, coding: str, version: str
) -> None:
    both = [*te(coding)[1:], *cl(length)[1:]][::order]
    assert refusal(HOST, *both, version=version).status == 400


@pytest.mark.parametrize("coding", ["chunked", "gzip", ""])
def test_transfer_encoding_in_1_0_is_refused(coding: str) -> None:
    # RFC 9112 §6.1.
    assert refusal(*te(coding), version="HTTP/1.0").status == 400


# Persistence.


@pytest.mark.parametrize(
    ("values", "in_1_1", "in_1_0"),
    [
        ([], True, False),
        ([b""], True, False),
        ([b"keep-alive"], True, True),
        ([b"Keep-Alive"], True, True),
        ([b"close"], False, False),
        ([b"CLOSE"], False, False),
        ([b"keep-alive, close"], False, False),
        ([b"close", b"keep-alive"], False, False),
        ([b"keep-alive", b"close"], False, False),
        ([b"upgrade , \tkeep-alive"], True, True),
        ([b"TE, close\t, X"], False, False),
        ([b"upgrade"], True, False),
        ([b"closed"], True, False),
        ([b"not-close"], True, False),
        ([b"x-keep-alive"], True, False),
        ([b",,"], True, False),
        ([b"\xe9"], True, False),
    ],
)
def test_persistence(values: list[bytes], in_1_1: bool, in_1_0: bool) -> None:
    fields = [HOST, *((b"connection", value) for value in values)]
    assert framing(*fields).keep_alive is in_1_1
    assert framing(*fields, version="HTTP/1.0").keep_alive is in_1_0


# Expectation.


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
def test_the_expectation_of_a_100(value: bytes) -> None:
    assert framing(HOST, (b"expect", value)).expect_continue is True


@pytest.mark.parametrize(
    "values",
    [
        [b"x"],
        [b"200-ok"],
        [b"100-continue, x"],
        [b"100-continue;q=1"],
        [b"100"],
        [b'"a, 100-continue"'],
        [b"x", b"100-continue"],
    ],
)
def test_other_expectations_are_refused(values: list[bytes]) -> None:
    assert refusal(HOST, *((b"expect", value) for value in values)).status == 417


@pytest.mark.parametrize("value", [b"100-continue", b"x", b""])
def test_an_expectation_in_1_0_is_ignored(value: bytes) -> None:
    # RFC 9110 §10.1.1.
    assert framing(HOST, (b"expect", value), version="HTTP/1.0").expect_continue is False


# All together.

fields = st.lists(
    st.one_of(
        st.just(HOST),
        st.tuples(st.just(b"content-length"), st.sampled_from([b"5", b"0", b"9999", b"x"])),
        st.tuples(
            st.just(b"transfer-encoding"), st.sampled_from([b"chunked", b"gzip", b"chunked, a"])
        ),
        st.tuples(st.just(b"connection"), st.sampled_from([b"close", b"keep-alive"])),
        st.tuples(st.just(b"expect"), st.sampled_from([b"100-continue", b"x"])),
    ),
    max_size=5,
)


@given(fields, st.sampled_from(["HTTP/1.1", "HTTP/1.0"]))
@settings(max_examples=examples(300))
def test_a_message_has_one_framing_or_none(fields: list[tuple[bytes, bytes]], version: str) -> None:
    try:
        decided = framing(*fields, version=version)
    except Refusal:
        return
    names = [name for name, _ in fields]
    assert names.count(b"host") <= 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert decided.chunked is (b"transfer-encoding" in names)
    assert (decided.content_length is not None) is (b"content-length" in names)
