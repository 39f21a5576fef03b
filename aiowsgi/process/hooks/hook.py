"""One hook: a function of the user, found by its name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import ConfigError, HookError, LoadError
from ..importer import failed, import_source, walk

# The usual arguments of gunicorn's hooks.
_OF_GUNICORN = frozenset({"server", "worker"})


@dataclass(frozen=True, slots=True)
class Hook:
    """A function that is called without arguments. Made by ``load_hook``."""

    # Its path, and the option that named it.
    path: str
    option: str
    function: Callable[[], object]

    def call(self) -> None:
        """Call it; it may block. Raises HookError where it raises anything, also SystemExit."""
        try:
            self.function()
        except (Exception, SystemExit) as error:
            raise HookError(
                str(failed(f"the hook {self.path!r} ({self.option})", error))
            ) from error


def load_hook(path: str, option: str) -> Hook:
    """Return the hook that ``path`` names: "package.module:attribute".

    The module may be the path of a file, as that of an application. ``option`` is how messages name
    the option. Raises ConfigError if there is no such hook, and HookError if its module fails.
    """
    try:
        module, source, attributes, is_called = import_source(path, "a hook", "connect")
        if not attributes:
            raise ConfigError(f"{path!r} names no function in the module; write {source}:FUNCTION")
        function, walked = walk(module, source, attributes.split("."), customary=())
    except LoadError as error:
        raise HookError(f"{option}: {error}") from error.__cause__
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None
    if is_called:
        raise ConfigError(f"{option}: {path!r} is called when its time has come; leave () out")
    if not callable(function):
        raise ConfigError(
            f"{option}: {walked!r} is not a hook: {type(function).__name__} cannot be called"
        )
    if (wrong := _objection(function)) is not None:
        raise ConfigError(f"{option}: {walked!r} is not a hook: {wrong}")
    return Hook(walked, option, function)


def _objection(function: Callable[..., object]) -> str | None:
    """Return why a function cannot be a hook; None if it may be one."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return (
            "it is an async def, and there is no event loop where it is called; write def, and "
            "asyncio.run(...) in it"
        )
    try:
        # That of a decorator itself, which may call the function inside with other arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # It has no signature that can be read.
        return None
    try:
        signature.bind()
    except TypeError:
        names = ", ".join(signature.parameters)
        hint = ", unlike one of gunicorn" if _OF_GUNICORN & set(signature.parameters) else ""
        return f"it takes {names}, and a hook is called without arguments{hint}"
    return None
