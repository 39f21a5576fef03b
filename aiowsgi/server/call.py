"""From a WSGI call to the event loop and back."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from .exchange import current_exchange

Result = TypeVar("Result")


def run_coroutine(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the server's event loop and return its result. Called by an application.

    The calling thread blocks until the coroutine has ended; the coroutine sees the context
    variables of the request. Raises what the coroutine raises; ClientDisconnected when the client
    leaves before its end and ServerStopped when the server stops, both of which cancel it; and
    RuntimeError outside a WSGI call or on the event loop's own thread.
    """
    if not asyncio.iscoroutine(coroutine):
        raise TypeError(f"run_coroutine() takes a coroutine, not {type(coroutine).__name__}")
    exchange = current_exchange.get(None)
    problem = None
    if exchange is None:
        problem = "run_coroutine() works inside a call of a WSGI application served by aiowsgi"
    else:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            problem = "run_coroutine() would block the event loop; await the coroutine instead"
    if exchange is None or problem is not None:
        coroutine.close()
        raise RuntimeError(problem)
    return exchange.call(coroutine)
