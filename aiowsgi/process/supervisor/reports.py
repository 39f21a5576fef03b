"""What a supervisor tells people of the ends of its workers and molds: how, why, doing what."""

import errno
import os
import signal
import time
from collections.abc import Sequence

from ...net.accept.descriptors import RAISE_LIMIT
from ...observe.loggers import error_log
from ...observe.scoreboard import RequestReading
from . import log
from .children import Child
from .decisions.plan import Phase, Plan

_RAISE_PROCESSES = (
    "raise the limit of processes (ulimit -u, TasksMax= of systemd, --pids-limit of Docker)"
)
_MEMORY_V1 = "/sys/fs/cgroup/memory"
# Whoever is told to stop may end by these before it has handlers, or if it has given them up.
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_UNFIT = """\
Not preloaded: each worker loads the application itself, because a fork would break what the
application has begun while it was loaded:
%s
Begin such things where they are first needed, in the worker that needs them"""


class Reports:
    """Tells how processes have ended, and what that means by the plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._out_of_memory = OutOfMemory()

    def worker_ended(self, child: Child, status: int, requests: Sequence[RequestReading]) -> None:
        """Tell how a worker has ended, unless it was told to end and has done so."""
        member = self._plan.members[child.number]
        ended = describe_status(status)
        details = _details(child, requests)
        if member.phase is Phase.STOPPING or self._plan.is_ending:
            if child.verdict:
                error_log.error("Worker %d %s%s", child.pid, child.verdict, details)
            elif os.WIFSIGNALED(status) and os.WTERMSIG(status) not in _STOP:
                ended = self._with_reason(ended, status)
                error_log.error("Worker %d %s while it was stopping%s", child.pid, ended, details)
            else:
                error_log.debug("Worker %d %s", child.pid, ended)
            return
        ended = self._with_reason(ended, status)
        if not self._plan.has_started and member.phase is Phase.STARTING:
            if not child.failure:
                child.failure = f"aiowsgi: error: a worker {ended} before it served{details}\n"
            log.write(child.failure)
        elif child.failure:
            error_log.error("A new worker cannot serve:\n%s", child.failure.rstrip())
        elif member.phase is Phase.STARTING:
            error_log.error("Worker %d %s before it served%s", child.pid, ended, details)
        else:
            served = time.monotonic() - member.serving_since
            error_log.error(
                "Worker %d %s after %.1f s, and is replaced%s", child.pid, ended, served, details
            )

    def _with_reason(self, ended: str, status: int) -> str:
        """Add to how a process has ended why the kernel has ended it, where that is known."""
        if was_killed(status) and self._out_of_memory.has_struck():
            return f"{ended}: the kernel has run out of memory (see memory.max of its cgroup)"
        return ended

    def mold_is_unfit(self, hazards: str) -> None:
        """Tell why workers load the application themselves. ``hazards`` has a line for each."""
        error_log.warning(_UNFIT, "\n".join(f"  {line}" for line in hazards.splitlines()))

    def mold_ended(self, mold: Child, status: int, *, has_lost_workers: bool) -> None:
        """Tell how a mold has ended from which workers might still have been forked.

        ``has_lost_workers`` says whether some were to be.
        """
        if self._plan.is_ending or mold.generation not in self._plan.wanted:
            return
        if mold.failure and not self._plan.has_started:
            log.write(mold.failure)
        elif mold.failure:
            error_log.error("A new mold cannot load the application:\n%s", mold.failure.rstrip())
        else:
            ended = self._with_reason(mold.verdict or describe_status(status), status)
            details = _details(mold, ())
            if has_lost_workers and not self._plan.has_started:
                log.write(f"aiowsgi: error: the mold {ended} before all workers served{details}\n")
            else:
                error_log.error("The mold %d %s%s", mold.pid, ended, details)


def _details(child: Child, requests: Sequence[RequestReading]) -> str:
    """Return what a worker was doing when it ended, as further lines."""
    lines = []
    if requests:
        now = time.monotonic_ns()
        lines.append("It was answering:")
        lines += [f"  {text} (for {(now - began) / 1e9:.1f} s)" for began, text in requests]
    if child.written:
        lines.append(child.written.decode(errors="replace").rstrip())
    return "".join(f"\n{line}" for line in lines)


def reason_of(error: OSError) -> str:
    """Return why no process can be had, and what to do about it where that is known."""
    reason = error.strerror or str(error)
    match error.errno:
        case errno.EMFILE:
            return f"{reason}; {RAISE_LIMIT}"
        case errno.EAGAIN:
            return f"{reason}; {_RAISE_PROCESSES}"
    return reason


def describe_status(status: int) -> str:
    """Return how a process has ended, from its status by waitpid(2)."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # A real-time signal.
        name = f"signal {-code}"
    core = ", and has left a core dump" if os.WCOREDUMP(status) else ""
    return f"was killed by {name}{core}"


def was_killed(status: int) -> bool:
    """Return whether a process was ended by SIGKILL, as the kernel does where memory is short."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


class OutOfMemory:
    """How often the kernel has killed a process of this cgroup because memory was short."""

    def __init__(self) -> None:
        self._file = _events_file()
        self._killed = self._read()

    def has_struck(self) -> bool:
        """Return whether that has happened since the last call."""
        before, self._killed = self._killed, self._read()
        return self._killed > before

    def _read(self) -> int:
        """Return the number; 0 where nothing tells it."""
        if self._file:
            try:
                with open(self._file, "rb") as file:
                    for line in file:
                        name, _, number = line.partition(b" ")
                        if name == b"oom_kill":
                            return int(number)
            except (OSError, ValueError):
                pass
        return 0


def _events_file() -> str:
    """Return the file that counts for the cgroup of this process; empty where there is none."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            folders, name = [f"/sys/fs/cgroup{path}", "/sys/fs/cgroup"], "memory.events"
        elif "memory" in controllers.split(","):
            folders, name = [_MEMORY_V1 + path, _MEMORY_V1], "memory.oom_control"
        else:
            continue
        # In a container, the path may be that outside of it.
        for folder in folders:
            if os.path.isfile(found := os.path.join(folder, name)):
                return found
    return ""
