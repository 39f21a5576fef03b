"""Defects that a server finds in itself. It logs them and goes on, but no test may pass then.

Connections in memory raise them at once (``memory.raise_defect``). This is for all others: servers
in the process of the tests, which ``conftest`` watches, and those in processes of their own, whose
logs the helpers that start them check.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator

# How the message begins. See ``exchange.transitions.log_defect``.
_BEGINNING = "A defect of the server: "


@contextlib.contextmanager
def no_defects() -> Iterator[list[str]]:
    """Fail where a server in this process logs a defect.

    Gives the list of those so far. A test that is about defects clears it.
    """
    found: list[str] = []

    def watch(record: logging.LogRecord) -> bool:
        # Only this message is formatted: others may not be such that they can be.
        if str(record.msg).startswith(_BEGINNING):
            found.append(record.getMessage())
        return True

    # Not a handler: some tests look at those, and a logger has none of its own.
    logger = logging.getLogger("aiowsgi.error")
    logger.addFilter(watch)
    try:
        yield found
    finally:
        logger.removeFilter(watch)
    assert not found, found


def check_log(lines: Iterable[str]) -> None:
    """Fail where the log of a server tells of a defect."""
    found = [line for line in lines if _BEGINNING in line]
    assert not found, found
