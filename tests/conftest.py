"""Fixtures that every test file may use."""

import contextlib
import gc
import os
import re
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication
from wsgiref.validate import validator

import pytest
from certificates import Certificates
from defects import no_defects
from descriptors import open_descriptors
from extent import EXHAUSTIVE, examples
from hypothesis import HealthCheck, settings
from raw_client import be_patient
from service_manager import Listening, listening

import aiowsgi
from aiowsgi.observe.loggers import access_log, error_log

# An assertion that fails in a module which tests share shows what differed, as one in a test does.
_SHARED = {file.stem for file in Path(__file__).parent.glob("*.py")}
pytest.register_assert_rewrite(*_SHARED - sys.modules.keys())

# An example may take long on a machine that is busy with other tests.
settings.register_profile(
    "aiowsgi",
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("aiowsgi")

# These try what runs in several processes.
_MEASURED = (
    *("test_hooks", "test_preload", "test_reload", "test_systemd_activation"),
    *("test_upgrade", "test_user", "test_workers"),
)
# But not these: some start many such processes under load, which would take minutes, and others
# run processes as users who may not write what was measured, and who would say so.
_UNMEASURED = (
    "test_every_request_is_answered_during_upgrades",
    "test_a_pid_file_that_the_user_cannot_write_is_told_before_the_application_is_loaded",
    "test_a_start_that_fails_leaves_no_socket_behind",
    "test_one_who_is_not_root_is_told_so",
)

# What ``repr`` shows of most objects.
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+>")


def pytest_configure(config: pytest.Config) -> None:
    """Let the hundreds of processes that tests start share the bytecode of the package.

    Also where Python is told to write none: then it is in a folder that goes with the tests.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        folder = tempfile.TemporaryDirectory(prefix="bytecode-")
        config.add_cleanup(folder.cleanup)
        os.environ["PYTHONPYCACHEPREFIX"] = folder.name


@pytest.fixture(autouse=True)
def measured_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the lines that run in processes of a test for those only of which nothing else runs.

    What a measured process imports, how long it takes and how it ends is not what it is otherwise.
    """
    name = request.node.originalname
    if request.path.stem not in _MEASURED or name in _UNMEASURED:
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def pytest_report_header() -> str:
    """Say how much is tried. It does not show otherwise, because pytest-xdist counts nothing."""
    if EXHAUSTIVE:
        return "tests: all"
    return "tests: without the exhaustive ones, which AIOWSGI_TESTS=exhaustive adds"


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Have each process of pytest-xdist begin with other files, where it collects a folder.

    Each imports all of them, and the first one to import a file compiles it, which takes long. In
    the same order, each would compile each, at the same time as the others.
    """
    report = yield
    worker = getattr(collector.config, "workerinput", None)
    if worker is not None and isinstance(collector, pytest.Dir):
        files = report.result
        first = len(files) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        report.result = files[first:] + files[:first]
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests in order. Leave out the exhaustive ones, if not everything is asked for."""
    items.sort(key=lambda item: item.path)
    if EXHAUSTIVE:
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]


def pytest_collection_finish() -> None:
    """Spare the garbage collector the thousands of tests, and what the modules hold."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a name that is another one in each process: it cannot be repeated, nor distributed."""
    if _ADDRESS.search(item.nodeid):
        raise pytest.UsageError(f"the id of a test holds the address of an object: {item.nodeid}")


@pytest.fixture(autouse=True)
def every_record_is_logged() -> Iterator[None]:
    """See that no record of the server was lost because it cannot be formatted, for example."""
    loggers = (access_log, error_log)
    for logger in loggers:
        logger.has_failed = False
    yield
    assert not any(logger.has_failed for logger in loggers), "a record was not logged; see stderr"


@pytest.fixture(autouse=True)
def defects() -> Iterator[list[str]]:
    """Fail the test where a server logs a defect. A test that is about one clears the list."""
    with no_defects() as found:
        yield found


StartServer = Callable[..., Awaitable[aiowsgi.Server]]

# Seconds that the threads of a test file have to end behind it. A fail-safe.
TIMEOUT = 30.0


@pytest.fixture(autouse=True, scope="module")
def no_thread_is_left() -> Iterator[None]:
    """See that the threads of a test file end with it, and do not disturb the next one."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), f"the thread {thread.name} is left behind"


@pytest.fixture
def no_descriptor_is_left() -> Iterator[None]:
    """See that the test leaves no descriptor open."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short name: the path of a Unix socket has about 100 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Return a CA and what it issues. They are made once for all tests of a process."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def systemd(folder: Path) -> Iterator[Listening]:
    """Return what a service can tell something, whose address is its NOTIFY_SOCKET."""
    with listening(folder) as listener:
        yield listener


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """Return ``await start_server(app, validate=True, executor=None, **options)`` -> Server.

    The server listens on a port of 127.0.0.1 that the kernel chose and is closed at the end of the
    test. ``options`` are fields of ``Config``. The application is wrapped in wsgiref's validator
    unless ``validate=False``.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            app: WSGIApplication, *, validate: bool = True, executor: Any = None, **options: Any
        ) -> aiowsgi.Server:
            options.setdefault("timeout_graceful", 5.0)
            options.setdefault("threads", 4)
            serving = aiowsgi.serve(
                validator(app) if validate else app,
                "127.0.0.1",
                0,
                config=aiowsgi.Config(**options),
                executor=executor,
            )
            return be_patient(await stack.enter_async_context(serving))

        yield start
