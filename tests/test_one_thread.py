"""``threads=1`` means one call at a time, and the environ tells the truth about it."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from conftest import StartServer
from raw_client import connect, eventually, on_each_loop, parts_of

import aiowsgi

# Fail-safe, in seconds.
TIMEOUT = 20.0
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"


class Counting:
    """An application that knows how many calls there are at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self.most = 0
        self.multithread: set[bool] = set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._lock:
            self._calls += 1
            self.most = max(self.most, self._calls)
        self.multithread.add(environ["wsgi.multithread"])
        try:
            size = len(environ["wsgi.input"].read())
        finally:
            with self._lock:
                self._calls -= 1
        start_response("200 OK", [("Content-Length", "5")])
        return [b"%05d" % (size % 100_000)]


@on_each_loop
@pytest.mark.parametrize("spare", [None, 1])
async def test_call_that_waits_for_its_client_is_alone_unless_spare_threads_are_asked_for(
    start_server: StartServer, spare: int | None
) -> None:
    app = Counting()
    server = await start_server(
        app, validate=False, threads=1, spare_threads=spare, body_prefetch=1000
    )
    async with await connect(server) as slow, await connect(server) as quick:
        await slow.send(UPLOAD + bytes(50_000))
        # Its thread has given up its place by then, for others to take.
        pool = parts_of(server).resources.pool
        await eventually(lambda: bool(pool._waiting_for_clients))  # type: ignore[attr-defined]
        await quick.send(GET)
        if spare is None:
            await eventually(lambda: server.inspect().queued == 1)
        else:
            assert (await quick.receive()).body == b"00000"
        await slow.send(bytes(50_000))
        # On a busy machine it may have had to make way for the other one.
        assert (await slow.receive()).status in (200, 408)
        if spare is None:
            assert (await quick.receive()).body == b"00000"
    assert app.most == (1 if spare is None else 2)
    assert app.multithread == {spare is not None}


@pytest.mark.parametrize(
    ("options", "multithread"),
    [
        ({"threads": 1}, False),
        ({"threads": 2}, True),
        ({"threads": 1, "spare_threads": 1}, True),
        ({"threads": 2, "spare_threads": 0}, True),
        # One that is given up still runs, and another one takes its place.
        ({"threads": 1, "timeout_request": 5.0}, True),
        ({"threads": 1, "timeout_request": 5.0, "max_lost_threads": 0}, False),
    ],
    ids=str,
)
async def test_environ_tells_whether_calls_may_run_at_the_same_time(
    start_server: StartServer, options: dict[str, Any], multithread: bool
) -> None:
    app = Counting()
    server = await start_server(app, validate=False, **options)
    async with await connect(server) as client:
        assert (await client.request(GET)).status == 200
    assert app.multithread == {multithread}


class Silent(Executor):
    """Says nothing of how many threads it has."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._executor.shutdown(wait, cancel_futures=cancel_futures)


@pytest.fixture
def executors() -> Iterator[dict[str, Executor]]:
    executors: dict[str, Executor] = {
        "one": ThreadPoolExecutor(1),
        "two": ThreadPoolExecutor(2),
        "silent": Silent(),
        "pool of one": aiowsgi.ThreadPool(1),
        "pool of two": aiowsgi.ThreadPool(2),
        "pool of one and a spare": aiowsgi.ThreadPool(1, spare_threads=1),
    }
    yield executors
    for executor in executors.values():
        executor.shutdown()


@pytest.mark.parametrize(
    ("name", "multithread"),
    [
        ("one", False),
        ("two", True),
        ("silent", True),
        ("pool of one", False),
        ("pool of two", True),
        ("pool of one and a spare", True),
    ],
)
async def test_environ_tells_the_same_of_other_executors(
    start_server: StartServer, executors: dict[str, Executor], name: str, multithread: bool
) -> None:
    app = Counting()
    server = await start_server(app, validate=False, executor=executors[name])
    async with await connect(server) as client:
        assert (await client.request(GET)).status == 200
    assert app.multithread == {multithread}
