"""From the loop thread to one that waits for it: what a coroutine has come to."""

import threading
from typing import Any


class Outcome:
    """What a coroutine has come to, for the thread that waits for that.

    Not a ``Future``, which takes its locks in Python: a thread that is ended there (see
    ``pool.threads``) would keep one, and the loop thread wait for it for ever. Here the loop
    thread takes none. It calls one of the first two methods, once.
    """

    __slots__ = ("_error", "_is_there", "_result")

    def __init__(self) -> None:
        # Released once the outcome is there.
        self._is_there = threading.Lock()
        self._is_there.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def set_result(self, result: Any) -> None:
        """Have the thread go on with a result."""
        self._result = result
        self._is_there.release()

    def set_exception(self, error: BaseException) -> None:
        """Have the thread go on with an exception."""
        self._error = error
        self._is_there.release()

    def wait(self, seconds: float) -> bool:
        """Wait for the outcome. Return whether it is there."""
        return self._is_there.acquire(timeout=seconds)

    def take(self) -> Any:
        """Return the result, or raise the exception, which nothing here refers to then."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # Its traceback refers to this frame: not also the other way.
