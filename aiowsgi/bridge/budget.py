"""The bytes that may be buffered for all clients together."""

from .locks import make_lock

# Less than this is not worth a lock: a holder of it counts as nothing.
SMALL = 1 << 14


class Budget:
    """Counts what many holders have buffered, in bytes. Called on any thread; does not block.

    Each holder remembers what it is counted with, ``held``, and passes it when that changes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Protects the sum. Taken by the loop thread and by pool threads for a few instructions,
        # also while they hold the lock of a body or a writer. To look at it takes no lock: what was
        # seen with one would be old as well by the time that use is made of it.
        self._lock = make_lock()
        self._used = 0

    @property
    def used(self) -> int:
        """The sum of what all holders are counted with."""
        return self._used

    @property
    def exceeded(self) -> bool:
        """Whether more is held than may be."""
        return self._used > self.limit

    def abandon(self) -> None:
        """Count for nobody. See ``forks``."""
        self._lock = make_lock()

    def hold(self, held: int, size: int) -> int:
        """Count a holder with ``size`` in place of ``held``; return what it is counted with now."""
        if size < SMALL:
            size = 0
        if size != held:
            with self._lock:
                self._used += size - held
        return size

    def has_room(self, held: int, size: int) -> bool:
        """Return whether a holder that is counted with ``held`` may hold ``size``."""
        if size < SMALL:
            return True
        return self._used + size - held <= self.limit
