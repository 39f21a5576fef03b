"""The two loggers, which an application that configures logging does not silence by accident."""

import logging
import sys
from typing import Any


class ServerLogger(logging.Logger):
    """A logger that stays enabled where ``logging.config`` disables all that it was not told of.

    ``disable_existing_loggers`` is on by default, and Django configures logging as late as in the
    first request: tracebacks would vanish. Whoever names one of these loggers in a configuration,
    or disables it by hand, is heeded.
    """

    # What a process that is a server and nothing else has installed. As long as it is in place,
    # records go nowhere else: not to what the application has given to the root logger.
    own_handler: logging.Handler | None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "disabled" and value:
            caller = sys._getframe(1).f_globals.get("__name__")
            if caller == "logging.config":
                return
        super().__setattr__(name, value)

    @property
    def propagate(self) -> bool:
        """Whether records go to the loggers above too."""
        if self.own_handler is not None and self.own_handler in self.handlers:
            return False
        return bool(self.__dict__["propagate"])

    @propagate.setter
    def propagate(self, value: bool) -> None:
        self.__dict__["propagate"] = value


def _server_logger(name: str) -> ServerLogger:
    logger = logging.getLogger(name)
    # Somebody may know the logger already.
    logger.__class__ = ServerLogger
    assert isinstance(logger, ServerLogger)
    logger.own_handler = None
    return logger


error_log = _server_logger("aiowsgi.error")
access_log = _server_logger("aiowsgi.access")
