"""Flask behind aiowsgi, driven by httpx over real sockets."""

import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator, Iterator

import flask
import httpx
import pytest
from conftest import StartServer
from werkzeug.wrappers import Response as WerkzeugResponse

# No wait in this file is longer: a handshake that fails, fails the test and does not hang it.
PATIENCE = 30.0


class Shop:
    """The Flask application of these tests, and the events by which a test talks to its views."""

    def __init__(self, parties: int = 4) -> None:
        self.first_chunk_arrived = threading.Event()
        self.stream_closed = threading.Event()
        self.barrier = threading.Barrier(parties)
        self.calls: list[str] = []
        self.app = flask.Flask("shop")
        self.app.config.update(
            SECRET_KEY="only for tests",
            # With a limit Werkzeug reads the input in pieces of a known size. Without one it calls
            # read() bare, which PEP 3333 permits since 1.0.1 and wsgiref's validator does not.
            MAX_CONTENT_LENGTH=32 << 20,
        )
        self._add_pages()
        self._add_bodies()
        self._add_failures()

    def _add_pages(self) -> None:
        app = self.app

        @app.get("/")
        def index() -> str:
            if "username" in flask.session:
                return f"Logged in as {flask.session['username']}"
            return "You are not logged in"

        @app.route("/login", methods=["GET", "POST"])
        def login() -> str | WerkzeugResponse:
            if flask.request.method == "POST":
                flask.session["username"] = flask.request.form["username"]
                return flask.redirect(flask.url_for("index"))
            return '<form method="post"><input name="username"><input type="submit"></form>'

        @app.post("/logout")
        def logout() -> WerkzeugResponse:
            flask.session.pop("username", None)
            return flask.redirect(flask.url_for("index"))

        @app.get("/user/<name>")
        def user(name: str) -> dict[str, str]:
            return {"name": name, "tag": flask.request.args.get("tag", "")}

        @app.get("/where")
        def where() -> dict[str, str | None]:
            request = flask.request
            return {
                "remote_addr": request.remote_addr,
                "remote_port": request.environ["REMOTE_PORT"],
                "host": request.host,
                "method": request.method,
                "scheme": request.scheme,
                "root": request.root_path,
                "path": request.path,
                "query": request.query_string.decode(),
                "agent": request.headers["User-Agent"],
                "protocol": request.environ["SERVER_PROTOCOL"],
                "port": request.environ["SERVER_PORT"],
                "login": flask.url_for("login", _external=True),
            }

    def _add_bodies(self) -> None:
        app = self.app

        @app.post("/upload")
        def upload() -> dict[str, str | int | None]:
            uploaded = flask.request.files["document"]
            data = uploaded.read()
            return {
                "name": uploaded.filename,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "note": flask.request.form["note"],
                "content_length": flask.request.content_length,
            }

        @app.post("/raw")
        def raw() -> dict[str, str]:
            return {"sha256": hashlib.sha256(flask.request.get_data()).hexdigest()}

        @app.post("/sum")
        def sum_() -> dict[str, int]:
            return {"sum": sum(flask.request.get_json()["numbers"])}

        @app.get("/stream")
        def stream() -> flask.Response:
            @flask.stream_with_context
            def lines() -> Iterator[str]:
                try:
                    # stream_with_context: the request is still there while the body is made.
                    yield f"first for {flask.request.args['name']}\n"
                    arrived = self.first_chunk_arrived.wait(PATIENCE)
                    yield "second\n" if arrived else "the client never saw the first\n"
                finally:
                    self.stream_closed.set()

            return flask.Response(lines(), mimetype="text/plain")

        @app.get("/numbers")
        def numbers() -> flask.Response:
            return flask.jsonify(list(range(100_000)))

        @app.get("/meet/<int:number>")
        def meet(number: int) -> dict[str, int | str]:
            flask.g.number = number
            self.barrier.wait(PATIENCE)
            return {"number": flask.g.number, "path": flask.request.path}

    def _add_failures(self) -> None:
        app = self.app

        @app.get("/broken")
        def broken() -> str:
            raise LookupError("no such shelf")

        @app.get("/crash")
        def crash() -> str:
            raise RuntimeError("a secret of the shop")

        @app.get("/teapot")
        def teapot() -> None:
            flask.abort(418)

        @app.errorhandler(LookupError)
        def no_shelf(error: LookupError) -> tuple[dict[str, str], int]:
            return {"error": str(error)}, 409

        @app.errorhandler(404)
        def not_found(error: Exception) -> tuple[str, int]:
            return f"nothing at {flask.request.path}", 404

        @app.after_request
        def count(response: flask.Response) -> flask.Response:
            self.calls.append(f"{flask.request.method} {flask.request.path}")
            return response


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def client(shop: Shop, start_server: StartServer) -> AsyncIterator[httpx.AsyncClient]:
    server = await start_server(shop.app, threads=4)
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
        yield client


async def test_login_form_keeps_a_session_until_logout(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).text == "You are not logged in"
    form = await client.get("/login")
    assert form.headers["content-type"] == "text/html; charset=utf-8"
    assert "<form" in form.text

    answer = await client.post("/login", data={"username": "Zoë & co"})
    assert answer.status_code == 302
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("session=")
    assert "HttpOnly" in cookie
    assert (await client.get("/")).text == "Logged in as Zoë & co"
    assert (await client.get("/")).text == "Logged in as Zoë & co"

    assert (await client.post("/logout")).status_code == 302
    assert "session" not in client.cookies
    assert (await client.get("/")).text == "You are not logged in"


async def test_sessions_of_two_clients_stay_apart(client: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(
        base_url=client.base_url, timeout=PATIENCE, trust_env=False
    ) as other:
        await client.post("/login", data={"username": "ada"})
        assert (await other.get("/")).text == "You are not logged in"
        await other.post("/login", data={"username": "grace"})
        answers = await asyncio.gather(client.get("/"), other.get("/"))
    assert [answer.text for answer in answers] == ["Logged in as ada", "Logged in as grace"]


async def test_redirect_is_followed_to_the_page(client: httpx.AsyncClient) -> None:
    answer = await client.post("/login", data={"username": "ada"}, follow_redirects=True)
    assert [step.status_code for step in answer.history] == [302]
    assert answer.status_code == 200
    assert answer.text == "Logged in as ada"


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_multipart_upload_arrives_whole(client: httpx.AsyncClient, framing: str) -> None:
    data = random.Random(framing).randbytes(3 << 20)
    request = client.build_request(
        "POST",
        "/upload",
        data={"note": "für dich"},
        files={"document": ("big.bin", data, "application/octet-stream")},
    )
    # The encoded form is 3 MiB and its boundaries; a request body of that size is longer than what
    # is buffered before a thread is taken, so it is streamed to the application.
    body = await request.aread()
    if framing == "chunked":

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 50_001):
                yield body[start : start + 50_001]

        content: bytes | AsyncIterator[bytes] = pieces()
    else:
        content = body
    answer = await client.post(
        "/upload", content=content, headers={"content-type": request.headers["content-type"]}
    )
    sent = "transfer-encoding" if framing == "chunked" else "content-length"
    assert sent in answer.request.headers
    assert answer.json() == {
        "name": "big.bin",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "note": "für dich",
        "content_length": None if framing == "chunked" else len(body),
    }


@pytest.mark.parametrize("size", [0, 1, 65_536, 2 << 20])
async def test_raw_chunked_body_is_read_to_its_end(client: httpx.AsyncClient, size: int) -> None:
    data = random.Random(size).randbytes(size)

    async def pieces() -> AsyncIterator[bytes]:
        yield data[: size // 3]
        yield data[size // 3 :]

    answer = await client.post("/raw", content=pieces())
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.json() == {"sha256": hashlib.sha256(data).hexdigest()}


async def test_upload_above_the_limit_of_the_application_is_a_413(
    shop: Shop, client: httpx.AsyncClient
) -> None:
    shop.app.config["MAX_CONTENT_LENGTH"] = 1000
    answer = await client.post("/raw", content=b"x" * 1001)
    assert answer.status_code == 413
    assert (await client.post("/raw", content=b"x" * 1000)).status_code == 200


@pytest.mark.parametrize(("size", "status"), [(3 << 20, 200), (5 << 20, 413)])
async def test_spooled_body_is_held_against_the_limit_of_the_application(
    shop: Shop, start_server: StartServer, size: int, status: int
) -> None:
    """Without its length Werkzeug cuts it off at the limit, and says nothing."""
    shop.app.config["MAX_CONTENT_LENGTH"] = 4 << 20
    data = random.Random(size).randbytes(size)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 100_000):
            yield data[start : start + 100_000]

    server = await start_server(shop.app, body_spool=1 << 24)
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
        answer = await client.post("/raw", content=pieces())
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"sha256": hashlib.sha256(data).hexdigest()}


async def test_json_body_is_answered(client: httpx.AsyncClient) -> None:
    answer = await client.post("/sum", json={"numbers": [1, 2, 39]})
    assert answer.json() == {"sum": 42}


async def test_streamed_chunk_arrives_before_the_next_is_made(
    shop: Shop, client: httpx.AsyncClient
) -> None:
    async with client.stream("GET", "/stream", params={"name": "ada"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["transfer-encoding"] == "chunked"
        assert "content-length" not in answer.headers
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"first for ada\n"
        assert not shop.stream_closed.is_set()
        shop.first_chunk_arrived.set()
        assert b"".join([chunk async for chunk in chunks]) == b"second\n"
    assert await asyncio.to_thread(shop.stream_closed.wait, PATIENCE)


async def test_large_json_is_complete_and_has_its_length(client: httpx.AsyncClient) -> None:
    answer = await client.get("/numbers")
    assert answer.json() == list(range(100_000))
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "transfer-encoding" not in answer.headers


async def test_error_handler_of_the_application_answers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/broken")
    assert answer.status_code == 409
    assert answer.json() == {"error": "no such shelf"}


async def test_unknown_path_gets_the_applications_404(client: httpx.AsyncClient) -> None:
    answer = await client.get("/straße/100%25")
    assert answer.status_code == 404
    assert answer.text == "nothing at /straße/100%"


async def test_unusual_status_and_wrong_method_pass_through(client: httpx.AsyncClient) -> None:
    teapot = await client.get("/teapot")
    assert (teapot.status_code, teapot.reason_phrase) == (418, "I'M A TEAPOT")
    wrong = await client.post("/")
    assert wrong.status_code == 405
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_crash_in_a_view_is_a_500_and_the_next_request_works(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/crash")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert (await client.get("/")).status_code == 200


async def test_head_has_the_length_of_get_and_no_body(
    shop: Shop, client: httpx.AsyncClient
) -> None:
    get = await client.get("/numbers")
    head = await client.head("/numbers")
    assert head.status_code == 200
    assert head.headers["content-length"] == get.headers["content-length"]
    assert head.content == b""
    # A stray body would be taken for the beginning of this answer on the kept connection.
    assert (await client.get("/")).text == "You are not logged in"
    assert shop.calls == ["GET /numbers", "HEAD /numbers", "GET /"]


async def test_options_lists_the_methods(client: httpx.AsyncClient) -> None:
    answer = await client.options("/login")
    assert answer.status_code == 200
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


async def test_request_says_who_asked_and_what(client: httpx.AsyncClient) -> None:
    answer = await client.get("/where?a=1&b=%20x", headers={"user-agent": "a test"})
    said = answer.json()
    port = client.base_url.port
    assert 0 < int(said.pop("remote_port")) < 65536
    assert said == {
        "remote_addr": "127.0.0.1",
        "host": f"127.0.0.1:{port}",
        "method": "GET",
        "scheme": "http",
        "root": "",
        "path": "/where",
        "query": "a=1&b=%20x",
        "agent": "a test",
        "protocol": "HTTP/1.1",
        "port": str(port),
        "login": f"http://127.0.0.1:{port}/login",
    }


@pytest.mark.parametrize("host", ["example.test", "example.test:8080", "[::1]:8080"])
async def test_urls_are_built_from_the_host_field(client: httpx.AsyncClient, host: str) -> None:
    answer = await client.get("/where", headers={"host": host})
    assert answer.json()["host"] == host
    assert answer.json()["login"] == f"http://{host}/login"


async def test_fifty_concurrent_requests_each_get_their_own_answer(
    client: httpx.AsyncClient,
) -> None:
    answers = await asyncio.gather(
        *(client.get(f"/user/n{number}", params={"tag": f"t{number}"}) for number in range(50))
    )
    assert [answer.json() for answer in answers] == [
        {"name": f"n{number}", "tag": f"t{number}"} for number in range(50)
    ]


async def test_one_connection_serves_many_requests(client: httpx.AsyncClient) -> None:
    # REMOTE_PORT is the client's end of the connection: one port is one connection.
    ports = {(await client.get("/where")).json()["remote_port"] for _ in range(10)}
    assert len(ports) == 1


async def test_four_requests_run_at_the_same_time_and_keep_apart(
    client: httpx.AsyncClient,
) -> None:
    # Every view waits until four are inside; with fewer threads at work the barrier breaks and the
    # answers are 500s. flask.g is set before and read after the others ran.
    answers = await asyncio.gather(*(client.get(f"/meet/{number}") for number in range(24)))
    assert [answer.status_code for answer in answers] == [200] * 24
    assert [answer.json() for answer in answers] == [
        {"number": number, "path": f"/meet/{number}"} for number in range(24)
    ]
