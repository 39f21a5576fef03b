"""Which of several processes accepts a connection. In memory, on a clock that the test moves."""

from typing import Any

import pytest
from extent import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from aiowsgi.net.accept.silence import MOMENT
from aiowsgi.net.accept.turns import Turns, better
from aiowsgi.observe.scoreboard import Reading, Row, Scoreboard, State

MILLISECOND = 1_000_000
# The time of a machine that has run for a while.
START = 10**15
# More than any wait, in milliseconds.
ENOUGH = 1000


class House:
    """Several processes by their rows, and the turns of the first one."""

    def __init__(self, processes: int = 2) -> None:
        self.now = START
        self.board = Scoreboard(processes, 4)
        self.rows = []
        for _ in range(processes):
            row = self.board.take(1)
            assert row is not None
            self.rows.append(row)
            row.begin(100 + row.number, queue_size=4)
            row.set_state(State.SERVING)
            row.beat(self.now, healthy=True)
            self.loads(row)
            row.note_connections(0, has_room=True)
        self.first, self.second = self.rows[0], self.rows[-1]
        self.turns = Turns(self.first, lambda: self.now)

    def loads(
        self, row: Row, *, threads: int = 2, busy: int = 0, queued: int = 0, since: int = 0
    ) -> None:
        row.note_threads(threads, lost=0)
        # The one that began last, in a slot that nobody looks at.
        row.begin_request(9, self.now, since or self.now, busy + queued, "")

    def connects(self, row: Row, connections: int) -> None:
        row.note_connections(connections, has_room=True)

    def accepts(self, row: Row) -> None:
        row.note_accepted(self.now)

    def waits(self) -> int:
        """Return for how many milliseconds the first leaves one connection to others; accept it."""
        for waited in range(ENOUGH):
            seconds = self.turns.pause()
            if not seconds:
                self.accepts(self.first)
                return waited
            assert seconds == 0.001
            self.now += MILLISECOND
        return ENOUGH


def test_one_that_is_alone_accepts_at_once() -> None:
    house = House(1)
    house.loads(house.first, busy=2, queued=4)
    assert house.waits() == 0


def test_of_equals_the_first_to_come_accepts() -> None:
    house = House()
    assert house.waits() == 0
    house.connects(house.first, 1)
    assert house.waits() == 0
    house.connects(house.first, 2)
    assert house.waits() > 0


def test_connections_are_left_to_one_with_a_free_thread() -> None:
    house = House()
    house.loads(house.first, busy=2)
    house.loads(house.second, busy=1)
    # It has more connections: they do not count.
    house.connects(house.second, 50)
    assert house.turns.pause()
    house.loads(house.second, busy=2)
    assert not house.turns.pause()


def test_a_thread_that_waits_for_a_client_is_as_good_as_free() -> None:
    house = House()
    house.loads(house.first, threads=3, busy=2)
    assert house.waits() == 0


def test_where_no_thread_is_free_they_are_left_to_one_with_a_shorter_queue() -> None:
    house = House()
    waits_for_long = house.now - 100 * MILLISECOND
    house.loads(house.first, busy=2, queued=3, since=waits_for_long)
    house.loads(house.second, busy=2, queued=2, since=waits_for_long)
    house.connects(house.second, 50)
    assert house.turns.pause()
    house.loads(house.first, busy=2, queued=2, since=waits_for_long)
    assert not house.turns.pause()


def test_threads_that_are_busy_for_long_are_less_likely_to_become_free() -> None:
    """Perhaps a thread elsewhere has just answered, and is about to say so."""
    house = House()
    house.loads(house.first, busy=2, since=house.now - 100 * MILLISECOND)
    house.loads(house.second, busy=2)
    house.connects(house.second, 50)
    assert house.turns.pause()
    house.loads(house.second, busy=2, since=house.now - 100 * MILLISECOND)
    assert not house.turns.pause()


def test_a_queue_that_moves_quickly_says_less_than_connections() -> None:
    house = House()
    house.loads(house.first, busy=2, queued=3)
    house.loads(house.second, busy=2, queued=1)
    house.connects(house.second, 5)
    assert house.waits() == 0
    house.connects(house.first, 10)
    assert house.waits() > 0


def test_a_request_is_refused_only_where_all_queues_are_full() -> None:
    house = House()
    house.loads(house.first, busy=2, queued=4)
    house.loads(house.second, busy=2, queued=3)
    house.connects(house.second, 50)
    assert house.turns.pause()
    house.loads(house.second, busy=2, queued=4)
    assert not house.turns.pause()


def test_requests_that_are_about_to_come_count() -> None:
    house = House()
    house.connects(house.first, 2)
    house.first.note_silent(2)
    house.accepts(house.first)
    assert house.turns.pause()
    # They are connections in advance.
    house.now += MOMENT
    house.connects(house.second, 2)
    house.second.beat(house.now, healthy=True)
    assert not house.turns.pause()


@pytest.mark.parametrize("state", [State.STARTING, State.DRAINING])
def test_nothing_is_left_to_one_that_does_not_serve(state: State) -> None:
    house = House()
    house.loads(house.first, busy=2)
    house.second.set_state(state)
    assert house.waits() == 0


@pytest.mark.parametrize("why", ["gone", "full", "unhealthy"])
def test_nothing_is_left_to_one_that_cannot_take_it(why: str) -> None:
    house = House()
    house.loads(house.first, busy=2)
    match why:
        case "gone":
            house.second.clear()
        case "full":
            house.second.note_connections(9, has_room=False)
        case "unhealthy":
            house.second.beat(house.now, healthy=False)
    assert house.waits() == 0


def test_one_that_ends_leaves_connections_to_those_that_go_on() -> None:
    house = House()
    house.first.set_state(State.DRAINING)
    house.loads(house.second, busy=2, queued=4)
    house.connects(house.second, 50)
    assert 3 <= house.waits() <= 5


# --- those who do not come ------------------------------------------------------------------------


def test_one_that_does_not_come_is_waited_for_a_few_milliseconds_in_all() -> None:
    """It is stopped or dead, or its event loop is blocked."""
    house = House()
    house.loads(house.first, busy=2)
    assert 18 <= house.waits() <= 20
    assert house.waits() <= 7
    assert [house.waits() for _ in range(9)] == [0] * 9


def test_one_with_free_threads_waits_less() -> None:
    house = House()
    house.connects(house.first, 9)
    waits = [house.waits() for _ in range(9)]
    assert 3 <= max(waits) <= 5
    assert sum(waits) <= 25
    assert waits[-1] == 0


@pytest.mark.parametrize("sign", ["beat", "accept"])
def test_it_is_waited_for_again_once_it_has_done_something(sign: str) -> None:
    house = House()
    house.loads(house.first, busy=2)
    while house.waits():
        pass
    if sign == "beat":
        house.second.beat(house.now, healthy=True)
    else:
        house.accepts(house.second)
    assert 18 <= house.waits() <= 20


def test_each_connection_that_another_accepts_begins_a_new_wait() -> None:
    house = House()
    house.loads(house.first, busy=2)
    for _ in range(100):
        assert house.turns.pause()
        house.now += 15 * MILLISECOND
        house.accepts(house.second)


def test_a_wait_in_which_this_process_did_not_run_says_nothing_of_others() -> None:
    house = House()
    house.loads(house.first, busy=2)
    assert house.turns.pause()
    house.now += ENOUGH * MILLISECOND
    assert house.turns.pause()


def test_one_that_is_stopped_is_not_waited_for_because_others_accept() -> None:
    """Perhaps they do so on another socket."""
    house = House(3)
    stopped, other = house.rows[1:]
    house.loads(house.first, busy=2)
    house.loads(other, busy=2)
    waited = 0
    while house.turns.pause():
        house.now += MILLISECOND
        waited += 1
        house.accepts(other)
    assert waited <= 25
    assert stopped.read().jobs == 0


# --- all at once ----------------------------------------------------------------------------------

readings = st.builds(
    lambda **numbers: Reading._make([0] * len(Reading._fields))._replace(healthy=1, **numbers),
    state=st.sampled_from([State.SERVING, State.SERVING, State.DRAINING]),
    threads=st.just(2),
    jobs=st.integers(0, 6),
    queued_at=st.sampled_from([0, START - 100 * MILLISECOND, START]),
    queue_size=st.integers(0, 3),
    connections=st.integers(0, 5),
    silent=st.integers(0, 2),
    accepted_at=st.sampled_from([START, START - 2 * MOMENT]),
    has_room=st.integers(0, 1),
)


@settings(max_examples=examples(300))
@given(st.lists(readings, min_size=1, max_size=5))
def test_there_is_always_one_that_leaves_a_connection_to_nobody(board: list[Any]) -> None:
    rows = dict(enumerate(board))
    assert any(
        not better(own, {number: rows[number] for number in rows if number != mine}, START)
        for mine, own in rows.items()
    )
