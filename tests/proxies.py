"""Real reverse proxies with a real server behind them, started for a test: nginx, HAProxy, Apache,
and Caddy.

A ``Front`` is one proxy process in a folder of its own. It listens on a Unix socket there, so that
no port can be taken twice, or on a port that is kept for it. It shares its connections to the
server between all its clients. It gives each request an id and logs what it forwarded: that is what
the application has to have seen, no more and no less.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.types import WSGIApplication

import pytest
import trustme
from tools import tool
from waiting import eventually

import aiowsgi

# Fail-safe: nothing on one machine takes this long.
TIMEOUT = 30.0

# Where the application finds the id of a request; a front overwrites what a client sends.
ID_KEY = "HTTP_X_FRONT_ID"

# Has nginx run in the foreground of its folder, where it may write.
NGINX_MAIN = """
daemon off;
master_process off;
pid pid;
error_log stderr warn;
"""
NGINX_FOLDERS = """
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
"""

# What nginx has to be told whatever it speaks with the server.
_NGINX_BEGINNING = (
    NGINX_MAIN
    + "events {{ worker_connections 512; }} http {{"
    + NGINX_FOLDERS
    + """    log_format front "request $request_id $status $upstream_status";
    access_log log front;
    client_max_body_size 0;
    keepalive_requests 1000000;
"""
)

_NGINX = (
    _NGINX_BEGINNING
    + """    upstream server {{
        server {server};
        keepalive 4;
    }}
    server {{
        listen unix:front;
        {options}
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Front-Id $request_id;
        # A request that is sent twice would be seen twice.
        proxy_next_upstream off;
        location / {{
            proxy_pass {scheme}://server;
        }}
        # An attacker who has sent everything says so, and still waits for the answers.
        location ~ ^/(outer|smuggled|next) {{
            proxy_ignore_client_abort on;
            proxy_pass {scheme}://server;
        }}
    }}
}}
"""
)

_HAPROXY = """
global
    log stdout format raw local0
    nbthread 1
    maxconn 512
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
    option dontlognull
    {options}
frontend front
    bind unix@front
    log global
    unique-id-format %[uuid()]
    log-format "request %ID %ST %ts"
    http-request set-header X-Front-Id %[unique-id]
    default_backend server
backend server
    http-reuse always
    server server {server} {parameters}
"""

# What the file uwsgi_params of nginx says, and the id.
UWSGI_PARAMS = """
        uwsgi_param QUERY_STRING $query_string;
        uwsgi_param REQUEST_METHOD $request_method;
        uwsgi_param CONTENT_TYPE $content_type;
        uwsgi_param CONTENT_LENGTH $content_length;
        uwsgi_param REQUEST_URI $request_uri;
        uwsgi_param PATH_INFO $document_uri;
        uwsgi_param DOCUMENT_ROOT $document_root;
        uwsgi_param SERVER_PROTOCOL $server_protocol;
        uwsgi_param REQUEST_SCHEME $scheme;
        uwsgi_param HTTPS $https if_not_empty;
        uwsgi_param REMOTE_ADDR $remote_addr;
        uwsgi_param REMOTE_PORT $remote_port;
        uwsgi_param SERVER_PORT $server_port;
        uwsgi_param SERVER_NAME $server_name;
        uwsgi_param HTTP_X_FRONT_ID $request_id;
"""

_NGINX_UWSGI = (
    _NGINX_BEGINNING
    + """    server {{
        listen unix:front;
        # So that a client has an address, which a Unix socket does not give it.
        set_real_ip_from unix:;
        real_ip_header X-Real-IP;
        uwsgi_next_upstream off;
        {options}
"""
    + UWSGI_PARAMS
    + """
        location / {{
            uwsgi_pass {server};
        }}
        location ~ ^/(outer|smuggled|next) {{
            uwsgi_ignore_client_abort on;
            uwsgi_pass {server};
        }}
        # An application below a path, and behind TLS that somebody else has ended.
        location ~ ^(/mounted)(/.*)$ {{
"""
    + UWSGI_PARAMS
    + """
            uwsgi_param SCRIPT_NAME $1;
            uwsgi_param PATH_INFO $2;
            uwsgi_param UWSGI_SCHEME https;
            uwsgi_param SERVER_PORT 443;
            uwsgi_param HTTP_HOST shop.test;
            uwsgi_pass {server};
        }}
    }}
}}
"""
)


_APACHE = """
ServerName front
DefaultRuntimeDir .
PidFile pid
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule headers_module {modules}/mod_headers.so
LoadModule unique_id_module {modules}/mod_unique_id.so
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule socache_shmcb_module {modules}/mod_socache_shmcb.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
# It serves nothing as root.
User www-data
Group www-data
# One process, whose threads share the connections to the server.
ServerLimit 1
StartServers 1
ThreadsPerChild 64
MaxRequestWorkers 64
MinSpareThreads 1
MaxSpareThreads 64
MaxKeepAliveRequests 0
KeepAliveTimeout 60
ErrorLog /dev/stderr
LogLevel warn
# What is no more than passed on keeps the name of the server.
Header set X-Server "expr=%{{resp:Server}}"
LogFormat "request %{{UNIQUE_ID}}e %>s %{{X-Server}}o" front
CustomLog /dev/stdout front
RequestHeader set X-Front-Id "expr=%{{reqenv:UNIQUE_ID}}"
ProxyPreserveHost on
{options}
ProxyPass / {server} {parameters}
"""

_CADDY = """
{{
	admin off
	auto_https off
	grace_period 1s
}}
http:// {{
	bind unix/{folder}/front
	log {{
		output stdout
		format json
	}}
	header X-Front-Id {{http.request.uuid}}
	reverse_proxy {server} {{
		header_up X-Front-Id {{http.request.uuid}}
		{options}
	}}
}}
"""


class Kind(NamedTuple):
    """A way to run a proxy: a program, its arguments, and its configuration."""

    program: str
    arguments: tuple[str, ...]
    template: str
    options: str = ""
    # What the server behind it listens on.
    bind: str = "127.0.0.1:0"
    # How it is told where the server is: HOST:PORT, or a path.
    address: str = "{}"
    unix_address: str = "unix:{}"
    # What else is said in the line that names the server.
    parameters: str = ""
    # Whether it speaks TLS with the server, whose name is localhost. Then {ca} in ``options`` and
    # ``parameters`` is the file of the only CA that it knows.
    tls: bool = False


_DEFAULT_NGINX = Kind("nginx", ("-p", ".", "-e", "stderr", "-c", "configuration"), _NGINX)
_DEFAULT_HAPROXY = Kind("haproxy", ("-db", "-f", "configuration"), _HAPROXY)
_DEFAULT_APACHE = Kind(
    "apache2",
    ("-d", ".", "-f", "configuration", "-DFOREGROUND"),
    _APACHE,
    address="http://{}/",
    unix_address="unix:{}|http://server/",
)
_DEFAULT_CADDY = Kind(
    "caddy",
    ("run", "--config", "configuration", "--adapter", "caddyfile"),
    _CADDY,
    unix_address="unix/{}",
)
_APACHE_MODULES = "/usr/lib/apache2/modules"

# Each with its defaults, and so that it passes on as much as it can, as it comes.
KINDS = {
    "nginx": _DEFAULT_NGINX,
    "nginx-unbuffered": _DEFAULT_NGINX._replace(
        options="proxy_buffering off; proxy_request_buffering off; merge_slashes off;"
        " ignore_invalid_headers off; underscores_in_headers on;"
    ),
    "haproxy": _DEFAULT_HAPROXY,
    "haproxy-tolerant": _DEFAULT_HAPROXY._replace(options="option accept-invalid-http-request"),
    "apache": _DEFAULT_APACHE,
    "apache-unix-tolerant": _DEFAULT_APACHE._replace(
        options="HttpProtocolOptions Unsafe LenientMethods\nAllowEncodedSlashes NoDecode",
        bind="unix:{folder}/server",
        parameters="nocanon flushpackets=on",
    ),
    "caddy": _DEFAULT_CADDY,
    "caddy-unix-unbuffered": _DEFAULT_CADDY._replace(
        options="flush_interval -1", bind="unix:{folder}/server"
    ),
}
# nginx with its own protocol, in which there is one request on a connection.
_DEFAULT_UWSGI = _DEFAULT_NGINX._replace(template=_NGINX_UWSGI, bind="uwsgi:127.0.0.1:0")
UWSGI_KINDS = {
    "uwsgi": _DEFAULT_UWSGI,
    "uwsgi-unix-unbuffered": _DEFAULT_UWSGI._replace(
        options="uwsgi_buffering off; uwsgi_request_buffering off; merge_slashes off;"
        " ignore_invalid_headers off; underscores_in_headers on;",
        bind="uwsgi:unix:{folder}/server",
    ),
}


# Those that speak TLS with the server, and accept its certificate only. Sessions are resumed.
TLS_KINDS = {
    "nginx-tls": _DEFAULT_NGINX._replace(
        options="proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca};"
        " proxy_ssl_name localhost; proxy_ssl_server_name on;",
        bind="tls:127.0.0.1:0",
        tls=True,
    ),
    "haproxy-tls": _DEFAULT_HAPROXY._replace(
        parameters="ssl verify required ca-file {ca} sni str(localhost)",
        bind="tls:127.0.0.1:0",
        tls=True,
    ),
    "haproxy-unix-tls": _DEFAULT_HAPROXY._replace(
        parameters="ssl verify required ca-file {ca} sni str(localhost) alpn http/1.1",
        bind="tls:unix:{folder}/server",
        unix_address="unix@{}",
        tls=True,
    ),
    "apache-tls": _DEFAULT_APACHE._replace(
        options="SSLProxyEngine on\nSSLProxyVerify require\nSSLProxyCACertificateFile {ca}",
        bind="tls:127.0.0.1:0",
        address="https://{}/",
        tls=True,
    ),
    "caddy-tls": _DEFAULT_CADDY._replace(
        options="transport http {{\ntls\ntls_trusted_ca_certs {ca}\ntls_server_name localhost\n}}",
        bind="tls:127.0.0.1:0",
        tls=True,
    ),
}
# Those that send a header of the PROXY protocol before, on each connection, and try whether the
# server is there. The pause between two checks is also the time in which one has to connect, which
# may be short on a busy machine: once does not count.
_CHECKS = "check inter 1s fall 3 rise 1"
PROXY_KINDS = {
    "haproxy-proxy": _DEFAULT_HAPROXY._replace(
        parameters=f"send-proxy-v2 {_CHECKS}", bind="127.0.0.1:0?proxy=on&trust=127.0.0.1"
    ),
    "haproxy-tls-proxy": _DEFAULT_HAPROXY._replace(
        parameters=f"send-proxy-v2 ssl verify required ca-file {{ca}} sni str(localhost) {_CHECKS}",
        bind="tls:127.0.0.1:0?proxy=on&trust=127.0.0.1",
        tls=True,
    ),
}


class Line(NamedTuple):
    """What a front says of one request."""

    id: str
    # What the server answered; None where the request was not forwarded, or not answered.
    answered: int | None
    # Whether it was given up because the client had ended its side. It may have been forwarded.
    given_up: bool = False


def _parse(line: str) -> Line:
    if line[0] == "{":  # Caddy.
        said = json.loads(line)
        answer = said["resp_headers"]
        forwarded = "aiowsgi" in answer.get("Server", ())
        status, number = said["status"], answer.get("X-Front-Id", ["-"])[0]
        return Line(number, status if forwarded else None, status in (0, 499))
    _, number, status, server = line.split(" ")
    if server == "aiowsgi":  # Apache, and whose answer it is.
        return Line(number, int(status))
    if server == "-":  # nginx or Apache answered itself.
        return Line(number, None)
    if server.isdecimal():  # nginx, and the status of the server.
        return Line(number, int(server))
    # HAProxy, and how it ended: "--" is that both sides did what they should.
    return Line(number, int(status) if server == "--" else None)


# No server, no HTTP, or no answer in time; for HAProxy, a server that left; for nginx, one that did
# anything worth a line. Apache and Caddy write lines about clients in the same place, so these are
# those about servers: nobody there, nothing said, no HTTP.
_COMPLAINT = re.compile(
    r"^request \S+ (?:50[234] .*|\S+ S.)$|^.*\*[0-9]+ upstream .*$"
    r"|^.*\[proxy(?:_http)?:error\].*AH(?:00898|00957|01102|01106|01110|01111|01114):.*$"
    r'|^\{"level":"error".*"logger":"http\.log\.error.*'
    r'"msg":"(?:EOF|dial |read |write |http: |net/http: |malformed HTTP).*$',
    re.MULTILINE,
)


class Front:
    """A proxy that runs. Use ``front``."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path, port: int | None) -> None:
        self._process = process
        self._folder = folder
        # None where it listens on a Unix socket.
        self._port = port
        self._position = 0

    def new_lines(self) -> list[Line]:
        """Return what it has logged since the last call, a line a request."""
        with (self._folder / "log").open("rb") as log:
            log.seek(self._position)
            # The last line may be half written.
            whole, end, _ = log.read().rpartition(b"\n")
        self._position += len(whole + end)
        lines = whole.decode("ascii").split("\n")
        return [_parse(line) for line in lines if line.startswith(("request ", "{"))]

    def wait_ready(self) -> None:
        """Wait until it listens; fail where it does not."""
        eventually(self._is_ready, lambda: f"no proxy listens:\n{self._said()}")

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            pytest.fail(f"the proxy does not start:\n{self._said()}")
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            self.connect().close()
            return True
        return False

    def _said(self) -> str:
        return (self._folder / "errors").read_text("utf-8", "replace")

    def connect(self) -> socket.socket:
        """Return a new connection, on which every wait is bounded."""
        if self._port is not None:
            return socket.create_connection(("127.0.0.1", self._port), TIMEOUT)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(str(self._folder / "front"))
        except BaseException:
            sock.close()
            raise
        return sock

    def client(self) -> "contextlib.closing[HTTPConnection]":
        """Return an ordinary client with a connection of its own; it never opens another."""
        client = HTTPConnection("h", timeout=TIMEOUT)
        client.auto_open = 0
        client.sock = self.connect()
        return contextlib.closing(client)

    def complaints(self) -> list[str]:
        """Return what it has said against the server so far."""
        said = (self._folder / "log").read_text("ascii") + self._said()
        return [match[0] for match in _COMPLAINT.finditer(said)]

    def stop(self) -> None:
        """End it; what it was doing is cut. Idempotent."""
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait(TIMEOUT)


@contextlib.contextmanager
def front(kind: Kind, folder: Path, server: str) -> Iterator[Front]:
    """Run a proxy in ``folder``, where its files are; ``server`` is the address behind it."""
    path = server.removeprefix("unix:")
    ca = folder / "ca.pem"
    with kept_port() as port:
        text = kind.template.format(
            server=(kind.address if path == server else kind.unix_address).format(path),
            scheme="https" if kind.tls else "http",
            options=kind.options.format(ca=ca) if kind.tls else kind.options,
            parameters=kind.parameters.format(ca=ca),
            folder=folder,
            port=port,
            modules=_APACHE_MODULES,
        )
        is_tcp = "{port}" in kind.template
        with configured_front(kind, folder, text, port if is_tcp else None) as proxy:
            yield proxy


def certified(kind: Kind, folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the options with which a server has a certificate, if this proxy wants one.

    The CA, which has issued nothing else, is a file in ``folder``.
    """
    if not kind.tls:
        return {}
    ca, site = trustme.CA(), folder / "site.pem"
    ca.cert_pem.write_to_path(folder / "ca.pem")
    # Apache, where it passes Host on, takes that for the name of the server.
    certificate = ca.issue_cert("localhost", "h")
    certificate.private_key_and_cert_chain_pem.write_to_path(site)
    return {"certfile": (str(site),)}


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """Give a port of 127.0.0.1 that nobody gets by chance, and whoever names it may listen on."""
    with socket.socket() as keeper:
        # Linux lets two bind it if both say this, and one of them listens.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder with a short name, for Unix sockets, that a proxy of another user may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextlib.contextmanager
def configured_front(
    kind: Kind, folder: Path, text: str, port: int | None = None
) -> Iterator[Front]:
    """Run a proxy with the configuration ``text``.

    It must listen on that port of 127.0.0.1, or on ``front`` in ``folder`` if there is none.
    """
    (folder / "configuration").write_text(text)
    with (folder / "log").open("ab") as out, (folder / "errors").open("ab") as errors:
        process = subprocess.Popen(
            [tool(kind.program, package=kind.program), *kind.arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            # Where Caddy keeps its files.
            env={**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        )
    proxy = Front(process, folder, port)
    try:
        proxy.wait_ready()
        yield proxy
    finally:
        proxy.stop()


@contextlib.contextmanager
def upstream(app: WSGIApplication, bind: str = "127.0.0.1:0", **options: Any) -> Iterator[str]:
    """Serve ``app`` in a thread, with an event loop of its own; give its HOST:PORT or unix:PATH."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = Future()

    async def serve() -> None:
        config = aiowsgi.Config(bind=(bind,), **options)
        async with aiowsgi.serve(app, config=config) as server:
            stop = asyncio.Event()
            name = server.sockets[0].getsockname()
            address = f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"
            started.set_result((asyncio.get_running_loop(), stop, address))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    loop, stop, address = started.result(TIMEOUT)
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the server does not stop"
