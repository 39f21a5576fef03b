"""The loop of a supervisor: it waits, tells the plan what has happened, and does what that says."""

import math
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence

from ...config import Config
from ...errors import ConfigError
from ...net.bind import ListeningSocket, place_of, url_of
from ...observe.loggers import error_log
from ...observe.scoreboard import Row, Scoreboard
from ...wording import counted
from ..identity.pid_file import PidFile
from ..mold.parentage import check_preload
from ..standard_streams import has_terminal
from ..worker.assignment import Assignment
from ..worker.messages import (
    DRAINING,
    FAILED,
    FORKED,
    LOADED,
    READY,
    REPLACED,
    UNFIT,
    UNFORKED,
    WORN,
    Message,
)
from .children import Child, Children
from .cores import usable_cores
from .molds import EndMold, ForkWithout, MakeMold, MoldAction, Molds, Order
from .molds import Phase as MoldPhase
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
from .reports import Reports
from .wakeups import SIGNALS, Wakeups

# Seconds that a worker has beyond its own limits.
_MARGIN = 5.0
# Rows of the scoreboard beside those of all workers and of what replaces them.
_SPARE_ROWS = 64
_LONGEST_WAIT = 3600.0
# Seconds in which a worker that does not answer may write the stacks of its threads.
_TIME_FOR_STACKS = 5.0


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
        self._molds = Molds()
        # What workers are told once they are forked.
        self._late: dict[int, signal.Signals] = {}
        self._reports = Reports(self._plan)
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
            wanted = set[int]() if self._plan.is_ending else self._plan.wanted
            for step in self._molds.decide(wanted):
                if (assignment := self._do_with_mold(step)) is not None:
                    return assignment
            self._wait()

    # What is to be done.

    def _do(self, action: Action) -> int | Assignment | None:
        match action:
            case Start():
                return self._start(action)
            case Stop(number):
                child = self._children.get(number)
                if child is not None and not self._plan.is_ending:
                    child.tell(REPLACED)
                self._signal(number, signal.SIGTERM)
            case StopNow(number):
                self._signal(number, signal.SIGQUIT)
            case Kill(number):
                self._signal(number, signal.SIGKILL)
            case Announce(event):
                self._announce(event)
            case CloseSockets():
                for sock in self._sockets:
                    sock.close()
            case End(exit_code):
                self._children.end_molds()
                return exit_code
        return None

    def _start(self, action: Start) -> Assignment | None:
        if self._served[action.generation][1].preload:
            self._molds.start(action.number, action.generation)
            return None
        return self._fork(action.number, action.generation)

    def _fork(self, number: int, generation: int) -> Assignment | None:
        """Fork a worker that loads the application itself."""
        path, config = self._served[generation]
        row = self._take_row(number, generation)
        try:
            return self._children.fork(
                number, generation, path, config, self._directory, self._sockets, row
            )
        except OSError as error:
            self._fail_to_start(number, error.strerror)
        return None

    def _take_row(self, number: int, generation: int) -> Row | None:
        if (row := self._board.take(generation)) is not None:
            self._rows[number] = row
        return row

    def _fail_to_start(self, number: int, reason: str | None) -> None:
        error_log.error("Cannot start a worker: %s", reason)
        self._lose(number)

    def _lose(self, number: int) -> None:
        """Take note that a worker has ended, or will never begin."""
        self._late.pop(number, None)
        self._children.give_up(number)
        if (row := self._rows.pop(number, None)) is not None:
            row.clear()
        self._plan.died(number, time.monotonic())
        # To decide again at once.
        self._plan.wake_at = time.monotonic()

    def _signal(self, number: int, what: signal.Signals) -> None:
        """Send a signal to a worker, or have it never begin, or once it has begun."""
        child = self._children.get(number)
        if child is None:
            generation = self._plan.members[number].generation
            if self._molds.cancel(number, generation):
                self._lose(number)
                return
            self._late[number] = what
            # If it was told to, and has not done so by now, it never will.
            child = self._children.get(-generation) if what is signal.SIGKILL else None
        if child is not None:
            if what is signal.SIGKILL and not child.verdict:
                child.verdict = "did not end in time, and was killed"
            child.signal(what)

    def _do_with_mold(self, action: MoldAction) -> Assignment | None:
        mold = self._children.get(-action.generation)
        match action:
            case MakeMold(generation):
                path, config = self._served[generation]
                try:
                    return self._children.fork(
                        *(-generation, generation, path, config, self._directory, self._sockets),
                        row=None,
                        board=self._board,
                    )
                except OSError as error:
                    for number in self._molds.ended(generation, time.monotonic()):
                        self._fail_to_start(number, error.strerror)
            case Order(number, generation):
                row = self._take_row(number, generation)
                try:
                    if mold is not None:  # It may have ended a moment ago.
                        self._children.order(number, row, mold)
                except OSError as error:
                    self._molds.answered(number, generation)
                    self._fail_to_start(number, error.strerror)
            case ForkWithout(number, generation):
                return self._fork(number, generation)
            case EndMold() if mold is not None:
                mold.signal(signal.SIGKILL)
        return None

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
        self._served = {number: self._served[number] for number in self._plan.wanted}

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
        wake_at = min(self._plan.wake_at, self._next_heartbeat_check())
        seconds = min(wake_at - time.monotonic(), _LONGEST_WAIT)
        # Rounded up: else it would look too early, again and again.
        for descriptor, _ in poll.poll(max(seconds, 0.0) * 1000 + 1):
            if (owner := owners.get(descriptor)) is not None:
                for message in owner.read(descriptor):
                    self._hear(owner, message)
        for number in self._wakeups.take():
            self._act(number)
        self._reap()
        self._end_the_stuck()

    def _hear(self, child: Child, message: Message) -> None:
        """Take note of what a worker says. Others than these messages mean nothing."""
        now = time.monotonic()
        if child.is_mold:
            self._hear_mold(child, message, now)
            return
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

    def _hear_mold(self, mold: Child, message: Message, now: float) -> None:
        match message:
            case Message(word, (name,)) if word == LOADED:
                error_log.info("Loaded %s, and workers are forked from there", name)
                self._molds.loaded(mold.generation, now)
            case Message(word, (hazards,)) if word == UNFIT:
                self._reports.mold_is_unfit(hazards)
                self._molds.unfit(mold.generation)
            case Message(word, (text,)) if word == FAILED:
                mold.failure = text
            case Message(word, (number, rest)) if word in (FORKED, UNFORKED):
                if number.isdecimal() and self._molds.answered(int(number), mold.generation):
                    self._take(int(number), word, rest)
        # There may be something to do.
        self._plan.wake_at = now

    def _take(self, number: int, word: str, rest: str) -> None:
        """Take a worker over from its mold, which has forked it or cannot."""
        if word == UNFORKED or not rest.isdecimal():
            self._fail_to_start(number, rest)
            return
        self._children.adopt(number, int(rest))
        if (what := self._late.pop(number, None)) is not None:
            self._signal(number, what)

    def _heartbeats(self) -> Iterator[tuple[Child, float]]:
        """Yield each worker that serves, and until when its event loop has to run again."""
        for child in self._children:
            member, row = self._plan.members.get(child.number), self._rows.get(child.number)
            if member is None or member.phase is not Phase.SERVING or row is None:
                continue
            limit = child.timeout
            if limit and (beat := row.read().heartbeat):
                yield child, beat / 1e9 + limit

    def _next_heartbeat_check(self) -> float:
        return min((limit for _, limit in self._heartbeats()), default=math.inf)

    def _end_the_stuck(self) -> None:
        """Have the stacks of workers that do not answer written, which ends them."""
        now = time.monotonic()
        for child, limit in list(self._heartbeats()):
            if now >= limit:
                child.verdict = (
                    f"has not answered for {child.timeout:g} s (--timeout-worker), "
                    "and is killed and replaced"
                )
                child.signal(signal.SIGABRT)
                self._plan.condemn(child.number, now + _TIME_FOR_STACKS)

    def _reap(self) -> None:
        for child, status in self._children.reap():
            for message in child.read_rest():
                self._hear(child, message)
            if child.is_mold:
                self._lose_mold(child, status)
                continue
            row = self._rows.get(child.number)
            self._reports.worker_ended(child, status, [] if row is None else row.requests())
            self._lose(child.number)

    def _lose_mold(self, mold: Child, status: int) -> None:
        was_ready = self._molds.phase(mold.generation) is MoldPhase.READY
        lost = self._molds.ended(mold.generation, time.monotonic())
        if lost or was_ready:
            self._reports.mold_ended(mold, status)
        for number in lost:
            self._lose(number)

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
            if child.is_mold:
                continue
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
            check_preload(config)
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
