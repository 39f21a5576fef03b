"""The end of a process that serves and does nothing else. Not used when embedded.

Its server has stopped by then, or has given up (``server.shutdown``). But threads
and ``atexit`` functions of the application could keep the process from ending for ever.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from ..bridge.pool.pool_thread import PoolThread
from ..observe.inspection import stacks_of
from ..observe.loggers import error_log
from . import logs, standard_streams

# Threads get this many seconds to end, even if no time for shutdown is left.
_MIN_SECONDS = 0.05
# Seconds to write what was logged and printed before.
_FLUSH_TIMEOUT = 0.15
# Seconds for all that is done at a forced end, on a busy machine, with logs that nobody reads.
_LAST_RESORT = 0.5
# The longest time that a thread can sleep is not much longer than this, about thirty years.
_MAX_SLEEP = 1e9
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_HOOKS = os.path.join(_PACKAGE, "process", "hooks", "")


def end_within(exit_code: int, seconds: float | None) -> None:
    """Make sure that the process ends within ``seconds``, orderly or not.

    If it has to be forced, the log names the threads that kept it from ending. Returns at once.
    With None it ends the process now: threads are inside the application, and cannot be waited for.
    """
    if seconds is None:
        exit_now(exit_code)
    seconds = max(seconds, _MIN_SECONDS)
    try:
        # The second one writes to the logs, and a reader that is stuck would keep it from exiting.
        # So this one writes nothing.
        _call_after(seconds + _LAST_RESORT, lambda: os._exit(exit_code))
        _call_after(seconds, lambda: _force_exit(exit_code))
    except RuntimeError:  # No thread can be started, so nothing could end the wait.
        _force_exit(exit_code)


def exit_now(exit_code: int) -> NoReturn:
    """End the process although threads of the application are still at work."""
    with contextlib.suppress(RuntimeError):
        _call_after(_LAST_RESORT, lambda: os._exit(exit_code))
    _flush_and_exit(exit_code)


def exit_on_signal(number: int) -> NoReturn:
    """End the process at once, with the exit code that a shell reports after a signal.

    Called in a signal handler. For most processes the default action would be enough, but it does
    not end the first process of a container.
    """
    os._exit(128 + number)


def _call_after(seconds: float, action: Callable[[], None]) -> None:
    """Call ``action`` after ``seconds``, on a daemon thread.

    Raises RuntimeError if no thread can be started.
    """

    def run() -> None:
        time.sleep(min(seconds, _MAX_SLEEP))
        action()

    threading.Thread(target=run, name="aiowsgi-end", daemon=True).start()


def _force_exit(exit_code: int) -> None:
    """Log which threads keep the process from ending, and end it."""
    blocking = {
        thread.ident: thread.name for thread in _blocking_threads() if thread.ident is not None
    }
    for ident, stack in stacks_of(blocking).items():
        if _PACKAGE in stack and _HOOKS not in stack:
            continue  # This is the main thread, which waits in a function of this package.
        error_log.warning(
            "The process ends although the thread %s of the application is still at work, at:\n%s",
            blocking[ident],
            _behind_hooks(stack),
        )
    _flush_and_exit(exit_code)


def _blocking_threads() -> list[threading.Thread]:
    """Return the threads that keep the interpreter from ending."""
    main = threading.main_thread()
    found = [
        thread
        for thread in threading.enumerate()
        if thread is not main
        and not thread.daemon
        and not isinstance(thread, PoolThread)
        # The thread in which the event loop waits for the threads of its default executor.
        and not thread.name.endswith("(_do_shutdown)")
    ]
    # If there are none, the main thread is in an ``atexit`` function.
    return found if found and not _is_in_hook(main) else [*found, main]


def _behind_hooks(stack: str) -> str:
    """Return a stack without the calls that led to a hook, if it is in one."""
    calls = stack.rpartition(_HOOKS)[2].partition("\n  File ")
    return f"  File {calls[2]}" if calls[2] and _HOOKS in stack else stack


def _is_in_hook(thread: threading.Thread) -> bool:
    """Return whether a thread is in a hook of the user. See ``process.hooks``."""
    idents = [] if thread.ident is None else [thread.ident]
    return any(_HOOKS in stack for stack in stacks_of(idents).values())


def _flush_and_exit(exit_code: int) -> NoReturn:
    try:
        logs.flush(_FLUSH_TIMEOUT)
        standard_streams.flush(_FLUSH_TIMEOUT, handlers=True)
    finally:
        os._exit(exit_code)
