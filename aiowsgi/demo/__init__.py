"""A page that shows in a browser that the server works, and a first thing to serve.

An ordinary WSGI application: standard library only, nothing imported from the rest of aiowsgi, so
that any WSGI server can serve it. Every function here runs on a pool thread and may block.

    /           the page (``page.html``): the environ, the clock, the upload, the links
    /docs/NAME  a page of the documentation, as it is written
    /clock      a stream of one line a tick; ``?ticks=60&interval=1``
    /upload     POST anything; answers with its size and SHA-256 as JSON
    /slow       answers late; ``?seconds=2``
    /error      raises on purpose, to show the server's 500 and the log
"""

import hashlib
import html
import inspect
import json
import math
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, quote
from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["application"]

MAX_TICKS = 300
# Seconds. A generator learns that its client has left when it yields. So a thread may be occupied
# for an interval longer than the client is there.
MAX_INTERVAL = 1.0
# Seconds. While a stream waits for its next tick, it checks this often whether the server stops.
STOP_INTERVAL = 0.1
MAX_SLOW_SECONDS = 10.0
UPLOAD_PIECE = 64 * 1024

# The package that this is a part of, and therefore already imported.
_PACKAGE = __name__.partition(".")[0]
_PAGE = Template(Path(__file__).with_name("page.html").read_text("utf-8"))

# A wheel has the documentation beside this module; in a checkout it is at the root.
_DOCS = Path(__file__).with_name("docs")
if not _DOCS.is_dir():
    _DOCS = Path(__file__).parents[2] / "docs"
# The pages for people who serve their own application, in the order of the list.
_GUIDES = {
    f"/docs/{path.name}": path
    for name in ("running", "options", "deploy", "applications", "embedding")
    if (path := _DOCS / f"{name}.md").is_file()
}

# They are listed, because some servers copy the environment of the process into the environ, and
# that may hold secrets.
_REQUEST_KEYS = (
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "REQUEST_URI",
    "RAW_URI",
    "SERVER_PROTOCOL",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_SOFTWARE",
    "REMOTE_ADDR",
    "REMOTE_PORT",
)


@dataclass(frozen=True, slots=True)
class _Response:
    """The response of a handler. A body of bytes gets a Content-Length; a stream has none."""

    body: bytes | Iterator[bytes]
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()


class _BadQueryError(ValueError):
    """A query parameter that is not a number."""


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request of the demo."""
    response = _respond(environ)
    headers = [
        ("Content-Type", response.content_type),
        ("Cache-Control", "no-store"),
        # Without it browsers hold back the start of a text stream to guess its type.
        ("X-Content-Type-Options", "nosniff"),
        *response.headers,
    ]
    body: Iterable[bytes]
    if isinstance(response.body, bytes):
        headers.append(("Content-Length", str(len(response.body))))
        body = [response.body]
    else:
        body = response.body
    start_response(f"{response.status.value} {response.status.phrase}", headers)
    # RFC 9110 section 9.3.2: the fields of a GET, and no content. The stream is never started.
    return [] if environ["REQUEST_METHOD"] == "HEAD" else body


def _respond(environ: WSGIEnvironment) -> _Response:
    # An application mounted at /demo is asked for "" when the browser is at /demo.
    path = environ.get("PATH_INFO") or "/"
    route = _ROUTES.get(path)
    if route is None:
        return _Response(b"There is nothing here. The demo is at /\n", status=HTTPStatus.NOT_FOUND)
    methods, handler = route
    if environ["REQUEST_METHOD"] not in methods:
        allow = ", ".join(methods)
        return _Response(
            f"{path} answers {allow}\n".encode(),
            status=HTTPStatus.METHOD_NOT_ALLOWED,
            headers=(("Allow", allow),),
        )
    try:
        return handler(environ)
    except _BadQueryError as error:
        return _Response(f"{error}\n".encode(), status=HTTPStatus.BAD_REQUEST)


def _page(environ: WSGIEnvironment) -> _Response:
    nonce = secrets.token_urlsafe(16)
    client = environ.get("REMOTE_ADDR") or "a local socket"
    if port := environ.get("REMOTE_PORT"):
        client = f"{client} port {port}"
    base = html.escape(quote(environ.get("SCRIPT_NAME", "").encode("latin-1")))
    page = _PAGE.substitute(
        nonce=nonce,
        base=base,
        server=html.escape(environ.get("SERVER_SOFTWARE") or "a server without a name"),
        protocol=html.escape(environ["SERVER_PROTOCOL"]),
        method=html.escape(environ["REQUEST_METHOD"]),
        client=html.escape(client),
        thread=html.escape(_thread_name()),
        version=sys.modules[_PACKAGE].__version__,
        guides="\n".join(_guide_links(base)),
        tables="\n".join(_table(title, rows) for title, rows in _environ_groups(environ)),
    )
    # The page loads nothing from other servers. With this header the browser enforces that.
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'"
    )
    return _Response(
        page.encode(),
        content_type="text/html; charset=utf-8",
        headers=(("Content-Security-Policy", policy),),
    )


def _guide_links(base: str) -> Iterator[str]:
    for address, path in _GUIDES.items():
        with path.open(encoding="utf-8") as page:
            title = page.readline().removeprefix("# ").strip()
        yield f'<li><a href="{base}{address}">{html.escape(title)}</a></li>'


def _guide(environ: WSGIEnvironment) -> _Response:
    return _Response(_GUIDES[environ["PATH_INFO"]].read_bytes())


def _clock(environ: WSGIEnvironment) -> _Response:
    ticks = int(_number(environ, "ticks", default=60, low=1, high=MAX_TICKS))
    interval = _number(environ, "interval", default=1.0, low=0.0, high=MAX_INTERVAL)
    # Other servers have no such key.
    stopping = environ.get("aiowsgi.stopping", lambda: False)
    return _Response(_tick_lines(ticks, interval, stopping))


def _tick_lines(ticks: int, interval: float, stopping: Callable[[], bool]) -> Iterator[bytes]:
    """Yield one line a tick: its number, the time, and the thread that sends it.

    Ends earlier when the server stops, and when the server closes it, which it does when the client
    goes away.
    """
    start = time.monotonic()
    for tick in range(1, ticks + 1):
        # Counted from the start, so that the time that sending takes does not add up.
        due = start + (tick - 1) * interval
        while not stopping() and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, STOP_INTERVAL))
        if stopping():
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        yield f"{tick}/{ticks} {now}Z {_thread_name()}\n".encode()


def _upload(environ: WSGIEnvironment) -> _Response:
    digest = hashlib.sha256()
    size = reads = 0
    start = time.monotonic()
    for piece in _body_pieces(environ):
        digest.update(piece)
        size += len(piece)
        reads += 1
    report = {
        "bytes": size,
        "sha256": digest.hexdigest(),
        "reads": reads,
        "seconds": round(time.monotonic() - start, 3),
        "thread": _thread_name(),
    }
    return _Response(f"{json.dumps(report)}\n".encode(), content_type="application/json")


def _body_pieces(environ: WSGIEnvironment) -> Iterator[bytes]:
    """Yield the request body in pieces, so that an upload of any size costs one piece of memory."""
    stream = environ["wsgi.input"]
    # PEP 3333 lets a server block when more is read than was sent, unless it says that its input
    # ends by itself. That is also the only way to read a chunked body, which has no length.
    terminated = environ.get("wsgi.input_terminated", False)
    left = sys.maxsize if terminated else int(environ.get("CONTENT_LENGTH") or 0)
    while left and (piece := stream.read(min(UPLOAD_PIECE, left))):
        left -= len(piece)
        yield piece


def _slow(environ: WSGIEnvironment) -> _Response:
    seconds = _number(environ, "seconds", default=2.0, low=0.0, high=MAX_SLOW_SECONDS)
    time.sleep(seconds)
    return _Response(f"Thread {_thread_name()} slept {seconds:g} s.\n".encode())


def _error(environ: WSGIEnvironment) -> _Response:
    raise RuntimeError("the demo raises this on purpose")


def _number(
    environ: WSGIEnvironment, name: str, *, default: float, low: float, high: float
) -> float:
    """Return a query parameter as a number, moved into the limits.

    Raises _BadQueryError when it is not a finite number.
    """
    values = parse_qs(environ.get("QUERY_STRING", "")).get(name)
    if values is None:
        return default
    try:
        number = float(values[-1])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _BadQueryError(f"{name} must be a number from {low:g} to {high:g}")
    return min(max(number, low), high)


def _environ_groups(environ: WSGIEnvironment) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    headers = sorted(
        key
        for key in environ
        if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
    )
    request = [key for key in _REQUEST_KEYS if key in environ]
    # PEP 3333: keys that a server or a middleware adds have a dot in their name.
    dotted = sorted(key for key in environ if "." in key)
    for title, keys in (("Request headers", headers), ("Request", request), ("WSGI", dotted)):
        yield title, [(key, _show(environ[key])) for key in keys]


def _show(value: object) -> str:
    """Return a value of the environ as text for people. An object is shown by its type."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float | tuple):
        return repr(value)
    if inspect.isroutine(value):
        return "a function"
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    lines = "\n".join(
        f'<tr><th scope="row">{html.escape(key)}</th>'
        f"<td>{html.escape(value) or '<i>empty</i>'}</td></tr>"
        for key, value in rows
    )
    return f"<table><caption>{title}</caption><tbody>\n{lines}\n</tbody></table>"


def _thread_name() -> str:
    return threading.current_thread().name


_READ = ("GET", "HEAD")
_ROUTES: dict[str, tuple[tuple[str, ...], Callable[[WSGIEnvironment], _Response]]] = {
    "/": (_READ, _page),
    "/clock": (_READ, _clock),
    "/upload": (("POST",), _upload),
    "/slow": (_READ, _slow),
    "/error": (_READ, _error),
    **dict.fromkeys(_GUIDES, (_READ, _guide)),
}
