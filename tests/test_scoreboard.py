"""The scoreboard: numbers and requests that processes share, and never read by halves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from extent import examples
from waiting import PATIENCE

from aiowsgi.observe.scoreboard import MAX_TEXT, Reading, RequestReading, Row, Scoreboard, State


def new_row(slots: int = 4) -> Row:
    row = Scoreboard(1, slots).take(generation=1)
    assert row is not None
    return row


def test_a_row_says_what_its_process_has_written() -> None:
    row = new_row()
    row.begin(4711, queue_size=6)
    row.set_state(State.SERVING)
    row.beat(10**18, healthy=True)
    row.note_threads(8, lost=2)
    row.note_jobs(9)
    row.note_connections(64, has_room=True)
    row.note_silent(7)
    row.note_accepted(10**18 + 1)
    row.note_accepted(10**18 + 2)
    row.begin_request(1, 10**18 + 3, 10**17, 9, "GET / [1]")
    assert row.read() == Reading(
        pid=4711,
        generation=1,
        state=State.SERVING,
        heartbeat=10**18,
        threads=8,
        jobs=9,
        queued_at=10**17,
        queue_size=6,
        lost=2,
        connections=64,
        silent=7,
        accepted_at=10**18 + 2,
        accepted=2,
        has_room=1,
        healthy=1,
        slots=2,
    )
    assert (row.read().busy, row.read().queued) == (8, 1)


def test_rows_keep_out_of_each_others_way() -> None:
    board = Scoreboard(3, 2)
    rows = [board.row(number) for number in range(3)]
    for row in rows:
        assert board.take(generation=0) is row
        row.begin(100 + row.number, queue_size=6)
        row.note_connections(200 + row.number, has_room=True)
        for slot in range(2):
            row.begin_request(slot, 1 + slot, 0, 1, f"{row.number}{slot}" * MAX_TEXT)
    for row in rows:
        reading = row.read()
        assert (reading.pid, reading.connections) == (100 + row.number, 200 + row.number)
        assert [request.text[:2] for request in row.requests()] == [
            f"{row.number}0",
            f"{row.number}1",
        ]


def test_a_row_is_taken_once_and_again_when_it_was_cleared() -> None:
    board = Scoreboard(2, 1)
    first, second = board.take(1), board.take(2)
    assert first is not None
    assert second is not None
    assert first.number != second.number
    assert board.rows() == [first, second]
    assert board.take(3) is None
    first.begin(4711, queue_size=6)
    first.begin_request(0, 5, 0, 1, "GET /")
    first.clear()
    assert board.rows() == [second]
    assert board.take(3) is first
    assert first.read() == Reading._make([0] * len(Reading._fields))._replace(
        generation=3, state=State.STARTING
    )
    assert first.requests() == []


def test_one_of_the_rows_is_the_first_whoever_has_gone() -> None:
    board = Scoreboard(3, 1)
    first, second, third = (board.take(1) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert [row.is_first for row in (first, second, third)] == [True, False, False]
    first.clear()
    assert [row.is_first for row in (second, third)] == [True, False]
    assert board.take(2) is first
    assert [row.is_first for row in (first, second, third)] == [True, False, False]


def test_requests_in_flight_are_told_the_oldest_first() -> None:
    row = new_row()
    row.begin_request(0, 300, 0, 1, "GET /young")
    row.begin_request(3, 100, 0, 1, "GET /old")
    row.begin_request(1, 200, 0, 1, "GET /ended")
    row.end_request(1)
    assert row.requests() == [RequestReading(100, "GET /old"), RequestReading(300, "GET /young")]


@pytest.mark.parametrize("text", ["x" * (MAX_TEXT + 1), "\N{SNOWMAN}" * MAX_TEXT, "\udc80"])
def test_a_request_has_the_room_of_its_slot(text: str) -> None:
    row = new_row()
    row.begin_request(1, 1, 0, 1, "GET /neighbour")
    row.begin_request(0, 2, 0, 1, text)
    neighbour, cut = row.requests()
    assert neighbour.text == "GET /neighbour"
    assert len(cut.text.encode()) <= MAX_TEXT + 2  # A character that was cut through has a mark.
    assert cut.text[:20] in (text[:20], "?")


def test_a_request_without_a_slot_is_left_out() -> None:
    board = Scoreboard(2, 1)
    row, neighbour = board.row(0), board.row(1)
    neighbour.begin_request(0, 1, 0, 1, "GET /neighbour")
    row.begin_request(1, 2, 0, 1, "GET /more")
    row.end_request(1)
    assert row.requests() == []
    assert neighbour.requests() == [RequestReading(1, "GET /neighbour")]


# --- several processes ----------------------------------------------------------------------------

_BEGINNING = """
import os, signal, sys, time
from aiowsgi.observe.scoreboard import MAX_TEXT, RequestReading, Scoreboard, State

board = Scoreboard(2, 2)
row = board.take(1)
LIMIT = time.monotonic() + 40

def fork(write):
    # Runs it again and again, until the parent ends it, or has failed.
    parent, pid = os.getpid(), os.fork()
    if pid:
        return pid
    try:
        while os.getppid() == parent and time.monotonic() < LIMIT:
            write()
    finally:
        os._exit(1)

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

def read_until_all(read, expected, rounds):
    # Both processes must have run at the same time: each value is seen, several times in turn.
    turns, last = 0, None
    while turns < 20 or rounds > 0:
        assert time.monotonic() < LIMIT, "not every value was seen"
        value = read()
        assert value in expected, value
        turns, last, rounds = turns + (value != last), value, rounds - 1
"""


def run(program: str) -> None:
    """Run a program that forks, in a process without threads; it fails by an exception."""
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join([root, *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", _BEGINNING + program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


def test_a_number_is_never_read_by_halves() -> None:
    run("""
values = (0x0123456789ABCDEF, -0x0123456789ABCDEF)

def write():
    for value in values:
        row.beat(value, healthy=True)

row.beat(values[0], healthy=True)
writer = fork(write)
read_until_all(lambda: row.read().heartbeat, values, 100_000)
end(writer)
""")


def test_a_request_is_never_read_by_halves() -> None:
    run("""
requests = [RequestReading(1, "a" * MAX_TEXT), RequestReading(2, "b" * (MAX_TEXT // 2))]

def write():
    for request in requests:
        row.begin_request(0, request.began, 0, 1, request.text)
        row.end_request(0)

writer = fork(write)
read_until_all(row.requests, [[], *([request] for request in requests)], 200_000)
end(writer)
""")


def test_what_a_killed_process_was_doing_is_told_and_its_row_is_free_again() -> None:
    run("""
ready, tell = os.pipe()

def write():
    row.begin(os.getpid(), queue_size=6)
    row.set_state(State.SERVING)
    row.begin_request(0, 7, 0, 1, "GET /slow [1]")
    os.write(tell, b"x")
    signal.pause()

pid = fork(write)
os.read(ready, 1)
end(pid)
assert row.read().pid == pid
assert row.requests() == [RequestReading(7, "GET /slow [1]")]
row.clear()
assert board.rows() == []
assert board.take(2) is row
assert row.requests() == []
""")


def test_a_request_that_its_process_was_killed_while_writing_is_left_out_or_told() -> None:
    run(
        f"KILLS = {examples(50)}\n"
        + """
requests = [RequestReading(1, "a" * MAX_TEXT), RequestReading(2, "b" * (MAX_TEXT // 2))]

def write():
    for request in requests:
        row.begin_request(0, request.began, 0, 1, request.text)
        row.end_request(0)

for kill in range(KILLS):
    writer = fork(write)
    read_until_all(row.requests, [[], *([request] for request in requests)], 100 + kill)
    end(writer)
    assert row.requests() in [[], *([request] for request in requests)]
    row.clear()
    assert row.requests() == []
    assert board.take(2) is row
    row.begin_request(0, 8, 0, 1, "GET /next")
    assert row.requests() == [RequestReading(8, "GET /next")]
    row.end_request(0)
"""
    )
