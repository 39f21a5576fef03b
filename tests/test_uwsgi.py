"""The uwsgi protocol on real sockets: with real nginx in front, and with nobody who behaves.

The ordinary work of a server behind nginx is in ``test_behind_proxies``; the protocol without
sockets in ``test_uwsgi_codec``.
"""

import contextlib
import json
import logging
import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.validate import validator

import flask
import pytest
from proxies import KINDS, TIMEOUT, UWSGI_KINDS, Front, front, upstream
from uwsgi_packets import packet, request, stock_variables
from waiting import eventually

BLOCK = bytes(range(256)) * 256

Listening = Callable[..., "contextlib.AbstractContextManager[str]"]


@pytest.fixture(params=["tcp", "unix"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Listening:
    """Return ``listening(app, **options)``, which serves and gives the address."""
    bind = {"tcp": "uwsgi:127.0.0.1:0", "unix": f"uwsgi:unix:{tmp_path}/server"}[request.param]

    def listen(app: WSGIApplication, **options: Any) -> "contextlib.AbstractContextManager[str]":
        return upstream(app, bind, **options)

    return listen


def connected(address: str) -> socket.socket:
    """Return a connection to an address as ``upstream`` gives it; every wait is bounded."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        sock.connect(address.removeprefix("unix:"))
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT)


def received(sock: socket.socket) -> bytes:
    """Return everything until the server closes."""
    data = bytearray()
    while piece := sock.recv(1 << 16):
        data += piece
    return bytes(data)


def answer_to(address: str, data: bytes) -> bytes:
    with connected(address) as sock:
        sock.sendall(data)
        return received(sock)


class Counting:
    """Counts its calls, and returns what it was sent."""

    def __init__(self) -> None:
        self.calls = 0
        self.bodies: list[bytes] = []
        self.cut = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self.calls += 1
        try:
            body = environ["wsgi.input"].read(-1)
        except ConnectionError:
            self.cut.set()
            raise
        self.bodies.append(body)
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


# --- without nginx -------------------------------------------------------------------------------


def test_one_request_a_connection_and_what_comes_behind_it_is_dropped(listening: Listening) -> None:
    app = Counting()
    with listening(app) as address:
        answer = answer_to(address, request(b"body") + request(b"smuggled"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close" in head
    assert (body, app.bodies) == (b"body", [b"body"])


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, b"speaks HTTP"),
        (b"\x16\x03\x01\x00\xa5", 400, b"speaks TLS"),
        (b"\x05\x00\x00\x00", 400, b"modifier1 5"),
        (b"\x00\x00\x00\x02", 400, b"modifier2 2"),
        (b"\x00\x02\x00\x00\xff\xff", 400, b"does not end"),
        (request(REQUEST_METHOD=None), 400, b"REQUEST_METHOD"),
        (request(HTTP_X="a\nb"), 400, b"HTTP_X holds the byte 0x0a"),
        (request(CONTENT_LENGTH="-1"), 400, b"decimal"),
        (request(CONTENT_LENGTH="1" * 30), 413, b"longer than"),
        (request(REQUEST_URI="/" + "a" * 9000), 414, b"longer than"),
        (request(HTTP_X="a" * 9000), 431, b"longer than"),
        (packet(stock_variables({f"HTTP_X{n}": "" for n in range(101)})), 431, b"more than"),
    ],
)
def test_what_is_malformed_is_answered_and_never_reaches_the_application(
    listening: Listening, data: bytes, status: int, reason: bytes
) -> None:
    app = Counting()
    with listening(app) as address:
        answer = answer_to(address, data)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert reason in answer
        assert app.calls == 0
        # The next one is served as if nothing had happened.
        assert answer_to(address, request(b"x")).endswith(b"\r\n\r\nx")
    assert app.calls == 1


def test_a_packet_that_does_not_come_to_its_end_reaches_nobody(listening: Listening) -> None:
    app = Counting()
    data = request(b"body")
    with listening(app, timeout_header=0.1, timeout_body=0.1) as address:
        for size in (1, 100, len(data) - 1):
            assert answer_to(address, data[:size]).startswith(b"HTTP/1.1 408 ")
    with listening(app) as address:
        for size in (1, 100, len(data) - 1):
            with connected(address) as sock:
                sock.sendall(data[:size])
                sock.shutdown(socket.SHUT_WR)
                assert received(sock).startswith(b"HTTP/1.1 400 ")
        with connected(address) as sock:  # Somebody looks whether the port is open.
            sock.shutdown(socket.SHUT_WR)
            assert received(sock) == b""
    assert app.calls == 0


def test_a_body_that_ends_early_is_an_error_to_who_reads_it(listening: Listening) -> None:
    app = Counting()
    length = 4 * len(BLOCK)
    with listening(app, body_prefetch=len(BLOCK)) as address, connected(address) as sock:
        sock.sendall(packet(stock_variables({"CONTENT_LENGTH": str(length)})) + BLOCK * 3)
        eventually(lambda: app.calls, lambda: "the application is not called")
        sock.shutdown(socket.SHUT_WR)
        received(sock)
        assert app.cut.wait(TIMEOUT)
    assert app.bodies == []


def test_logs_name_the_client_of_the_web_server(
    listening: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with listening(Counting()) as address:
        answer_to(address, request(REMOTE_ADDR="192.0.2.99", REQUEST_URI="/seen?a"))
        eventually(lambda: "/seen" in caplog.text, lambda: f"nothing logged: {caplog.text}")
    line = next(record.getMessage() for record in caplog.records if "/seen" in record.getMessage())
    assert line.startswith("192.0.2.99 - - [")
    assert '"GET /seen?a HTTP/1.1" 200' in line


@pytest.mark.parametrize(
    ("bind", "warned"),
    [("uwsgi:0.0.0.0:0", True), ("uwsgi:127.0.0.1:0", False), ("0.0.0.0:0", False)],
)
def test_a_listener_that_believes_everybody_is_warned_of(
    bind: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with upstream(environ_app, bind):
        pass
    said = [record.getMessage() for record in caplog.records if "is believed" in record.msg]
    assert len(said) == warned
    assert all(line.startswith("Whoever can connect to uwsgi://127.0.0.1:") for line in said)


# --- behind nginx --------------------------------------------------------------------------------


@contextlib.contextmanager
def behind_nginx(app: WSGIApplication, kind: str, folder: Path, **options: Any) -> Iterator[Front]:
    way = {**KINDS, **UWSGI_KINDS}[kind]
    place = folder / kind
    place.mkdir()
    with (
        upstream(app, way.bind.format(folder=place), **options) as server,
        front(way, place, server) as proxy,
    ):
        yield proxy


each_kind = pytest.mark.parametrize("kind", UWSGI_KINDS)


def fetch(
    proxy: Front, path: str, method: str = "GET", **fields: str
) -> tuple[HTTPResponse, bytes]:
    with proxy.client() as client:
        client.request(method, path, headers=fields)
        response = client.getresponse()
        return response, response.read()


def environ_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Return the environ, and the body under the key "body"."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode("latin-1")
    said = {key: value for key, value in environ.items() if isinstance(value, str)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({**said, "body": body}).encode()]


def test_what_nginx_says_to_a_listener_for_http_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {"Cookie": "session=hunter2", "Authorization": "Basic hunter2"}
    with upstream(environ_app) as server, front(UWSGI_KINDS["uwsgi"], tmp_path, server) as proxy:
        response, body = fetch(proxy, "/?token=hunter2", **secrets)
        eventually(lambda: '] "-" 400 ' in caplog.text, lambda: f"logged: {caplog.text}")
    assert response.status == 400
    assert b"use proxy_pass, or --bind uwsgi:" in body
    assert "use proxy_pass, or --bind uwsgi:" in caplog.text
    assert "hunter2" not in caplog.text


@each_kind
def test_the_environ_is_that_of_the_client_of_nginx(kind: str, tmp_path: Path) -> None:
    with behind_nginx(validator(environ_app), kind, tmp_path) as proxy:
        _, body = fetch(proxy, "/a%2Fb/%C3%A9?c=%20", **{"X-Real-IP": "192.0.2.5", "X-Two": "x"})
        plain = json.loads(body)
        _, body = fetch(proxy, "/mounted/a%20b?c")
        mounted = json.loads(body)
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b/\xc3\xa9",
        "QUERY_STRING": "c=%20",
        "REQUEST_URI": "/a%2Fb/%C3%A9?c=%20",
        "REMOTE_ADDR": "192.0.2.5",
        "HTTP_HOST": "h",
        "HTTP_X_TWO": "x",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_SCHEME": "http",
        "wsgi.url_scheme": "http",
    }
    assert {key: plain[key] for key in expected} == expected
    assert plain["DOCUMENT_ROOT"].endswith("/html")
    expected = {
        "SCRIPT_NAME": "/mounted",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c",
        "REQUEST_URI": "/mounted/a%20b?c",
        "SERVER_PORT": "443",
        "HTTP_HOST": "shop.test",
        "UWSGI_SCHEME": "https",
        "wsgi.url_scheme": "https",
    }
    assert {key: mounted[key] for key in expected} == expected


def test_an_application_sees_the_same_as_over_http(tmp_path: Path) -> None:
    """Whatever nginx speaks, but for what only one of the two protocols can tell."""
    seen: dict[str, list[dict[str, str]]] = {}
    for kind in ("nginx", *UWSGI_KINDS):
        answers = seen[kind] = []
        with behind_nginx(environ_app, kind, tmp_path) as proxy, proxy.client() as client:
            fields = {"Content-Type": "text/plain", "Cookie": "a=1; b=2", "Accept": "x, y"}
            for method, path, body in [
                ("GET", "/", None),
                ("GET", "/a%2520b?x=%2B&y", None),
                ("GET", "/%E2%82%AC/%0A;p=1", None),
                ("POST", "/form", b"a=1&b=%C3%A9"),
                ("PUT", "/chunked", iter([b"one", b"two"])),
                ("DELETE", "/", None),
                ("PATCH", "/", b""),
                ("BREW", "/", b"x" * 100_000),
            ]:
                chunked = body is not None and not isinstance(body, bytes)
                client.request(method, path, body, fields, encode_chunked=chunked)
                answers.append(json.loads(client.getresponse().read()))
    # Over HTTP they are those of the connection between nginx and the server, or are not told.
    own = {"SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT", "HTTP_CONNECTION"}
    own |= {"DOCUMENT_ROOT", "REQUEST_SCHEME", "HTTP_X_FRONT_ID", "aiowsgi.request_id"}
    for kind in UWSGI_KINDS:
        for over_http, over_uwsgi in zip(seen["nginx"], seen[kind], strict=True):
            for key in own:
                over_http.pop(key, None)
                over_uwsgi.pop(key, None)
            assert over_uwsgi == over_http


@each_kind
def test_flask_sees_the_request_of_the_client(kind: str, tmp_path: Path) -> None:
    app = flask.Flask(__name__)

    @app.post("/<path:path>")
    def where(path: str) -> dict[str, Any]:
        asked = flask.request
        return {
            "path": path,
            "url": asked.url,
            "root": asked.script_root,
            "client": asked.remote_addr,
            "secure": asked.is_secure,
            "form": asked.form.to_dict(),
            "file": asked.files["f"].read().decode() if asked.files else None,
            "made": flask.url_for("where", path="x", _external=True),
        }

    form = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\ncontent\r\n--b--\r\n'
    )
    with behind_nginx(app, kind, tmp_path) as proxy, proxy.client() as client:
        fields = {"Content-Type": "multipart/form-data; boundary=b", "X-Real-IP": "192.0.2.5"}
        client.request("POST", "/caf%C3%A9/a%20b?q=1", form, fields)
        plain = json.loads(client.getresponse().read())
        fields["Content-Type"] = "application/x-www-form-urlencoded"
        client.request("POST", "/mounted/a", b"a=1", fields)
        mounted = json.loads(client.getresponse().read())
    assert plain == {
        "path": "caf\xe9/a b",
        "url": "http://h/caf\xe9/a%20b?q=1",
        "root": "",
        "client": "192.0.2.5",
        "secure": False,
        "form": {},
        "file": "content",
        "made": "http://h/x",
    }
    assert mounted == {
        "path": "a",
        "url": "https://shop.test/mounted/a",
        "root": "/mounted",
        "client": "192.0.2.5",
        "secure": True,
        "form": {"a": "1"},
        "file": None,
        "made": "https://shop.test/mounted/x",
    }


@each_kind
@pytest.mark.parametrize("own", [False, True], ids=["of the server", "of the application"])
def test_the_response_fields_reach_the_client_once(kind: str, own: bool, tmp_path: Path) -> None:
    date = "Thu, 01 Jan 1970 00:00:00 GMT"

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        fields = [("Date", date), ("Server", "mine")] if own else []
        start_response("203 Something Of Mine", [*fields, ("Set-Cookie", "a"), ("Set-Cookie", "b")])
        return [b"abc"]

    with behind_nginx(app, kind, tmp_path) as proxy, proxy.client() as client:
        for _ in range(2):  # The client keeps its connection, whatever becomes of ours.
            client.request("GET", "/")
            response = client.getresponse()
            assert response.read() == b"abc"
    names = [name.lower() for name in response.headers]
    assert sorted(names) == ["connection", "content-length", "date", "server"] + ["set-cookie"] * 2
    assert (response.status, response.reason) == (203, "Something Of Mine")
    assert response.headers["Connection"] == "keep-alive"
    assert response.headers.get_all("Set-Cookie") == ["a", "b"]
    if own:
        assert (response.headers["Date"], response.headers["Server"]) == (date, "mine")


@each_kind
def test_an_unexpected_end_of_a_response_is_seen_by_the_client(kind: str, tmp_path: Path) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = [("Content-Length", str(100 * len(BLOCK)))]
        start_response("200 OK", length if environ["PATH_INFO"] == "/length" else [])
        yield BLOCK
        yield BLOCK
        raise ValueError("in the midst of it")

    # Over a Unix socket nothing but a length tells a response that was cut from one that is whole.
    paths = ["/length"] if "unix" in kind else ["/length", "/stream"]
    with behind_nginx(app, kind, tmp_path) as proxy:
        for path in paths:
            with pytest.raises((IncompleteRead, ConnectionError)):
                fetch(proxy, path)


def test_an_unbuffered_upload_and_its_answer_go_both_ways_at_once(tmp_path: Path) -> None:
    def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        while piece := environ["wsgi.input"].readline():
            yield piece

    kind = "uwsgi-unix-unbuffered"
    piece = b"x" * 9999 + b"\n"
    with behind_nginx(echo, kind, tmp_path, body_prefetch=1) as proxy, proxy.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % (3 * len(piece)))
        sock.sendall(b"Connection: close\r\n\r\n")
        for number in range(3):
            sock.sendall(piece)
            answer = bytearray()
            # In chunks, to the client: their line ends follow the last byte, or come with the next.
            while b"x\n" not in answer:
                data = sock.recv(1 << 16)
                assert data
                answer += data
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n") is (number == 0)


def test_a_busy_server_says_so_through_nginx(tmp_path: Path) -> None:
    called, go_on = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        called.set()
        assert go_on.wait(TIMEOUT)
        start_response("200 OK", [])
        return [b"done"]

    # One waits for a thread, and nobody else may.
    options = {"threads": 1, "queue_size": 1, "spare_threads": 0}
    with (
        behind_nginx(app, "uwsgi", tmp_path, **options) as proxy,
        proxy.client() as first,
        proxy.client() as second,
        proxy.client() as third,
    ):
        first.request("GET", "/")
        assert called.wait(TIMEOUT)
        second.request("GET", "/")
        third.request("GET", "/")
        try:
            with selectors.DefaultSelector() as selector:
                for client in second, third:
                    selector.register(client.sock, selectors.EVENT_READ, client)
                [(key, _)] = selector.select(TIMEOUT)
            refused = key.data.getresponse()
            assert refused.status == 503
            assert refused.headers["Retry-After"]
            assert refused.read().startswith(b"503 Service Unavailable: ")
        finally:
            go_on.set()
        for client in {first, second, third} - {key.data}:
            assert client.getresponse().read() == b"done"
