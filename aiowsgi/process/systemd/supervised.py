"""What a supervisor that is a service of systemd tells it, between two things that happen."""

import time
from collections.abc import Mapping

from ...observe.scoreboard import Reading, Row
from ...wording import counted
from ..supervisor.decisions.plan import Event, Phase, Plan
from .notification import Notifier, load

# A worker says so often enough that its event loop runs: seconds.
_LEAST_PATIENCE = 1.0


class SupervisorReport:
    """Tells systemd what a supervisor and its workers do, until the process ends.

    Arguments: the plan, and the rows of its workers by their numbers.

    systemd hears that the service is alive only while the supervisor's loop runs, and only while
    the event loop of at least one worker does. A single one that is stuck is the supervisor's to
    replace: systemd could only end them all.
    """

    def __init__(self, notifier: Notifier, plan: Plan, rows: Mapping[int, Row]) -> None:
        self._notifier = notifier
        self._plan = plan
        self._rows = rows
        self._look_at = time.monotonic() + notifier.interval
        self._is_stopping = False
        self._has_failed = False

    @property
    def next_look(self) -> float:
        """When, by the monotonic clock, ``look`` is due again; infinity where nobody listens."""
        return self._look_at

    def look(self) -> None:
        """Say what has changed, if that is due."""
        now = time.monotonic()
        if self._plan.is_ending and not self._is_stopping:
            self._is_stopping = True
            self._notifier.stopping(self._status())
        elif now >= self._look_at:
            self._look_at = now + self._notifier.interval
            self._notifier.look(self._status(), is_alive=self._is_alive(now))

    def reloading(self) -> None:
        """Say that a reload begins. Its end is announced."""
        self._notifier.reloading(f"reloading, {self._load()}")

    def announce(self, event: Event) -> None:
        """Say that the service is ready, with its first workers, with new ones, or with the old."""
        self._has_failed = event is Event.RELOAD_FAILED
        self._notifier.ready(self._status())

    def hand_over(self, pid: int) -> None:
        """Say that another supervisor is the service from now on."""
        self._notifier.hand_over(pid)

    def environment(self) -> dict[str, str]:
        """Return the variables that another supervisor needs to speak for the service."""
        return self._notifier.environment()

    def close(self) -> None:
        """Say nothing any more. Called in each forked child, too."""
        self._notifier.close()

    def _readings(self) -> list[Reading]:
        """Return what the workers that serve say of themselves."""
        return [
            row.read()
            for number, member in self._plan.members.items()
            if member.phase is Phase.SERVING and (row := self._rows.get(number)) is not None
        ]

    def _is_alive(self, now: float) -> bool:
        """Return whether the event loop of a worker has run lately, as far as it can be known.

        Where none serves, they are being started, and none is stuck.
        """
        beats = [reading.heartbeat for reading in self._readings()]
        limit = max(self._notifier.patience, _LEAST_PATIENCE)
        return not beats or any(not beat or now - beat / 1e9 < limit for beat in beats)

    def _status(self) -> str:
        if self._plan.is_ending:
            return f"stopping, {counted(len(self._plan.members), 'worker')} left"
        if not self._plan.has_started:
            return f"starting, {self._load()}"
        if self._plan.is_reloading:
            return f"reloading, {self._load()}"
        return f"{self._load()}; not reloaded, see the log" if self._has_failed else self._load()

    def _load(self) -> str:
        serving, wanted = self._plan.count(Phase.SERVING), self._plan.terms.workers
        workers = counted(wanted, "worker")
        who = f"{serving} of {workers}" if serving < wanted else counted(serving, "worker")
        readings = self._readings()
        threads = sum(reading.threads for reading in readings)
        if not threads:  # They have not said so yet.
            return who
        busy = sum(reading.busy for reading in readings)
        return load(who, busy, threads, sum(reading.queued for reading in readings))
