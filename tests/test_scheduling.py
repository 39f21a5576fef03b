"""What changes for all threads while several requests compute: late timers, and shorter turns."""

import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from conftest import StartServer
from raw_client import RawClient, connect, connect_to, eventually, on_each_loop
from served_process import served

import aiowsgi
from aiowsgi import libc
from aiowsgi.bridge.pool.jobs import JobThread
from aiowsgi.bridge.pool.thread_pool import ThreadPool
from aiowsgi.config import Config
from aiowsgi.process.scheduling import (
    LONG_SLACK,
    LOOK_INTERVAL,
    SHORT_INTERVAL,
    USUAL_INTERVAL,
    ContentionScheduling,
    find_scheduling,
    thread_cpu_time,
)
from aiowsgi.server.serving import Serving
from aiowsgi.server.surroundings import Surroundings

SCHEDULING = find_scheduling()
pytestmark = pytest.mark.skipif(
    SCHEDULING is None, reason="only Linux and the global interpreter lock need it"
)
# Fail-safe, in seconds.
TIMEOUT = 20.0
GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"
# Prints its own timer slack, in nanoseconds.
TELL_SLACK = "import ctypes; print(ctypes.CDLL(None).prctl(30, 0, 0, 0, 0))"


def slack() -> int:
    found: int = ctypes.CDLL(None).prctl(30, 0, 0, 0, 0)
    return found


USUAL_SLACK = slack()


def has_long_slack() -> bool:
    found = slack()
    assert found in (USUAL_SLACK, LONG_SLACK)
    return found == LONG_SLACK


def slack_of_a_process() -> int:
    ran = subprocess.run([sys.executable, "-c", TELL_SLACK], stdout=subprocess.PIPE, check=True)
    return int(ran.stdout)


def slack_of_a_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(slack()))
    thread.start()
    thread.join(TIMEOUT)
    return seen[0]


@pytest.fixture(autouse=True)
def usual_interval() -> Iterator[None]:
    """Have the interval as usual at the beginning and behind the test."""
    assert sys.getswitchinterval() == USUAL_INTERVAL
    yield
    sys.setswitchinterval(USUAL_INTERVAL)


@pytest.fixture
def own_process() -> Iterator[ContentionScheduling]:
    """What a process that only serves has. The thread is as before at the end of the test."""
    found = find_scheduling()
    assert found is not None
    yield found
    left_behind = has_long_slack()
    found.restore_slack()
    assert not left_behind


def test_slack_is_the_calling_thread_s_own(own_process: ContentionScheduling) -> None:
    seen: list[bool] = []
    own_process.lengthen_slack()
    try:
        assert has_long_slack()

        def look() -> None:
            # A thread begins like the one that has started it.
            own_process.restore_slack()
            seen.append(has_long_slack())

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(TIMEOUT)
        assert has_long_slack()
    finally:
        own_process.restore_slack()
    assert not has_long_slack()
    assert seen == [False]


def test_slack_that_the_process_was_started_with_is_restored() -> None:
    told: list[tuple[int, ...]] = []

    def prctl(*arguments: int) -> int:
        told.append(arguments)
        return 0

    found = ContentionScheduling(prctl, 70_000, lambda number: 0.0)
    found.lengthen_slack()
    found.restore_slack()
    assert told == [(29, LONG_SLACK, 0, 0, 0), (29, 70_000, 0, 0, 0)]


def test_finding_out_changes_nothing() -> None:
    before = slack()
    assert find_scheduling() is not None
    assert slack() == before


def test_real_time_thread_has_no_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "find", lambda *asked: lambda *arguments: 0)
    assert find_scheduling() is None


def test_interpreter_that_cannot_call_prctl_sets_no_slack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libc, "find", lambda *asked: None)
    assert find_scheduling() is None


def test_clock_of_a_thread_counts_what_it_computes() -> None:
    number = threading.get_native_id()
    before = thread_cpu_time(number)
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
    assert 0.02 <= thread_cpu_time(number) - before < TIMEOUT


def test_thread_that_has_ended_computes_nothing() -> None:
    """No thread has a number as high as this (proc(5), pid_max)."""
    assert thread_cpu_time((1 << 22) + 1) == 0.0


class Threads:
    """Some threads with a job each, and how long each has computed."""

    def __init__(self, number: int) -> None:
        self.started = [JobThread(f"thread-{n}", n, 10.0, n) for n in range(number)]
        self.seconds = [100.0] * number
        self.scheduling = ContentionScheduling(
            lambda *arguments: 0, USUAL_SLACK, lambda number: self.seconds[number]
        )


@pytest.mark.parametrize(
    ("shares", "contended"),
    [
        ([0.0, 0.0], False),
        ([1.0, 0.0], False),
        ([0.5, 0.5], True),
        ([0.06] * 16, True),
        ([0.9, 0.02, 0.02], False),
    ],
)
def test_several_jobs_that_compute_contend(shares: list[float], contended: bool) -> None:
    threads = Threads(len(shares))
    threads.scheduling.look(threads.started, 1000.0)
    assert not threads.scheduling.contended, "nothing is known yet"
    threads.seconds = [100.0 + share for share in shares]
    threads.scheduling.look(threads.started, 1001.0)
    assert threads.scheduling.contended is contended


def test_job_counts_from_the_look_that_has_seen_it_begin() -> None:
    threads = Threads(2)
    threads.scheduling.look(threads.started, 1000.0)
    threads.seconds = [101.0, 101.0]
    # The same threads, with other jobs.
    other_jobs = [started._replace(at=1000.5) for started in threads.started]
    threads.scheduling.look(other_jobs, 1001.0)
    assert not threads.scheduling.contended


def test_contention_ends_with_the_jobs() -> None:
    threads = Threads(2)
    threads.scheduling.look(threads.started, 1000.0)
    threads.seconds = [101.0, 101.0]
    threads.scheduling.look(threads.started, 1001.0)
    assert threads.scheduling.contended
    threads.scheduling.look([], 1002.0)
    assert not threads.scheduling.contended


def crowd(threads: Threads) -> None:
    """Have the next look find that all threads compute."""
    now = time.monotonic()
    threads.scheduling.look(threads.started, now)
    threads.seconds = [seconds + 1.0 for seconds in threads.seconds]
    threads.scheduling.look(threads.started, now + 1.0)
    assert threads.scheduling.contended


def test_interval_is_short_only_while_several_jobs_compute() -> None:
    one, two = Threads(1), Threads(2)
    one.scheduling.look(one.started, 1000.0)
    one.seconds = [101.0]
    one.scheduling.look(one.started, 1001.0)
    assert sys.getswitchinterval() == USUAL_INTERVAL
    crowd(two)
    assert sys.getswitchinterval() == SHORT_INTERVAL
    two.scheduling.look([], time.monotonic() + 2.0)
    assert sys.getswitchinterval() == USUAL_INTERVAL


@pytest.mark.parametrize("interval", [0.001, 0.002, 0.01])
def test_interval_that_the_application_has_chosen_stays(interval: float) -> None:
    sys.setswitchinterval(interval)
    threads = Threads(2)
    crowd(threads)
    assert sys.getswitchinterval() == interval
    threads.scheduling.look([], time.monotonic() + 2.0)
    threads.scheduling.restore_interval()
    assert sys.getswitchinterval() == interval


def test_interval_that_the_application_chooses_in_a_crowd_stays() -> None:
    threads = Threads(2)
    crowd(threads)
    sys.setswitchinterval(0.001)
    crowd(threads)
    assert sys.getswitchinterval() == 0.001
    threads.scheduling.look([], time.monotonic() + 2.0)
    assert sys.getswitchinterval() == 0.001


def test_forked_child_has_the_usual_interval() -> None:
    threads = Threads(2)
    crowd(threads)
    if (child := os.fork()) == 0:
        os._exit(sys.getswitchinterval() != USUAL_INTERVAL)
    assert os.waitpid(child, 0)[1] == 0
    assert sys.getswitchinterval() == SHORT_INTERVAL


def test_looks_are_rare() -> None:
    found = Threads(0).scheduling
    assert found.is_look_due(1000.0)
    found.look([], 1000.0)
    assert not found.is_look_due(1000.01)
    assert found.is_look_due(1000.1)


class Burners:
    """An application that computes until it is told to stop; its other paths note timer slacks."""

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
    burners: Burners, own: ContentionScheduling | None, **options: Any
) -> AsyncIterator[tuple[aiowsgi.Server, RawClient]]:
    """A server, two of whose threads compute, and a client that may ask for more."""
    config = Config(bind=("127.0.0.1:0",), threads=4, **options)
    async with (
        Serving(burners, config, None, None, Surroundings(scheduling=own)) as server,
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


async def wait_for_long_slack(client: RawClient) -> None:
    end = time.monotonic() + TIMEOUT
    while not has_long_slack():
        assert time.monotonic() < end, "the loop thread keeps its usual slack"
        await ask(client)


async def wait_for_short_interval(client: RawClient) -> None:
    """On a busy machine, a look may find that one of both has not computed meanwhile."""
    end = time.monotonic() + TIMEOUT
    while sys.getswitchinterval() != SHORT_INTERVAL:
        assert time.monotonic() < end, "the interval stays as usual"
        await ask(client)


@on_each_loop
async def test_loop_thread_has_long_slack_while_jobs_compute(
    start_server: StartServer, burners: Burners, own_process: ContentionScheduling
) -> None:
    async with burning(burners, own_process) as (_, client):
        await wait_for_long_slack(client)
        await wait_for_short_interval(client)
        burners.stop.set()
        # No further request comes.
        await eventually(lambda: not has_long_slack())
        assert sys.getswitchinterval() == USUAL_INTERVAL
    # A thread with a job is like all others.
    assert set(burners.seen) == {USUAL_SLACK}


@on_each_loop
async def test_embedded_server_changes_no_thread(
    start_server: StartServer, burners: Burners
) -> None:
    """What the program around it starts meanwhile would be late for ever.

    And the switch interval is the program's.
    """
    async with burning(burners, None) as (_, client):
        end = time.monotonic() + 5 * LOOK_INTERVAL
        while time.monotonic() < end:
            await ask(client)
            assert slack() == USUAL_SLACK
            assert sys.getswitchinterval() == USUAL_INTERVAL
        assert await asyncio.to_thread(slack) == USUAL_SLACK
        await ask(client, b"children")
    assert set(burners.seen) == {USUAL_SLACK}


async def test_what_a_request_starts_has_usual_slack(
    burners: Burners, own_process: ContentionScheduling
) -> None:
    async with burning(burners, own_process) as (_, client):
        await wait_for_long_slack(client)
        await ask(client, b"children")
    assert set(burners.seen) == {USUAL_SLACK}


@on_each_loop
async def test_what_a_coroutine_starts_has_usual_slack(
    start_server: StartServer, burners: Burners, own_process: ContentionScheduling
) -> None:
    async with burning(burners, own_process) as (_, client):
        await wait_for_long_slack(client)
        await ask(client, b"coroutine")
        assert set(burners.seen) == {USUAL_SLACK}
        # It may have left anything behind on the loop thread.
        for _ in range(10):
            await ask(client)
            assert not has_long_slack()
        # The interval is as short as before, and as short-lived.
        await wait_for_short_interval(client)
        burners.stop.set()
        await eventually(lambda: sys.getswitchinterval() == USUAL_INTERVAL)


@on_each_loop
async def test_server_that_stops_restores_the_slack(
    start_server: StartServer, burners: Burners, own_process: ContentionScheduling
) -> None:
    async with burning(burners, own_process, timeout_graceful=0.1) as (server, client):
        await wait_for_long_slack(client)
        server.close()
        # Nor to what a signal handler of the application starts now.
        assert not has_long_slack()
        # Its threads go on computing for as long as several looks take.
        closed = asyncio.ensure_future(server.wait_closed())
        await asyncio.wait([closed], timeout=5 * LOOK_INTERVAL)
        assert not has_long_slack()
        burners.stop.set()
        await closed
        assert not has_long_slack()


def test_idle_thread_has_long_slack_while_jobs_compute(burners: Burners) -> None:
    idle: dict[int, bool] = {}

    def prctl(option: int, value: int, *more: int) -> int:
        idle[threading.get_ident()] = value == LONG_SLACK
        return 0

    pool = ThreadPool(3, scheduling=ContentionScheduling(prctl, USUAL_SLACK, thread_cpu_time))
    try:
        for _ in range(2):
            pool.enqueue(burners.burn)
        end = time.monotonic() + TIMEOUT
        ran: list[int] = []
        while True not in idle.values():
            assert time.monotonic() < end, "no thread gets a long slack"
            pool.submit(lambda: ran.append(threading.get_ident())).result(TIMEOUT)
            pool.wake()
        assert [ident for ident, long in idle.items() if long] == [ran[-1]]
        seen: list[bool] = []
        pool.submit(lambda: seen.append(idle[threading.get_ident()])).result(TIMEOUT)
        assert seen == [False], "it has a long slack with a job"
    finally:
        burners.stop.set()
        pool.shutdown()


def test_thread_does_not_inherit_long_slack(own_process: ContentionScheduling) -> None:
    pool = ThreadPool(1, scheduling=own_process)
    own_process.lengthen_slack()
    try:
        seen = pool.submit(slack).result(TIMEOUT)
    finally:
        own_process.restore_slack()
        pool.shutdown()
    assert seen == USUAL_SLACK


CROWDED = """
import sys

def application(environ, start_response):
    if environ["PATH_INFO"] == "/burn":
        stopping = environ["aiowsgi.stopping"]
        while not stopping():
            pass
    body = str(sys.getswitchinterval()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

PROGRAM = """
import sys

import aiowsgi
from app import application

aiowsgi.run(application, "127.0.0.1", 0)
print(sys.getswitchinterval(), file=sys.stderr)
"""


async def crowd_process(port: int) -> None:
    """Have a process compute twice until it is told to stop, and answer with a short interval."""
    async with (
        await connect_to(("127.0.0.1", port)) as one,
        await connect_to(("127.0.0.1", port)) as two,
        await connect_to(("127.0.0.1", port)) as client,
    ):
        await one.send(GET % b"burn")
        await two.send(GET % b"burn")
        end = time.monotonic() + TIMEOUT
        body = b""
        while body != str(SHORT_INTERVAL).encode():
            assert time.monotonic() < end, f"the interval stays at {body!r}"
            await client.send(GET % b"fast")
            body = (await client.receive()).body


async def test_process_has_the_usual_interval_behind_its_server(tmp_path: Path) -> None:
    """Its requests compute until the server stops, and no look comes behind that."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = (sys.executable, "program.py")
    with served(tmp_path, CROWDED, command=command, bind=()) as process:
        await crowd_process(process.port())
        assert process.stop() == 0
    assert process.lines[-1] == str(USUAL_INTERVAL)


async def test_worker_sets_its_interval(tmp_path: Path) -> None:
    with served(tmp_path, CROWDED, "--workers", "1") as process:
        await crowd_process(process.port())
        assert process.stop() == 0
