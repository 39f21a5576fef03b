"""Faults that befall a supervisor and its workers at random, while clients ask all the time."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between two faults, one of these."""
STOPS = (0.2, 1.0, 3.0, 12.0)
"""Seconds for which a process is stopped. The last is longer than `TIMEOUT_WORKER`."""
TIMEOUT_WORKER = 6
"""What the server is given as `--timeout-worker`, in seconds."""

KILL, STOP, RELOAD, MORE, FEWER = "kill -9", "SIGSTOP", "SIGHUP", "SIGTTIN", "SIGTTOU"


class Faults:
    """What is done to a supervisor and its children. `seed` decides what, not to whom."""

    def __init__(self, supervisor: int, *, seed: int) -> None:
        self._supervisor = supervisor
        self._chance = random.Random(f"{seed} faults")
        self.done: Counter[str] = Counter()
        self._more = 0

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Do one after the other until `is_over()`, then undo what lasts."""
        async with asyncio.TaskGroup() as stops:
            while not is_over():
                await asyncio.sleep(self._chance.choice(PAUSES))
                match self._chance.choice((KILL, KILL, STOP, RELOAD, MORE)):
                    case "kill -9":
                        self._signal_child(signal.SIGKILL, KILL)
                    case "SIGSTOP":
                        if (pid := self._signal_child(signal.SIGSTOP, STOP)) is not None:
                            stops.create_task(_go_on(pid, self._chance.choice(STOPS)))
                    case "SIGHUP":
                        self._tell(signal.SIGHUP, RELOAD)
                        # It brings the number of the options back.
                        self._more = 0
                    case _:
                        self._change_number()
        if self._more:
            self._change_number()

    def _change_number(self) -> None:
        """Have one worker more, or one less where there was one more."""
        self._tell(*((signal.SIGTTOU, FEWER) if self._more else (signal.SIGTTIN, MORE)))
        self._more = 1 - self._more

    def _tell(self, number: signal.Signals, name: str) -> None:
        os.kill(self._supervisor, number)
        self.done[name] += 1

    def _signal_child(self, number: signal.Signals, name: str) -> int | None:
        """Send a signal to a worker or a mold, whichever it is; return which, None without any."""
        found = children(self._supervisor)
        if not found:
            return None
        pid = self._chance.choice(found)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            self.done[name] += 1
            return pid
        return None

    @property
    def losses(self) -> int:
        """How often requests may have been lost: a process was killed, or stopped for long."""
        return self.done[KILL] + self.done[STOP]

    @property
    def ends(self) -> int:
        """How often workers may have ended, and have closed connections in order or not.

        A reload replaces all of them, one after the other.
        """
        return sum(self.done.values()) + self.done[RELOAD]


async def _go_on(pid: int, seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    """Return the children of a process, none if it has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
