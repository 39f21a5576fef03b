"""A process that serves one application until it is told to stop."""

import asyncio
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Never
from wsgiref.types import WSGIApplication

from .. import libc
from ..bridge.pool.jobs import Scheduling
from ..config import Config
from ..errors import ConfigError
from ..http.readers.choice import find_reader
from ..net.bind import place_of
from ..net.descriptors import raise_limit
from ..server.serving import Serving, refuse_application, refuse_options, with_address
from ..wording import counted
from ..wsgi.application import describe
from . import logs, streams
from .scheduling import find_scheduling
from .signals import Signals

_log = logging.getLogger("aiowsgi.error")

# What mallopt(3) is told: the variable and the tunable that say the same, the number in malloc.h,
# and the value.
_HEAPS = (
    ("MALLOC_ARENA_MAX", "glibc.malloc.arena_max", -8, 2),
    ("MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold", -3, 2 << 20),
    ("MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold", -1, 16 << 20),
)
# What is imported in the midst of serving, by this package or inside of the standard library.
_LATE = ("ipaddress", "urllib.parse")
# After a second signal, connections that were cut get this many seconds to be gone.
_FORCED_TIMEOUT = 0.5


def run(
    app: WSGIApplication,
    host: str | None = None,
    port: int | None = None,
    *,
    config: Config | None = None,
    **options: Never,
) -> None:
    """Serve a WSGI application until the process gets SIGINT or SIGTERM: the blocking form.

    Arguments as for ``serve``, with the options of a process, too. Requests in flight are finished
    before it returns; a second signal cuts them. Messages go to standard error and the access log
    to standard output, unless the loggers ``aiowsgi.error`` and ``aiowsgi.access`` have handlers
    already. Raises ConfigError, and RuntimeError inside a running event loop.
    """
    refuse_options("run", options)
    refuse_application(app)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("aiowsgi.run() blocks; in a coroutine, await aiowsgi.serve() instead")
    streams.open_missing()
    signals = Signals()
    try:
        config = with_address(config, host, port)
        serve_until_signal(app, config, name=describe(app), signals=signals)
    finally:
        signals.restore()


def prepare(config: Config) -> None:
    """Import what serving will need, before the application's folder is where imports look first.

    Raises ConfigError.
    """
    _loop_factory(config)
    find_reader(config.http)
    for name in _LATE:
        importlib.import_module(name)
    if config.body_spool:
        importlib.import_module("tempfile")
    if not "".join(config.bind).isascii():
        # The codec of international names, with its tables.
        importlib.import_module("encodings.idna")


def serve_until_signal(
    app: WSGIApplication,
    config: Config,
    *,
    name: str,
    signals: Signals,
    on_stopped: Callable[[int, float | None], None] = lambda exit_code, seconds: None,
) -> int:
    """Serve until a signal; return the exit code of the process.

    ``name`` is how messages call the application. ``on_stopped(exit_code, seconds)`` is called when
    the server has stopped, with what is left of the time for that, or None where threads did not
    come back from the application. The event loop is closed behind it, and waits for work that the
    application gave to the loop's own threads. Raises ConfigError.
    """
    # The application may have installed handlers of its own while it was imported.
    signals.install()
    loop_name, loop_factory = _loop_factory(config)
    reader = find_reader(config.http)
    logs.configure(config.log_level)
    _set_up_heaps()
    raise_limit(config.max_connections)
    machinery = f"{loop_name} with {reader.name}"
    scheduling = find_scheduling()
    deadline = 0.0
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            serving = _serve(app, config, name, machinery, signals, on_stopped, scheduling)
            deadline = runner.run(serving)
    finally:
        if scheduling is not None:
            # The server has done so already, unless an exception has kept it from that.
            scheduling.restore_slack()
        # Readers of the logs that are merely slow have what is left of the time.
        logs.drain(deadline - time.monotonic())
    return signals.exit_code


def _set_up_heaps() -> None:
    """Have glibc share two heaps between all threads, and keep buffers of usual sizes in them.

    By default it has a heap for nearly each thread, and keeps in each what that thread once needed:
    a multiple of what is in use. The interpreter lets few threads allocate at the same time anyway.
    And it gives each large buffer back to the system at once, from where the next one comes page by
    page: more work than all else about an upload. What the environment says goes first.
    """
    mallopt = libc.find("mallopt", "c_int", "c_int", "c_int")
    if sys.platform != "linux" or mallopt is None:
        return
    # "name=value:name=value".
    tunables = os.environ.get("GLIBC_TUNABLES", "").split(":")
    tuned = {tunable.partition("=")[0] for tunable in tunables}
    for variable, tunable, parameter, value in _HEAPS:
        if variable not in os.environ and tunable not in tuned:
            mallopt(parameter, value)


def _trim_heaps() -> None:
    """Give back what only the imports took: glibc keeps it where something behind it is in use."""
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
    on_stopped: Callable[[int, float | None], None],
    scheduling: Scheduling | None,
) -> float:
    """Serve; return when the time to stop is over."""
    server = await Serving(app, config, None, None, scheduling)
    _trim_heaps()
    closed = asyncio.ensure_future(server.wait_closed())
    signals.attach(server)
    _log.info(
        "Serving %s at %s with %s on %s (press Ctrl-C to stop)",
        name,
        ", ".join(map(place_of, server.sockets, server.urls)),
        counted(server.threads, "thread"),
        machinery,
    )
    forced = asyncio.ensure_future(signals.forced.wait())
    try:
        await asyncio.wait({closed, forced}, return_when=asyncio.FIRST_COMPLETED)
        left = server.time_left
    finally:
        # Does nothing where the server has stopped. What does not end at once ends with the
        # process.
        server.abort()
        await asyncio.wait({closed}, timeout=_FORCED_TIMEOUT)
        forced.cancel()
        stuck = server.left_threads_behind or not closed.done()
        closed.cancel()
        signals.detach()
    # The second signal may have come at any time.
    if signals.forced.is_set():
        left = 0.0
    on_stopped(signals.exit_code, None if stuck else left)
    return time.monotonic() + left
