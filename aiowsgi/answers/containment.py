"""Coroutines of applications, kept from ending the event loop.

A module of its own because it is never compiled: not in all releases of Python does a compiled
coroutine hand a cancellation on to what it awaits.
"""

import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..bridge import forks

Result = TypeVar("Result")


class Contained(Exception):
    """Carries an exception that would end the event loop to the thread that it belongs to."""

    def __init__(self, content: BaseException) -> None:
        super().__init__(content)
        self.content = content


async def contain(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Await a coroutine. What would end the event loop is raised as Contained.

    Does not return in a forked child, whose event loop is its parent's.
    """
    process = os.getpid()
    try:
        result = await coroutine
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if os.getpid() != process:
            forks.exit_child(error)
        if isinstance(error, Exception):
            raise
        raise Contained(error) from error
    if os.getpid() != process:
        forks.exit_child(None)
    return result
