"""The applications that WSGI tutorials teach, right ones and the usual mistakes.

Each is written as a beginner's page writes it: the shapes that PEP 3333 shows, the patterns of
the tutorials (form, cookie, router, middleware), and what people write when they forget that a
response body is an iterable of bytes.
"""

import html
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.util import FileWrapper, shift_path_info

PLAIN = [("Content-Type", "text/plain; charset=utf-8")]

# --- the shapes of PEP 3333 ----------------------------------------------------------------------


def function(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*PLAIN])
    return [b"Hello from a function\n"]


class AppClass:
    """The class is the application: calling it makes the iterable of one request."""

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self.environ = environ
        self.start = start_response

    def __iter__(self) -> Iterator[bytes]:
        self.start("200 OK", [*PLAIN])
        yield b"Hello from a class at "
        yield self.environ["PATH_INFO"].encode("latin-1")


class Instance:
    """An instance is the application: one object serves all requests."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        return [self.greeting.encode()]

    def method(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        return [self.greeting.upper().encode()]


instance = Instance("Hello from an instance")


def generator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """start_response is called late: not before the first iteration."""
    start_response("200 OK", [*PLAIN])
    for number in range(5):
        yield f"{number}\n".encode()


def writer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [*PLAIN])
    write(b"written, ")
    write(b"")
    write(b"written again, ")
    return [b"returned"]


def nothing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


def returning(make_body: Callable[[], Iterable[bytes]]) -> WSGIApplication:
    """Return an application whose body is what ``make_body`` returns."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        return make_body()

    return application


class ByIndex:
    """Iterable by the old protocol: ``__getitem__`` from 0 until IndexError."""

    def __getitem__(self, index: int) -> bytes:
        return (b"a", b"b", b"c")[index]


BODIES: dict[str, Callable[[], Any]] = {
    "list": lambda: [b"a", b"b", b"c"],
    "list of one": lambda: [b"abc"],
    "tuple": lambda: (b"a", b"bc"),
    "iterator": lambda: iter([b"a", b"b", b"c"]),
    "generator expression": lambda: (bytes([letter]) for letter in b"abc"),
    "map": lambda: map(str.encode, "abc"),
    "reversed": lambda: reversed([b"c", b"b", b"a"]),
    "dict": lambda: {b"a": 1, b"b": 2, b"c": 3},
    "empty pieces": lambda: [b"", b"a", b"", b"bc", b""],
    "file": lambda: io.BytesIO(b"abc"),
    "file wrapper": lambda: FileWrapper(io.BytesIO(b"abc"), 2),
    "iter with sentinel": lambda: iter(partial(io.BytesIO(b"abc").read, 2), b""),
    "old sequence": lambda: ByIndex(),
}

# --- what tutorials build ------------------------------------------------------------------------


def environment(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The environment dump that every tutorial begins with."""
    lines = [f"{key}: {value}" for key, value in sorted(environ.items())]
    body = "\n".join(lines).encode("utf-8")
    start_response("200 OK", [*PLAIN, ("Content-Length", str(len(body)))])
    return [body]


def form(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Show a form; greet who posted it."""
    if environ["REQUEST_METHOD"] == "POST":
        try:
            size = int(environ.get("CONTENT_LENGTH", 0))
        except ValueError:
            size = 0
        fields = parse_qs(environ["wsgi.input"].read(size).decode())
        name = html.escape(fields.get("name", ["nobody"])[0])
        hobbies = ", ".join(html.escape(hobby) for hobby in fields.get("hobby", []))
        page = f"<p>Hello {name}, you like: {hobbies or 'nothing'}</p>"
    else:
        page = '<form method="post"><input name="name"><input name="hobby"></form>'
    body = page.encode("utf-8")
    start_response(
        "200 OK",
        [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))],
    )
    return [body]


def cookies(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Count a visitor's visits in a cookie; set a second cookie in a field of its own."""
    jar = SimpleCookie(environ.get("HTTP_COOKIE", ""))
    visits = int(jar["visits"].value) + 1 if "visits" in jar else 1
    start_response(
        "200 OK", [*PLAIN, ("Set-Cookie", f"visits={visits}"), ("Set-Cookie", "seen=yes; Path=/")]
    )
    return [f"visit {visits}".encode()]


def errors(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The error handling example of PEP 3333: replace an answer that has not been sent."""
    try:
        start_response("200 Froody", [*PLAIN])
        raise LookupError("regular application code failed")
    except LookupError:
        start_response(
            "500 Oops", [("Content-Type", "text/html"), ("X-Why", "lookup")], sys.exc_info()
        )
        return [b"<p>the error page</p>"]


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Serve this very file by the server's wrapper, as PEP 3333 shows it."""
    source = open(__file__, "rb")  # noqa: SIM115 - closed by the wrapper's close()
    start_response("200 OK", [("Content-Type", "text/x-python")])
    if "wsgi.file_wrapper" in environ:
        return environ["wsgi.file_wrapper"](source, 4096)  # type: ignore[no-any-return]
    return FileWrapper(source, 4096)


def unicode_path(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Undo the latin-1 disguise of PEP 3333 ("Unicode Issues"), and put on one of its own."""
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8")
    start_response(
        "200 Grüße", [*PLAIN, ("X-Raw", "caf\xe9"), ("X-Path", path.encode().decode("latin-1"))]
    )
    return [path.encode("utf-8")]


class Clock:
    """A bare generator application that the test drives tick by tick.

    Before each tick it waits for the semaphore, but not as long as it has made less than ``free``.
    """

    def __init__(self) -> None:
        self.tick = threading.Semaphore(0)
        self.made = 0
        self.free = 0
        self.closed = threading.Event()
        self.patience = 10.0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN])
        try:
            while self.made < self.free or self.tick.acquire(timeout=self.patience):
                self.made += 1
                yield f"tick {self.made}\n".encode()
        finally:
            self.closed.set()


# --- middleware ----------------------------------------------------------------------------------


class Router:
    """Send a request to the application that is mounted at the first part of its path."""

    def __init__(self, mounts: dict[str, WSGIApplication]) -> None:
        self.mounts = mounts

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        application = self.mounts.get(shift_path_info(environ) or "")
        if application is None:
            start_response("404 Not Found", [*PLAIN])
            return [f"nothing at {environ['SCRIPT_NAME']}".encode()]
        return application(environ, start_response)


def where(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Say how the router split the path."""
    start_response("200 OK", [*PLAIN])
    return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]


class Upper:
    """Middleware that changes the body: the shape of the transformer in PEP 3333.

    The Content-Length of the inner application goes, the iterable is passed on piece by piece,
    its close() is passed on, and write() is changed too.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self.application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(
            status: str,
            headers: list[tuple[str, str]],
            exc_info: Any = None,
            /,
        ) -> Callable[[bytes], object]:
            kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
            write = start_response(status, kept, exc_info)
            return lambda data: write(data.upper())

        return UpperIterable(self.application(environ, start))


class UpperIterable:
    """The iterable of ``Upper``."""

    def __init__(self, inner: Iterable[bytes]) -> None:
        self.iterator = iter(inner)
        if hasattr(inner, "close"):
            self.close = inner.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self.iterator).upper()


def with_header(application: WSGIApplication, name: str, value: str) -> WSGIApplication:
    """Middleware as a decorator: add a field to every answer."""

    def wrapped(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(
            status: str, headers: list[tuple[str, str]], *exc_info: Any
        ) -> Callable[[bytes], object]:
            return start_response(status, [*headers, (name, value)], *exc_info)

        return application(environ, start)

    return wrapped


stacked = with_header(
    Upper(with_header(Router({"hello": function, "write": writer, "gen": generator}), "X-A", "1")),
    "X-B",
    "2",
)

# --- mistakes ------------------------------------------------------------------------------------


def returns_str(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    return str(environ)


def returns_list_of_str(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    return ["<h1>Hello</h1>"]


def yields_str(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    yield "Hello"


def yields_str_late(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    yield b"Hello"
    yield "world"


def yields_int(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    yield 42


def writes_str(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    write: Any = start_response("200 OK", [*PLAIN])
    write("Hello")
    return []


def returns_none(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])


def returns_int(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    return 200


def returns_bytes(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    return b"Hello"


def forgets_start_response(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    return [b"Hello"]


def forgets_start_response_and_body(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    return []


def starts_twice(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    start_response("404 Not Found", [*PLAIN])
    return [b"Hello"]


def bytes_header(environ: WSGIEnvironment, start_response: Any) -> Any:
    start_response("200 OK", [(b"Content-Type", b"text/plain")])
    return [b"Hello"]


def int_header(environ: WSGIEnvironment, start_response: Any) -> Any:
    start_response("200 OK", [*PLAIN, ("Content-Length", 5)])
    return [b"Hello"]


def dict_headers(environ: WSGIEnvironment, start_response: Any) -> Any:
    start_response("200 OK", {"Content-Type": "text/plain"})
    return [b"Hello"]


def bytes_status(environ: WSGIEnvironment, start_response: Any) -> Any:
    start_response(b"200 OK", [*PLAIN])
    return [b"Hello"]


def int_status(environ: WSGIEnvironment, start_response: Any) -> Any:
    start_response(200, [*PLAIN])
    return [b"Hello"]


async def _async_app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    start_response("200 OK", [*PLAIN])
    return [b"Hello"]


def async_app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """Be a middleware: without it, the mistake is told at the start."""
    return _async_app(environ, start_response)


class NotWSGI:
    """An instance with a mistake: it is named by its class."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [*PLAIN])
        return "Hello"


not_wsgi = NotWSGI()
