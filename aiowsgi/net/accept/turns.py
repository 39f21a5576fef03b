"""Whose turn it is to accept a connection, of processes that share a listening socket.

All of them are woken for it. One that is more loaded than another leaves it to that for a moment,
and accepts after all if the other does not come. That is decided from their rows on the scoreboard
and the time alone.
"""

import time
from collections.abc import Callable

from ...observe.scoreboard import Reading, Row, State
from .silence import MOMENT

_MILLISECOND = 1_000_000
# Who leaves a connection to others looks again after this many seconds.
_PAUSE = 0.001
# So much of the time between two looks counts as a wait, in nanoseconds: where it was longer, this
# process did not run either, and perhaps no other.
_MOST_PER_LOOK = 2 * _MILLISECOND
# How long a connection is left to others, none of which accepts one. Longer where all own threads
# are busy: then the request would have to wait here, too.
_PATIENCE = 5 * _MILLISECOND
_PATIENCE_WITHOUT_THREAD = 20 * _MILLISECOND
# One that was waited for so long, and did nothing meanwhile, is not waited for until it does
# something: it is stopped or dead, or its event loop is blocked.
_ABSENT = 25 * _MILLISECOND
# The lengths of queues tell little, unless one waits for longer in one of them, or one is full.
# Where none has begun for longer, all threads are busy with requests that take long.
_QUICK = 25 * _MILLISECOND
# One may have this many connections more than another one. Else none could accept two in a row, and
# each would often wait for the other.
_MORE_CONNECTIONS = 1


class Turns:
    """Decides when a process leaves the connections of a socket to its siblings.

    On the loop thread. Arguments: its row, and the clock, in nanoseconds of ``time.monotonic_ns``.
    """

    def __init__(self, row: Row, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._row = row
        self._clock = clock
        self._asked_at = 0
        # For how long the connection that comes next was left to others, and how many connections
        # were accepted before it.
        self._waited = self._accepted = 0
        # For how long others were waited for in vain, by the numbers of their rows, and what they
        # had done before.
        self._waits: dict[int, tuple[tuple[int, int], int]] = {}

    def pause(self) -> float:
        """Return for how many seconds connections are left to others; 0 where one is accepted.

        Called when one is there, or may be.
        """
        now = self._clock()
        step, self._asked_at = min(now - self._asked_at, _MOST_PER_LOOK), now
        others = self._row.board.read()
        accepted = sum(reading.accepted for reading in others.values())
        self._waited = self._waited + step if accepted == self._accepted else 0
        self._accepted = accepted
        own = others.pop(self._row.number)
        if not others:
            return 0.0
        patience = _PATIENCE_WITHOUT_THREAD if queue(own, now) else _PATIENCE
        is_anybody_there = self._are_present(better(own, others, now), step)
        return _PAUSE if is_anybody_there and self._waited < patience else 0.0

    def _are_present(self, others: dict[int, Reading], step: int) -> bool:
        """Return whether any of the better ones seems to run, after ``step`` more nanoseconds."""
        waits = {}
        for number, other in others.items():
            done = other.heartbeat, other.accepted
            before, waited = self._waits.get(number, (done, 0))
            waits[number] = done, waited + step if done == before else 0
        # It does not wait for those who are not better any more.
        self._waits = waits
        return any(waited < _ABSENT for _, waited in waits.values())


def better(own: Reading, others: dict[int, Reading], now: int) -> dict[int, Reading]:
    """Return those of the others to whom a connection is better left, by the numbers of their rows.

    They have a free thread, and all of the own ones are busy; or no process has one, and their
    queue is shorter, or threads are more likely to become free there; else they have fewer
    connections. ``now`` is in nanoseconds of ``time.monotonic_ns``.
    """
    welcoming = {
        number: other
        for number, other in others.items()
        if other.state == State.SERVING and other.has_room and other.healthy
    }
    if own.state != State.SERVING:  # It is about to end.
        return welcoming
    everybody = (own, *welcoming.values())
    # Else the length of a queue only says who has read last.
    queues_count = any(
        is_full(reading, now) or (reading.queued and is_stuck(reading, now))
        for reading in everybody
    )

    def load(reading: Reading) -> tuple[int, bool]:
        waiting = queue(reading, now)
        return waiting if queues_count else min(waiting, 1), is_stuck(reading, now)

    own_load = load(own)
    return {
        number: other
        for number, other in welcoming.items()
        if (other_load := load(other)) < own_load
        or (other_load == own_load and other.connections + _MORE_CONNECTIONS < own.connections)
    }


def is_stuck(reading: Reading, now: int) -> bool:
    """Return whether all threads are busy, and requests for longer than a few of them usually take.

    Either the last one that began had waited for long, or none has begun since.
    """
    return reading.jobs >= reading.threads and now - reading.queued_at > _QUICK


def is_full(reading: Reading, now: int) -> bool:
    """Return whether a request more would be refused."""
    return queue(reading, now) > reading.queue_size


def queue(reading: Reading, now: int) -> int:
    """Return how many requests would wait for a thread with one more; 0 where a thread is free.

    Those count that are about to come: their connections were accepted just now.
    """
    coming = reading.silent if now - reading.accepted_at < MOMENT else 0
    return max(0, reading.jobs + coming + 1 - reading.threads)
