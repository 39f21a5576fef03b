"""How threads share the interpreter while several requests compute.

A thread that wants the interpreter while another thread computes waits for a switch interval (see
``sys.setswitchinterval``). Then it asks the other one to give it up, and waits again, at the end of
the queue. Threads that compute for a long time alternate that way, and each has its share. A thread
that has little to do, such as the loop thread with one request, loses its place in the queue again
and again, and waits for each of the others several times. Two things help it, and are done while
several jobs compute, and only then.

**Timer slack.** Linux lets a thread say how late its timers may wake it (prctl(2),
PR_SET_TIMERSLACK). A thread with a long slack asks less often. So it keeps its place in the queue,
and gets the interpreter as soon as the threads in front of it have had their turn. Some other
thread still has to ask, or a thread that computes would keep the interpreter: those that compute
ask each other.

Threads and processes inherit the slack of the thread that starts them. So the slack is changed only
in a process that serves and does nothing else (see ``run``), and only on threads that run no code
of the application: on the loop thread until the first coroutine of the application runs or the
server begins to stop, and on threads of the pool that have no job.

**The switch interval.** With a shorter one, a turn of each thread in front is shorter. That costs
those that compute a little, and quick requests would pay, too, if it were always short. It belongs
to the whole process. So an interval that the application or its user has chosen stays as it is, and
a forked child gets the usual one.
"""

import sys
import time
from collections.abc import Callable, Iterable

from .. import libc
from ..bridge import forks
from ..bridge.pool.jobs import JobThread

_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
# In nanoseconds: several switch intervals.
LONG_SLACK = 20_000_000
# In seconds. CPython begins with the usual one. No application would choose the short one, so the
# server knows it as its own.
USUAL_INTERVAL, SHORT_INTERVAL = 0.005, 0.001003
# Seconds between two looks at the threads.
LOOK_INTERVAL = 0.05
# A job computes if its thread has had this share of the time. Many jobs at once have little each.
_COMPUTING_SHARE = 0.03


class ContentionScheduling:
    """Sets timer slacks and the switch interval, and says when. Implements ``jobs.Scheduling``.

    Arguments: ``prctl``, the function of the C library; ``usual_slack``, what the threads of the
    process have otherwise, in nanoseconds; ``cpu_time``, which returns for how many seconds the
    thread with a native id has computed.
    """

    def __init__(
        self, prctl: Callable[..., int], usual_slack: int, cpu_time: Callable[[int], float]
    ) -> None:
        self._prctl = prctl
        self._usual_slack = usual_slack
        self._cpu_time = cpu_time
        self._looked_at = 0.0
        # The CPU time of each job's thread at the last look. A job is known by its thread and by
        # the time when it began.
        self._cpu_times: dict[tuple[int, float], float] = {}
        self.contended = False
        forks.register(self)

    def is_look_due(self, now: float) -> bool:
        """Return whether ``look`` should be called. ``now`` is by ``time.monotonic``."""
        return now - self._looked_at >= LOOK_INTERVAL

    def look(self, running: Iterable[JobThread], now: float) -> None:
        """Find out whether several of the running jobs compute, and set the switch interval."""
        passed = now - self._looked_at
        self._looked_at = now
        before, self._cpu_times = self._cpu_times, {}
        computing = 0
        for started in running:
            job = started.native_id, started.at
            self._cpu_times[job] = cpu_time = self._cpu_time(started.native_id)
            if cpu_time - before.get(job, cpu_time) > _COMPUTING_SHARE * passed:
                computing += 1
        self.contended = computing > 1
        if self.contended:
            _change_interval(USUAL_INTERVAL, SHORT_INTERVAL)
        else:
            self.restore_interval()

    def lengthen_slack(self) -> None:
        """Let the kernel wake the calling thread late."""
        self._prctl(_PR_SET_TIMERSLACK, LONG_SLACK, 0, 0, 0)

    def restore_slack(self) -> None:
        """Have the kernel wake the calling thread like all others of the process."""
        self._prctl(_PR_SET_TIMERSLACK, self._usual_slack, 0, 0, 0)

    def restore_interval(self) -> None:
        """Let threads keep the interpreter for as long as usual."""
        _change_interval(SHORT_INTERVAL, USUAL_INTERVAL)

    def abandon(self) -> None:
        """Have the usual interval in a forked child, where nobody would look. See ``forks``."""
        self.restore_interval()


def find_scheduling() -> ContentionScheduling | None:
    """Return what helps threads that compete for the interpreter, or None if nothing would.

    That is so without an interpreter lock, and where threads have no timer slack. Called on a
    thread that has its usual slack.
    """
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.platform != "linux" or sys.implementation.name != "cpython" or not has_lock:
        return None
    prctl = libc.find("prctl", "c_int", "c_int", *["c_ulong"] * 4)
    # A thread with a real-time priority has no slack: it is always woken in time.
    usual = 0 if prctl is None else prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    if prctl is None or usual <= 0:
        return None
    return ContentionScheduling(prctl, usual, thread_cpu_time)


def _change_interval(old: float, new: float) -> None:
    """Set the switch interval to ``new``, unless it is another one than ``old``."""
    if sys.getswitchinterval() == old:
        sys.setswitchinterval(new)


def thread_cpu_time(native_id: int) -> float:
    """Return for how many seconds a thread has computed; 0 if it has ended."""
    try:
        # Linux makes the number of a thread's clock from that of the thread.
        return time.clock_gettime((~native_id << 3) | 6)
    except OSError:
        return 0.0
