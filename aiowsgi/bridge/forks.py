"""Forked children: what belongs to their parent, and how a thread of ours ends there.

A child has a copy of everything, but of all threads only the one that forked. Locks may be held for
ever, and descriptors are those that the parent goes on to use. So whatever has locks or descriptors
is watched here, and told to give up in the child.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
import weakref
from typing import NoReturn, Protocol

from ..errors import ApplicationError, ClientDisconnected

# What is said of a request, a pool or a server that is the parent's.
NOT_HERE = "this is a forked child, and its parent goes on with"


class Watched(Protocol):
    """What a forked child must not use."""

    def abandon(self) -> None:
        """Be of no use from here on, and do nothing that the parent could notice.

        Called in a forked child. Takes no lock that was there before: it may be held for ever.
        """


_watched: "weakref.WeakSet[Watched]" = weakref.WeakSet()
# A child that has come to its end has so many seconds to say why.
_LAST_WORDS = 1.0
_ALL_SIGNALS = signal.valid_signals()
# Threads that are about to fork, by their numbers: the signals that they had blocked, and whether
# they are the main thread.
_forking: dict[int, tuple[set[int | signal.Signals], bool]] = {}


def watch(thing: Watched) -> None:
    """Have ``thing`` abandoned in every child that is forked from now on, while it is there."""
    _watched.add(thing)


def _begin() -> None:
    """Hold up signals: a child would take them as its parent does, and tell that of each."""
    if _watched:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        _forking[this_thread()] = mask, is_main_thread()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)


def _go_on() -> None:
    if (forking := _forking.pop(this_thread(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking[0])


def _go_on_in_child() -> None:
    _, was_main_thread = _forking.get(this_thread(), (None, True))
    for thing in list(_watched):
        # The others have to be abandoned, too.
        with contextlib.suppress(Exception):
            thing.abandon()
    _watched.clear()
    if not was_main_thread:
        # Whatever the main thread waits for signals with, it does so in the parent only.
        signal.set_wakeup_fd(-1)
    # The exception that an interrupt raises would get lost here. It ends the child instead.
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _go_on()
    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_begin, after_in_parent=_go_on, after_in_child=_go_on_in_child)


def this_thread() -> int:
    """Return the number of the calling thread. A thread that has forked keeps it in the child."""
    return threading.get_ident()


def is_main_thread() -> bool:
    """Return whether the calling thread is the one that is given signals."""
    return threading.current_thread() is threading.main_thread()


def leave(error: BaseException | None) -> NoReturn:
    """End the process: a forked copy of a thread has come back out of the application.

    ``error`` is what it came back with. The exit code is that of a SystemExit, 1 for another
    exception, whose traceback is printed, and 0 where it has returned or has gone on to answer the
    request, well or badly. Nothing of the parent's is shut down: no ``atexit``, no event loop.
    """
    code = 1
    said: BaseException | object = error
    if isinstance(error, SystemExit):
        said = error.code
        if said is None or isinstance(said, int):
            code, said = (said or 0) & 0xFF, None
    elif error is None or type(error) in (ClientDisconnected, ApplicationError):
        code, said = 0, None
    try:
        # On a thread, because the streams have locks, which others may have held when it forked.
        speaker = threading.Thread(target=_say, args=(said,), daemon=True)
        speaker.start()
        speaker.join(_LAST_WORDS)
    finally:
        os._exit(code)


def _say(last: object) -> None:
    """Write what is there to say, an exception or a text, and what the streams still hold."""
    if isinstance(last, BaseException):
        traceback.print_exception(last)
    elif last is not None:
        print(last, file=sys.stderr)
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(Exception):
            stream.flush()
