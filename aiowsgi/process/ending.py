"""The end of a process that is a server and nothing else. Not used when embedded.

Threads and ``atexit`` functions of the application could put it off for ever.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from ..bridge.pool.threads import PoolThread
from ..observe.inspection import stacks_of
from ..observe.loggers import error_log
from . import logs, streams

# Threads get this many seconds to end, also where none is left of the time for shutdown.
_LEAST = 0.05
# What is logged and printed by then gets this many seconds to be written.
_FLUSH_TIMEOUT = 0.15
# No thread can sleep for much longer than this, some thirty years.
_LONGEST = 1e9
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def end_within(exit_code: int, seconds: float | None) -> None:
    """See to it that the process has ended after this many seconds, orderly or not.

    Whatever holds it then is named in the log. Returns at once; with None it does not return, for
    threads are inside the application that nothing can wait for.
    """
    if seconds is None:
        exit_now(exit_code)
    seconds = max(seconds, _LEAST)
    try:
        # This one writes nothing: a pipe that nobody reads would hold the other.
        _after(seconds + _FLUSH_TIMEOUT, lambda: os._exit(exit_code))
        _after(seconds, lambda: _give_up(exit_code))
    except RuntimeError:  # The system has no thread to give, and the wait would have no end.
        _give_up(exit_code)


def exit_now(exit_code: int) -> NoReturn:
    """End the process although threads of the application are still at work."""
    with contextlib.suppress(RuntimeError):
        _after(_FLUSH_TIMEOUT, lambda: os._exit(exit_code))
    _flush_and_exit(exit_code)


def exit_on_signal(number: int) -> NoReturn:
    """End the process at once, with what a shell reports of one that a signal ended.

    Called in a signal handler. The default action would be enough for most processes, but the first
    one of a container is not ended by it.
    """
    os._exit(128 + number)


def _after(seconds: float, action: Callable[[], None]) -> None:
    """Call ``action`` on a thread of its own, which does not hold the process.

    Raises RuntimeError where the system has none to give.
    """

    def run() -> None:
        time.sleep(min(seconds, _LONGEST))
        action()

    threading.Thread(target=run, name="aiowsgi-end", daemon=True).start()


def _give_up(exit_code: int) -> None:
    holders = {thread.ident: thread.name for thread in _holders() if thread.ident is not None}
    for ident, stack in stacks_of(holders).items():
        if _PACKAGE in stack:
            continue  # The main thread waits for readers of the logs, or for the event loop.
        error_log.warning(
            "The process ends although the thread %s of the application is still at work, at:\n%s",
            holders[ident],
            stack,
        )
    _flush_and_exit(exit_code)


def _holders() -> list[threading.Thread]:
    """Return the threads that the interpreter waits for at its end."""
    main = threading.main_thread()
    found = [
        thread
        for thread in threading.enumerate()
        if thread is not main
        and not thread.daemon
        and not isinstance(thread, PoolThread)
        # The event loop's, with which it waits for threads that it has given work.
        and not thread.name.endswith("(_do_shutdown)")
    ]
    # The main thread waits for the others, if there are any; else it is in an atexit function.
    return found or [main]


def _flush_and_exit(exit_code: int) -> NoReturn:
    try:
        logs.drain(_FLUSH_TIMEOUT)
        streams.flush(_FLUSH_TIMEOUT, handlers=True)
    finally:
        os._exit(exit_code)
