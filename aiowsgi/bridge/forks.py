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
# The signals that threads had blocked which are about to fork, by the numbers of the threads.
_masks: dict[int, set[int | signal.Signals]] = {}


def watch(thing: Watched) -> None:
    """Have ``thing`` abandoned in every child that is forked from now on, while it is there."""
    _watched.add(thing)


def _block_signals() -> None:
    """Hold up signals: a child would take them as its parent does, and tell that of each."""
    _masks[this_thread()] = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)


def _unblock_signals() -> None:
    if (mask := _masks.pop(this_thread(), None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _abandon_all() -> None:
    for thing in list(_watched):
        # The others have to be abandoned, too.
        with contextlib.suppress(Exception):
            thing.abandon()
    _watched.clear()
    # The exception that an interrupt raises would get lost here. It ends the child instead.
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _unblock_signals()
    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_abandon_all
    )


def this_thread() -> int:
    """Return the number of the calling thread. A thread that has forked keeps it in the child."""
    return threading.get_ident()


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
