"""Which workers do not answer: their event loops have not run for too long."""

import signal
import time
from collections.abc import Mapping

from ...observe.scoreboard import Row
from .children import Children
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

    def next_check(self) -> float:
        """Return when, by the monotonic clock, the next worker may be found stuck."""
        return self._patience.next_look(self._beats())

    def end_the_stuck(self) -> None:
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
