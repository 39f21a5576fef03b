"""The WSGI applications that every server runs, and the bodies they are expected to answer.

Plain PEP 3333 with nothing imported but the standard library, so that what is measured is the
server. Imported by the harness (for the expected bodies) and by every server process. What needs a
framework is in `flask_app` and `django_app`.
"""

import os
import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO
from wsgiref.types import StartResponse, WSGIEnvironment

HELLO_BODY = b"Hello, world!\n"
JSON_BODY = b'{"message":"Hello, world!"}\n'

CHUNK = b"x" * (64 * 1024)
STREAM_CHUNKS = 160
FILE_CHUNKS = 1600
FILE_VARIABLE = "BENCHMARK_FILE"
"""Environment variable with the path of the file that `file` serves: `FILE_CHUNKS` chunks."""

SLEEP_SECONDS = 0.010

UPLOAD_BYTES = 1024 * 1024
READ_SIZE = 64 * 1024

BURN_PATH = "/burn"
BURN_STEPS = 2_000_000
"""Work of one CPU-bound request: some 200 ms on a processor core that does nothing else."""


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a short text of known length."""
    return _text(HELLO_BODY, start_response)


def sleep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Wait as for a database, then answer as `hello` does."""
    time.sleep(SLEEP_SECONDS)
    return _text(HELLO_BODY, start_response)


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Answer 10 MiB in 64 KiB chunks; no Content-Length, so the server frames the body."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    for _ in range(STREAM_CHUNKS):
        yield CHUNK


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a file of 100 MiB, by the server's `wsgi.file_wrapper` where it has one."""
    opened = open(os.environ[FILE_VARIABLE], "rb")  # noqa: SIM115 the wrapper closes it
    start_response(
        "200 OK",
        [
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(os.fstat(opened.fileno()).st_size)),
        ],
    )
    # PEP 3333 "Optional Platform-Specific File Handling".
    wrapped: Iterable[bytes] = environ.get("wsgi.file_wrapper", _pieces)(opened, len(CHUNK))
    return wrapped


def _pieces(opened: BinaryIO, size: int) -> Iterator[bytes]:
    """Do what `wsgiref.util.FileWrapper` does, which FastWSGI takes for a wrapper of its own."""
    with opened:
        while piece := opened.read(size):
            yield piece


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read the whole request body in 64 KiB pieces and answer how many bytes came."""
    body = environ["wsgi.input"]
    # PEP 3333 "Input and Error Streams": an application should not read past CONTENT_LENGTH.
    expected = int(environ.get("CONTENT_LENGTH") or 0)
    received = 0
    while received < expected:
        piece = body.read(min(READ_SIZE, expected - received))
        if not piece:
            break
        received += len(piece)
    return _text(b"%d\n" % received, start_response)


def burn() -> bytes:
    """Do the work of one CPU-bound request, which never waits and never leaves the interpreter."""
    number = 1
    for _ in range(BURN_STEPS):
        number = (number * 1103515245 + 12345) & 0x7FFFFFFF
    return b"%d\n" % number


def cpu(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Burn processor time for `BURN_PATH`; answer any other path as `hello` does."""
    return _text(burn() if environ["PATH_INFO"] == BURN_PATH else HELLO_BODY, start_response)


def _text(body: bytes, start_response: StartResponse) -> Iterable[bytes]:
    start_response(
        "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))],
    )
    return [body]
