"""Where a process that is a server and nothing else imports from, and when.

A file of the application's, such as ``http.py``, may have the name of a module of the standard
library. The folder of the application comes first, so that everybody who imports that module from
then on gets the file instead: this package and what it depends on as well. So all that they will
need is imported before. Used by ``python -m aiowsgi`` and ``aiowsgi`` only.
"""

# Both are there before a file of the application's can be; nothing else may be imported here.
import os
import sys

_NAME = "aiowsgi"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What was taken out of sys.path, and the whole of it before.
_before: list[str] = []
# What it was when the application's folder joined it.
_elsewhere: list[str] = []


def take_out_current_directory() -> None:
    """Import from elsewhere until ``put_in``. Called first of all; does nothing in other programs.

    Python itself puts the directory there for ``python -m``, and so does PYTHONPATH.
    """
    if _is_command():
        _before[:] = sys.path
        sys.path[:] = _without_current_directory(sys.path)


def put_in(folder: str) -> None:
    """Import from ``folder`` first, and from where Python would have."""
    _elsewhere[:] = _without_current_directory(sys.path)
    if _before:
        sys.path[:] = _before
        _before.clear()
    if folder not in sys.path:
        sys.path.insert(0, folder)


class Elsewhere:
    """Imports from everywhere but the application's folders, inside of ``with``.

    For starts that fail: where something is served, other threads import as well.
    """

    def __enter__(self) -> None:
        self._before = sys.path[:]
        sys.path[:] = _elsewhere or _without_current_directory(sys.path)

    def __exit__(self, *exc_info: object) -> None:
        sys.path[:] = self._before


def shadows() -> list[tuple[str, str]]:
    """Return the modules of the standard library that files of the application stand for.

    Each with its file. Python imports some itself before it comes to this package.
    """
    if _is_here(os.path.dirname(os.__file__)):
        return []  # Somebody is at home there.
    return [
        (name, file)
        for name in sys.stdlib_module_names & sys.modules.keys()
        if (file := _file_of(name)) and _is_here(os.path.dirname(file))
    ]


def hidden(name: str) -> str | None:
    """Return the file of the application that a module of the standard library hides, if any.

    ``name`` is that of both. Whoever imports it gets what has been imported before.
    """
    if name not in sys.stdlib_module_names or name not in sys.modules:
        return None
    for file in (f"{name}.py", os.path.join(name, "__init__.py")):
        loaded = _file_of(name)
        if os.path.isfile(file) and not (loaded and os.path.samefile(file, loaded)):
            return file
    return None


def _file_of(name: str) -> str | None:
    file = getattr(sys.modules[name], "__file__", None)
    return file if isinstance(file, str) and os.path.isfile(file) else None


def _is_command() -> bool:
    if os.path.basename(sys.argv[0]) == _NAME:
        return True
    # While Python looks for the module, this stands in the place of its path.
    if sys.argv[0] != "-m":
        return False
    for option, name in zip(sys.orig_argv, sys.orig_argv[1:], strict=False):
        if option.startswith("-") and option.endswith("m"):
            return name.partition(".")[0] == _NAME
    return False


def _without_current_directory(path: list[str]) -> list[str]:
    if _is_here(_ROOT):
        return path[:]  # Somebody has installed this package there, and what it depends on.
    return [folder for folder in path if not _is_here(folder)]


def _is_here(folder: str) -> bool:
    try:
        return os.path.realpath(folder) == os.path.realpath("")
    except OSError:  # There is no current directory any more.
        return folder == ""
