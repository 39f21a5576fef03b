"""Bodies of pipelined requests arrive whole, whatever the sizes of their pieces. In memory."""

import hashlib
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from http_streams import cut_lists, properties, split
from hypothesis import given
from hypothesis import strategies as st
from memory import MemoryConnection

from aiowsgi.bridge import pieces as pieces_module
from aiowsgi.wsgi import input as input_module


def description(body: bytes) -> bytes:
    return b"%d %s\n" % (len(body), hashlib.sha256(body).hexdigest().encode())


def describe_body(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    answer = description(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


@properties
@given(
    bodies=st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), min_size=1, max_size=3),
    cuts=cut_lists,
    prefetch=st.integers(1, 80),
)
def test_every_body_is_whole_however_it_arrives(
    bodies: list[tuple[bool, bytes]], cuts: list[int], prefetch: int
) -> None:
    sent = b""
    for is_chunked, body in bodies:
        sent += b"POST / HTTP/1.1\r\nHost: a\r\n"
        if is_chunked:
            sent += b"Transfer-Encoding: chunked\r\n\r\n"
            sent += b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            sent += b"0\r\n\r\n"
        else:
            sent += b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    with pytest.MonkeyPatch.context() as patch:
        # As if a few bytes were many.
        patch.setattr(pieces_module, "_SMALL", 4)
        patch.setattr(input_module, "_BUFFER_SIZE", 8)
        connection = MemoryConnection(describe_body, body_prefetch=prefetch)
        timers, jobs = connection.timers, connection.pool.jobs

        def answers() -> list[bytes]:
            while jobs:
                connection.start_job()
            responses = connection.sent.split(b"HTTP/1.1 ")[1:]
            return [response.partition(b"\r\n\r\n")[2] for response in responses]

        for piece in split(sent, cuts):
            # A thread may have to read first what has come before.
            timers.run_until(lambda: answers() is not None and connection.wire.reading)
            connection.receive(piece)
        timers.run_until(lambda: b"".join(answers()).count(b"\n") == len(bodies))
    assert answers() == [description(body) for _, body in bodies]
