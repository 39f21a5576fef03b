"""The response between two threads: a queue bounded in bytes. In memory.

A writer is known to be blocked when it has entered the wait of its condition: that is reported
while the lock is held, so whoever is told and then takes the lock comes after it.
"""

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiowsgi.bridge import response as response_module
from aiowsgi.bridge.budget import Budget
from aiowsgi.bridge.response import Progress, ResponseWriter
from aiowsgi.errors import ApplicationError, ClientDisconnected, ServerStopped

# Fail-safe only: no wait of these tests is meant to last.
TIMEOUT = 20.0


# More than is ever queued here.
ALL = 1 << 30


class Places:
    """Counts the threads that have left their places."""

    def __init__(self) -> None:
        self.left = 0
        self.rejoined = 0

    def leave(self) -> None:
        self.left += 1

    def rejoin(self) -> None:
        self.rejoined += 1


def make_writer(
    wake: Callable[[], None],
    *,
    high_water: int,
    budget: Budget | None = None,
    places: Places | None = None,
) -> ResponseWriter:
    return ResponseWriter(
        wake,
        high_water=high_water,
        budget=budget or Budget(ALL),
        places=places or Places(),
    )


class Counter:
    """A callable that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Run ``call`` on a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def take(writer: ResponseWriter) -> tuple[bytes, Progress]:
    pieces, progress = writer.take(ALL)
    return b"".join(pieces), progress


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[None]:
    """One item for every time that a writer has begun to wait."""
    entered: queue.SimpleQueue[None] = queue.SimpleQueue()

    class Watched(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            entered.put(None)
            return super().wait(TIMEOUT if timeout is None else timeout)

    # One wait, not a short one and another.
    monkeypatch.setattr(response_module, "SHORT_WAIT", TIMEOUT)
    monkeypatch.setattr(
        response_module, "threading", SimpleNamespace(Lock=threading.Lock, Condition=Watched)
    )
    return entered


@pytest.fixture
def wake() -> Counter:
    return Counter()


class TestTaking:
    def test_takes_what_was_written_in_order(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"head", b"one"])
        writer.write([b"two"])
        assert writer.take(ALL) == ([b"head", b"one", b"two"], Progress.OPEN)
        assert writer.take(ALL) == ([], Progress.OPEN)

    def test_pieces_are_handed_over_and_not_copied(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        piece = bytes(100)
        writer.write([piece])
        assert writer.take(ALL)[0][0] is piece

    def test_nothing_written_queues_nothing(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([])
        assert wake.calls == 0
        writer.write([b"", b""])
        assert writer.take(ALL) == ([], Progress.OPEN)

    def test_a_big_piece_comes_in_slices_of_high_water(self, wake: Counter) -> None:
        sizes = []
        written = bytes(range(256)) * 4
        taken = bytearray()

        def drain() -> None:
            pieces, _ = writer.take(ALL)
            sizes.extend(len(piece) for piece in pieces)
            for piece in pieces:
                taken.extend(piece)

        # Taken from within the wake-up, so that the writer never has to wait.
        writer = make_writer(drain, high_water=300)
        writer.write([written])
        assert sizes == [300, 300, 300, 124]
        assert taken == written


class TestWakingUp:
    def test_wakes_once_for_everything_until_it_is_taken(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        for turn in range(1, 4):
            for _ in range(5):
                writer.write([b"a", b"b"])
            assert wake.calls == turn
            assert take(writer) == (b"ab" * 5, Progress.OPEN)

    def test_the_end_needs_no_wake_up_beside_a_pending_one(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"a"])
        writer.finish([b"b"])
        assert wake.calls == 1
        assert take(writer) == (b"ab", Progress.FINISHED)

    def test_wakes_while_the_lock_is_free(self) -> None:
        # A wake-up that runs on the spot may take at once.
        taken: list[bytes] = []
        writer = make_writer(lambda: taken.append(take(writer)[0]), high_water=100)
        writer.write([b"a"])
        writer.write([b"b"])
        assert taken == [b"a", b"b"]


class TestFinishing:
    @pytest.mark.parametrize("pieces", [[b"whole"], [b"who", b"le"], [b"", b"whole", b""]])
    def test_the_end_travels_with_the_last_piece(self, wake: Counter, pieces: list[bytes]) -> None:
        taken: list[tuple[bytes, Progress]] = []
        writer = make_writer(wake, high_water=100)
        writer.finish(pieces)
        taken.append(take(writer))
        assert wake.calls == 1
        assert taken == [(b"whole", Progress.FINISHED)]

    def test_a_response_in_one_piece_costs_one_hand_over(self) -> None:
        taken: list[tuple[bytes, Progress]] = []
        writer = make_writer(lambda: taken.append(take(writer)), high_water=100)
        writer.finish([b"whole"])
        assert taken == [(b"whole", Progress.FINISHED)]

    @pytest.mark.parametrize("pieces", [[], [b""]])
    def test_an_end_without_bytes_wakes_too(self, wake: Counter, pieces: list[bytes]) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"a"])
        assert take(writer) == (b"a", Progress.OPEN)
        writer.finish(pieces)
        assert wake.calls == 2
        assert take(writer) == (b"", Progress.FINISHED)

    def test_an_end_without_bytes_waits_for_no_room(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=10)
        writer.write([bytes(10)])
        writer.finish([])
        assert take(writer) == (bytes(10), Progress.FINISHED)

    def test_a_big_last_piece_comes_whole_before_the_end(self) -> None:
        taken: list[tuple[bytes, Progress]] = []
        writer = make_writer(lambda: taken.append(take(writer)), high_water=10)
        writer.finish([b"0123456789abcde"])
        assert b"".join(data for data, _ in taken) == b"0123456789abcde"
        assert [progress for _, progress in taken[:-1]] == [Progress.OPEN] * (len(taken) - 1)
        assert taken[-1][1] is Progress.FINISHED

    def test_finished_is_seen_by_every_later_take(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.finish([b"a"])
        assert take(writer) == (b"a", Progress.FINISHED)
        assert take(writer) == (b"", Progress.FINISHED)


class TestAborting:
    def test_what_was_queued_is_still_taken(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"half"])
        writer.abort()
        assert wake.calls == 1
        assert take(writer) == (b"half", Progress.ABORTED)

    def test_wakes_when_nothing_is_queued(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.abort()
        assert wake.calls == 1
        assert take(writer) == (b"", Progress.ABORTED)

    def test_does_not_wait_for_room(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=10)
        writer.write([bytes(10)])
        writer.abort()
        assert take(writer) == (bytes(10), Progress.ABORTED)

    def test_wakes_nobody_when_nobody_is_left(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.disconnect(ClientDisconnected("gone"))
        writer.abort()
        assert wake.calls == 0


class TestBackPressure:
    def test_blocks_at_high_water_and_resumes_when_it_is_taken(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        writer = make_writer(wake, high_water=10)
        writer.write([bytes(9)])
        writer.write([b"x"])  # Below high water there is room for a whole piece.
        result = in_thread(lambda: writer.write([b"next"]))
        waits.get(timeout=TIMEOUT)
        assert not result.done()
        assert wake.calls == 1
        assert take(writer) == (bytes(9) + b"x", Progress.OPEN)
        assert result.result(TIMEOUT) is None
        assert wake.calls == 2
        assert take(writer) == (b"next", Progress.OPEN)
        assert waits.empty()

    def test_blocks_anew_after_every_take(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        writer = make_writer(wake, high_water=4)
        result = in_thread(lambda: writer.write([b"0123456789abcd"]))
        for piece in (b"0123", b"4567", b"89ab"):
            waits.get(timeout=TIMEOUT)
            assert not result.done()
            assert take(writer) == (piece, Progress.OPEN)
        result.result(TIMEOUT)
        assert take(writer) == (b"cd", Progress.OPEN)
        assert waits.empty()

    def test_finish_blocks_with_its_last_piece(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        writer = make_writer(wake, high_water=4)
        writer.write([b"0123"])
        result = in_thread(lambda: writer.finish([b"end"]))
        waits.get(timeout=TIMEOUT)
        assert take(writer) == (b"0123", Progress.OPEN)
        result.result(TIMEOUT)
        assert take(writer) == (b"end", Progress.FINISHED)


class TestDisconnecting:
    def test_releases_a_blocked_writer_with_the_error(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        writer = make_writer(wake, high_water=4)
        writer.write([b"0123"])
        result = in_thread(lambda: writer.write([b"next"]))
        waits.get(timeout=TIMEOUT)
        writer.disconnect(ServerStopped("the server stopped"))
        with pytest.raises(ServerStopped, match="the server stopped"):
            result.result(TIMEOUT)

    def test_releases_a_blocked_finish_with_the_error(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        writer = make_writer(wake, high_water=4)
        result = in_thread(lambda: writer.finish([b"0123", b"4567"]))
        waits.get(timeout=TIMEOUT)
        writer.disconnect(ClientDisconnected("gone"))
        with pytest.raises(ClientDisconnected, match="gone"):
            result.result(TIMEOUT)
        assert take(writer) == (b"", Progress.OPEN)

    def test_every_later_call_raises_and_wakes_nobody(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.disconnect(ClientDisconnected("gone"))
        calls: list[Callable[[], None]] = [
            lambda: writer.write([b"x"]),
            lambda: writer.write([bytes(1000)]),
            lambda: writer.write([b""]),
            lambda: writer.finish([b"x"]),
            lambda: writer.finish([]),
        ]
        for call in calls:
            with pytest.raises(ClientDisconnected, match="gone"):
                call()
        assert wake.calls == 0

    def test_drops_what_is_queued(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"secret"])
        writer.disconnect(ClientDisconnected("gone"))
        assert take(writer) == (b"", Progress.OPEN)

    def test_threads_released_by_one_error_do_not_see_each_other_in_tracebacks(
        self, wake: Counter
    ) -> None:
        # A stopping server disconnects every connection with the same error.
        stopped = ServerStopped("the server stopped")
        frames: list[set[str]] = []

        def first_application(writer: ResponseWriter) -> None:
            writer.write([b"x"])

        def second_application(writer: ResponseWriter) -> None:
            writer.write([b"x"])

        for application in (first_application, second_application):
            writer = make_writer(wake, high_water=100)
            writer.disconnect(stopped)
            with pytest.raises(ServerStopped) as caught:
                application(writer)
            frames.append({entry.name for entry in caught.traceback})
        assert "second_application" in frames[1]
        assert "first_application" not in frames[1]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.binary(max_size=60), max_size=4), max_size=10),
    st.lists(st.binary(max_size=60), max_size=3),
    st.integers(1, 40),
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
)
def test_any_schedule_takes_what_was_written_and_never_twice_high_water(
    writes: list[list[bytes]], last: list[bytes], high_water: int, schedule: list[int]
) -> None:
    wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
    writer = make_writer(lambda: wakes.put(None), high_water=high_water)
    expected = b"".join(itertools.chain(*writes, last))

    def write() -> None:
        for pieces in writes:
            writer.write(list(pieces))
        writer.finish(list(last))

    result = in_thread(write)
    taken = bytearray()
    progress = Progress.OPEN
    turn = 0
    try:
        while progress is Progress.OPEN:
            # Fails with queue.Empty where something was queued and nobody was told.
            wakes.get(timeout=TIMEOUT)
            # The loop also takes when the transport has room again, without being woken.
            for _ in range(1 + schedule[turn % len(schedule)]):
                pieces, progress = writer.take(ALL)
                # Everything that is queued is taken, so this is the largest that it was.
                assert sum(map(len, pieces)) < 2 * high_water
                for piece in pieces:
                    assert 0 < len(piece) <= high_water
                    taken += piece
            turn += 1
        assert progress is Progress.FINISHED
        result.result(TIMEOUT)
    finally:
        writer.disconnect(ClientDisconnected("the test is over"))
    assert taken == expected


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(1, 20), st.integers(0, 6))
def test_a_disconnect_at_any_moment_ends_the_writer(
    pieces: list[bytes], high_water: int, takes: int
) -> None:
    wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
    writer = make_writer(lambda: wakes.put(None), high_water=high_water)

    def write() -> str:
        try:
            for piece in pieces:
                writer.write([piece])
            writer.finish([])
        except ClientDisconnected:
            return "released"
        return "finished"

    result = in_thread(write)
    taken = bytearray()
    for _ in range(takes):
        wakes.get(timeout=TIMEOUT)
        data, progress = take(writer)
        taken += data
        if progress is not Progress.OPEN:
            break
    writer.disconnect(ClientDisconnected("gone"))
    assert result.result(TIMEOUT) in ("released", "finished")
    # What went out is a part from the beginning, without a gap.
    assert b"".join(pieces).startswith(taken)
    assert writer.take(ALL)[0] == []


class TestThreadsOfTheApplication:
    """PEP 3333 knows one thread for each request; an application may have others."""

    def test_nothing_is_written_behind_the_end(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.finish([b"whole"])
        with pytest.raises(ApplicationError, match="is complete"):
            writer.write([b"late"])
        assert take(writer) == (b"whole", Progress.FINISHED)

    def test_end_in_the_midst_of_another_write_is_no_regular_end(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        writer = make_writer(wake, high_water=4)
        writer.write([b"0123"])
        other = in_thread(lambda: writer.write([b"4567"]))
        waits.get(timeout=TIMEOUT)
        writer.finish([])
        assert take(writer) == (b"0123", Progress.ABORTED)
        with pytest.raises(ApplicationError, match="is complete"):
            other.result(TIMEOUT)


def test_wake_that_fails_is_tried_again_by_the_next_write() -> None:
    loop_is_closed = [True, False]
    woken = Counter()

    def wake() -> None:
        if loop_is_closed.pop(0):
            raise RuntimeError("the loop is closed")
        woken()

    writer = make_writer(wake, high_water=100)
    with pytest.raises(RuntimeError):
        writer.write([b"a"])
    writer.write([b"b"])
    assert woken.calls == 1


def test_check_raises_once_nobody_is_left(wake: Counter) -> None:
    writer = make_writer(wake, high_water=100)
    writer.check()
    writer.disconnect(ClientDisconnected("gone"))
    with pytest.raises(ClientDisconnected, match="gone"):
        writer.check()
