"""The supervisor before this one, which still serves while this one starts."""

import contextlib
import socket

from ..worker.messages import READY, Lines, encode
from . import STOP, TAKE_OVER

_READ_SIZE = 4096


class Predecessor:
    """What a new supervisor says to the old one, and hears from it.

    ``channel`` is None where there is none: then this supervisor serves alone from the beginning.
    """

    def __init__(self, channel: socket.socket | None) -> None:
        self._channel = channel
        self._lines = Lines()
        self.was_there = channel is not None
        # Whether this supervisor was told to stop, because it came too late, or for another reason.
        self.says_stop = False

    @property
    def serves(self) -> bool:
        """Whether the place is still that of the old one."""
        return self._channel is not None

    def descriptors(self) -> list[int]:
        """Return what to wait for."""
        return [] if self._channel is None else [self._channel.fileno()]

    def say_ready(self) -> None:
        """Say that all workers serve."""
        if self._channel is not None:
            # If nobody reads it, the channel is at its end, which is found out there.
            with contextlib.suppress(OSError):
                self._channel.sendall(encode(READY))

    def hear(self) -> None:
        """Read what it says. Once it says so, or is gone, the place is that of this supervisor."""
        assert self._channel is not None  # There was something to wait for.
        try:
            data = self._channel.recv(_READ_SIZE)
        except InterruptedError:
            return
        except OSError:
            data = b""
        words = [message.word for message in self._lines.feed(data)]
        self.says_stop = self.says_stop or STOP in words
        # If the old one is killed, this one is all that is left.
        if TAKE_OVER in words or not data:
            self.leave()

    def leave(self) -> None:
        """Close the channel, also in a forked child."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
