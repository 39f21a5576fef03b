"""Connections that begin with a header of the PROXY protocol, over real sockets."""

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.validate import validator

import proxy_headers as make
import pytest
from certificates import Certificates
from log_records import loud
from memory import MemoryServer
from raw_client import RawClient, be_patient, connect, eventually, on_each_loop
from served_process import served as served_process
from tls_client import TlsClient

import aiowsgi
from aiowsgi.config import ListenerConfig, Origin
from aiowsgi.errors import ConfigError
from aiowsgi.net.proxy_protocol.arrival import ProxyProtocol
from aiowsgi.net.transport import SocketWire

ON = "?proxy=on&trust=127.0.0.1,::1,unix"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LINE = make.line("192.0.2.1", "192.0.2.2", 56324, 443)
OWN = "127.0.0.1"


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Tell what the environ says of the connection, and how many bytes came as the body."""
    names = r"REMOTE_.*|SERVER_NAME|SERVER_PORT|wsgi\.url_scheme|HTTPS|SSL_.*|aiowsgi\.peer"
    told: dict[str, Any] = {key: environ[key] for key in environ if re.fullmatch(names, key)}
    told["body"] = len(environ["wsgi.input"].read(-1))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


@contextlib.asynccontextmanager
async def served(address: str = "127.0.0.1:0", **options: Any) -> AsyncIterator[aiowsgi.Server]:
    # No wait for a header ends by itself, unless a test is about that.
    defaults = {"timeout_graceful": 5.0, "timeout_proxy": 1000.0, "threads": 4}
    options = {"bind": (address + ON,), **defaults, **options}
    config = aiowsgi.Config(**options)
    async with aiowsgi.serve(validator(application), config=config) as server:
        yield be_patient(server)


async def told(client: RawClient) -> dict[str, Any]:
    """Return what the application tells in the next response."""
    response = await client.receive()
    assert response.status == 200, response
    found: dict[str, Any] = json.loads(response.body)
    return found


def ends(answer: dict[str, Any]) -> tuple[str, ...]:
    """Return both ends of the connection, as the application is told of them."""
    keys = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT")
    return tuple(answer[key] for key in keys)


async def nothing(client: RawClient) -> None:
    """See that the connection ends without an answer."""
    with contextlib.suppress(ConnectionResetError):
        assert await client.read(1000) == b""


async def gone(server: aiowsgi.Server) -> None:
    """Wait until the server has no connection any more."""
    await eventually(lambda: server.inspect().connections == 0)


# --- a header -------------------------------------------------------------------------------------


@on_each_loop
async def test_header_names_client_and_server_of_every_request() -> None:
    headers = {
        LINE: ("192.0.2.1", "56324", "192.0.2.2", "443"),
        make.binary_tcp(): ("192.0.2.1", "56324", "192.0.2.2", "443"),
        make.line("2001:db8::1", "2001:db8::2", 1, 2): ("2001:db8::1", "1", "2001:db8::2", "2"),
        make.binary_tcp(source="2001:db8::1"): ("2001:db8::1", "56324", "2001:db8::2", "443"),
    }
    async with served() as server:
        for header, expected in headers.items():
            async with await connect(server) as client:
                for beginning in header, b"":
                    await client.send(beginning + GET)
                    answer = await told(client)
                    assert ends(answer) == expected
                    assert answer["wsgi.url_scheme"] == "http"
        await gone(server)


@on_each_loop
async def test_header_is_read_however_it_arrives() -> None:
    async with served() as server:
        for header in LINE, make.binary_tcp(make.ssl()):
            async with await connect(server) as client:
                client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for number in range(len(header)):
                    await client.send(header[number : number + 1])
                    # So that the server may read it alone.
                    await asyncio.sleep(0)
                await client.send(GET)
                assert ends(await told(client))[0] == "192.0.2.1"


@on_each_loop
async def test_header_takes_no_byte_of_what_is_behind_it() -> None:
    body = b"x" * 300_000
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with served() as server, await connect(server) as client:
        await client.send(LINE + GET + GET + post + body + GET)
        answers = [await told(client) for _ in range(4)]
        assert [answer["body"] for answer in answers] == [0, 0, len(body), 0]
        assert {ends(answer)[0] for answer in answers} == {"192.0.2.1"}


@on_each_loop
async def test_header_is_read_once_on_a_connection() -> None:
    async with served() as server, await connect(server) as client:
        await client.send(LINE + LINE + GET)
        response = await client.receive()
        assert response.status == 400
        assert b"speaks the PROXY protocol" in response.body


@on_each_loop
async def test_header_that_says_nothing_of_the_client_leaves_the_ends_as_they_are() -> None:
    headers = [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n",
        make.binary(),
        make.binary(command=make.LOCAL),
        make.binary(make.addresses("192.0.2.1", "192.0.2.2", 1, 2), command=make.LOCAL),
    ]
    async with served() as server:
        for header in headers:
            async with await connect(server) as client:
                await client.send(header + GET)
                port = str(server.sockets[0].getsockname()[1])
                own = str(client.socket.getsockname()[1])
                assert ends(await told(client)) == (OWN, own, OWN, port)


@on_each_loop
async def test_header_tells_of_tls_between_the_client_and_the_proxy() -> None:
    header = make.binary_tcp(
        make.ssl(
            make.CLIENT_SSL | make.CERT_CONN,
            0,
            make.tlv(make.SSL_VERSION, b"TLSv1.3"),
            make.tlv(make.SSL_CIPHER, b"TLS_AES_256_GCM_SHA384"),
            make.tlv(make.SSL_CN, b"example.com"),
        ),
        make.tlv(make.AUTHORITY, b"shop.test"),
    )
    async with served() as server, await connect(server) as client:
        await client.send(header + GET)
        answer = await told(client)
        assert {key: answer[key] for key in answer if "S" in key and "SERVER" not in key} == {
            "HTTPS": "on",
            "SSL_PROTOCOL": "TLSv1.3",
            "SSL_CIPHER": "TLS_AES_256_GCM_SHA384",
            "SSL_CLIENT_VERIFY": "SUCCESS",
            "SSL_CLIENT_S_DN_CN": "example.com",
            "SSL_TLS_SNI": "shop.test",
        }
        assert answer["wsgi.url_scheme"] == "https"


@on_each_loop
async def test_header_is_read_on_other_kinds_of_sockets(folder: Path) -> None:
    async with served("[::1]:0") as server, await _connected(server.sockets[0]) as client:
        await client.send(LINE + GET)
        assert ends(await told(client)) == ("192.0.2.1", "56324", "192.0.2.2", "443")
    async with served(f"unix:{folder}/socket") as server:
        for header, client_end in (LINE, "192.0.2.1"), (make.binary(command=make.LOCAL), ""):
            async with await _connected(server.sockets[0]) as client:
                await client.send(header + GET)
                assert ends(await told(client))[0] == client_end


@on_each_loop
async def test_header_is_what_logs_know_the_client_by(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiowsgi")
    async with served() as server, await connect(server) as client:
        await client.send(LINE + GET)
        await told(client)
        await client.send(b"GET / HTTP/9.9\r\n\r\n")
        assert (await client.receive()).status == 505
    lines = [record.getMessage() for record in caplog.records if record.name == "aiowsgi.access"]
    assert [line.split(" ")[0] for line in lines] == ["192.0.2.1", "192.0.2.1"]
    (warning,) = loud(caplog)
    assert 'Refused "GET / HTTP/9.9" from 192.0.2.1 with 505' in warning.getMessage()


async def _connected(listening: socket.socket) -> RawClient:
    sock = socket.socket(listening.family, socket.SOCK_STREAM)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, listening.getsockname())
    return RawClient(sock)


# --- health checks --------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"PROXY UNKNOWN\r\n", make.binary(command=make.LOCAL)])
@on_each_loop
async def test_health_check_is_no_error(said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiowsgi")
    async with served() as server:
        for _ in range(3):
            async with await connect(server) as client:
                await client.send(said)
                client.socket.shutdown(socket.SHUT_WR)
                await nothing(client)
            # As HAProxy does it.
            async with await connect(server) as client:
                await client.send(said)
                client.reset()
        await gone(server)
        assert not [record for record in caplog.records if "Serving" not in record.msg]


# --- what is no header ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GET, "the client speaks HTTP, it seems, without a PROXY header"),
        (b"\x16\x03\x01\x02\x00", "the client speaks TLS, without a PROXY header"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n" + GET, "a port that is no number"),
        (make.binary(b"", family=make.TCP4) + GET, "too short for the addresses"),
        (b"\0" * 100_000, "no PROXY header"),
    ],
)
@on_each_loop
async def test_what_is_no_header_is_closed_without_an_answer(
    data: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as server:
        for _ in range(3):
            async with await connect(server) as client:
                await client.send(data)
                await nothing(client)
        await gone(server)
        # Once a minute.
        (warning,) = loud(caplog)
        assert "Closed a connection from 127.0.0.1 without an answer: " in warning.getMessage()
        assert reason in warning.getMessage()
        # How often that was shows with the next one.
        async with await connect(server) as client:
            await client.send(b"PROXY \r\n")
            await nothing(client)
        assert "(not shown since the last one: 2)" in loud(caplog)[-1].getMessage()


@on_each_loop
async def test_what_is_no_header_is_a_header_that_ends_early(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served() as server, await connect(server) as client:
        await client.send(LINE[:-1])
        client.socket.shutdown(socket.SHUT_WR)
        await nothing(client)
        await gone(server)
    assert "it ended the connection within the PROXY header" in caplog.text


@pytest.mark.parametrize("said", [LINE[:-1], make.binary_tcp()[:-1]])
@on_each_loop
async def test_what_is_no_header_is_not_waited_for_for_longer_than_the_option_says(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(timeout_proxy=0.1, timeout_header=1000.0) as server:
        # On a busy machine, the time may be over before the server has read anything.
        for _ in range(50):
            async with await connect(server) as client:
                await client.send(said)
                await nothing(client)
            if loud(caplog):
                break
        await gone(server)
    (warning,) = loud(caplog)
    assert "it took longer than 0.1 s within the PROXY header" in warning.getMessage()


@on_each_loop
async def test_silence_is_not_waited_for_either_and_nothing_to_warn_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Browsers connect before they need it.
    async with served(timeout_proxy=0.1, timeout_keep_alive=1000.0) as server:
        async with await connect(server) as client:
            await nothing(client)
        await gone(server)
    assert loud(caplog) == []


@on_each_loop
async def test_what_is_no_header_is_believed_of_nobody_who_is_not_trusted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bind = ("127.0.0.1:0?proxy=on&trust=192.0.2.7,unix",)
    async with served(bind=bind) as server, await connect(server) as client:
        # Before anything is read.
        await nothing(client)
        await gone(server)
    (warning,) = loud(caplog)
    assert "from 127.0.0.1 without an answer: it may not speak" in warning.getMessage()
    assert "name it in trust=" in warning.getMessage()


@on_each_loop
async def test_what_is_no_header_is_told_where_a_header_comes_to_a_listener_without() -> None:
    async with served(bind=("127.0.0.1:0",)) as server:
        for header in LINE, b"PROXY UNKNOWN\r\n", make.binary_tcp():
            async with await connect(server) as client:
                await client.send(header + GET)
                response = await client.receive()
                assert response.status == 400
                assert b"PROXY protocol" in response.body
                assert b"?proxy=on" in response.body


@on_each_loop
async def test_what_is_no_uwsgi_packet_but_a_header_is_told_of() -> None:
    async with (
        served(bind=("uwsgi:127.0.0.1:0",)) as server,
        await connect(server) as client,
    ):
        await client.send(make.binary_tcp())
        response = await client.receive()
        assert response.status == 400
        assert b"speaks the PROXY protocol" in response.body


# --- connections that wait for a header -----------------------------------------------------------


@on_each_loop
async def test_connection_that_waits_is_closed_when_the_server_stops() -> None:
    async with (
        served(timeout_proxy=1000.0, timeout_graceful=1000.0) as server,
        await connect(server) as silent,
        await connect(server) as slow,
    ):
        await slow.send(LINE[:20])
        await eventually(lambda: server.inspect().connections == 2)
        await eventually(lambda: server.inspect().idle == 2)
        server.close()
        async with asyncio.timeout(30):
            await server.wait_closed()
        await nothing(silent)
        await nothing(slow)
        assert not server.was_cut


@on_each_loop
async def test_connection_that_waits_has_its_request_answered_while_the_server_drains() -> None:
    async with served(drain_delay=1000.0) as server:
        async with await connect(server) as client:
            await client.send(LINE[:20])
            await eventually(lambda: server.inspect().idle == 1)
            server.close()
            await client.send(LINE[20:] + GET)
            response = await client.receive()
            assert (response.status, response.get("connection")) == (200, "close")
        server.abort()


@on_each_loop
async def test_connection_that_waits_makes_room_for_another_one() -> None:
    async with (
        served(max_connections=2, timeout_proxy=1000.0) as server,
        await connect(server) as first,
        await connect(server) as second,
    ):
        await first.send(LINE[:20])
        await eventually(lambda: server.inspect().idle == 2)
        async with await connect(server) as third:
            await third.send(LINE + GET)
            assert ends(await told(third))[0] == "192.0.2.1"
        await nothing(first)
        await nothing(second)


@on_each_loop
async def test_connection_that_waits_does_not_keep_an_abort_waiting() -> None:
    async with (
        served(timeout_proxy=1000.0, drain_delay=1000.0) as server,
        await connect(server) as client,
    ):
        await eventually(lambda: server.inspect().idle == 1)
        server.abort()
        await server.wait_closed()
        await nothing(client)


def test_connection_that_waits_is_gone_where_it_could_not_be_set_up() -> None:
    server = MemoryServer(application)
    ended = 0

    def note_end() -> None:
        nonlocal ended
        ended += 1

    server.shared.on_disconnect = note_end
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop), socket.socket() as sock:
        wire = SocketWire(server.shared, server.codec, sock, ("192.0.2.1", 1), loop)
        step = ProxyProtocol(server.shared, lambda host: True).step(sock, wire, wire)
        step.connection_lost(None)
        step.connection_lost(None)
    assert ended == 1
    assert not server.shared.connections


def test_connection_that_waits_leaves_its_socket_to_the_parent_in_a_forked_child() -> None:
    server = MemoryServer(application)
    loop = asyncio.new_event_loop()
    with contextlib.closing(loop), socket.socket() as sock:
        wire = SocketWire(server.shared, server.codec, sock, ("192.0.2.1", 1), loop)
        step = ProxyProtocol(server.shared, lambda host: True).step(sock, wire, wire)
        assert step.abandon(aiowsgi.ClientDisconnected("x")) == [sock.fileno()]


# --- the parameter --------------------------------------------------------------------------------


def test_parameter_is_on_or_off() -> None:
    assert ListenerConfig.parse("127.0.0.1:0" + ON).proxy
    assert not ListenerConfig.parse("127.0.0.1:0?proxy=off").proxy
    assert not ListenerConfig.parse("127.0.0.1:0").proxy
    for value in "yes", "", "1", "ON":
        with pytest.raises(ConfigError, match="neither 'on' nor 'off'"):
            ListenerConfig.parse(f"127.0.0.1:0?proxy={value}")


def test_parameter_is_not_for_what_web_servers_speak() -> None:
    with pytest.raises(ConfigError, match="uwsgi itself says who the client is"):
        aiowsgi.Config(bind=("uwsgi:127.0.0.1:0" + ON,))
    aiowsgi.Config(bind=("uwsgi:127.0.0.1:0?proxy=off",))


def test_parameter_needs_somebody_who_is_trusted() -> None:
    with pytest.raises(ConfigError, match=r"nobody is trusted.*proxy=on&trust=ADDRESS', or .*_ips"):
        aiowsgi.Config(bind=("127.0.0.1:0?proxy=on",))
    # In a shell, "&" ends the command, and an address without quotes.
    given = {Origin.COMMAND_LINE: {"bind": ("127.0.0.1:0?proxy=on",)}}
    with pytest.raises(ConfigError, match=r"ADDRESS', with quotes .* --forwarded-allow-ips$"):
        aiowsgi.Config().with_values(given)


# --- who is believed what ------------------------------------------------------------------------

FORWARDED = b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 198.51.100.9\r\n\r\n"


@pytest.mark.parametrize("trust", ["all", "127.0.0.1", "127.0.0.0/8,unix"])
@on_each_loop
async def test_trust_in_a_proxy_is_none_in_the_header_fields_of_its_clients(trust: str) -> None:
    async with served(bind=(f"127.0.0.1:0?proxy=on&trust={trust}",)) as server:
        for header in LINE, make.binary_tcp(make.ssl()), make.line("::1", "::1", 1, 2):
            async with await connect(server) as client:
                await client.send(header + FORWARDED)
                assert ends(await told(client))[0] in ("192.0.2.1", "::1")


@on_each_loop
async def test_trust_in_a_client_of_the_proxy_is_trust_in_its_header_fields() -> None:
    # A proxy that speaks HTTP, behind one that does not.
    async with served(bind=("127.0.0.1:0?proxy=on&trust=127.0.0.1,192.0.2.0/24",)) as server:
        async with await connect(server) as client:
            await client.send(LINE + FORWARDED)
            answer = await told(client)
            assert answer["REMOTE_ADDR"] == "198.51.100.9"
            # It is who has connected.
            assert answer["aiowsgi.peer"]["REMOTE_ADDR"] == OWN
        # Where the proxy speaks for itself, it is the client.
        async with await connect(server) as client:
            await client.send(make.binary(command=make.LOCAL) + FORWARDED)
            answer = await told(client)
            assert answer["REMOTE_ADDR"] == "198.51.100.9"


@pytest.mark.parametrize("trust", ["all", "127.0.0.1", "127.0.0.0/8,unix"])
@on_each_loop
async def test_nobody_is_believed_where_the_proxy_does_not_know_its_client(trust: str) -> None:
    async with served(bind=(f"127.0.0.1:0?proxy=on&trust={trust}",)) as server:
        for header in b"PROXY UNKNOWN\r\n", make.binary(), make.binary(make.ssl(), family=0):
            async with await connect(server) as client:
                await client.send(header + FORWARDED)
                assert ends(await told(client))[0] == OWN


@on_each_loop
async def test_nobody_is_believed_on_a_unix_socket_where_the_proxy_does_not_know_its_client(
    folder: Path,
) -> None:
    async with served(bind=(f"unix:{folder}/socket?proxy=on&trust=unix",)) as server:
        for header, client_end in (
            (b"PROXY UNKNOWN\r\n", ""),
            (make.binary(command=make.LOCAL), "198.51.100.9"),
        ):
            async with await _connected(server.sockets[0]) as client:
                await client.send(header + FORWARDED)
                assert ends(await told(client))[0] == client_end


@pytest.mark.parametrize(("allowed", "is_trusted"), [(OWN, True), ("192.0.2.7", False)])
@on_each_loop
async def test_trust_of_all_addresses_is_that_of_an_address_without_its_own(
    allowed: str, is_trusted: bool
) -> None:
    bind = ("127.0.0.1:0?proxy=on",)
    async with (
        served(bind=bind, forwarded_allow_ips=(allowed,)) as server,
        await connect(server) as client,
    ):
        if is_trusted:
            await client.send(LINE + GET)
            assert ends(await told(client))[0] == "192.0.2.1"
        else:
            await nothing(client)


@on_each_loop
async def test_peer_of_a_connection_is_known_beside_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiowsgi")
    async with served() as server:
        port = str(server.sockets[0].getsockname()[1])
        async with await connect(server) as client:
            own = str(client.socket.getsockname()[1])
            await client.send(make.binary_tcp(make.ssl()) + GET)
            answer = await told(client)
            assert answer["wsgi.url_scheme"] == "https"
            assert answer["aiowsgi.peer"] == {
                "REMOTE_ADDR": OWN,
                "REMOTE_PORT": own,
                "SERVER_NAME": OWN,
                "SERVER_PORT": port,
                "wsgi.url_scheme": "http",
                "HTTP_HOST": "h",
                "SCRIPT_NAME": "",
            }
        async with await connect(server) as client:
            await client.send(make.binary(command=make.LOCAL) + GET)
            assert "aiowsgi.peer" not in await told(client)
        await gone(server)
    lines = [record.getMessage() for record in caplog.records if record.name == "aiowsgi.access"]
    assert [line.endswith(" peer=127.0.0.1") for line in lines] == [True, False]


@pytest.mark.parametrize(("client", "is_shown"), [("127.0.0.1", True), ("192.0.2.1", False)])
@on_each_loop
async def test_debug_pages_are_shown_to_clients_on_this_machine_only(
    client: str, is_shown: bool
) -> None:
    def failing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise ValueError("a secret")

    config = aiowsgi.Config(bind=("127.0.0.1:0" + ON,), debug=True)
    async with (
        aiowsgi.serve(failing, config=config) as server,
        await connect(server) as connection,
    ):
        header = make.line(client, OWN, 1, 2)
        await connection.send(header + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = await connection.receive()
        assert response.status == 500
        assert (b"a secret" in response.body) is is_shown


# --- TLS behind it -------------------------------------------------------------------------------


@on_each_loop
async def test_tls_on_the_connection_itself_is_the_one_that_counts(
    certificates: Certificates,
) -> None:
    told_tls = make.ssl(3, 0, make.tlv(make.SSL_CN, b"example.com"))
    async with served(certfile=(certificates.site,)) as server:
        for header in LINE, make.binary_tcp(told_tls):
            plain = await connect(server)
            await plain.send(header[:10])
            client = TlsClient(plain, certificates.client_context(), "localhost")
            # The rest of the header and the beginning of the handshake are one packet.
            with contextlib.suppress(ssl.SSLWantReadError):
                client.tls.do_handshake()
            await plain.send(header[10:] + client._outgoing.read())
            await client.handshake()
            async with client:
                for _ in range(2):
                    await client.send(GET)
                    answer = await told(client)
                    assert ends(answer) == ("192.0.2.1", "56324", "192.0.2.2", "443")
                    assert (answer["HTTPS"], answer["wsgi.url_scheme"]) == ("on", "https")
                    assert "SSL_CLIENT_S_DN_CN" not in answer
                    assert answer["aiowsgi.peer"]["wsgi.url_scheme"] == "https"


@pytest.mark.parametrize("header", [LINE, make.binary_tcp()])
@on_each_loop
async def test_header_that_a_listener_of_tls_does_not_expect_is_told_of(
    certificates: Certificates, header: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiowsgi")
    async with served(certfile=(certificates.site,), bind=("127.0.0.1:0",)) as server:
        async with await connect(server) as client:
            await client.send(header)
            await nothing(client)
        await gone(server)
    assert "it speaks the PROXY protocol before TLS; write ?proxy=on" in caplog.text


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--workers", "2", "--reuse-port")])
def test_header_is_read_in_every_worker(options: tuple[str, ...], tmp_path: Path) -> None:
    source = """
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["REMOTE_ADDR"].encode()]
    """
    with served_process(tmp_path, source, *options, bind=("--bind", "127.0.0.1:0" + ON)) as server:
        port = server.port()
        for number in range(20):
            header = make.line(f"192.0.2.{number}", "192.0.2.2", 1, 2)
            # The header alone, so that the request comes to a connection that has begun.
            with socket.create_connection(("127.0.0.1", port), 30) as client:
                client.sendall(header)
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert client.makefile("rb").read().endswith(b"\r\n\r\n192.0.2.%d" % number)
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(b"PROXY UNKNOWN")
            assert server.stop() == 0
            # It was closed at once, though its time was not over.
            assert client.recv(1) == b""


# The second one tells nobody that it forks.
@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_connection_that_waits_is_not_kept_by_a_forked_child(fork: str, tmp_path: Path) -> None:
    source = f"""
    import ctypes, os, signal

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/fork":
            pid = {fork}()
            if not pid:
                signal.pause()
            return [str(pid).encode()]
        return [b"hello"]
    """
    options = ("--bind", "127.0.0.1:0" + ON, "--timeout-proxy", "1000")
    # Newer versions of Python warn of a fork beside threads.
    command = (sys.executable, "-W", "ignore", "-m", "aiowsgi", "app:application")
    with (
        served_process(tmp_path, source, command=command, bind=options) as server,
        contextlib.ExitStack() as clients,
    ):
        address = "127.0.0.1", server.port()
        waiting, refused, forking = (
            clients.enter_context(socket.create_connection(address, 30)) for _ in range(3)
        )
        waiting.sendall(LINE[:20])
        forking.sendall(LINE + b"GET /fork HTTP/1.0\r\n\r\n")
        child = int(forking.makefile("rb").read().rpartition(b"\r\n\r\n")[2])
        try:
            # The parent goes on with them, and their end is one for their clients, too.
            waiting.sendall(LINE[20:] + b"GET / HTTP/1.0\r\n\r\n")
            assert waiting.makefile("rb").read().endswith(b"\r\n\r\nhello")
            refused.sendall(b"?")
            assert refused.recv(1) == b""
        finally:
            os.kill(child, signal.SIGKILL)
