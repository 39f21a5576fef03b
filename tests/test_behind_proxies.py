"""The server behind nginx, HAProxy, Apache and Caddy, which share connections between all clients.

Each technique of ``smuggling`` is sent through each proxy while others use the same connections.
However it is read, both ends have to read it alike: the application sees the requests that the
proxy says it forwarded, each once, and nobody gets an answer that is for somebody else. The rest is
ordinary work. nginx speaks HTTP to the server, and its own protocol, uwsgi.
"""

import contextlib
import hashlib
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from extent import representative, sampled
from proxies import (
    ID_KEY,
    KINDS,
    PROXY_KINDS,
    TIMEOUT,
    TLS_KINDS,
    UWSGI_KINDS,
    Front,
    certified,
    front,
    open_folder,
    upstream,
)
from smuggling import TECHNIQUES, Technique
from waiting import eventually

ALL_KINDS = {**KINDS, **TLS_KINDS, **PROXY_KINDS, **UWSGI_KINDS}
ATTACKED = [*KINDS, "uwsgi-unix-unbuffered"]
# Where not everything is tried. Apache takes its time to close the connections of attackers.
QUICK = ["nginx", "haproxy", "apache", "caddy", "nginx-tls", "uwsgi-unix-unbuffered"]
QUICK_ATTACKED = [name for name in QUICK if name != "apache"]

BLOCK = bytes(range(256)) * 256
BLOCKS = 128
CONTENT = BLOCK * BLOCKS


@contextlib.contextmanager
def behind(kind: str, app: WSGIApplication, folder: Path, **options: Any) -> Iterator[Front]:
    """Serve ``app`` behind a proxy, which must have nothing to say against the server."""
    way = ALL_KINDS[kind]
    options |= certified(way, folder)
    with (
        upstream(app, way.bind.format(folder=folder), **options) as server,
        front(way, folder, server) as proxy,
    ):
        yield proxy
        proxy.stop()
        assert not proxy.complaints()


# --- techniques ----------------------------------------------------------------------------------

LAST = b"GET /next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
_ANSWER = re.compile(rb"^x-answer: (\S+) (\S+) (\S+)\r$", re.IGNORECASE | re.MULTILINE)


class Application:
    """Notes the id of each request, and repeats the request in its answer."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        # The proxy's end of the connection of each request.
        self.ports: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(-1)
        method, target = environ["REQUEST_METHOD"], environ["REQUEST_URI"]
        # No proxy has sent it, if there is none.
        number = environ.get(ID_KEY, f"none:{method}:{target}")
        self.seen.append(number)
        self.ports.append(environ["REMOTE_PORT"])
        fields = [("Content-Length", str(len(body))), ("X-Answer", f"{method} {target} {number}")]
        start_response("200 OK", fields)
        return [body]


class Site:
    """An application behind a proxy, and somebody who visits it all the time."""

    def __init__(self, app: Application, proxy: Front, visitor: HTTPConnection) -> None:
        self.proxy = proxy
        self._app = app
        self._visitor = visitor
        self._visits = 0
        # How much of what the application has seen is counted, and the ids that are unsettled.
        self._noted = 0
        self._difference = Counter[str]()
        self._given_up = set[str]()

    def visit(self) -> None:
        """Make an ordinary request, and hold the answer to it."""
        self._visits += 1
        token = f"/visit/{self._visits}"
        self._visitor.request("POST", token, token.encode())
        response = self._visitor.getresponse()
        assert response.status == 200
        assert response.read() == token.encode()
        assert response.headers["X-Answer"].startswith(f"POST {token} ")

    def difference(self) -> dict[str, int]:
        """Return how often the application saw each request beyond what the proxy forwarded."""
        new = self._app.seen[self._noted :]
        self._noted += len(new)
        self._difference.update(new)
        lines = self.proxy.new_lines()
        self._difference.subtract(line.id for line in lines if line.answered == 200)
        self._given_up.update(line.id for line in lines if line.given_up)
        # What both agree about is settled, and there is nothing to agree about what was given up.
        self._difference = Counter(
            {id: n for id, n in self._difference.items() if n and id not in self._given_up}
        )
        return self._difference

    def check(self) -> None:
        """Wait until both ends agree about what was forwarded; fail where they do not."""
        eventually(lambda: not self.difference(), lambda: f"not alike: {self._difference}")


@pytest.fixture(scope="module", params=representative(ATTACKED, *QUICK_ATTACKED))
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    app = Application()
    with open_folder() as folder:
        with behind(request.param, app, folder) as proxy, proxy.client() as visitor:
            site = Site(app, proxy, visitor)
            yield site
            site.check()
        # Both have ended, and nothing came late.
        assert not site.difference()
    if request.param in KINDS:
        # The visitor's requests went along with the others'.
        assert len(set(app.ports)) < len(app.ports) / 2


def attack(site: Site, *pieces: bytes) -> list[tuple[str, str]]:
    """Send pieces of bytes through the proxy; return target and id of each answer to them.

    Somebody else makes a request behind each.
    """
    received = bytearray()
    with site.proxy.connect() as sock:
        # The proxy may close at any time.
        with contextlib.suppress(OSError):
            for piece in pieces:
                sock.sendall(piece)
                site.visit()
            sock.sendall(LAST)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(1 << 16):
                received += data
    return [(match[2].decode(), match[3].decode()) for match in _ANSWER.finditer(received)]


@pytest.mark.parametrize(
    "technique", sampled(TECHNIQUES, one_in=4), ids=lambda technique: technique.name
)
def test_technique_is_read_alike_at_both_ends(site: Site, technique: Technique) -> None:
    # Also with a pause, in which a proxy that does not collect a body has begun to forward it.
    middle = technique.data.index(b"/smuggled")
    for pieces in [technique.data], [technique.data[:middle], technique.data[middle:]]:
        answers = attack(site, *pieces)
        site.visit()
        site.check()
        assert not [target for target, _ in answers if "visit" in target]
        assert len(set(answers)) == len(answers)


# --- ordinary work -------------------------------------------------------------------------------


class Workplace:
    """An application that does what applications do, a path for each."""

    def __init__(self, file: Path) -> None:
        self._file = file
        # What the stream waits for between its two halves.
        self.go_on = threading.Event()
        self.endless_closed = threading.Event()
        # Uploads that began, that were read to their end, and that were cut.
        self.uploads = Counter[str]()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        fields = [("X-Port", environ["REMOTE_PORT"])]
        match environ["PATH_INFO"]:
            case "/upload":
                body = self._digest(environ["wsgi.input"])
            case "/length":
                body = CONTENT
            case "/blocks":
                start_response("200 OK", fields)
                return iter([BLOCK] * BLOCKS)
            case "/file":
                start_response("200 OK", [*fields, ("Content-Length", str(len(CONTENT)))])
                files: Iterable[bytes] = environ["wsgi.file_wrapper"](self._file.open("rb"))
                return files
            case "/halves":
                # nginx would collect it otherwise.
                start_response("200 OK", [*fields, ("X-Accel-Buffering", "no")])
                return self._halves()
            case "/endless":
                start_response("200 OK", fields)
                return self._endless()
            case "/304" | "/204" as path:
                start_response(f"{path[1:]} Nothing", fields)
                return []
            case path:
                body = environ["wsgi.input"].read() + path.encode()
        start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
        return [body]

    def _digest(self, body: BinaryIO) -> bytes:
        self.uploads["begun"] += 1
        digest = hashlib.sha256()
        try:
            while data := body.read(1 << 16):
                digest.update(data)
        except ConnectionError:
            self.uploads["cut"] += 1
            raise
        self.uploads["whole"] += 1
        return digest.hexdigest().encode()

    def _halves(self) -> Iterator[bytes]:
        yield b"first"
        assert self.go_on.wait(TIMEOUT)
        yield b"second"

    def _endless(self) -> Iterator[bytes]:
        try:
            while True:
                yield BLOCK
        finally:
            self.endless_closed.set()


At = tuple[Workplace, Front]


@contextlib.contextmanager
def working(kind: str, factory: pytest.TempPathFactory) -> Iterator[At]:
    file = factory.mktemp("files") / "content"
    file.write_bytes(CONTENT)
    app = Workplace(file)
    with open_folder() as folder, behind(kind, app, folder) as proxy:
        yield app, proxy


@pytest.fixture(scope="module", params=representative(ALL_KINDS, *QUICK))
def workplace(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[At]:
    with working(request.param, tmp_path_factory) as at:
        yield at


@pytest.fixture(params=representative([*KINDS, *TLS_KINDS], *QUICK))
def new_workplace(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[At]:
    """One that has no connections yet."""
    with working(request.param, tmp_path_factory) as at:
        yield at


def fetch(client: HTTPConnection, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    """Make a request; return the response and its body."""
    client.request(method, path)
    response = client.getresponse()
    return response, response.read()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_large_upload_arrives_whole(workplace: At, chunked: bool) -> None:
    _, proxy = workplace
    with proxy.client() as client:
        body = iter([BLOCK] * BLOCKS) if chunked else CONTENT
        client.request("POST", "/upload", body, encode_chunked=chunked)
        response = client.getresponse()
        assert response.status == 200
        assert response.read() == hashlib.sha256(CONTENT).hexdigest().encode()
        assert fetch(client, "/behind")[1] == b"/behind"


@pytest.mark.parametrize("path", ["/length", "/blocks", "/file"])
def test_large_response_arrives_whole(workplace: At, path: str) -> None:
    _, proxy = workplace
    with proxy.client() as client:
        assert fetch(client, path)[1] == CONTENT
        assert fetch(client, "/behind")[1] == b"/behind"


def test_response_is_passed_on_while_it_is_made(workplace: At) -> None:
    app, proxy = workplace
    app.go_on.clear()
    with proxy.client() as client:
        client.request("GET", "/halves")
        response = client.getresponse()
        assert response.read(5) == b"first"
        app.go_on.set()
        assert response.read() == b"second"


def test_clients_in_turn_use_one_connection_to_the_server(new_workplace: At) -> None:
    _, proxy = new_workplace
    with proxy.client() as one, proxy.client() as other:
        ports = set()
        for number in range(50):
            for client in one, other:
                response, body = fetch(client, f"/{number}")
                assert body == f"/{number}".encode()
                ports.add(response.headers["X-Port"])
    assert len(ports) == 1


@pytest.mark.parametrize("kind", representative([*KINDS, *TLS_KINDS], *QUICK))
def test_connections_that_the_server_ends_lose_no_request(
    kind: str,
) -> None:
    app = Application()
    with (
        open_folder() as folder,
        behind(kind, app, folder, max_keep_alive_requests=3) as proxy,
        proxy.client() as client,
    ):
        for number in range(30):
            response, _ = fetch(client, f"/{number}")
            assert response.headers["X-Answer"].startswith(f"GET /{number} ")
    # A client on a Unix socket has no port.
    assert set(Counter(app.ports).values()) == {3} or set(app.ports) == {""}


def test_answers_without_a_body_leave_the_connection_in_order(new_workplace: At) -> None:
    _, proxy = new_workplace
    with proxy.client() as client:
        ports = set()
        for method, path, status, expected in [
            ("HEAD", "/length", 200, b""),
            ("GET", "/1", 200, b"/1"),
            ("GET", "/304", 304, b""),
            ("GET", "/2", 200, b"/2"),
            ("GET", "/204", 204, b""),
            ("HEAD", "/blocks", 200, b""),
            ("HEAD", "/304", 304, b""),
            ("GET", "/3", 200, b"/3"),
        ]:
            response, body = fetch(client, path, method)
            assert (response.status, body) == (status, expected)
            if (method, path) == ("HEAD", "/length"):
                assert response.headers["Content-Length"] == str(len(CONTENT))
            ports.add(response.headers["X-Port"])
    assert len(ports) == 1


def test_client_that_waits_for_100_continue_gets_one(workplace: At) -> None:
    _, proxy = workplace
    with proxy.connect() as sock, sock.makefile("rb") as reader:
        sock.sendall(
            b"POST /expected HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert reader.readline().startswith(b"HTTP/1.1 100 ")
        while reader.readline() != b"\r\n":
            pass  # Caddy has fields there, sometimes.
        sock.sendall(b"body ")
        # Caddy says so itself, too.
        while (line := reader.readline()).startswith(b"HTTP/1.1 100 "):
            while reader.readline() != b"\r\n":
                pass
        assert line.startswith(b"HTTP/1.1 200 ")
        assert reader.read().endswith(b"\r\n\r\nbody /expected")


def test_client_that_leaves_in_mid_response_stops_the_application(workplace: At) -> None:
    app, proxy = workplace
    app.endless_closed.clear()
    with proxy.client() as client:
        client.request("GET", "/endless")
        response = client.getresponse()
        assert response.read(len(BLOCK)) == BLOCK
        port = response.headers["X-Port"]
        response.close()
    assert app.endless_closed.wait(TIMEOUT)
    # What is left of the answer reaches nobody else.
    with proxy.client() as client:
        for number in range(10):
            response, body = fetch(client, f"/{number}")
            assert body == f"/{number}".encode()
            # Where a client of nginx has no port, none is told; but it has a connection of its own.
            assert not port or response.headers["X-Port"] != port


def test_upload_that_is_cut_never_looks_whole(workplace: At) -> None:
    app, proxy = workplace
    app.uploads.clear()
    proxy.new_lines()
    ended = 0

    def all_ended() -> bool:
        nonlocal ended
        ended += len(proxy.new_lines())
        return ended >= 2

    for head in (b"Content-Length: 8388608", b"Transfer-Encoding: chunked"):
        with proxy.connect() as sock:
            sock.sendall(b"POST /upload HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % head)
            # Beyond what the server collects before the application gets to see it.
            for _ in range(BLOCKS // 2):
                sock.sendall(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK))
    eventually(all_ended, lambda: "the proxy waits for more")
    with proxy.client() as client:
        assert fetch(client, "/behind")[1] == b"/behind"
    uploads = app.uploads
    eventually(lambda: uploads["cut"] == uploads["begun"], lambda: f"not cut: {uploads}")
    assert not uploads["whole"]


def test_clients_at_the_same_time_get_their_own_answers(workplace: At) -> None:
    _, proxy = workplace

    def work(number: int) -> None:
        with proxy.client() as client:
            for turn in range(15):
                token = f"/{number}/{turn}"
                client.request("POST", token, b"body of ")
                assert client.getresponse().read() == f"body of {token}".encode()
                assert fetch(client, token, "HEAD")[1] == b""
                if turn == number:
                    assert fetch(client, "/blocks")[1] == CONTENT

    with ThreadPoolExecutor(8) as executor:
        for done in [executor.submit(work, number) for number in range(8)]:
            done.result(TIMEOUT)
