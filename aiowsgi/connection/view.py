"""What load shedding, inspection and tests see of a connection. Changes nothing."""

from ..exchange.info import ConnectionInfo
from ..exchange.report import request_info
from ..exchange.resources import Resources
from ..exchange.stream import Stream
from ..observe.inspection import RequestInfo
from .receiver import Receiver
from .sender import Sender
from .states import HEAD, IDLE, ConnectionState
from .watchdog import Watchdog


class ConnectionView:
    """The parts of a connection, and what they say. ``Connection`` adds what happens on it.

    Arguments: what all streams share; what is known of the connection; and its parts.
    """

    __slots__ = (
        "_held",
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
        self._stream: Stream | None = None
        # What the budget counts of what is kept here, in bytes.
        self._held = 0

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
    def idle_since(self) -> float | None:
        """See ``Client``."""
        return self._watchdog.since if self._state is IDLE else None

    @property
    def blocks_thread(self) -> bool:
        """See ``Client``."""
        return bool(self._stream and self._stream.blocks_thread)

    @property
    def holds_memory(self) -> bool:
        """See ``Client``."""
        return self._held > 0 or bool(self._stream and self._stream.held)

    @property
    def holds_spool(self) -> bool:
        """See ``Client``."""
        return self.receiver.spool is not None

    def rate(self) -> float | None:
        """See ``Client``."""
        return self._watchdog.rate()

    def inspect(self, stacks: dict[int, str]) -> RequestInfo | None:
        """See ``Client``."""
        if self._stream is not None:
            return request_info(self._stream, stacks, self._resources.clock())
        client = self.info.client[0]
        return RequestInfo.reading(self._watchdog.age, client) if self._state is HEAD else None
