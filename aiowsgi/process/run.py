"""A process that serves one application until it is told to stop."""

import asyncio
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Never, Protocol
from wsgiref.types import WSGIApplication

from .. import libc
from ..bridge.pool.jobs import Scheduling
from ..config import Config
from ..errors import ConfigError
from ..http.readers.choice import find_reader
from ..net.accept.descriptors import raise_limit
from ..net.bind.address import with_address
from ..net.bind.places import place_of
from ..observe.loggers import FORM, FORM_OF_SEVERAL
from ..server.server import Server
from ..server.serving import Serving, check_application, check_options, check_ssl
from ..server.surroundings import Surroundings
from ..wording import counted
from ..wsgi.application import describe
from . import import_path, logs, standard_streams
from .beginning import Beginning, begun
from .hooks.hooks import LEAST_SECONDS, Hooks
from .identity.directory import current_directory
from .identity.user import warn_of_root
from .importer import load_application
from .scheduling import find_scheduling
from .signals import Signals
from .systemd.service import with_passed_sockets

if TYPE_CHECKING:
    from ssl import SSLContext  # Loaded only where TLS is spoken.

    from .systemd.report import Report

_log = logging.getLogger("aiowsgi.error")

# Settings for mallopt(3): the environment variable and the tunable that users may set instead, the
# number of the parameter in malloc.h, and the value.
_HEAP_SETTINGS = (
    ("MALLOC_ARENA_MAX", "glibc.malloc.arena_max", -8, 2),
    ("MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold", -3, 2 << 20),
    ("MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold", -1, 16 << 20),
)
# Modules that this package or the standard library imports only during serving.
_LATE_IMPORTS = ("ipaddress", "urllib.parse")
# After a second signal, the server waits this many seconds until the connections it has cut are
# gone.
_FORCED_TIMEOUT = 0.5


class Attendant(Protocol):
    """Who looks after the server of a process that serves together with others."""

    def surroundings(self, scheduling: Scheduling | None) -> Surroundings:
        """Return what the server is given."""

    def begin(self, server: Server, machinery: str) -> None:
        """Take note that the server accepts connections. Called on the loop thread.

        ``machinery`` names the libraries that it runs on.
        """

    def end(self) -> None:
        """Take note that the server has ended. Called on the loop thread."""


def run(
    app: WSGIApplication,
    host: str | None = None,
    port: int | None = None,
    *,
    config: Config | None = None,
    ssl: "SSLContext | None" = None,
    **options: Never,
) -> None:
    """Serve a WSGI application until the process gets SIGINT or SIGTERM. Blocks.

    The arguments are those of ``serve``; the options of a process have an effect, too. Requests in
    flight are finished before it returns; a second signal cuts them. Messages go to standard error
    and the access log to standard output, unless the loggers ``aiowsgi.error`` and
    ``aiowsgi.access`` have handlers already. Raises ConfigError, and RuntimeError inside a running
    event loop.
    """
    check_options("run", options)
    check_application(app)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("aiowsgi.run() blocks; in a coroutine, await aiowsgi.serve() instead")
    standard_streams.open_missing()
    signals = Signals()
    try:
        config = with_address(config, host, port)
        if config.processes is not None:
            name, option = ("reload", "") if config.reload else ("workers", " N")
            raise ConfigError(
                f"{config.spelling(name)} is for the command line, because each worker loads the "
                f"application itself: python -m aiowsgi MODULE:CALLABLE --{name}{option}"
            )
        config = with_passed_sockets(config, os.environ)
        check_ssl(ssl, config)
        with begun(config, ssl) as beginning, Hooks(config) as hooks:
            hooks.begin_process()
            serve_until_signal(
                app,
                config,
                name=describe(app),
                signals=signals,
                beginning=beginning,
                hooks=hooks,
            )
    finally:
        signals.restore()


def load(path: str, config: Config) -> tuple[WSGIApplication, str]:
    """Return the application that ``path`` names, and its name in full.

    It is imported from the current directory. Raises ConfigError, and LoadError where the
    application's own code fails.
    """
    make_importable(config)
    return load_application(path)


def make_importable(config: Config) -> None:
    """Have modules imported from the current directory, from now on. Raises ConfigError."""
    prepare(config)
    import_path.add_folder(current_directory())


def prepare(config: Config) -> None:
    """Import everything that serving needs. See ``import_path``.

    Called before the folder of the application is added to ``sys.path``. Raises ConfigError.
    """
    _loop_factory(config)
    find_reader(config.http)
    for name in _late_imports(config):
        importlib.import_module(name)


def _late_imports(config: Config) -> Iterator[str]:
    """Yield the modules that are imported later, and only with these options if they take memory.

    A mold has all of them, so that its workers need not load them, each for itself.
    """
    yield from _LATE_IMPORTS
    if config.body_spool:
        yield "tempfile"
    if not "".join(config.bind).isascii():
        # The codec for international host names, with its tables.
        yield "encodings.idna"
    package = __package__.rpartition(".")[0]
    if config.warm_up:
        yield f"{package}.process.own_requests.warm_up"
    if config.ready_path:
        yield f"{package}.process.own_requests.readiness"
    if config.processes is not None:
        yield f"{package}.server.reporting"
        yield f"{package}.bridge.pool.reporting_pool"
    if config.on_start or config.on_stop or config.on_worker_start or config.on_worker_stop:
        yield f"{package}.process.hooks.hook"


def serve_until_signal(
    app: WSGIApplication,
    config: Config,
    *,
    name: str,
    signals: Signals,
    beginning: Beginning,
    hooks: Hooks,
    attendant: Attendant | None = None,
    is_warm: bool = False,
    on_stopped: Callable[[int, float | None], None] = lambda exit_code, seconds: None,
) -> int:
    """Serve until a signal; return the exit code of the process.

    ``name`` is the name of the application in messages. Without an ``attendant`` the process serves
    alone. ``is_warm`` says that the application has had its warm-up requests.
    ``on_stopped(exit_code, seconds)`` is called when the server has stopped. ``seconds`` is how
    much of the time for shutdown is left, or None if threads did not return from the application,
    and nothing else is left to do. After that, the event loop is closed, which waits for work that
    the application gave to the loop's default executor, and the last hooks are called. Raises
    ConfigError.
    """
    # The application may have installed handlers of its own while it was imported.
    signals.install()
    loop_name, loop_factory = _loop_factory(config)
    reader = find_reader(config.http)
    logs.configure(config.log_level, FORM if attendant is None else FORM_OF_SEVERAL)
    _set_up_heaps()
    raise_limit(config.max_connections)
    machinery = f"{loop_name} with {reader.name}"
    scheduling = find_scheduling()
    surroundings = (
        Surroundings(scheduling=scheduling, sockets=beginning.sockets)
        if attendant is None
        else attendant.surroundings(scheduling)
    )
    deadline = 0.0
    try:
        hooks.begin_worker()
        _ask_itself(app, config, is_warm=is_warm, multiprocess=attendant is not None)
        # So may these have: an event loop with handlers of its own leaves none behind.
        signals.install()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            serving = _serve(
                app,
                config,
                name,
                machinery,
                signals,
                beginning,
                attendant,
                surroundings,
            )
            left, is_stuck = runner.run(serving)
            if hooks.are_due:
                left = max(left, LEAST_SECONDS)
            deadline = time.monotonic() + left
            on_stopped(signals.exit_code, None if is_stuck and not hooks.are_due else left)
        hooks.end()
        if is_stuck:
            on_stopped(signals.exit_code, None)
    finally:
        if scheduling is not None:
            # The server has done so already, unless an exception has kept it from that.
            scheduling.restore_slack()
            scheduling.restore_interval()
        # Slow readers of the logs have the rest of the time for shutdown.
        logs.flush(deadline - time.monotonic())
    return signals.exit_code


def _ask_itself(app: WSGIApplication, config: Config, *, is_warm: bool, multiprocess: bool) -> None:
    """Make the requests to the application that come before those of clients. Raises ConfigError.

    What makes them is imported only where there are any.
    """
    if config.warm_up and not is_warm:
        from .own_requests.warm_up import warm_up

        warm_up(app, config, multiprocess=multiprocess)
    if config.ready_path:
        from .own_requests.readiness import prove_ready

        prove_ready(app, config, multiprocess=multiprocess)


def _set_up_heaps() -> None:
    """Have glibc use two heaps for all threads, and keep freed buffers of usual sizes.

    By default, glibc has a heap for nearly each thread, and each heap keeps the most memory that
    its thread ever needed. Together that is a multiple of what is in use. Two heaps are enough,
    because the interpreter lets few threads allocate at the same time. Also by default, glibc
    returns each large buffer to the system as soon as it is freed, and the next one has to be
    mapped page by page. That would be most of the work of an upload. Settings in the environment
    are left as they are.
    """
    mallopt = libc.find("mallopt", "c_int", "c_int", "c_int")
    if sys.platform != "linux" or mallopt is None:
        return
    # "name=value:name=value".
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    tuned = {tunable.partition("=")[0] for tunable in tunables}
    for variable, tunable, parameter, value in _HEAP_SETTINGS:
        if variable not in os.environ and tunable not in tuned:
            mallopt(parameter, value)


def trim_heaps() -> None:
    """Return memory to the system that only the imports needed, which glibc may keep otherwise."""
    if trim := libc.find("malloc_trim", "c_int", "c_size_t"):
        trim(0)


def _loop_factory(config: Config) -> tuple[str, Callable[[], asyncio.AbstractEventLoop] | None]:
    if config.loop == "asyncio":
        return "asyncio", None
    try:
        import uvloop
    except ImportError as error:
        if config.loop == "auto":
            return "asyncio", None
        raise ConfigError(
            f"uvloop is not installed; leave {config.spelling('loop')} out to use asyncio"
        ) from error
    return "uvloop", uvloop.new_event_loop


async def _serve(
    app: WSGIApplication,
    config: Config,
    name: str,
    machinery: str,
    signals: Signals,
    beginning: Beginning,
    attendant: Attendant | None,
    surroundings: Surroundings,
) -> tuple[float, bool]:
    """Serve until a signal. Return what is left of the time for shutdown, in seconds.

    And whether threads have not returned from the application.
    """
    server = await Serving(app, config, None, None, surroundings, beginning.ssl)
    trim_heaps()
    closed = asyncio.ensure_future(server.wait_closed())
    report = _report(beginning, server)
    if report is None:
        signals.attach(server)
    else:
        signals.attach(server, report.on_stop)
    forced = asyncio.ensure_future(signals.forced.wait())
    try:
        beginning.pid_file.write()
        if attendant is None:
            warn_of_root(config)
            _log.info(
                "Serving %s at %s with %s on %s (press Ctrl-C to stop)",
                name,
                ", ".join(map(place_of, server.sockets, server.urls)),
                counted(server.threads, "thread"),
                machinery,
            )
        else:
            attendant.begin(server, machinery)
        if report is not None:
            report.begin()
        await asyncio.wait({closed, forced}, return_when=asyncio.FIRST_COMPLETED)
        left = server.time_left
    finally:
        # If the server has stopped, this does nothing. Connections that do not end at once end with
        # the process.
        server.abort()
        await asyncio.wait({closed}, timeout=_FORCED_TIMEOUT)
        forced.cancel()
        stuck = server.left_threads_behind or not closed.done()
        closed.cancel()
        signals.detach()
        if attendant is not None:
            attendant.end()
        beginning.pid_file.remove()
        if report is not None:
            report.end()
    # The second signal may also have come after the server had stopped.
    if signals.forced.is_set():
        left = 0.0
    return left, stuck


def _report(beginning: Beginning, server: Server) -> "Report | None":
    """Return what tells systemd about the server; None where nobody listens."""
    if beginning.notifier is None:
        return None
    from .systemd.report import Report

    return Report(beginning.notifier, server)
