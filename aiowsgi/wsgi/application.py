"""Whether an object can be a WSGI application: the mistakes that can be told from its looks.

Only what is certain is objected to: a decorator, a proxy or an extension in C may take anything.
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
    # An instance's own attributes are left alone, __class__ among them: they may be computed, and
    # fail.
    found: Any = app if issubclass(type(app), type | FunctionType | MethodType) else type(app)
    return f"{found.__module__}:{found.__qualname__}{'' if found is app else ' instance'}"


def objection(app: object, factory: str | None = None) -> str | None:
    """Say why ``app`` is no WSGI application and what to do; None where it may be one.

    ``factory`` is what to write if it turns out to make one: "module:create_app()".
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
        # Not what a decorator says of the function inside: it may call that with other arguments.
        signature = inspect.signature(call, follow_wrapped=False)
    except (TypeError, ValueError):  # It tells nothing of itself.
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
    """Say why ``factory`` cannot be called without arguments; None where it may be.

    ``application`` is what to write if it turns out to be the application itself.
    """
    try:
        signature = inspect.signature(factory, follow_wrapped=False)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # It tells nothing of itself.
        return None
    if _fits(signature):
        return None
    wrong = f"it takes {', '.join(signature.parameters)}, and a factory is called without arguments"
    if _fits(signature, None, None):
        return f"{wrong}; if it is the application itself, write {application}"
    return wrong


def objection_to_call(app: object, error: BaseException) -> str | None:
    """Say the same where it only showed as it was called, through decorators. Raises nothing."""
    inner: Any = app
    for _ in range(_MAX_DECORATORS):
        if type(inner) is not FunctionType or not isinstance(error, TypeError):
            return None
        if str(error).startswith(f"{inner.__qualname__}() takes "):
            # That of the innermost: a decorator mostly bears its name.
            found = objection(inner, f"{describe(app)}()")
            if found is not None:
                return found
        inner = inner.__dict__.get("__wrapped__")
    return None


def _is_async(function: Any) -> bool:
    if isinstance(function, type):
        # What calls its instances: an ASGI application, perhaps of the second version.
        function = function.__call__
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _fits(signature: inspect.Signature, *arguments: object) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
