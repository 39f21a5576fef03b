"""Which library reads HTTP: the fast one where it is installed."""

from ...errors import ConfigError
from .reader import Reader


def find_reader(choice: str) -> Reader:
    """Return "h11", "httptools" or, for "auto", httptools where it is installed, else h11.

    Raises ConfigError where httptools is asked for and is not installed.
    """
    # Only what is used is imported: the other costs memory too.
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
