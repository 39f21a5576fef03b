"""From a WSGI call to the event loop and back."""

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Protocol, TypeVar

from ..bridge.outcome import Outcome
from ..errors import ClientDisconnected, ServerStopped
from .containment import Contained, contain

Result = TypeVar("Result")

_log = logging.getLogger("aiowsgi.error")

# A thread that waits for the loop checks this often, in seconds, that it was not closed.
_LOOP_CHECK = 5.0


class Caller(Protocol):
    """What has the event loop run coroutines: one call of an application.

    The context of the call names it, and whatever copies that context (a task, a timer that was
    cancelled but is not over) may keep it for long. So it must let go of the request.
    """

    @property
    def coroutine_runner(self) -> "CoroutineRunner":
        """What runs the coroutines."""

    # What the thread of the call waits for, by the coroutine that it is of. None until there is
    # one: most applications run no coroutines. Belongs to the loop thread.
    outcomes: dict[asyncio.Task[Any], Outcome] | None
    # Why no further ones may run. Set once, on the loop thread; other threads may read it.
    disconnect_error: ClientDisconnected | None


class CoroutineRunner:
    """Runs the coroutines of all requests of a server.

    Arguments: the loop, and ``on_call()``, called on its thread before it runs a coroutine.
    """

    __slots__ = ("loop", "on_call", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_call: Callable[[], None]) -> None:
        self.loop = loop
        self.on_call = on_call
        self.running: dict[asyncio.Task[Any], Caller] = {}

    def run(self, caller: Caller, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the loop thread and return its result. Blocks any other thread."""
        if caller.disconnect_error is not None:
            coroutine.close()
            raise caller.disconnect_error.copy()
        outcome = Outcome()
        loop = self.loop
        # In a copy of the calling thread's context. The loop thread ends the wait: when the
        # coroutine ends, and when the client leaves or the server stops, which cancel it.
        try:
            loop.call_soon_threadsafe(self._start, caller, coroutine, outcome)
            # A loop that is closed before it comes to the call ends nothing any more.
            while not outcome.wait(_LOOP_CHECK):
                if loop.is_closed():
                    raise RuntimeError("the event loop is closed")
        except RuntimeError as error:
            coroutine.close()
            raise ServerStopped("the server stopped") from error
        result: Result = outcome.take()
        return result

    def cancel(self, caller: Caller, error: ClientDisconnected) -> None:
        """End the coroutines that a call waits for, and refuse further ones.

        ``error`` is what the application will see. Called on the loop thread.
        """
        caller.disconnect_error = error
        outcomes, caller.outcomes = caller.outcomes, None
        for task, outcome in (outcomes or {}).items():
            # The thread goes on at once, however long the coroutine takes to end.
            outcome.set_exception(error.copy())
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                task.cancel()

    def cancel_all(self, error: ClientDisconnected) -> None:
        """End all coroutines; ``error`` is what the applications will see. On the loop thread."""
        for caller in set(self.running.values()):
            self.cancel(caller, error)

    def _start(self, caller: Caller, coroutine: Coroutine[Any, Any, Any], outcome: Outcome) -> None:
        if caller.disconnect_error is not None:
            coroutine.close()
            outcome.set_exception(caller.disconnect_error.copy())
            return
        self.on_call()
        contained = contain(coroutine)
        try:
            task = self.loop.create_task(contained)
        except Exception as error:  # noqa: BLE001 - the application is told, or would wait for ever
            contained.close()
            coroutine.close()
            outcome.set_exception(error)
            return
        if caller.outcomes is None:
            caller.outcomes = {}
        caller.outcomes[task] = outcome
        self.running[task] = caller

        def done(task: asyncio.Task[Any]) -> None:
            self.running.pop(task, None)
            coroutine.close()  # It may have been cancelled before it began.
            error = None if task.cancelled() else task.exception()
            if caller.outcomes is None or caller.outcomes.pop(task, None) is None:
                # The application does not wait for it any more, so an error would show nowhere.
                if error is not None and not isinstance(error, ClientDisconnected):
                    _log.error("A coroutine failed when it was cancelled", exc_info=error)
                return
            if task.cancelled():
                outcome.set_exception(CancelledError())
            elif error is not None:
                outcome.set_exception(error.content if isinstance(error, Contained) else error)
            else:
                outcome.set_result(task.result())

        task.add_done_callback(done)


current_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("aiowsgi.coroutines")


def run_coroutine(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the server's event loop and return its result. Called by an application.

    The calling thread blocks until the coroutine has ended; the coroutine sees the context
    variables of the request. Raises what the coroutine raises; ClientDisconnected when the client
    leaves before its end and ServerStopped when the server stops, both of which cancel it; and
    RuntimeError outside a WSGI call or on the event loop's own thread.
    """
    if not asyncio.iscoroutine(coroutine):
        raise TypeError(f"run_coroutine() takes a coroutine, not {type(coroutine).__name__}")
    caller = current_caller.get(None)
    if _is_on_loop():
        problem = "run_coroutine() would block the event loop; await the coroutine instead"
    elif caller is None:
        problem = "run_coroutine() works inside a call of a WSGI application served by aiowsgi"
    else:
        return caller.coroutine_runner.run(caller, coroutine)
    coroutine.close()
    raise RuntimeError(problem)


def _is_on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
