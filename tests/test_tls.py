"""HTTPS over real sockets, on both loops and with both libraries that read HTTP."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx
import pytest
from certificates import Certificates
from raw_client import TIMEOUT, StartServer, connect, eventually, in_thread, on_each_loop
from tls_client import connect_tls

import aiowsgi
from aiowsgi import ConfigError

GET = b"GET /path HTTP/1.1\r\nHost: localhost\r\n\r\n"
each_reader = pytest.mark.parametrize("http", ["h11", "httptools"])


class App:
    """Answers with the length of the body, and remembers the environs."""

    def __init__(self) -> None:
        self.environs: list[WSGIEnvironment] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.environs.append(environ)
        size = 0
        while data := environ["wsgi.input"].read(1 << 16):
            size += len(data)
        body = str(size).encode()
        start_response(
            "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        )
        return [body]


@each_reader
@on_each_loop
async def test_request_over_tls_is_answered_and_the_connection_kept(
    start_server: StartServer, certificates: Certificates, http: Any
) -> None:
    app = App()
    server = await start_server(app, certfile=(certificates.site,), http=http)
    assert server.url == f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with await connect_tls(server, certificates.client_context()) as client:
        assert client.tls.selected_alpn_protocol() is None  # It has offered nothing.
        for _ in range(3):
            response = await client.request(GET)
            assert (response.status, response.body) == (200, b"0")
    environ = app.environs[0]
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert environ["SERVER_PORT"] == str(server.sockets[0].getsockname()[1])


@on_each_loop
async def test_a_client_of_the_field_gets_its_answer(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = await start_server(App(), certfile=(certificates.site,))
    async with httpx.AsyncClient(
        verify=certificates.client_context(), trust_env=False, timeout=TIMEOUT
    ) as client:
        for size in (0, 5, 20_000_000):
            response = await client.post(f"{server.url}/", content=b"x" * size)
            assert (response.status_code, response.text) == (200, str(size))


@on_each_loop
async def test_a_host_gives_a_context_of_its_own(certificates: Certificates) -> None:
    app = App()
    serving = aiowsgi.serve(app, "127.0.0.1", 0, ssl=certificates.server_context())
    async with serving as server:
        assert server.url.startswith("https://")
        async with await connect_tls(server, certificates.client_context()) as client:
            assert (await client.request(GET)).status == 200


async def test_a_context_for_clients_is_refused(certificates: Certificates) -> None:
    with pytest.raises(ConfigError, match=r"for clients.*PROTOCOL_TLS_SERVER"):
        aiowsgi.serve(App(), ssl=ssl.create_default_context())
    with pytest.raises(TypeError, match=r"ssl must be an ssl\.SSLContext, not str"):
        aiowsgi.serve(App(), ssl="site.pem")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="either ssl or certfile"):
        aiowsgi.serve(
            App(),
            ssl=certificates.server_context(),
            config=aiowsgi.Config(certfile=(certificates.site,)),
        )


@on_each_loop
async def test_http_on_a_port_of_https_is_told_so(
    start_server: StartServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    server = await start_server(app, certfile=(certificates.site,))
    for pieces in ([GET], [b"G", b"E", b"T /path HTTP/1.1\r\n"]):
        async with await connect(server) as client:
            for piece in pieces:
                await client.send(piece)
            answer = await client.read_until_eof()
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"https://" in answer
    assert app.environs == []
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        'Refused "GET /path HTTP/1.1" from 127.0.0.1 with 400: the client speaks plain HTTP, and '
        "this listener HTTPS"
    ]


@on_each_loop
async def test_garbage_on_a_port_of_https_ends_the_connection(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = await start_server(App(), certfile=(certificates.site,))
    for data in (b"\0\x01\x02", b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-x\r\n"):
        async with await connect(server) as client:
            await client.send(data)
            try:
                answer = await client.read_until_eof()
            except ConnectionResetError:
                answer = b""
            assert answer == b"" or answer[0] == 0x15  # An alert.


@on_each_loop
async def test_a_handshake_that_does_not_end_is_given_up(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = await start_server(App(), certfile=(certificates.site,), timeout_handshake=0.05)
    async with await connect(server) as client:
        await client.send(b"\x16\x03")
        assert await client.read_until_eof() == b""
    await eventually(lambda: server.inspect().connections == 0)


@on_each_loop
async def test_what_a_client_has_asked_for_is_answered_behind_its_end(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = await start_server(App(), certfile=(certificates.site,))
    async with await connect_tls(server, certificates.client_context()) as client:
        client.tls.write(GET)
        await client.close_notify()
        assert (await client.receive()).body == b"0"
        assert await client.read(1) == b""  # It has sent close_notify, too.


@on_each_loop
async def test_a_failed_handshake_is_logged_with_its_reason(
    start_server: StartServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiowsgi.error")
    server = await start_server(App(), certfile=(certificates.site,), tls_min="1.3")
    context = certificates.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
            await connect_tls(server, context)
    stranger = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect_tls(server, stranger)
    await eventually(lambda: server.inspect().connections == 0)
    messages = [r.getMessage() for r in caplog.records if "No TLS with" in r.getMessage()]
    assert messages == [
        "No TLS with 127.0.0.1: it speaks an older version of TLS than --tls-min allows",
        "No TLS with 127.0.0.1: it does not know the CA of the server's certificate; does "
        "--certfile have the certificates up to the CA? (not shown since the last one: 1)",
    ]


@on_each_loop
async def test_clients_show_a_certificate_where_one_is_required(
    start_server: StartServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiowsgi.error")
    server = await start_server(
        App(),
        certfile=(certificates.site,),
        ca_certs=certificates.ca_file,
        client_certs="required",
    )
    known = certificates.issue("somebody@example.org")
    async with await connect_tls(server, certificates.client_context(known)) as client:
        assert (await client.request(GET)).status == 200
    # With TLS 1.3 a client knows only once it reads.
    client = await connect_tls(server, certificates.client_context())
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate required"):
        await client.request(GET)
    assert "it has shown no certificate, which --client-certs wants" in caplog.text


@on_each_loop
async def test_each_listener_speaks_what_its_address_says(
    start_server: StartServer, certificates: Certificates
) -> None:
    app = App()
    config = aiowsgi.Config(
        bind=("127.0.0.1:0", "tls:127.0.0.1:0", "http:127.0.0.1:0"), certfile=(certificates.site,)
    )
    async with aiowsgi.serve(app, config=config) as server:
        assert [url.partition(":")[0] for url in server.urls] == ["http", "https", "http"]
        for url in server.urls:
            answer = await in_thread(
                lambda url=url: httpx.get(
                    url, verify=certificates.client_context(), trust_env=False, timeout=TIMEOUT
                )
            )
            assert answer.status_code == 200
    assert [environ["wsgi.url_scheme"] for environ in app.environs] == ["http", "https", "http"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_each_loop
async def test_what_is_spoken_inside_is_agreed(
    start_server: StartServer,
    certificates: Certificates,
    version: ssl.TLSVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "aiowsgi.error")
    server = await start_server(App(), certfile=(certificates.site,))
    context = certificates.client_context()
    context.maximum_version = version
    for offered, chosen in (
        (["h2", "http/1.1"], "http/1.1"),
        (["http/1.0", "http/1.1"], "http/1.1"),
        (["http/1.0"], "http/1.0"),
    ):
        context.set_alpn_protocols(offered)
        async with await connect_tls(server, context) as client:
            assert client.tls.selected_alpn_protocol() == chosen
            assert (await client.request(GET)).status == 200
    # RFC 7301 §3.2.
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match=r"(?i)alert no application protocol"):
        await connect_tls(server, context)
    assert "it offers to speak other things than HTTP/1.1 (ALPN), such as HTTP/2" in caplog.text


@on_each_loop
async def test_a_context_that_offers_what_is_not_spoken_is_told_of(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiowsgi.error")
    own, context = certificates.server_context(), certificates.client_context()
    own.set_alpn_protocols(["h2", "http/1.1"])
    context.set_alpn_protocols(["h2", "http/1.1"])
    app = App()
    async with aiowsgi.serve(app, "127.0.0.1", 0, ssl=own) as server:
        async with await connect_tls(server, context) as client:
            assert await client.read(1) == b""
        context.set_alpn_protocols(["http/1.1"])
        async with await connect_tls(server, context) as client:
            assert (await client.request(GET)).status == 200
    assert "has chosen h2, which the server does not speak; see set_alpn_protocols()" in caplog.text


async def test_a_context_that_no_address_needs_is_told_of(certificates: Certificates) -> None:
    config = aiowsgi.Config(bind=("http:127.0.0.1:0",))
    with pytest.raises(ConfigError, match="no address speaks TLS; leave http: out before one"):
        aiowsgi.serve(App(), config=config, ssl=certificates.server_context())


@on_each_loop
async def test_a_socket_of_the_host_speaks_tls_with_its_context(
    certificates: Certificates,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        own = certificates.server_context()
        async with aiowsgi.serve(App(), sock=sock, ssl=own) as server:
            assert server.url.startswith("https://127.0.0.1:")
            async with await connect_tls(server, certificates.client_context()) as client:
                assert (await client.request(GET)).status == 200


@on_each_loop
async def test_unix_socket_that_speaks_tls_has_the_port_of_https(
    certificates: Certificates, folder: Path
) -> None:
    app = App()
    config = aiowsgi.Config(bind=(f"tls:unix:{folder}/s?mode=600",), certfile=(certificates.site,))
    async with aiowsgi.serve(app, config=config) as server:
        assert server.url == f"tls:unix:{folder}/s"
        context = certificates.client_context()
        transport = httpx.AsyncHTTPTransport(uds=f"{folder}/s", verify=context)
        async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as client:
            assert (await client.get("https://localhost/")).status_code == 200
    (environ,) = app.environs
    assert (environ["wsgi.url_scheme"], environ["SERVER_PORT"]) == ("https", "443")


@on_each_loop
async def test_target_may_be_an_https_url(
    start_server: StartServer, certificates: Certificates
) -> None:
    app = App()
    server = await start_server(app, certfile=(certificates.site,))
    async with await connect_tls(server, certificates.client_context()) as client:
        response = await client.request(
            b"GET https://example.org/path HTTP/1.1\r\nHost: example.org\r\n\r\n"
        )
        assert response.status == 200
    assert app.environs[0]["PATH_INFO"] == "/path"
    assert app.environs[0]["HTTP_HOST"] == "example.org"


@on_each_loop
async def test_health_is_told_over_tls(
    start_server: StartServer, certificates: Certificates
) -> None:
    app = App()
    server = await start_server(app, certfile=(certificates.site,), health_path="/up")
    async with await connect_tls(server, certificates.client_context()) as client:
        assert (await client.request(b"GET /up HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
    assert app.environs == []


@on_each_loop
async def test_a_handshake_is_over_once_the_server_closes(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = await start_server(App(), certfile=(certificates.site,))
    async with await connect(server) as client:
        await client.send(b"\x16\x03\x01")
        await eventually(lambda: server.inspect().idle == 1)
        server.close()
        assert await client.read_until_eof() == b""
        await server.wait_closed()


@on_each_loop
async def test_client_that_leaves_in_its_handshake_is_no_failure(
    start_server: StartServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiowsgi.error")
    server = await start_server(App(), certfile=(certificates.site,))
    for begin in (b"", b"\x16", b"\x16\x03\x01\x00\x20abc", b"GE"):
        async with await connect(server) as client:
            await client.send(begin)
            await eventually(lambda: server.inspect().connections)
        await eventually(lambda: not server.inspect().connections)
    assert "No TLS" not in caplog.text


@on_each_loop
async def test_handshakes_that_do_not_end_make_room_for_others(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = await start_server(
        App(), certfile=(certificates.site,), timeout_handshake=60.0, max_connections=3
    )
    async with contextlib.AsyncExitStack() as stack:
        for begin in (b"", b"\x16", b"\x16\x03\x01\x00\x20abc"):
            client = await stack.enter_async_context(await connect(server))
            await client.send(begin)
        await eventually(lambda: server.inspect().connections == 3)
        async with await connect_tls(server, certificates.client_context()) as client:
            assert (await client.request(GET)).status == 200


@on_each_loop
async def test_client_that_takes_nothing_is_cut(
    start_server: StartServer, certificates: Certificates
) -> None:
    released = threading.Event()

    def endless(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            while True:
                yield b"x" * 100_000
        finally:
            released.set()

    server = await start_server(
        endless, certfile=(certificates.site,), timeout_write=0.5, min_response_rate=500
    )
    context = certificates.client_context()
    async with await connect_tls(server, context, receive_buffer=4096) as client:
        await client.send(GET)
        assert await in_thread(released.wait, TIMEOUT)
        await eventually(lambda: not server.inspect().connections)
        assert server.inspect().buffered == 0


@on_each_loop
async def test_client_that_sends_nothing_of_its_body_is_refused(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = await start_server(App(), certfile=(certificates.site,), timeout_body=0.3)
    async with await connect_tls(server, certificates.client_context()) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf")
        assert (await client.receive()).status == 408
        assert await client.read(1) == b""


@on_each_loop
async def test_body_that_is_cut_off_is_never_taken_for_whole(
    start_server: StartServer, certificates: Certificates
) -> None:
    failures: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            environ["wsgi.input"].read()
        except ConnectionError as error:
            failures.append(str(error))
            raise
        raise AssertionError("it has got a whole body")

    for head in (b"Content-Length: 100000", b"Transfer-Encoding: chunked"):
        for notified in (True, False):
            server = await start_server(
                app, validate=False, certfile=(certificates.site,), body_prefetch=1000
            )
            async with await connect_tls(server, certificates.client_context()) as client:
                await client.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n\r\n")
                await client.send(b"ffff\r\n" + b"x" * 5000)
                await eventually(lambda server=server: server.busy_threads)
                if notified:
                    await client.close_notify()
                client.plain.half_close()
                await eventually(lambda server=server: not server.inspect().connections)
    assert len(failures) == 4


@on_each_loop
async def test_long_handshakes_count_as_memory(
    start_server: StartServer, certificates: Certificates
) -> None:
    server = await start_server(
        App(), certfile=(certificates.site,), timeout_handshake=60.0, max_buffered=150_000
    )
    part = b"\x16\x03\x01\x3f\xff\x01\x00\x7f\x00" + bytes(16_379) + b"\x16\x03\x01\x3f\xff"
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number in range(1, 13):
            client = await stack.enter_async_context(await connect(server))
            await client.send(part + bytes(4000))
            clients.append(client)
            if number == 5:
                await eventually(lambda: server.inspect().buffered > 80_000)
                assert server.inspect().connections == 5
        await eventually(lambda: server.inspect().connections < 9)
        assert server.inspect().buffered <= 150_000
        async with await connect_tls(server, certificates.client_context()) as client:
            assert (await client.request(GET)).status == 200
    await eventually(lambda: server.inspect().buffered == 0)
