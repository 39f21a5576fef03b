"""The log of a supervisor: written without a thread, and never waited for.

Who reads standard error may be slow or stuck. A worker has a thread that waits for the reader; a
supervisor has none, and must not wait either. So what does not fit is left out, and counted.
"""

import logging
import os
import select
import time

from ...observe.loggers import error_log
from ...wording import counted

# A pipe takes so many bytes at once or none of them (POSIX: at least 512).
_PIECE = select.PIPE_BUF
# Seconds that one message may wait for room.
_PATIENCE = 0.1


class _Handler(logging.Handler):
    """Writes each record at once."""

    def __init__(self, descriptor: int, form: str) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lost = 0
        self.setFormatter(logging.Formatter(form))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - reported as every handler of logging does
            self.handleError(record)
            return
        if self._lost:
            line = f"{counted(self._lost, 'message')} of the supervisor got lost here\n{line}"
        if write(f"{line}\n", self._descriptor):
            self._lost = 0
        else:
            self._lost += 1


def write(text: str, descriptor: int = 2) -> bool:
    """Write a text to standard error, unless that would block; return whether all is written."""
    data = text.encode(errors="backslashreplace")
    deadline = time.monotonic() + _PATIENCE
    poll = select.poll()
    try:
        poll.register(descriptor, select.POLLOUT)
        while data:
            if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                return False
            data = data[os.write(descriptor, data[:_PIECE]) :]
    except OSError:
        return False
    return True


def configure(level: str, form: str) -> None:
    """Send messages of the supervisor to standard error. ``level`` is a name such as "info"."""
    reset()
    error_log.own_handler = _Handler(2, form)
    error_log.addHandler(error_log.own_handler)
    error_log.setLevel(level.upper())


def reset() -> None:
    """Undo ``configure``, as a worker does, which has logs of its own."""
    if error_log.own_handler is not None:
        error_log.removeHandler(error_log.own_handler)
        error_log.own_handler = None
        error_log.setLevel(logging.NOTSET)
