"""A lock on a folder, held while a file in it is looked at and replaced.

Two servers that start at the same time could each find that a file is left over, and each replace
it: the second one would take away that of the first. Such files are PID files and Unix sockets.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

# Whoever holds the lock is done within milliseconds. Somebody else may hold it longer, because
# everybody who may read a folder may lock it: then the files are replaced without the lock.
_PATIENCE = 1.0
_PAUSE = 0.01


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold the lock of a folder, where the system has one for it. May wait a second.

    The kernel ends it with the process, however that ends. Nothing is left in the folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # It cannot be read, or is not there, which whoever writes to it will find out.
        yield
        return
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError:  # Some file systems of a network know no locks of folders.
            return
        else:
            return
