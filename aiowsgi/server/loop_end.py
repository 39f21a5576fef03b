"""Notices that an event loop is closed under a server that still serves.

That is no graceful stop, which is in ``shutdown``: there is no loop any more that could wait.
"""

import asyncio
import weakref
from collections.abc import Callable

# A timer that is never due: some thirty years, in seconds.
_NEVER = 1e9


class _Sentinel:
    """An object that only the loop refers to, so that it is deleted when the loop is closed."""

    __slots__ = ("__weakref__", "on_end")

    def __init__(self, on_end: Callable[[], None]) -> None:
        self.on_end: Callable[[], None] | None = on_end

    def __call__(self) -> None:
        """Do nothing. The timer that would call this is never due."""

    def __del__(self) -> None:
        if self.on_end is not None:
            self.on_end()


class LoopEnd:
    """Calls ``on_end()`` when a loop is closed, on the thread that closes it, unless cancelled.

    No loop says that it ends. But each forgets its timers then, before it closes a socket: so a
    timer that is never due, and what it would call, are gone exactly when the loop has ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        sentinel = _Sentinel(on_end)
        # Weak references: only the loop keeps these alive.
        self._sentinel = weakref.ref(sentinel)
        self._timer = weakref.ref(loop.call_later(_NEVER, sentinel))

    def cancel(self) -> None:
        """Do not call ``on_end``. Called on the loop thread."""
        if (sentinel := self._sentinel()) is not None:
            sentinel.on_end = None
        if (timer := self._timer()) is not None:
            timer.cancel()
