"""The two loggers of the server. An application that configures logging does not disable them."""

import logging
import sys
from typing import Any


class ServerLogger(logging.Logger):
    """A logger that stays enabled when ``logging.config`` disables all loggers it was not told of.

    ``disable_existing_loggers`` is on by default, and Django configures logging in the first
    request. Without this class, the tracebacks of the server would be lost from then on. A
    configuration that names one of these loggers has its effect, and so has ``disabled = True`` in
    other code.
    """

    # The handler that a process installs if it serves and does nothing else. While the logger has
    # it, records do not go to the handlers of the root logger as well.
    own_handler: logging.Handler | None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "disabled" and value:
            caller = sys._getframe(1).f_globals.get("__name__")
            if caller == "logging.config":
                return
        super().__setattr__(name, value)

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
    return logger


error_log = _server_logger("aiowsgi.error")
access_log = _server_logger("aiowsgi.access")
