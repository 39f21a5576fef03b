"""How the kernel wakes the threads of a pool that wait for jobs.

**Under load, a woken thread waits for its turn.** Where no core is free, the kernel gives a thread
that is woken the core of the one that wakes it. That one, usually the loop thread, holds the
interpreter, and goes on reading requests. So the woken thread gives the core back at once, takes it
again as soon as the interpreter is free for a moment, and so on: a pass of the loop took eight
switches between threads, where two do. Linux lets a thread say that it is in no such hurry
(sched(7), SCHED_BATCH). A thread that has run many jobs in a row waits like that for the next one,
and then finds all that the loop thread has read meanwhile. What that gains is in performance.md.

A thread with a job is woken like any other one: what the application waits for may be urgent, and
threads and processes that it starts inherit how their parent is woken. Threads that run a job now
and then never change it, so that a server with little to do answers as soon as before.

**Beside requests that compute, it has a long timer slack.** See ``process.scheduling``.
"""

import contextlib
import os
import sys
from typing import Final

from .jobs import Scheduling

# Jobs in a row, each taken right after the one before.
_MANY: Final = 8


class Idling:
    """What one thread of a pool does before and after it waits for a job.

    ``scheduling`` is that of the pool, if it has any. Everything is called on the thread.
    """

    __slots__ = ("_has_long_slack", "_is_patient", "_scheduling", "_was_busy")

    def __init__(self, scheduling: Scheduling | None) -> None:
        self._scheduling = scheduling
        self._has_long_slack = False
        self._is_patient = False
        # Whether it ran many jobs in a row, when it last ran any.
        self._was_busy = False
        if scheduling is not None:
            scheduling.restore_slack()  # It has inherited that of the thread that has started it.

    def begin(self, jobs: int) -> None:
        """The thread is about to wait. It has run so many jobs since it was woken, perhaps none."""
        if jobs:
            self._was_busy = jobs >= _MANY
        scheduling = self._scheduling
        if scheduling is not None and scheduling.contended:
            self._has_long_slack = True
            scheduling.lengthen_slack()
        elif self._was_busy:
            self._is_patient = _become_patient()

    def end(self) -> None:
        """It was woken. With a job it is like all other threads, because it may compute as well."""
        if self._has_long_slack:
            assert self._scheduling is not None
            self._scheduling.restore_slack()
            self._has_long_slack = False
        if self._is_patient:
            _become_prompt()
            self._is_patient = False


def _become_patient() -> bool:
    """Have the calling thread wait for its turn when it is woken. Return False if it cannot.

    That is so on other systems, where a sandbox forbids it, and for a thread with a policy that the
    application or who started the process has chosen.
    """
    if sys.platform != "linux":
        return False
    try:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return False
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        return False
    return True


def _become_prompt() -> None:
    """Have the calling thread woken as usual again."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
