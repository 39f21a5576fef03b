"""What a process gives to its one server, and a server that is embedded has not. Data only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..bridge.pool.jobs import Scheduling
from ..net.bind.listening import ListeningSocket

if TYPE_CHECKING:
    from ..observe.scoreboard import Row  # Loaded only where there is one.


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """The process around a server. Every default is that of a server inside of another program."""

    scheduling: Scheduling | None = None
    """what is done when threads compete for the interpreter"""
    sockets: tuple[ListeningSocket, ...] | None = None
    """what the server accepts on, bound already; None where it binds the addresses of its options.
    The server closes them
    """
    row: "Row | None" = None
    """where the server says what it is doing; None where nobody looks"""
    is_replaced: Callable[[], bool] = lambda: False
    """asked once, on the loop thread, when the server begins to stop: whether other processes go on
    accepting on its sockets; its clients may then ask once more on the connections that they have
    """


EMBEDDED = Surroundings()
