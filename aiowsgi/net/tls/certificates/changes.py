"""Whether files have changed, by looking at them now and then. Blocks; for any one thread."""

import os
from collections.abc import Iterable

# What a look at the files finds: for each path what is there, or the number of the error.
Look = tuple[tuple[int, ...], ...]


def look_at(paths: Iterable[str]) -> Look:
    """Return what is at these paths now, behind all symbolic links, any of which may be swapped."""
    return tuple(_look_at(path) for path in paths)


def _look_at(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    except ValueError:  # No path at all: it has a NUL.
        return (0,)
    # The last one changes with permissions, too, and where the time of the content is set back.
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Changes:
    """Tells changes that are complete from those that may still go on.

    A change is complete when two looks in a row have found the same. Argument: the first look.
    """

    def __init__(self, first: Look) -> None:
        self._known = first
        # What the last look has found, if that was something else.
        self._found: Look | None = None

    def are_complete(self, look: Look) -> bool:
        """Return whether there was a change, and it seems to be over."""
        if look == self._known:
            self._found = None
            return False
        before, self._found = self._found, look
        return look == before

    def note(self, look: Look) -> None:
        """Take what was found for known: the files were read in that state."""
        self._known = look
        self._found = None
