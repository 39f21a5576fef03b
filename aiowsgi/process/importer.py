"""From "module:callable" to the application, with an explanation where that fails."""

import importlib
import re
from collections.abc import Iterable
from typing import Any
from wsgiref.types import WSGIApplication

from ..errors import ConfigError, LoadError

_PATH = re.compile(r"(?P<module>[^:()]+)(?::(?P<attributes>[^:()]+)(?P<call>\(\))?)?")
# What frameworks' documentation calls the application, for the hint.
_CUSTOMARY = ("application", "app", "wsgi_app", "create_app")


def _did_you_mean(name: str, candidates: Iterable[str], form: str) -> str:
    # Here, as below, because a server without mistakes to explain need not keep it in memory.
    import difflib

    names = sorted(set(candidates))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    close = close or [custom for custom in _CUSTOMARY if custom in names]
    return f"; did you mean {form.format(close[0])!r}?" if close else ""


def _missing_module(name: str) -> ConfigError:
    """Explain that there is no module ``name``, though what it should be in could be imported."""
    import pkgutil

    parent, _, last = name.rpartition(".")
    paths = getattr(importlib.import_module(parent), "__path__", None) if parent else ["."]
    if paths is None:
        return ConfigError(f"{parent!r} is a module, not a package: it has no module {last!r}")
    found = [module.name for module in pkgutil.iter_modules(paths)]
    hint = _did_you_mean(last, found, f"{parent}.{{}}" if parent else "{}")
    return ConfigError(
        f"there is no module {name!r}{hint or ' in the current directory or installed'}"
    )


def _load_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            # The module is there; what it imports is not.
            raise LoadError(f"importing the module {name!r} failed") from error
        raise _missing_module(missing) from None
    except (Exception, SystemExit) as error:
        raise LoadError(f"importing the module {name!r} failed") from error


def load_application(path: str) -> WSGIApplication:
    """Return the application that ``path`` names.

    ``path`` is "package.module:attribute", the attribute dotted if need be, or
    "package.module:factory()" for what a function without arguments returns.

    Raises ConfigError where the path leads nowhere, and LoadError where the code behind it fails.
    """
    match = _PATH.fullmatch(path)
    # A path to a file is what many type first.
    name = re.split(r"[:()]", path)[0].removesuffix(".py").strip("./").replace("/", ".") or "app"
    if match is None or match["attributes"] is None:
        raise ConfigError(
            f"{path!r} does not name an application; write MODULE:CALLABLE, "
            f"such as {name}:application"
        )
    if match["module"] != name:
        raise ConfigError(
            f"{match['module']!r} is not the name of a module; write {name}:{match['attributes']}"
        )
    target = _load_module(match["module"])
    walked = match["module"]
    for attribute in match["attributes"].split("."):
        try:
            target = getattr(target, attribute)
        except AttributeError:
            names = [name for name in dir(target) if not name.startswith("_")]
            hint = _did_you_mean(attribute, names, f"{walked}:{{}}" if ":" not in walked else "{}")
            raise ConfigError(f"{walked!r} has no attribute {attribute!r}{hint}") from None
        except Exception as error:
            raise LoadError(f"reading the attribute {attribute!r} of {walked!r} failed") from error
        walked += f"{'.' if ':' in walked else ':'}{attribute}"
    if match["call"]:
        if not callable(target):
            raise ConfigError(f"{walked!r} is not a factory: it cannot be called")
        try:
            target = target()
        except (Exception, SystemExit) as error:
            raise LoadError(f"the factory {walked!r} failed") from error
        walked += "()"
    if not callable(target):
        names = [name for name in dir(target) if name in _CUSTOMARY]
        hint = _did_you_mean("application", names, f"{walked}.{{}}")
        raise ConfigError(
            f"{walked!r} is not an application: {type(target).__name__} cannot be called{hint}"
        )
    application: WSGIApplication = target
    return application
