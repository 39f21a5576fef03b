"""A process that serves one application until it is told to stop."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Never
from wsgiref.types import WSGIApplication

from .. import libc
from ..bridge import forks
from ..config import Config
from ..errors import ConfigError
from ..http.reader import find_reader
from ..server.bind import place_of
from ..server.child import give_up_signals
from ..server.server import Server
from ..server.serving import refuse_options, serve, with_address
from ..wording import counted
from ..wsgi.application import describe
from . import logs, streams

_log = logging.getLogger("aiowsgi.error")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Writes what is going on to the error log. One that other servers give no other meaning, and that
# does nothing to a process which does not expect it; SIGINFO is Ctrl-T where there is one.
_INSPECT_SIGNALS = [
    getattr(signal, name) for name in ("SIGURG", "SIGINFO") if hasattr(signal, name)
]
# What mallopt(3) is told: the variable and the tunable that say the same, the number in malloc.h,
# and the value.
_HEAPS = (
    ("MALLOC_ARENA_MAX", "glibc.malloc.arena_max", -8, 2),
    ("MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold", -3, 2 << 20),
    ("MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold", -1, 16 << 20),
)
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

    Arguments as for ``serve``. Requests in flight are finished before it returns; a second signal
    cuts them. Messages go to standard error and the access log to standard output, unless the
    loggers ``aiowsgi.error`` and ``aiowsgi.access`` have handlers already. Raises ConfigError, and
    RuntimeError inside a running event loop.
    """
    refuse_options("run", options)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("aiowsgi.run() blocks; in a coroutine, await aiowsgi.serve() instead")
    streams.open_missing()
    serve_until_signal(app, with_address(config, host, port), name=describe(app))


def serve_until_signal(
    app: WSGIApplication,
    config: Config,
    *,
    name: str,
    on_cut: Callable[[int], None] = lambda exit_code: None,
) -> int:
    """Serve until a signal; return the exit code of the process.

    ``name`` is how messages call the application. ``on_cut(exit_code)`` is called when the server
    has stopped and something had to be left behind, before the event loop is closed: closing waits
    for work that the application gave to the loop's own threads. Raises ConfigError.
    """
    loop_name, loop_factory = _loop_factory(config.loop)
    reader = find_reader(config.http)
    logs.configure(config.log_level)
    _set_up_heaps()
    machinery = f"{loop_name} with {reader.name}"
    deadline = 0.0
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            exit_code, deadline = runner.run(_serve(app, config, name, machinery, on_cut))
    finally:
        # Readers of the logs that are merely slow have what is left of the time.
        logs.drain(deadline - time.monotonic())
    return exit_code


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


def _loop_factory(choice: str) -> tuple[str, Callable[[], asyncio.AbstractEventLoop] | None]:
    if choice == "asyncio":
        return "asyncio", None
    try:
        import uvloop
    except ImportError as error:
        if choice == "auto":
            return "asyncio", None
        raise ConfigError("uvloop is not installed; leave --loop out to use asyncio") from error
    return "uvloop", uvloop.new_event_loop


async def _serve(
    app: WSGIApplication,
    config: Config,
    name: str,
    machinery: str,
    on_cut: Callable[[int], None],
) -> tuple[int, float]:
    """Serve; return the exit code, and when the time to stop is over."""
    server = await serve(app, config=config)
    _trim_heaps()
    closed = asyncio.ensure_future(server.wait_closed())
    with _Signals(server, config.drain_delay + config.timeout_graceful) as signals:
        _log.info(
            "Serving %s at %s with %s on %s (press Ctrl-C to stop)",
            name,
            ", ".join(place_of(sock) for sock in server.sockets),
            counted(server.threads, "thread"),
            machinery,
        )
        forced = asyncio.ensure_future(signals.forced.wait())
        try:
            await asyncio.wait({closed, forced}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Does nothing where the server has stopped. What does not end at once ends with the
            # process.
            server.abort()
            await asyncio.wait({closed}, timeout=_FORCED_TIMEOUT)
            forced.cancel()
            closed.cancel()
    if server.was_cut or signals.forced.is_set():
        on_cut(signals.exit_code)
    return signals.exit_code, signals.deadline


class _Signals:
    """The first signal to stop does so gracefully, the second one now; another one only looks."""

    def __init__(self, server: Server, grace: float) -> None:
        self._server = server
        # How many seconds there are to stop, and when they are over.
        self._grace = grace
        self.deadline = 0.0
        self._previous: dict[signal.Signals, Any] = {}
        self._loop = asyncio.get_running_loop()
        self._thread = forks.this_thread()
        # Set by the second signal.
        self.forced = asyncio.Event()
        self.exit_code = 0

    def __enter__(self) -> "_Signals":
        # Only the main thread is given signals; elsewhere, whoever runs it stops it otherwise.
        if threading.current_thread() is threading.main_thread():
            for number in _STOP_SIGNALS:
                self._handle(number, self._stop)
            for number in _INSPECT_SIGNALS:
                self._handle(number, self._inspect)
            forks.watch(self)
        return self

    def abandon(self) -> None:
        """Give signals their defaults: this is a forked child. See ``bridge.forks``."""
        give_up_signals(self._loop)
        if forks.this_thread() == self._thread:
            # Whoever has forked on the loop's thread must not come back to the loop.
            self._loop.call_soon(forks.leave, None)

    def _handle(self, number: signal.Signals, handler: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        self._previous[number] = signal.getsignal(number)
        try:
            loop.add_signal_handler(number, handler, number)
        except NotImplementedError:  # Windows.
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(handler, number))

    def __exit__(self, *exc_info: object) -> None:
        loop = asyncio.get_running_loop()
        for number, previous in self._previous.items():
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            if previous is not None:  # None: it was not installed from Python.
                signal.signal(number, previous)

    def _inspect(self, number: int) -> None:
        # A warning, because it was asked for: a log level does not silence it.
        _log.warning("Asked by %s: %s", signal.Signals(number).name, self._server.inspect())

    def _stop(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._server.is_serving():
            _log.info("Stopping on %s: finishing requests in flight (again to stop now)", name)
            self.deadline = time.monotonic() + self._grace
            self._server.close()
        else:
            _log.warning("Stopping now on a second %s", name)
            # What a shell reports of a process that a signal ended.
            self.exit_code = 128 + number
            self.deadline = 0.0
            self.forced.set()
