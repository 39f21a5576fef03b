"""Threads that keep their place in the queue for the interpreter, while others compute."""

import asyncio
import contextlib
import ctypes
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from conftest import StartServer
from raw_client import RawClient, connect, eventually, on_each_loop

import aiowsgi
from aiowsgi.bridge.pool import scheduling as turns
from aiowsgi.bridge.pool.executor import ThreadPool
from aiowsgi.bridge.pool.job_pool import JobPool
from aiowsgi.bridge.pool.jobs import Started
from aiowsgi.bridge.pool.scheduling import find_patience
from aiowsgi.config import Config
from aiowsgi.server.serving import Serving

PATIENCE = find_patience()
pytestmark = pytest.mark.skipif(
    PATIENCE is None, reason="only Linux and the global interpreter lock know patience"
)
# Fail-safe, in seconds.
TIMEOUT = 20.0
GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"
# Prints how late it may be woken itself, in nanoseconds.
TELL_SLACK = "import ctypes; print(ctypes.CDLL(None).prctl(30, 0, 0, 0, 0))"


def slack() -> int:
    found: int = ctypes.CDLL(None).prctl(30, 0, 0, 0, 0)
    return found


USUAL = slack()


def is_patient() -> bool:
    found = slack()
    assert found in (USUAL, turns._LATE)
    return found == turns._LATE


def slack_of_a_process() -> int:
    ran = subprocess.run([sys.executable, "-c", TELL_SLACK], stdout=subprocess.PIPE, check=True)
    return int(ran.stdout)


def slack_of_a_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(slack()))
    thread.start()
    thread.join(TIMEOUT)
    return seen[0]


@pytest.fixture
def patience() -> Iterator[turns.Patience]:
    """What a process of our own would have. The loop thread is as before at the end of the test."""
    assert PATIENCE is not None
    yield PATIENCE
    left_behind = is_patient()
    PATIENCE.end()
    assert not left_behind


def test_patience_is_the_calling_thread_s_own(patience: turns.Patience) -> None:
    seen: list[bool] = []
    patience.begin()
    try:
        assert is_patient()

        def look() -> None:
            # A thread begins like the one that has started it.
            patience.end()
            seen.append(is_patient())

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(TIMEOUT)
        assert is_patient()
    finally:
        patience.end()
    assert not is_patient()
    assert seen == [False]


def test_patience_ends_as_the_process_was_told_to_be() -> None:
    assert PATIENCE is not None
    told = turns.Patience(PATIENCE._prctl, 70_000)
    told.begin()
    told.end()
    try:
        assert slack() == 70_000
    finally:
        PATIENCE.end()


def test_looking_for_patience_changes_nothing() -> None:
    before = slack()
    assert find_patience() is not None
    assert slack() == before


def test_real_time_thread_knows_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns.libc, "find", lambda *asked: lambda *arguments: 0)
    assert find_patience() is None


def test_interpreter_that_cannot_call_prctl_knows_no_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns.libc, "find", lambda *asked: None)
    assert find_patience() is None


def test_clock_of_a_thread_counts_what_it_computes() -> None:
    number = threading.get_native_id()
    before = turns._cpu_time(number)
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
    assert 0.02 <= turns._cpu_time(number) - before < TIMEOUT


def test_thread_that_has_ended_computes_nothing() -> None:
    """No thread has a number as high as this (proc(5), pid_max)."""
    assert turns._cpu_time((1 << 22) + 1) == 0.0


class Threads:
    """Some threads, and how long each has computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.started = [Started(f"thread-{n}", n, 10.0, n) for n in range(number)]
        self.seconds = [100.0] * number
        monkeypatch.setattr(turns, "_cpu_time", lambda number: self.seconds[number])


@pytest.mark.parametrize(
    ("shares", "computing"),
    [
        ([0.0, 0.0], False),
        ([1.0, 0.0], False),
        ([0.5, 0.5], True),
        ([0.06] * 16, True),
        ([0.9, 0.02, 0.02], False),
    ],
)
def test_several_jobs_that_compute_are_a_crowd(
    monkeypatch: pytest.MonkeyPatch, shares: list[float], computing: bool
) -> None:
    threads = Threads(monkeypatch, len(shares))
    crowd = turns.Crowd()
    crowd.look(threads.started, 1000.0)
    assert not crowd.computing, "nothing is known yet"
    threads.seconds = [100.0 + share for share in shares]
    crowd.look(threads.started, 1001.0)
    assert crowd.computing is computing


def test_job_counts_from_the_look_that_has_seen_it_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch, 2)
    crowd = turns.Crowd()
    crowd.look(threads.started, 1000.0)
    threads.seconds = [101.0, 101.0]
    # The same threads, with other jobs.
    crowd.look([started._replace(at=1000.5) for started in threads.started], 1001.0)
    assert not crowd.computing


def test_crowd_that_has_gone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch, 2)
    crowd = turns.Crowd()
    crowd.look(threads.started, 1000.0)
    threads.seconds = [101.0, 101.0]
    crowd.look(threads.started, 1001.0)
    assert crowd.computing
    crowd.look([], 1002.0)
    assert not crowd.computing


def test_looks_are_rare() -> None:
    crowd = turns.Crowd()
    assert crowd.is_due(1000.0)
    crowd.look([], 1000.0)
    assert not crowd.is_due(1000.01)
    assert crowd.is_due(1000.1)


class Burners:
    """An application that computes until it is told to stop; its other paths look at slacks."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        # Of the threads that run the application, and of those and the processes that they start.
        self.seen: list[int] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/burn":
                self.burn()
            case "/children":
                self.seen += slack_of_a_thread(), slack_of_a_process()
            case "/coroutine":
                self.seen += aiowsgi.run_coroutine(self.start_children())
        self.seen.append(slack())
        start_response("200 OK", [("Content-Length", "0")])
        return []

    def burn(self) -> None:
        end = time.monotonic() + TIMEOUT
        while not self.stop.is_set():
            assert time.monotonic() < end, "nobody stops it"

    async def start_children(self) -> list[int]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", TELL_SLACK, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        return [slack(), await asyncio.to_thread(slack), int(output)]


@pytest.fixture
def burners() -> Iterator[Burners]:
    burners = Burners()
    yield burners
    burners.stop.set()


@contextlib.asynccontextmanager
async def burning(
    burners: Burners, patience: turns.Patience | None, **options: Any
) -> AsyncIterator[tuple[aiowsgi.Server, RawClient]]:
    """A server, two of whose threads compute, and a client that may ask for more."""
    config = Config(bind=("127.0.0.1:0",), threads=4, **options)
    async with (
        Serving(burners, config, None, None, patience) as server,
        await connect(server) as one,
        await connect(server) as two,
        await connect(server) as client,
    ):
        await one.send(GET % b"burn")
        await two.send(GET % b"burn")
        await eventually(
            lambda: [info.phase for info in server.inspect().requests] == ["running"] * 2
        )
        yield server, client
        burners.stop.set()


async def ask(client: RawClient, path: bytes = b"fast") -> None:
    await client.send(GET % path)
    assert (await client.receive()).status == 200


async def become_patient(client: RawClient) -> None:
    end = time.monotonic() + TIMEOUT
    while not is_patient():
        assert time.monotonic() < end, "the loop thread does not become patient"
        await ask(client)


@on_each_loop
async def test_loop_thread_is_patient_while_jobs_compute(
    start_server: StartServer, burners: Burners, patience: turns.Patience
) -> None:
    async with burning(burners, patience) as (_, client):
        await become_patient(client)
        burners.stop.set()
        await eventually(lambda: not is_patient())
    # A thread with a job is like all others.
    assert set(burners.seen) == {USUAL}


@on_each_loop
async def test_embedded_server_changes_no_thread(
    start_server: StartServer, burners: Burners
) -> None:
    """What the program around it starts meanwhile would be late for ever."""
    async with burning(burners, None) as (server, client):
        pool = server._site.pool
        assert isinstance(pool, JobPool)
        end = time.monotonic() + 5 * turns._INTERVAL
        while time.monotonic() < end:
            await ask(client)
            assert not pool.crowded
            assert slack() == USUAL
        assert await asyncio.to_thread(slack) == USUAL
        await ask(client, b"children")
    assert set(burners.seen) == {USUAL}


async def test_what_a_request_starts_is_not_patient(
    burners: Burners, patience: turns.Patience
) -> None:
    async with burning(burners, patience) as (_, client):
        await become_patient(client)
        await ask(client, b"children")
    assert set(burners.seen) == {USUAL}


@on_each_loop
async def test_what_a_coroutine_starts_is_not_patient(
    start_server: StartServer, burners: Burners, patience: turns.Patience
) -> None:
    async with burning(burners, patience) as (_, client):
        await become_patient(client)
        await ask(client, b"coroutine")
        assert set(burners.seen) == {USUAL}
        # It may have left anything behind on the loop thread.
        for _ in range(10):
            await ask(client)
            assert not is_patient()


@on_each_loop
async def test_server_that_stops_leaves_no_patience_behind(
    start_server: StartServer, burners: Burners, patience: turns.Patience
) -> None:
    async with burning(burners, patience, timeout_graceful=0.1) as (server, client):
        await become_patient(client)
        server.close()
        # Nor to what a signal handler of the application starts now.
        assert not is_patient()
        await server.wait_closed()
        assert not is_patient()


def test_idle_thread_is_patient_while_jobs_compute(burners: Burners) -> None:
    idle: dict[int, bool] = {}

    def prctl(option: int, value: int, *more: int) -> int:
        idle[threading.get_ident()] = value == turns._LATE
        return 0

    pool = ThreadPool(3, patience=turns.Patience(prctl, USUAL))
    try:
        for _ in range(2):
            pool.start(burners.burn)
        end = time.monotonic() + TIMEOUT
        ran: list[int] = []
        while True not in idle.values():
            assert time.monotonic() < end, "no thread becomes patient"
            pool.submit(lambda: ran.append(threading.get_ident())).result(TIMEOUT)
            pool.wake()
        assert [ident for ident, patient in idle.items() if patient] == [ran[-1]]
        seen: list[bool] = []
        pool.submit(lambda: seen.append(idle[threading.get_ident()])).result(TIMEOUT)
        assert seen == [False], "it is patient with a job"
    finally:
        burners.stop.set()
        pool.shutdown()


def test_thread_that_a_patient_one_starts_is_as_usual(patience: turns.Patience) -> None:
    pool = ThreadPool(1, patience=patience)
    patience.begin()
    try:
        seen = pool.submit(slack).result(TIMEOUT)
    finally:
        patience.end()
        pool.shutdown()
    assert seen == USUAL
