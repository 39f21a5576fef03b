"""Which files count: those of the application, and what ``--reload-include`` names."""

import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .. import import_path

# Folders with other people's code, or with none. Those of version control and of tools begin with a
# dot.
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_WILD = re.compile(r"(\*\*/|\*|\?)")
_REGEX_OF = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that is looked at, and what counts in it."""

    folder: str
    counts: re.Pattern[str]
    """matches the paths of the files that count, from this folder on"""
    is_deep: bool = True
    """whether the folders in it are looked at, too"""

    def has(self, path: str) -> bool:
        """Return whether a file counts, by its path."""
        start = os.path.join(self.folder, "")
        return path.startswith(start) and self.counts.fullmatch(path, len(start)) is not None


def find_roots(folder: str, include: Sequence[str], imported_from: Iterable[str]) -> list[Root]:
    """Return what to look at.

    ``folder`` is that of the application; ``include`` are the patterns of ``--reload-include``;
    ``imported_from`` are further folders with code. A pattern without a slash is for the names of
    files, wherever they are. One with a slash is a path from the current directory on. One that
    names a folder stands for all files in it.
    """
    anywhere = ["**/*.py"]
    elsewhere: list[Root] = []
    for pattern in include:
        path = os.path.abspath(os.path.expanduser(pattern))
        if os.path.isdir(path):
            elsewhere.append(Root(path, _matching(["**/*"])))
        elif "/" not in pattern:
            anywhere.append(f"**/{pattern}")
        else:
            start = _fixed_part(path)
            rest = os.path.relpath(path, start)
            elsewhere.append(Root(start, _matching([rest]), is_deep="/" in rest))
    counts = _matching(anywhere)
    others = [other for other in imported_from if not _is_in(other, folder)]
    return [Root(top, counts) for top in (folder, *others)] + elsewhere


def folder_of(path: str) -> str:
    """Return the folder that an application is imported from, from the path that names it.

    It may be that of a file, which may be in a package.
    """
    source = path.partition(":")[0]
    if "/" not in source and not source.endswith(".py"):
        return os.getcwd()
    folder = os.path.dirname(os.path.abspath(source))
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder = os.path.dirname(folder)
    return folder


def code_folders(search_path: Sequence[str]) -> Iterator[str]:
    """Yield the folders of ``sys.path`` whose code people change: neither Python's nor installed.

    They are in PYTHONPATH, or those of packages that are installed in editable form. The folder of
    this package is none: the supervisor has loaded it, and would have to be started again itself.
    """
    own = import_path.ROOT
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "scripts")]
    for folder in map(os.path.abspath, search_path):
        if folder == own or not os.path.isdir(folder) or _INSTALLED & {*folder.split(os.sep)}:
            continue
        if not any(_is_in(folder, other) for other in python):
            yield folder


def is_skipped(folder: str) -> bool:
    """Return whether a folder with this name is left out, with all that is in it."""
    return folder[0] == "." or folder in _SKIPPED


def _matching(patterns: Iterable[str]) -> re.Pattern[str]:
    """Return what matches the paths of files that one of these patterns names.

    Editors keep copies and locks beside a file: their names begin with a dot, or end with ~.
    """
    return re.compile("|".join(f"(?:{_translated(pattern)})(?<!~)" for pattern in patterns), re.S)


def _translated(pattern: str) -> str:
    folders, slash, name = pattern.rpartition("/")
    visible = "" if name.startswith(".") else r"(?!\.)"
    parts = (
        "".join(_REGEX_OF.get(part) or re.escape(part) for part in _WILD.split(text))
        for text in (folders + slash, name)
    )
    return visible.join(parts)


def _fixed_part(path: str) -> str:
    """Return the folder that all files are in that an absolute pattern names."""
    folder = os.path.dirname(path)
    while _WILD.search(folder):
        folder = os.path.dirname(folder)
    return folder


def _is_in(folder: str, other: str) -> bool:
    """Return whether a folder is another one, or in it."""
    return os.path.join(folder, "").startswith(os.path.join(other, ""))
