"""Threads that keep their place in the queue for the interpreter, while others compute."""

import ctypes
import threading
import time
from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from conftest import StartServer
from raw_client import connect, eventually, on_each_loop

from aiowsgi.bridge import turns
from aiowsgi.bridge.jobs import Started
from aiowsgi.bridge.pool import ThreadPool

pytestmark = pytest.mark.skipif(
    not turns._USUAL, reason="only Linux and the global interpreter lock know patience"
)
# Fail-safe, in seconds.
TIMEOUT = 20.0
GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"


def slack() -> int:
    found: int = ctypes.CDLL(None).prctl(30, 0, 0, 0, 0)
    return found


def is_patient() -> bool:
    found = slack()
    assert found in (turns._USUAL, turns._PUNCTUAL, turns._PATIENCE)
    return found == turns._PATIENCE


def test_patience_is_the_calling_thread_s_own() -> None:
    seen: list[bool] = []
    turns.be_patient(True)
    try:
        assert is_patient()

        def look() -> None:
            # A thread begins like the one that has started it.
            turns.be_patient(False)
            seen.append(is_patient())

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(TIMEOUT)
        assert is_patient()
    finally:
        turns.be_patient(False)
    assert not is_patient()
    assert seen == [False]


@pytest.mark.parametrize(
    ("usual", "expected"), [(turns._DEFAULT, turns._PUNCTUAL), (70_000, 70_000), (500, 500)]
)
def test_job_is_woken_on_time_unless_the_process_was_told_to_be_late(
    usual: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_USUAL", usual)
    pool = ThreadPool(1)
    try:
        assert pool.submit(slack).result(TIMEOUT) == expected
    finally:
        pool.shutdown()


def test_system_without_patience_knows_no_punctuality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_USUAL", 0)
    before = slack()
    pool = ThreadPool(1)
    try:
        assert pool.submit(slack).result(TIMEOUT) == before
    finally:
        pool.shutdown()


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
    """An application whose threads compute until they are told to stop; /fast answers at once."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.patient: list[bool] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/burn":
            self.burn()
        self.patient.append(is_patient())
        start_response("200 OK", [("Content-Length", "0")])
        return []

    def burn(self) -> None:
        end = time.monotonic() + TIMEOUT
        while not self.stop.is_set():
            assert time.monotonic() < end, "nobody stops it"


@pytest.fixture
def burners() -> Iterator[Burners]:
    burners = Burners()
    yield burners
    burners.stop.set()


@on_each_loop
async def test_loop_thread_is_patient_while_jobs_compute(
    start_server: StartServer, burners: Burners
) -> None:
    server = await start_server(burners, validate=False)
    async with await connect(server) as one, await connect(server) as two:
        await one.send(GET % b"burn")
        await two.send(GET % b"burn")
        async with await connect(server) as client:

            async def ask() -> bool:
                await client.send(GET % b"fast")
                assert (await client.receive()).status == 200
                return is_patient()

            while not await ask():
                pass
            burners.stop.set()
            await eventually(lambda: not is_patient())
        assert (await one.receive()).status == (await two.receive()).status == 200
    # A thread with a job is like all others.
    assert not any(burners.patient)


@on_each_loop
async def test_server_that_stops_leaves_no_patience_behind(
    start_server: StartServer, burners: Burners
) -> None:
    server = await start_server(burners, validate=False, timeout_graceful=0.1)
    async with await connect(server) as one, await connect(server) as two:
        await one.send(GET % b"burn")
        await two.send(GET % b"burn")
        async with await connect(server) as client:
            while not is_patient():
                await client.send(GET % b"fast")
                assert (await client.receive()).status == 200
        server.close()
        await server.wait_closed()
    assert not is_patient()


def test_idle_thread_is_patient_while_jobs_compute(
    burners: Burners, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle: dict[int, bool] = {}

    def be_patient(patient: bool) -> None:
        idle[threading.get_ident()] = patient

    monkeypatch.setattr("aiowsgi.bridge.pool.be_patient", be_patient)
    monkeypatch.setattr("aiowsgi.bridge.pool.be_punctual", lambda: be_patient(False))
    pool = ThreadPool(3)
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
