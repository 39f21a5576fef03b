"""Finds out whether an object can be a WSGI application, without calling it.

It objects only if it is certain: a decorator, a proxy or an extension in C may take any arguments.
"""

import inspect
from functools import partial
from types import FunctionType, MethodType
from typing import Any

ASYNC = (
    "it is an async def, as ASGI applications are, and WSGI is synchronous: run it with an ASGI "
    "server such as uvicorn or hypercorn, or wrap it in a2wsgi.ASGIMiddleware"
)
_ASGI = frozenset({"scope", "receive", "send"})
_MAX_DECORATORS = 20


def describe(app: object) -> str:
    """Return a name by which a person finds the application: "module:qualified.name"."""
    # The attributes of an instance are not read, not even __class__: they may be computed, and the
    # computation may fail.
    found: Any = app if issubclass(type(app), type | FunctionType | MethodType) else type(app)
    return f"{found.__module__}:{found.__qualname__}{'' if found is app else ' instance'}"


def objection(app: object, factory: str | None = None) -> str | None:
    """Return why ``app`` is no WSGI application and what to do; None if it may be one.

    ``factory`` is what the user should write if ``app`` is a function that makes the application:
    "module:create_app()".
    """
    call: Any = app
    bound: tuple[object, ...] = ()
    if not issubclass(type(app), type | FunctionType | MethodType | partial):
        call, bound = type(app).__call__, (app,)
        if type(call) is not FunctionType:
            return None
    if _is_async(call):
        return ASYNC
    try:
        # The signature of a decorator itself, not of the function inside: the decorator may call
        # that with other arguments.
        signature = inspect.signature(call, follow_wrapped=False)
    except (TypeError, ValueError):  # It has no signature that can be read.
        return None
    if _fits(signature, *bound, None, None):
        return None
    if _ASGI & set(signature.parameters):
        return ASYNC.replace("an async def", f"called with ({', '.join(signature.parameters)})")
    names = ", ".join(list(signature.parameters)[len(bound) :]) or "nothing"
    wrong = f"it takes {names}, and a WSGI application takes environ and start_response"
    if factory and _fits(signature, *bound):
        return f"{wrong}; if it makes the application, write {factory}"
    return wrong


def objection_to_factory(factory: object, application: str) -> str | None:
    """Return why ``factory`` cannot be called without arguments; None if it may be possible.

    ``application`` is what the user should write if ``factory`` is the application itself.
    """
    try:
        signature = inspect.signature(factory, follow_wrapped=False)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # It has no signature that can be read.
        return None
    if _fits(signature):
        return None
    wrong = f"it takes {', '.join(signature.parameters)}, and a factory is called without arguments"
    if _fits(signature, None, None):
        return f"{wrong}; if it is the application itself, write {application}"
    return wrong


def objection_to_call(app: object, error: BaseException) -> str | None:
    """Return the same for an error that the call of ``app`` has raised. Raises nothing.

    So a wrong function behind decorators is found, whose own signatures take any arguments.
    """
    inner: Any = app
    for _ in range(_MAX_DECORATORS):
        if type(inner) is not FunctionType or not isinstance(error, TypeError):
            return None
        if str(error).startswith(f"{inner.__qualname__}() takes "):
            # A decorator usually has the same name as the function inside. So this may be either,
            # and only an objection to this one counts.
            found = objection(inner, f"{describe(app)}()")
            if found is not None:
                return found
        inner = inner.__dict__.get("__wrapped__")
    return None


def _is_async(function: Any) -> bool:
    if isinstance(function, type):
        # A class whose instances are called with ``await``: an ASGI application, perhaps of ASGI 2.
        function = function.__call__
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _fits(signature: inspect.Signature, *arguments: object) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
