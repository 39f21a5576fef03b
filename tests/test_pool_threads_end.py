"""Threads of a pool that end at any line, and calls that interrupt the pool.

Libraries that give up a call, and debuggers, raise exceptions in threads from outside
(PyThreadState_SetAsyncExc); memory can be short; destructors and signal handlers run anywhere.
"""

import asyncio
import contextlib
import ctypes
import gc
import inspect
import itertools
import linecache
import logging
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
from conftest import StartServer
from memory import Owner, waking
from raw_client import connect
from thread_waits import pieces_of, read
from waiting import eventually

from aiowsgi.answers.coroutines import CoroutineRunner
from aiowsgi.answers.wsgi import WsgiCall
from aiowsgi.bridge import mailbox as mailbox_module
from aiowsgi.bridge.body import RequestBody
from aiowsgi.bridge.budget import Budget
from aiowsgi.bridge.locks import Lock, make_lock
from aiowsgi.bridge.mailbox import Mailbox
from aiowsgi.bridge.outcome import Outcome
from aiowsgi.bridge.pool import idling as idling_module
from aiowsgi.bridge.pool import job_pool as pool_module
from aiowsgi.bridge.pool import reporting_pool as reporting_module
from aiowsgi.bridge.pool import threads as threads_module
from aiowsgi.bridge.pool.executor_queue import ExecutorQueue
from aiowsgi.bridge.pool.pool_thread import PoolThread
from aiowsgi.bridge.pool.reporting_pool import ReportingPool
from aiowsgi.bridge.pool.thread_pool import ThreadPool
from aiowsgi.bridge.response import ResponseWriter, WriterTerms
from aiowsgi.bridge.source import Progress
from aiowsgi.errors import ClientDisconnected
from aiowsgi.observe.scoreboard import Row, Scoreboard

# Fail-safe, in seconds.
TIMEOUT = 20.0
ALL = 1 << 30
STRUCK = tuple(
    module.__file__ for module in (pool_module, threads_module, reporting_module, idling_module)
)


class Unwanted(BaseException):
    """Comes from elsewhere."""


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    """Run without coverage or a debugger.

    While an exception waits for one thread, CPython 3.11 repeats a single instruction for ever in
    every other thread that is traced.
    """
    own, of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    yield
    sys.settrace(own)
    threading.settrace(of_threads)  # type: ignore[arg-type]


def raise_in(ident: int, error: type[BaseException]) -> None:
    """Raise an exception in another thread, when it next runs Python code."""
    number = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(error)
    )
    assert number == 1


def idle_threads(pool: ThreadPool, number: int) -> list[int]:
    """Have a pool start threads, and return them when they are idle."""
    barrier = threading.Barrier(number)

    def work() -> int:
        barrier.wait(TIMEOUT)
        return threading.get_ident()

    futures = [pool.submit(work) for _ in range(number)]
    idents = [future.result(TIMEOUT) for future in futures]
    eventually(lambda: len(pool._idle) == number)
    return idents


def run_on_all(pool: ThreadPool, number: int) -> None:
    """See that so many jobs still run at the same time, and no more threads are left than that."""
    idle_threads(pool, number)
    assert len(pool._living) == number
    assert pool._running == pool._lost == pool._waiting_for_clients == set()
    assert pool._waking is None


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(2)
    yield pool
    stopped = threading.Event()
    pool.stop(stopped.set)
    assert stopped.wait(TIMEOUT), "the pool does not stop"
    for thread in pool.living_threads():
        thread.join(TIMEOUT)
    assert not pool.living_threads()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError, Unwanted])
def test_job_runs_although_the_thread_that_is_woken_for_it_ends(
    pool: ThreadPool, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    for ident in idle_threads(pool, 2):
        raise_in(ident, error)
    assert [future.result(TIMEOUT) for future in [pool.submit(int) for _ in range(4)]] == [0] * 4
    run_on_all(pool, 2)
    # Each is told, and for each there is another.
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert all("is replaced" in record.message for record in caplog.records)


def test_pool_stops_although_its_idle_threads_end_by_themselves(pool: ThreadPool) -> None:
    for ident in idle_threads(pool, 2):
        raise_in(ident, Unwanted)
    stopped = threading.Event()
    pool.stop(stopped.set)
    assert stopped.wait(TIMEOUT)


def test_exception_that_comes_too_late_for_its_job_hurts_no_other(pool: ThreadPool) -> None:
    for _ in range(20):
        ident = pool.submit(threading.get_ident).result(TIMEOUT)
        with contextlib.suppress(AssertionError):  # It may have ended.
            raise_in(ident, Unwanted)
        # The exception may arrive during this job. Then the future gets it.
        outcome = pool.submit(int).exception(TIMEOUT)
        assert outcome is None or isinstance(outcome, Unwanted)
    eventually(lambda: not pool._running)
    assert pool._lost == pool._waiting_for_clients == set()


# --- at any line ---------------------------------------------------------------------------------


class Strike:
    """Raises an exception in a thread of the pool, once, before the n-th line of the pool's code.

    Not at a line with ``with``: the interpreter itself lets none come between a lock and the
    block that it protects.
    """

    def __init__(self, number: int) -> None:
        self._left = number
        self._lock = threading.Lock()
        self.place = ""

    def disarm(self) -> None:
        with self._lock:
            self._left = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in STRUCK:
            return None
        # Who would raise something in a thread has to know it first: not before its first line.
        # And in the midst of starting one, Python 3.13 itself would keep it as one that starts.
        spared = (PoolThread.run.__code__, PoolThread.daemon.fget.__code__)  # type: ignore[attr-defined]
        return None if frame.f_code in spared else self._at_line

    def _at_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and not text.startswith(("with ", "try:", "finally:", "except ")):
            with self._lock:
                self._left -= 1
                strikes = self._left == 0
            if strikes:
                self.place = f"line {frame.f_lineno}: {text}"
                raise Unwanted
        return self._at_line


class ReportingThreadPool(ReportingPool, ThreadPool):
    """A thread pool that reports."""


def play(number: int, row: Row | None) -> str:
    """Let an exception strike while jobs come and end; return where, "" if nothing was left."""
    strike = Strike(number)
    pool = ThreadPool(2, spare_threads=1, max_lost_threads=1)
    if row is not None:
        pool = ReportingThreadPool(
            2,
            queue_size=8,
            spare_threads=1,
            max_lost_threads=1,
            queue_target=TIMEOUT,
            scheduling=None,
            report=row,
            describe=repr,
        )
    failed: list[int] = []
    runs = [0] * 3
    done = [threading.Event() for _ in runs]

    def job(index: int) -> Callable[[], None]:
        def run() -> None:
            runs[index] += 1
            pool.release_slot()
            pool.reclaim_slot()
            done[index].set()

        return run

    def fail(index: int) -> Callable[[], None]:
        def note() -> None:
            failed.append(index)
            done[index].set()

        return note

    threading.settrace(strike)
    try:
        for index in range(3):
            pool.enqueue(job(index), fail(index), wake=index != 1)
        for event in done:
            assert event.wait(TIMEOUT), f"a job is lost: {strike.place}"
        # Idle threads are woken, too.
        pool.submit(int).exception(TIMEOUT)
        strike.disarm()
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    # One that failed behind its end has run as well.
    assert all(count <= 1 for count in runs), f"a job ran twice: {strike.place}"
    assert sum(runs) + len(failed) >= 3
    barrier = threading.Barrier(2)
    for future in [pool.submit(barrier.wait, TIMEOUT) for _ in range(2)]:
        future.result(TIMEOUT)
    stopped = threading.Event()
    pool.stop(stopped.set)
    assert stopped.wait(TIMEOUT), f"the pool does not stop: {strike.place}"
    pool.join()
    assert pool._running == pool._lost == pool._waiting_for_clients == set(), strike.place
    assert pool._living == set(), strike.place
    if row is not None:
        assert row.requests() == [], strike.place
        reading = row.read()
        assert (reading.threads, reading.jobs) == (2, 0), strike.place
        # None was ever left in a slot, or more would be in use than may run at a time.
        assert reading.slots <= 4, strike.place
    return strike.place


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("reports", [False, True])
def test_thread_may_end_before_any_line_of_the_pool(reports: bool) -> None:
    places = set()
    row = Scoreboard(1, 4).row(0) if reports else None
    for number in itertools.count(1):
        if not (place := play(number, row)):
            break
        places.add(place)
    # How many there are depends on who comes first; what each job passes through is among them.
    names = " ".join(places)
    for part in ("thread.job = job", "self._running.add(job)", "run()"):
        assert part in names


# --- what a thread cannot have -------------------------------------------------------------------


def test_job_is_taken_back_where_memory_for_its_thread_is_short(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise MemoryError

    ran: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(MemoryError):
            pool.enqueue(lambda: ran.append(1))
    pool.submit(int).result(TIMEOUT)
    assert pool.queued == 0
    assert ran == []


def test_job_waits_for_a_thread_that_is_there_where_memory_for_another_is_short(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise MemoryError

    go_on = threading.Event()
    first = pool.submit(go_on.wait, TIMEOUT)
    eventually(first.running)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        second = pool.submit(int)
    go_on.set()
    assert second.result(TIMEOUT) == 0


def test_who_waits_for_a_job_is_told_when_it_fails(
    pool: ThreadPool, caplog: pytest.LogCaptureFixture
) -> None:
    told = threading.Event()

    def run() -> None:
        raise Unwanted

    pool.enqueue(run, told.set)
    assert told.wait(TIMEOUT)
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL


def test_who_waits_for_a_job_is_told_when_it_fails_in_another_executor() -> None:
    told = threading.Event()

    def run() -> None:
        raise Unwanted

    with ThreadPool(1) as executor:
        queue = ExecutorQueue(executor, queue_size=4)
        queue.enqueue(run, told.set)
        assert told.wait(TIMEOUT)
        eventually(lambda: not queue.running())
        assert queue.queued == 0


@pytest.mark.parametrize("foreign", [False, True])
async def test_client_is_answered_although_its_request_is_not_run_to_its_end(
    start_server: StartServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    foreign: bool,
) -> None:
    def strike(call: WsgiCall) -> None:
        raise Unwanted

    monkeypatch.setattr(WsgiCall, "run", strike)
    with ThreadPool(1) as executor:
        server = await start_server(
            lambda environ, start_response: [], executor=executor if foreign else None
        )
        async with await connect(server) as client:
            assert (await client.request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")).status == 500
        server.close()
        await server.wait_closed()


def test_wait_for_a_client_that_is_interrupted_leaves_no_place_empty(pool: ThreadPool) -> None:
    """A library gives up a call that waits for its client."""
    body = RequestBody(lambda: None, high_water=ALL, budget=Budget(ALL), slots=pool)
    future = pool.submit(read, body, 1)
    eventually(lambda: bool(pool._waiting_for_clients))
    (ident,) = pool._waiting_for_clients
    raise_in(ident, Unwanted)
    body.feed(b"x")
    assert isinstance(future.exception(TIMEOUT), Unwanted)
    eventually(lambda: not pool._waiting_for_clients)
    run_on_all(pool, 2)


# --- on the same thread, in the middle of a call -------------------------------------------------


def holding(lock: Lock, call: Callable[[], Any]) -> Any:
    """Call something on a thread that holds a lock, as a destructor or a signal handler does."""
    outcome: Future[Any] = Future()

    def work() -> None:
        with lock:
            try:
                outcome.set_result(call())
            except BaseException as error:  # noqa: BLE001
                outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome.result(TIMEOUT)


def pool_calls(pool: ThreadPool) -> dict[str, Callable[[], Any]]:
    return {
        "submit": lambda: pool.submit(int),
        "enqueue": lambda: pool.enqueue(int),
        "stop": lambda: pool.stop(lambda: None),
        "shutdown": pool.shutdown,
        "release_slot": pool.release_slot,
    }


@pytest.mark.parametrize("name", ["submit", "enqueue", "stop", "shutdown", "release_slot"])
def test_pool_that_is_interrupted_takes_nothing_and_says_so(pool: ThreadPool, name: str) -> None:
    with pytest.raises(RuntimeError, match="the thread pool is in use by this very thread"):
        holding(pool._lock, pool_calls(pool)[name])
    assert pool.queued == 0
    run_on_all(pool, 2)


def test_destructor_that_submits_in_the_middle_of_a_call_is_told(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[BaseException] = []

    class Finalised:
        def __del__(self) -> None:
            try:
                pool.submit(int)
            except RuntimeError as error:
                errors.append(error)

    monotonic = pool_module.time.monotonic_ns
    garbage = [Finalised()]

    def collect() -> int:
        if pool._lock._is_owned():
            garbage.clear()
        return monotonic()

    monkeypatch.setattr(pool_module.time, "monotonic_ns", collect)
    assert pool.submit(int).result(TIMEOUT) == 0
    eventually(lambda: bool(errors))
    monkeypatch.undo()
    run_on_all(pool, 2)


def test_future_that_is_cancelled_in_the_middle_of_a_call_does_not_run(pool: ThreadPool) -> None:
    go_on = threading.Event()
    blockers = [pool.submit(go_on.wait, TIMEOUT) for _ in range(2)]
    ran: list[int] = []
    future = pool.submit(ran.append, 1)
    assert holding(pool._lock, future.cancel) is True
    go_on.set()
    for blocker in blockers:
        blocker.result(TIMEOUT)
    run_on_all(pool, 2)
    assert ran == []


def test_all_that_can_be_looked_at_can_be_so_in_the_middle_of_a_call(pool: ThreadPool) -> None:
    queue = ExecutorQueue(pool, queue_size=1)
    budget = Budget(ALL)
    slots: Any = pool
    writer = ResponseWriter(Owner(), WriterTerms(waking(), ALL, budget, slots), make_lock())
    body = RequestBody(lambda: None, high_water=ALL, budget=budget, slots=slots)
    looks: list[tuple[Lock, Any, list[str]]] = [
        (pool._lock, pool, ["running", "living_threads", "queued", "lost", "is_starved"]),
        (queue._lock, queue, ["running", "queued", "lost", "is_starved"]),
        (budget._lock, budget, ["used", "is_exceeded"]),
        (writer._lock, writer, ["blocks_thread", "held", "progress"]),
        (body._lock, body, ["is_full", "was_asked_for", "blocks_thread", "held"]),
    ]
    for lock, owner, names in looks:
        for name in names:

            def look(owner: Any = owner, name: str = name) -> None:
                found = getattr(owner, name)
                if inspect.ismethod(found):
                    found()

            holding(lock, look)


def test_response_that_is_interrupted_takes_nothing_and_says_so(pool: ThreadPool) -> None:
    writer = ResponseWriter(Owner(), WriterTerms(waking(), ALL, Budget(ALL), pool), make_lock())
    writer.write([b"a"])
    for call in (writer.write, writer.finish):
        with pytest.raises(RuntimeError, match="the response is in use by this very thread"):
            holding(writer._lock, lambda call=call: call([b"b"]))  # type: ignore[misc]
    writer.send_now = lambda pieces: 1
    with pytest.raises(RuntimeError, match="the response is in use by this very thread"):
        holding(writer._lock, lambda: writer.write([b"b"]))
    assert writer.take(ALL) == ([b"a"], Progress.OPEN)


def test_request_body_that_is_interrupted_is_not_read(pool: ThreadPool) -> None:
    body = RequestBody(
        lambda: None, high_water=ALL, budget=Budget(ALL), slots=pool, initial=pieces_of(b"a")
    )
    with pytest.raises(RuntimeError, match="the request body is in use by this very thread"):
        holding(body._lock, lambda: read(body, 1))
    assert read(body, 1) == b"a"


def test_mailbox_that_is_interrupted_delivers_what_comes() -> None:
    step = 1
    while interrupt_mailbox(step):
        step += 1
    assert step > 50


def interrupt_mailbox(step: int) -> bool:
    """Post while the mailbox takes a step, as a signal handler or a destructor does.

    A mailbox takes steps while it is posted to, and while it delivers. Return False where it does
    not take so many.
    """
    wakes: list[Callable[[], None]] = []
    delivered: list[str] = []
    mailbox: Mailbox[str] = Mailbox(wakes.append, delivered.append)
    steps = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != mailbox_module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == step:
                mailbox.post("in between")
        return trace

    sys.settrace(trace)
    try:
        mailbox.post("first")
        while wakes:
            wakes.pop()()
    finally:
        sys.settrace(None)
    interrupted = steps >= step
    assert sorted(delivered) == ["first", *["in between"] * interrupted], step
    return interrupted


@dataclass(eq=False)
class Calling:
    """A call of an application that has the loop run coroutines."""

    coroutine_runner: CoroutineRunner
    outcomes: dict[asyncio.Task[Any], Outcome] | None = None
    disconnect_error: ClientDisconnected | None = None


def strike_once(steps: int) -> None:
    """Have the calling thread end at that bytecode from here, wherever it is by then."""
    left = itertools.count(steps, -1)

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode" and next(left) == 0:
            raise Unwanted
        return trace

    sys.settrace(trace)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Keep what the garbage collector calls, wherever a thread is, from being struck."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_a_thread_that_ends_anywhere_in_a_wait_for_a_coroutine_does_not_stop_the_loop() -> None:
    loop = asyncio.new_event_loop()
    on_loop = threading.Thread(target=loop.run_forever, daemon=True)
    on_loop.start()
    calling = Calling(CoroutineRunner(loop, lambda: None))
    ends: list[str] = []

    def call(steps: int) -> None:
        # Ends when the thread has ended, unless this machine is too busy.
        coroutine = asyncio.sleep(0.02, "result")
        try:
            strike_once(steps)
            result = calling.coroutine_runner.run(calling, coroutine)
            sys.settrace(None)
            ends.append(result)
        except Unwanted:
            sys.settrace(None)
            ends.append("struck")
            loop.call_soon_threadsafe(close_what_has_not_begun, coroutine)

    def close_what_has_not_begun(coroutine: Coroutine[Any, Any, str]) -> None:
        # It may have begun since the thread ended, and then must not be taken from its task.
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            # Else it is complained of where it never begins.
            coroutine.close()

    for steps in itertools.count():
        thread = threading.Thread(target=call, args=(steps,))
        thread.start()
        thread.join(TIMEOUT)
        if ends[-1] == "result":
            break
    # The loop still runs what it is given, and comes to the end of it.
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(TIMEOUT)
    eventually(lambda: not calling.outcomes)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(TIMEOUT)
    assert len(ends) > 20
    assert set(ends[:-1]) == {"struck"}
    loop.call_soon_threadsafe(loop.stop)
    on_loop.join(TIMEOUT)
    loop.close()
