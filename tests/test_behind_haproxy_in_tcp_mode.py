"""HAProxy that passes connections on, and says in the PROXY protocol whose they are."""

import contextlib
import ssl
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from certificates import Certificates
from log_records import loud
from proxies import KINDS, TIMEOUT, configured_front, kept_port, upstream
from waiting import eventually

_CONFIGURATION = """
global
    log stdout format raw local0
    nbthread 1
defaults
    mode tcp
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend front
    bind 127.0.0.1:{port} {bind}
    default_backend server
backend server
    server server {server} {options}
{more}
"""
_CHECKS = """
backend asked
    option httpchk GET /check
    server server {server} {options} check inter 50ms
backend connected
    server server {server} {options} check inter 50ms
"""


class Application:
    """Answers with nothing, and remembers the environs."""

    def __init__(self) -> None:
        self.environs: list[WSGIEnvironment] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.environs.append(environ)
        start_response("200 OK", [("Content-Length", "0")])
        return []


@contextlib.contextmanager
def balanced(
    app: Application, folder: Path, options: str, *, bind: str = "", more: str = "", **server: Any
) -> Iterator[tuple[int, int]]:
    """Serve behind HAProxy; give the ports of both."""
    address = f"127.0.0.1:0?proxy=on&trust={server.pop('trust', '127.0.0.1')}"
    with upstream(app, address, **server) as behind, kept_port() as port:
        more = more.format(server=behind, options=options)
        text = _CONFIGURATION.format(
            port=port, bind=bind, server=behind, options=options, more=more
        )
        with configured_front(KINDS["haproxy"], folder, text, port):
            yield port, int(behind.rpartition(":")[2])


def ends(environ: WSGIEnvironment) -> tuple[str, ...]:
    keys = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT")
    return tuple(environ[key] for key in keys)


@pytest.mark.parametrize(
    "options",
    ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority"],
)
def test_requests_are_those_of_the_clients_of_haproxy(
    options: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Application()
    with balanced(app, folder, options) as (front, _):
        for _ in range(2):
            client = HTTPConnection("127.0.0.1", front, timeout=TIMEOUT)
            with contextlib.closing(client):
                client.connect()
                port = str(client.sock.getsockname()[1])
                for _ in range(2):
                    client.request("GET", "/")
                    client.getresponse().read()
                    environ = app.environs[-1]
                    assert ends(environ) == ("127.0.0.1", port, "127.0.0.1", str(front))
                    assert environ["aiowsgi.peer"]["REMOTE_PORT"] != port
    assert loud(caplog) == []


@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2"])
def test_checks_are_those_of_haproxy_itself_and_no_errors(
    options: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Application()
    with balanced(app, folder, options, more=_CHECKS) as (_, own):
        eventually(lambda: len(app.environs) >= 5)
        for environ in app.environs[:5]:
            assert environ["PATH_INFO"] == "/check"
            assert (environ["REMOTE_ADDR"], environ["SERVER_PORT"]) == ("127.0.0.1", str(own))
    assert loud(caplog) == []


@pytest.mark.parametrize("has_certificate", [False, True])
def test_what_haproxy_knows_of_tls_is_in_the_environ(
    has_certificate: bool, folder: Path, certificates: Certificates
) -> None:
    own = certificates.issue("alice.test", common_name="Alice") if has_certificate else None
    bind = f"ssl crt {certificates.site} ca-file {certificates.ca_file} verify optional"
    options = "send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c"
    app = Application()
    with balanced(app, folder, options, bind=bind) as (front, _):
        context = certificates.client_context(own)
        client = HTTPConnection("localhost", front, timeout=TIMEOUT)
        with contextlib.closing(client):
            client.connect()
            client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
            client.request("GET", "/")
            client.getresponse().read()
            version, cipher = client.sock.version(), client.sock.cipher()
    (environ,) = app.environs
    assert cipher is not None
    told = {key: value for key, value in environ.items() if key.startswith(("SSL_", "HTTPS"))}
    name = {"SSL_CLIENT_S_DN_CN": "Alice"} if has_certificate else {}
    assert told == {
        "HTTPS": "on",
        "SSL_PROTOCOL": version,
        "SSL_CIPHER": cipher[0],
        "SSL_CLIENT_VERIFY": "SUCCESS" if has_certificate else "NONE",
        "SSL_TLS_SNI": "localhost",
        **name,
    }
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["aiowsgi.peer"]["wsgi.url_scheme"] == "http"


def test_tls_that_haproxy_passes_on_is_spoken_behind_the_header(
    folder: Path, certificates: Certificates
) -> None:
    app = Application()
    options = "send-proxy-v2 proxy-v2-options crc32c"
    with balanced(app, folder, options, certfile=(certificates.site,)) as (front, _):
        client = HTTPConnection("localhost", front, timeout=TIMEOUT)
        with contextlib.closing(client):
            client.connect()
            port = str(client.sock.getsockname()[1])
            context: ssl.SSLContext = certificates.client_context()
            client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
            client.request("GET", "/")
            client.getresponse().read()
    (environ,) = app.environs
    assert ends(environ) == ("127.0.0.1", port, "127.0.0.1", str(front))
    assert environ["wsgi.url_scheme"] == environ["aiowsgi.peer"]["wsgi.url_scheme"] == "https"
