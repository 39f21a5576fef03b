"""What a supervisor decides about its successor: when to let go, and when to give up. Pure."""

import enum
from dataclasses import dataclass

# Seconds that a new supervisor has until all of its workers serve. The old one serves meanwhile.
LIMIT = 300.0
# Seconds that it has to end beyond those that its own workers have.
_MARGIN = 5.0
# Seconds until it is killed again, if the kernel does not end it.
_KILL_AGAIN = 5.0
_NEVER = float("inf")


class Phase(enum.Enum):
    """What a successor is doing."""

    ABSENT = "is not there"
    STARTING = "starts"
    LEAVING = "was told to stop"
    SERVING = "has taken over"


@dataclass(frozen=True, slots=True)
class HandOver:
    """Let the successor take over, and stop what is of the old one."""


@dataclass(frozen=True, slots=True)
class TellToStop:
    """Tell the successor to end."""

    now: bool


@dataclass(frozen=True, slots=True)
class KillSuccessor:
    """End the process of the successor."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Tell people that everything stays as it was."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """Tell people that the successor has ended after it had taken over."""

    how: str


UpgradeAction = HandOver | TellToStop | KillSuccessor | Failed | Lost


@dataclass(slots=True)
class Upgrades:
    """At most one successor, and what follows from what it does. Times are by the caller's clock.

    ``stop_limit`` are the seconds in which workers that were told to stop have ended.
    """

    phase: Phase = Phase.ABSENT
    began_at: float = 0.0
    wake_at: float = _NEVER
    """when ``decide`` must be called again, though nothing has happened"""
    _reason: str = ""
    _is_ready: bool = False
    _was_told_now: bool = False
    _end: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a successor that has not taken over."""
        return self.phase in (Phase.STARTING, Phase.LEAVING)

    def objection(self, *, pid: int, has_started: bool, is_ending: bool) -> str:
        """Return why there can be no successor now; empty if there can be one.

        ``pid`` is the process that would have it.
        """
        if is_ending:
            return "it stops already"
        if self.is_running:
            return "an upgrade is running already"
        if not has_started:
            return "not all workers serve yet; try again then"
        if pid == 1:
            return (
                "this is the first process of a container, which ends with it; "
                "start another container, and stop this one"
            )
        return ""

    # What has happened.

    def begin(self, now: float) -> None:
        """Take note that a successor was started."""
        self.phase, self.began_at, self.wake_at = Phase.STARTING, now, now + LIMIT
        self._reason, self._is_ready, self._was_told_now, self._end = "", False, False, None

    def ready(self) -> None:
        """Take note that all workers of the successor serve."""
        self._is_ready = True

    def fails(self, reason: str) -> None:
        """Take note why the successor is about to end."""
        self._reason = self._reason or reason

    def refused(self) -> None:
        """Take note that the successor could not be told to take over: it is about to be reaped."""
        self.phase, self._is_ready = Phase.STARTING, False

    def ended(self, how: str) -> None:
        """Take note that the process of the successor has ended, and how."""
        self._end = how

    # What follows.

    def decide(
        self, now: float, *, is_ending: bool, ends_now: bool, stop_limit: float
    ) -> list[UpgradeAction]:
        """Return what is to be done. Each is returned once, and is taken for done.

        ``is_ending`` says whether the old supervisor stops, and ``ends_now`` whether it does so
        without waiting for requests.
        """
        if self._end is not None:
            return self._bury(self._end)
        if self.phase is Phase.STARTING:
            if is_ending:
                return self._stop(now, "this supervisor stops", ends_now, stop_limit)
            if self._is_ready:
                self.phase, self.wake_at = Phase.SERVING, _NEVER
                return [HandOver()]
            if now >= self.wake_at:
                reason = f"the new one was not ready within {LIMIT:g} s"
                return self._stop(now, reason, ends_now, stop_limit)
        elif self.phase is Phase.LEAVING:
            if ends_now and not self._was_told_now:
                return self._stop(now, self._reason, ends_now, stop_limit)
            if now >= self.wake_at:
                self.wake_at = now + _KILL_AGAIN
                return [KillSuccessor()]
        return []

    def _stop(
        self, now: float, reason: str, ends_now: bool, stop_limit: float
    ) -> list[UpgradeAction]:
        self.phase, self._was_told_now = Phase.LEAVING, ends_now
        self._reason = self._reason or reason
        self.wake_at = now + _MARGIN + (0.0 if ends_now else stop_limit)
        return [TellToStop(ends_now)]

    def _bury(self, how: str) -> list[UpgradeAction]:
        was, self.phase = self.phase, Phase.ABSENT
        self.wake_at, self._end = _NEVER, None
        if was is Phase.SERVING:
            return [Lost(how)]
        return [Failed(self._reason or f"the new one {how}, see above")]
