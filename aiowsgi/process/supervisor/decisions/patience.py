"""Which workers do not answer, and since when they are waited for. Pure; no clock.

A worker is judged by two looks, some seconds apart. If there were only one, all workers would seem
stuck after a pause in which nothing ran: a container that was frozen, a machine that was suspended,
Ctrl-Z and ``fg`` in a terminal. The one that looks may be the first to run afterwards.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

# Seconds between the two looks, and at most this part of the time that a worker has.
_SECOND_LOOK = 5.0
_PART = 0.5


class Beat(NamedTuple):
    """When the event loop of a worker has last run, and for how long it may not run, in seconds."""

    at: float
    timeout: float

    @property
    def _between(self) -> float:
        return min(_SECOND_LOOK, self.timeout * _PART)

    @property
    def first_look(self) -> float:
        """When it is late."""
        return self.at + self.timeout - self._between

    def second_look(self, now: float) -> float:
        """When it is stuck, if it is found late at ``now``."""
        return now + self._between


class Patience:
    """Remembers which workers, by their numbers, were late, and until when they may run again."""

    def __init__(self) -> None:
        self._late: dict[int, tuple[Beat, float]] = {}

    def stuck(self, beats: Mapping[int, Beat], now: float) -> list[int]:
        """Return those that are stuck. ``beats`` are those of all workers that serve."""
        self._late = dict(self._still_late(beats, now))
        return [number for number, (_, limit) in self._late.items() if now >= limit]

    def _still_late(
        self, beats: Mapping[int, Beat], now: float
    ) -> Iterator[tuple[int, tuple[Beat, float]]]:
        for number, beat in beats.items():
            known = self._late.get(number)
            if known is not None and known[0] == beat:
                yield number, known
            elif now >= beat.first_look:
                yield number, (beat, beat.second_look(now))

    def next_look(self, beats: Mapping[int, Beat]) -> float:
        """Return when to look again; infinity where no worker has a limit."""
        return min(
            (
                known[1]
                if (known := self._late.get(number)) is not None and known[0] == beat
                else beat.first_look
                for number, beat in beats.items()
            ),
            default=float("inf"),
        )
