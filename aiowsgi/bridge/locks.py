"""Re-entrant locks, and the error for a call that must not be re-entered.

A signal handler, or a destructor that the garbage collector runs, can interrupt a thread anywhere,
also while the thread holds a lock. If the handler takes the same lock, it would wait for its own
thread for ever. So a thread can take the locks of the bridge again while it holds them. Then it may
read what they protect, although a change may be half done. An attempt to change it raises an error.
"""

import _thread
import threading
from collections.abc import Callable
from typing import Final, Protocol, cast


class Lock(Protocol):
    """A lock that its owner may take again."""

    def __enter__(self) -> bool: ...

    def __exit__(self, *exc_info: object) -> None: ...

    # Whether the calling thread holds it. ``threading.Condition`` asks for this, too.
    def _is_owned(self) -> bool: ...


# ``threading.RLock`` is a function that calls this. Locks are made too often for that.
make_lock: Final = cast(Callable[[], Lock], _thread.RLock)


def make_condition(lock: Lock) -> threading.Condition:
    """Return a condition with a lock of this module."""
    return threading.Condition(lock)  # type: ignore[arg-type]


def reentered(what: str) -> RuntimeError:
    """Return the error for a call that interrupts another call on the same thread."""
    return RuntimeError(
        f"{what} is in use by this very thread: a signal handler or a destructor has interrupted "
        "it; hand the work to another thread, or to the event loop"
    )
