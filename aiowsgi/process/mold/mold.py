"""What a mold does: load the application, look what a fork would break, and fork workers."""

import dataclasses
import faulthandler
import gc
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import NamedTuple

from ...config import Config
from ...errors import ConfigError
from ...observe.loggers import FORM_OF_SEVERAL, error_log
from .. import standard_streams
from ..ending import end_within, exit_on_signal
from ..identity.directory import change_directory
from ..identity.title import Title
from ..identity.user import become_configured
from ..own_requests.warm_up import warm_up
from ..run import load, trim_heaps
from ..signals import SUPERVISED, Signals
from ..supervisor import log
from ..supervisor.reports import reason_of
from ..worker import lifeline
from ..worker.assignment import Assignment, Loaded
from ..worker.belongings import kept_from_children
from ..worker.messages import FAILED, FORK, FORKED, LOADED, UNFIT, UNFORKED, Channel, Lines, Message
from .hazards import Possessions
from .origins import Origins
from .parentage import fork_grandchild

_READ_SIZE = 4096
# The channel of a worker to its supervisor, and the pipe for stacks.
_PASSED = 2
_FAILED = 3


class _Order(NamedTuple):
    """A worker that the supervisor asks for."""

    number: str
    row: int
    channel: int
    stacks: int


def cast(assignment: Assignment, explain: Callable[[ConfigError], str]) -> int | Assignment:
    """Load the application once, and fork workers as the supervisor asks for them.

    Return the exit code of this process; or, in a forked worker, what that has to do. ``explain``
    is as in ``worker.work``.
    """
    signals = Signals(SUPERVISED, without_server=exit_on_signal)
    signals.install()
    signal.pthread_sigmask(signal.SIG_SETMASK, assignment.mask)
    faulthandler.enable(assignment.stacks)
    channel = Channel(assignment.channel)
    config = assignment.config
    title = Title(f"mold {assignment.path}")
    title.show("loading")
    # Without a thread, which no fork would take along.
    log.configure(config.log_level, FORM_OF_SEVERAL)
    try:
        change_directory(assignment.directory)
        change_directory(config.chdir)
        become_configured(config)
        # Behind that, because the kernel forgets it where a process becomes another user.
        lifeline.end_with_parent(assignment.supervisor)
        before = Possessions()
        with kept_from_children(assignment), Origins() as origins:
            loaded = _load(assignment.path, config)
        hazards = before.hazards(origins)
    except ConfigError as error:
        text = explain(error)
        if not channel.say(FAILED, text):
            error_log.error("%s", text)
        end_within(_FAILED, config.timeout_graceful)
        return _FAILED
    if hazards:
        channel.say(UNFIT, "\n".join(map(str, hazards)))
        # As any process of the application ends: with its threads, and with what it does at exit.
        end_within(0, config.timeout_graceful)
        return 0
    _share_memory()
    if not channel.say(LOADED, loaded.name):
        os._exit(0)
    title.show("ready")
    return Mold(assignment, channel, loaded).serve()


def _load(path: str, config: Config) -> Loaded:
    app, name = load(path, config)
    warm_up(app, config, multiprocess=True)
    return Loaded(app, name)


def _share_memory() -> None:
    """Prepare the memory for forks: a page is shared as long as no process writes to it."""
    # What is still buffered, each of the workers would write.
    standard_streams.flush_now()
    gc.collect()
    trim_heaps()
    # The collector writes to each object that it looks at. It leaves these alone.
    gc.freeze()


class Mold:
    """Forks workers on demand."""

    def __init__(self, assignment: Assignment, channel: Channel, loaded: Loaded) -> None:
        self._assignment = assignment
        self._channel = channel
        self._loaded = loaded
        self._lines = Lines()

    def serve(self) -> Assignment:
        """Fork workers until the supervisor is gone or closes the channel.

        Returns in a worker only: what the application would do at the exit of its process is for
        the workers to do, with what they share.
        """
        assignment, sock = self._assignment, self._assignment.channel
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(assignment.lifeline, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if assignment.lifeline in ready:
                os._exit(0)
            for order in self._orders(sock):
                if (worker := self._fork(order)) is not None:
                    return worker

    def _orders(self, sock: socket.socket) -> list[_Order]:
        """Read what the supervisor asks for. Ends the process if it asks for nothing any more."""
        try:
            data, descriptors, _, _ = socket.recv_fds(sock, _READ_SIZE, _PASSED)
        except OSError:
            os._exit(0)
        if not data:
            os._exit(0)
        # The kernel ends a read behind the bytes that descriptors came with.
        messages = self._lines.feed(data)
        match messages, descriptors:
            case [Message(word, (number, row))], [channel, stacks] if word == FORK:
                for descriptor in descriptors:
                    os.set_inheritable(descriptor, False)
                return [_Order(number, int(row), channel, stacks)]
        return []

    def _fork(self, order: _Order) -> Assignment | None:
        """Fork a worker. Return what it has to do in itself, and None in the mold."""
        # As the supervisor does: the worker has no handlers of its own yet.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = -1
        try:
            pid = fork_grandchild()
        except OSError as error:
            self._channel.say(UNFORKED, order.number, reason_of(error))
        finally:
            if pid != 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if pid == 0:
            return self._become_worker(order)
        os.close(order.channel)
        os.close(order.stacks)
        if pid > 0:
            self._channel.say(FORKED, order.number, str(pid))
        return None

    def _become_worker(self, order: _Order) -> Assignment:
        assignment, board = self._assignment, self._assignment.board
        assert board is not None  # A mold has one.
        log.reset()
        assignment.channel.close()
        os.dup2(order.stacks, assignment.stacks, inheritable=False)
        os.close(order.stacks)
        return dataclasses.replace(
            assignment,
            row=board.row(order.row) if order.row >= 0 else None,
            channel=socket.socket(fileno=order.channel),
            board=None,
            loaded=self._loaded,
        )
