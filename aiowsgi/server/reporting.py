"""What a server tells its siblings in other processes, through its row on the scoreboard.

The pool tells its load itself (``bridge.pool.reporting_pool``), and who looks after the process,
that its loop runs (``process.worker.worker``). All else is in here, on the loop thread.
"""

import asyncio
import os
import time
from collections.abc import Callable

from ..exchange.resources import Resources
from ..net.accept.silence import Silence
from ..net.accept.turns import Turns
from ..net.bind.listening import ListeningSocket
from ..observe.scoreboard import Row, State


class Reporter:
    """Keeps the row of one server up to date.

    Arguments: the row; what the streams share; ``connections()``, how many there are; and
    ``room()``, for how many more there is room.
    """

    def __init__(
        self,
        row: Row,
        resources: Resources,
        *,
        connections: Callable[[], int],
        room: Callable[[], float],
    ) -> None:
        self._row = row
        self._resources = resources
        self._connections = connections
        self._room = room
        self._silence = Silence(self._note_silence)
        # Whether this is a forked child: the row is its parent's.
        self._is_over = False

    def turn(self, listening: ListeningSocket) -> Callable[[], float] | None:
        """Return what says when connections are left to siblings. See ``Listener``."""
        # On others nobody else accepts.
        return Turns(self._row).pause if listening.inherited else None

    def begin(self) -> None:
        """Say that the server accepts connections."""
        self._row.begin(os.getpid(), queue_size=self._resources.config.queue_size)
        self.note_connections()
        self._row.set_state(State.SERVING)

    def watch(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """Count a connection that was accepted. Return what is connected in place of ``protocol``.

        Until something comes.
        """
        now = time.monotonic_ns()
        self.note_connections()
        self._row.note_accepted(now)
        return self._silence.watch(protocol, now)

    def note_connections(self) -> None:
        """Say how many connections there are."""
        if not self._is_over:
            self._row.note_connections(
                self._connections(),
                has_room=self._room() > 0 and not self._resources.has_broken_listener,
            )

    def _note_silence(self) -> None:
        if not self._is_over:
            self._row.note_silent(self._silence.count)

    def drain(self) -> None:
        """Say that the server is about to end."""
        self._row.set_state(State.DRAINING)

    def abandon(self) -> None:
        """Say nothing more: this is a forked child."""
        self._is_over = True
