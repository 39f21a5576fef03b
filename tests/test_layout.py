"""The house rules that can be read off the source: who may import whom, and what a module is.

The checks are functions over source text; the second half tries them on sources that break them.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = "aiowsgi"
ROOT = Path(__file__).parent.parent / PACKAGE

# The floors, from the ground up. A room may import the rooms below its floor, and none beside it.
# A room may be one module.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"wording", "callbacks", "cache", "libc", "folder_lock", "compiling", "config"}),
    frozenset({"http", "wsgi"}),
    frozenset({"bridge"}),
    frozenset({"observe"}),
    frozenset({"exchange"}),
    frozenset({"connection"}),
    frozenset({"fronts", "answers", "net"}),
    frozenset({"server"}),
    frozenset({"process"}),
    # The face: the names that the package shows.
    frozenset({""}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
GROUND = frozenset(
    {"errors", "wording", "callbacks", "cache", "libc", "folder_lock", "compiling", "config"}
)
# Rooms that know less than their floor would let them. A dotted name is one module.
NARROWER: Mapping[str, frozenset[str]] = {
    # http/request.py is data: what a parser yields. Besides, an environ has header fields, by the
    # names that they have there.
    "wsgi": GROUND | {"http.request", "http.meta_variables"},
    "bridge": GROUND,
    "observe": GROUND | {"http.request", "bridge"},
    "__main__": frozenset({"cli"}),
    # An application like that of any user: it knows no server.
    "demo": frozenset(),
}
# Who may import these. A dotted name is one module.
LOOP = frozenset({"answers", "net", "server", "process", "cli", "__main__", ""})
OUTSIDE: Mapping[str, frozenset[str]] = {
    "asyncio": LOOP,
    "uvloop": LOOP,
    "socket": LOOP,
    "select": LOOP | {"observe.log_writer"},
    "selectors": LOOP,
    "ssl": LOOP,
    # All locks that pool threads and the loop take are in the bridge. The log writer has its own. A
    # process must know whether it is on the main thread, where alone signals are handled, which
    # threads hold its end, and must not wait for who reads its logs; a worker notices the end of
    # its supervisor whatever its loop does. The demo is an application, and runs on several
    # threads.
    "threading": frozenset(
        {
            "bridge",
            "observe.log_writer",
            "process.signals",
            "process.ending",
            "process.standard_streams",
            "process.worker.lifeline",
            # It calls the application, which may never return.
            "process.own_requests.readiness",
            # It looks for threads that hooks have left.
            "process.hooks.supervised",
            # It looks for threads that a fork would not take along.
            "process.mold.hazards",
            "process.mold.origins",
            # It looks at files, and a file system may never answer.
            "net.tls.certificates.renewal",
            "demo",
        }
    ),
    "_thread": frozenset({"bridge"}),
    "queue": frozenset({"bridge"}),
    "h11": frozenset({"http.readers.h11_reader"}),
    "httptools": frozenset({"http.readers.httptools_reader"}),
}


def _may_import() -> dict[str, frozenset[str]]:
    allowed: dict[str, frozenset[str]] = {}
    below: frozenset[str] = frozenset()
    for floor in FLOORS:
        allowed |= dict.fromkeys(floor, below)
        below |= floor
    return allowed | NARROWER


MAY_IMPORT = _may_import()

MAX_SIZE = 18 * 1024
MOST_MODULES = 10
# They say nothing about what is inside, so that everything fits.
NAMELESS = frozenset({"utils", "util", "helpers", "helper", "common", "base", "misc"})


def read_package(root: Path) -> dict[str, str]:
    """Return the source of every module by its name within the package; "" is the package."""
    sources = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        # A package is told from a module by the dot behind its name.
        sources[f"{name}." if parts[-1] == "__init__" and name else name] = path.read_text("utf-8")
    return sources


def imports(module: str, source: str, modules: Iterable[str]) -> Iterator[str]:
    """Yield the absolute name of every module that ``source`` imports, wherever in it.

    ``module`` is its name as ``read_package`` writes it; ``modules`` are all that there are, to
    tell ``from . import module`` from ``from . import name``.
    """
    known = {f"{PACKAGE}.{name.rstrip('.')}".rstrip(".") for name in modules}
    package = f"{PACKAGE}.{module}".rstrip(".")
    if module and not module.endswith("."):
        package = package.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *base.split(".")])
                base = base.rstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in known else base


def room(module: str) -> str:
    """Return the room of a module: the first part of its name within the package."""
    return module.partition(".")[0]


def covers(allowed: Iterable[str], module: str) -> bool:
    """Return whether a module, or a room that it is in, is among those that are allowed."""
    module = module.rstrip(".")
    return any(module == name or (name and module.startswith(f"{name}.")) for name in allowed)


def graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules of the package that each of its modules imports."""
    edges: dict[str, set[str]] = {}
    for module, source in sources.items():
        targets = imports(module, source, sources)
        inside = {name for name in targets if name.partition(".")[0] == PACKAGE}
        edges[module] = {name.removeprefix(PACKAGE).removeprefix(".") for name in inside}
    return edges


def forbidden_inside(sources: Mapping[str, str]) -> list[str]:
    """Return the imports within the package that do not go down."""
    found = []
    for module, targets in graph(sources).items():
        here = room(module)
        for target in sorted(targets):
            if here not in MAY_IMPORT:
                found.append(f"{module}: its room is not in the plan")
            elif room(target) != here and not covers(MAY_IMPORT[here], target):
                found.append(f"{module} imports {target or PACKAGE}")
    return found


def unknown_rooms(sources: Mapping[str, str]) -> list[str]:
    """Return the rooms that the plan does not know."""
    return sorted({room(module) for module in sources} - set(MAY_IMPORT))


def cycle(sources: Mapping[str, str]) -> list[str]:
    """Return the modules that import each other in a circle, or stand between two; or none.

    Imports for type checkers count: who reads the one module has to know the other.
    """
    edges = {module.rstrip("."): set[str]() for module in sources}
    for module, targets in graph(sources).items():
        edges[module.rstrip(".")] |= {target.rstrip(".") for target in targets}
    # Take away what imports nothing that is left, then what is imported by nothing that is left.
    for _ in range(2):
        while leaves := [here for here, targets in edges.items() if not targets & set(edges)]:
            for leaf in leaves:
                del edges[leaf]
        edges = {here: {m for m, targets in edges.items() if here in targets} for here in edges}
    return sorted(edges)


def forbidden_outside(sources: Mapping[str, str]) -> list[str]:
    """Return the imports of libraries that are none of a module's business."""
    found = []
    for module, source in sources.items():
        for target in sorted(set(imports(module, source, sources))):
            library = target.partition(".")[0]
            if library in OUTSIDE and not covers(OUTSIDE[library], module):
                found.append(f"{module or PACKAGE} imports {target}")
    return found


def importers(library: str, sources: Mapping[str, str]) -> list[str]:
    """Return the modules that import a library."""
    return [
        module
        for module, source in sources.items()
        if library in {name.partition(".")[0] for name in imports(module, source, sources)}
    ]


def too_big(sources: Mapping[str, str]) -> list[str]:
    """Return the modules that cannot be read in one sitting."""
    sizes = {module: len(source.encode()) for module, source in sources.items()}
    return [f"{module}: {size} bytes" for module, size in sizes.items() if size > MAX_SIZE]


def crowded(sources: Mapping[str, str]) -> list[str]:
    """Return the folders with more modules than one sees at a glance, but for the top one."""
    folders = Counter(
        module.rpartition(".")[0] for module in sources if not module.endswith(".") and module
    )
    return sorted(folder for folder, size in folders.items() if folder and size > MOST_MODULES)


def without_docstring(sources: Mapping[str, str]) -> list[str]:
    """Return the modules that do not say what they are."""
    return [module for module, source in sources.items() if not _docstring(source)]


def _docstring(source: str) -> str:
    return (ast.get_docstring(ast.parse(source)) or "").strip()


def nameless(sources: Mapping[str, str]) -> list[str]:
    """Return the modules and rooms whose name is no noun for an idea."""
    return [m for m in sources if NAMELESS & {part.strip("_") for part in m.split(".")}]


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_package(ROOT)


class TestThePackage:
    def test_is_there(self, sources: dict[str, str]) -> None:
        # The tests below hold for no modules, too.
        assert {"", "errors", "bridge.", "bridge.pool.", "http.request"} <= set(sources)
        assert "http.parser" in graph(sources)["fronts.http1"]

    def test_has_the_rooms_of_the_plan(self, sources: dict[str, str]) -> None:
        assert unknown_rooms(sources) == []

    def test_imports_go_down_only(self, sources: dict[str, str]) -> None:
        assert forbidden_inside(sources) == []

    def test_modules_do_not_import_each_other_in_a_circle(self, sources: dict[str, str]) -> None:
        assert cycle(sources) == []

    def test_locks_loops_and_sockets_stay_in_their_rooms(self, sources: dict[str, str]) -> None:
        assert forbidden_outside(sources) == []

    @pytest.mark.parametrize("library", ["h11", "httptools"])
    def test_a_library_is_imported_by_one_module(
        self, sources: dict[str, str], library: str
    ) -> None:
        assert importers(library, sources) == [f"http.readers.{library}_reader"]

    def test_request_data_depends_on_nothing(self, sources: dict[str, str]) -> None:
        # That is why rooms above http/ may know it.
        names = set(imports("http.request", sources["http.request"], sources))
        assert names <= {"abc", "dataclasses", "typing", "enum", "collections.abc"}

    def test_the_standard_library_is_enough_for_the_ground_floor(
        self, sources: dict[str, str]
    ) -> None:
        for module, targets in graph(sources).items():
            if room(module) in {"errors", "config"}:
                assert not importers("h11", {module: sources[module]})
                assert {room(target) for target in targets} <= {"errors", "config"}

    def test_modules_can_be_read_in_one_sitting(self, sources: dict[str, str]) -> None:
        assert too_big(sources) == []

    def test_folders_can_be_overlooked(self, sources: dict[str, str]) -> None:
        assert crowded(sources) == []

    def test_modules_say_what_they_are(self, sources: dict[str, str]) -> None:
        assert without_docstring(sources) == []

    def test_modules_are_nouns_for_one_idea(self, sources: dict[str, str]) -> None:
        assert nameless(sources) == []


def with_module(module: str, source: str) -> dict[str, str]:
    """Return a made-up package with one module that does something."""
    names = ["", "errors", "config", "cli", "demo.", "http.", "http.request", "http.parser"]
    names += ["wsgi.", "wsgi.task", "bridge.", "bridge.pool", "observe.", "observe.access"]
    names += ["server.", "server.protocol", "process.", "process.run"]
    return dict.fromkeys(names, "") | {module: source}


class TestTheChecks:
    @pytest.mark.parametrize(
        ("module", "source", "name"),
        [
            ("bridge.pool", "import a.b", "a.b"),
            ("bridge.pool", "import a as b", "a"),
            ("bridge.pool", "from a.b import c", "a.b"),
            ("bridge.pool", "from ..errors import QueueFull", "aiowsgi.errors"),
            ("bridge.pool", "from .. import errors", "aiowsgi.errors"),
            ("bridge.pool", "from .. import serve", "aiowsgi"),
            ("bridge.pool", "from . import pool", "aiowsgi.bridge.pool"),
            ("bridge.pool", "from . import nothing", "aiowsgi.bridge"),
            ("bridge.pool", "from .pool import ThreadPool", "aiowsgi.bridge.pool"),
            ("bridge.", "from . import pool", "aiowsgi.bridge.pool"),
            ("bridge.", "from .. import errors", "aiowsgi.errors"),
            ("bridge.", "from ..http import request", "aiowsgi.http.request"),
            ("", "from . import errors", "aiowsgi.errors"),
            ("", "from .bridge.pool import ThreadPool", "aiowsgi.bridge.pool"),
            ("cli", "from . import serve", "aiowsgi"),
            ("cli", "from .errors import X", "aiowsgi.errors"),
            ("cli", "from aiowsgi import errors", "aiowsgi.errors"),
            ("cli", "def f():\n    import a", "a"),
            ("cli", "if TYPE_CHECKING:\n    from a import b", "a"),
            ("cli", "try:\n    import a\nexcept ImportError:\n    pass", "a"),
        ],
    )
    def test_imports_are_found(self, module: str, source: str, name: str) -> None:
        assert list(imports(module, source, with_module("", ""))) == [name]

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("errors", "from .config import Config"),
            ("config", "from .http import request"),
            ("http.parser", "from ..wsgi import task"),
            ("http.parser", "import aiowsgi.bridge.pool"),
            ("wsgi.task", "from ..http.parser import Parser"),
            ("wsgi.task", "from ..http import parser"),
            ("wsgi.task", "from .. import http"),
            ("wsgi.task", "from ..bridge.pool import ThreadPool"),
            ("bridge.pool", "from ..wsgi import task"),
            ("bridge.pool", "from ..http.request import RequestHead"),
            ("bridge.", "from ..server import protocol"),
            ("observe.access", "from ..http.parser import Parser"),
            ("server.protocol", "from ..process.run import run"),
            ("server.protocol", "from .. import serve"),
            ("server.protocol", "def f():\n    from ..cli import main"),
            ("process.run", "from ..cli import main"),
            ("", "from .cli import main"),
            ("demo.", "from ..errors import AiowsgiError"),
            ("demo.", "import aiowsgi"),
            ("attic", "from .errors import AiowsgiError"),
        ],
    )
    def test_an_import_that_goes_up_or_aside_is_found(self, module: str, source: str) -> None:
        assert len(forbidden_inside(with_module(module, source))) == 1

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("config", "from .errors import ConfigError"),
            ("wsgi.task", "from ..http.request import RequestHead"),
            ("wsgi.task", "from ..http import request"),
            ("wsgi.task", "from . import task"),
            ("wsgi.", "from .task import Task"),
            ("server.protocol", "from ..http.parser import Parser\nfrom ..bridge import pool"),
            ("process.run", "from ..server.protocol import Protocol"),
            ("cli", "from . import __version__\nfrom .process import run"),
            ("", "from .process.run import run"),
        ],
    )
    def test_an_import_that_goes_down_is_not(self, module: str, source: str) -> None:
        assert forbidden_inside(with_module(module, source)) == []

    def test_a_room_that_is_not_in_the_plan_is_found(self) -> None:
        assert unknown_rooms(with_module("attic.trunk", "")) == ["attic"]
        assert unknown_rooms(with_module("", "")) == []

    def test_a_circle_is_found(self) -> None:
        sources = with_module("http.parser", "from .request import RequestHead")
        sources["wsgi.task"] = "from ..http import parser"
        assert cycle(sources) == []
        sources["http.request"] = "if TYPE_CHECKING:\n    from ..bridge import pool"
        sources["bridge.pool"] = "def f():\n    from ..http.parser import Parser"
        # wsgi.task imports the circle, and is not in it.
        assert cycle(sources) == ["bridge.pool", "http.parser", "http.request"]

    def test_a_module_that_imports_its_own_package_may_be_a_circle(self) -> None:
        sources = with_module("http.parser", "from . import limit")
        assert cycle(sources) == []
        sources["http."] = "from .parser import Parser"
        assert cycle(sources) == ["http", "http.parser"]

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("server.protocol", "import threading"),
            ("server.protocol", "from queue import SimpleQueue"),
            ("process.", "import threading"),
            ("wsgi.task", "def f():\n    import threading"),
            ("bridge.pool", "import asyncio"),
            ("observe.access", "from asyncio import Queue"),
            ("http.parser", "import asyncio.events"),
            ("wsgi.task", "import socket"),
            ("config", "import asyncio"),
            ("http.request", "import h11"),
            ("http.h11_reader", "import httptools"),
            ("server.protocol", "from h11 import Connection"),
        ],
    )
    def test_a_library_in_the_wrong_room_is_found(self, module: str, source: str) -> None:
        assert len(forbidden_outside(with_module(module, source))) == 1

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("bridge.pool", "import threading, queue"),
            ("bridge.", "import threading"),
            ("process.signals", "import threading, asyncio"),
            ("server.protocol", "import asyncio, socket"),
            ("", "import asyncio"),
            ("http.readers.h11_reader", "import h11"),
            ("wsgi.task", "import queueing"),
        ],
    )
    def test_a_library_in_its_room_is_not(self, module: str, source: str) -> None:
        assert forbidden_outside(with_module(module, source)) == []

    def test_importers_are_found(self) -> None:
        sources = with_module("http.h11_reader", "import h11")
        assert importers("h11", sources) == ["http.h11_reader"]
        sources["http.request"] = "from h11._util import x"
        assert importers("h11", sources) == ["http.request", "http.h11_reader"]

    def test_a_module_that_is_too_big_is_found(self) -> None:
        line = "# é\n"  # Bytes count, not characters.
        lines = MAX_SIZE // len(line.encode())
        assert too_big({"cli": line * lines}) == []
        assert too_big({"cli": line * (lines + 1)}) == [f"cli: {(lines + 1) * 5} bytes"]

    def test_a_folder_that_is_too_full_is_found(self) -> None:
        modules = dict.fromkeys([f"http.{letter}" for letter in "abcdefghij"], "")
        assert crowded({"http.": "", **modules}) == []
        assert crowded({"http.": "", "http.k": "", **modules}) == ["http"]

    @pytest.mark.parametrize("source", ["", "x = 1", "# What it is.\n", '"""  """\n'])
    def test_a_module_that_does_not_say_what_it_is_is_found(self, source: str) -> None:
        assert without_docstring({"cli": '"""Says it."""\n', "config": source}) == ["config"]

    @pytest.mark.parametrize("name", ["utils", "bridge.common", "helpers.", "http._base"])
    def test_a_name_that_says_nothing_is_found(self, name: str) -> None:
        assert nameless(with_module(name, "")) == [name]
        assert nameless(with_module("bridge.baseline", "")) == []

    def test_modules_and_packages_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "bridge").mkdir()
        for path in ("__init__.py", "cli.py", "bridge/__init__.py", "bridge/pool.py"):
            (tmp_path / path).write_text(path)
        assert read_package(tmp_path) == {
            "": "__init__.py",
            "cli": "cli.py",
            "bridge.": "bridge/__init__.py",
            "bridge.pool": "bridge/pool.py",
        }
