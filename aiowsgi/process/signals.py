"""What each signal does to a process that serves and does nothing else. Not used when embedded.

Signal handlers are installed and removed in this module only.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..bridge import forks
from ..observe.loggers import error_log
from ..server.forked_child import leave_signals
from ..server.server import Server
from ..wsgi.application import describe
from .standard_streams import has_terminal


def _existing(*names: str) -> frozenset[signal.Signals]:
    return frozenset(getattr(signal, name) for name in names if hasattr(signal, name))


# These write what the server is doing to the error log. Other servers give SIGURG no meaning, and a
# process without a handler ignores it. Some systems send SIGINFO for Ctrl-T.
_INSPECT = _existing("SIGURG", "SIGINFO")
# Stops at once, as with gunicorn. It is also what Ctrl-\ in a terminal sends.
_STOP_NOW = _existing("SIGQUIT")
# Of SIGINT, it is not the system's.
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


@dataclass(frozen=True, kw_only=True, slots=True)
class Meanings:
    """What signals mean to a process that serves, beside those that mean the same everywhere."""

    stop: tuple[signal.Signals, ...]
    """they stop it gracefully"""
    stops_now_again: bool
    """whether one of them that comes again stops it now"""
    ignored: frozenset[signal.Signals]
    """they are for another process, and reach this one, too"""
    refused: Mapping[str, str]
    """the reasons why others have no effect here. They mean something to other servers, and without
    a handler they would end the process without a message
    """


ALONE = Meanings(
    stop=(signal.SIGINT, signal.SIGTERM),
    stops_now_again=True,
    ignored=frozenset(),
    refused={
        "SIGHUP": "a single process cannot reload its application; start it again, or start it "
        "with --workers 1: then SIGHUP reloads it",
        "SIGUSR1": "there are no log files to open again: logs go to standard output and error",
        "SIGUSR2": "a single process cannot start its successor; start it with --workers 1: then "
        "SIGUSR2 upgrades it",
    },
)
# The supervisor says when a worker stops. A terminal sends Ctrl-C to both, and a service manager
# SIGTERM, so that the second one is no wish of anybody.
SUPERVISED = Meanings(
    stop=(signal.SIGTERM,),
    stops_now_again=False,
    ignored=_existing("SIGINT", "SIGHUP"),
    refused=dict.fromkeys(
        ("SIGUSR1", "SIGUSR2"), "this is a worker; send it to the supervisor, its parent process"
    ),
)


class Signals:
    """The signal handlers of a process, from its beginning to its end.

    While a server is attached, SIGINT and SIGTERM stop it: the first one gracefully, the second one
    now, unless ``meanings`` says otherwise. While none is attached, ``without_server(number)`` is
    called, between any two instructions of the main thread. If that is None, the signal does what
    it did before ``install``.

    If the application has installed a handler for SIGINT or SIGTERM, it is called when the server
    begins to stop. Other signals that have a handler already are left alone. So are the refused
    ones that are ignored (``nohup`` has SIGHUP ignored).
    """

    def __init__(
        self, meanings: Meanings = ALONE, *, without_server: Callable[[int], None] | None = None
    ) -> None:
        self._meanings = meanings
        self._without_server = without_server or self._pass_on
        # The handlers from before ``install``.
        self._previous: dict[signal.Signals, Any] = {}
        # The application's own handlers for SIGINT and SIGTERM.
        self._chained: dict[signal.Signals, Callable[[int, FrameType | None], object]] = {}
        self._had_terminal = has_terminal()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None
        # Whether there was a server, and is none any more.
        self._has_served = False
        # Called when a signal begins to stop the server.
        self._on_stop: Callable[[], None] = lambda: None
        # The number of the thread that the loop runs on.
        self._thread = 0
        self._handled_by_loop: list[signal.Signals] = []
        # Signals that the loop has yet to act on.
        self._pending: deque[int] = deque()
        # Set when the server is to stop now.
        self.forced = asyncio.Event()
        self.exit_code = 0

    def unblock(self) -> None:
        """Unblock signals that the parent of this process may have blocked."""
        if hasattr(signal, "pthread_sigmask"):
            numbers = {*self._meanings.stop, *_INSPECT, *_STOP_NOW, *self._others()}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def _others(self) -> frozenset[signal.Signals]:
        """Return the signals that do nothing, but would do something without a handler."""
        return self._meanings.ignored | _existing(*self._meanings.refused)

    def install(self) -> None:
        """Install the handlers.

        Called again after the application was imported, it takes back SIGINT and SIGTERM. Does
        nothing on any other thread than the main one, which runs all signal handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        forks.register(self)
        for number in self._meanings.stop:
            found = signal.getsignal(number)
            if found != self._on_signal:
                self._replace(number, found)
                if callable(found) and found is not signal.default_int_handler:
                    self._chained[number] = found
        for number in (*_INSPECT, *_STOP_NOW, *self._others()):
            found = signal.getsignal(number)
            # SIGURG and SIGINFO have no effect by default either, so a parent that ignores them has
            # no reason to. A shell that starts the server in the background ignores SIGQUIT, as it
            # does SIGINT, which is handled too.
            may_replace_ignored = number in _INSPECT or number in _STOP_NOW
            if found in _DEFAULTS or (found is signal.SIG_IGN and may_replace_ignored):
                self._replace(number, found)

    def _replace(self, number: signal.Signals, found: Any) -> None:
        self._previous.setdefault(number, found)
        signal.signal(number, self._on_signal)

    def restore(self) -> None:
        """Put back the handlers from before ``install``."""
        for number, previous in (self._previous | self._chained).items():
            # It is None if it was not installed by Python code, and cannot be put back.
            if previous is not None and signal.getsignal(number) == self._on_signal:
                signal.signal(number, previous)
        self._previous.clear()
        self._chained.clear()

    def abandon(self) -> None:
        """Remove the handlers in a forked child. See ``bridge.forks``."""
        loop, self._loop, self._server = self._loop, None, None
        if loop is not None:
            leave_signals(loop)
            if forks.this_thread() == self._thread:
                # The application has forked on the loop thread. The child must not run the loop.
                loop.call_soon(forks.exit_child, None)
        self._pending.clear()
        self.restore()

    def attach(self, server: Server, on_stop: Callable[[], None] = lambda: None) -> None:
        """Have signals act on ``server`` from now on. Called on its loop's thread.

        ``on_stop()`` is called there when a signal begins to stop it.
        """
        self._loop, self._server, self._on_stop = asyncio.get_running_loop(), server, on_stop
        self._thread = forks.this_thread()
        stop = self._meanings.stop
        ours = [n for n in (*_INSPECT, *stop) if signal.getsignal(n) == self._on_signal]
        # The loop handles one signal itself. That makes it wake up for every signal, whichever
        # thread the system interrupts. It is one that may be lost when the loop ends.
        self._handled_by_loop = ours[:1]
        for number in self._handled_by_loop:
            with contextlib.suppress(NotImplementedError):  # Windows.
                self._loop.add_signal_handler(number, self._act, number)
        for number, handler in self._chained.items():
            error_log.info(
                "%s stops the server, and then calls the application's own handler %s",
                number.name,
                describe(handler),
            )

    def detach(self) -> None:
        """Forget the server. Called on its loop's thread."""
        loop, self._loop, self._server = self._loop, None, None
        assert loop is not None  # It was attached.
        self._has_served = True
        for number in self._handled_by_loop:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, self._on_signal)
        # The loop will not act on these any more.
        while self._pending:
            self._on_signal(self._pending.popleft(), None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            # This interrupts the main thread anywhere, also while it holds a lock. So the loop
            # acts.
            self._pending.append(number)
            self._loop.call_soon_threadsafe(self._act_on_pending)
        elif (
            number in self._meanings.stop
            and self._has_served
            and not self._meanings.stops_now_again
        ):
            pass  # It has stopped, and what is left to do has its time.
        elif number in self._meanings.stop or number in _STOP_NOW:
            self._without_server(number)
        elif reason := self._meanings.refused.get(signal.Signals(number).name):
            _write_to_stderr(f"Ignored {signal.Signals(number).name}: {reason}")

    def _pass_on(self, number: int) -> None:
        self.restore()
        signal.raise_signal(number)

    def _act_on_pending(self) -> None:
        while self._server is not None and self._pending:
            self._act(signal.Signals(self._pending.popleft()))

    def _act(self, number: signal.Signals) -> None:
        """Do what a signal asks for. Called on the loop thread."""
        server, name = self._server, number.name
        assert server is not None  # It is attached.
        if number in _INSPECT:
            # A warning, because it was asked for: a log level does not silence it.
            error_log.warning("Asked by %s: %s", name, server.inspect())
        elif number in _STOP_NOW:
            self._stop_now(number, f"on {name}")
        elif number in self._meanings.ignored:
            pass
        elif number in self._meanings.stop and not server.is_serving():
            if self._meanings.stops_now_again:
                self._stop_now(number, f"on a second {name}")
        elif number in self._meanings.stop or (name == "SIGHUP" and self._is_hung_up()):
            if self._meanings.stops_now_again:
                error_log.info(
                    "Stopping on %s: finishing requests in flight (again to stop now)", name
                )
            else:  # The supervisor has said so, and why.
                error_log.debug("Stopping on %s: finishing requests in flight", name)
            server.close()
            self._on_stop()
            self._call_chained(number)
        elif name == "SIGHUP" and server.renew_certificates(name):
            error_log.warning(
                "Reading the certificates again on SIGHUP, and nothing else: %s",
                self._meanings.refused[name],
            )
        else:
            error_log.warning("Ignored %s: %s", name, self._meanings.refused[name])

    def _is_hung_up(self) -> bool:
        """Return whether the terminal of the process is gone: its window, or the connection to it.

        Then no user can press Ctrl-C any more.
        """
        return self._had_terminal and not has_terminal()

    def _stop_now(self, number: int, reason: str) -> None:
        error_log.log(
            logging.WARNING if self._meanings.stops_now_again else logging.DEBUG,
            "Stopping now %s",
            reason,
        )
        self._on_stop()
        # The exit code that a shell reports for a process that a signal has ended.
        self.exit_code = 128 + number
        self.forced.set()

    def _call_chained(self, number: signal.Signals) -> None:
        handler = self._chained.get(number)
        if handler is None:
            return
        try:
            handler(number, None)
        except (SystemExit, KeyboardInterrupt):
            pass  # It asks for the end of the process, and the server is stopping already.
        except Exception:  # noqa: BLE001 - it must not keep the server from stopping
            error_log.exception("The handler %s of the application failed", describe(handler))


def _write_to_stderr(text: str) -> None:
    """Write a line to standard error, unless that would block. Called in signal handlers.

    A handler cannot use a stream or a logger, because the code that it has interrupted may hold the
    lock of that.
    """
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"aiowsgi: {text}\n".encode())
