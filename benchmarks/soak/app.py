"""The application that is soaked: plain PEP 3333, one path for each thing a response can do.

Imported by the server, and by the traffic for what it is to expect. Whatever fails here fails on
purpose and raises `Deliberate`, so that any other traceback in the log of the server is a finding.
"""

import ctypes
import gc
import hashlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import parse_qsl
from wsgiref.types import StartResponse, WSGIEnvironment

MAX_SIZE = 4 * 1024 * 1024
HELLO = b"Hello, soak!\n"
IGNORED = b"ignored\n"
SLEPT = b"slept\n"

_READ_SIZE = 64 * 1024
# 251 is prime, so that a block of any usual size that is lost, doubled or moved shows.
_PATTERN = (bytes(range(251)) * (MAX_SIZE // 251 + 1))[:MAX_SIZE]

# Without a name, so that nothing is left behind; each request opens it anew through its descriptor.
_file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
_file.write(_PATTERN)
_file.flush()

Query = dict[str, str]


class _HeapInfo(ctypes.Structure):
    """`struct mallinfo2` of the C library, which sums up all its heaps."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    )


class Deliberate(Exception):
    """Raised where the traffic asks for a failure."""


def pattern(size: int) -> bytes:
    """Return the bytes that a body of this size consists of."""
    return _PATTERN[:size]


def digest(body: bytes) -> bytes:
    """Return what an upload of `body` is answered with."""
    return b"%d %s\n" % (len(body), hashlib.sha256(body).hexdigest().encode())


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer by the path; the query has the sizes."""
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    handler = _HANDLERS.get(environ["PATH_INFO"])
    if handler is None:
        return _text(start_response, b"not found\n", "404 Not Found")
    return handler(environ, start_response, query)


def _text(start_response: StartResponse, body: bytes, status: str = "200 OK") -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _hello(
    environ: WSGIEnvironment, start_response: StartResponse, query: Query
) -> Iterable[bytes]:
    return _text(start_response, HELLO)


def _big(environ: WSGIEnvironment, start_response: StartResponse, query: Query) -> Iterable[bytes]:
    """Answer with `size` bytes in one piece."""
    return _text(start_response, pattern(int(query["size"])))


def _stream(
    environ: WSGIEnvironment, start_response: StartResponse, query: Query
) -> Iterator[bytes]:
    """Answer with `size` bytes in pieces of `piece`, the length not declared."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    body = memoryview(pattern(int(query["size"])))
    piece = int(query["piece"])
    for start in range(0, len(body), piece):
        yield bytes(body[start : start + piece])


def _download(
    environ: WSGIEnvironment, start_response: StartResponse, query: Query
) -> Iterable[bytes]:
    """Answer with a file from `start` to its end, by the server's own means."""
    start = int(query["start"])
    file = open(f"/proc/self/fd/{_file.fileno()}", "rb")  # noqa: SIM115 - the server closes it
    file.seek(start)
    start_response("200 OK", [("Content-Length", str(MAX_SIZE - start))])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
    return wrapped


def _digest(
    environ: WSGIEnvironment, start_response: StartResponse, query: Query
) -> Iterable[bytes]:
    """Read the whole body, to its end and not to its declared length, and say what it was."""
    body = environ["wsgi.input"]
    received = hashlib.sha256()
    length = 0
    while piece := body.read(_READ_SIZE):
        received.update(piece)
        length += len(piece)
    return _text(start_response, b"%d %s\n" % (length, received.hexdigest().encode()))


def _ignore(
    environ: WSGIEnvironment, start_response: StartResponse, query: Query
) -> Iterable[bytes]:
    """Answer without reading the body."""
    return _text(start_response, IGNORED)


def _sleep(
    environ: WSGIEnvironment, start_response: StartResponse, query: Query
) -> Iterable[bytes]:
    """Hold a thread for `ms`."""
    time.sleep(int(query["ms"]) / 1000)
    return _text(start_response, SLEPT)


def _fail(environ: WSGIEnvironment, start_response: StartResponse, query: Query) -> Iterable[bytes]:
    """Fail before anything was sent."""
    raise Deliberate("before the response")


def _fail_late(
    environ: WSGIEnvironment, start_response: StartResponse, query: Query
) -> Iterator[bytes]:
    """Fail behind a part of the body."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    for number in itertools.count():
        if number == 3:
            raise Deliberate("inside the response")
        yield pattern(_READ_SIZE)


def _memory(
    environ: WSGIEnvironment, start_response: StartResponse, query: Query
) -> Iterable[bytes]:
    """Say what is in use: unlike resident memory, without what the allocators keep for later."""
    gc.collect()
    in_use = {"objects": len(gc.get_objects()), "blocks": sys.getallocatedblocks()}
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is not None:  # It is glibc 2.33 or newer.
        mallinfo2.restype = _HeapInfo
        info = mallinfo2()
        in_use["heap"] = info.uordblks + info.hblkhd
    return _text(start_response, json.dumps(in_use).encode())


_HANDLERS: dict[str, Callable[[WSGIEnvironment, StartResponse, Query], Iterable[bytes]]] = {
    "/hello": _hello,
    "/big": _big,
    "/stream": _stream,
    "/file": _download,
    "/digest": _digest,
    "/ignore": _ignore,
    "/sleep": _sleep,
    "/memory": _memory,
    "/fail": _fail,
    "/fail-late": _fail_late,
}
