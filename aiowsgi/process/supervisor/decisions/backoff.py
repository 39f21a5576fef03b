"""How long a supervisor waits before it replaces workers that keep dying. Pure; no clock."""

# A worker that has served longer than this many seconds did not die of how it was started.
_PROVEN = 10.0
# Without an early death for so many seconds, those before are forgotten.
_FORGOTTEN = 60.0
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0


class Backoff:
    """Counts early deaths, and says when the next worker may be started.

    As many as there are workers are replaced at once: something that has nothing to do with them
    may end all of them, such as a lack of memory. From then on, each one doubles the delay. A
    worker that could not even begin to serve is not tried again at once.
    """

    def __init__(self) -> None:
        self._deaths = 0
        self._failures = 0
        self._last = float("-inf")
        # When, by the clock of the caller, the next worker may be started.
        self.until = float("-inf")

    def note(self, now: float, *, served: float | None, workers: int) -> None:
        """Take note that a worker has died that nobody had stopped.

        ``served`` is for how many seconds it has served, None if it never did; ``workers``, how
        many there should be.
        """
        if served is not None and served >= _PROVEN:
            return
        if now - self._last > _FORGOTTEN + (self.until - self._last):
            self._deaths = self._failures = 0
        self._last = now
        if served is None:
            self._failures += 1
        else:
            self._deaths += 1
        steps = self._failures + max(self._deaths - workers, 0)
        # An exponent without a limit would be a number too large for a float.
        delay = _FIRST_DELAY * 2 ** min(steps - 1, 10) if steps else 0.0
        self.until = now + min(delay, _LONGEST_DELAY)

    def forget(self) -> None:
        """Start the next worker at once: something has changed."""
        self._deaths = self._failures = 0
        self._last = self.until = float("-inf")
