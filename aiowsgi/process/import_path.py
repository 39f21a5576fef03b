"""``sys.path`` of a process that serves and does nothing else.

A file of the application, such as ``http.py``, may have the name of a module of the standard
library. The folder of the application comes first in ``sys.path``. So from the moment when it is
added, every import of that module would get the file instead, also in this package and in its
dependencies. That is why everything that they need is imported before. Used by
``python -m aiowsgi`` and ``aiowsgi`` only.
"""

# The interpreter has imported both before, so no file of the application can take their place.
# Nothing else may be imported here.
import os
import sys

_NAME = "aiowsgi"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# ``sys.path`` before the current directory was removed; empty if it was not.
_with_current_directory: list[str] = []
# ``sys.path`` without the folders of the application; empty before these are added.
_outside_application: list[str] = []
_MEMORY = (_with_current_directory, _outside_application)


def remove_current_directory() -> None:
    """Remove the current directory from ``sys.path`` until ``add_folder`` is called.

    ``python -m`` puts it there, and PYTHONPATH may. Called before any other import. Does nothing in
    other programs than the command.
    """
    if _is_command():
        _with_current_directory[:] = sys.path
        sys.path[:] = _without_current_directory(sys.path)


def add_folder(folder: str) -> None:
    """Undo ``remove_current_directory``, and have imports look in ``folder`` first."""
    _outside_application[:] = _without_current_directory(sys.path)
    if _with_current_directory:
        sys.path[:] = _with_current_directory
        _with_current_directory.clear()
    if folder not in sys.path:
        sys.path.insert(0, folder)


class FolderAdded:
    """Inside of ``with``, imports look in ``folder`` first, as behind ``add_folder``.

    Used in a process that has no application: those that it forks begin with none.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._before = [(value, value[:]) for value in (sys.path, *_MEMORY)]
        add_folder(self._folder)

    def __exit__(self, *exc_info: object) -> None:
        for value, content in self._before:
            value[:] = content


class OutsideApplication:
    """Inside of ``with``, imports do not look in the folders of the application.

    Only used after a start has failed. During serving, other threads import at the same time.
    """

    def __enter__(self) -> None:
        self._before = sys.path[:]
        sys.path[:] = _outside_application or _without_current_directory(sys.path)

    def __exit__(self, *exc_info: object) -> None:
        sys.path[:] = self._before


def shadowing_files() -> list[tuple[str, str]]:
    """Return modules of the standard library in whose place a file of the application was imported.

    Each with that file. The interpreter imports some modules before this package can do anything.
    """
    if _is_here(os.path.dirname(os.__file__)):
        return []  # The current directory is the standard library itself.
    return [
        (name, file)
        for name in sys.stdlib_module_names & sys.modules.keys()
        if (file := _file_of(name)) and _is_here(os.path.dirname(file))
    ]


def hidden_file(name: str) -> str | None:
    """Return the file of the application that cannot be imported because of its name, if any.

    A module of the standard library has the same ``name``, and was imported before.
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
    # During the import of this package by ``python -m``, argv[0] is "-m".
    if sys.argv[0] != "-m":
        return False
    for option, name in zip(sys.orig_argv, sys.orig_argv[1:], strict=False):
        if option.startswith("-") and option.endswith("m"):
            return name.partition(".")[0] == _NAME
    return False


def _without_current_directory(path: list[str]) -> list[str]:
    if _is_here(ROOT):
        return path[:]  # The package itself is imported from there, so it must stay.
    return [folder for folder in path if not _is_here(folder)]


def _is_here(folder: str) -> bool:
    try:
        return os.path.realpath(folder) == os.path.realpath("")
    except OSError:  # The current directory was deleted.
        return folder == ""
