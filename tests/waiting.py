"""Waits for what tells nobody that it has happened, such as the work of another process.

Needs nothing but the standard library, because programs that tests start use it, too.
"""

import time
from collections.abc import Callable

# Fail-safe, in seconds: long enough for a busy machine; a test that passes never waits for it.
PATIENCE = 60.0


def eventually(condition: Callable[[], object], what: str | Callable[[], object] = "") -> None:
    """Wait until ``condition()`` holds; fail, and say what was waited for, where it does not.

    ``what`` may be a function that says so, called when the wait is given up.
    """
    limit = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > limit:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited in vain: {said}")
        time.sleep(0.002)
