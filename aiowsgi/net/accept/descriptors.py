"""How many descriptors the process may have, and how many of them are for connections."""

import logging
import os

from ...errors import ConfigError
from ...wording import counted

try:
    import resource
except ImportError:  # Windows has no such limit.
    resource = None  # type: ignore[assignment]

_log = logging.getLogger("aiowsgi.error")

# Those of the application: a quarter of all, within these bounds.
_MIN_RESERVE = 64
_MAX_RESERVE = 1024
# A connection has a socket, and up to two more while a file is sent on it: that of the file, and
# one to wait for room with, or to read with.
DESCRIPTORS_OF_A_FILE = 2
# What a server opens for itself, and a few for its first connections and for the application.
_LEAST = 20
# What to do where there are too few.
RAISE_LIMIT = "raise that limit (ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of Docker)"
# Some systems that claim to have no limit allow no more than this (macOS: OPEN_MAX).
_SAFE_LIMIT = 10240


def limit() -> float:
    """Return how many descriptors the process may have; infinity where there is no limit."""
    if resource is None:
        return float("inf")  # type: ignore[unreachable]
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def reserve(limit: float) -> float:
    """Return how many of ``limit`` descriptors the application keeps."""
    return max(_MIN_RESERVE, min(limit // 4, _MAX_RESERVE))


def left_for_connections() -> float:
    """Return how many descriptors connections may have, beside those that are open; at least 1."""
    most = limit()
    return max(most - reserve(most) - _open_now(), 1)


def warn_of_few(left: float, max_connections: int) -> None:
    """Warn where connections are to be as many as ``max_connections``, and ``left`` are fewer."""
    if left < max_connections:
        _log.warning(
            "There is room for %s, not for max_connections (%d): the process may have %d open "
            "files, and keeps some for the application; %s",
            counted(int(left), "connection"),
            max_connections,
            limit(),
            RAISE_LIMIT,
        )


def raise_limit(max_connections: int) -> None:
    """Let the process have the descriptors that so many connections need, if it may.

    Raises ConfigError where there are too few for any server.
    """
    raise_limit_by(max_connections * (1 + DESCRIPTORS_OF_A_FILE) + _MAX_RESERVE, _LEAST, "a server")


def raise_limit_by(wanted: int, least: int, who: str) -> None:
    """Let the process open ``wanted`` descriptors beside those that are open, if it may.

    Not more: some programs that it starts would close each that there could be, and the system
    call select() knows only the first 1024. Raises ConfigError, which says that ``who`` needs
    more, where it may not even have ``least`` of them.
    """
    if resource is None:
        return  # type: ignore[unreachable]
    already = _open_now()
    _raise_limit_to(wanted + already)
    if (most := limit()) < least + already:
        raise ConfigError(
            f"{who} needs to have {least + already} files open, and this process may have "
            f"{most:.0f}; {RAISE_LIMIT}"
        )


def _raise_limit_to(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (wanted, _SAFE_LIMIT):
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        if soft == resource.RLIM_INFINITY or soft >= most:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            continue
        return


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder))
        except OSError:
            continue
    return 0
