"""Locks, and threads that come back to one that they hold.

A signal handler, or a destructor that the garbage collector runs, interrupts a thread anywhere,
also where that holds a lock. What it calls may want the same lock, and would wait for its own
thread for ever. So the locks of the bridge can be taken again by who holds them. To look at what
they protect does no harm then, although it may be half changed. What would change it is an error.
"""

import _thread
from collections.abc import Callable
from typing import Protocol, cast


class Lock(Protocol):
    """A lock that its owner may take again."""

    def __enter__(self) -> bool: ...

    def __exit__(self, *exc_info: object) -> None: ...

    # Whether the calling thread holds it. ``threading.Condition`` asks for this, too.
    def _is_owned(self) -> bool: ...


# What ``threading.RLock`` calls, for which this is too often.
make_lock = cast(Callable[[], Lock], _thread.RLock)


def reentered(what: str) -> RuntimeError:
    """Return what is raised where a call comes into the middle of another one on its own thread."""
    return RuntimeError(
        f"{what} is in use by this very thread: a signal handler or a destructor has interrupted "
        "it; hand the work to another thread, or to the event loop"
    )
