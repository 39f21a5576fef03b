"""Forked children: what they must not use, and how a pool thread ends in one.

A child has a copy of the parent's memory, but only the thread that forked. Locks that other threads
held stay locked for ever, and the parent goes on using the same descriptors. So every object with
locks, threads or descriptors is registered here, and its ``abandon`` is called in the child.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import NoReturn, Protocol

from ..errors import ApplicationError, ClientDisconnected

# How error messages about a request, a pool or a server of the parent begin.
PARENT_GOES_ON = "this is a forked child, and its parent goes on with"


class ForkAware(Protocol):
    """An object that a forked child must not use."""

    def abandon(self) -> None:
        """Stop working, and do nothing that the parent could notice.

        Called in a forked child. It must not take a lock that existed before the fork: that lock
        may be held for ever.
        """


_registered: "weakref.WeakSet[ForkAware]" = weakref.WeakSet()
# Seconds that a child has to print why it ends.
_PRINT_TIMEOUT = 1.0
_ALL_SIGNALS = signal.valid_signals()
# Threads that are forking, by their numbers: the signals that the thread had blocked before, and
# whether it is the main thread.
_forking: dict[int, tuple[set[int | signal.Signals], bool]] = {}


def register(item: ForkAware) -> None:
    """Have ``item.abandon`` called in every child that is forked from now on.

    The reference is weak: it does not keep ``item`` alive.
    """
    _registered.add(item)


class AtFork:
    """Has ``abandon()`` called in every child that is forked while this object exists.

    For an object that nothing can refer to weakly, such as one of a compiled class: it keeps this.
    """

    def __init__(self, abandon: Callable[[], None]) -> None:
        self.abandon = abandon
        register(self)


def registered() -> list[ForkAware]:
    """Return what a child that is forked now would have to abandon."""
    return list(_registered)


def _before_fork() -> None:
    """Block signals. A child would write each one to the wake-up descriptor of its parent."""
    if _registered:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        _forking[this_thread()] = mask, is_main_thread()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)


def _unblock_signals() -> None:
    if (forking := _forking.pop(this_thread(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking[0])


def _after_fork_in_child() -> None:
    _, was_main_thread = _forking.get(this_thread(), (None, True))
    for item in registered():
        # An error of one must not keep the others from being abandoned.
        with contextlib.suppress(Exception):
            item.abandon()
    _registered.clear()
    if not was_main_thread:
        # The main thread, which waits on this descriptor, exists in the parent only.
        signal.set_wakeup_fd(-1)
    # A SIGINT that was blocked arrives as soon as signals are unblocked. The KeyboardInterrupt
    # would be lost in this function, so for this moment SIGINT ends the child.
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _unblock_signals()
    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_unblock_signals, after_in_child=_after_fork_in_child
    )


def this_thread() -> int:
    """Return the number of the calling thread. It stays the same in a forked child."""
    return threading.get_ident()


def is_main_thread() -> bool:
    """Return whether the calling thread is the one that runs signal handlers."""
    return threading.current_thread() is threading.main_thread()


def exit_child(error: BaseException | None) -> NoReturn:
    """End this process, a forked child in which a pool thread has left the application.

    ``error`` is the exception that it has left with, or None. The exit code is that of a
    SystemExit. It is 1 for any other exception, whose traceback is printed. It is 0 if the
    application has returned, or has tried to answer the request: the request belongs to the parent.
    Nothing that belongs to the parent is shut down: no ``atexit`` function is called, and no event
    loop closed.
    """
    code = 1
    message: BaseException | object = error
    if isinstance(error, SystemExit):
        message = error.code
        if message is None or isinstance(message, int):
            code, message = (message or 0) & 0xFF, None
    elif error is None or type(error) in (ClientDisconnected, ApplicationError):
        code, message = 0, None
    try:
        # On a thread, and for a limited time: another thread may have held the lock of a stream
        # when this one forked.
        printer = threading.Thread(target=_print, args=(message,), daemon=True)
        printer.start()
        printer.join(_PRINT_TIMEOUT)
    finally:
        os._exit(code)


def _print(message: object) -> None:
    """Print an exception or a text, and flush the standard streams."""
    if isinstance(message, BaseException):
        traceback.print_exception(message)
    elif message is not None:
        print(message, file=sys.stderr)
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(Exception):
            stream.flush()
