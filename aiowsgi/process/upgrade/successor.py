"""The successor of a supervisor, as the supervisor holds it: a child that is another program."""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...net.bind.listening import ListeningSocket
from ..worker.messages import FAILED, Lines, Message, encode
from .inheritance import VARIABLE, describe

_ALL_SIGNALS = signal.valid_signals()
# As a shell answers where there is no such command.
_NO_COMMAND = 127


@dataclass(slots=True, eq=False)
class Successor:
    """A process, and the channel to it. It stays a child until it has ended or its parent has.

    It is in the session and the process group of its parent: whoever stops all of these processes
    together, such as a terminal, means this one as well.
    """

    pid: int
    channel: socket.socket
    lines: Lines = field(default_factory=Lines)

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        directory: str,
        environment: Mapping[str, str],
        sockets: Sequence[ListeningSocket],
        leave: Callable[[], None],
    ) -> "Successor":
        """Start it, with these sockets. Raises OSError where no process can be had.

        If the command cannot be run, the process says so. ``leave()`` is called in it, to take back
        signal handlers.
        """
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        # A signal that the child gets before it has given up the handlers would reach the parent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
        try:
            if (pid := os.fork()) == 0:
                try:
                    leave()
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
                    for descriptor in (theirs.fileno(), *(s.socket.fileno() for s in sockets)):
                        os.set_inheritable(descriptor, True)
                    if directory:
                        os.chdir(directory)
                    given = describe(sockets, theirs.fileno(), parent)
                    os.execvpe(command[0], list(command), {**environment, VARIABLE: given})
                except OSError as error:
                    reason = f"{error.filename or command[0]}: {error.strerror}"
                    theirs.sendall(encode(FAILED, reason))
                finally:
                    os._exit(_NO_COMMAND)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        ours.setblocking(False)
        return cls(pid, ours)

    def read(self) -> list[Message]:
        """Return the messages that have come. Closes the channel at its end."""
        return self.lines.receive(self.channel)

    def tell(self, word: str) -> bool:
        """Send a message; return False where nobody is there any more."""
        try:
            self.channel.sendall(encode(word))
        except OSError:
            return False
        return True

    def signal(self, number: int) -> None:
        """Send a signal, if it is there. It is until it was reaped, so it is no other process."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)
