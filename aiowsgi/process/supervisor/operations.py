"""What a supervisor does on each signal."""

import signal
import time

from ...observe.loggers import error_log
from ...wording import counted
from ..standard_streams import has_terminal
from ..systemd.supervised import SupervisorReport
from ..upgrade.upgrade import Upgrade
from .children import Children
from .decisions.plan import Event, Plan
from .generations import Generations
from .wakeups import SIGNALS


class Operations:
    """Acts on signals, by telling the plan what is wanted."""

    def __init__(
        self,
        plan: Plan,
        children: Children,
        generations: Generations,
        service: SupervisorReport,
        upgrade: Upgrade,
    ) -> None:
        self._plan = plan
        self._children = children
        self._generations = generations
        self._service = service
        self._upgrade = upgrade
        self._had_terminal = has_terminal()

    def act(self, number: signal.Signals) -> None:
        """Do what a signal asks for."""
        now, plan = time.monotonic(), self._plan
        match number:
            case signal.SIGTERM if not plan.was_told_to_stop:
                error_log.info(
                    "Stopping on SIGTERM: finishing requests in flight (again to stop now)"
                )
                plan.stop(now, 0 if plan.has_started else 128 + number)
            case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                again = "a second " if plan.is_ending else ""
                error_log.warning("Stopping now on %s%s", again, number.name)
                plan.stop(now, 128 + number, at_once=True)
            case signal.SIGHUP if self._had_terminal and not has_terminal():
                # Its window is gone, or the connection to it. Nobody can press Ctrl-C any more.
                error_log.info("Stopping on SIGHUP: finishing requests in flight")
                plan.stop(now, 0)
            case signal.SIGHUP if self._upgrade.is_running:
                error_log.warning("Not reloaded: an upgrade is running, which loads all anew")
            case signal.SIGHUP:
                if not plan.is_ending:
                    error_log.info("Reloading on SIGHUP")
                    self._service.reloading()
                    if not self._generations.reload(plan):
                        self._service.announce(Event.RELOAD_FAILED)
            case signal.SIGUSR1:
                error_log.warning("Ignored SIGUSR1: logs go to standard output and error")
            case signal.SIGUSR2:
                self._upgrade.begin()
            case signal.SIGWINCH | signal.SIGCHLD:
                pass
            case signal.SIGTTIN | signal.SIGTTOU:
                workers = plan.resize(1 if number is signal.SIGTTIN else -1)
                error_log.info("%s on %s", counted(workers, "worker"), number.name)
            case _:
                self._tell_state(number)

    def _tell_state(self, number: signal.Signals) -> None:
        """Write what the workers are doing to the log, and have each of them do the same."""
        now, lines = time.monotonic(), []
        for child in self._children:
            if (member := self._plan.members.get(child.number)) is None:
                continue  # It is no worker.
            age = now - member.started_at
            lines.append(f"  worker {child.pid}: {member.phase.value}, for {age:.0f} s")
            child.signal(number)
        workers = counted(len(lines), "worker")
        lines += self._upgrade.describe(now)
        error_log.warning(
            "Asked by %s: %s\n%s\n%s",
            number.name,
            workers,
            "\n".join(lines),
            SIGNALS,
        )
