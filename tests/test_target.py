"""Request targets and authorities: RFC 9112 §3.2, RFC 9110 §4.2 and RFC 3986 §3.2 as tables."""

import ipaddress

import pytest
from grouped import in_one_test
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.errors import Refusal
from aiowsgi.http.target import is_authority, split_target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "example.com",
        "example.com.",
        "example.com:80",
        "example.com:",
        ":80",
        ":",
        "EXAMPLE.com:8000",
        "xn--bcher-kva.example",
        "under_score",
        "a-b.c~d",
        "sub!$&'()*+,;=delims",
        "percent%20encoded%C3%A9",
        "127.0.0.1",
        "127.0.0.1:8000",
        "999.999.999.999",  # A registered name by the grammar.
        "a:" + "9" * 50,
        "[::1]",
        "[::1]:8000",
        "[::1]:",
        "[::]",
        "[2001:DB8::8:800:200C:417A]",
        "[1:2:3:4:5:6:7:8]",
        "[::ffff:192.0.2.1]:443",
        "[v1.fe80::a+en1]",
        "[vF.x]:1",
    ],
)
def test_authorities(text: str) -> None:
    assert is_authority(text)


@in_one_test(
    "text",
    [
        # CVE-2026-48710: each moves the boundaries of a URL that is made with it.
        "a/b",
        "a/b?c",
        "a?b",
        "a#b",
        "a\\b",
        "user@host",
        "user:password@host",
        "@",
        "a b",
        " a",
        "a ",
        "a\t",
        "a\n",
        "a:80\n",
        "a:b",
        "a:80:90",
        "a:-1",
        "a:+1",
        "a: 80",
        "a:٣",
        "a:²",
        "é.example",
        "%",
        "%4",
        "%zz",
        'a"b',
        "a<b>",
        "a{b}",
        "a|b",
        "a^b",
        "a`b",
        "a\x00",
        "a\x7f",
        "a,b c",
        # IPv6 without its brackets, with half of them, or not IPv6.
        "::1",
        "[::1",
        "::1]",
        "[]",
        "[]:80",
        "[::1]80",
        "[::1]:80:90",
        "[::1]a",
        "a[::1]",
        "[[::1]]",
        "[::1::2]",
        "[1:2:3:4:5:6:7]",
        "[1:2:3:4:5:6:7:8:9]",
        "[12345::]",
        "[g::1]",
        "[127.0.0.1]",
        "[::1/64]",
        "[ ::1]",
        "[::1 ]",
        "[::٣]",
        # RFC 6874 §4: a zone means something to one host only.
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "[fe80::1%]",
        # RFC 3986 §3.2.2: "v" hexadecimal digits "." something.
        "[v1]",
        "[v.x]",
        "[v1.]",
        "[vg.x]",
        "[v1.a@b]",
        "[v1.a/b]",
    ],
    ids=ascii,
)
def test_what_is_no_authority(text: str) -> None:
    assert not is_authority(text)


@given(st.ip_addresses(v=6), st.integers(0, 65535))
def test_every_ipv6_address_is_one_in_brackets_only(
    address: ipaddress.IPv6Address, port: int
) -> None:
    for text in (address.compressed, address.exploded):
        assert is_authority(f"[{text}]")
        assert is_authority(f"[{text}]:{port}")
        assert not is_authority(text)


@given(st.text(st.characters(max_codepoint=0xFF)))
def test_no_authority_holds_a_delimiter_of_urls(text: str) -> None:
    if is_authority(text):
        assert not set("/?#@\\ \r\n\t\0") & set(text)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        # Origin-form (RFC 9112 §3.2.1).
        ("GET", "/", ("/", "", None)),
        ("GET", "/a/b", ("/a/b", "", None)),
        ("GET", "/a?b", ("/a", "b", None)),
        ("GET", "/a?b?c", ("/a", "b?c", None)),
        ("GET", "/?", ("/", "", None)),
        ("GET", "/a%2fb?%20", ("/a%2fb", "%20", None)),
        # A path, whatever it looks like; its authority is in the Host field.
        ("GET", "//evil.test/a", ("//evil.test/a", "", None)),
        ("GET", "/http://evil.test/", ("/http://evil.test/", "", None)),
        ("GET", "/@evil.test", ("/@evil.test", "", None)),
        ("GET", "/*", ("/*", "", None)),
        ("BREW", "/pot", ("/pot", "", None)),
        # Absolute-form (§3.2.2).
        ("GET", "http://a.test/", ("/", "", "a.test")),
        ("GET", "http://a.test", ("/", "", "a.test")),
        ("GET", "http://a.test?b", ("/", "b", "a.test")),
        ("GET", "http://a.test:81/b?c?d", ("/b", "c?d", "a.test:81")),
        ("GET", "http://a.test:/b", ("/b", "", "a.test:")),
        ("GET", "HTTP://a.test/b", ("/b", "", "a.test")),
        ("GET", "http://[::1]:81/b", ("/b", "", "[::1]:81")),
        ("GET", "http://a.test//b@c:d", ("//b@c:d", "", "a.test")),
        ("OPTIONS", "http://a.test/b", ("/b", "", "a.test")),
        # Asterisk-form (§3.2.4).
        ("OPTIONS", "*", ("", "", None)),
        ("OPTIONS", "/*", ("/*", "", None)),
    ],
)
def test_targets(method: str, target: str, expected: tuple[str, str, str | None]) -> None:
    assert split_target(method, target) == expected


@in_one_test(
    "target",
    [
        # CVE-2026-54282: what does not begin with "/" joins the authority of a URL.
        "@evil.test",
        "evil.test",
        "evil.test:80",
        ".evil.test",
        "a/b",
        "?a",
        "\\a",
        "*",
        "**",
        "*/",
        # Fragments belong to the client.
        "/a#b",
        "/#",
        "#",
        "http://a.test/#b",
        "http://a.test#b",
        # Other schemes, and halves of an absolute-form.
        "ftp://a.test/",
        "ws://a.test/",
        "file:///etc/passwd",
        "mailto:a@b.test",
        "http:/a.test",
        "http:a.test",
        "http",
        "xhttp://a.test/",
        "://a.test/",
        # RFC 9110 §4.2.1: an http URI has a host. §4.2.4: user information is an error.
        "http://",
        "http:///a",
        "http://:80/",
        "http://?a",
        "http://user@a.test/",
        "http://user:password@a.test/",
        "http://@a.test/",
        "http://a.test:b/",
        "http://::1/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://a.test\\b/",
        "http://%zz/",
    ],
)
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(Refusal) as caught:
        split_target("GET", target)
    assert caught.value.status == 400


@pytest.mark.parametrize("target", ["https://a.test/", "HTTPS://a.test:443?b"])
def test_https_needs_a_secured_connection(target: str) -> None:
    # RFC 9110 §7.4.
    with pytest.raises(Refusal, match="https") as caught:
        split_target("GET", target)
    assert caught.value.status == 421
    _, _, authority = split_target("GET", target, is_secured=True)
    assert authority is not None
    assert authority.startswith("a.test")


@pytest.mark.parametrize("target", ["a.test:443", "/", "*", "http://a.test/", "#"])
def test_connect_is_not_implemented(target: str) -> None:
    with pytest.raises(Refusal, match="not a proxy") as caught:
        split_target("CONNECT", target)
    assert caught.value.status == 501


def test_a_method_is_told_by_its_case() -> None:
    # RFC 9110 §9.1: "connect" and "options" are other methods, which no standard defines.
    assert split_target("connect", "/a") == ("/a", "", None)
    with pytest.raises(Refusal):
        split_target("options", "*")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1))
def test_the_parts_are_parts_of_the_target(target: str) -> None:
    try:
        path, query, authority = split_target("GET", target)
    except Refusal:
        return
    assert path.startswith("/")
    assert "?" not in path
    if authority is None:
        assert target in (path, f"{path}?{query}")
    else:
        assert authority
        assert target.lower().startswith("http://")
