"""What proxies tell of the client: what no client can change, and what others read in the fields.

Others are ProxyFix of Werkzeug, and the package ``forwarded``, which reads and writes RFC 7239.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import forwarded
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from told_requests import PROXY, TRUST, Site
from werkzeug.middleware.proxy_fix import ProxyFix

from aiowsgi.config.trust import Trust
from aiowsgi.errors import Refusal
from aiowsgi.http.forwarded.names import NAMES
from aiowsgi.http.forwarded.nodes import Node, parse_node

TRUSTED = Trust(TRUST)
X_FORWARDED = Site()
FORWARDED = Site(forwarded_headers="forwarded")

# What a field may hold.
contents = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
    | st.sampled_from('",;=\\ \t:[]'),
    max_size=60,
)
anybody = st.ip_addresses().map(str)
clients = anybody.filter(lambda host: not TRUSTED.trusts(host))
proxies = st.ip_addresses(network="10.0.0.0/8").map(str) | st.ip_addresses(
    network="2001:db8:ffff::/48"
).map(str)
ports = st.none() | st.integers(0, 65535)
others = st.sampled_from(["unknown", "_hidden", "_SEVKISEK-1.x"])


def with_port(host: str, port: int | None) -> str:
    """Return a host with or without a port, as it is written."""
    if port is None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def node(host: str, port: int | None) -> str:
    """Return a host with or without a port, as RFC 7239 writes it."""
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port is None else f"{bracketed}:{port}"


def as_socket(host: str) -> str:
    """Return an address as it is told: one of IPv4 may be mapped into IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def written(elements: Sequence[tuple[str, str]], quote: bool) -> str:
    """Return an element of Forwarded."""
    return ";".join(
        f'{name}="{re.sub(chr(92) * 2 + "|" + chr(34), lambda m: chr(92) + m[0], value)}"'
        if quote or not re.fullmatch(r"[\w.\-]+", value, re.ASCII)
        else f"{name}={value}"
        for name, value in elements
    )


def answer(site: Site, *lines: str) -> dict[str, Any] | Refusal:
    """Return the environ of a request, or its refusal."""
    try:
        return site.environ(*lines)
    except Refusal as refusal:
        return refusal


# What a client cannot change.


@given(
    contents,
    clients | others,
    ports,
    st.lists(st.tuples(proxies, ports), max_size=4),
    st.booleans(),
)
def test_the_client_is_whom_the_nearest_trusted_proxies_have_added(
    claimed: str,
    client: str,
    port: int | None,
    chain: list[tuple[str, int | None]],
    one_line: bool,
) -> None:
    added = [with_port(host, number) for host, number in ((client, port), *chain)]
    told = ", ".join(added)
    lines = [f"{claimed}, {told}"] if one_line else [claimed, told]
    environ = X_FORWARDED.environ(*(f"X-Forwarded-For: {line}" for line in lines))
    assert environ["REMOTE_ADDR"] == as_socket(client)
    assert environ["REMOTE_PORT"] == ("" if port is None else str(port))


@given(
    contents,
    clients | others,
    ports,
    st.lists(st.tuples(proxies, ports), max_size=4),
    st.booleans(),
)
def test_a_client_gets_nothing_of_its_own_forwarded_believed(
    claimed: str,
    client: str,
    port: int | None,
    chain: list[tuple[str, int | None]],
    quote: bool,
) -> None:
    """At most its own request is refused, where it has left a quotation mark open."""
    first, *behind = [
        written([("for", node(host, number))], quote) for host, number in ((client, port), *chain)
    ]
    told = ", ".join([f"{first};proto=https;host=shop.example", *behind])
    environ = answer(FORWARDED, f"Forwarded: {claimed}, {told}")
    if isinstance(environ, Refusal):
        assert environ.status == 400
        assert '"' in claimed
    else:
        assert environ["REMOTE_ADDR"] == as_socket(client)
        assert environ["REMOTE_PORT"] == ("" if port is None else str(port))
        assert environ["wsgi.url_scheme"] == "https"
        assert environ["HTTP_HOST"] == "shop.example"
    # In a field of its own it is not looked at.
    environ = FORWARDED.environ(f"Forwarded: {claimed}", f"Forwarded: {told}")
    assert environ["REMOTE_ADDR"] == as_socket(client)


# A proxy may repeat what a client has sent, in a pair that nobody knows.
repeated = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from('",;=\\'), max_size=20
)


@given(contents | repeated, repeated, clients)
def test_a_client_cannot_close_the_quotation_marks_of_a_proxy(
    claimed: str, echoed: str, client: str
) -> None:
    told = written([("ext", echoed), ("for", node(client, None))], quote=True)
    environ = answer(FORWARDED, f"Forwarded: {claimed}, {told}")
    if isinstance(environ, Refusal):
        assert '"' in claimed
    else:
        assert environ["REMOTE_ADDR"] == as_socket(client)


lines = st.lists(
    st.tuples(st.sampled_from(sorted(NAMES)), contents).map(
        lambda pair: f"{pair[0].decode()}: {pair[1]}"
    ),
    max_size=6,
)


@pytest.mark.parametrize("headers", ["x-forwarded", "forwarded"])
@pytest.mark.parametrize("header_map", ["drop", "dangerous"])
@given(lines=lines, peer=clients)
def test_a_peer_that_is_not_trusted_changes_nothing(
    headers: str, header_map: str, lines: list[str], peer: str
) -> None:
    site = SITES[headers, header_map]
    without = site.environ(peer=peer)
    environ = site.environ(*lines, peer=peer)
    assert {**environ, "wsgi.input": None} == {**without, "wsgi.input": None}


SITES = {
    (headers, header_map): Site(forwarded_headers=headers, header_map=header_map)
    for headers in ("x-forwarded", "forwarded")
    for header_map in ("drop", "dangerous")
}


@pytest.mark.parametrize("headers", ["x-forwarded", "forwarded"])
@given(lines=lines)
def test_any_fields_make_sense_or_are_refused(headers: str, lines: list[str]) -> None:
    environ = answer(SITES[headers, "drop"], *lines)
    if isinstance(environ, Refusal):
        assert environ.status == 400
        return
    assert re.fullmatch(
        r"[0-9A-Fa-f:.]+(%[\w.~-]+)?|unknown|_[\w.-]+|unix:", environ["REMOTE_ADDR"]
    )
    assert re.fullmatch(r"\d{0,5}", environ["REMOTE_PORT"])
    assert environ["wsgi.url_scheme"] in ("http", "https")
    assert re.fullmatch(r"\d{1,5}", environ["SERVER_PORT"])
    assert 0 < int(environ["SERVER_PORT"]) < 65536
    assert not re.search(r"[\s/@?#\\]", environ["HTTP_HOST"] + environ["SERVER_NAME"])
    assert re.fullmatch(r"(/[^/]+)*", environ["SCRIPT_NAME"], re.DOTALL)
    family = "HTTP_FORWARDED" if headers == "x-forwarded" else "HTTP_X_FORWARDED"
    assert not any(key.startswith(family) for key in environ)


@given(lines=lines)
def test_who_is_told_of_in_a_refusal_is_an_address_or_nobody(lines: list[str]) -> None:
    more = "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: no"
    refusal = answer(X_FORWARDED, *lines, *more)
    assert isinstance(refusal, Refusal)
    assert refusal.told_client == "192.0.2.7"


# What others read.


@given(st.text(st.sampled_from("0123456789abcdefABCDEF:.[]_-%unkow"), max_size=24))
def test_a_node_is_read_as_others_read_it(text: str) -> None:
    mine = parse_node(text)
    try:
        theirs = forwarded.parse_node(text)
    except forwarded.ForwardedError:
        # Addresses are read without brackets, and with a zone, too.
        if mine is not None and "%" not in text:
            assert ipaddress.ip_address(text.strip("[]"))
        return
    if isinstance(theirs.port, int) and theirs.port > 65535:
        assert mine is None
        return
    port = str(theirs.port) if isinstance(theirs.port, int) else ""
    host = theirs.name if theirs.ip is None else as_socket(str(theirs.ip))
    assert mine == Node(host, port)


pairs = st.fixed_dictionaries(
    {"for": st.tuples(anybody | proxies | others, ports).map(lambda told: node(*told))},
    optional={
        "proto": st.sampled_from(["http", "https", "HTTPS"]),
        "host": st.sampled_from(
            ["shop.example", "shop.example:8443", "[2001:db8::1]:81", "a,b;c=d"]
        ),
        "by": st.sampled_from(["_proxy", "10.0.0.1"]),
        "ext": repeated,
    },
)


@given(st.lists(pairs, min_size=1, max_size=6), st.booleans())
def test_what_another_program_writes_is_read_as_it_reads_it(
    elements: list[dict[str, str]], in_lines: bool
) -> None:
    split = [forwarded.build([element]) for element in elements]
    sent = split if in_lines else [forwarded.build(elements)]
    networks = [text for text in TRUST if text != "unix"]
    theirs = forwarded.client_from_forwarded(sent, PROXY, trusted=networks)
    assert theirs is not None
    environ = FORWARDED.environ(*(f"Forwarded: {line}" for line in sent))
    told = theirs.node.name if theirs.node.ip is None else as_socket(str(theirs.node.ip))
    assert environ["REMOTE_ADDR"] == told
    assert environ["REMOTE_PORT"] == ("" if theirs.node.port is None else str(theirs.node.port))
    assert environ["wsgi.url_scheme"] == (theirs.proto or "http").lower()
    assert environ["HTTP_HOST"] == (theirs.host or "h")


@given(
    st.lists(
        st.sampled_from(["for=1.1.1.1", "for=10.0.0.2", 'for="[2001:db8::7]:5"', "for=unknown"])
        | st.sampled_from(["for=10.0.0.3;proto=https", "proto=https;for=1.1.1.2", 'for="10.0.0.4"'])
        | st.sampled_from(["for=1.1.1.1;for=10.0.0.1", "junk", "for=junk", 'for="1.1.1.1', 'a"b'])
        | st.sampled_from(['for="a"b', "", " ", 'ext="a, b";for=10.0.0.5', r'e="\"";for=10.0.0.6']),
        max_size=6,
    ),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_chains_with_mistakes_are_walked_as_others_walk_them(
    elements: list[str], breaks: list[bool]
) -> None:
    sent = [""]
    for element, is_new in zip(elements, breaks, strict=False):
        if is_new:
            sent.append(element)
        else:
            sent[-1] += f", {element}"
    theirs = forwarded.client_from_forwarded(
        sent, PROXY, trusted=[text for text in TRUST if text != "unix"]
    )
    environ = answer(FORWARDED, *(f"Forwarded: {line}" for line in sent))
    if isinstance(environ, Refusal):
        # They go on behind a quotation mark that is left open; here, all of the line is lost.
        assert theirs is None or "quotation marks" in environ.reason
    else:
        assert theirs is not None
        told = theirs.node.name if theirs.node.ip is None else as_socket(str(theirs.node.ip))
        assert environ["REMOTE_ADDR"] == told


@given(st.lists(st.tuples(anybody | proxies | others, ports), max_size=6), st.booleans())
def test_x_forwarded_for_is_walked_as_others_walk_it(
    chain: list[tuple[str, int | None]], in_lines: bool
) -> None:
    texts = [with_port(host, port) for host, port in chain]
    sent = texts if in_lines else [",".join(texts)]
    theirs = forwarded.client_from_x_forwarded(
        sent, PROXY, trusted=[text for text in TRUST if text != "unix"]
    )
    assert theirs is not None
    environ = X_FORWARDED.environ(*(f"X-Forwarded-For: {line}" for line in sent))
    told = theirs.node.name if theirs.node.ip is None else as_socket(str(theirs.node.ip))
    assert environ["REMOTE_ADDR"] == told


def fixed(environ: dict[str, Any], hops: int) -> dict[str, Any]:
    """Return what ProxyFix makes of an environ, behind so many proxies."""
    seen: dict[str, Any] = {}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        seen.update(environ)
        return []

    def start_response(*_: object) -> Any:
        raise AssertionError

    ProxyFix(app, hops, hops, hops, hops, hops)(dict(environ), start_response)
    return seen


hosts = st.sampled_from(["shop.example", "inner.example:8080", "[2001:db8::1]", "[2001:db8::1]:81"])


@given(st.data(), clients, st.lists(proxies, max_size=3), st.sampled_from(["http", "https"]))
def test_proxy_fix_with_the_number_of_proxies_makes_the_same(
    data: st.DataObject, client: str, chain: list[str], scheme: str
) -> None:
    """Where each proxy adds to each field, or to none."""
    hops = len(chain) + 1

    def listed(values: st.SearchStrategy[str]) -> list[str]:
        return data.draw(st.just([]) | st.lists(values, min_size=hops, max_size=hops + 2))

    fields = {
        "For": [*data.draw(st.lists(anybody, max_size=2)), client, *chain],
        "Proto": listed(st.sampled_from(["http", "https"])),
        "Host": listed(hosts),
        "Port": listed(st.integers(1, 65535).map(str)),
        "Prefix": listed(st.sampled_from(["/shop", "/a/b"])),
    }
    # As an untouched environ has it: the addresses in their usual form.
    assume(all(as_socket(host) == host for host in fields["For"]))
    told = [f"X-Forwarded-{name}: {', '.join(values)}" for name, values in fields.items() if values]
    environ = X_FORWARDED.environ(*told, scheme=scheme)
    passed_on = Site(forwarded_allow_ips=()).environ(*told, scheme=scheme)
    assert passed_on["REMOTE_ADDR"] == PROXY
    theirs = fixed(passed_on, hops)
    for key in "REMOTE_ADDR", "wsgi.url_scheme", "SCRIPT_NAME":
        assert environ[key] == theirs[key]
    default = {"http": ":80", "https": ":443"}[environ["wsgi.url_scheme"]]
    if fields["Port"]:
        assert environ["HTTP_HOST"] == theirs["HTTP_HOST"].removesuffix(default)
        assert environ["SERVER_PORT"] == theirs["SERVER_PORT"]
    else:
        assert environ["HTTP_HOST"] == theirs["HTTP_HOST"]
    if fields["Host"]:
        assert environ["SERVER_NAME"] == theirs["SERVER_NAME"]
        if not fields["Port"]:
            # ProxyFix keeps the port of the server where that of the host is not written.
            expected = theirs["SERVER_PORT"]
            assert environ["SERVER_PORT"] == (default[1:] if expected == "8000" else expected)
    before = environ["aiowsgi.peer"]
    for key, value in theirs["werkzeug.proxy_fix.orig"].items():
        assert before[key] == value
