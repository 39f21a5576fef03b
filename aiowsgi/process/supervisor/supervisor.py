"""The loop of a supervisor: it waits, tells the plan what has happened, and does what that says."""

import os
import select
import signal
import time
from collections.abc import Callable, Sequence

from ...config import Config
from ...errors import ConfigError
from ...net.bind import ListeningSocket, bind_all, place_of, url_of
from ...observe.loggers import FORM_OF_SEVERAL, error_log
from ...observe.scoreboard import RequestReading, Row, Scoreboard
from ...wording import counted
from ..identity.directory import change_directory
from ..identity.pid_file import PidFile
from ..standard_streams import has_terminal
from ..systemd.activation import with_passed_sockets
from ..worker.assignment import Assignment
from ..worker.messages import DRAINING, FAILED, READY, WORN, Message
from . import log
from .children import Child, Children
from .cores import usable_cores
from .deaths import OutOfMemory, describe_status, was_killed
from .plan import (
    Action,
    Announce,
    CloseSockets,
    End,
    Event,
    Kill,
    Phase,
    Plan,
    Start,
    Stop,
    StopNow,
    Terms,
)
from .wakeups import SIGNALS, Wakeups

# Seconds that a worker has beyond its own limits.
_MARGIN = 5.0
# Rows of the scoreboard beside those of all workers and of what replaces them.
_SPARE_ROWS = 64
_LONGEST_WAIT = 3600.0


def supervise(
    path: str, config: Config, read_again: Callable[[], tuple[str, Config]]
) -> int | Assignment:
    """Supervise workers that serve the application that ``path`` names, until a signal.

    ``read_again()`` returns path and options anew, for a reload. Returns the exit code of the
    process; or, in a forked child, what that has to do as a worker. Raises ConfigError before
    anything is started.
    """
    wakeups = Wakeups()
    wakeups.install()
    log.configure(config.log_level, FORM_OF_SEVERAL)
    directory = _start_directory()
    config = with_passed_sockets(config, os.environ)
    change_directory(config.chdir)
    pid_file = PidFile(config.pid_file)
    pid_file.check()
    sockets = bind_all(config.listeners)
    supervisor = Supervisor(path, config, directory, sockets, wakeups, pid_file, read_again)
    outcome = supervisor.run()
    if isinstance(outcome, int):
        pid_file.remove()
    else:
        log.reset()
    return outcome


def _start_directory() -> str:
    """Return the current directory, as the user has named it.

    Links on the way stay links. A new version of an application is often what such a link leads to
    from then on.
    """
    named = os.environ.get("PWD", "")
    try:
        return named if named and os.path.samefile(named, "") else os.getcwd()
    except OSError:
        return ""


class Supervisor:
    """Workers, and what is done to them."""

    def __init__(
        self,
        path: str,
        config: Config,
        directory: str,
        sockets: Sequence[ListeningSocket],
        wakeups: Wakeups,
        pid_file: PidFile,
        read_again: Callable[[], tuple[str, Config]],
    ) -> None:
        self._directory = directory
        self._sockets = tuple(sockets)
        self._wakeups = wakeups
        self._pid_file = pid_file
        self._read_again = read_again
        self._plan = Plan(_terms(config))
        # What each generation serves, that may still be needed.
        self._served: dict[int, tuple[str, Config]] = {1: (path, config)}
        self._children = Children(wakeups.leave)
        workers = self._plan.terms.workers
        self._board = Scoreboard(2 * workers + _SPARE_ROWS, config.threads)
        self._rows: dict[int, Row] = {}
        self._out_of_memory = OutOfMemory()
        # The application's full name, and the machinery that serves it, as a worker has said.
        self._name, self._machinery = path, ""
        self._reload_began = 0.0
        self._had_terminal = has_terminal()

    def run(self) -> int | Assignment:
        """Run until the end. See ``supervise``."""
        while True:
            for action in self._plan.decide(time.monotonic()):
                if (outcome := self._do(action)) is not None:
                    return outcome
            self._wait()

    # What is to be done.

    def _do(self, action: Action) -> int | Assignment | None:
        match action:
            case Start():
                return self._start(action)
            case Stop(number):
                self._children[number].signal(signal.SIGTERM)
            case StopNow(number):
                self._children[number].signal(signal.SIGQUIT)
            case Kill(number):
                self._kill(self._children[number])
            case Announce(event):
                self._announce(event)
            case CloseSockets():
                for sock in self._sockets:
                    sock.close()
            case End(exit_code):
                return exit_code
        return None

    def _start(self, action: Start) -> Assignment | None:
        path, config = self._served[action.generation]
        row = self._board.take(action.generation)
        try:
            assignment = self._children.fork(
                action.number,
                action.generation,
                path=path,
                config=config,
                directory=self._directory,
                sockets=self._sockets,
                row=row,
            )
        except OSError as error:
            error_log.error("Cannot start a worker: %s", error.strerror)
            if row is not None:
                row.clear()
            self._plan.died(action.number, time.monotonic())
            # To decide again at once.
            self._plan.wake_at = time.monotonic()
            return None
        if assignment is None and row is not None:
            self._rows[action.number] = row
        return assignment

    def _kill(self, child: Child) -> None:
        if not child.verdict:
            child.verdict = "did not end in time, and was killed"
        child.signal(signal.SIGKILL)

    def _announce(self, event: Event) -> None:
        workers = counted(self._plan.count(Phase.SERVING), "worker")
        match event:
            case Event.STARTED:
                self._pid_file.write()
                places = [place_of(s.socket, url_of(s.socket, s.protocol)) for s in self._sockets]
                error_log.info(
                    "Serving %s at %s with %s of %s (press Ctrl-C to stop)",
                    self._name,
                    ", ".join(places),
                    workers,
                    self._machinery,
                )
            case Event.RELOADED:
                self._forget_configurations()
                seconds = time.monotonic() - self._reload_began
                error_log.info("Reloaded: %s, in %.1f s", workers, seconds)
            case Event.RELOAD_FAILED:
                error_log.error("Not reloaded: %s of before stay, see above", workers)

    def _forget_configurations(self) -> None:
        self._served = {self._plan.generation: self._served[self._plan.generation]}

    # What happens.

    def _wait(self) -> None:
        """Wait until something has happened, or the plan wants to look; tell the plan."""
        poll = select.poll()
        poll.register(self._wakeups.fileno(), select.POLLIN)
        owners: dict[int, Child] = {}
        for child in self._children:
            for descriptor in child.descriptors():
                poll.register(descriptor, select.POLLIN)
                owners[descriptor] = child
        seconds = min(self._plan.wake_at - time.monotonic(), _LONGEST_WAIT)
        # Rounded up: else it would look too early, again and again.
        for descriptor, _ in poll.poll(max(seconds, 0.0) * 1000 + 1):
            if (owner := owners.get(descriptor)) is not None:
                for message in owner.read(descriptor):
                    self._hear(owner, message)
        for number in self._wakeups.take():
            self._act(number)
        self._reap()

    def _hear(self, child: Child, message: Message) -> None:
        """Take note of what a worker says. Others than these messages mean nothing."""
        now = time.monotonic()
        match message:
            case Message(word, (name, machinery)) if word == READY:
                self._name, self._machinery = name, machinery
                self._plan.serves(child.number, now)
                error_log.debug("Worker %d serves", child.pid)
            case Message(word, (text,)) if word == FAILED:
                child.failure = text
            case Message(word, (reason,)) if word == WORN:
                error_log.info("Worker %d is to be replaced: %s", child.pid, reason)
                self._plan.wears(child.number, reason)
            case Message(word, ()) if word == DRAINING:
                self._plan.leaves(child.number, now)

    def _reap(self) -> None:
        for child, _, status in self._children.reap():
            if child is None:
                continue  # A process that has lost its parent, if this is the first of a container.
            for message in child.read_rest():
                self._hear(child, message)
            row = self._rows.pop(child.number, None)
            requests = [] if row is None else row.requests()
            self._report(child, status, requests)
            if row is not None:
                row.clear()
            self._plan.died(child.number, time.monotonic())

    def _report(self, child: Child, status: int, requests: Sequence[RequestReading]) -> None:
        """Tell how a worker has ended, unless it was told to end and has done so."""
        member = self._plan.members[child.number]
        ended = describe_status(status)
        if member.phase is Phase.STOPPING or self._plan.is_ending:
            if child.verdict:
                error_log.warning("Worker %d %s", child.pid, child.verdict)
            else:
                error_log.debug("Worker %d %s", child.pid, ended)
            return
        if was_killed(status) and self._out_of_memory.has_struck():
            ended += ": the kernel has run out of memory (see memory.max of its cgroup)"
        lines = []
        if requests:
            now = time.monotonic_ns()
            lines.append("It was answering:")
            lines += [f"  {text} (for {(now - began) / 1e9:.1f} s)" for began, text in requests]
        if child.written:
            lines.append(child.written.decode(errors="replace").rstrip())
        details = "".join(f"\n{line}" for line in lines)
        if not self._plan.has_started and member.phase is Phase.STARTING:
            if not child.failure:
                child.failure = f"aiowsgi: error: a worker {ended} before it served{details}\n"
            log.write(child.failure)
        elif child.failure:
            error_log.error("A new worker cannot serve:\n%s", child.failure.rstrip())
        elif member.phase is Phase.STARTING:
            error_log.error("Worker %d %s before it served%s", child.pid, ended, details)
        else:
            served = time.monotonic() - member.serving_since
            error_log.error(
                "Worker %d %s after %.1f s, and is replaced%s", child.pid, ended, served, details
            )

    # Signals.

    def _act(self, number: signal.Signals) -> None:
        now, plan = time.monotonic(), self._plan
        match number:
            case signal.SIGTERM if not plan.is_ending:
                error_log.info(
                    "Stopping on SIGTERM: finishing requests in flight (again to stop now)"
                )
                plan.stop(now, 0)
            case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                again = "a second " if plan.is_ending else ""
                error_log.warning("Stopping now on %s%s", again, number.name)
                plan.stop(now, 128 + number, at_once=True)
            case signal.SIGHUP if self._had_terminal and not has_terminal():
                # Its window is gone, or the connection to it. Nobody can press Ctrl-C any more.
                error_log.info("Stopping on SIGHUP: finishing requests in flight")
                plan.stop(now, 0)
            case signal.SIGHUP:
                self._reload(now)
            case signal.SIGUSR1:
                error_log.warning("Ignored SIGUSR1: logs go to standard output and error")
            case signal.SIGUSR2:
                error_log.warning("Ignored SIGUSR2: start another one, and stop this one")
            case signal.SIGWINCH | signal.SIGCHLD:
                pass
            case signal.SIGTTIN | signal.SIGTTOU:
                workers = plan.resize(1 if number is signal.SIGTTIN else -1)
                error_log.info("%s on %s", counted(workers, "worker"), number.name)
            case _:
                self._tell_state(number)

    def _tell_state(self, number: signal.Signals) -> None:
        """Write what the workers are doing to the log, and have each of them do the same."""
        now, lines = time.monotonic(), []
        for child in self._children:
            member = self._plan.members[child.number]
            age = now - member.started_at
            lines.append(f"  worker {child.pid}: {member.phase.value}, for {age:.0f} s")
            child.signal(number)
        error_log.warning(
            "Asked by %s: %s\n%s\n%s",
            number.name,
            counted(len(lines), "worker"),
            "\n".join(lines),
            SIGNALS,
        )

    def _reload(self, now: float) -> None:
        if self._plan.is_ending:
            return
        error_log.info("Reloading on SIGHUP")
        try:
            path, config = self._read_again()
        except (ConfigError, SystemExit):
            error_log.error("Not reloaded: the options are wrong, see above")
            return
        self._reload_began = now
        self._served[self._plan.reload(_terms(config))] = path, config


def _terms(config: Config) -> Terms:
    workers = usable_cores() if config.workers == "auto" else config.workers
    assert workers is not None  # There would be no supervisor.
    return Terms(
        workers=workers,
        stop_limit=config.drain_delay + config.timeout_graceful + _MARGIN,
        drain_delay=config.drain_delay,
    )
