"""The loop of a supervisor: it waits, tells the plan what has happened, and does what that says."""

import select
import signal
import time
from collections.abc import Callable, Sequence

from ...config import Config
from ...errors import PidFileError
from ...net.bind.listening import ListeningSocket
from ...observe.loggers import error_log
from ...observe.scoreboard import Row, Scoreboard
from ...wording import counted
from ..identity.pid_file import PidFile
from ..identity.title import Title
from ..identity.user import warn_of_root
from ..systemd.notification import Notifier
from ..systemd.supervised import SupervisorReport
from ..upgrade.predecessor import Predecessor
from ..upgrade.upgrade import Upgrade
from ..watch.restarts import Restarts
from ..worker.assignment import Assignment
from ..worker.messages import (
    BROKEN,
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
from . import log
from .children import WATCHER, Child, Children
from .decisions.molds import (
    ANSWER_TIMEOUT,
    EndMold,
    ForkWithout,
    MakeMold,
    MoldAction,
    Molds,
    Order,
)
from .decisions.molds import Phase as MoldPhase
from .decisions.plan import (
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
)
from .generations import Generations, terms
from .heartbeats import Heartbeats
from .operations import Operations
from .reports import Reports, reason_of
from .wakeups import Wakeups

# Rows of the scoreboard beside those of all workers and of what replaces them.
_SPARE_ROWS = 64
_LONGEST_WAIT = 3600.0
# The exit code where the PID file is that of another process by now.
_FAILED = 1


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
        notifier: Notifier,
        read_again: Callable[[], tuple[str, Config]],
        predecessor: Predecessor,
    ) -> None:
        self._directory = directory
        self._sockets = tuple(sockets)
        self._wakeups = wakeups
        self._pid_file = pid_file
        self._generations = Generations(path, config, read_again)
        self._plan = Plan(terms(config), others_serve=predecessor.serves)
        self._children = Children(self._leave)
        workers = self._plan.terms.workers
        self._board = Scoreboard(
            2 * workers + _SPARE_ROWS, config.threads + config.most_spare_threads
        )
        self._rows: dict[int, Row] = {}
        self._molds = Molds()
        # What workers are told once they are forked.
        self._late: dict[int, signal.Signals] = {}
        self._reports = Reports(self._plan)
        self._restarts = Restarts(self._plan)
        if config.reload:
            self._restarts.enable(self._sockets)
        # The application's full name, and the machinery that serves it, as a worker has said.
        self._name, self._machinery = path, ""
        self._heartbeats = Heartbeats(self._plan, self._children, self._rows)
        # What a service manager hears.
        self._service = SupervisorReport(notifier, self._plan, self._rows)
        # The supervisors before this one and after it, while there are two of them.
        self._predecessor = predecessor
        self._upgrade = Upgrade(
            self._plan, self._children, self._sockets, directory, self._service, self._leave
        )
        self._operations = Operations(
            self._plan, self._children, self._generations, self._service, self._upgrade
        )
        self._title = Title(f"supervisor {path}")

    def run(self) -> int | Assignment:
        """Run until the end. See ``supervise``."""
        while True:
            if self._restarts.is_due and (assignment := self._start_watcher()) is not None:
                return assignment
            for action in self._decide():
                if (outcome := self._do(action)) is not None:
                    return outcome
            wanted = set[int]() if self._plan.is_ending else self._plan.wanted
            for step in self._molds.decide(wanted, time.monotonic()):
                if (assignment := self._do_with_mold(step)) is not None:
                    return assignment
            self._title.show(self._plan.state)
            self._wait()

    def _leave(self) -> None:
        """Give up, in a forked child, what is the supervisor's alone."""
        self._wakeups.leave()
        self._service.close()
        self._predecessor.leave()
        self._upgrade.close()

    def _decide(self) -> list[Action]:
        if self._restarts.is_beginning and not self._plan.is_ending:
            return []
        return self._plan.decide(time.monotonic())

    # What is to be done.

    def _do(self, action: Action) -> int | Assignment | None:
        plan = self._plan
        match action:
            case Start():
                return self._start(action)
            case Stop(number):
                child = self._children.get(number)
                is_alone = plan.is_ending or plan.is_restarting
                if child is not None and (plan.others_serve or not is_alone):
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
            case End() if self._upgrade.is_running:
                pass  # It was told to end, too, and has less than forever.
            case End(exit_code):
                self._children.end_others()
                return exit_code
        return None

    def _start(self, action: Start) -> Assignment | None:
        if self._generations[action.generation][1].preload:
            self._molds.start(action.number, action.generation)
            return None
        return self._fork(action.number, action.generation)

    def _fork(self, number: int, generation: int) -> Assignment | None:
        """Fork a worker that loads the application itself."""
        path, config = self._generations[generation]
        row = self._take_row(number, generation)
        try:
            return self._children.fork(
                number, generation, path, config, self._directory, self._sockets, row
            )
        except OSError as error:
            self._fail_to_start(number, reason_of(error))
        return None

    def _start_watcher(self) -> Assignment | None:
        self._restarts.watched()
        generation = self._plan.generation
        path, config = self._generations[generation]
        try:
            return self._children.fork(
                WATCHER, generation, path, config, self._directory, self._sockets, row=None
            )
        except OSError as error:
            self._restarts.failed(error.strerror)
        return None

    def _take_row(self, number: int, generation: int) -> Row | None:
        if (row := self._board.take(generation)) is not None:
            self._rows[number] = row
        return row

    def _fail_to_start(self, number: int, reason: str) -> None:
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
                path, config = self._generations[generation]
                try:
                    return self._children.fork(
                        *(-generation, generation, path, config, self._directory, self._sockets),
                        row=None,
                        board=self._board,
                    )
                except OSError as error:
                    for number in self._molds.ended(generation, time.monotonic()):
                        self._fail_to_start(number, reason_of(error))
            case Order(number, generation):
                row = self._take_row(number, generation)
                try:
                    if mold is not None:  # It may have ended a moment ago.
                        self._children.order(number, row, mold)
                except OSError as error:
                    self._molds.answered(number, generation, time.monotonic())
                    self._fail_to_start(number, reason_of(error))
            case ForkWithout(number, generation):
                return self._fork(number, generation)
            case EndMold() if mold is not None:
                if action.is_stuck:
                    mold.verdict = f"has forked no worker for {ANSWER_TIMEOUT:g} s, and is killed"
                mold.signal(signal.SIGKILL)
        return None

    def _announce(self, event: Event) -> None:
        workers = counted(self._plan.count(Phase.SERVING), "worker")
        match event:
            case Event.STARTED if self._predecessor.serves:
                self._predecessor.say_ready()
                return
            case Event.STARTED if not self._has_written_pid_file():
                return
            case Event.STARTED:
                warn_of_root(self._generations[self._plan.generation][1])
                places = [sock.place for sock in self._sockets]
                error_log.info(
                    "Serving %s at %s with %s of %s (press Ctrl-C to stop)",
                    self._name,
                    ", ".join(places),
                    workers,
                    self._machinery,
                )
            case Event.RESTARTED:
                self._restarts.restarted()
            case Event.RELOADED:
                self._generations.keep(self._plan.wanted)
                seconds = time.monotonic() - self._generations.began
                error_log.info("Reloaded: %s, in %.1f s", workers, seconds)
            case Event.RELOAD_FAILED:
                error_log.error("Not reloaded: still serving with %s of before, see above", workers)
        self._service.announce(event)

    def _has_written_pid_file(self) -> bool:
        """Write it; if that cannot be done, have everything stop, and return False."""
        try:
            self._pid_file.write()
        except PidFileError as error:
            if not self._predecessor.was_there:
                log.write(f"aiowsgi: error: {error}\n")
                self._plan.stop(time.monotonic(), _FAILED)
                # To decide again at once.
                self._plan.wake_at = time.monotonic()
                return False
            # There was another one, whose workers end: to end as well would leave nobody.
            error_log.error("%s", error)
        return True

    # What happens.

    def _hear_predecessor(self) -> None:
        """Take the place of the supervisor before, once that says so; or stop, if it says that."""
        self._predecessor.hear()
        if self._predecessor.says_stop and not self._plan.is_ending:
            error_log.info("Stopping: the supervisor that this one was to replace says so")
            self._plan.stop(time.monotonic(), 0)
        if not self._predecessor.serves:
            self._plan.others_serve = False
            for sock in self._sockets:
                sock.own_file()
            if self._plan.has_started and not self._plan.is_ending:
                self._announce(Event.STARTED)

    def _wait(self) -> None:
        """Wait until something has happened, or the plan wants to look; tell the plan."""
        poll = select.poll()
        poll.register(self._wakeups.fileno(), select.POLLIN)
        owners: dict[int, Child] = {}
        for child in self._children:
            for descriptor in child.descriptors():
                poll.register(descriptor, select.POLLIN)
                owners[descriptor] = child
        for descriptor in (*self._predecessor.descriptors(), *self._upgrade.descriptors()):
            poll.register(descriptor, select.POLLIN)
        looks = self._heartbeats.next_check(), self._upgrade.next_look, self._molds.wake_at
        wake_at = min(self._plan.wake_at, *looks)
        if not self._predecessor.serves:
            wake_at = min(wake_at, self._service.next_look)
        seconds = min(wake_at - time.monotonic(), _LONGEST_WAIT)
        # Rounded up: else it would look too early, again and again.
        for descriptor, _ in poll.poll(max(seconds, 0.0) * 1000 + 1):
            if (owner := owners.get(descriptor)) is not None:
                for message in owner.read(descriptor):
                    self._hear(owner, message)
            elif descriptor in self._predecessor.descriptors():
                self._hear_predecessor()
            elif descriptor in self._upgrade.descriptors():
                self._upgrade.hear()
        for number in self._wakeups.take():
            self._operations.act(number)
        self._reap()
        self._upgrade.look()
        self._heartbeats.look()
        if not self._predecessor.serves:
            self._service.look()

    def _hear(self, child: Child, message: Message) -> None:
        """Take note of what a worker says. Others than these messages mean nothing."""
        now = time.monotonic()
        if child.is_mold:
            self._hear_mold(child, message, now)
            return
        if child.number == WATCHER:
            self._restarts.hear(message)
            return
        match message:
            case Message(word, (name, machinery)) if word == READY:
                self._name, self._machinery = name, machinery
                self._plan.serves(child.number, now)
                error_log.debug("Worker %d serves", child.pid)
            case Message(word, (text,)) if word == FAILED:
                child.failure = text
            case Message(word, (text,)) if word == BROKEN:
                self._restarts.is_broken(text)
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
                if number.isdecimal() and self._molds.answered(int(number), mold.generation, now):
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

    def _reap(self) -> None:
        for child, status in self._children.reap():
            for message in child.read_rest():
                self._hear(child, message)
            if child.is_mold:
                self._lose_mold(child, status)
                continue
            if child.number == WATCHER:
                self._restarts.ended(status)
                continue
            row = self._rows.get(child.number)
            self._reports.worker_ended(child, status, [] if row is None else row.requests())
            self._lose(child.number)

    def _lose_mold(self, mold: Child, status: int) -> None:
        was_ready = self._molds.phase(mold.generation) is MoldPhase.READY
        lost = self._molds.ended(mold.generation, time.monotonic())
        if lost or was_ready:
            self._reports.mold_ended(mold, status, has_lost_workers=bool(lost))
        for number in lost:
            self._lose(number)
