"""The WSGI applications that every server runs, and the bodies they are expected to answer.

Plain PEP 3333 with nothing imported but the standard library, so that what is measured is the
server. Imported by the harness (for the expected bodies) and by every server process.
"""

from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

HELLO_BODY = b"Hello, world!\n"

STREAM_CHUNK = b"x" * (64 * 1024)
STREAM_CHUNKS = 160
STREAM_BYTES = STREAM_CHUNKS * len(STREAM_CHUNK)

READ_SIZE = 64 * 1024

BURN_PATH = "/burn"
BURN_STEPS = 2_000_000
"""Work of one CPU-bound request: some 200 ms on a processor core that does nothing else."""


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a short text of known length."""
    start_response(
        "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO_BODY)))],
    )
    return [HELLO_BODY]


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Answer 10 MiB in 64 KiB chunks; no Content-Length, so the server frames the body."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    for _ in range(STREAM_CHUNKS):
        yield STREAM_CHUNK


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
    answer = b"%d\n" % received
    start_response(
        "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))],
    )
    return [answer]


def burn() -> bytes:
    """Do the work of one CPU-bound request, which never waits and never leaves the interpreter."""
    number = 1
    for _ in range(BURN_STEPS):
        number = (number * 1103515245 + 12345) & 0x7FFFFFFF
    return b"%d\n" % number


def cpu(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Burn processor time for `BURN_PATH`; answer any other path as `hello` does."""
    if environ["PATH_INFO"] != BURN_PATH:
        return hello(environ, start_response)
    answer = burn()
    start_response(
        "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))],
    )
    return [answer]
