"""Which molds there are, and which workers are to be forked from them. Pure, as ``plan`` is.

A mold belongs to a generation. It is made when the first worker of that is to be started, and ends
when no worker of it will be started any more.
"""

import enum
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

# A mold that has ended sooner after it was ready, in seconds, is made again only once a worker is
# to be forked from it: it would end again.
_PROVEN = 10.0
# A mold that does not answer for so many seconds is stopped, or stuck in what the application does
# around a fork. A fork takes milliseconds.
ANSWER_TIMEOUT = 10.0
# A mold gets so many orders at once. Its socket holds a few hundred, and who finds no room there is
# not to wait.
MOST_ORDERED = 32
_NEVER = float("inf")


class Phase(enum.Enum):
    """What a mold is doing."""

    ABSENT = "there is no process"
    LOADING = "it loads the application"
    READY = "it forks workers"
    UNFIT = "a fork would break what the application has begun; workers load it themselves"


@dataclass(slots=True)
class Mold:
    """The mold of a generation. Times are by the clock of the caller."""

    phase: Phase = Phase.ABSENT
    ready_since: float = 0.0
    # Whether it is made though no worker waits for it.
    is_missed: bool = False
    # Workers, by their numbers: those that wait, and those that it was told to fork.
    waiting: list[int] = field(default_factory=list)
    ordered: list[int] = field(default_factory=list)
    # Since when an answer is waited for, if any is.
    silent_since: float = 0.0

    @property
    def give_up_at(self) -> float:
        """When it is ended, unless it answers."""
        return self.silent_since + ANSWER_TIMEOUT if self.ordered else _NEVER


@dataclass(frozen=True, slots=True)
class MakeMold:
    """Fork a process that becomes the mold of a generation."""

    generation: int


@dataclass(frozen=True, slots=True)
class Order:
    """Have the mold of a generation fork a worker."""

    number: int
    generation: int


@dataclass(frozen=True, slots=True)
class ForkWithout:
    """Fork a worker that loads the application itself."""

    number: int
    generation: int


@dataclass(frozen=True, slots=True)
class EndMold:
    """End the process of a mold."""

    generation: int
    is_stuck: bool = False
    """whether it was to fork a worker, and does not answer"""


MoldAction = MakeMold | Order | ForkWithout | EndMold


class Molds:
    """The molds of all generations."""

    def __init__(self) -> None:
        self._molds: dict[int, Mold] = {}

    # What has happened.

    def start(self, number: int, generation: int) -> None:
        """Take note that a worker is to be started."""
        self._molds.setdefault(generation, Mold()).waiting.append(number)

    def loaded(self, generation: int, now: float) -> None:
        """Take note that a mold is ready."""
        if (mold := self._molds.get(generation)) is not None:
            mold.phase, mold.ready_since = Phase.READY, now

    def unfit(self, generation: int) -> None:
        """Take note that nothing can be forked from a mold."""
        if (mold := self._molds.get(generation)) is not None:
            mold.phase = Phase.UNFIT

    def answered(self, number: int, generation: int, now: float) -> bool:
        """Take note that a mold has forked a worker, or cannot. Return whether it was asked to."""
        mold = self._molds.get(generation)
        if mold is None or number not in mold.ordered:
            return False
        mold.ordered.remove(number)
        mold.silent_since = now
        return True

    def cancel(self, number: int, generation: int) -> bool:
        """Give up a worker that is not started yet. Return False if a mold is forking it."""
        mold = self._molds.get(generation)
        if mold is None or number not in mold.waiting:
            return False
        mold.waiting.remove(number)
        return True

    def ended(self, generation: int, now: float) -> list[int]:
        """Take note that the process of a mold has ended; return the workers that are lost."""
        mold = self._molds.get(generation)
        if mold is None or mold.phase is Phase.UNFIT:
            return []
        mold.is_missed = mold.phase is Phase.READY and now - mold.ready_since >= _PROVEN
        mold.phase = Phase.ABSENT
        lost = mold.ordered + mold.waiting
        mold.ordered, mold.waiting = [], []
        return lost

    def phase(self, generation: int) -> Phase:
        """Return what the mold of a generation is doing."""
        mold = self._molds.get(generation)
        return Phase.ABSENT if mold is None else mold.phase

    # What follows.

    @property
    def wake_at(self) -> float:
        """When ``decide`` must be called again, though nothing has happened."""
        return min((mold.give_up_at for mold in self._molds.values()), default=_NEVER)

    def decide(self, wanted: Collection[int], now: float) -> list[MoldAction]:
        """Return what is to be done. Each is returned once, and is taken for done.

        ``wanted`` are the generations of which workers may still be started.
        """
        actions: list[MoldAction] = []
        for generation, mold in list(self._molds.items()):
            actions += self._serve_waiting(generation, mold, now)
            if now >= mold.give_up_at:
                mold.silent_since = now
                actions.append(EndMold(generation, is_stuck=True))
            if generation not in wanted and not mold.waiting and not mold.ordered:
                if mold.phase in (Phase.LOADING, Phase.READY):
                    actions.append(EndMold(generation))
                del self._molds[generation]
        return actions

    def _serve_waiting(self, generation: int, mold: Mold, now: float) -> Iterator[MoldAction]:
        match mold.phase:
            case Phase.ABSENT if mold.waiting or mold.is_missed:
                mold.phase, mold.is_missed = Phase.LOADING, False
                yield MakeMold(generation)
            case Phase.READY:
                if not mold.ordered:
                    mold.silent_since = now
                while mold.waiting and len(mold.ordered) < MOST_ORDERED:
                    mold.ordered.append(number := mold.waiting.pop(0))
                    yield Order(number, generation)
            case Phase.UNFIT:
                for number in mold.waiting:
                    yield ForkWithout(number, generation)
                mold.waiting = []
