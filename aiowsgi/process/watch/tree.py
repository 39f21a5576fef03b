"""What the files that count are at one moment, as the file system tells, and what differs later."""

import os
import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from .selection import Root, is_skipped

# Entries of folders that one look reads at most, some 0.1 seconds of work. Somebody who starts the
# server in their home directory has more.
MAX_ENTRIES = 20_000

# When it was written, its size, and which file it is: editors replace the old one by another.
_Signature = tuple[int, int, int]


@dataclass(slots=True)
class Snapshot:
    """The files that count, and the folders in which that may change, at one moment."""

    files: dict[str, _Signature] = field(default_factory=dict)
    # Each with the number of its inode: a folder may be replaced by another one of the same name.
    folders: dict[str, int] = field(default_factory=dict)

    def changes(self, later: "Snapshot") -> set[str]:
        """Return the files that are changed, created or deleted in ``later``."""
        return {path for path, _ in self.files.items() ^ later.files.items()}


class Tree:
    """The folders that are looked at.

    Arguments: these, and how many entries they may have in all. If there are more, those folders
    are left out from then on that are deepest.
    """

    def __init__(self, roots: Sequence[Root], max_entries: int = MAX_ENTRIES) -> None:
        self._roots = roots
        self._max_entries = max_entries
        self.left_out: set[str] = set()

    def look(self) -> Snapshot:
        """Return what there is now."""
        found = Snapshot()
        left = self._max_entries
        waiting = deque((root, root.folder) for root in self._roots)
        while waiting:
            root, folder = waiting.popleft()
            if left <= 0:
                self.left_out.add(folder)
            if folder in self.left_out:
                continue
            # One more than there may be: a single folder can have too many.
            entries = _entries(folder, left + 1)
            left -= len(entries)
            if left < 0:
                self.left_out.add(folder)
            elif folder == root.folder or "pyvenv.cfg" not in {entry.name for entry in entries}:
                _note_all(entries, root, found)
                found.folders[folder] = _inode(folder)
                if root.is_deep:
                    waiting += [(root, entry.path) for entry in entries if _leads_on(entry)]
        return found


def _entries(folder: str, most: int) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(islice(entries, most))
    except OSError:  # It is gone, or belongs to somebody else.
        return []


def _leads_on(entry: "os.DirEntry[str]") -> bool:
    try:
        # A link may lead in a circle.
        return not is_skipped(entry.name) and entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _inode(folder: str) -> int:
    try:
        return os.stat(folder).st_ino
    except OSError:
        return 0


def _note_all(entries: Sequence["os.DirEntry[str]"], root: Root, found: Snapshot) -> None:
    for entry in entries:
        if not root.has(entry.path):
            continue
        try:
            status = entry.stat()
        except OSError:  # It is gone meanwhile, or is a link to nothing.
            continue
        if stat.S_ISREG(status.st_mode):
            found.files[entry.path] = (status.st_mtime_ns, status.st_size, status.st_ino)
