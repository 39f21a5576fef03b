"""Finds the application that a person has named, and explains why if that fails."""

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any
from wsgiref.types import WSGIApplication

from ..errors import ConfigError, LoadError
from ..wsgi.application import objection, objection_to_factory
from . import import_path

_PATH = re.compile(r"(?P<source>.+?)(?::(?P<attributes>[^:()/]+)(?P<call>\(\))?)?", re.DOTALL)
_MODULE = re.compile(r"(?!\.)[^:()]+")
# The names to look for if only a module is given: that of PEP 3333, and that of most frameworks.
_DEFAULTS = ("application", "app")
# The usual names of a function that makes the application.
_FACTORIES = ("create_app", "make_app")
_CUSTOMARY = (*_DEFAULTS, "wsgi_app", *_FACTORIES)
# The usual names of a module in a package that has the application, such as Django's wsgi.py.
_CUSTOMARY_MODULES = ("wsgi", "app", "main")
_ARGUMENT_PARSERS = frozenset({"argparse", "optparse", "getopt", "click", "docopt", "absl", "fire"})


def load_application(path: str) -> tuple[WSGIApplication, str]:
    """Return the application that ``path`` names, and the full form of the path.

    ``path`` is "package.module:attribute", or "package.module:factory()" for the result of a
    function without arguments. The attribute may have dots. The module may be the path of a file.
    Without an attribute, ``application`` is taken, or else ``app``.

    Raises ConfigError if there is no such application, and LoadError if its own code fails.
    """
    module, source, attributes, is_called = import_source(path, "an application", "application")
    attributes = attributes or _default_attribute(module, source)
    target, walked = walk(module, source, attributes.split("."))
    factory: str | None = f"{walked}()"
    if is_called:
        target = _call(target, walked)
        walked, factory = f"{walked}()", None
    if not callable(target):
        names = [name for name in dir(target) if name in _CUSTOMARY and _is_meant(target, name)]
        hint = _did_you_mean("application", names, f"{walked}.")
        raise ConfigError(
            f"{walked!r} is not an application: {type(target).__name__} cannot be called{hint}"
        )
    if (wrong := objection(target, factory)) is not None:
        raise ConfigError(f"{walked!r} is not a WSGI application: {wrong}")
    return target, walked


# Modules and files.


def import_source(path: str, what: str, example: str) -> tuple[ModuleType, str, str, bool]:
    """Return the module that a path begins with, imported, and the parts of the path.

    These are the name or file of the module, the attributes with dots between them, perhaps none,
    and whether a call follows. ``what`` a path names, such as "an application", and an ``example``
    of an attribute are for the message where it names nothing. Raises ConfigError and LoadError.
    """
    match = _PATH.fullmatch(path)
    source: str = match["source"] if match else ""
    if "/" in source or source.endswith(".py"):
        module = _load_file(source)
    elif _MODULE.fullmatch(source):
        if file := import_path.hidden_file(source.partition(".")[0]):
            raise ConfigError(
                f"the module {source!r} cannot be imported from {file}: a module of the standard "
                "library has that name; rename the file"
            )
        module = _load_module(source)
    else:
        name = re.split(r"[:()]", path)[0].strip(".") or "app"
        raise ConfigError(
            f"{path!r} does not name {what}; write MODULE:CALLABLE, such as {name}:{example}"
        )
    assert match is not None  # Otherwise ``source`` would be empty.
    return module, source, match["attributes"] or "", bool(match["call"])


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            # The module exists, but it imports another one that does not.
            raise LoadError(f"importing the module {name!r} failed") from error
        raise _missing_module(missing) from None
    except (Exception, SystemExit) as error:
        raise failed(f"importing the module {name!r}", error) from error


def _load_file(source: str) -> ModuleType:
    """Import a file by its name; a file in a package by its name in the package."""
    file = _find_file(source)
    folder, name = os.path.split(os.path.abspath(file.removesuffix(".py")))
    parts = [] if name == "__init__" else [name]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, name = os.path.split(folder)
        parts.insert(0, name)
    name = ".".join(parts)
    if any("." in part for part in parts):
        raise ConfigError(f"the file {source!r} cannot be imported: rename it, without the dot")
    # As Python does when it runs a script.
    sys.path.insert(0, folder)
    module = _load_module(name)
    found = module.__file__
    if found is None or not os.path.samefile(found, file):
        raise ConfigError(
            f"the file {source!r} cannot be imported, because {name!r} is also the name of "
            f"{found or 'a module of Python'}; rename it"
        )
    return module


def _find_file(source: str) -> str:
    """Return the Python file for a path, which may lack ``.py`` or ``/__init__.py``."""
    for file in (source, f"{source}.py", os.path.join(source, "__init__.py")):
        if os.path.isfile(file):
            if file.endswith(".py"):
                return file
            raise ConfigError(f"the file {source!r} is no Python module: its name ends otherwise")
    if os.path.isdir(source):
        raise ConfigError(f"{source!r} is a folder; name the file that has the application")
    folder, name = os.path.split(source)
    with contextlib.suppress(OSError):
        files = [file for file in os.listdir(folder or ".") if file.endswith(".py")]
        hint = _did_you_mean(name, files, os.path.join(folder, ""))
        raise ConfigError(f"there is no file {source!r}{hint}")
    raise ConfigError(f"there is no folder {folder!r}")


def _missing_module(name: str) -> ConfigError:
    """Explain that there is no module ``name``, although its package, if any, exists."""
    with import_path.OutsideApplication():
        import pkgutil

    if folder := _folder_with(name):
        return ConfigError(
            f"there is no module {name!r} in the current directory; did you mean --chdir {folder}?"
        )
    parent, _, last = name.rpartition(".")
    package = importlib.import_module(parent) if parent else None
    if hasattr(package, last) and _is_meant(package, last):
        # The user has typed a dot in place of the colon.
        return ConfigError(f"there is no module {name!r}; did you mean '{parent}:{last}'?")
    folders = getattr(package, "__path__", None) if package else ["."]
    if folders is None:
        return ConfigError(f"{parent!r} is a module, not a package: it has no module {last!r}")
    found = [module.name for module in pkgutil.iter_modules(folders)]
    hint = _did_you_mean(last, found, f"{parent}." if parent else "")
    return ConfigError(
        f"there is no module {name!r}{hint or ' in the current directory or installed'}"
    )


def _folder_with(name: str) -> str:
    """Return a subfolder of the current directory that has the module; "" if there is none.

    This finds users who are one level too high, as in a Django project, which is a folder in a
    folder of the same name.
    """
    file = f"{name.replace('.', os.sep)}.py"
    with contextlib.suppress(OSError):
        for folder in sorted(os.listdir()):
            if folder[0] != "." and os.path.isfile(os.path.join(folder, file)):
                return folder
    return ""


# Attributes and factories.


def _default_attribute(module: ModuleType, source: str) -> str:
    for attribute in _DEFAULTS:
        with contextlib.suppress(AttributeError):
            _read(module, attribute, source)
            return attribute
    hint = f"; write {source}:NAME"
    found = [name for name in _FACTORIES if hasattr(module, name) and _is_meant(module, name)]
    if found:
        hint = f"; did you mean '{source}:{found[0]}()'?"
    elif found := [name for name in _CUSTOMARY_MODULES if _submodule_names(module, name)]:
        hint = f"; did you mean '{module.__name__}.{found[0]}'?"
    raise ConfigError(f"{source!r} has neither {' nor '.join(map(repr, _DEFAULTS))}{hint}")


def walk(
    module: ModuleType,
    source: str,
    attributes: Sequence[str],
    *,
    customary: tuple[str, ...] = _CUSTOMARY,
) -> tuple[Any, str]:
    """Follow the attributes, one after the other. Return the last value, and the path to it.

    Where there is none that is like a wrong one, a message suggests a ``customary`` one. Raises
    ConfigError and LoadError.
    """
    target: Any = module
    walked, dot = source, ":"
    for number, attribute in enumerate(attributes, 1):
        try:
            value = _read(target, attribute, walked)
        except AttributeError:
            hint = _submodule_hint(target, attribute) or _did_you_mean(
                attribute,
                [
                    name
                    for name in dir(target)
                    # What is only passed through need not be callable.
                    if name[0] != "_" and (number < len(attributes) or _is_meant(target, name))
                ],
                f"{walked}{dot}",
                customary,
            )
            raise ConfigError(f"{walked!r} has no attribute {attribute!r}{hint}") from None
        target, walked, dot = value, f"{walked}{dot}{attribute}", "."
    return target, walked


def _read(target: Any, attribute: str, walked: str) -> Any:
    """Return an attribute. Raises AttributeError if there is none, and LoadError if it fails."""
    try:
        return getattr(target, attribute)
    except AttributeError:
        raise
    except Exception as error:
        raise LoadError(f"reading the attribute {attribute!r} of {walked!r} failed") from error


def _call(factory: Any, walked: str) -> Any:
    if not callable(factory):
        raise ConfigError(f"{walked!r} is not a factory: it cannot be called")
    if (wrong := objection_to_factory(factory, walked)) is not None:
        raise ConfigError(f"{walked!r} is not a factory: {wrong}")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise failed(f"the factory {walked!r}", error) from error


# Explanations.


def failed(what: str, error: BaseException) -> LoadError:
    """Return what is told of the user's own code, ``what``, that has raised."""
    if not isinstance(error, SystemExit):
        return LoadError(f"{what} failed")
    text = f"{what} ended the process (SystemExit: {error.code})"
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    modules = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames}
    if modules & _ARGUMENT_PARSERS:
        text += (
            "; it parses sys.argv, which holds the arguments of aiowsgi: "
            "do that below if __name__ == '__main__'"
        )
    return LoadError(text)


def _did_you_mean(
    name: str, candidates: Iterable[str], prefix: str, customary: tuple[str, ...] = _CUSTOMARY
) -> str:
    # Imported here, so that it takes no memory if there is no mistake to explain.
    with import_path.OutsideApplication():
        import difflib

    names = sorted(set(candidates))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    close = close or [custom for custom in customary if custom in names]
    if not close:
        return ""
    return f"; did you mean '{prefix}{close[0]}{'()' if close[0] in _FACTORIES else ''}'?"


def _is_meant(target: Any, name: str) -> bool:
    """Return whether a hint may propose an attribute: one that can be called, and no exception.

    So it is no module that is imported there. Attributes that may have to be computed are proposed
    as they are.
    """
    value = vars(target).get(name, callable) if isinstance(target, ModuleType) else callable
    return callable(value) and not (isinstance(value, type) and issubclass(value, BaseException))


def _submodule_hint(package: Any, name: str) -> str:
    """Return a hint if ``name`` is not an attribute of a package but one of its modules."""
    names = _submodule_names(package, name)
    found = [candidate for candidate in (name, *_CUSTOMARY) if candidate in names]
    return _did_you_mean(found[0], found, f"{package.__name__}.{name}:") if found else ""


def _submodule_names(package: Any, name: str) -> tuple[str, ...]:
    """Return the global names in the code of a module of a package, without running the code."""
    if not hasattr(package, "__path__"):
        return ()
    full = f"{package.__name__}.{name}"
    with contextlib.suppress(ImportError, SyntaxError, AttributeError, ValueError):
        return tuple(importlib.util.find_spec(full).loader.get_code(full).co_names)  # type: ignore[union-attr]
    return ()
