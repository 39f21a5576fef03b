"""Logging for a process that is a server and nothing else. Not used when embedded."""

import atexit
import logging
import sys
import time

from ..observe.log_writer import LogWriter
from ..observe.loggers import ServerLogger, access_log, error_log

# Seconds that an exit waits for readers of the logs where nobody has given them more.
AT_EXIT = 0.15
# Of them, those that standard error has for itself.
_LAST_MOMENT = 0.05

_FORM = "%(asctime)s %(levelname)s %(message)s"

_writers: list[LogWriter] = []


class _Handler(logging.Handler):
    """Hands records to a writer, which has the only lock that is needed: for a few instructions."""

    def __init__(self, writer: LogWriter, form: str) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(logging.Formatter(form))

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the handler's own lock: others would wait while a traceback is formatted.
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - whoever has logged it gets told, as with every handler
            self.handleError(record)
        else:
            self._writer.put(line)


def configure(level: str) -> None:
    """Send messages to standard error and the access log to standard output.

    ``level`` is a name such as "info". A logger that has been given a handler is left alone.
    """
    # One line a request is information; the level of the messages does not silence it.
    wanted = ((access_log, "%(message)s", "info"), (error_log, _FORM, level))
    free = [item for item in wanted if not _is_configured(item[0])]
    if not free:
        return
    if not _writers:
        atexit.register(drain, AT_EXIT)
    output, errors = _writers[:] = _make_writers()
    for logger, form, level_name in free:
        logger.own_handler = _Handler(errors if logger is error_log else output, form)
        logger.addHandler(logger.own_handler)
        if not logger.level:
            logger.setLevel(level_name.upper())
    # What nobody has configured, asyncio's messages among it, comes from the event loop too.
    last_resort = _Handler(errors, "%(message)s")
    last_resort.setLevel(logging.WARNING)
    logging.lastResort = last_resort


def drain(timeout: float) -> None:
    """Wait for readers that are merely slow, for ``timeout`` seconds, or ``AT_EXIT`` at least.

    Called at the end, when nothing is served any more.
    """
    deadline = time.monotonic() + max(timeout, AT_EXIT)
    # Standard error is the last, and keeps a moment: it may have to tell of the other.
    for writer, kept in zip(_writers, (_LAST_MOMENT, 0.0), strict=False):
        if message := writer.drain(deadline - kept - time.monotonic()):
            error_log.warning(message)


def _make_writers() -> tuple[LogWriter, LogWriter]:
    output = LogWriter(
        sys.stdout, "standard output", on_broken=error_log.error, on_dropped=error_log.warning
    )
    errors = LogWriter(
        sys.stderr, "standard error", on_broken=output.put, on_dropped=error_log.warning
    )
    return output, errors


def _is_configured(logger: ServerLogger) -> bool:
    return bool(logger.handlers or logging.getLogger("aiowsgi").handlers)
