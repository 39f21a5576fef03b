"""Warnings about certificates that are over, or soon will be. On the loop thread."""

import time
from collections.abc import Callable, Iterable

from ....wording import counted
from .proof import Leaf

_DAY = 86400.0
# In seconds. Whoever renews certificates by themselves does it before that.
SOON = 14 * _DAY


class ExpiryWarnings:
    """Says of each certificate once a day that it is over, soon will be, or is not valid yet.

    Argument: the clock, in seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # When a certificate was last warned of. A new one in the same file is another one.
        self._warned_at: dict[Leaf, float] = {}

    def due(self, leaves: Iterable[Leaf]) -> list[str]:
        """Return the warnings that are due now."""
        now = self._clock()
        before, self._warned_at = self._warned_at, {}
        warnings = []
        for leaf in leaves:
            if (text := _warning(leaf, now)) is None or leaf in self._warned_at:
                continue
            last = before.get(leaf)
            # A clock that was set back counts as a day, too.
            if last is None or not 0 <= now - last < _DAY:
                warnings.append(text)
                last = now
            self._warned_at[leaf] = last
        return warnings


def _warning(leaf: Leaf, now: float) -> str | None:
    if now > leaf.not_after:
        return (
            f"The certificate {leaf.file} has expired on {_date(leaf.not_after)}: clients refuse it"
        )
    if now < leaf.not_before:
        return (
            f"The certificate {leaf.file} is not valid before {_date(leaf.not_before)}: clients "
            "refuse it until then; is the clock of this machine right?"
        )
    if leaf.not_after - now < SOON:
        left = counted(int((leaf.not_after - now) // _DAY), "day")
        return f"The certificate {leaf.file} expires on {_date(leaf.not_after)}, in {left}"
    return None


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
