"""What all connections of one server share.

Beside what their streams share (``exchange.resources``), it has what streams may not know of:
timers, the answerer, and the other connections.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..exchange.interfaces import Answerer, ConnectionHandle, Timers
from ..exchange.report import Observers
from ..exchange.resources import Resources
from .deadline import FirstChecks
from .shedding import LoadShedding
from .states import Timeouts


@dataclass(slots=True, kw_only=True)
class Shared:
    """What every connection of a server is given. Changed on the loop thread only."""

    resources: Resources
    timers: Timers
    # What is told how requests end.
    observers: Observers
    # What makes the answers.
    answerer: Answerer
    # Called when a connection is gone.
    on_disconnect: Callable[[], None]
    # All connections, in the order in which they were made: of those that are equally slow, load
    # shedding cuts the oldest one first.
    connections: dict[ConnectionHandle, None]
    shedding: LoadShedding
    timeouts: Timeouts = field(init=False)
    # What checks the deadlines of connections that are new.
    first_checks: FirstChecks = field(init=False)
    # How many were accepted so far.
    accepted: int = 0
    files_being_sent: int = 0
    # No further request is awaited on any connection.
    is_closing: bool = False

    def __post_init__(self) -> None:
        self.timeouts = Timeouts(self.resources.config)
        self.first_checks = FirstChecks(self.timers)
