"""The parts and the state of a connection, and what is read of them from outside.

Load shedding, inspection and tests read them. What happens on a connection is in ``connection``,
which would be too long for one module with this.
"""

from ..errors import ClientDisconnected
from ..exchange.info import ConnectionInfo
from ..exchange.report import request_info
from ..exchange.resources import Resources
from ..exchange.stream import Stream
from ..exchange.transitions import IllegalEvent
from ..observe.inspection import RequestInfo
from .receiver import Receiver, RequestHandler
from .sender import Sender
from .states import HEAD, IDLE, NEXT, ConnectionEvent, ConnectionState
from .watchdog import Watchdog


class ConnectionView(RequestHandler):
    """What a connection has, and what it says of itself. ``Connection`` adds what it does.

    Arguments: what all streams share; what is known of the connection; and its parts.
    """

    __slots__ = (
        "_disconnect_error",
        "_held",
        "_requests",
        "_resources",
        "_state",
        "_stream",
        "_watchdog",
        "info",
        "receiver",
        "sender",
    )

    def __init__(
        self,
        resources: Resources,
        info: ConnectionInfo,
        receiver: Receiver,
        sender: Sender,
        watchdog: Watchdog,
    ) -> None:
        self._resources = resources
        self.info = info
        self.receiver = receiver
        self.sender = sender
        self._watchdog = watchdog
        self._state = IDLE
        # How many requests have come.
        self._requests = 0
        self._stream: Stream | None = None
        # What the budget counts of what is kept here, in bytes.
        self._held = 0
        # What a running application sees of the end of the connection; None while nothing does.
        self._disconnect_error: ClientDisconnected | None = None

    def _fire(self, event: ConnectionEvent) -> bool:
        """Change the state, here only. Return False for an illegal event."""
        # As in ``Stream.fire``.
        state: int = self._state
        number: int = event
        after = NEXT[state][number]
        if after is not None:
            self._state = after
            return True
        error = IllegalEvent(f"a connection in {self._state.name} got {event.name}")
        self._resources.report_illegal(error, self.abort)
        self.receiver.drop_rest()
        return False

    def _disconnection(self) -> ClientDisconnected:
        """Return what a running application sees of the end: always the same."""
        # Made only where it is needed: most connections end without a stream.
        if self._disconnect_error is None:
            self._disconnect_error = ClientDisconnected("the client closed the connection")
        return self._disconnect_error

    @property
    def state(self) -> ConnectionState:
        """What is read and written."""
        return self._state

    @property
    def stream(self) -> Stream | None:
        """The request that is being received or answered, if there is one."""
        return self._stream

    @property
    def held(self) -> int:
        """How many bytes the budget counts of what is kept here, beside what the stream holds."""
        return self._held

    @property
    def has_arrived(self) -> bool:
        """See ``ConnectionHandle``."""
        return True

    @property
    def idle_since(self) -> float | None:
        """See ``ConnectionHandle``."""
        return self._watchdog.since if self._state is IDLE else None

    @property
    def blocks_thread(self) -> bool:
        """See ``ConnectionHandle``."""
        return bool(self._stream and self._stream.blocks_thread)

    @property
    def holds_memory(self) -> bool:
        """See ``ConnectionHandle``."""
        return self._held > 0 or bool(self._stream and self._stream.held)

    @property
    def holds_spool(self) -> bool:
        """See ``ConnectionHandle``."""
        return self.receiver.spool is not None

    def _is_last(self) -> bool:
        """Return whether the connection ends after the current request."""
        resources, receiver = self._resources, self.receiver
        if 0 < resources.max_keep_alive_requests <= self._requests:
            return True
        # What the client sent before it could know, or before it ended its side, is answered.
        return (resources.is_draining or receiver.eof) and (
            receiver.is_parsing or not receiver.has_begun
        )

    def announce_close(self) -> None:
        """See ``ConnectionHandle``."""
        if self._stream is not None:
            self._stream.is_last = self._is_last()

    def abandon(self, error: ClientDisconnected) -> list[int]:
        """See ``ConnectionHandle``."""
        if self._stream is not None:
            self._stream.abandon(error)
        return self.sender.abandon()

    def rate(self) -> float | None:
        """See ``ConnectionHandle``."""
        return self._watchdog.rate()

    def inspect(self, stacks: dict[int, str]) -> RequestInfo | None:
        """See ``ConnectionHandle``."""
        if self._stream is not None:
            return request_info(self._stream, stacks, self._resources.clock())
        client = self.info.client[0]
        return RequestInfo.reading(self._watchdog.age, client) if self._state is HEAD else None
