"""Standard input, output, error and the terminal of a process that only serves."""

import contextlib
import logging
import os
import sys
import threading
from typing import TextIO

_STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))


def open_missing() -> None:
    """Open /dev/null for each of descriptors 0 to 2 that the process was started without.

    Cron and some daemons start processes without them. Then the next file or socket that is opened
    would get the number, and messages would be written there; uvloop closes such a descriptor, and
    aborts. Called before anything is opened that stays open.
    """
    for number, (name, flags, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # The system takes the lowest free number. That is this one, because lower ones are
            # open.
            os.set_inheritable(os.open(os.devnull, flags), True)
        if getattr(sys, name) is None:
            # Like the interpreter's own, the descriptor stays open when the object is gone.
            stream = open(number, mode, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def flush(timeout: float, *, handlers: bool = False) -> bool:
    """Write what the application has printed and logged, for at most ``timeout`` seconds.

    Return False if that takes longer, because the reader of a stream is stuck, or a thread that
    prints holds a lock. The end of the interpreter would wait for that as well. ``handlers`` says
    whether to close the handlers of ``logging`` too.
    """

    def work() -> None:
        try:
            if handlers:
                logging.shutdown()
        finally:
            flush_now()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    return not thread.is_alive()


def flush_now() -> None:
    """Write what the application has printed, as long as that takes."""
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)


def _flush(stream: TextIO) -> None:
    """Flush a stream, which an application may have replaced by anything."""
    try:
        stream.flush()
    except OSError:
        # The reader has ended. Without this, the interpreter would print an error at its end.
        with contextlib.suppress(Exception):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except Exception:  # noqa: BLE001
        pass  # It is closed, for example, or knows no flush().
