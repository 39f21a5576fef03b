"""Logging for a process that is a server and nothing else. Not used when embedded."""

import logging
import sys
from typing import TextIO


def configure(level: str) -> None:
    """Send messages to standard error and the access log to standard output.

    ``level`` is a name such as "info". A logger that has been given a handler is left alone.
    """
    _configure("aiowsgi.error", sys.stderr, "%(asctime)s %(levelname)s %(message)s", level)
    # One line a request is information; the level of the messages does not silence it.
    _configure("aiowsgi.access", sys.stdout, "%(message)s", "info")


def _configure(name: str, stream: TextIO, form: str, level: str) -> None:
    logger = logging.getLogger(name)
    # An application that configured logging while it was imported may have disabled every logger
    # that it did not know.
    logger.disabled = False
    if logger.handlers:
        return
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(form))
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
