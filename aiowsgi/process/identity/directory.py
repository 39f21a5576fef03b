"""The directory that a process works in: ``--chdir``."""

import os

from ...errors import ConfigError


def change_directory(path: str) -> None:
    """Change to a directory; the empty path is the current one. Raises ConfigError."""
    if not path:
        return
    try:
        os.chdir(path)
    except OSError as error:
        raise ConfigError(f"cannot change to the directory {path!r}: {error.strerror}") from error


def current_directory() -> str:
    """Return the current directory. Raises ConfigError where it is gone."""
    try:
        return os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"there is no current directory ({error.strerror}); has it been deleted? "
            "go to another one, or name one with --chdir"
        ) from error
