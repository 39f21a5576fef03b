"""What a supervisor decides: which workers to start, to stop and to kill.

Pure: it is told what has happened and when, and returns what to do. It knows a worker by a number,
which is never given again; a configuration, and the code that was loaded with it, by the number of
its generation.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from ....wording import counted
from .backoff import Backoff

_NEVER = float("inf")
# Seconds that a worker has to end once it was told to stop now.
_STOP_NOW = 2.0
# Seconds that a worker has for its requests where all are started anew.
_SHORT_DRAIN = 0.5
# Seconds until a worker that was killed is killed again, if the kernel does not end it.
_KILL_AGAIN = 5.0


class Phase(enum.Enum):
    """What a worker is doing."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(slots=True)
class Member:
    """A worker, as the plan knows it. Times are by the clock of the caller."""

    number: int
    generation: int
    started_at: float
    phase: Phase = Phase.STARTING
    serving_since: float = _NEVER
    kill_at: float = _NEVER
    # When it is told to stop now, if it was to end before others are started.
    hurry_at: float = _NEVER
    told_now: bool = False
    # Why it is to be replaced; empty where it is not.
    worn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What of a configuration matters here."""

    workers: int
    stop_limit: float
    """seconds after which a worker that was told to stop must have ended"""
    drain_delay: float = 0.0
    """seconds of these for which workers go on accepting when everything stops"""


class Event(enum.Enum):
    """What has been achieved, and is told to people and to other programs."""

    STARTED = "all workers serve for the first time"
    RESTARTED = "all workers serve again, started after those of before had ended"
    RELOADED = "all workers are of the latest generation"
    RELOAD_FAILED = "a worker of the latest generation could not serve; the others stay"


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker."""

    number: int
    generation: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell a worker to finish what it has and to end."""

    number: int


@dataclass(frozen=True, slots=True)
class StopNow:
    """Tell a worker to end now."""

    number: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker."""

    number: int


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell what has been achieved."""

    event: Event


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """Listen no more: workers accept nothing any more either."""


@dataclass(frozen=True, slots=True)
class End:
    """End the supervisor."""

    exit_code: int


Action = Start | Stop | StopNow | Kill | Announce | CloseSockets | End


@dataclass(slots=True)
class _Ending:
    """The end of everything."""

    exit_code: int
    close_sockets_at: float
    now: bool = False
    sockets_are_closed: bool = False
    # Whether somebody has asked for it, not only something that goes on in its place.
    is_wanted: bool = True


@dataclass(slots=True)
class Plan:
    """The state of all workers, and what follows from it."""

    terms: Terms
    members: dict[int, Member] = field(default_factory=dict)
    generation: int = 1
    """what new workers are started with"""
    has_started: bool = False
    """whether all workers have served at the same time"""
    others_serve: bool = False
    """whether what stops all of these workers is that others accept on the same sockets"""
    wake_at: float = _NEVER
    """when ``decide`` must be called again, though nothing has happened"""
    # The latest generation of which a worker has served, and the latest that was ever asked for.
    _proven: int = 0
    _asked: int = 1
    _is_reloading: bool = False
    _is_restarting: bool = False
    _last_number: int = 0
    _backoff: Backoff = field(default_factory=Backoff)
    _ending: _Ending | None = None
    _events: list[Event] = field(default_factory=list)

    # What has happened.

    @property
    def is_ending(self) -> bool:
        """Whether everything stops."""
        return self._ending is not None

    @property
    def was_told_to_stop(self) -> bool:
        """Whether everything stops because somebody has asked for it."""
        return self._ending is not None and self._ending.is_wanted

    @property
    def ends_now(self) -> bool:
        """Whether everything stops without waiting for requests."""
        return self._ending is not None and self._ending.now

    @property
    def wanted(self) -> set[int]:
        """The generations of which a worker may still be started."""
        return {self.generation, self._proven}

    @property
    def is_reloading(self) -> bool:
        """Whether workers of an earlier generation are being replaced."""
        return self._is_reloading

    @property
    def is_restarting(self) -> bool:
        """Whether all workers end, and others are started once they have."""
        return self._is_restarting

    @property
    def state(self) -> str:
        """What a supervisor is doing, for people, such as "reloading, 4 workers"."""
        if self.is_ending:
            return f"stopping, {counted(len(self.members), 'worker')}"
        workers = counted(self.count(Phase.SERVING), "worker")
        if not self.has_started:
            return f"starting, {workers}"
        if self._is_restarting:
            return f"restarting, {workers}"
        return f"reloading, {workers}" if self._is_reloading else workers

    def count(self, phase: Phase) -> int:
        """Return how many workers are in a phase."""
        return sum(member.phase is phase for member in self.members.values())

    def serves(self, number: int, now: float) -> None:
        """Take note that a worker serves."""
        member = self.members.get(number)
        if member is None or member.phase is not Phase.STARTING:
            return
        member.phase, member.serving_since = Phase.SERVING, now
        self._proven = max(self._proven, member.generation)

    def wears(self, number: int, reason: str) -> None:
        """Take note that a worker had better be replaced."""
        if (member := self.members.get(number)) is not None:
            member.worn = member.worn or reason

    def leaves(self, number: int, now: float) -> None:
        """Take note that a worker has begun to stop by itself."""
        member = self.members.get(number)
        if member is not None and member.phase is not Phase.STOPPING:
            self._note_loss(member, now)
            self._stop_member(member, now)

    def condemn(self, number: int, kill_at: float) -> None:
        """Count a worker out, and have it killed then, unless it ends before."""
        if (member := self.members.get(number)) is not None:
            member.phase = Phase.STOPPING
            member.kill_at = min(member.kill_at, kill_at)

    def died(self, number: int, now: float) -> None:
        """Take note that a worker is gone, or could not be started."""
        member = self.members.pop(number, None)
        if member is None or self._ending is not None or member.phase is Phase.STOPPING:
            return
        if member.hurry_at < _NEVER:
            return
        if not self.has_started and member.phase is Phase.STARTING:
            # Others would fail as well, or the set is not what was asked for.
            self.stop(now, START_FAILED)
            return
        if member.phase is Phase.STARTING and member.generation > self._proven:
            if member.generation == self.generation:
                self.generation = self._proven
                self._is_reloading = False
                self._events.append(Event.RELOAD_FAILED)
            return
        self._note_loss(member, now)

    def _note_loss(self, member: Member, now: float) -> None:
        served = now - member.serving_since if member.phase is Phase.SERVING else None
        self._backoff.note(now, served=served, workers=self.terms.workers)

    # What is wanted.

    def reload(self, terms: Terms) -> int:
        """Have all workers replaced by those of a new generation; return its number."""
        self.terms = terms
        self._asked += 1
        self.generation = self._asked
        self._is_reloading = True
        self._backoff.forget()
        return self.generation

    def restart(self, now: float) -> None:
        """Have all workers end soon, and others started once they have.

        So none answers with old code when a new one serves; and two that run at the same time may
        both need what only one can have, such as a port.
        """
        self._is_restarting = True
        self._backoff.forget()
        for member in self.members.values():
            member.hurry_at = min(member.hurry_at, now + _SHORT_DRAIN)

    def resize(self, change: int) -> int:
        """Have so many workers more, or fewer; return how many there should be, 1 at least."""
        terms = self.terms
        workers = max(terms.workers + change, 1)
        self.terms = Terms(
            workers=workers, stop_limit=terms.stop_limit, drain_delay=terms.drain_delay
        )
        return workers

    def stop(self, now: float, exit_code: int, *, at_once: bool = False) -> None:
        """Have everything stop; a further call may only hurry it."""
        if self._ending is None:
            drains = self.has_started and not at_once and not self.others_serve
            delay = self.terms.drain_delay if drains else 0.0
            self._ending = _Ending(exit_code, close_sockets_at=now + delay)
        self._ending.is_wanted = True
        if at_once:
            self._ending.now = True
            self._ending.exit_code = exit_code
            self._ending.close_sockets_at = now

    def hand_over(self, now: float) -> None:
        """Have everything stop, because others go on in its place."""
        self.others_serve = True
        self.stop(now, 0)
        assert self._ending is not None  # It has just begun.
        self._ending.is_wanted = False

    # What follows.

    def decide(self, now: float) -> list[Action]:
        """Return what is to be done, in this order. Each is returned once, and is taken for done.

        A worker that cannot be started has died.
        """
        actions: list[Action] = []
        if self._ending is None:
            actions += self._hurry(now)
            actions += self._stop_surplus(now)
            actions += self._start_missing(now)
            self._note_success()
        else:
            actions += self._end(self._ending, now)
        actions += [Announce(event) for event in self._events]
        self._events.clear()
        actions += self._kill(now)
        self.wake_at = self._next_look(now)
        return actions

    def _serving(self) -> list[Member]:
        return [m for m in self.members.values() if m.phase is Phase.SERVING]

    def _is_due(self, member: Member) -> bool:
        """Return whether a worker that serves is to be replaced."""
        return member.generation != self.generation or bool(member.worn)

    def _stop_surplus(self, now: float) -> Iterator[Action]:
        """Stop what starts with a generation that is not wanted any more, and who serves too much.

        Of these, those come first that are to be replaced.
        """
        for member in self.members.values():
            if member.phase is Phase.STARTING and member.generation != self.generation:
                self._stop_member(member, now)
                yield Stop(member.number)
        serving = self._serving()
        order = sorted(serving, key=lambda m: (not self._is_due(m), m.serving_since, m.number))
        for member in order[: max(len(serving) - self.terms.workers, 0)]:
            self._stop_member(member, now)
            yield Stop(member.number)

    def _hurry(self, now: float) -> Iterator[Action]:
        for member in self.members.values():
            if member.hurry_at < _NEVER and member.phase is not Phase.STOPPING:
                self._stop_member(member, now)
                yield Stop(member.number)
            elif now >= member.hurry_at and not member.told_now:
                member.told_now = True
                member.kill_at = min(member.kill_at, now + _STOP_NOW)
                yield StopNow(member.number)

    def _stop_member(self, member: Member, now: float) -> None:
        member.phase = Phase.STOPPING
        member.kill_at = now + self.terms.stop_limit

    def _start_missing(self, now: float) -> Iterator[Action]:
        if now < self._backoff.until:
            return
        if any(member.hurry_at < _NEVER for member in self.members.values()):
            return
        starting, serving = self.count(Phase.STARTING), self._serving()
        missing = self.terms.workers - starting - len(serving)
        if missing <= 0 and not starting and self._may_replace(serving):
            missing = 1
        for _ in range(missing):
            self._last_number += 1
            member = Member(self._last_number, self.generation, now)
            self.members[member.number] = member
            yield Start(member.number, member.generation)

    def _may_replace(self, serving: list[Member]) -> bool:
        """Return whether one worker more may be started, which replaces one of those that serve.

        One at a time. A new generation does not wait until requests of the old one have ended, as
        long as there are no more than twice as many processes; all else does.
        """
        stopping = self.count(Phase.STOPPING)
        if any(member.generation != self.generation for member in serving):
            return stopping < self.terms.workers
        return any(member.worn for member in serving) and not stopping

    def _note_success(self) -> None:
        serving = self._serving()
        if len(serving) < self.terms.workers:
            return
        if not self.has_started:
            self.has_started = True
            self._events.append(Event.STARTED)
        elif self._is_restarting:
            self._events.append(Event.RESTARTED)
        self._is_restarting = False
        if self._is_reloading and all(m.generation == self.generation for m in serving):
            self._is_reloading = False
            self._events.append(Event.RELOADED)

    def _end(self, ending: _Ending, now: float) -> Iterator[Action]:
        if now >= ending.close_sockets_at and not ending.sockets_are_closed:
            ending.sockets_are_closed = True
            yield CloseSockets()
        for member in self.members.values():
            if ending.now and not member.told_now:
                member.phase, member.told_now = Phase.STOPPING, True
                member.kill_at = min(member.kill_at, now + _STOP_NOW)
                yield StopNow(member.number)
            elif member.phase is not Phase.STOPPING:
                self._stop_member(member, now)
                yield Stop(member.number)
        if not self.members:
            yield End(ending.exit_code)

    def _kill(self, now: float) -> Iterator[Action]:
        for member in self.members.values():
            if now >= member.kill_at:
                member.kill_at = now + _KILL_AGAIN
                yield Kill(member.number)

    def _next_look(self, now: float) -> float:
        times = [member.kill_at for member in self.members.values()]
        if self._ending is not None:
            if not self._ending.sockets_are_closed:
                times.append(self._ending.close_sockets_at)
        else:
            times += [m.hurry_at for m in self.members.values() if not m.told_now]
            if now < self._backoff.until:
                times.append(self._backoff.until)
        return min(times, default=_NEVER)


# The exit code of a supervisor whose workers could not even start.
START_FAILED = 3
