"""The upgrade as the old supervisor sees it: SIGUSR2 starts a successor, which takes its place."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence

from ...net.bind.listening import ListeningSocket
from ...observe.loggers import error_log
from ...wording import counted
from ..supervisor.children import Children
from ..supervisor.decisions.plan import Phase as WorkerPhase
from ..supervisor.decisions.plan import Plan
from ..supervisor.decisions.upgrades import (
    Failed,
    HandOver,
    KillSuccessor,
    Lost,
    TellToStop,
    UpgradeAction,
    Upgrades,
)
from ..supervisor.reports import describe_status
from ..systemd.supervised import SupervisorReport
from ..worker.messages import FAILED, READY
from . import STOP, TAKE_OVER
from .command import starting_command
from .successor import Successor


class Upgrade:
    """Starts a successor and looks after it, until that has taken over or has failed.

    Arguments: ``plan``, of the workers; ``children``, which tells how processes have ended; the
    sockets, and the directory in which the supervisor was started; ``service``, which tells a
    service manager; ``leave()``, called in a forked child.
    """

    def __init__(
        self,
        plan: Plan,
        children: Children,
        sockets: Sequence[ListeningSocket],
        directory: str,
        service: SupervisorReport,
        leave: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._children = children
        self._sockets = sockets
        self._directory = directory
        self._service = service
        self._leave = leave
        self._command = starting_command(sys.orig_argv, sys.argv[0])
        self._upgrades = Upgrades()
        self._successor: Successor | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a successor that has not taken over."""
        return self._upgrades.is_running

    @property
    def next_look(self) -> float:
        """When, by the monotonic clock, ``look`` is due, though nothing has happened."""
        return self._upgrades.wake_at

    def describe(self, now: float) -> list[str]:
        """Return a line for people that says what the successor is doing, if there is one."""
        if not self.is_running or self._successor is None:
            return []
        state, age = self._upgrades.phase.value, now - self._upgrades.began_at
        return [f"  upgrade: process {self._successor.pid} {state}, for {age:.0f} s"]

    def descriptors(self) -> list[int]:
        """Return what to wait for."""
        channel = None if self._successor is None else self._successor.channel
        return [] if channel is None or channel.fileno() < 0 else [channel.fileno()]

    def close(self) -> None:
        """Close the channel, in a forked child."""
        if self._successor is not None:
            self._successor.channel.close()

    def begin(self) -> None:
        """Start a successor, on SIGUSR2, if that may be."""
        objection = self._upgrades.objection(
            pid=os.getpid(),
            has_started=self._plan.has_started,
            is_ending=self._plan.is_ending,
        )
        if objection:
            error_log.warning("Not upgraded on SIGUSR2: %s", objection)
            return
        environment = {**os.environ, **self._service.environment()}
        try:
            self._successor = Successor.start(
                self._command, self._directory, environment, self._sockets, self._leave
            )
        except OSError as error:
            error_log.error("Not upgraded on SIGUSR2: no process can be had: %s", error.strerror)
            return
        self._children.expect(self._successor.pid)
        self._upgrades.begin(time.monotonic())
        error_log.info(
            "Upgrading on SIGUSR2: process %d is started with: %s",
            self._successor.pid,
            shlex.join(self._command),
        )

    def hear(self) -> None:
        """Take note of what the successor says."""
        assert self._successor is not None  # There was something to wait for.
        for word, texts in self._successor.read():
            if word == READY:
                self._upgrades.ready()
            elif word == FAILED and texts:
                self._upgrades.fails(f"the command cannot be run: {texts[0]}")

    def look(self) -> None:
        """Do what follows from what has happened. Called when something has, after processes."""
        if (successor := self._successor) is None:
            return
        if (status := self._children.status_of(successor.pid)) is not None:
            # What it has said before, it has said at once.
            if self.descriptors():
                self.hear()
            self._upgrades.ended(describe_status(status))
        for action in self._upgrades.decide(
            time.monotonic(),
            is_ending=self._plan.is_ending,
            ends_now=self._plan.ends_now,
            stop_limit=self._plan.terms.stop_limit,
        ):
            self._do(action, successor)

    def _do(self, action: UpgradeAction, successor: Successor) -> None:
        match action:
            case HandOver():
                self._hand_over(successor)
            case TellToStop(now=True):
                successor.signal(signal.SIGQUIT)
            case TellToStop():
                successor.tell(STOP)
            case KillSuccessor():
                successor.signal(signal.SIGKILL)
            case Failed(reason):
                self._forget(successor)
                workers = counted(self._plan.count(WorkerPhase.SERVING), "worker")
                error_log.error(
                    "Not upgraded: %s; still serving with %s of before", reason, workers
                )
            case Lost(how):
                self._forget(successor)
                error_log.error("The new supervisor %s, after it had taken over", how)

    def _hand_over(self, successor: Successor) -> None:
        """Let the successor take over, unless it has ended a moment ago."""
        # First: before that, nobody listens to what the successor says.
        self._service.hand_over(successor.pid)
        if not successor.tell(TAKE_OVER):
            self._service.hand_over(os.getpid())
            self._upgrades.refused()
            return
        self._service.close()
        for sock in self._sockets:
            sock.disown_file()
        error_log.info(
            "Upgraded: process %d serves; finishing requests in flight here", successor.pid
        )
        self._plan.hand_over(time.monotonic())

    def _forget(self, successor: Successor) -> None:
        successor.channel.close()
        self._successor = None
