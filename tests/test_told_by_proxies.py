"""What real proxies tell of their clients: the fields and headers that they really send.

A client with an address of its own speaks TLS with nginx, HAProxy, Apache or Caddy, and claims to
be somebody else in every field that there is for this. The application has to see the client as the
proxy sees it, below the path where the proxy has it.
"""

import contextlib
import json
import socket
import ssl
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from extent import representative
from proxies import (
    KINDS,
    NGINX_FOLDERS,
    NGINX_MAIN,
    TIMEOUT,
    TLS_KINDS,
    Front,
    Kind,
    certified,
    configured_front,
    kept_port,
    open_folder,
    upstream,
)

# What a client claims to be.
SPOOFED = {
    "X-Forwarded-For": "192.0.2.66",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "66",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=192.0.2.66;proto=gopher;host=evil.example",
    "X-Real-IP": "192.0.2.66",
    "X_Forwarded_For": "192.0.2.66",
    "Via": "1.1 evil.example",
}
# Linux has all of 127.0.0.0/8. Nobody else connects from there.
CLIENT = "127.0.0.2"
KEYS = (
    *("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "HTTP_HOST", "SCRIPT_NAME"),
    *("PATH_INFO", "wsgi.url_scheme", "aiowsgi.peer"),
)

NGINX = (
    NGINX_MAIN
    + "events {{}} http {{ access_log log;"
    + NGINX_FOLDERS
    + """    upstream server {{
        server {server};
        keepalive 4;
    }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate site.pem;
        ssl_certificate_key site.pem;
        location /shop/ {{
            proxy_pass http://server/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host inside;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header X-Forwarded-Prefix /shop;
        }}
    }}
}}
"""
)
_HAPROXY = """
global
    nbthread 1
    maxconn 512
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend front
    bind 127.0.0.1:{{port}} ssl crt site.pem
    default_backend server
backend server
    {rules}
    server server {{server}} {send} check inter 1s fall 3 rise 1
"""
_BELOW = r"http-request replace-path /shop(/.*) \1"
HAPROXY = _HAPROXY.format(
    send="",
    rules=_BELOW
    + """
    http-reuse always
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Forwarded-Prefix /shop
    http-request set-header Host inside""",
)
# As the option "forwarded" of HAProxy 2.8 writes it, in the words that older ones have.
HAPROXY_FORWARDED = _HAPROXY.format(
    send="",
    rules="""http-reuse always
    http-request add-header Forwarded proto=https;host=\\"%[req.hdr(host)]\\";for=%[src]
    http-request set-header Host inside""",
)
APACHE = """
ServerName front
DefaultRuntimeDir .
PidFile pid
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule headers_module {modules}/mod_headers.so
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
User www-data
Group www-data
ErrorLog /dev/stderr
SSLEngine on
SSLCertificateFile site.pem
# What it does not add itself; the others it adds behind what a client says.
RequestHeader set X-Forwarded-Proto expr=%{{REQUEST_SCHEME}}
RequestHeader set X-Forwarded-Port expr=%{{SERVER_PORT}}
RequestHeader set X-Forwarded-Prefix /shop
ProxyPass /shop/ http://{server}/
"""
CADDY = """
{{
	admin off
	auto_https off
}}
https://:{port} {{
	bind 127.0.0.1
	tls site.pem site.pem
	handle_path /shop/* {{
		reverse_proxy {server} {{
			header_up Host inside
			header_up X-Forwarded-Port {{http.request.port}}
			header_up X-Forwarded-Prefix /shop
		}}
	}}
}}
"""
TELLING = {
    "nginx": (KINDS["nginx"], NGINX),
    "haproxy": (KINDS["haproxy"], HAPROXY),
    "haproxy-forwarded": (KINDS["haproxy"], HAPROXY_FORWARDED),
    "apache": (KINDS["apache"], APACHE),
    "caddy": (KINDS["caddy"], CADDY),
}


def tell(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with what is known of the client."""
    fields = {key: value for key, value in environ.items() if key.startswith("HTTP_")}
    body = json.dumps({key: environ.get(key) for key in KEYS} | {"fields": fields}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@contextlib.contextmanager
def telling(
    kind: Kind, text: str, folder: Path, bind: str = "127.0.0.1:0", **options: Any
) -> Iterator[tuple[Front, int, ssl.SSLContext]]:
    """Serve behind a proxy that tells; give it, its port, and how clients speak TLS with it."""
    made = certified(TLS_KINDS["nginx-tls"], folder)
    if bind.startswith("tls:"):
        options |= made
    modules = "/usr/lib/apache2/modules"
    with upstream(tell, bind, **options) as server, kept_port() as port:
        text = text.format(server=server, port=port, modules=modules)
        with configured_front(kind, folder, text, port) as proxy:
            yield proxy, port, ssl.create_default_context(cafile=folder / "ca.pem")


@contextlib.contextmanager
def client_of(port: int, context: ssl.SSLContext) -> Iterator[HTTPConnection]:
    """Give a client that comes from ``CLIENT`` and has one connection."""
    sock = socket.create_connection(("127.0.0.1", port), TIMEOUT, source_address=(CLIENT, 0))
    client = HTTPConnection("localhost", port, timeout=TIMEOUT)
    client.auto_open = 0
    client.sock = context.wrap_socket(sock, server_hostname="h")
    with contextlib.closing(client):
        yield client


def ask(client: HTTPConnection, path: str, fields: dict[str, str]) -> dict[str, Any]:
    client.request("GET", path, headers=fields)
    response = client.getresponse()
    body = response.read()
    assert response.status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("name", TELLING)
def test_the_client_is_the_one_that_the_proxy_sees_whatever_it_claims(name: str) -> None:
    kind, text = TELLING[name]
    headers = "forwarded" if name.endswith("forwarded") else "x-forwarded"
    with (
        open_folder() as folder,
        telling(
            kind, text, folder, forwarded_allow_ips=("127.0.0.1",), forwarded_headers=headers
        ) as (_, port, context),
    ):
        for fields in {}, SPOOFED:
            # Also over connections of the proxy that others have used before.
            for _ in range(2):
                with client_of(port, context) as client:
                    found = ask(client, "/shop/cart", fields)
                    assert found["REMOTE_ADDR"] == CLIENT
                    assert found["wsgi.url_scheme"] == "https"
                    assert found["HTTP_HOST"] == f"localhost:{port}"
                    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == ("localhost", str(port))
                    assert found["aiowsgi.peer"]["REMOTE_ADDR"] == "127.0.0.1"
                    # Forwarded has no prefix.
                    prefix = "" if headers == "forwarded" else "/shop"
                    assert found["SCRIPT_NAME"] == prefix
                    assert prefix + found["PATH_INFO"] == "/shop/cart"
                    if name != "apache":  # It has the server there as ProxyPass names it.
                        assert found["aiowsgi.peer"]["HTTP_HOST"] == "inside"


@pytest.mark.parametrize("name", representative(TELLING, "nginx"))
def test_what_a_proxy_tells_that_is_not_trusted_changes_nothing(name: str) -> None:
    kind, text = TELLING[name]
    with (
        open_folder() as folder,
        telling(kind, text, folder, forwarded_allow_ips=("192.0.2.1",)) as (_, port, context),
        client_of(port, context) as client,
    ):
        found = ask(client, "/shop/cart", SPOOFED)
        assert found["REMOTE_ADDR"] == "127.0.0.1"
        assert (found["wsgi.url_scheme"], found["SCRIPT_NAME"]) == ("http", "")
        assert found["aiowsgi.peer"] is None
        # A field of Apache's own means nothing.
        told = {key for key in found["fields"] if "FORWARDED" in key}
        assert told <= {"HTTP_X_FORWARDED_SERVER"}


# --- the PROXY protocol --------------------------------------------------------------------------

# What HAProxy sends in mode http, in which it keeps its connections to the server. There is another
# file for mode tcp.
SENDING = {
    "http-v2": {"send": "send-proxy-v2", "rules": "http-reuse always"},
    "http-v2-tls": {
        "send": "send-proxy-v2 ssl verify required ca-file ca.pem sni str(localhost)",
        "rules": "http-reuse always",
    },
    "http-v1": {"send": "send-proxy", "rules": ""},
}


@pytest.mark.parametrize("way", representative(SENDING, "http-v2"))
def test_the_client_is_the_one_that_the_proxy_protocol_tells(way: str) -> None:
    said = SENDING[way]
    text = _HAPROXY.format(**said)
    prefix = "tls:" if "verify" in said["send"] else ""
    with (
        open_folder() as folder,
        telling(
            KINDS["haproxy"], text, folder, f"{prefix}127.0.0.1:0?proxy=on&trust=127.0.0.1"
        ) as (_, port, context),
    ):
        for _ in range(2):
            with client_of(port, context) as client:
                sock = client.sock
                # Several on each connection, of which each is from the same client.
                for _ in range(3):
                    found = ask(client, "/cart", SPOOFED)
                    assert client.sock is sock
                    address = found["REMOTE_ADDR"], int(found["REMOTE_PORT"])
                    assert address == (CLIENT, sock.getsockname()[1])
                    assert found["wsgi.url_scheme"] == ("https" if prefix else "http")
                    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == ("127.0.0.1", str(port))
                    assert found["HTTP_HOST"] == f"localhost:{port}"
