"""Real reverse proxies with a real server behind them: nginx and HAProxy, started for a test.

A ``Front`` is one proxy process in a folder of its own. It listens on a Unix socket there, so that
no port can be taken twice, and shares its connections to the server between all its clients. It
gives each request an id and logs what it forwarded: that is what the application has to have seen,
no more and no less.
"""

import asyncio
import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.types import WSGIApplication

import pytest
from tools import tool
from waiting import eventually

import aiowsgi

# Fail-safe: nothing on one machine takes this long.
TIMEOUT = 30.0

# Where the application finds the id of a request; a front overwrites what a client sends.
ID_KEY = "HTTP_X_FRONT_ID"

_NGINX = """
daemon off;
master_process off;
pid pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    log_format front "request $request_id $status $upstream_status";
    access_log log front;
    client_max_body_size 0;
    keepalive_requests 1000000;
    upstream server {{
        server 127.0.0.1:{port};
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
            proxy_pass http://server;
        }}
        # An attacker who has sent everything says so, and still waits for the answers.
        location ~ ^/(outer|smuggled|next) {{
            proxy_ignore_client_abort on;
            proxy_pass http://server;
        }}
    }}
}}
"""

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
    server server 127.0.0.1:{port}
"""


class Kind(NamedTuple):
    """A way to run a proxy: a program, its arguments, and its configuration."""

    program: str
    arguments: tuple[str, ...]
    template: str
    options: str = ""


_DEFAULT_NGINX = Kind("nginx", ("-p", ".", "-e", "stderr", "-c", "configuration"), _NGINX)
_DEFAULT_HAPROXY = Kind("haproxy", ("-db", "-f", "configuration"), _HAPROXY)

# Each with its defaults, and so that it passes on as much as it can, as it comes.
KINDS = {
    "nginx": _DEFAULT_NGINX,
    "nginx-unbuffered": _DEFAULT_NGINX._replace(
        options="proxy_buffering off; proxy_request_buffering off; merge_slashes off;"
        " ignore_invalid_headers off; underscores_in_headers on;"
    ),
    "haproxy": _DEFAULT_HAPROXY,
    "haproxy-tolerant": _DEFAULT_HAPROXY._replace(options="option accept-invalid-http-request"),
}


class Line(NamedTuple):
    """What a front says of one request."""

    id: str
    # What the server answered; None where the request was not forwarded, or not answered.
    answered: int | None


def _parse(line: str) -> Line:
    _, number, status, server = line.split(" ")
    if server == "-":  # nginx answered itself.
        return Line(number, None)
    if server.isdecimal():  # nginx, and the status of the server.
        return Line(number, int(server))
    # HAProxy, and how it ended: "--" is that both sides did what they should.
    return Line(number, int(status) if server == "--" else None)


# No server, no HTTP, or no answer in time; for HAProxy, a server that left; for nginx, one that did
# anything worth a line.
_COMPLAINT = re.compile(
    r"^request \S+ (?:50[234] .*|\S+ S.)$|^.*\*[0-9]+ upstream .*$", re.MULTILINE
)


class Front:
    """A proxy that runs. Use ``front``."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._position = 0

    def new_lines(self) -> list[Line]:
        """Return what it has logged since the last call, a line a request."""
        with (self._folder / "log").open("rb") as log:
            log.seek(self._position)
            # The last line may be half written.
            whole, end, _ = log.read().rpartition(b"\n")
        self._position += len(whole + end)
        lines = whole.decode("ascii").split("\n")
        return [_parse(line) for line in lines if line.startswith("request ")]

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
def front(kind: Kind, folder: Path, port: int) -> Iterator[Front]:
    """Run a proxy for the server on ``port`` of 127.0.0.1, in ``folder``, where its files are."""
    text = kind.template.format(port=port, options=kind.options)
    with configured_front(kind, folder, text) as proxy:
        yield proxy


@contextlib.contextmanager
def configured_front(kind: Kind, folder: Path, text: str) -> Iterator[Front]:
    """Run a proxy with the configuration ``text``: it must listen on ``front`` in ``folder``."""
    (folder / "configuration").write_text(text)
    with (folder / "log").open("ab") as out, (folder / "errors").open("ab") as errors:
        process = subprocess.Popen(
            [tool(kind.program, package=kind.program), *kind.arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
        )
    proxy = Front(process, folder)
    try:
        proxy.wait_ready()
        yield proxy
    finally:
        proxy.stop()


@contextlib.contextmanager
def upstream(app: WSGIApplication, **options: Any) -> Iterator[int]:
    """Serve ``app`` in a thread, with an event loop of its own; give the port of 127.0.0.1."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def serve() -> None:
        config = aiowsgi.Config(**options)
        async with aiowsgi.serve(app, "127.0.0.1", 0, config=config) as server:
            stop = asyncio.Event()
            port = server.sockets[0].getsockname()[1]
            started.set_result((asyncio.get_running_loop(), stop, port))
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
    loop, stop, port = started.result(TIMEOUT)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the server does not stop"
