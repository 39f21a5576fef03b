"""What a forked worker does: load the application, serve it, and say how that goes."""

import asyncio
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from wsgiref.types import WSGIApplication

from ...bridge.pool.jobs import Scheduling
from ...config import Config
from ...errors import ConfigError
from ...net.bind.listening import ListeningSocket
from ...observe.loggers import error_log
from ...server.server import Server
from ...server.surroundings import Surroundings
from ...wording import counted
from .. import logs, standard_streams
from ..beginning import Beginning
from ..ending import end_within, exit_on_signal
from ..hooks.hooks import Hooks
from ..identity.directory import change_directory
from ..identity.pid_file import PidFile
from ..identity.title import Title
from ..identity.user import become_configured
from ..run import load, serve_until_signal
from ..signals import SUPERVISED, Signals
from . import lifeline
from .assignment import Assignment
from .belongings import kept_from_children
from .messages import BROKEN, DRAINING, FAILED, READY, REPLACED, WORN, Channel
from .own_sockets import with_own_sockets
from .wear import Wear

# The exit code of a worker that could not serve. It has said why.
_FAILED = 3
# Seconds between two looks at the server.
_LOOK_INTERVAL = 0.25


def work(assignment: Assignment, explain: Callable[[ConfigError], str]) -> int:
    """Do what the supervisor has forked this process for; return its exit code.

    ``explain(error)`` returns what a person is told when the application cannot be served.
    """
    signals = Signals(SUPERVISED, without_server=exit_on_signal)
    signals.install()
    signal.pthread_sigmask(signal.SIG_SETMASK, assignment.mask)
    faulthandler.enable(assignment.stacks)
    channel = Channel(assignment.channel)
    config = assignment.config
    hooks = Hooks(config)
    title = Title(f"worker {assignment.path}")
    title.show("starting")
    try:
        # Before the process becomes another user, who may not bind a port below 1024.
        assignment = with_own_sockets(assignment)
        with kept_from_children(assignment):
            if assignment.loaded is None:
                change_directory(assignment.directory)
                change_directory(config.chdir)
                become_configured(config)
                # Behind that, because the kernel forgets it where a process becomes another user.
                lifeline.end_with_parent(assignment.supervisor)
                app, name, config = _load(assignment, channel, explain)
            else:
                lifeline.end_with_parent(assignment.supervisor)
                app, name = assignment.loaded
            code = serve_until_signal(
                app,
                config,
                name=name,
                signals=signals,
                is_warm=assignment.loaded is not None,
                beginning=Beginning(PidFile(""), None, None),
                hooks=hooks,
                attendant=Worker(assignment, channel, name, title),
                on_stopped=end_within,
            )
        if not standard_streams.flush(logs.AT_EXIT):
            os._exit(code)
        return code
    except ConfigError as error:
        text = explain(error)
        if not channel.say(FAILED, text):
            error_log.error("%s", text)
    # The application may have started threads before it failed.
    end_within(_FAILED, config.timeout_graceful)
    hooks.end()
    return _FAILED


def _load(
    assignment: Assignment, channel: Channel, explain: Callable[[ConfigError], str]
) -> tuple[WSGIApplication, str, Config]:
    """Return the application, its name, and the options to serve it with.

    With ``reload``, an application that cannot be loaded is replaced by one that explains it.
    """
    if not assignment.config.reload:
        return (*load(assignment.path, assignment.config), assignment.config)
    # Here, because it takes memory.
    from ..watch.loading import load_or_explain

    app, name, config, error = load_or_explain(
        assignment.path, assignment.config, assignment.sockets
    )
    if error is not None:
        channel.say(BROKEN, explain(error))
    return app, name, config


class Worker:
    """Looks after the server of a worker. Implements ``run.Attendant``."""

    def __init__(self, assignment: Assignment, channel: Channel, name: str, title: Title) -> None:
        self._assignment = assignment
        self._channel = channel
        self._name = name
        self._title = title
        self._server: Server | None = None
        self._wear: Wear | None = None
        # What the supervisor was told.
        self._is_worn = self._is_draining = False
        # Whether the supervisor knows of this worker.
        self._is_known = True
        self._timer: asyncio.TimerHandle | None = None

    def surroundings(self, scheduling: Scheduling | None) -> Surroundings:
        """See ``run.Attendant``."""
        return Surroundings(
            scheduling=scheduling,
            # The files of Unix sockets stay the supervisor's.
            sockets=tuple(
                sock
                if sock.reuses_port
                else ListeningSocket(sock.socket, listener=sock.listener, inherited=True)
                for sock in self._assignment.sockets
            ),
            row=self._assignment.row,
            is_replaced=lambda: not self._is_known or self._channel.was_told(REPLACED),
        )

    def begin(self, server: Server, machinery: str) -> None:
        """See ``run.Attendant``."""
        self._server = server
        self._wear = Wear(server, self._assignment.config)
        lifeline.watch(self._assignment.lifeline, self._end_as_orphan)
        # First: siblings leave no connections to one that has not said so.
        self._beat(server)
        threads = counted(server.threads, "thread")
        if not self._channel.say(READY, self._name, f"{threads} on {machinery}"):
            # The mold was killed before it could tell of its fork. Another worker has its place.
            self._is_known = False
            server.close()
        self._look()

    def end(self) -> None:
        """See ``run.Attendant``."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Tell the supervisor what it should know, now and from time to time."""
        assert self._server is not None  # It has begun.
        assert self._wear is not None
        server = self._server
        self._beat(server)
        busy = f"{server.busy_threads}/{server.threads} threads busy"
        if server.is_serving():
            self._title.show(busy)
            if not self._is_worn and (reason := self._wear.reason()):
                self._is_worn = self._channel.say(WORN, reason)
        else:
            self._title.show(f"draining, {busy}")
            if not self._is_draining:
                self._is_draining = True
                self._channel.say(DRAINING)
        self._timer = asyncio.get_running_loop().call_later(_LOOK_INTERVAL, self._look)

    def _beat(self, server: Server) -> None:
        """Say on the scoreboard that the event loop runs, and whether it may go on."""
        if self._assignment.row is not None:
            self._assignment.row.beat(time.monotonic_ns(), healthy=server.healthy)

    def _end_as_orphan(self) -> None:
        """Stop, because nobody would replace this worker. Called on a thread of its own."""
        error_log.error(
            "The supervisor is gone: stopping, with at most %g s for requests in flight",
            lifeline.GRACE,
        )
        assert self._server is not None  # It has begun.
        self._server.close()
