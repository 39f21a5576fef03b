"""Descriptors 0 to 2 of a process that is a server and nothing else. Not used when embedded."""

import os
import sys

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
