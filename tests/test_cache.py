"""Caches: bounded in bytes, only of what was sent twice, and gone with their server."""

import gc
import weakref
from typing import Any

import pytest

from aiowsgi.cache import Cache
from aiowsgi.errors import ApplicationError
from aiowsgi.http.readers.h11_reader import H11
from aiowsgi.http.request import Limits
from aiowsgi.http.response import ResponseEncoder, ResponseHeads
from aiowsgi.http.sections import FieldSections
from aiowsgi.wsgi.headers import HeaderChecks

SERVER = "Server: test\r\n"


def test_what_comes_twice_is_known() -> None:
    cache = Cache[str, int](8, 100)
    for known in ({}, {"a": 1}, {"a": 1}):
        cache.offer("a", 1, 1)
        assert cache.known == known


def test_what_comes_once_drives_out_nothing() -> None:
    cache = Cache[int, str](8, 100)
    for _ in range(2):
        cache.offer(1, "kept", 4)
    for number in range(2, 10_000):
        cache.offer(number, "once", 4)
    assert cache.known == {1: "kept"}


def test_number_and_size_of_what_is_known_are_bounded() -> None:
    cache = Cache[int, str](8, 100)
    for number in range(1000):
        for _ in range(2):
            cache.offer(number, "x", number % 200)
        assert len(cache.known) <= 8
    assert all(number % 200 <= 100 for number in cache.known)


def answer(checks: HeaderChecks, heads: ResponseHeads, *fields: tuple[Any, Any]) -> bytes:
    """Return the response head of an application that answers with these fields."""
    encoder = ResponseEncoder(heads, method="GET", version="HTTP/1.1", keep_alive=True)
    return encoder.start(*checks.check("200 OK", [*fields]), 5)


def held(checks: HeaderChecks, heads: ResponseHeads) -> int:
    """Return the characters and bytes of all heads that are remembered."""
    fields = (field for _, section in checks._cache.known for field in section)
    return sum(len(name) + len(value) for name, value in fields) + sum(
        len(head.lines) for head in heads._cache.known.values()
    )


def test_response_heads_are_checked_and_made_once_and_are_the_same() -> None:
    checks, heads = HeaderChecks(), ResponseHeads(SERVER)
    plain = ("Content-Type", "text/plain")
    first = answer(checks, heads, plain)
    fields = [checks.check("200 OK", [plain])[1] for _ in range(3)]
    assert fields[1] is fields[2]
    assert answer(checks, heads, plain) == answer(checks, heads, plain) == first
    assert held(checks, heads) > 0


@pytest.mark.parametrize("times", [1, 3])
def test_heads_of_any_size_are_held_within_a_bound(times: int) -> None:
    checks, heads = HeaderChecks(), ResponseHeads(SERVER)
    for number in range(2000):
        for _ in range(times):
            answer(checks, heads, ("Set-Cookie", f"session={number}; " + "x" * number))
    # A secret that is sent once is not kept at all.
    assert held(checks, heads) <= (4 << 20 if times > 1 else 0)
    # Nor is what costs far more than its characters.
    fields = [("X", "")] * 500
    for _ in range(3):
        answer(checks, heads, *fields)
    assert ("200 OK", tuple(fields)) not in checks._cache.known
    assert all(len(key[1]) < 500 for key in heads._cache.known)


def test_strings_of_the_application_s_own_are_not_kept() -> None:
    class Text(str):
        pass

    checks = HeaderChecks()
    text, status = Text("text/plain"), Text("200 OK")
    gone = [weakref.ref(text), weakref.ref(status)]
    for _ in range(3):
        sound, fields = checks.check(status, [("Content-Type", text)])
        assert (sound, fields) == ("200 OK", (("Content-Type", "text/plain"),))
        assert type(sound) is str
        assert type(fields[0][1]) is str
    del text, status
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_what_is_unsound_is_refused_each_time() -> None:
    checks = HeaderChecks()
    for _ in range(3):
        with pytest.raises(ApplicationError):
            checks.check("200 OK", [("X", "a\r\nb")])
        with pytest.raises(ApplicationError):
            checks.check("200 OK", [["X", "a"]])
        with pytest.raises(ApplicationError):
            checks.check("OK", [])


def test_servers_share_nothing_that_they_remember() -> None:
    plain = ("Content-Type", "text/plain")
    checks, heads = HeaderChecks(), ResponseHeads(SERVER)
    for _ in range(3):
        answer(checks, heads, plain)
    assert held(checks, heads) > 0
    assert held(HeaderChecks(), ResponseHeads(SERVER)) == 0
    assert b"Server: other\r\n" in answer(checks, ResponseHeads("Server: other\r\n"), plain)


def test_header_sections_are_held_within_a_bound() -> None:
    sections = FieldSections(Limits(), H11, header_map="dangerous")
    for number in range(1500):
        for _ in range(2):
            sections.read(b"1.1\r\nHost: h\r\nCookie: %d%b" % (number, b"x" * (4 * number)))
    assert sum(map(len, sections.known)) <= 1024 * 4096
    assert len(sections.known) <= 1024
