"""Logging for a process that serves and does nothing else. Not used when embedded."""

import atexit
import logging
import sys
import time

from ..observe.log_writer import LogWriter
from ..observe.loggers import FORM, ServerLogger, access_log, error_log

# Seconds that the end of the process waits for readers of the logs, at least.
AT_EXIT = 0.15
# Seconds of these that are kept for standard error.
_LAST_MOMENT = 0.05

_writers: list[LogWriter] = []


class _Handler(logging.Handler):
    """Hands records to a writer. The lock of the writer, held for a few instructions, is enough."""

    def __init__(self, writer: LogWriter, form: str) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(logging.Formatter(form))

    def handle(self, record: logging.LogRecord) -> bool:
        # The lock that handlers usually take is not taken. Otherwise threads would wait for another
        # one that is formatting a traceback.
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - reported as every handler of logging does
            self.handleError(record)
        else:
            self._writer.put(line)


def configure(level: str, form: str = FORM) -> None:
    """Send messages to standard error and the access log to standard output.

    ``level`` is a name such as "info", and ``form`` that of the messages. A logger that has been
    given a handler is left alone.
    """
    # The access log always has the level "info". ``level`` is for the messages only.
    wanted = ((access_log, "%(message)s", "info"), (error_log, form, level))
    free = [item for item in wanted if not _is_configured(item[0])]
    if not free:
        return
    if not _writers:
        atexit.register(flush, AT_EXIT)
    output, errors = _writers[:] = _make_writers()
    for logger, line_form, level_name in free:
        logger.own_handler = _Handler(errors if logger is error_log else output, line_form)
        logger.addHandler(logger.own_handler)
        if not logger.level:
            logger.setLevel(level_name.upper())
    # The last resort takes records of loggers without a handler. asyncio logs them on the loop
    # thread, which must not wait for a reader either.
    last_resort = _Handler(errors, "%(message)s")
    last_resort.setLevel(logging.WARNING)
    logging.lastResort = last_resort


def flush(timeout: float) -> None:
    """Wait until the logs are written, for ``timeout`` seconds, or for ``AT_EXIT`` if that is more.

    Called at the end, when the process serves no more.
    """
    deadline = time.monotonic() + max(timeout, AT_EXIT)
    # Standard error comes last, and has a moment for itself: a message that lines for standard
    # output were dropped is written there.
    for writer, reserved in zip(_writers, (_LAST_MOMENT, 0.0), strict=False):
        if message := writer.flush(deadline - reserved - time.monotonic()):
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
