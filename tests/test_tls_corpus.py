"""The requests of tests/corpus get the same answers over TLS as they get without."""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from certificates import Certificates
from corpus_files import Case, load_corpus
from extent import sampled
from raw_client import (
    NewLoop,
    RawClient,
    be_patient,
    connect,
    loop_factories,
    watched_loop,
)
from tls_client import LikeRawClient

import aiowsgi

# What has another meaning over TLS: what is no HTTP but TLS itself, and that a target is https.
_OTHERWISE = ("garbage/tls-client-hello", "target/absolute-form-https")
CASES = [case for case in load_corpus() if case.name not in _OTHERWISE]
GROUP = 23
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
# What depends on the time, and on whether the client's end has arrived when an answer begins.
_VARYING = re.compile(
    rb"(?:Date: [^\r]*|Connection: (?:close|keep-alive))\r\n|HTTP/1\.1 100 Continue\r\n\r\n"
)

each_loop = pytest.mark.parametrize("new_loop", loop_factories())


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer what the request has come to, but for what says how it has come."""
    body = environ["wsgi.input"].read()
    said = {
        name: value
        for name, value in environ.items()
        if isinstance(value, str)
        and name.isupper()
        and name not in {"REMOTE_PORT", "SERVER_PORT", "HTTPS"}
        and not name.startswith("SSL_")
    }
    # A digest, in which nothing looks like a response.
    text = json.dumps([said, hashlib.sha256(body).hexdigest()], sort_keys=True)
    answer = hashlib.sha256(text.encode()).hexdigest().encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "64")])
    return [answer]


async def answers_to(client: RawClient, pieces: Iterable[bytes]) -> bytes:
    """Return everything that the server says to the bytes of a client that half-closes."""
    async with client:
        # It may have ended the connection before the end of what it refuses.
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                await client.send(piece)
            client.half_close()
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await client.read(1 << 16):
                received += data
    return _VARYING.sub(b"", bytes(received))


def whole(data: bytes) -> list[bytes]:
    return [data]


def by_seven(data: bytes) -> Iterator[bytes]:
    """Split into tiny pieces: over TLS, each is a record."""
    step = max(7, len(data) // 200)
    return (data[start : start + step] for start in range(0, len(data), step))


def expected_statuses(case: Case) -> list[int]:
    """Return the statuses of all responses but interim ones."""
    statuses = [200 for request in case.requests if request.complete]
    if case.end != "idle":
        statuses.append(case.status or 400)
    return statuses


async def check(cases: Sequence[Case], certificates: Certificates) -> None:
    options: dict[str, Any] = {
        f"limit_{'' if name == 'request_line' else 'request_'}{name}": value
        for name, value in cases[0].limits.items()
    }
    config = aiowsgi.Config(**options, access_log=False, threads=2)
    async with (
        aiowsgi.serve(echo, "127.0.0.1", 0, config=config) as plain,
        aiowsgi.serve(
            echo, "127.0.0.1", 0, config=config, ssl=certificates.server_context()
        ) as secure,
    ):
        be_patient(plain)
        be_patient(secure)
        context = certificates.client_context()
        for case in cases:
            expected = await answers_to(await connect(plain), whole(case.data))
            for split in (whole, by_seven):
                client = LikeRawClient(await connect(secure), context, "localhost")
                await client.handshake()
                answers = await answers_to(client, split(case.data))
                assert answers == expected, case.name
                statuses = [int(status) for status in _STATUS.findall(answers)]
                assert statuses == expected_statuses(case), case.name


def _groups() -> list[list[Case]]:
    """Return the cases in groups: those with the same limits, so many at a time."""
    by_limits: dict[str, list[Case]] = {}
    for case in CASES:
        by_limits.setdefault(repr(case.limits), []).append(case)
    return [
        cases[start : start + GROUP]
        for cases in by_limits.values()
        for start in range(0, len(cases), GROUP)
    ]


@each_loop
@pytest.mark.parametrize("cases", sampled(_groups(), one_in=10), ids=lambda cases: cases[0].name)
def test_requests_get_the_same_answers_over_tls(
    new_loop: NewLoop, cases: list[Case], certificates: Certificates
) -> None:
    async def run() -> None:
        async with watched_loop():
            await check(cases, certificates)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
