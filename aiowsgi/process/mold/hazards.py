"""What a fork would break: threads, connections, locks and more that the application has begun.

A forked child has a copy of the memory, and the same open files, but no thread besides the one that
forked. So a thread is missing in it, and a connection is shared by all children, whose bytes get
mixed up. Linux only: it reads /proc.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from ...bridge import forks
from . import descriptors
from .origins import Origins, line_of, target_of

# Seconds that threads, which may have something short to do, have to end.
_GRACE = 0.5
_POLL_INTERVAL = 0.01
# Seconds that a child which does nothing has to end.
_CHILD_TIMEOUT = 5.0


class Hazard(NamedTuple):
    """One thing that a fork would break."""

    what: str
    line: str = ""
    """the line of the application that has begun it, as tracebacks write it; empty if unknown"""

    def __str__(self) -> str:
        return f"{self.what} ({self.line})" if self.line else self.what


class Possessions:
    """What this process has beside its memory, at the moment when the object is made."""

    def __init__(self) -> None:
        self.threads = _tasks()
        self.descriptors = {number: target_of(number) for number in descriptors.open_ones()}
        self.children = _children()
        self.aware = forks.registered()

    def hazards(self, origins: Origins) -> list[Hazard]:
        """Return what has been added since, and a fork would break.

        Threads are given half a second to end. Then, if there are any, this forks once, a child
        that ends at once: the threads of some libraries, such as those of OpenBLAS, end before a
        fork and are started again behind it.
        """
        return list(
            dict.fromkeys(
                [
                    *self._new_threads(origins),
                    *self._new_children(),
                    *self._new_descriptors(origins),
                    *self._new_aware(),
                ]
            )
        )

    def _new_threads(self, origins: Origins) -> Iterator[Hazard]:
        limit = time.monotonic() + _GRACE
        while (left := _tasks() - self.threads) and time.monotonic() < limit:
            time.sleep(_POLL_INTERVAL)
        if not left:
            return
        has_ended = _fork_in_vain()
        left &= _tasks()
        if not has_ended:
            yield Hazard("a fork of this process, which does not end")
        frames = sys._current_frames()
        for thread in threading.enumerate():
            if thread.native_id in left:
                left.discard(thread.native_id)
                line = origins.of_thread(thread)
                if not line and thread.ident is not None:
                    line = line_of(frames.get(thread.ident))
                yield Hazard(f"the thread {thread.name!r}", line)
        for task in sorted(left):
            yield Hazard(f"a thread called {_name_of(task)!r}, of a library")

    def _new_children(self) -> Iterator[Hazard]:
        for child in sorted(_children() - self.children):
            yield Hazard(f"the child process {child} ({_command_of(child)})")

    def _new_descriptors(self, origins: Origins) -> Iterator[Hazard]:
        for number in descriptors.open_ones():
            is_new = target_of(number) != self.descriptors.get(number)
            if is_new and (what := descriptors.breaks(number)):
                yield Hazard(what, origins.of_socket(number))

    def _new_aware(self) -> Iterator[Hazard]:
        for item in forks.registered():
            if not any(item is old for old in self.aware):
                # Not every object is registered itself. See ``forks.AtFork``.
                owner = getattr(item.abandon, "__self__", item)
                yield Hazard(f"a {type(owner).__name__} of aiowsgi")


def _tasks() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


def _children() -> set[int]:
    """Return the children of this process that run. Those that have ended harm nobody."""
    # The tracker of multiprocessing, which is made to be shared.
    tracker = getattr(
        sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None
    )
    found = set()
    for task in _tasks():
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children") as file:
            found |= set(map(int, file.read().split()))
    found.discard(getattr(tracker, "_pid", None) or 0)
    return {child for child in found if _state_of(child) not in "ZX"}


def _state_of(child: int) -> str:
    """Return the letter of proc(5) for the state of a process; X if there is none."""
    with contextlib.suppress(OSError), open(f"/proc/{child}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return "X"


def _name_of(task: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
        return file.read().strip()
    return ""


def _command_of(child: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{child}/cmdline") as file:
        return " ".join(file.read().split("\0")).strip()
    return ""


def _fork_in_vain() -> bool:
    """Fork a child that ends at once. Return whether it has ended by itself."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python warns of forks of a process with threads, which is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os._exit(0)
    os.close(writing)
    try:
        # What a function that was registered for forks does in the child may wait for a thread that
        # is not there. The end of the child closes the pipe.
        poll = select.poll()
        poll.register(reading, 0)
        has_ended = bool(poll.poll(_CHILD_TIMEOUT * 1000))
    finally:
        os.close(reading)
    if not has_ended:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return has_ended
