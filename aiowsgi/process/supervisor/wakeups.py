"""Signals of a supervisor: noted when they come, and acted on by its one loop."""

import contextlib
import os
import signal
from collections import deque
from types import FrameType

# What each means, for people.
SIGNALS = """\
signals to the supervisor of --workers:
  TERM         stop: finish the requests in flight; again to stop now
  INT, QUIT    stop now
  HUP          reload: new workers first, then the old ones finish and end
  TTIN, TTOU   one worker more, one less
  URG          write what the workers are doing to the log
  USR2         upgrade: this command is started again and takes over the sockets
  USR1         nothing, with a warning; WINCH: nothing"""

_NAMES = (
    "SIGTERM",
    "SIGINT",
    "SIGQUIT",
    "SIGHUP",
    "SIGUSR1",
    "SIGUSR2",
    "SIGTTIN",
    "SIGTTOU",
    "SIGWINCH",
    "SIGCHLD",
    "SIGURG",
    "SIGINFO",
)
# These stay ignored where the parent has them ignored: nohup does so with SIGHUP.
_MAY_BE_IGNORED = frozenset({"SIGHUP"})


class Wakeups:
    """The handlers of all signals that a supervisor knows, and a descriptor that they write to.

    The first process of a container needs a handler for each: the kernel drops others.
    """

    def __init__(self) -> None:
        self._pending: deque[signal.Signals] = deque()
        self._read, self._write = os.pipe()
        for descriptor in (self._read, self._write):
            os.set_blocking(descriptor, False)
        self._numbers = [
            getattr(signal, name)
            for name in _NAMES
            if hasattr(signal, name)
            and not (
                name in _MAY_BE_IGNORED
                and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN
            )
        ]

    def install(self) -> None:
        """Note signals from now on, also those that the parent of this process had blocked."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers)

    def leave(self) -> None:
        """Give all of them back, in a forked child. Called while signals are blocked."""
        signal.set_wakeup_fd(-1)
        for number in self._numbers:
            signal.signal(number, signal.SIG_DFL)
        self._pending.clear()
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending.append(signal.Signals(number))

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is a signal."""
        return self._read

    def take(self) -> list[signal.Signals]:
        """Return the signals that have come, in their order."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        taken = []
        while self._pending:
            taken.append(self._pending.popleft())
        return taken
