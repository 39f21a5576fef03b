"""Which workers do not answer: their event loops have not run for too long, or never so far."""

import signal
import time
from collections.abc import Iterator, Mapping

from ...observe.loggers import error_log
from ...observe.scoreboard import Row
from .children import Child, Children
from .decisions.patience import Beat, Patience
from .decisions.plan import Phase, Plan

# Seconds in which a worker that does not answer may write the stacks of its threads.
_TIME_FOR_STACKS = 5.0


class Heartbeats:
    """Reads on the scoreboard when the event loops of workers have run (``--timeout-worker``).

    Arguments: the plan, the workers, and their rows by number.
    """

    def __init__(self, plan: Plan, children: Children, rows: Mapping[int, Row]) -> None:
        self._plan = plan
        self._children = children
        self._rows = rows
        self._patience = Patience()
        # The processes that were said to start slowly.
        self._slow: set[int] = set()

    def next_check(self) -> float:
        """Return when, by the monotonic clock, the next worker may be found stuck or slow."""
        slow = min((limit for _, limit in self._starts()), default=float("inf"))
        return min(self._patience.next_look(self._beats()), slow)

    def look(self) -> None:
        """End workers that are stuck, and tell of those that take long to start."""
        self._end_the_stuck()
        self._tell_of_slow_starts()

    def _end_the_stuck(self) -> None:
        """Have the stacks of workers that do not answer written, which ends them."""
        now = time.monotonic()
        for number in self._patience.stuck(self._beats(), now):
            child = self._children.get(number)
            assert child is not None  # It has a heartbeat.
            child.verdict = (
                f"has not answered for {child.timeout:g} s (--timeout-worker), "
                "and is killed and replaced"
            )
            child.signal(signal.SIGABRT)
            self._plan.condemn(number, now + _TIME_FOR_STACKS)

    def _tell_of_slow_starts(self) -> None:
        """Say what does not serve yet. It goes on: an application may take long to load."""
        now = time.monotonic()
        for child, limit in list(self._starts()):
            if now >= limit and child.pid not in self._slow:
                self._slow.add(child.pid)
                error_log.warning(
                    "%s %d has not served within %g s of its start (--timeout-worker), and is "
                    "waited for; kill -ABRT %d ends it, and the log shows where it is",
                    "The mold" if child.is_mold else "Worker",
                    child.pid,
                    child.timeout,
                    child.pid,
                )
        self._slow &= {child.pid for child in self._children}

    def _starts(self) -> Iterator[tuple[Child, float]]:
        """Yield each process that a worker is to come from, and when it is slow, until it is told.

        Where a mold has not forked the worker, that is the mold.
        """
        for member in self._plan.members.values():
            number = member.number
            child = self._children.get(number) or self._children.get(-member.generation)
            if member.phase is not Phase.STARTING or child is None or child.pid in self._slow:
                continue
            if child.timeout:
                yield child, member.started_at + child.timeout

    def _beats(self) -> dict[int, Beat]:
        """Return the latest heartbeat of each worker that serves and has a limit."""
        found = {}
        for child in self._children:
            member, row = self._plan.members.get(child.number), self._rows.get(child.number)
            if member is None or member.phase is not Phase.SERVING or row is None:
                continue
            if child.timeout and (beat := row.read().heartbeat):
                found[child.number] = Beat(beat / 1e9, child.timeout)
        return found
