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

    Arguments: ``scheduling`` of the pool, if it has any; and whether its threads can take turns,
    which was found out when the pool was made. Everything is called on the thread.
    """

    __slots__ = ("_can_take_turns", "_has_long_slack", "_scheduling", "_takes_turns", "_was_busy")

    def __init__(self, scheduling: Scheduling | None, can_take_turns: bool) -> None:
        self._scheduling = scheduling
        self._can_take_turns = can_take_turns
        self._has_long_slack = False
        self._takes_turns = False
        # Whether it ran many jobs in a row, when it last ran any.
        self._was_busy = False
        # It has inherited either from the thread that has started it, which may have been ended in
        # the midst of a wait.
        if scheduling is not None:
            scheduling.restore_slack()
        if can_take_turns:
            _wait_as_usual()

    def begin(self, jobs: int) -> None:
        """The thread is about to wait. It has run so many jobs since it was woken, perhaps none."""
        if jobs:
            self._was_busy = jobs >= _MANY
        scheduling = self._scheduling
        if scheduling is not None and scheduling.contended:
            self._has_long_slack = True
            scheduling.lengthen_slack()
        elif self._was_busy and self._can_take_turns:
            self._takes_turns = True
            _wait_for_turn()

    def end(self) -> None:
        """It was woken. With a job it is like all other threads, because it may compute as well."""
        if self._has_long_slack:
            assert self._scheduling is not None
            self._scheduling.restore_slack()
            self._has_long_slack = False
        if self._takes_turns:
            _wait_as_usual()
            self._takes_turns = False


if sys.platform == "linux":
    # Made once: what makes objects may start the garbage collector, and so destructors.
    _NO_PRIORITY: Final = os.sched_param(0)

    def can_take_turns() -> bool:
        """Find out whether threads that the calling one starts can wait for their turn.

        They do not where a sandbox forbids it. One that ends the process for it does so here, when
        the server starts, and not under load. Nor do they have to where who started the process has
        chosen another policy.
        """
        try:
            if os.sched_getscheduler(0) != os.SCHED_OTHER:
                return False
            os.sched_setscheduler(0, os.SCHED_BATCH, _NO_PRIORITY)
            os.sched_setscheduler(0, os.SCHED_OTHER, _NO_PRIORITY)
        except OSError:
            return False
        return True

    # A policy that the application, or an administrator, has given the thread meanwhile is kept:
    # all but SCHED_BATCH during a wait, which looks like our own.

    def _wait_for_turn() -> None:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_BATCH, _NO_PRIORITY)

    def _wait_as_usual() -> None:
        if os.sched_getscheduler(0) == os.SCHED_BATCH:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_OTHER, _NO_PRIORITY)

else:

    def can_take_turns() -> bool:
        """Threads of other systems cannot."""
        return False

    def _wait_for_turn() -> None: ...

    def _wait_as_usual() -> None: ...
