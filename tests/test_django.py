"""Django behind aiowsgi: the admin and its static files, files, streams and uploads.

The project is in ``django_site``. Django is set up once a process, so the tests share a database.
"""

import asyncio
import hashlib
import random
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from wsgiref.types import WSGIApplication

import httpx
import pytest
from conftest import StartServer
from proxies import UWSGI_KINDS, front, upstream

PATIENCE = 30.0
DOWNLOAD = random.Random("download").randbytes((1 << 20) + 17)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WSGIApplication]:
    """Return the project's WSGI application over a fresh database with the superuser ada."""
    folder = tmp_path_factory.mktemp("django")
    (folder / "download.bin").write_bytes(DOWNLOAD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_SITE_DATABASE", str(folder / "site.sqlite3"))
        patch.setenv("DJANGO_SETTINGS_MODULE", "django_site.settings")
        patch.setenv("DJANGO_SUPERUSER_PASSWORD", "lovelace")
        # Django sets the time zone of the process; naming it here makes the patch undo it.
        patch.setenv("TZ", "UTC")
        # Imported here: Django reads its settings at the first import, and they read the names.
        from django.core.management import call_command
        from django.db import connections
        from django_site.wsgi import application

        call_command("migrate", verbosity=0)
        call_command(
            "createsuperuser",
            interactive=False,
            username="ada",
            email="ada@example.test",
            verbosity=0,
        )
        connections.close_all()
        yield application
    time.tzset()


@pytest.fixture(autouse=True)
def databases(
    application: WSGIApplication, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[sqlite3.Connection]]:
    """Collect the database connections that threads open, and fail if one is open at the end.

    Django opens a connection per thread and closes it when the response is closed. A server that
    forgets ``close()``, or calls it on another thread, leaves the connection open.
    """
    from django.db.backends.sqlite3.base import DatabaseWrapper

    opened: list[sqlite3.Connection] = []
    get_new_connection = DatabaseWrapper.get_new_connection

    def remember(self: DatabaseWrapper, parameters: dict[str, object]) -> sqlite3.Connection:
        connection = get_new_connection(self, parameters)
        opened.append(connection)
        return connection

    monkeypatch.setattr(DatabaseWrapper, "get_new_connection", remember)
    # Set up before start_server and so torn down after it: all responses are closed by then.
    yield opened
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


NewClient = Callable[[], httpx.AsyncClient]


@pytest.fixture(params=["validated", "bare", "uwsgi"])
async def new_client(
    request: pytest.FixtureRequest,
    application: WSGIApplication,
    start_server: StartServer,
    tmp_path: Path,
) -> AsyncIterator[NewClient]:
    """Return what makes a client of a server of the project.

    The validator wraps the iterable that the application returns, so behind it the server never
    sees the file wrapper that Django returns for a file. Hence everything runs bare as well. And
    behind nginx, which speaks uwsgi to the server.
    """
    if request.param == "uwsgi":
        kind = UWSGI_KINDS["uwsgi-unix-unbuffered"]
        bind = kind.bind.format(folder=tmp_path)
        with upstream(application, bind) as address, front(kind, tmp_path, address):
            yield lambda: httpx.AsyncClient(
                base_url="http://127.0.0.1",
                timeout=PATIENCE,
                transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "front")),
            )
        return
    server = await start_server(application, validate=request.param == "validated")
    yield lambda: httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False)


@pytest.fixture
async def client(new_client: NewClient) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a server of the project."""
    async with new_client() as client:
        yield client


async def log_in(client: httpx.AsyncClient) -> httpx.Response:
    """Fill in the admin's log-in form as a browser does; return the page behind it."""
    page = await client.get("/admin/", follow_redirects=True)
    assert page.url.path == "/admin/login/"
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token is not None
    return await client.post(
        page.url,
        data={
            "csrfmiddlewaretoken": token[1],
            "username": "ada",
            "password": "lovelace",
            "next": "/admin/",
        },
        # Django compares Origin with scheme and Host, so both must have arrived unchanged.
        headers={"origin": str(client.base_url).rstrip("/"), "referer": str(page.url)},
        follow_redirects=True,
    )


async def test_admin_logs_in_and_out(
    client: httpx.AsyncClient, databases: list[sqlite3.Connection]
) -> None:
    index = await log_in(client)
    assert [step.status_code for step in index.history] == [302]
    assert index.status_code == 200
    assert index.url.path == "/admin/"
    assert "Site administration" in index.text
    assert "sessionid" in client.cookies

    users = await client.get("/admin/auth/user/")
    assert "ada@example.test" in users.text
    assert databases, "the check for open connections has nothing to check"

    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', users.text)
    assert token is not None
    await client.post("/admin/logout/", data={"csrfmiddlewaretoken": token[1]})
    assert "sessionid" not in client.cookies
    again = await client.get("/admin/")
    assert again.status_code == 302
    assert again.headers["location"] == "/admin/login/?next=/admin/"


async def test_admin_refuses_a_wrong_password(client: httpx.AsyncClient) -> None:
    page = await client.get("/admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token is not None
    answer = await client.post(
        "/admin/login/",
        data={"csrfmiddlewaretoken": token[1], "username": "ada", "password": "byron"},
    )
    assert answer.status_code == 200
    assert "Please enter the correct username and password" in answer.text
    assert "sessionid" not in client.cookies


async def test_form_without_its_token_is_refused_by_django(client: httpx.AsyncClient) -> None:
    answer = await client.post("/admin/login/", data={"username": "ada", "password": "lovelace"})
    assert answer.status_code == 403


async def test_admin_adds_an_object_through_its_form(client: httpx.AsyncClient) -> None:
    await log_in(client)
    page = await client.get("/admin/auth/group/add/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token is not None
    name = f"Größe {client.base_url.port}"
    answer = await client.post(
        "/admin/auth/group/add/",
        data={"csrfmiddlewaretoken": token[1], "name": name, "_save": "Save"},
        follow_redirects=True,
    )
    # The message travels in a cookie or the session over the redirect.
    assert "was added successfully" in answer.text
    assert name in answer.text


def static_file(name: str) -> bytes:
    """Return the file as it lies in Django's package."""
    from django.contrib.staticfiles import finders

    return Path(finders.find(name)).read_bytes()


async def test_static_files_of_the_admin_arrive_unchanged(client: httpx.AsyncClient) -> None:
    index = await log_in(client)
    addresses = sorted(
        set(re.findall(r'(?:href|src)="/static/([^"]+\.(?:css|js|svg))"', index.text))
    )
    assert "admin/css/base.css" in addresses
    assert "admin/js/theme.js" in addresses
    answers = await asyncio.gather(*(client.get(f"/static/{name}") for name in addresses))
    for name, answer in zip(addresses, answers, strict=True):
        expected = static_file(name)
        assert answer.status_code == 200, name
        assert answer.content == expected, name
        assert answer.headers["content-length"] == str(len(expected)), name
        assert "transfer-encoding" not in answer.headers, name


async def test_unchanged_static_file_is_a_304_without_body(client: httpx.AsyncClient) -> None:
    first = await client.get("/static/admin/css/base.css")
    again = await client.get(
        "/static/admin/css/base.css",
        headers={"if-modified-since": first.headers["last-modified"]},
    )
    assert again.status_code == 304
    assert again.content == b""
    # RFC 9112 section 6.3: a 304 ends with its head, so the connection is ready for the next.
    assert (await client.get("/static/admin/css/base.css")).content == first.content


async def test_missing_static_file_is_a_404(client: httpx.AsyncClient) -> None:
    assert (await client.get("/static/admin/css/none.css")).status_code == 404


async def test_file_response_is_the_file(client: httpx.AsyncClient) -> None:
    answer = await client.get("/download/")
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(DOWNLOAD))
    assert answer.headers["content-disposition"] == 'attachment; filename="bericht.bin"'
    assert answer.content == DOWNLOAD


async def test_head_of_a_file_response_has_its_length_and_no_body(
    client: httpx.AsyncClient,
) -> None:
    head = await client.head("/download/")
    assert head.status_code == 200
    assert head.headers["content-length"] == str(len(DOWNLOAD))
    assert head.content == b""
    assert (await client.get("/download/")).content == DOWNLOAD


async def test_streamed_chunk_arrives_before_the_next_is_made(client: httpx.AsyncClient) -> None:
    from django_site import views

    views.first_chunk_arrived.clear()
    views.stream_closed.clear()
    async with client.stream("GET", "/stream/") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"first\n"
        assert not views.stream_closed.is_set()
        views.first_chunk_arrived.set()
        assert b"".join([chunk async for chunk in chunks]) == b"second\n"
    assert await asyncio.to_thread(views.stream_closed.wait, PATIENCE)


async def test_uploaded_file_arrives_whole(client: httpx.AsyncClient) -> None:
    # Above 2.5 MB Django writes an upload to a temporary file.
    data = random.Random("upload").randbytes(3 << 20)
    answer = await client.post(
        "/upload/",
        data={"note": "für dich"},
        files={"document": ("big.bin", data, "application/octet-stream")},
    )
    assert answer.json() == {
        "name": "big.bin",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "note": "für dich",
    }


@pytest.mark.parametrize("size", [1000, 3 << 20], ids=["prefetched", "spooled"])
async def test_upload_without_a_length_arrives_whole(
    application: WSGIApplication, start_server: StartServer, size: int
) -> None:
    """Django reads nothing of a request without CONTENT_LENGTH."""
    data = random.Random("upload").randbytes(size)
    form = httpx.Request(
        "POST",
        "http://h/",
        data={"note": "x"},
        files={"document": ("big.bin", data, "application/octet-stream")},
    )
    body = form.read()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    server = await start_server(application, body_spool=1 << 24)
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
        answer = await client.post(
            "/upload/", content=pieces(), headers={"content-type": form.headers["content-type"]}
        )
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert (answer.json()["size"], answer.json()["note"]) == (size, "x")
    assert answer.json()["sha256"] == hashlib.sha256(data).hexdigest()


async def test_foreign_host_is_refused_by_django(client: httpx.AsyncClient) -> None:
    answer = await client.get("/download/", headers={"host": "evil.test"})
    assert answer.status_code == 400


async def test_crash_in_a_view_is_a_500_and_the_next_request_works(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/crash/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert (await client.get("/admin/login/")).status_code == 200


async def test_concurrent_sessions_use_the_database_without_mixing(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    await log_in(client)
    async with new_client() as stranger:
        pages = await asyncio.gather(
            *(who.get("/admin/") for _ in range(8) for who in (client, stranger))
        )
    assert [page.status_code for page in pages] == [200, 302] * 8
