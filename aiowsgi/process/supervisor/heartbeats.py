"""Which workers do not answer: their event loops have not run for too long."""

import math
import signal
import time
from collections.abc import Iterator, Mapping

from ...observe.scoreboard import Row
from .children import Child, Children
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

    def next_check(self) -> float:
        """Return when, by the monotonic clock, the next worker may be found stuck."""
        return min((limit for _, limit in self._limits()), default=math.inf)

    def end_the_stuck(self) -> None:
        """Have the stacks of workers that do not answer written, which ends them."""
        now = time.monotonic()
        for child, limit in list(self._limits()):
            if now >= limit:
                child.verdict = (
                    f"has not answered for {child.timeout:g} s (--timeout-worker), "
                    "and is killed and replaced"
                )
                child.signal(signal.SIGABRT)
                self._plan.condemn(child.number, now + _TIME_FOR_STACKS)

    def _limits(self) -> Iterator[tuple[Child, float]]:
        """Yield each worker that serves, and until when its event loop has to run again."""
        for child in self._children:
            member, row = self._plan.members.get(child.number), self._rows.get(child.number)
            if member is None or member.phase is not Phase.SERVING or row is None:
                continue
            limit = child.timeout
            if limit and (beat := row.read().heartbeat):
                yield child, beat / 1e9 + limit
