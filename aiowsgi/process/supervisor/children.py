"""Workers as processes: forked, listened to, signalled and reaped. The supervisor's thin part."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ...config import Config
from ...net.bind import ListeningSocket
from ...observe.scoreboard import Row
from ..worker.assignment import Assignment
from ..worker.messages import Lines, Message

_READ_SIZE = 1 << 16
# Bytes of what faulthandler writes about a worker that are kept.
_MAX_STACKS = 1 << 15
_ALL_SIGNALS = signal.valid_signals()


@dataclass(slots=True, eq=False)
class Child:
    """A worker, as its parent holds it."""

    number: int
    generation: int
    pid: int
    channel: socket.socket
    stacks: int
    lines: Lines = field(default_factory=Lines)
    # What was written about its threads, the beginning of it.
    written: bytearray = field(default_factory=bytearray)
    # Why it could not serve, as it has said: what to print.
    failure: str = ""
    # Why it was killed by the supervisor, if it was.
    verdict: str = ""

    def descriptors(self) -> list[int]:
        """Return what to wait for; what is closed is not among it."""
        found = [self.channel.fileno(), self.stacks]
        return [descriptor for descriptor in found if descriptor >= 0]

    def read(self, descriptor: int) -> list[Message]:
        """Read what is there; return the messages in it. Closes what is at its end."""
        if descriptor == self.stacks:
            self._read_stacks()
            return []
        try:
            data = self.channel.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            self.channel.close()
        return self.lines.feed(data)

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

    def signal(self, number: int) -> None:
        """Send a signal, if it is there. It is until it was reaped, so it is no other process."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)


class Children:
    """All workers of a supervisor, and the lifeline that each of them holds.

    Argument: ``leave()``, called in a forked child: it takes back what is the supervisor's alone.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self._children: dict[int, Child] = {}
        self._held, self._lifeline = os.pipe()

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def __getitem__(self, number: int) -> Child:
        return self._children[number]

    def fork(
        self,
        number: int,
        generation: int,
        path: str,
        config: Config,
        directory: str,
        sockets: tuple[ListeningSocket, ...],
        row: Row | None,
    ) -> Assignment | None:
        """Start a worker. Return what it shall do in the worker itself, and None in its parent.

        Raises OSError where no process can be had.
        """
        ours, theirs = socket.socketpair()
        stacks, writes = os.pipe()
        # A signal that the child gets before it has given up the handlers would reach the parent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
        pid, parent = -1, os.getpid()
        try:
            if (pid := os.fork()) == 0:
                self._leave()
                for child in self:
                    child.close()
                os.close(self._lifeline)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if pid != 0:
                theirs.close()
                os.close(writes)
            if pid <= 0:
                ours.close()
                os.close(stacks)
        if pid == 0:
            return Assignment(
                path=path,
                config=config,
                supervisor=parent,
                row=row,
                directory=directory,
                sockets=sockets,
                channel=theirs,
                lifeline=self._held,
                stacks=writes,
            )
        ours.setblocking(False)
        os.set_blocking(stacks, False)
        self._children[number] = Child(number, generation, pid, ours, stacks)
        return None

    def reap(self) -> Iterator[tuple[Child | None, int, int]]:
        """Yield each process that has ended: the worker if it is one, its number, its status."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            found = [child for child in self if child.pid == pid]
            if found:
                del self._children[found[0].number]
            yield (found[0] if found else None), pid, status
