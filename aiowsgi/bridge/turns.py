"""Whose turn it is to compute: threads that keep their place in the queue for the interpreter.

A thread that wants the interpreter while another one computes waits for a switch interval (see
``sys.setswitchinterval``), asks for it, and goes on waiting at the end of the queue. Threads that
compute for long change places with each other that way, and each has its share. A thread with
little to do, such as the loop thread with a request, loses its place over and over, and waits for
all of them several times. One that is patient, which means that it may be woken late, asks less
often, and has its turn as soon as those who came before it have had theirs.

Somebody has to ask, though: patience is for times in which several jobs compute. And it is about
CPython's lock and Linux' timers (prctl(2), PR_SET_TIMERSLACK); elsewhere nobody is patient.

The opposite of patience is for threads that run jobs: what these sleep for ends when it should.
"""

import sys
import time
from collections.abc import Iterable

from .. import libc
from .jobs import Started

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
# How late the kernel wakes a thread unless somebody has chosen otherwise, in nanoseconds.
_DEFAULT = 50_000
# How late it may wake a punctual one.
_PUNCTUAL = 1_000
# How late a patient thread may be woken: several switch intervals.
_PATIENCE = 20_000_000
# Seconds between two looks at the threads.
_INTERVAL = 0.05
# A thread computes if it has had this share of the time. Many at once have little each.
_SHARE = 0.03


_prctl = libc.find("prctl", "c_int", "c_int", *["c_ulong"] * 4)


def _usual_slack() -> int:
    """Return the timer slack of the calling thread in nanoseconds; 0 where patience is no use."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.platform != "linux" or sys.implementation.name != "cpython" or not has_lock:
        return 0
    return 0 if _prctl is None else max(0, _prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0))


_USUAL = _usual_slack()


def be_patient(patient: bool) -> None:
    """Make the calling thread patient, or as it was before."""
    if _prctl is not None and _USUAL:
        _prctl(_PR_SET_TIMERSLACK, _PATIENCE if patient else _USUAL, 0, 0, 0)


def be_punctual() -> None:
    """Make the calling thread neither patient nor late, unless the process is told to be late.

    Whoever saves power that way (systemd's TimerSlackNSec=, for one) means all threads. Threads and
    processes that the thread starts are as punctual.
    """
    if _prctl is not None and _USUAL:
        _prctl(_PR_SET_TIMERSLACK, _PUNCTUAL if _USUAL == _DEFAULT else _USUAL, 0, 0, 0)


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
        return _USUAL > 0 and now - self._looked_at >= _INTERVAL

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
