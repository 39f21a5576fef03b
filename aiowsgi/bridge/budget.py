"""The bytes that may be buffered for all clients together."""

from typing import Final

from .locks import make_lock

# A buffer with fewer bytes is counted as empty: it is not worth taking the lock.
MIN_COUNTED: Final = 1 << 14


class Budget:
    """Counts the bytes in many buffers. Called on any thread; does not block.

    Each buffer remembers how many bytes it is counted with (``held``), and passes that number when
    its size changes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Protects the sum. Taken by the loop thread and by pool threads for a few instructions,
        # also while they hold the lock of a body or a writer. Reading it takes no lock, because the
        # number may change anyway before the reader makes use of it.
        self._lock = make_lock()
        self._used = 0

    @property
    def used(self) -> int:
        """How many bytes all buffers are counted with."""
        return self._used

    @property
    def is_exceeded(self) -> bool:
        """Whether the buffers are counted with more bytes than the limit."""
        return self._used > self.limit

    def abandon(self) -> None:
        """Be of no use in a forked child. See ``forks``."""
        self._lock = make_lock()

    def update(self, held: int, size: int) -> int:
        """Count a buffer with ``size`` bytes in place of ``held``; return the new ``held``."""
        if size < MIN_COUNTED:
            size = 0
        if size != held:
            with self._lock:
                self._used += size - held
        return size

    def has_room(self, held: int, size: int) -> bool:
        """Return whether a buffer that is counted with ``held`` may grow to ``size`` bytes."""
        if size < MIN_COUNTED:
            return True
        return self._used + size - held <= self.limit
