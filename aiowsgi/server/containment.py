"""Coroutines of applications, kept from ending the event loop.

A module of its own because it is never compiled: not in all releases of Python does a compiled
coroutine hand a cancellation on to what it awaits.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Contained(Exception):
    """Carries an exception that would end the event loop to the thread that it belongs to."""

    def __init__(self, content: BaseException) -> None:
        super().__init__(content)
        self.content = content


async def contain(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Await a coroutine. What would end the event loop is raised as Contained."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise Contained(error) from error
