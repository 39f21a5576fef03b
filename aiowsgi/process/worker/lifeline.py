"""What ends a worker when its supervisor is gone, whatever the worker is doing."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from ... import libc
from ..ending import exit_now

_PR_SET_PDEATHSIG = 1
# Seconds that a worker has to finish its requests once there is no supervisor any more.
GRACE = 3.0
_EXIT_CODE = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process if its parent ends, until ``watch`` is called.

    There is no thread yet that could notice: the application may fork while it is loaded. Nor could
    a signal handler be relied on: code in C may keep the interpreter from calling it. Only Linux
    can do that; elsewhere a worker notices once it serves.
    """
    if (prctl := _prctl()) is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(_EXIT_CODE)


def watch(lifeline: int, on_end: Callable[[], None]) -> None:
    """Call ``on_end()`` on another thread once the supervisor is gone, and end the process soon.

    ``lifeline`` is a descriptor that is at its end then.
    """
    if (prctl := _prctl()) is not None:
        prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)

    def wait() -> None:
        os.read(lifeline, 1)
        on_end()
        time.sleep(GRACE)
        exit_now(_EXIT_CODE)

    threading.Thread(target=wait, name="aiowsgi-lifeline", daemon=True).start()


def _prctl() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    return libc.find("prctl", "c_int", "c_int", *["c_ulong"] * 4)
