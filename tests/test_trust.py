"""Whom options trust, and what they refuse to be told."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.cli.arguments import parse_arguments
from aiowsgi.config import Config, ListenerConfig, ProxyOptions
from aiowsgi.config.trust import Trust
from aiowsgi.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "trusted", "others"),
    [
        ("10.0.0.7", ["10.0.0.7", "::ffff:10.0.0.7", "::ffff:a00:7"], ["10.0.0.8", "", "::a00:7"]),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", ""]),
        ("10.0.0.0/32", ["10.0.0.0"], ["10.0.0.1"]),
        ("0.0.0.0/0", ["192.0.2.7", "::ffff:192.0.2.7"], ["::1", "", "unknown"]),
        ("::1", ["::1", "0:0:0:0:0:0:0:1"], ["127.0.0.1", ""]),
        ("2001:db8::/32", ["2001:db8::7", "2001:DB8:FFFF::"], ["2001:db9::"]),
        ("::/0", ["::1", "2001:db8::"], ["10.0.0.7", "::ffff:10.0.0.7"]),
        ("fe80::1", ["fe80::1", "fe80::1%eth0"], ["fe80::2%eth0"]),
        ("::ffff:10.0.0.7", ["10.0.0.7", "::ffff:10.0.0.7"], ["10.0.0.8"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.7"], ["11.0.0.0"]),
        ("unix", [""], ["127.0.0.1", "::1", "unix:"]),
        ("127.0.0.1, ::1 ,unix", ["127.0.0.1", "::1", ""], ["127.0.0.2"]),
    ],
)
def test_entries_name_peers_and_hosts(text: str, trusted: list[str], others: list[str]) -> None:
    trust = Trust((text,))
    for host in trusted:
        assert trust.trusts(host)
        assert trust.trusts_peer(host)
    for host in others:
        assert not trust.trusts(host)
        assert not trust.trusts_peer(host)


@pytest.mark.parametrize("text", ["*", "all"])
def test_everybody_who_connects_is_trusted_and_no_other_proxy(text: str) -> None:
    trust = Trust((text, "10.0.0.7"))
    for host in "", "127.0.0.1", "192.0.2.7", "2001:db8::7":
        assert trust.trusts_peer(host)
        assert not trust.trusts(host)
    assert trust.trusts("10.0.0.7")


@given(st.ip_addresses().map(str))
def test_nobody_is_trusted_where_nobody_is_named(host: str) -> None:
    assert not Trust(()).trusts_peer(host)


@given(st.ip_addresses(), st.integers(0, 32))
def test_a_network_is_trusted_as_the_library_of_python_has_it(address: Any, length: int) -> None:
    import ipaddress

    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    for host in network[0], network[-1], ipaddress.ip_address("192.0.2.7"):
        # Addresses that are mapped are those of the other version.
        if getattr(host, "ipv4_mapped", None) is None:
            assert Trust((str(network),)).trusts(str(host)) is (host in network)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.7/8", "'10.0.0.7/8' is an address in a network; write 10.0.0.0/8 for the network"),
        ("10.0.0.7/8", "or 10.0.0.7$"),
        ("2001:db8::1/32", "write 2001:db8::/32 for the network, or 2001:db8::1$"),
        ("::ffff:10.0.0.0/8", "is no network of IPv4; write 10.0.0.0/8 for it"),
        ("::ffff:10.0.0.7/104", "write 10.0.0.0/8 for the network"),
        ("localhost", "'localhost' is a name, and names are not looked up; write its addresses"),
        ("proxy.example.com", "is a name, and names are not looked up"),
        ("10.0.0.0/33", "is no address and no network; write addresses"),
        ("10.0.0.256", "is no address and no network"),
        ("10.0.0", "is no address and no network"),
        ("10.0.0.7:80", "is no address and no network"),
        ("[::1]", "is no address; write addresses"),
        ("fe80::1%eth0", "is no address; write addresses"),
        ("10.0.0.0/255.0.0.0", "is no address; write addresses"),
        ("unix:/run/s", "is no address; write addresses"),
        ("", "'' is no address; write addresses"),
        ("10.0.0.7,", "'' is no address"),
        ("10.0.0.7 10.0.0.8", "is no address"),
        ("**", "is no address"),
    ],
)
def test_what_names_nobody_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(forwarded_allow_ips=(text,))
    if "&" not in text:
        with pytest.raises(ConfigError, match=message):
            ListenerConfig.parse(f"unix:/run/s?trust={text}")


@pytest.mark.parametrize("value", ["10.0.0.7", 7, None, b"10.0.0.7", (7,), (b"x",)])
def test_who_is_trusted_is_a_tuple_of_texts(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^forwarded_allow_ips is a tuple of addresses such as"):
        Config(forwarded_allow_ips=value)


def test_arguments_of_the_command_add_up() -> None:
    arguments = ("app", "--forwarded-allow-ips", "10.0.0.7,unix", "--forwarded-allow-ips", "::1")
    _, config = parse_arguments(arguments)
    assert config.forwarded_allow_ips == ("10.0.0.7,unix", "::1")
    trust = Trust(config.forwarded_allow_ips)
    assert [trust.trusts(host) for host in ("10.0.0.7", "", "::1", "10.0.0.8")] == [
        *(True, True, True),
        False,
    ]


def test_a_listener_has_its_own_trust_or_leaves_that_to_the_option() -> None:
    config = Config(
        bind=(":1", ":2?trust=10.0.0.7,unix", "unix:/run/s?mode=660&trust=all"),
        forwarded_allow_ips=("*",),
    )
    assert [listener.trust for listener in config.listeners] == [
        None,
        ("10.0.0.7", "unix"),
        ("all",),
    ]


def test_a_listener_for_uwsgi_trusts_whoever_connects() -> None:
    with pytest.raises(ConfigError, match="with the uwsgi protocol whoever connects is trusted"):
        ListenerConfig.parse("uwsgi:127.0.0.1:3031?trust=127.0.0.1")


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (
            "x-forwarded",
            {f"x-forwarded-{name}" for name in ("for", "proto", "host", "port", "prefix")},
        ),
        ("forwarded", {"forwarded"}),
        ("x-forwarded-for", {"x-forwarded-for"}),
        ("X-Forwarded-For, X-Forwarded-Proto", {"x-forwarded-for", "x-forwarded-proto"}),
    ],
)
def test_fields_that_count_are_named(value: str, fields: set[str]) -> None:
    assert ProxyOptions(forwarded_headers=value).forwarded_fields == fields


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x-real-ip", "must be x-forwarded, forwarded, or some of x-forwarded-for, .* not 'x-real"),
        ("", "not ''"),
        ("x-forwarded-for,", "not ''"),
        ("forwarded,x-forwarded-for", "one request may not mix them"),
        ("x-forwarded,forwarded", "one request may not mix them"),
        (("x-forwarded",), r"not \('x-forwarded',\)"),
    ],
)
def test_other_fields_do_not_count(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^forwarded_headers .*{message}"):
        Config(forwarded_headers=value)


@pytest.mark.parametrize("value", ["/shop", "/a/b", "/~u/a-b_c.d", "/@a:b", "/..a", "/a.."])
def test_a_prefix_is_a_path(value: str) -> None:
    assert Config(script_name=value).script_name == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("shop", "must begin with '/': write '/shop'"),
        ("/shop/", "must not end with '/': write '/shop'"),
        ("/", "must not end with '/': write ''"),
        ("//", "must not end with '/': write ''"),
        ("//shop", "without percent-encoding and without empty or dotted parts"),
        ("/a//b", "empty or dotted parts"),
        ("/a/../b", "empty or dotted parts"),
        ("/.", "empty or dotted parts"),
        ("/caf%C3%A9", "percent-encoding"),
        ("/caf\xe9", "percent-encoding"),
        ("/a?b", "must be empty or a path such as '/shop'"),
        ("/a b", "must be empty or a path"),
        (None, "must be empty or a path such as '/shop', not None"),
    ],
)
def test_a_prefix_that_no_path_begins_with_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^script_name .*{re.escape(message)}"):
        Config(script_name=value)


def test_a_prefix_that_is_cut_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match=r"^script_name_strip is about script_name; give both"):
        Config(script_name_strip=True)


@pytest.mark.parametrize("options", [{"forwarded_headers": "forwarded"}, {"forwarded_keep": True}])
def test_what_is_about_proxies_needs_one_that_is_trusted(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"nobody is trusted; give forwarded_allow_ips too"):
        Config(**options)
    Config(**options, forwarded_allow_ips=("unix",))
    Config(**options, bind=(":1", ":2?trust=all"))
