"""How the workers of a mold become children of the supervisor, which alone waits for their end.

Linux gives a process whose parent has ended to the nearest ancestor that asks for such processes
(prctl(2), PR_SET_CHILD_SUBREAPER). So the mold forks a process that forks the worker and ends.
"""

import os
import sys
import time

from ... import libc
from ...config import Config
from ...errors import ConfigError

_PR_SET_CHILD_SUBREAPER = 36
_SIZE = 16
# Seconds between two looks at who the parent is.
_POLL = 0.0002


def adopt_orphans() -> bool:
    """Have this process become the parent of descendants without one; return whether it does."""
    prctl = libc.find("prctl", "c_int", "c_int", *["c_ulong"] * 4)
    if sys.platform != "linux" or prctl is None:
        return False
    return prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def fork_grandchild() -> int:
    """Fork a process whose parent has ended. Return its number, and 0 in the process itself.

    It returns there once the process has its new parent.

    Raises OSError where there can be no further process.
    """
    reading, writing = os.pipe()
    try:
        between = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if between == 0:
        parent = os.getpid()
        os.close(reading)
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or 1)
        if pid == 0:
            os.close(writing)
            while os.getppid() == parent:  # It has one thing left to do: see below.
                time.sleep(_POLL)
            return 0
        os.write(writing, str(pid).encode())
        os._exit(0)
    os.close(writing)
    try:
        # Its end also ends the pipe.
        answer = os.read(reading, _SIZE)
    finally:
        os.close(reading)
        os.waitpid(between, 0)
    pid = int(answer or b"-1")
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def check_preload(config: Config) -> None:
    """Raise ConfigError where workers cannot be forked from a mold that ought to be."""
    if config.preload and not adopt_orphans():
        raise ConfigError(f"{config.spelling('preload')} needs Linux; leave it out")
