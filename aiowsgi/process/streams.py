"""Descriptors 0 to 2 of a process that is a server and nothing else. Not used when embedded."""

import contextlib
import logging
import os
import sys
import threading

_STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))


def open_missing() -> None:
    """Open on /dev/null what the process was started without, as cron and some daemons do.

    Else the next file or socket that is opened takes the number, and messages go there; uvloop
    closes it, and aborts. Called before anything is opened that stays open.
    """
    for number, (name, flags, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one: those before it are open.
            os.set_inheritable(os.open(os.devnull, flags), True)
        if getattr(sys, name) is None:
            # It stays open whoever drops the object, as those of the interpreter do.
            stream = open(number, mode, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def flush(timeout: float, *, handlers: bool = False) -> bool:
    """Write what the application has printed and logged, for at most ``timeout`` seconds.

    Return False where that has not ended, which the end of the interpreter would wait for: a reader
    is stuck, or a thread that prints. With ``handlers`` the handlers of ``logging`` are closed too.
    """

    def work() -> None:
        if handlers:
            logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                # The reader is gone. The interpreter would complain of it at its end.
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except ValueError:
                pass  # Closed.

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    return not thread.is_alive()
