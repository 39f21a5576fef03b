"""What a supervisor tells people of the ends of its workers and molds."""

import time
from collections.abc import Sequence

from ...observe.loggers import error_log
from ...observe.scoreboard import RequestReading
from . import log
from .children import Child
from .deaths import OutOfMemory, describe_status, was_killed
from .plan import Phase, Plan

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
        if member.phase is Phase.STOPPING or self._plan.is_ending:
            if child.verdict:
                error_log.warning("Worker %d %s", child.pid, child.verdict)
            else:
                error_log.debug("Worker %d %s", child.pid, ended)
            return
        if was_killed(status) and self._out_of_memory.has_struck():
            ended += ": the kernel has run out of memory (see memory.max of its cgroup)"
        lines = []
        if requests:
            now = time.monotonic_ns()
            lines.append("It was answering:")
            lines += [f"  {text} (for {(now - began) / 1e9:.1f} s)" for began, text in requests]
        if child.written:
            lines.append(child.written.decode(errors="replace").rstrip())
        details = "".join(f"\n{line}" for line in lines)
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

    def mold_is_unfit(self, hazards: str) -> None:
        """Tell why workers load the application themselves. ``hazards`` has a line for each."""
        error_log.warning(_UNFIT, "\n".join(f"  {line}" for line in hazards.splitlines()))

    def mold_ended(self, mold: Child, status: int) -> None:
        """Tell how a mold has ended from which workers might still have been forked."""
        if self._plan.is_ending or mold.generation not in self._plan.wanted:
            return
        if mold.failure and not self._plan.has_started:
            log.write(mold.failure)
        elif mold.failure:
            error_log.error("A new mold cannot load the application:\n%s", mold.failure.rstrip())
        else:
            ended = describe_status(status)
            if was_killed(status) and self._out_of_memory.has_struck():
                ended += ": the kernel has run out of memory (see memory.max of its cgroup)"
            stacks = mold.written.decode(errors="replace").rstrip()
            error_log.error("The mold %d %s%s", mold.pid, ended, stacks and f"\n{stacks}")
