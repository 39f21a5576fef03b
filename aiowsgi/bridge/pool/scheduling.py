"""Whose turn it is to compute: threads that keep their place in the queue for the interpreter.

A thread that wants the interpreter while another one computes waits for a switch interval (see
``sys.setswitchinterval``), asks for it, and goes on waiting at the end of the queue. Threads that
compute for long change places with each other that way, and each has its share. A thread with
little to do, such as the loop thread with a request, loses its place over and over, and waits for
all of them several times. One that is patient, which means that it may be woken late, asks less
often, and has its turn as soon as those who came before it have had theirs.

Somebody has to ask, though: patience is for times in which several jobs compute. And it is about
CPython's lock and Linux' timers (prctl(2), PR_SET_TIMERSLACK); elsewhere nobody is patient.

Threads and processes begin as patient as the thread that starts them, and nobody tells them. So a
thread is patient only in a process of our own, and only where no code of the application runs: the
loop thread until the first coroutine of the application or the end of the server, and threads of
the pool that have no job.
"""

import sys
import time
from collections.abc import Callable, Iterable

from ... import libc
from .jobs import Started

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
# How late a patient thread may be woken, in nanoseconds: several switch intervals.
_LATE = 20_000_000
# Seconds between two looks at the threads.
_INTERVAL = 0.05
# A thread computes if it has had this share of the time. Many at once have little each.
_SHARE = 0.03


class Patience:
    """Makes threads patient, each the one that calls.

    Arguments: prctl(2), and how late the threads of the process may be woken otherwise, in
    nanoseconds.
    """

    def __init__(self, prctl: Callable[..., int], usual: int) -> None:
        self._prctl = prctl
        self._usual = usual

    def begin(self) -> None:
        """Let the calling thread be woken late."""
        self._prctl(_PR_SET_TIMERSLACK, _LATE, 0, 0, 0)

    def end(self) -> None:
        """Have the calling thread woken as all others of the process."""
        self._prctl(_PR_SET_TIMERSLACK, self._usual, 0, 0, 0)


def find_patience() -> Patience | None:
    """Return what makes threads patient, or None where it is no use.

    For a process that serves and does nothing else. Called on a thread that is not patient.
    """
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.platform != "linux" or sys.implementation.name != "cpython" or not has_lock:
        return None
    prctl = libc.find("prctl", "c_int", "c_int", *["c_ulong"] * 4)
    # None of a thread with a real-time priority, which is always woken in time.
    usual = 0 if prctl is None else prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    return Patience(prctl, usual) if prctl is not None and usual > 0 else None


def _cpu_time(native_id: int) -> float:
    """Return the seconds that a thread has computed for; 0 if it has ended."""
    try:
        # Linux makes the number of a thread's clock from that of the thread.
        return time.clock_gettime((~native_id << 3) | 6)
    except OSError:
        return 0.0


class Crowd:
    """Finds out whether several jobs compute. Not thread-safe: its owner has a lock."""

    def __init__(self) -> None:
        self._looked_at = 0.0
        # What each thread had computed by then, by its number and when its job began.
        self._before: dict[tuple[int, float], float] = {}
        self.computing = False

    def is_due(self, now: float) -> bool:
        """Return whether it is time for a look. ``now`` by ``time.monotonic``."""
        return now - self._looked_at >= _INTERVAL

    def look(self, running: Iterable[Started], now: float) -> None:
        """Look at the threads that run jobs."""
        passed = now - self._looked_at
        self._looked_at = now
        before, self._before = self._before, {}
        computing = 0
        for started in running:
            job = started.native_id, started.at
            self._before[job] = cpu_time = _cpu_time(started.native_id)
            if cpu_time - before.get(job, cpu_time) > _SHARE * passed:
                computing += 1
        self.computing = computing > 1
