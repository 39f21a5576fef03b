"""Chooses the library that reads HTTP: the faster one, if it is installed."""

from ...errors import ConfigError
from .reader import Reader


def find_reader(choice: str) -> Reader:
    """Return the reader for "h11", "httptools" or "auto": httptools if it is installed, else h11.

    Raises ConfigError if httptools is asked for and not installed.
    """
    # Only the chosen library is imported, because each takes memory.
    if choice != "h11":
        try:
            from .httptools_reader import HTTPTOOLS
        except ImportError as error:
            if choice == "httptools":
                raise ConfigError(
                    "httptools is not installed; pip install '.[speed]' in a checkout of aiowsgi "
                    "(or 'aiowsgi-server[speed]', once that is published), or leave --http out to "
                    "use h11"
                ) from error
        else:
            return HTTPTOOLS
    from .h11_reader import H11

    return H11
