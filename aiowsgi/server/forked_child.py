"""How a forked child leaves descriptors and signal handlers of the event loop to its parent."""

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Iterable


def leave_descriptors(descriptors: Iterable[int]) -> None:
    """Leave descriptors to the parent, which goes on using them; -1 is none.

    /dev/null takes the place of each: whatever still knows the number, such as the copy of the
    event loop, would close or write what gets it next.
    """
    null = -1
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                if null >= 0:
                    os.dup2(null, descriptor, inheritable=False)
                else:  # No descriptor was left for /dev/null.
                    os.close(descriptor)
    if null >= 0:
        os.close(null)


def leave_signals(loop: asyncio.AbstractEventLoop) -> None:
    """Give signals that the loop handles their defaults: it runs in the parent only.

    The parent would be woken, too, and would take them for its own.
    """
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with contextlib.suppress(Exception):
            loop.remove_signal_handler(number)
    # Cancels the main task of the loop.
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, functools.partial):
        owner = getattr(handler.func, "__self__", None)
        if isinstance(owner, asyncio.Runner):
            signal.signal(signal.SIGINT, signal.default_int_handler)
