"""Whom a server believes: by the peer of a connection, on real sockets, and where that shows."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
import uwsgi_packets
from raw_client import on_each_loop
from served_process import served
from told_requests import PROXY, Site
from werkzeug.middleware.proxy_fix import ProxyFix

import aiowsgi
from aiowsgi.errors import Refusal

TIMEOUT = 20.0
KEYS = (
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "wsgi.url_scheme",
    "HTTP_HOST",
    "SERVER_NAME",
    "SERVER_PORT",
    "SCRIPT_NAME",
    "PATH_INFO",
)
PEER = "aiowsgi.peer"
TOLD = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n"
ORDINARY_LINE = re.compile(
    r'(\S+) - - \[[^\]]+\] "[^"]*" (\d+) \d+ "[^"]*" "[^"]*" [\d.]+ [\d.]+(.*)'
)


def telling(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer with the environ, as far as it is text."""
    told = {
        key: value
        for key, value in environ.items()
        if key in KEYS or key == PEER or "FORWARDED" in key
    }
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def exchange(where: str | tuple[str, int], sent: bytes) -> bytes:
    """Return all that is answered to what one connection has sent."""
    async with asyncio.timeout(TIMEOUT):
        if isinstance(where, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(where)  # Which uvloop cannot where the name is no path.
            sock.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=sock)
        else:
            reader, writer = await asyncio.open_connection(*where)
        writer.write(sent)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


def request(fields: str = TOLD, *, path: str = "/", host: str = "h") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n".encode(
        "latin-1"
    )


async def ask(where: str | tuple[str, int], fields: str = TOLD, path: str = "/") -> dict[str, Any]:
    """Return what the application was told."""
    head, _, body = (await exchange(where, request(fields, path=path))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    found: dict[str, Any] = json.loads(body)
    return found


@contextlib.asynccontextmanager
async def serving(
    *bind: str, app: Any = telling, **options: Any
) -> AsyncIterator[list[str | tuple[str, int]]]:
    """Serve, and give the addresses."""
    config = aiowsgi.Config(bind=bind or ("127.0.0.1:0",), threads=2, **options)
    async with asyncio.timeout(TIMEOUT), aiowsgi.serve(app, config=config) as server:
        yield [sock.getsockname() for sock in server.sockets]


def access_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Return client, status and what stands at the end of each line of the access log."""
    found = []
    for record in caplog.records:
        if record.name == "aiowsgi.access":
            match = ORDINARY_LINE.fullmatch(record.getMessage())
            assert match is not None
            found.append((match[1], match[2], match[3]))
    return found


def errors(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    """Return the messages of the error log with a word."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "aiowsgi.error" and word in record.getMessage()
    ]


# Peers.


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("kind", ["tcp", "unix", "ipv6", "abstract"])
@on_each_loop
async def test_a_trusted_peer_tells_the_client(
    kind: str, http: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bind, trusted, peer = {
        "tcp": ("127.0.0.1:0", "127.0.0.1", "127.0.0.1"),
        "ipv6": ("[::1]:0", "::1", "::1"),
        "unix": (f"unix:{folder}/s", "unix", ""),
        "abstract": (f"unix:@{folder}/s", "unix", ""),
    }[kind]
    fields = TOLD + "X-Forwarded-Host: shop.example\r\nX-Forwarded-Prefix: /shop\r\n"
    async with serving(bind, forwarded_allow_ips=(trusted,), http=http) as (address,):
        where = f"\0{folder}/s" if kind == "abstract" else address
        for _ in range(3):  # Also from the cache.
            told = await ask(where if isinstance(where, str) else where[:2], fields, "/cart")
    assert {key: told[key] for key in KEYS} == {
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "",
        "wsgi.url_scheme": "https",
        "HTTP_HOST": "shop.example",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "443",
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/cart",
    }
    before = told[PEER]
    assert before["REMOTE_ADDR"] == peer
    assert before["wsgi.url_scheme"] == "http"
    assert before["HTTP_HOST"] == "h"
    assert before["SCRIPT_NAME"] == ""
    assert before["SERVER_NAME"] == (peer or "localhost")
    shown = f" peer={peer or 'unix'}"
    assert access_lines(caplog) == [("192.0.2.7", "200", shown)] * 3


@on_each_loop
async def test_nothing_is_interpreted_without_the_option_and_that_is_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving("127.0.0.1:0", f"unix:{folder}/s") as addresses:
        for number in range(3):
            for address in addresses:
                told = await ask(address, TOLD + f"Forwarded: for=192.0.2.{number}\r\n")
                assert told["REMOTE_ADDR"] == ("" if isinstance(address, str) else "127.0.0.1")
                assert told["wsgi.url_scheme"] == "http"
                assert told["HTTP_X_FORWARDED_FOR"] == "192.0.2.7"
                assert told["HTTP_X_FORWARDED_PROTO"] == "https"
                assert told["HTTP_FORWARDED"] == f"for=192.0.2.{number}"
                assert PEER not in told
    (message,) = errors(caplog, "--forwarded-allow-ips")
    assert message.startswith("X-Forwarded-For is sent from this machine, and passed on")
    assert "--forwarded-allow-ips 127.0.0.1 has it believed" in message
    assert {shown for _, _, shown in access_lines(caplog)} == {""}


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("", "unix"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.9.9.9", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("192.0.2.1", None),
        ("2001:db8::1", None),
    ],
)
@pytest.mark.parametrize("line", ["X-Forwarded-Port: 1", "forwarded: for=_x"])
def test_only_peers_on_this_machine_are_told_of(
    peer: str, name: str | None, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = Site(forwarded_allow_ips=())
    site.environ(peer=peer)
    assert not caplog.messages
    site.environ(line, peer=peer)
    found = errors(caplog, "--forwarded-allow-ips")
    if name is None:
        assert not found
    else:
        (message,) = found
        assert f"--forwarded-allow-ips {name} has it believed" in message
        assert message.startswith(line.partition(":")[0].title())


async def test_proxy_fix_goes_on_working_without_the_option() -> None:
    async with serving(app=ProxyFix(telling)) as (address,):  # type: ignore[arg-type]
        told = await ask(address)
    assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == ("192.0.2.7", "https")


async def test_fields_of_others_are_dropped_and_that_is_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving("127.0.0.1:0", f"unix:{folder}/s", forwarded_allow_ips=("unix",)) as (
        tcp,
        unix,
    ):
        for _ in range(3):
            told = await ask(tcp)
            assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == ("127.0.0.1", "http")
            assert not any("FORWARDED" in key for key in told)
        assert (await ask(unix))["REMOTE_ADDR"] == "192.0.2.7"
    (message,) = errors(caplog, "--forwarded-allow-ips")
    assert message.startswith("X-Forwarded-For is dropped, now and later: it came from a peer")


async def test_fields_that_an_address_does_not_trust_are_told_by_its_parameter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serving("127.0.0.1:0?trust=10.0.0.1") as (address,):
        await ask(address)
    (message,) = errors(caplog, "dropped")
    assert "a peer that trust= of this address does not name" in message


async def test_fields_of_others_may_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(forwarded_allow_ips=("10.0.0.1",), forwarded_keep=True) as (address,):
        told = await ask(address)
    assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    assert told["HTTP_X_FORWARDED_FOR"] == "192.0.2.7"
    assert not errors(caplog, "--forwarded-allow-ips")


async def test_an_address_may_trust_others_than_the_option_says(folder: Path) -> None:
    async with serving(
        "127.0.0.1:0",
        "127.0.0.1:0?trust=10.0.0.1",
        f"unix:{folder}/s?trust=all",
        f"unix:{folder}/t",
        forwarded_allow_ips=("127.0.0.1",),
    ) as addresses:
        clients = [(await ask(address))["REMOTE_ADDR"] for address in addresses]
    assert clients == ["192.0.2.7", "127.0.0.1", "192.0.2.7", ""]


async def test_an_address_may_trust_where_no_other_does(folder: Path) -> None:
    async with serving("127.0.0.1:0", f"unix:{folder}/s?trust=unix") as (tcp, unix):
        assert (await ask(unix))["REMOTE_ADDR"] == "192.0.2.7"
        told = await ask(tcp)
    assert (told["REMOTE_ADDR"], told["HTTP_X_FORWARDED_FOR"]) == ("127.0.0.1", "192.0.2.7")


async def test_a_socket_that_is_passed_follows_the_option() -> None:
    config = aiowsgi.Config(forwarded_allow_ips=("127.0.0.1",))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
        async with asyncio.timeout(TIMEOUT), aiowsgi.serve(telling, sock=sock, config=config):
            assert (await ask(address))["REMOTE_ADDR"] == "192.0.2.7"


def test_workers_follow_the_option_of_the_command(tmp_path: Path) -> None:
    source = """
        def application(environ, start_response):
            start_response("200 OK", [])
            return [f"{environ['REMOTE_ADDR']} {environ['SCRIPT_NAME']}".encode()]
    """
    options = ("--workers", "1", "--forwarded-allow-ips", "10.0.0.1,127.0.0.1")
    with served(tmp_path, source, *options, "--script-name", "/shop") as server:
        sent = request("X-Forwarded-For: 192.0.2.7\r\n", path="/shop/")
        answer = asyncio.run(exchange(("127.0.0.1", server.port()), sent))
        assert answer.endswith(b"192.0.2.7 /shop")
        assert server.stop() == 0


def test_everybody_who_connects_is_believed_and_no_further_proxy() -> None:
    site = Site(forwarded_allow_ips=("*",))
    chain = "X-Forwarded-For: 127.0.0.1, 192.0.2.7, 10.0.0.2"
    for peer in "", PROXY, "192.0.2.1":
        assert site.environ(chain, peer=peer)["REMOTE_ADDR"] == "10.0.0.2"
    site = Site(forwarded_allow_ips=("*,10.0.0.0/8",))
    assert site.environ(chain, peer="192.0.2.1")["REMOTE_ADDR"] == "192.0.2.7"


# Fields.


def test_fields_that_are_not_chosen_are_dropped() -> None:
    site = Site(forwarded_headers="x-forwarded-for,x-forwarded-proto")
    environ = site.environ(
        "X-Forwarded-For: 192.0.2.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil@example",
        "X-Forwarded-Port: 0",
        "X-Forwarded-Prefix: /../evil",
        "Forwarded: evil",
        "X-Forwarded-Server: told",
    )
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"], environ["SCRIPT_NAME"]) == (
        "h",
        "443",
        "",
    )
    assert {key for key in environ if "FORWARDED" in key} == {
        "HTTP_X_FORWARDED_FOR",
        "HTTP_X_FORWARDED_PROTO",
        "HTTP_X_FORWARDED_SERVER",
    }


def test_a_proxy_that_tells_no_client_is_the_client() -> None:
    site = Site(forwarded_headers="x-forwarded-proto")
    environ = site.environ("X-Forwarded-For: 1.1.1.1, 10.0.0.2", "X-Forwarded-Proto: https, http")
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == (PROXY, "http")


@pytest.mark.parametrize("headers", ["x-forwarded", "forwarded"])
def test_names_with_underscores_say_nothing_of_a_trusted_proxy(headers: str) -> None:
    site = Site(forwarded_headers=headers, header_map="dangerous")
    names = ("X_Forwarded_For", "X-Forwarded_For", "X_Forwarded-Proto", "X_Forwarded_Prefix")
    environ = site.environ(*(f"{name}: /x" for name in names))
    assert environ["REMOTE_ADDR"] == PROXY
    assert not any("FORWARDED" in key for key in environ)
    with pytest.raises(Refusal, match="holds an underscore"):
        Site(header_map="refuse").environ("X_Forwarded_For: 1.1.1.1")


@pytest.mark.parametrize(
    ("lines", "host"),
    [
        (("X-Forwarded-Proto: https",), "target.example:81"),
        (("X-Forwarded-Port: 8443",), "target.example:8443"),
        (("X-Forwarded-Host: told.example",), "told.example"),
        (("X-Forwarded-For: 192.0.2.7",), "target.example:81"),
    ],
)
def test_the_host_of_a_target_counts_more_than_that_of_host(
    lines: tuple[str, ...], host: str
) -> None:
    line = "GET http://target.example:81/a HTTP/1.1"
    environ = Site().environ(*lines, line=line)
    assert environ["HTTP_HOST"] == host
    assert environ["SERVER_NAME"] in (host.partition(":")[0], "10.9.9.9")
    assert environ["SERVER_PORT"] in (host.partition(":")[2] or "80", "8000")
    assert environ["aiowsgi.peer"]["HTTP_HOST"] == "target.example:81"


def test_without_a_scheme_that_is_told_that_of_the_connection_counts() -> None:
    site = Site()
    for scheme, port in ("https", "443"), ("http", "80"), ("https", "443"):
        environ = site.environ("X-Forwarded-Host: shop.example", scheme=scheme)
        assert (environ["wsgi.url_scheme"], environ["SERVER_PORT"]) == (scheme, port)


@pytest.mark.parametrize(
    ("scheme", "told", "https"),
    [
        ("http", "https", "on"),
        ("https", "https", "on"),
        ("https", "http", "off"),
        ("http", "http", None),
        ("http", None, None),
    ],
)
def test_https_says_the_same_as_the_scheme(
    scheme: str, told: str | None, https: str | None
) -> None:
    lines = ("X-Forwarded-For: 192.0.2.7", *([f"X-Forwarded-Proto: {told}"] if told else []))
    assert Site().environ(*lines, scheme=scheme).get("HTTPS") == https


def test_more_proxies_in_a_row_than_anybody_has_are_refused() -> None:
    chain = ", ".join(["192.0.2.7", *["10.0.0.2"] * 99])
    assert Site().environ(f"X-Forwarded-For: {chain}")["REMOTE_ADDR"] == "192.0.2.7"
    elements = ", ".join(["for=192.0.2.7", *["for=10.0.0.2"] * 100])
    for site, line in (
        (Site(), f"X-Forwarded-For: {chain}, 10.0.0.3"),
        (Site(forwarded_headers="forwarded"), f"Forwarded: {elements}"),
    ):
        with pytest.raises(Refusal, match="name more than 100 that are trusted"):
            site.environ(line)


def test_a_request_without_such_fields_is_left_alone() -> None:
    environ = Site().environ("X-Real-IP: 192.0.2.7")
    assert environ["REMOTE_ADDR"] == PROXY
    assert PEER not in environ


# Refusals and logs.


@pytest.mark.parametrize(
    ("fields", "path", "status", "client"),
    [
        ("X-Forwarded-Proto: ftp\r\n", "/", "400", "192.0.2.7"),
        ("X-Forwarded-Host: a@b\r\n", "/", "400", "192.0.2.7"),
        ("Content-Length: x\r\n", "/", "400", "192.0.2.7"),
        ("Expect: tea\r\n", "/", "417", "192.0.2.7"),
        ("Content-Length: 99999999999\r\n", "/", "413", "192.0.2.7"),
        ("X_Real_IP: 192.0.2.8\r\n", "/", "400", "192.0.2.7"),
        ("", "/healthz", "200", "192.0.2.7"),
        # Who is told of is not known.
        ("X-Forwarded-For: nonsense\r\n", "/", "400", "127.0.0.1"),
    ],
)
async def test_who_is_refused_is_the_client(
    fields: str, path: str, status: str, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = {"forwarded_allow_ips": ("127.0.0.1",), "health_path": "/healthz"}
    async with serving(**options, header_map="refuse") as (address,):
        answer = await exchange(
            address, request("X-Forwarded-For: 192.0.2.7\r\n" + fields, path=path)
        )
    assert answer[9:12].decode() == status
    shown = "" if client == "127.0.0.1" else " peer=127.0.0.1"
    assert access_lines(caplog) == [(client, status, shown)]
    if status != "200":
        (message,) = errors(caplog, "Refused")
        assert f" from {client} with {status}: " in message


async def test_uwsgi_believes_its_web_server_and_passes_fields_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    packet = uwsgi_packets.request(
        REMOTE_ADDR="192.0.2.9", HTTP_X_FORWARDED_FOR="1.1.1.1", HTTP_FORWARDED="for=1.1.1.1"
    )
    async with serving("uwsgi:127.0.0.1:0", forwarded_allow_ips=("127.0.0.1",)) as (address,):
        answer = await exchange(address, packet)
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["REMOTE_ADDR"] == "192.0.2.9"
    assert (told["HTTP_X_FORWARDED_FOR"], told["HTTP_FORWARDED"]) == ("1.1.1.1", "for=1.1.1.1")
    assert PEER not in told
    assert access_lines(caplog) == [("192.0.2.9", "200", " peer=127.0.0.1")]


# Debug pages.


def failing(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    raise ValueError("a secret")


@pytest.mark.parametrize(
    ("fields", "host", "shown"),
    [
        ("X-Forwarded-For: 127.0.0.1\r\n", "localhost", True),
        ("X-Forwarded-For: ::1\r\n", "localhost", True),
        ("X-Forwarded-For: 192.0.2.7\r\n", "localhost", False),
        ("X-Forwarded-For: unknown\r\n", "localhost", False),
        ("X-Forwarded-For: unix:\r\n", "localhost", False),
        ("X-Forwarded-For: 127.0.0.1, 192.0.2.7\r\n", "localhost", False),
        ("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: evil.example\r\n", "localhost", False),
        ("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: localhost\r\n", "evil.example", False),
        ("X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: localhost\r\n", "127.0.0.1", True),
        ("", "localhost", True),
    ],
)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_trusted_proxy_on_this_machine_shows_no_debug_page_to_the_world(
    kind: str, fields: str, host: str, shown: bool, folder: Path
) -> None:
    bind = "127.0.0.1:0" if kind == "tcp" else f"unix:{folder}/s"
    options = {"forwarded_allow_ips": ("127.0.0.1", "unix"), "debug": True}
    async with serving(bind, app=failing, **options) as (address,):
        answer = await exchange(address, request(fields, host=host))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert (b"a secret" in answer) is shown


@pytest.mark.parametrize(("client", "shown"), [("127.0.0.1", True), ("192.0.2.7", False)])
async def test_a_web_server_shows_no_debug_page_to_the_world(client: str, shown: bool) -> None:
    packet = uwsgi_packets.request(REMOTE_ADDR=client, HTTP_HOST="localhost")
    async with serving("uwsgi:127.0.0.1:0", app=failing, debug=True) as (address,):
        answer = await exchange(address, packet)
    assert (b"a secret" in answer) is shown


# Below a path.


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/shop", ""),
        ("/shop/", "/"),
        ("/shop/cart", "/cart"),
        ("/shop//cart", "//cart"),
        ("/shop/sh%6fp/%20", "/shop/ "),
        ("/shop/../x", "/../x"),
        ("/shop?/shop", ""),
        ("http://h/shop/x", "/x"),
        ("/", None),
        ("/shopping", None),
        ("/shop%2fcart", None),
        ("/sh%6fp/cart", None),
        ("/SHOP/cart", None),
        ("//shop/cart", None),
        ("/x/shop", None),
        ("http://h", None),
    ],
)
async def test_paths_below_the_prefix_are_those_of_the_application(
    path: str, rest: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(script_name="/shop") as (address,):
        if rest is not None:
            told = await ask(address, "", path)
            assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/shop", rest)
            return
        answer = await exchange(address, request("", path=path))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert body.decode() == (
        "404 Not Found: all paths of this server begin with /shop/ (--script-name). If a web "
        "server in front has removed that, see --script-name-strip.\n"
    )
    assert access_lines(caplog) == [("127.0.0.1", "404", "")]


@pytest.mark.parametrize("options", [{}, {"forwarded_allow_ips": ("127.0.0.1",)}])
async def test_the_prefix_is_cut_from_each_of_many_equal_requests(options: dict[str, Any]) -> None:
    """Also where their heads are remembered as a whole."""
    sent = b"GET /shop/shop/a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
    paths = []
    async with asyncio.timeout(TIMEOUT), serving(script_name="/shop", **options) as (address,):
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(8):
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"Content-Length: ([0-9]+)", head)
            assert size is not None
            told = json.loads(await reader.readexactly(int(size[1])))
            paths.append((told["SCRIPT_NAME"], told["PATH_INFO"]))
        writer.close()
        await writer.wait_closed()
    assert paths == [("/shop", "/shop/a")] * 8


async def test_a_404_keeps_the_connection_and_shows_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    first = b"HEAD /other HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
    options = {"script_name": "/shop", "forwarded_allow_ips": ("127.0.0.1",)}
    async with serving(**options) as (address,):
        answer = await exchange(address, first + request(path="/shop"))
    assert answer.count(b"HTTP/1.1 404 ") == 1
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert b"all paths" not in answer  # It was HEAD.
    assert access_lines(caplog)[0] == ("192.0.2.7", "404", " peer=127.0.0.1")


async def test_a_prefix_that_is_cut_in_front_is_only_told() -> None:
    async with serving(script_name="/shop", script_name_strip=True) as (address,):
        for path in "/cart", "/shop/cart", "/":
            told = await ask(address, "", path)
            assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/shop", path)


@pytest.mark.parametrize(
    ("strip", "path", "prefix", "rest"),
    [(False, "/shop/cart", "/eu/shop", "/cart"), (True, "/cart", "/eu", "/cart")],
)
async def test_a_prefix_that_a_proxy_tells_comes_before_that_of_the_option(
    strip: bool, path: str, prefix: str, rest: str
) -> None:
    options = {"script_name": "/shop", "script_name_strip": strip}
    async with serving(forwarded_allow_ips=("*",), **options) as (address,):
        told = await ask(address, "X-Forwarded-Prefix: /eu/\r\n", path)
        assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == (prefix, rest)
        assert told[PEER]["SCRIPT_NAME"] == "/shop"
        assert (await ask(address, "", path))["SCRIPT_NAME"] == "/shop"


async def test_the_health_check_is_not_below_the_prefix() -> None:
    async with serving(script_name="/shop", health_path="/healthz") as (address,):
        assert b"200 OK" in await exchange(address, request(path="/healthz"))
        told = await ask(address, "", "/shop/healthz")
    assert told["PATH_INFO"] == "/healthz"


@pytest.mark.parametrize(
    ("strip", "variables", "expected"),
    [
        (False, {"PATH_INFO": "/shop/caf\xc3\xa9"}, ("/shop", "/caf\xc3\xa9")),
        (False, {"PATH_INFO": "/shop"}, ("/shop", "")),
        (False, {"PATH_INFO": "/shopping"}, None),
        (False, {"REQUEST_URI": "/shop/a", "PATH_INFO": None}, ("/shop", "/a")),
        (False, {"PATH_INFO": "/shop/a", "SCRIPT_NAME": ""}, ("/shop", "/a")),
        (False, {"PATH_INFO": "/a", "SCRIPT_NAME": "/told"}, ("/told", "/a")),
        (True, {"PATH_INFO": "/a"}, ("/shop", "/a")),
        (True, {"PATH_INFO": "/a", "SCRIPT_NAME": ""}, ("/shop", "/a")),
        (True, {"PATH_INFO": "/a", "SCRIPT_NAME": "/told"}, ("/told", "/a")),
    ],
)
async def test_a_web_server_that_tells_where_the_application_is_counts_more(
    strip: bool, variables: dict[str, str | None], expected: tuple[str, str] | None
) -> None:
    options = {"script_name": "/shop", "script_name_strip": strip}
    async with serving("uwsgi:127.0.0.1:0", **options) as (address,):
        answer = await exchange(address, uwsgi_packets.request(**variables))
    head, _, body = answer.partition(b"\r\n\r\n")
    if expected is None:
        assert b" 404 " in head.partition(b"\r\n")[0]
    else:
        told = json.loads(body)
        assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == expected


# What it costs.


def test_nobody_pays_for_what_nobody_asks_for() -> None:
    """A plain server has no use for these modules, some of which take much memory."""
    script = """
        import asyncio, sys, aiowsgi
        async def main():
            async with aiowsgi.serve(lambda environ, start_response: [], "127.0.0.1", 0) as server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.write(b"GET / HTTP/1.0\\r\\nX-Forwarded-For: 192.0.2.7\\r\\n\\r\\n")
                await reader.read()
                writer.close()
        before = "ipaddress" in sys.modules
        asyncio.run(main())
        names = [name for name in sys.modules if name.startswith("aiowsgi.http.forwarded.")]
        print(before, "ipaddress" in sys.modules, sorted(name[23:] for name in names))
        """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "False False ['names', 'policies']\n"
