"""Makes single changes of what differs between two looks: a burst of them is one."""

import time
from collections import deque
from collections.abc import Callable

from .tree import Snapshot

# Seconds without a further change until a burst is over. An editor takes less to replace a file.
SETTLE_TIME = 0.05
# Seconds that a burst may last: git checks out a large branch in less.
LONGEST_BURST = 2.0
# So many changes are told within so many seconds, and no more: an application may itself write a
# file that counts, each time when it is started.
MOST_OFTEN = 10
PERIOD = 20.0


class Changes:
    """Waits for the next change.

    Arguments: ``look()``, which returns what there is now; ``wait(cost)``, which returns when it
    may be worth looking again, where a look takes ``cost`` seconds; ``pause(seconds)``; and the
    clock, in seconds.
    """

    def __init__(
        self,
        look: Callable[[], Snapshot],
        wait: Callable[[float], None],
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._wait = wait
        self._pause = pause
        self._clock = clock
        self._last = look()
        # When the latest changes were told.
        self._told: deque[float] = deque(maxlen=MOST_OFTEN)

    @property
    def is_frequent(self) -> bool:
        """Whether changes are so frequent that the next one is told later."""
        told = self._told
        return len(told) == MOST_OFTEN and self._clock() - told[0] < PERIOD

    def next(self) -> set[str]:
        """Return the files that have changed since the last call, once there are any.

        What is created and deleted again within one burst has not changed.
        """
        if self.is_frequent:
            self._pause(self._told[0] + PERIOD - self._clock())
        while True:
            began = self._clock()
            found = self._look()
            if self._last.changes(found):
                found = self._settled(found)
                changed = self._last.changes(found)
                self._last = found
                if changed:
                    self._told.append(self._clock())
                    return changed
            else:
                self._last = found
                self._wait(self._clock() - began)

    def _settled(self, found: Snapshot) -> Snapshot:
        """Return what there is once nothing changes any more, or the burst has lasted too long."""
        deadline = self._clock() + LONGEST_BURST
        while self._clock() < deadline:
            self._pause(SETTLE_TIME)
            again = self._look()
            if not found.changes(again):
                return again
            found = again
        return found
