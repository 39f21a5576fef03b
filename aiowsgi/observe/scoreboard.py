"""The scoreboard: what processes that serve together tell each other, in memory that they share.

It is made before the first fork. Each process that serves has a row and is the only one that writes
there; all others read it at any time, without a lock. So a number is eight bytes, aligned, and is
stored and loaded at once; several numbers of one row may be of slightly different moments. What is
longer, a request in flight, begins and ends with the same number, against reading half of it.

This module knows nothing of processes. Who makes a scoreboard, who gets which row, and what follows
from the numbers is decided elsewhere.
"""

import mmap
import struct
from enum import IntEnum
from typing import NamedTuple

_WORD_SIZE = 8
# A slot holds a request: when it began, its text, filled up with zeros, and again when it began.
# That is written last: where the two differ, it is being written. No request began at 0.
MAX_TEXT = 240
_SLOT = struct.Struct(f"q{MAX_TEXT}sq")
_SLOT_WORDS = _SLOT.size // _WORD_SIZE
# How often a request that changes meanwhile is read again. A process that was killed while it wrote
# would be waited for in vain.
_ATTEMPTS = 8


class State(IntEnum):
    """What the process of a row does."""

    FREE = 0
    STARTING = 1
    SERVING = 2
    # It answers what it has, and is about to end.
    DRAINING = 3


class Reading(NamedTuple):
    """The numbers of a row, as they were a moment ago. The fields are its words, in their order.

    Times are nanoseconds of ``time.monotonic_ns``, which is the same in all processes.
    """

    pid: int
    # Which of the successive configurations the process serves.
    generation: int
    # A ``State``.
    state: int
    # When the event loop last ran.
    heartbeat: int
    # How many requests may run at the same time; how many do, or wait for a thread; and since when
    # the one that began last had waited.
    threads: int
    jobs: int
    queued_at: int
    # How many may wait.
    queue_size: int
    # How many threads were given up and still run.
    lost: int
    connections: int
    # How many were accepted just before the last one and have sent nothing so far, that one
    # included; and when it was accepted.
    silent: int
    accepted_at: int
    # How many were accepted since the process started.
    accepted: int
    # 0 or 1: whether another connection is welcome, and whether few enough threads are lost.
    has_room: int
    healthy: int
    # How many of the slots for requests were ever used.
    slots: int

    @property
    def busy(self) -> int:
        """How many requests run."""
        return min(self.jobs, self.threads)

    @property
    def queued(self) -> int:
        """How many wait for a thread."""
        return self.jobs - self.busy


_ROW_WORDS = len(Reading._fields)
(
    _PID,
    _GENERATION,
    _STATE,
    _HEARTBEAT,
    _THREADS,
    _JOBS,
    _QUEUED_AT,
    _QUEUE_SIZE,
    _LOST,
    _CONNECTIONS,
    _SILENT,
    _ACCEPTED_AT,
    _ACCEPTED,
    _HAS_ROOM,
    _HEALTHY,
    _SLOTS,
) = range(_ROW_WORDS)


class RequestReading(NamedTuple):
    """A request that a thread was running a moment ago."""

    # In nanoseconds of ``time.monotonic_ns``.
    began: int
    # What it is, cut to ``MAX_TEXT`` bytes.
    text: str


class Row:
    """What one process tells the others, and a slot for each request that it may run.

    Everybody reads. Only that process writes: each method below says under which lock or on which
    thread. Before it begins and once it has ended, the process that starts it does.
    """

    def __init__(
        self, board: "Scoreboard", number: int, numbers: memoryview, slots: memoryview
    ) -> None:
        self.board = board
        self.number = number
        self._numbers = numbers.cast("q")
        self._slots = slots
        # The same, to write when a request began.
        self._slot_words = slots.cast("q")
        self._most_slots = len(slots) // _SLOT.size

    def read(self) -> Reading:
        """Return the numbers of the row."""
        return Reading._make(self._numbers.tolist())

    @property
    def is_free(self) -> bool:
        """Whether no process has it."""
        return self._numbers[_STATE] == State.FREE

    @property
    def is_first(self) -> bool:
        """Whether no process has a row before this one: one of them all, for what is said once."""
        return self.board.rows()[0] is self

    # Written by the loop thread.

    def begin(self, pid: int, *, queue_size: int) -> None:
        """Take the row over, in the process that it is for."""
        self._numbers[_PID] = pid
        self._numbers[_QUEUE_SIZE] = queue_size

    def set_state(self, state: State) -> None:
        """Say what the process does."""
        self._numbers[_STATE] = state

    def beat(self, now: int, *, healthy: bool) -> None:
        """Say that the event loop has run at ``now``, and whether the process had better end."""
        self._numbers[_HEALTHY] = healthy
        self._numbers[_HEARTBEAT] = now

    def note_connections(self, connections: int, *, has_room: bool) -> None:
        """Say how many there are, and whether another one is welcome."""
        self._numbers[_CONNECTIONS] = connections
        self._numbers[_HAS_ROOM] = has_room

    def note_silent(self, connections: int) -> None:
        """Say how many connections are silent."""
        self._numbers[_SILENT] = connections

    def note_accepted(self, now: int) -> None:
        """Count a connection that was accepted at ``now``."""
        self._numbers[_ACCEPTED_AT] = now
        self._numbers[_ACCEPTED] += 1

    # Written under the lock of the pool.

    def note_threads(self, threads: int, *, lost: int) -> None:
        """Say how many requests may run at the same time, and how many threads are lost."""
        self._numbers[_THREADS] = threads
        self._numbers[_LOST] = lost

    def note_jobs(self, jobs: int) -> None:
        """Say how many requests run, or wait for a thread."""
        self._numbers[_JOBS] = jobs

    def begin_request(self, slot: int, began: int, queued_at: int, jobs: int, text: str) -> None:
        """Put a request that begins into a slot that is not in use; the lowest are best.

        ``began``, and ``queued_at``, since when it has waited for a thread, are in nanoseconds of
        ``time.monotonic_ns``. ``jobs`` is what ``note_jobs`` takes, in one call with
        the rest. Where there is no such slot, the request is left out: the options of a process may
        have changed since the scoreboard was made.
        """
        numbers = self._numbers
        numbers[_QUEUED_AT] = queued_at
        numbers[_JOBS] = jobs
        if slot >= self._most_slots:
            return
        if slot >= numbers[_SLOTS]:
            numbers[_SLOTS] = slot + 1
        # First, because packing begins with zeros everywhere. A process that is killed in the midst
        # of that would leave half of the request before.
        self._slot_words[slot * _SLOT_WORDS] = 0
        # By position: this is done for each request.
        _SLOT.pack_into(
            self._slots, slot * _SLOT.size, began, text.encode("utf-8", "replace"), began
        )

    def end_request(self, slot: int) -> None:
        """Free a slot."""
        if slot < self._most_slots:
            self._slot_words[slot * _SLOT_WORDS] = 0

    # Called by others.

    def requests(self) -> list[RequestReading]:
        """Return the requests in flight, the oldest first.

        One that begins while it is read may be left out.
        """
        found = (self._read_slot(slot) for slot in range(self._numbers[_SLOTS]))
        return sorted(request for request in found if request is not None)

    def _read_slot(self, slot: int) -> RequestReading | None:
        start = slot * _SLOT.size
        data = bytes(self._slots[start : start + _SLOT.size])
        for _ in range(_ATTEMPTS):
            before, data = data, bytes(self._slots[start : start + _SLOT.size])
            began, text, end = _SLOT.unpack(data)
            if not began:
                return None
            if data == before and began == end:
                return RequestReading(began, text.rstrip(b"\0").decode(errors="replace"))
        return None

    def clear(self) -> None:
        """Free the row, whose process has ended. Called by the one that has started it."""
        for slot in range(self._numbers[_SLOTS]):
            self.end_request(slot)
        for number in range(_ROW_WORDS):
            if number != _STATE:
                self._numbers[number] = 0
        self._numbers[_STATE] = State.FREE


class Scoreboard:
    """Rows for ``rows`` processes, each with at most ``slots`` requests that run.

    Processes that are forked from now on share it. It cannot grow, because those that are there
    would not see that; but rows and slots that are never used take no memory.
    """

    def __init__(self, rows: int, slots: int) -> None:
        row_size, slots_size = _ROW_WORDS * _WORD_SIZE, slots * _SLOT.size
        # Before the rows there is one word, in as much room as a row: how many were ever used.
        start = row_size * (rows + 1)
        page = memoryview(mmap.mmap(-1, start + slots_size * rows))
        self._used = page[:_WORD_SIZE].cast("q")
        # All numbers come first, because who accepts a connection reads those of all rows.
        self._rows = tuple(
            Row(
                self,
                number,
                page[row_size * (number + 1) :][:row_size],
                page[start + slots_size * number :][:slots_size],
            )
            for number in range(rows)
        )

    def take(self, generation: int) -> Row | None:
        """Return a free row, now that of a process that starts; None where there is none.

        Called by the one process that starts the others.
        """
        for row in self._rows:
            if row.is_free:
                row._numbers[_GENERATION] = generation
                row._numbers[_STATE] = State.STARTING
                self._used[0] = max(self._used[0], row.number + 1)
                return row
        return None

    def row(self, number: int) -> Row:
        """Return a row by its number, which is the same in all processes."""
        return self._rows[number]

    def rows(self) -> list[Row]:
        """Return the rows that are not free."""
        used = self._rows[: self._used[0]]
        return [row for row in used if not row.is_free]

    def read(self) -> dict[int, Reading]:
        """Return the numbers of all rows that are not free, by those of the rows."""
        return {row.number: row.read() for row in self.rows()}
