"""The end of an event loop, for who has to know of it."""

import asyncio
import weakref
from collections.abc import Callable

# A timer that is never due: some thirty years, in seconds.
_NEVER = 1e9


class _Last:
    """What a loop lets go of when it is closed, and nobody else has."""

    __slots__ = ("__weakref__", "on_end")

    def __init__(self, on_end: Callable[[], None]) -> None:
        self.on_end: Callable[[], None] | None = on_end

    def __call__(self) -> None:
        """Be what a timer calls. It is never due."""

    def __del__(self) -> None:
        if self.on_end is not None:
            self.on_end()


class LoopEnd:
    """Calls ``on_end()`` when a loop is closed, on the thread that closes it, unless cancelled.

    No loop says that it ends. But each forgets its timers then, before it closes a socket: so a
    timer that is never due, and what it would call, are gone exactly when the loop has ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        last = _Last(on_end)
        # The loop alone keeps them.
        self._last = weakref.ref(last)
        self._timer = weakref.ref(loop.call_later(_NEVER, last))

    def cancel(self) -> None:
        """Call nobody. Called on the loop thread."""
        if (last := self._last()) is not None:
            last.on_end = None
        if (timer := self._timer()) is not None:
            timer.cancel()
