"""The two loggers of the server. An application that configures logging does not disable them."""

import contextlib
import logging
import sys
import traceback
from typing import Any


class ServerLogger(logging.Logger):
    """A logger that stays enabled when ``logging.config`` disables all loggers it was not told of.

    ``disable_existing_loggers`` is on by default, and Django configures logging in the first
    request. Without this class, the tracebacks of the server would be lost from then on. A
    configuration that names one of these loggers has its effect, and so has ``disabled = True`` in
    other code.

    And it raises nothing where a filter or a handler of the host does: the event loop logs in the
    midst of its bookkeeping, which has to be done. The record is lost, and that is told once.
    """

    # Whether a filter or a handler has failed so far.
    has_failed: bool
    # The handler that a process installs if it serves and does nothing else. While the logger has
    # it, records do not go to the handlers of the root logger as well.
    own_handler: logging.Handler | None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "disabled" and value:
            caller = sys._getframe(1).f_globals.get("__name__")
            if caller == "logging.config":
                return
        super().__setattr__(name, value)

    def handle(self, record: logging.LogRecord) -> None:
        """Give a record to the filters and handlers. Raises nothing, unless it is interrupted."""
        try:
            super().handle(record)
        except Exception:  # noqa: BLE001 - code of the host
            if self.has_failed:
                return
            self.has_failed = True
            text = f"A filter or handler of the logger {self.name} failed, and log lines are lost"
            if self is not error_log:
                error_log.error(text, exc_info=True)
            elif logging.raiseExceptions:
                # Where logging itself tells of such failures.
                with contextlib.suppress(Exception):
                    print(text, traceback.format_exc(), sep="\n", file=sys.stderr)

    @property
    def propagate(self) -> bool:
        """Whether records also go to the handlers of the loggers above."""
        if self.own_handler is not None and self.own_handler in self.handlers:
            return False
        return bool(self.__dict__["propagate"])

    @propagate.setter
    def propagate(self, value: bool) -> None:
        self.__dict__["propagate"] = value


def _server_logger(name: str) -> ServerLogger:
    logger = logging.getLogger(name)
    # The logger may exist already, and other code may have a reference to it.
    logger.__class__ = ServerLogger
    assert isinstance(logger, ServerLogger)
    logger.own_handler = None
    logger.has_failed = False
    return logger


# How a message reads, and how it reads where several processes write: with the number of each.
FORM = "%(asctime)s %(levelname)s %(message)s"
FORM_OF_SEVERAL = "%(asctime)s %(levelname)s [%(process)d] %(message)s"

error_log = _server_logger("aiowsgi.error")
access_log = _server_logger("aiowsgi.access")
