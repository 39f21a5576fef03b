"""What people and supervisors are told when the command fails: messages and exit codes."""

import contextlib
import importlib
import os
import sys
import traceback

from ..errors import ConfigError, LoadError

# Exit codes. A wrong command is told from a right one that failed.
FAILURE = 1
USAGE = 2
HOOK_FAILED = 3
INTERRUPTED = 130


def explanation(error: ConfigError) -> str:
    """Return all that is said about an error: the cause, if it has one, and the message."""
    cause = describe_cause(error) if isinstance(error, LoadError) else ""
    return f"{cause}aiowsgi: error: {error}\n"


def print_error(message: str) -> None:
    """Print what went wrong, as the last line."""
    print_text(f"aiowsgi: error: {message}\n")


def print_text(text: str) -> None:
    """Print to standard error. Where nobody can read it, the exit code alone says what happened."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def describe_cause(error: LoadError) -> str:
    """Return the traceback of the user's own code, without the frames that led to it."""
    cause = error.__cause__
    assert cause is not None  # A LoadError says what it was raised from.
    frames = cause.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(cause), cause, frames))


def _is_ours(filename: str) -> bool:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = (package, os.path.dirname(importlib.__file__))
    return filename.startswith(("<frozen importlib", *(folder + os.sep for folder in folders)))
