"""The response between two threads: a queue bounded in bytes. In memory."""

import itertools
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from extent import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from memory import Owner, waking
from thread_waits import (
    TIMEOUT,
    Counter,
    Refusing,
    ThreadSlots,
    WouldWait,
    in_thread,
    use_condition,
    watch,
)

from aiowsgi.bridge import response as response_module
from aiowsgi.bridge.budget import MIN_COUNTED, Budget
from aiowsgi.bridge.locks import make_lock
from aiowsgi.bridge.response import _ALWAYS_ALLOWED, _MAX_PIECE, ResponseWriter, WriterTerms
from aiowsgi.bridge.source import Progress
from aiowsgi.errors import ApplicationError, ClientDisconnected, ServerStopped

# More than is ever queued here.
ALL = 1 << 30


def make_writer(
    wake: Callable[[], None],
    *,
    high_water: int,
    budget: Budget | None = None,
    slots: ThreadSlots | None = None,
) -> ResponseWriter:
    terms = WriterTerms(waking(wake), high_water, budget or Budget(ALL), slots or ThreadSlots())
    return ResponseWriter(Owner(), terms, make_lock())


def take(writer: ResponseWriter) -> tuple[bytes, Progress]:
    pieces, progress = writer.take(ALL)
    return b"".join(pieces), progress


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[None]:
    """One item for every time that a writer has begun to wait; no wait is a long one."""
    return watch(monkeypatch, response_module, short=TIMEOUT)


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[None]:
    """One item for every time that a writer has begun to wait; every wait is a long one."""
    return watch(monkeypatch, response_module, short=0)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that would wait raises WouldWait instead."""
    use_condition(monkeypatch, Refusing)


@pytest.fixture
def wake() -> Counter:
    return Counter()


def blocked_write(
    writer: ResponseWriter, pieces: list[bytes], waits: queue.SimpleQueue[None]
) -> Future[Any]:
    """Write on a thread of its own, and return when that thread has begun to wait."""
    result = in_thread(lambda: writer.write(pieces))
    waits.get(timeout=TIMEOUT)
    return result


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
            # A view of the last slice would keep all of the big piece in memory.
            assert all(type(piece) is bytes for piece in pieces)
            sizes.extend(len(piece) for piece in pieces)
            for piece in pieces:
                taken.extend(piece)

        # Taken from within the wake-up, so that the writer never has to wait.
        writer = make_writer(drain, high_water=300)
        writer.write([written])
        assert sizes == [300, 300, 300, 124]
        assert taken == written


class TestTakingALittle:
    """The loop thread takes so much at a time; what is left it comes back for."""

    def test_takes_whole_pieces_until_the_limit_is_reached(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"0123", b"4567", b"89ab", b"cdef"])
        assert writer.take(5) == ([b"0123", b"4567"], Progress.LEFT)
        assert writer.take(4) == ([b"89ab"], Progress.LEFT)
        assert writer.take(4) == ([b"cdef"], Progress.OPEN)

    def test_what_is_not_above_the_limit_is_taken_whole(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"0123", b"4567"])
        assert writer.take(8) == ([b"0123", b"4567"], Progress.OPEN)

    def test_a_piece_above_the_limit_comes_whole(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"0123456789", b"x"])
        assert writer.take(1) == ([b"0123456789"], Progress.LEFT)

    def test_the_end_is_not_told_before_everything_was_taken(self, wake: Counter) -> None:
        for end, told in (("finish", Progress.FINISHED), ("abort", Progress.ABORTED)):
            writer = make_writer(wake, high_water=100)
            writer.write([b"0123", b"4567"])
            writer.abort() if end == "abort" else writer.finish([])
            assert writer.progress is told
            assert writer.take(4) == ([b"0123"], Progress.LEFT)
            assert writer.take(4) == ([b"4567"], told)

    def test_nobody_is_woken_anew_before_everything_was_taken(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"0123", b"4567"])
        assert writer.take(4)[1] is Progress.LEFT
        writer.write([b"89ab"])
        assert wake.calls == 1
        assert writer.take(4)[1] is Progress.LEFT
        writer.write([b"cdef"])
        assert wake.calls == 1
        assert take(writer) == (b"89abcdef", Progress.OPEN)
        writer.write([b"g"])
        assert wake.calls == 2

    def test_wakes_a_writer_that_waits_when_a_quarter_is_left(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        writer = make_writer(wake, high_water=8)
        writer.write([b"01", b"23", b"45", b"67"])
        result = blocked_write(writer, [b"89"], waits)
        # There would be room. But to run for a single piece is dear.
        assert writer.take(2) == ([b"01"], Progress.LEFT)
        assert writer.take(2) == ([b"23"], Progress.LEFT)
        assert writer.blocks_thread
        assert writer.take(2) == ([b"45"], Progress.LEFT)
        result.result(TIMEOUT)
        assert take(writer) == (b"6789", Progress.OPEN)

    def test_what_is_left_is_dropped_when_the_client_leaves(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        writer.write([b"0123", b"4567"])
        assert writer.take(4)[1] is Progress.LEFT
        writer.disconnect(ClientDisconnected("gone"))
        assert writer.take(4) == ([], Progress.OPEN)


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
        result = blocked_write(writer, [b"next"], waits)
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
        result = blocked_write(writer, [b"next"], waits)
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


ENDINGS: dict[str, list[Callable[[ResponseWriter], object]]] = {
    "taken": [take],
    "taken bit by bit": [lambda writer: [writer.take(1) for _ in range(3)]],
    "finished": [lambda writer: writer.finish([]), take],
    "aborted": [lambda writer: writer.abort(), take],
    "disconnected": [lambda writer: writer.disconnect(ClientDisconnected("gone"))],
    "finished, disconnected": [
        lambda writer: writer.finish([]),
        lambda writer: writer.disconnect(ClientDisconnected("gone")),
    ],
    "disconnected, aborted": [
        lambda writer: writer.disconnect(ClientDisconnected("gone")),
        lambda writer: writer.abort(),
    ],
    "taken in part, disconnected": [
        lambda writer: writer.take(1),
        lambda writer: writer.disconnect(ClientDisconnected("gone")),
    ],
}


class TestBudget:
    """What all writers hold together has a limit: above it, those that hold much have to wait."""

    def test_what_is_queued_is_counted_until_it_is_taken(self, wake: Counter) -> None:
        budget = Budget(ALL)
        writer = make_writer(wake, high_water=ALL, budget=budget)
        for number in range(1, 4):
            writer.write([bytes(MIN_COUNTED)])
            assert writer.held == budget.used == number * MIN_COUNTED
        assert writer.take(1)[1] is Progress.LEFT
        assert writer.held == budget.used == 2 * MIN_COUNTED
        take(writer)
        assert writer.held == budget.used == 0

    def test_many_small_pieces_are_counted_once_they_are_not_small_together(
        self, wake: Counter
    ) -> None:
        budget = Budget(ALL)
        writer = make_writer(wake, high_water=ALL, budget=budget)
        writer.write([bytes(MIN_COUNTED - 1)])
        assert budget.used == 0
        writer.write([b"x"])
        assert budget.used == MIN_COUNTED
        writer.write([b"x"])
        assert budget.used == MIN_COUNTED + 1

    @pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
    def test_every_ending_gives_everything_back(
        self, wake: Counter, ending: list[Callable[[ResponseWriter], object]]
    ) -> None:
        budget = Budget(ALL)
        writer = make_writer(wake, high_water=ALL, budget=budget)
        writer.write([bytes(MIN_COUNTED)] * 3)
        assert budget.used == 3 * MIN_COUNTED
        for step in ending:
            step(writer)
        assert writer.held == budget.used == 0

    def test_a_write_that_fails_is_not_counted(self, wake: Counter) -> None:
        budget = Budget(ALL)
        writer = make_writer(wake, high_water=ALL, budget=budget)
        writer.disconnect(ClientDisconnected("gone"))
        with pytest.raises(ClientDisconnected):
            writer.write([bytes(MIN_COUNTED)])
        complete = make_writer(wake, high_water=ALL, budget=budget)
        complete.finish([])
        with pytest.raises(ApplicationError):
            complete.write([bytes(MIN_COUNTED)])
        assert budget.used == 0

    @pytest.mark.parametrize(
        ("queued", "more", "waits"),
        [
            (0, 1, False),
            (0, _MAX_PIECE, False),
            (1, _ALWAYS_ALLOWED - 1, False),
            (1, _ALWAYS_ALLOWED, True),
            (_ALWAYS_ALLOWED, 1, True),
        ],
    )
    @pytest.mark.usefixtures("no_waiting")
    def test_above_the_limit_only_those_may_write_that_hold_little(
        self, wake: Counter, queued: int, more: int, waits: bool
    ) -> None:
        budget = Budget(10 * _MAX_PIECE)
        writer = make_writer(wake, high_water=ALL, budget=budget)
        if queued:
            writer.write([bytes(queued)])
        others = budget.update(0, 10 * _MAX_PIECE)
        if waits:
            with pytest.raises(WouldWait):
                writer.write([bytes(more)])
            # It was this that it would have waited for.
            budget.update(others, 0)
        writer.write([bytes(more)])
        assert len(take(writer)[0]) == queued + more

    @pytest.mark.usefixtures("no_waiting")
    def test_its_own_bytes_are_not_counted_twice(self, wake: Counter) -> None:
        budget = Budget(2 * _MAX_PIECE)
        writer = make_writer(wake, high_water=ALL, budget=budget)
        writer.write([bytes(_MAX_PIECE), bytes(_MAX_PIECE)])
        assert budget.used == 2 * _MAX_PIECE
        with pytest.raises(WouldWait):
            writer.write([b"x"])

    @pytest.mark.usefixtures("no_waiting")
    def test_its_own_limit_holds_however_much_is_left_to_all(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=_MAX_PIECE)
        writer.write([bytes(_MAX_PIECE)])
        with pytest.raises(WouldWait):
            writer.write([b"x"])

    def test_a_writer_that_waits_goes_on_when_its_own_queue_was_taken(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        # A writer is not told when others free memory. Its own client is enough for it to go on.
        budget = Budget(_MAX_PIECE)
        writer = make_writer(wake, high_water=ALL, budget=budget)
        writer.write([bytes(_ALWAYS_ALLOWED)])
        budget.update(0, _MAX_PIECE)
        result = blocked_write(writer, [b"next"], waits)
        assert take(writer) == (bytes(_ALWAYS_ALLOWED), Progress.OPEN)
        result.result(TIMEOUT)
        assert take(writer) == (b"next", Progress.OPEN)
        assert budget.is_exceeded is False
        assert budget.used == _MAX_PIECE


class TestPlaces:
    """A thread that waits for a client for long lets another one work meanwhile."""

    def test_are_not_left_without_waiting(self, wake: Counter) -> None:
        slots = ThreadSlots()
        writer = make_writer(wake, high_water=100, slots=slots)
        writer.write([b"x"])
        writer.finish([b"y"])
        assert (slots.released, slots.reclaimed) == (0, 0)

    def test_are_not_left_for_a_short_wait(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        slots = ThreadSlots()
        writer = make_writer(wake, high_water=4, slots=slots)
        writer.write([b"0123"])
        result = blocked_write(writer, [b"x"], waits)
        assert writer.blocks_thread
        take(writer)
        result.result(TIMEOUT)
        assert not writer.blocks_thread
        assert (slots.released, slots.reclaimed) == (0, 0)

    def test_are_left_while_a_long_wait_lasts(
        self, wake: Counter, long_waits: queue.SimpleQueue[None]
    ) -> None:
        slots = ThreadSlots()
        writer = make_writer(wake, high_water=4, slots=slots)
        writer.write([b"0123"])
        result = blocked_write(writer, [b"x"], long_waits)
        assert writer.blocks_thread
        assert (slots.released, slots.reclaimed) == (1, 0)
        take(writer)
        result.result(TIMEOUT)
        assert not writer.blocks_thread
        assert (slots.released, slots.reclaimed) == (1, 1)

    def test_are_left_once_however_often_the_thread_wakes_in_vain(
        self, wake: Counter, long_waits: queue.SimpleQueue[None]
    ) -> None:
        slots = ThreadSlots()
        writer = make_writer(wake, high_water=16, slots=slots)
        writer.write([bytes(12), b"0", b"1", b"2", b"3"])
        result = in_thread(lambda: writer.write([b"next" * 4]))
        for _ in range(3):
            long_waits.get(timeout=TIMEOUT)
            assert (slots.released, slots.reclaimed) == (1, 0)
            assert writer.take(1)[1] is Progress.LEFT
        long_waits.get(timeout=TIMEOUT)
        assert not result.done()
        take(writer)
        result.result(TIMEOUT)
        assert (slots.released, slots.reclaimed) == (1, 1)

    def test_are_left_again_for_every_long_wait(
        self, wake: Counter, long_waits: queue.SimpleQueue[None]
    ) -> None:
        slots = ThreadSlots()
        writer = make_writer(wake, high_water=4, slots=slots)
        result = in_thread(lambda: writer.write([b"0123456789abcdef"]))
        for number in range(1, 4):
            long_waits.get(timeout=TIMEOUT)
            assert (slots.released, slots.reclaimed) == (number, number - 1)
            take(writer)
        result.result(TIMEOUT)
        assert (slots.released, slots.reclaimed) == (3, 3)

    def test_are_taken_again_when_the_client_leaves(
        self, wake: Counter, long_waits: queue.SimpleQueue[None]
    ) -> None:
        slots = ThreadSlots()
        writer = make_writer(wake, high_water=4, slots=slots)
        writer.write([b"0123"])
        result = blocked_write(writer, [b"x"], long_waits)
        writer.disconnect(ClientDisconnected("gone"))
        with pytest.raises(ClientDisconnected):
            result.result(TIMEOUT)
        assert not writer.blocks_thread
        assert (slots.released, slots.reclaimed) == (1, 1)


class FakeTail:
    """Counts how often it is closed."""

    def __init__(self) -> None:
        self.closes = 0

    def close(self) -> None:
        self.closes += 1


class TestTail:
    """A file has one owner at a time: the writer, until it is taken, and then who took it."""

    def test_is_handed_out_once(self, wake: Counter) -> None:
        writer, tail = make_writer(wake, high_water=100), FakeTail()
        writer.finish([b"head"], tail)
        assert take(writer) == (b"head", Progress.FINISHED)
        assert writer.take_tail() is tail
        assert writer.take_tail() is None
        writer.disconnect(ClientDisconnected("gone"))
        assert tail.closes == 0  # It is somebody else's by now.

    def test_most_responses_have_none(self, wake: Counter) -> None:
        writer = make_writer(wake, high_water=100)
        assert writer.take_tail() is None
        writer.finish([b"whole"])
        assert writer.take_tail() is None

    @pytest.mark.parametrize(
        "order",
        list(itertools.permutations(["finish", "take", "take_tail", "disconnect"])),
        ids="-".join,
    )
    def test_is_closed_once_in_any_order_of_events(
        self, wake: Counter, order: Sequence[str]
    ) -> None:
        writer, tail = make_writer(wake, high_water=100), FakeTail()
        for step in order:
            if step == "finish" and "disconnect" in order[: order.index("finish")]:
                with pytest.raises(ClientDisconnected):
                    writer.finish([b"head"], tail)
            elif step == "finish":
                writer.finish([b"head"], tail)
            elif step == "take":
                take(writer)
            elif step == "take_tail" and (mine := writer.take_tail()) is not None:
                assert mine is tail
                assert tail.closes == 0
                mine.close()
            elif step == "disconnect":
                writer.disconnect(ClientDisconnected("gone"))
        assert tail.closes == 1
        assert writer.take_tail() is None

    def test_is_closed_when_the_client_leaves_before_the_pieces_have_room(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        writer, tail = make_writer(wake, high_water=4), FakeTail()
        writer.write([b"0123"])
        result = in_thread(lambda: writer.finish([b"head"], tail))
        waits.get(timeout=TIMEOUT)
        writer.disconnect(ClientDisconnected("gone"))
        with pytest.raises(ClientDisconnected):
            result.result(TIMEOUT)
        assert tail.closes == 1

    def test_is_closed_when_the_response_is_complete_already(self, wake: Counter) -> None:
        writer, tail = make_writer(wake, high_water=100), FakeTail()
        writer.finish([b"whole"])
        with pytest.raises(ApplicationError, match="is complete"):
            writer.finish([], tail)
        writer.disconnect(ClientDisconnected("gone"))
        assert tail.closes == 1

    def test_is_closed_once_when_nobody_can_be_woken(self) -> None:
        def wake() -> None:
            raise RuntimeError("the loop is closed")

        writer, tail = make_writer(wake, high_water=100), FakeTail()
        with pytest.raises(RuntimeError):
            writer.finish([b"head"], tail)
        writer.disconnect(ClientDisconnected("gone"))
        assert writer.take_tail() is None
        assert tail.closes == 1

    def test_of_a_response_that_is_no_regular_one_is_closed_in_the_end(
        self, wake: Counter, waits: queue.SimpleQueue[None]
    ) -> None:
        # Another thread of the application is in the midst of a write.
        writer, tail = make_writer(wake, high_water=4), FakeTail()
        writer.write([b"0123"])
        other = in_thread(lambda: writer.write([b"4567"]))
        waits.get(timeout=TIMEOUT)
        writer.finish([], tail)
        assert take(writer) == (b"0123", Progress.ABORTED)
        with pytest.raises(ApplicationError):
            other.result(TIMEOUT)
        writer.disconnect(ClientDisconnected("gone"))
        assert tail.closes == 1


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
            # Fails with queue.Empty if something was queued without a wake-up.
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


@settings(max_examples=examples(60))
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


class WriterMachine(RuleBasedStateMachine):
    """Any order of calls from both sides: what is counted is what is queued, and is given back.

    The model: the sizes of the pieces that are queued, and whether a wake-up is pending. Nobody
    waits; that a write would do so is foretold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        use_condition(self.patch, Refusing)
        self.queued: list[int] = []
        self.progress = Progress.OPEN
        self.gone = False
        self.woken = False
        self.wakes = 0
        self.tails: list[FakeTail] = []
        self.tail: FakeTail | None = None

    @initialize(
        limit=st.sampled_from([MIN_COUNTED, _ALWAYS_ALLOWED, 3 * _MAX_PIECE]),
        high_water=st.sampled_from([MIN_COUNTED, _ALWAYS_ALLOWED, _MAX_PIECE, 4 * _MAX_PIECE]),
    )
    def make(self, limit: int, high_water: int) -> None:
        self.budget = Budget(limit)
        self.high_water = high_water
        self.others = 0
        self.wake = Counter()
        self.writer = make_writer(self.wake, high_water=high_water, budget=self.budget)

    @property
    def size(self) -> int:
        return sum(self.queued)

    def counted(self, size: int) -> int:
        return size if size >= MIN_COUNTED else 0

    def has_room(self, more: int) -> bool:
        size = self.size + more
        if not self.size:
            return True
        total = self.others + self.counted(size)
        return size <= self.high_water and (size <= _ALWAYS_ALLOWED or total <= self.budget.limit)

    def put(self, size: int) -> None:
        """Queue a piece, in the model."""
        if size:
            self.queued.append(size)
        self.wakes += not self.woken
        self.woken = True

    @rule(size=st.sampled_from([0, MIN_COUNTED, _ALWAYS_ALLOWED, 3 * _MAX_PIECE]))
    def others_hold(self, size: int) -> None:
        self.others = self.budget.update(self.others, size)

    @precondition(lambda self: self.progress is Progress.OPEN)
    @rule(
        size=st.sampled_from(
            [0, 1, MIN_COUNTED - 1, MIN_COUNTED, _ALWAYS_ALLOWED, _MAX_PIECE, _MAX_PIECE + 1]
        )
    )
    def write(self, size: int) -> None:
        largest = min(_MAX_PIECE, self.high_water)
        pieces = [min(largest, size - start) for start in range(0, size, largest)] or [0]
        expected: type[Exception] | None = None
        for piece in pieces:
            if self.gone:
                expected = ClientDisconnected
            elif piece and not self.has_room(piece):
                expected = WouldWait
            if expected is not None:
                break
            self.put(piece)
        if expected is None:
            self.writer.write([bytes(size)])
        else:
            with pytest.raises(expected):
                self.writer.write([bytes(size)])

    @precondition(lambda self: self.progress is Progress.OPEN)
    @rule(size=st.sampled_from([0, 1, MIN_COUNTED]), with_tail=st.booleans())
    def finish(self, size: int, with_tail: bool) -> None:
        tail = FakeTail() if with_tail else None
        if tail is not None:
            self.tails.append(tail)
        pieces = [bytes(size)] if size else []
        if self.gone or (size and not self.has_room(size)):
            with pytest.raises(ClientDisconnected if self.gone else WouldWait):
                self.writer.finish(pieces, tail)
            assert tail is None or tail.closes == 1
            return
        self.put(size)
        self.progress = Progress.FINISHED
        self.tail = tail
        self.writer.finish(pieces, tail)

    @precondition(lambda self: self.progress is Progress.OPEN)
    @rule()
    def abort(self) -> None:
        self.progress = Progress.ABORTED
        if not self.gone:
            self.put(0)
        self.writer.abort()

    @rule(limit=st.sampled_from([1, MIN_COUNTED, _ALWAYS_ALLOWED, ALL]))
    def take(self, limit: int) -> None:
        taken: list[int] = []
        while self.queued and (sum(taken) < limit or self.size <= limit - sum(taken)):
            taken.append(self.queued.pop(0))
        if not self.queued:
            self.woken = False
        pieces, progress = self.writer.take(limit)
        assert [len(piece) for piece in pieces] == taken
        assert progress is (Progress.LEFT if self.queued else self.progress)

    @precondition(lambda self: self.progress is Progress.FINISHED)
    @rule()
    def take_tail(self) -> None:
        tail = self.writer.take_tail()
        assert tail is self.tail
        self.tail = None
        if tail is not None:
            tail.close()

    @rule()
    def disconnect(self) -> None:
        self.gone = True
        self.queued.clear()
        self.tail = None
        self.writer.disconnect(ClientDisconnected("gone"))

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "writer"):
            return
        assert self.writer.held == self.counted(self.size)
        assert self.budget.used == self.others + self.writer.held
        assert self.writer.progress is self.progress
        assert self.wake.calls == self.wakes
        assert self.size <= max(self.high_water, *self.queued, 0)
        assert [tail.closes for tail in self.tails] == [int(t is not self.tail) for t in self.tails]

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.writer.disconnect(ClientDisconnected("the test is over"))
            assert self.budget.used == self.others
            assert all(tail.closes == 1 for tail in self.tails)
        self.patch.undo()


TestAnyOrder = WriterMachine.TestCase
TestAnyOrder.settings = settings(max_examples=examples(100), stateful_step_count=30)


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
