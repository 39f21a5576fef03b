"""The request body between two threads, and ``wsgi.input`` on top of it. In memory."""

import io
import itertools
import queue
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, BinaryIO

import pytest
from extent import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from thread_waits import (
    TIMEOUT,
    Counter,
    Refusing,
    StillClock,
    ThreadSlots,
    WouldWait,
    in_thread,
    pieces_of,
    read,
    use_condition,
    watch,
)

from aiowsgi.bridge import body as body_module
from aiowsgi.bridge.body import RequestBody
from aiowsgi.bridge.budget import MIN_COUNTED, Budget
from aiowsgi.errors import ClientDisconnected, RequestBodyError
from aiowsgi.wsgi import input as input_module
from aiowsgi.wsgi.input import kept_input, streamed_input


def make_body(
    on_demand: Callable[[], None],
    *,
    high_water: int,
    budget: Budget | None = None,
    slots: ThreadSlots | None = None,
    initial: bytes = b"",
) -> RequestBody:
    return RequestBody(
        on_demand,
        high_water=high_water,
        budget=budget or Budget(1 << 30),
        slots=slots or ThreadSlots(),
        initial=pieces_of(initial),
    )


def no_demand() -> None:
    pass


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.SimpleQueue[None]]:
    """One item for every time that a reader has begun to wait; no wait is a long one."""
    yield (entered := watch(monkeypatch, body_module, short=TIMEOUT))
    assert entered.empty(), "a wait that the test did not expect"


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.SimpleQueue[None]]:
    """One item for every time that a reader has begun to wait; every wait is a long one."""
    yield (entered := watch(monkeypatch, body_module, short=0))
    assert entered.empty(), "a wait that the test did not expect"


def blocked_read(body: RequestBody, waits: queue.SimpleQueue[None]) -> Future[Any]:
    """Read ten bytes on a thread of its own, and return when that thread has begun to wait."""
    result = in_thread(lambda: read(body, 10))
    waits.get(timeout=TIMEOUT)
    return result


class TestReading:
    def test_bytes_come_in_the_order_in_which_they_were_fed(self) -> None:
        body = make_body(no_demand, high_water=100, initial=b"one ")
        body.feed(b"two ")
        body.feed(b"three")
        body.finish()
        assert read(body, 100) == b"one two three"
        assert read(body, 100) == b""

    def test_read_returns_at_most_the_size(self) -> None:
        body = make_body(no_demand, high_water=100)
        body.feed(b"abcdef")
        body.finish()
        assert [read(body, size) for size in (1, 4, 4, 4)] == [b"a", b"bcde", b"f", b""]

    def test_read_returns_what_there_is_instead_of_waiting_for_the_size(self) -> None:
        body = make_body(no_demand, high_water=100)
        body.feed(b"ab")
        assert read(body, 100) == b"ab"

    def test_the_end_stays_the_end(self) -> None:
        body = make_body(no_demand, high_water=100)
        body.finish()
        assert [read(body, 1) for _ in range(3)] == [b"", b"", b""]

    def test_feeding_nothing_is_not_the_end(self, waits: queue.SimpleQueue[None]) -> None:
        body = make_body(no_demand, high_water=100)
        result = blocked_read(body, waits)
        body.feed(b"")
        waits.get(timeout=TIMEOUT)  # It woke, found nothing, and waits again.
        assert not result.done()
        body.feed(b"x")
        assert result.result(TIMEOUT) == b"x"

    def test_received_counts_all_bytes_fed(self) -> None:
        body = make_body(no_demand, high_water=100, initial=b"ab")
        body.feed(b"cde")
        read(body, 4)
        assert body.received == 5


class TestBlockedReader:
    @pytest.fixture
    def blocked(
        self, waits: queue.SimpleQueue[None]
    ) -> Iterator[tuple[RequestBody, Future[bytes]]]:
        body = make_body(no_demand, high_water=100)
        result = blocked_read(body, waits)
        assert not result.done()
        yield body, result
        body.finish()

    def test_is_released_by_bytes(self, blocked: tuple[RequestBody, Future[bytes]]) -> None:
        body, result = blocked
        body.feed(b"x")
        assert result.result(TIMEOUT) == b"x"

    def test_is_released_by_the_end(self, blocked: tuple[RequestBody, Future[bytes]]) -> None:
        body, result = blocked
        body.finish()
        assert result.result(TIMEOUT) == b""

    def test_is_released_by_an_error(self, blocked: tuple[RequestBody, Future[bytes]]) -> None:
        body, result = blocked
        body.abort(RequestBodyError("the client left"))
        with pytest.raises(RequestBodyError, match="the client left"):
            result.result(TIMEOUT)


class TestAbort:
    def test_every_later_read_raises(self) -> None:
        body = make_body(no_demand, high_water=100)
        body.abort(RequestBodyError("gone"))
        for _ in range(3):
            with pytest.raises(RequestBodyError, match="gone"):
                read(body, 1)

    def test_the_error_is_a_connection_error(self) -> None:
        body = make_body(no_demand, high_water=100)
        body.abort(RequestBodyError("gone"))
        with pytest.raises(ConnectionError):
            read(body, 1)
        assert issubclass(RequestBodyError, ClientDisconnected)

    def test_the_error_overtakes_bytes_that_were_not_read(self) -> None:
        # The client cannot be answered, and the body cannot be completed. So the application gets
        # the error at its next read, not at the end of the buffer.
        body = make_body(no_demand, high_water=100, initial=b"half of the bo")
        assert read(body, 4) == b"half"
        body.abort(RequestBodyError("gone"))
        with pytest.raises(RequestBodyError, match="gone"):
            read(body, 4)

    def test_a_complete_body_stays_readable(self) -> None:
        # A client may send its request, close its side and leave: what it sent is whole.
        body = make_body(no_demand, high_water=100, initial=b"whole")
        body.finish()
        body.abort(RequestBodyError("gone"))
        assert read(body, 100) == b"whole"
        assert read(body, 100) == b""

    def test_an_end_that_comes_after_the_error_changes_nothing(self) -> None:
        body = make_body(no_demand, high_water=100)
        body.abort(RequestBodyError("gone"))
        body.finish()
        with pytest.raises(RequestBodyError, match="gone"):
            read(body, 1)

    def test_the_traceback_does_not_grow_from_read_to_read(self) -> None:
        body = make_body(no_demand, high_water=100)
        body.abort(RequestBodyError("gone"))
        depths = []
        for _ in range(3):
            with pytest.raises(RequestBodyError) as caught:
                read(body, 1)
            depths.append(len(caught.traceback))
        assert depths == [depths[0]] * 3


class TestDemand:
    def test_is_not_reported_while_there_are_bytes_or_the_body_is_over(self) -> None:
        on_demand = Counter()
        body = make_body(on_demand, high_water=100, initial=b"ab")
        read(body, 1)
        read(body, 1)
        body.finish()
        read(body, 1)
        assert on_demand.calls == 0

    def test_is_not_reported_after_an_error(self) -> None:
        on_demand = Counter()
        body = make_body(on_demand, high_water=100)
        body.abort(RequestBodyError("gone"))
        with pytest.raises(RequestBodyError):
            read(body, 1)
        assert on_demand.calls == 0

    def test_is_reported_once_before_the_first_wait(self, waits: queue.SimpleQueue[None]) -> None:
        on_demand = Counter()
        body = make_body(on_demand, high_water=100)
        for data in (b"a", b"b"):
            result = blocked_read(body, waits)
            assert on_demand.calls == 1
            body.feed(data)
            assert result.result(TIMEOUT) == data
        body.finish()
        assert on_demand.calls == 1

    def test_may_be_answered_before_the_wait_begins(self) -> None:
        # The callback runs without the lock: bytes that come at once must be seen, and there is
        # nothing to wait for.
        def answer() -> None:
            body.feed(b"at once")

        body = make_body(answer, high_water=100)
        assert read(body, 100) == b"at once"

    def test_awaited_tells_whether_bytes_were_waited_for_or_came(self) -> None:
        assert make_body(no_demand, high_water=100, initial=b"x").was_asked_for
        fed = make_body(no_demand, high_water=100)
        assert not fed.was_asked_for
        fed.feed(b"x")
        assert fed.was_asked_for
        seen: list[bool] = []

        def on_demand() -> None:
            seen.append(wanted.was_asked_for)
            wanted.finish()

        wanted = make_body(on_demand, high_water=100)
        assert not wanted.was_asked_for
        read(wanted, 1)
        assert seen == [True]


class TestWaterMarks:
    @pytest.mark.parametrize(("size", "full"), [(9, False), (10, True), (11, True)])
    def test_is_full_from_high_water_on(self, size: int, full: bool) -> None:
        body = make_body(no_demand, high_water=10)
        body.feed(bytes(size - 1))
        assert body.is_full is (size > 10)
        body.feed(b"x")
        assert body.is_full is full
        assert make_body(no_demand, high_water=10, initial=bytes(size)).is_full is full

    def test_reading_resumes_at_half_and_says_so_once(self) -> None:
        on_demand = Counter()
        body = make_body(on_demand, high_water=10, initial=bytes(12))
        for size, full, calls in ((3, True, 0), (3, True, 0), (1, False, 1), (4, False, 1)):
            assert len(read(body, size)) == size  # 9, 6, 5, 1 are left.
            assert body.is_full is full
            assert on_demand.calls == calls

    def test_is_full_again_after_it_was_drained(self) -> None:
        on_demand = Counter()
        body = make_body(on_demand, high_water=10)
        for turn in range(1, 4):
            body.feed(bytes(10))
            assert body.is_full
            assert read(body, 10) == bytes(10)
            assert not body.is_full
            assert on_demand.calls == turn

    def test_bytes_that_come_while_full_do_not_end_the_pause_above_half(self) -> None:
        # What was parsed already still comes in after reading was paused.
        body = make_body(no_demand, high_water=10, initial=bytes(10))
        read(body, 2)
        assert body.is_full
        body.feed(b"x")
        assert body.is_full


# What the loop thread does with a body, whatever becomes of the request.
LIFE: dict[str, list[str]] = {
    "whole": ["feed", "finish", "abort"],
    "whole, in two parts": ["feed", "feed", "finish", "abort"],
    "cut": ["feed", "abort"],
    "cut before it came": ["abort"],
    "cut, and what was under way": ["feed", "abort", "feed", "abort"],
}


class TestBudget:
    def test_what_is_buffered_is_counted_until_it_is_read(self) -> None:
        budget = Budget(1 << 30)
        body = make_body(
            no_demand, high_water=1 << 30, budget=budget, initial=bytes(2 * MIN_COUNTED)
        )
        assert body.held == budget.used == 2 * MIN_COUNTED
        body.feed(bytes(MIN_COUNTED))
        assert body.held == budget.used == 3 * MIN_COUNTED
        read(body, MIN_COUNTED)
        assert body.held == budget.used == 2 * MIN_COUNTED
        body.finish()
        while read(body, 1000):
            assert body.held == budget.used == (_left(body) if _left(body) >= MIN_COUNTED else 0)
        assert body.held == budget.used == 0

    def test_a_body_that_was_cut_gives_everything_back(self) -> None:
        budget = Budget(1 << 30)
        body = make_body(no_demand, high_water=1 << 30, budget=budget, initial=bytes(MIN_COUNTED))
        body.abort(RequestBodyError("gone"))
        assert body.held == budget.used == 0

    def test_a_whole_body_is_counted_for_as_long_as_it_may_be_read(self) -> None:
        budget = Budget(1 << 30)
        body = make_body(no_demand, high_water=1 << 30, budget=budget, initial=bytes(MIN_COUNTED))
        body.finish()
        body.abort(RequestBodyError("gone"))
        assert body.held == budget.used == MIN_COUNTED
        assert read(body, MIN_COUNTED) == bytes(MIN_COUNTED)
        assert budget.used == 0

    def test_what_the_application_did_not_read_is_given_back_when_it_returns(self) -> None:
        budget = Budget(1 << 30)
        body = make_body(no_demand, high_water=1 << 30, budget=budget, initial=bytes(MIN_COUNTED))
        body.drop()
        assert body.held == budget.used == 0

    @pytest.mark.parametrize("life", LIFE.values(), ids=LIFE)
    @pytest.mark.parametrize("initial", [b"", bytes(MIN_COUNTED)], ids=["empty", "begun"])
    def test_everything_is_given_back_whenever_the_application_returns(
        self, life: list[str], initial: bytes
    ) -> None:
        for position in range(len(life) + 1):
            budget = Budget(1 << 30)
            body = make_body(no_demand, high_water=MIN_COUNTED, budget=budget, initial=initial)
            steps: dict[str, Callable[[], None]] = {
                "feed": lambda body=body: body.feed(bytes(MIN_COUNTED)),  # type: ignore[misc]
                "finish": body.finish,
                "abort": lambda body=body: body.abort(RequestBodyError("gone")),  # type: ignore[misc]
                "drop": body.drop,
            }
            for step in [*life[:position], "drop", *life[position:]]:
                steps[step]()
            assert body.held == budget.used == 0, f"returned before step {position}"

    def test_nobody_waits_for_room_that_the_application_will_not_make(self) -> None:
        # It has returned: the client, which may send everything before it reads, is read to the end
        # of what it sends, and nothing of it is kept.
        budget = Budget(1 << 30)
        on_demand = Counter()
        body = make_body(
            on_demand, high_water=MIN_COUNTED, budget=budget, initial=bytes(MIN_COUNTED)
        )
        assert body.is_full
        body.drop()
        assert not body.is_full
        assert on_demand.calls == 1  # Whoever has paused may go on.
        body.feed(bytes(10 * MIN_COUNTED))
        assert not body.is_full
        body.drop()
        assert on_demand.calls == 1
        assert body.held == budget.used == 0
        assert body.received == 11 * MIN_COUNTED

    def test_the_end_of_the_application_asks_nobody_for_bytes_who_has_not_paused(self) -> None:
        on_demand = Counter()
        body = make_body(on_demand, high_water=100, initial=b"x")
        body.drop()
        assert on_demand.calls == 0


class TestPlaces:
    """A thread that waits for a client for long lets another one work meanwhile."""

    def test_are_not_left_without_waiting(self) -> None:
        slots = ThreadSlots()
        body = make_body(no_demand, high_water=100, slots=slots, initial=b"x")
        body.finish()
        assert read(body, 10) == b"x"
        assert read(body, 10) == b""
        assert (slots.released, slots.reclaimed) == (0, 0)

    def test_are_not_left_for_a_short_wait(self, waits: queue.SimpleQueue[None]) -> None:
        slots = ThreadSlots()
        body = make_body(no_demand, high_water=100, slots=slots)
        result = blocked_read(body, waits)
        assert body.blocks_thread
        body.feed(b"x")
        assert result.result(TIMEOUT) == b"x"
        assert not body.blocks_thread
        assert (slots.released, slots.reclaimed) == (0, 0)

    @pytest.mark.parametrize("end", ["feed", "finish", "abort"])
    def test_are_left_while_a_long_wait_lasts(
        self, long_waits: queue.SimpleQueue[None], end: str
    ) -> None:
        slots = ThreadSlots()
        body = make_body(no_demand, high_water=100, slots=slots)
        result = blocked_read(body, long_waits)
        assert body.blocks_thread
        assert (slots.released, slots.reclaimed) == (1, 0)
        if end == "feed":
            body.feed(b"x")
        elif end == "finish":
            body.finish()
        else:
            body.abort(RequestBodyError("gone"))
        assert (type(result.exception(TIMEOUT)) is RequestBodyError) == (end == "abort")
        assert not body.blocks_thread
        assert (slots.released, slots.reclaimed) == (1, 1)

    def test_are_left_once_however_often_the_thread_wakes_in_vain(
        self, long_waits: queue.SimpleQueue[None]
    ) -> None:
        slots = ThreadSlots()
        body = make_body(no_demand, high_water=100, slots=slots)
        result = in_thread(lambda: read(body, 10))
        for _ in range(3):
            long_waits.get(timeout=TIMEOUT)
            assert (slots.released, slots.reclaimed) == (1, 0)
            body.feed(b"")
        long_waits.get(timeout=TIMEOUT)
        body.feed(b"x")
        assert result.result(TIMEOUT) == b"x"
        assert (slots.released, slots.reclaimed) == (1, 1)

    def test_are_left_when_short_waits_add_up(
        self, waits: queue.SimpleQueue[None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A client that sends byte after byte is no faster for it.
        monkeypatch.setattr(body_module, "time", clock := StillClock())
        slots = ThreadSlots()
        body = make_body(no_demand, high_water=100, slots=slots)
        for left in (0, 0, 1, 2):
            result = blocked_read(body, waits)
            assert (slots.released, slots.reclaimed) == (left, max(left - 1, 0))
            clock.now += TIMEOUT / 2  # Half of what is a short wait here.
            body.feed(b"x")
            assert result.result(TIMEOUT) == b"x"
            assert (slots.released, slots.reclaimed) == (left, left)

    def test_are_left_again_for_every_long_wait(self, long_waits: queue.SimpleQueue[None]) -> None:
        slots = ThreadSlots()
        body = make_body(no_demand, high_water=100, slots=slots)
        for number in range(1, 4):
            result = blocked_read(body, long_waits)
            assert (slots.released, slots.reclaimed) == (number, number - 1)
            body.feed(b"x")
            assert result.result(TIMEOUT) == b"x"
            assert (slots.released, slots.reclaimed) == (number, number)


class BodyMachine(RuleBasedStateMachine):
    """Any order of calls from both sides: what is counted is what is buffered, and is given back.

    The model: how much is buffered, and who has ended. Nobody waits; that a read would do so is
    foretold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        use_condition(self.patch, Refusing)
        self.fed = self.left = 0
        self.finished = self.cut = self.returned = False

    @initialize(initial=st.sampled_from([0, 1, MIN_COUNTED]))
    def make(self, initial: int) -> None:
        self.budget = Budget(1 << 30)
        self.body = make_body(
            no_demand, high_water=2 * MIN_COUNTED, budget=self.budget, initial=bytes(initial)
        )
        self.fed = self.left = initial

    @precondition(lambda self: not self.finished)
    @rule(size=st.sampled_from([0, 1, MIN_COUNTED - 1, MIN_COUNTED, 3 * MIN_COUNTED]))
    def feed(self, size: int) -> None:
        self.body.feed(bytes(size))
        self.fed += size
        # Nothing is kept once the application has returned.
        self.left += 0 if self.returned else size

    @precondition(lambda self: not self.returned)
    @rule(size=st.sampled_from([1, MIN_COUNTED, 4 * MIN_COUNTED]))
    def read(self, size: int) -> None:
        if self.cut:
            with pytest.raises(RequestBodyError):
                read(self.body, size)
        elif not self.left and not self.finished:
            with pytest.raises(WouldWait):
                read(self.body, size)
        else:
            assert len(read(self.body, size)) == min(size, self.left)
            self.left -= min(size, self.left)

    @precondition(lambda self: not self.cut)
    @rule()
    def finish(self) -> None:
        self.finished = True
        self.body.finish()

    @rule()
    def abort(self) -> None:
        if not self.finished:
            self.cut = True
            self.left = 0
        self.body.abort(RequestBodyError("gone"))

    @rule()
    def drop(self) -> None:
        self.returned = True
        self.left = 0
        self.body.drop()

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "body"):
            return
        assert self.body.held == (self.left if self.left >= MIN_COUNTED else 0)
        assert self.budget.used == self.body.held
        assert self.body.received == self.fed
        assert not self.body.blocks_thread

    def teardown(self) -> None:
        if hasattr(self, "body"):
            self.body.abort(RequestBodyError("the test is over"))
            self.body.drop()
            assert self.budget.used == 0
        self.patch.undo()


TestAnyOrder = BodyMachine.TestCase
TestAnyOrder.settings = settings(max_examples=examples(60), stateful_step_count=20)


def _left(body: RequestBody) -> int:
    """Return the number of bytes that are buffered."""
    return body._buffer.size


CHUNKS = st.lists(st.binary(min_size=1, max_size=20), max_size=30)
SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=10)


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=20), st.integers(1, 30))), st.binary())
def test_any_interleaving_of_feeding_and_reading_gives_the_bytes(
    steps: list[bytes | int], initial: bytes
) -> None:
    body = make_body(no_demand, high_water=16, initial=initial)
    fed, got = bytearray(initial), bytearray()
    for step in steps:
        if isinstance(step, bytes):
            body.feed(step)
            fed += step
        elif len(fed) > len(got):
            data = read(body, step)
            assert len(data) == min(step, len(fed) - len(got))
            got += data
    body.finish()
    while data := read(body, 7):
        got += data
    assert got == fed
    assert body.received == len(fed)


@settings(max_examples=examples(60))
@given(CHUNKS, SIZES, st.integers(1, 40))
def test_a_feeder_that_pauses_when_full_and_a_reader_of_any_sizes_meet(
    chunks: list[bytes], sizes: list[int], high_water: int
) -> None:
    demands: queue.SimpleQueue[None] = queue.SimpleQueue()
    body = make_body(lambda: demands.put(None), high_water=high_water)
    peak = 0

    def read_all() -> bytes:
        got = bytearray()
        turn = 0
        while data := read(body, sizes[turn % len(sizes)]):
            assert len(data) <= sizes[turn % len(sizes)]
            got += data
            turn += 1
        return bytes(got)

    result = in_thread(read_all)
    try:
        for chunk in chunks:
            while body.is_full:
                # Fails with queue.Empty where a drained buffer was not reported.
                demands.get(timeout=TIMEOUT)
            body.feed(chunk)
            peak = max(peak, _left(body))
    finally:
        body.finish()
    assert result.result(TIMEOUT) == b"".join(chunks)
    assert peak < high_water + max(map(len, chunks), default=1)


# wsgi.input


def fed_input(body: bytes, splits: list[int]) -> BinaryIO:
    """Return the input of a body that has arrived, and comes out in pieces ending at ``splits``."""
    ends = sorted({min(split, len(body)) for split in splits} | {len(body)})
    position = 0

    def read_into(buffer: memoryview) -> int:
        nonlocal position
        assert buffer, "the channel is never asked for nothing"
        end = next((end for end in ends if end > position), position)
        data = body[position : min(end, position + len(buffer))]
        buffer[: len(data)] = data
        position += len(data)
        return len(data)

    return streamed_input(read_into)


def take(file: BinaryIO, count: int) -> list[bytes]:
    """Iterate over up to ``count`` lines."""
    return [line for line, _ in zip(file, range(count), strict=False)]


def fill(file: Any, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: file.readinto(buffer)])


Call = tuple[str, Callable[[Any], Any]]
ANY_SIZE = st.one_of(st.none(), st.integers(-3, 40))


def _read(size: int | None) -> Call:
    return f"read({size})", lambda file: file.read(size)


def _readline(size: int | None) -> Call:
    return f"readline({size})", lambda file: file.readline(size)


def _readlines(hint: int | None) -> Call:
    return f"readlines({hint})", lambda file: file.readlines(hint)


CALLS = st.one_of(
    ANY_SIZE.map(_read),
    st.just(("read()", lambda file: file.read())),
    ANY_SIZE.map(_readline),
    st.just(("readline()", lambda file: file.readline())),
    ANY_SIZE.map(_readlines),
    st.just(("readlines()", lambda file: file.readlines())),
    st.integers(0, 5).map(lambda count: (f"iterate({count})", lambda file: take(file, count))),
    st.integers(0, 40).map(lambda size: (f"readinto({size})", lambda file: fill(file, size))),
)
BODIES = st.lists(
    st.sampled_from([b"\n", b"a", b"bc\n", b"\r\n", b"long line " * 3]), max_size=30
).map(b"".join)
SPLITS = st.lists(st.integers(0, 300), max_size=12)


def compare(file: BinaryIO, body: bytes, calls: list[Call]) -> None:
    expected = io.BytesIO(body)
    for name, call in [*calls, ("read()", lambda file: file.read())]:
        assert call(file) == call(expected), name
    assert file.read() == b""
    assert file.readline() == b""


@given(BODIES, SPLITS, st.lists(CALLS, max_size=12))
def test_input_behaves_like_bytesio_however_the_body_was_split(
    body: bytes, splits: list[int], calls: list[Call]
) -> None:
    compare(fed_input(body, splits), body, calls)


def _seek(arguments: tuple[int, int]) -> Call:
    def seek(file: BinaryIO) -> object:
        try:
            return file.seek(*arguments)
        except ValueError:
            return "refused"

    return f"seek{arguments}", seek


# Also before the beginning, and from where nothing is: SEEK_DATA is 3 on Linux.
SEEKS = st.one_of(
    st.tuples(st.integers(-330, 330), st.integers(0, 4)).map(_seek),
    st.just(("tell()", lambda file: file.tell())),
)


@given(BODIES, SPLITS, st.lists(st.one_of(CALLS, SEEKS), max_size=12))
def test_input_of_a_body_in_memory_behaves_like_bytesio_however_the_body_was_split(
    body: bytes, splits: list[int], calls: list[Call]
) -> None:
    ends = sorted({min(split, len(body)) for split in splits} | {len(body)})
    pieces = [body[start:end] for start, end in itertools.pairwise([0, *ends]) if start < end]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_module, "_BUFFER_SIZE", 16)  # As if the body were long.
        compare(kept_input([*pieces]), body, calls)


@pytest.mark.parametrize(
    "arguments", [(-5, 0), (-(1 << 18), 1), (-(1 << 18), 2), (-1, 2), (5, 3), (5, 4), (-5, 9)]
)
def test_a_position_that_is_none_leaves_a_body_in_memory_as_it_is(
    arguments: tuple[int, int],
) -> None:
    pieces: list[bytes | bytearray] = [b"0123456789" * 5000, b"abcdefgh" * 5000]
    _, seek = _seek(arguments)
    calls = [_read(7), (f"seek{arguments}", seek), ("tell()", lambda file: file.tell()), _read(20)]
    compare(kept_input(pieces), b"".join(pieces), calls)


def test_pieces_of_a_body_in_memory_are_not_copied_before_they_are_read() -> None:
    pieces: list[bytes | bytearray] = [bytes(1 << 18) for _ in range(4)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        file = kept_input(pieces)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1 << 17
    assert file.read() == bytes(1 << 20)


@settings(max_examples=examples(60))
@given(CHUNKS, st.integers(1, 40), st.lists(CALLS, max_size=8))
def test_input_behaves_like_bytesio_while_another_thread_feeds(
    chunks: list[bytes], high_water: int, calls: list[Call]
) -> None:
    demands: queue.SimpleQueue[None] = queue.SimpleQueue()
    body = make_body(lambda: demands.put(None), high_water=high_water)

    def feed() -> None:
        try:
            for chunk in chunks:
                while body.is_full:
                    demands.get(timeout=TIMEOUT)
                body.feed(chunk)
        finally:
            body.finish()

    fed = in_thread(feed)
    compare(streamed_input(body.read_into), b"".join(chunks), calls)
    fed.result(TIMEOUT)


@given(BODIES, SPLITS, st.lists(st.integers(1, 12).map(_readlines), max_size=6))
@example(b"a\nb\n", [], [_readlines(2)])
def test_input_stops_at_the_hint_of_readlines_like_bytesio(
    body: bytes, splits: list[int], calls: list[Call]
) -> None:
    # Where the hint is reached exactly, io.BufferedReader itself goes on for one more line.
    compare(fed_input(body, splits), body, calls)


@pytest.mark.parametrize("size", [-1, -2, -(1 << 31)])
def test_input_reads_everything_for_any_negative_size(size: int) -> None:
    assert fed_input(b"abc", []).read(size) == io.BytesIO(b"abc").read(size) == b"abc"


def test_input_goes_on_behind_lines_larger_than_its_buffer() -> None:
    body = (b"x" * 100_000 + b"\n") * 3 + b"y" * 70_000
    file = fed_input(body, list(range(0, len(body), 1777)))
    assert [len(line) for line in file] == [100_001, 100_001, 100_001, 70_000]


@given(BODIES, SPLITS, st.lists(st.integers(-1, 40), min_size=1, max_size=5))
def test_read1_gives_every_byte_once_and_nothing_only_at_the_end(
    body: bytes, splits: list[int], sizes: list[int]
) -> None:
    # "At most one read" of the source: how much comes depends on what has arrived, so it is not
    # compared with BytesIO, which always has everything.
    file: Any = fed_input(body, splits)
    got = bytearray()
    turn = 0
    while len(got) < len(body):
        size = sizes[turn % len(sizes)] or 1
        data = file.read1(size)
        assert data
        assert size < 0 or len(data) <= size
        got += data
        turn += 1
    assert got == body
    assert file.read1(10) == b""


def test_input_waits_for_no_more_than_it_was_asked_for() -> None:
    # No end is fed: a read that wanted more than there is would not return.
    body = make_body(no_demand, high_water=100, initial=b"12345line\nand half")
    file = streamed_input(body.read_into)
    result = in_thread(lambda: [file.read(5), file.readline(), file.read(3), read1(file)])
    assert result.result(TIMEOUT) == [b"12345", b"line\n", b"and", b" half"]


def read1(file: Any) -> Any:
    return file.read1(100)


def test_input_asks_for_bytes_only_when_the_application_reads() -> None:
    # A 100 (Continue) is sent when this happens (RFC 9110 §10.1.1).
    asked = 0

    def on_demand() -> None:
        nonlocal asked
        asked += 1
        body.finish()

    body = make_body(on_demand, high_water=100)
    file = streamed_input(body.read_into)
    assert asked == 0
    assert file.read() == b""
    assert asked == 1


INCOMPLETE: list[Call] = [
    ("read", lambda file: file.read()),
    ("read(n)", lambda file: file.read(10)),
    ("readline", lambda file: file.readline()),
    ("readline(n)", lambda file: file.readline(10)),
    ("readlines", lambda file: file.readlines()),
    ("iteration", lambda file: list(file)),
    ("readinto", lambda file: fill(file, 10)),
]


@pytest.mark.parametrize(("name", "call"), INCOMPLETE)
def test_an_incomplete_body_is_never_a_short_read(
    name: str, call: Callable[[Any], Any], waits: queue.SimpleQueue[None]
) -> None:
    body = make_body(no_demand, high_water=100, initial=b"half")
    file = streamed_input(body.read_into)
    result = in_thread(lambda: call(file))
    waits.get(timeout=TIMEOUT)  # It has taken what there is, and waits for the rest.
    body.abort(RequestBodyError("the client left"))
    with pytest.raises(RequestBodyError, match="the client left"):
        result.result(TIMEOUT)
    with pytest.raises(RequestBodyError, match="the client left"):
        call(file)


def test_input_is_a_binary_file_that_only_reads_forwards() -> None:
    file = fed_input(b"abc", [])
    assert file.readable()
    assert not file.seekable()
    assert not file.writable()
