"""Workers as processes: forked, listened to, signalled and reaped. The supervisor's thin part."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ...config import Config
from ...net.bind.listening import ListeningSocket
from ...observe.scoreboard import Row, Scoreboard
from ..worker.assignment import Assignment
from ..worker.messages import FORK, Lines, Message, encode

_READ_SIZE = 1 << 16
# Bytes of what faulthandler writes about a worker that are kept.
_MAX_STACKS = 1 << 15
# Seconds that a process which was killed has to end, and between two looks at it.
_END_TIMEOUT = 2.0
_END_POLL = 0.002
_ALL_SIGNALS = signal.valid_signals()
# The number of the watcher. Workers have positive ones, molds negative ones.
WATCHER = 0


@dataclass(slots=True, eq=False)
class Child:
    """A worker, a mold or the watcher, as its parent holds it."""

    number: int
    """a mold has the number of its generation, negative"""
    generation: int
    pid: int
    channel: socket.socket
    stacks: int
    timeout: float
    """seconds for which its event loop may not run; 0 is no limit"""
    lines: Lines = field(default_factory=Lines)
    # What was written about its threads, the beginning of it.
    written: bytearray = field(default_factory=bytearray)
    # Why it could not serve, as it has said: what to print.
    failure: str = ""
    # Why it was killed by the supervisor, if it was.
    verdict: str = ""

    @property
    def is_mold(self) -> bool:
        """Whether workers are forked from it."""
        return self.number < 0

    def descriptors(self) -> list[int]:
        """Return what to wait for; what is closed is not among it."""
        found = [self.channel.fileno(), self.stacks]
        return [descriptor for descriptor in found if descriptor >= 0]

    def read(self, descriptor: int) -> list[Message]:
        """Read what is there; return the messages in it. Closes what is at its end."""
        if descriptor == self.stacks:
            self._read_stacks()
            return []
        return self.lines.receive(self.channel)

    def _read_stacks(self) -> None:
        try:
            data = os.read(self.stacks, _READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            os.close(self.stacks)
            self.stacks = -1
        self.written += data[: _MAX_STACKS - len(self.written)]

    def read_rest(self) -> Iterator[Message]:
        """Read everything that the process has left behind, and close its descriptors.

        Children of the process may still have the other ends. So this does not wait for their end.
        """
        for _ in range(_MAX_STACKS // _READ_SIZE + 2):
            if self.channel.fileno() >= 0:
                yield from self.read(self.channel.fileno())
            if self.stacks >= 0:
                self._read_stacks()
        self.close()

    def close(self) -> None:
        """Close its descriptors here."""
        self.channel.close()
        if self.stacks >= 0:
            os.close(self.stacks)
            self.stacks = -1

    def tell(self, word: str) -> None:
        """Send a message. It gets lost where nobody reads."""
        with contextlib.suppress(OSError):
            self.channel.send(encode(word))

    def signal(self, number: int) -> None:
        """Send a signal, if it is there. It is until it was reaped, so it is no other process."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)


@dataclass(slots=True)
class _Ends:
    """The supervisor's ends of what connects it with a child."""

    channel: socket.socket
    stacks: int

    @classmethod
    def make(cls) -> "tuple[_Ends, _Ends]":
        """Return the supervisor's ends and those of the child."""
        ours, theirs = socket.socketpair()
        stacks, writes = os.pipe()
        return cls(ours, stacks), cls(theirs, writes)

    def close(self) -> None:
        self.channel.close()
        os.close(self.stacks)


class Children:
    """All child processes of a supervisor, and the lifeline that each of them holds.

    Argument: ``leave()``, called in a forked child: it takes back what is the supervisor's alone.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._children: dict[int, Child] = {}
        # Workers that a mold was told to fork, by their numbers; and how processes have ended that
        # are not known yet, because the mold has not told of them.
        self._ordered: dict[int, tuple[Child, _Ends]] = {}
        self._strangers: dict[int, int] = {}
        # Children of another kind, and how they have ended.
        self._expected: dict[int, int | None] = {}
        self._held, self._lifeline = os.pipe()

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def get(self, number: int) -> Child | None:
        """Return a child by its number; None if it has no process."""
        return self._children.get(number)

    def fork(
        self,
        number: int,
        generation: int,
        path: str,
        config: Config,
        directory: str,
        sockets: tuple[ListeningSocket, ...],
        row: Row | None,
        board: Scoreboard | None = None,
    ) -> Assignment | None:
        """Start a child. Return what it shall do in the process itself, and None here.

        ``board`` is for a mold. Raises OSError where no process can be had.
        """
        ours, theirs = _Ends.make()
        # A signal that the child gets before it has given up the handlers would reach the parent.
        # One that it gets before it has its own would end it, though it may mean nothing to it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
        pid, parent = -1, os.getpid()
        try:
            if (pid := os.fork()) == 0:
                self._leave()
                for child in self:
                    child.close()
                for _, ends in self._ordered.values():
                    ends.close()
                os.close(self._lifeline)
        finally:
            if pid != 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                theirs.close()
            if pid <= 0:
                ours.close()
        if pid == 0:
            return Assignment(
                path=path,
                config=config,
                supervisor=parent,
                row=row,
                directory=directory,
                sockets=sockets,
                channel=theirs.channel,
                lifeline=self._held,
                stacks=theirs.stacks,
                mask=frozenset(before),
                board=board,
                is_watcher=number == WATCHER,
            )
        self._add(number, generation, pid, ours, config.timeout_worker)
        return None

    def _add(self, number: int, generation: int, pid: int, ends: _Ends, timeout: float) -> None:
        ends.channel.setblocking(False)
        os.set_blocking(ends.stacks, False)
        self._children[number] = Child(number, generation, pid, ends.channel, ends.stacks, timeout)

    def order(self, number: int, row: Row | None, mold: Child) -> None:
        """Tell a mold to fork a worker. Raises OSError where it cannot be told."""
        ours, theirs = _Ends.make()
        line = encode(FORK, str(number), str(-1 if row is None else row.number))
        try:
            socket.send_fds(mold.channel, [line], [theirs.channel.fileno(), theirs.stacks])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._ordered[number] = mold, ours

    def adopt(self, number: int, pid: int) -> None:
        """Take note that a mold has forked the worker that it was told to."""
        mold, ours = self._ordered.pop(number)
        self._add(number, mold.generation, pid, ours, mold.timeout)

    def end_others(self) -> None:
        """End what is no worker, at the end of the supervisor. It has nothing to finish."""
        deadline = time.monotonic() + _END_TIMEOUT
        for child in self:
            child.signal(signal.SIGKILL)
        while self._children and time.monotonic() < deadline:
            for child, _ in self.reap():
                child.close()
            time.sleep(_END_POLL)

    def give_up(self, number: int) -> None:
        """Take note that a mold will not fork the worker that it was told to."""
        if number in self._ordered:
            self._ordered.pop(number)[1].close()

    def expect(self, pid: int) -> None:
        """Take note how a child ends that is neither a worker nor a mold."""
        self._expected[pid] = None

    def status_of(self, pid: int) -> int | None:
        """Return how such a child has ended, once; None as long as it has not."""
        status = self._expected[pid]
        if status is not None:
            del self._expected[pid]
        return status

    def reap(self) -> Iterator[tuple[Child, int]]:
        """Yield each child that has ended, and its status.

        Others are processes that have lost their parent. One of them may be a worker of which its
        mold has not told yet; they are kept in mind while that is possible.
        """
        for pid, status in [*self._strangers.items(), *_ended()]:
            self._strangers.pop(pid, None)
            found = [child for child in self if child.pid == pid]
            if found:
                del self._children[found[0].number]
                yield found[0], status
            elif pid in self._expected:
                self._expected[pid] = status
            elif self._ordered:
                self._strangers[pid] = status


def _ended() -> Iterator[tuple[int, int]]:
    """Yield the children that have ended, with their statuses by waitpid(2)."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
