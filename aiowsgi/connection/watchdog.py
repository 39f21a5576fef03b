"""Whose time is over on one connection: the client's, the application's, or that in the queue."""

import enum
import math
from collections.abc import Callable

from ..callbacks import no_callback
from ..exchange.stream import Exchange
from ..server.site import Site
from .deadline import Deadline
from .pace import FIRST_MOMENTS
from .receiver import Receiver
from .sender import Sender
from .states import ACTIVE, BODY, IDLE, LINGER_TIMEOUT, QUEUED, State

# Less than this many seconds are none: loops round their clocks.
_NOW = 0.001


class Expiry(enum.Enum):
    """What has taken too long."""

    IDLE = "no request has come"
    HEAD = "the request head took too long"
    BODY = "the request body took too long"
    QUEUE = "no thread became free"
    GONE = "no thread became free, and the client has ended its side meanwhile"
    REQUEST = "the application has not answered"
    WRITE = "the client takes nothing of what it is sent"
    LINGER = "the client does not close a connection that is over"


class Clock:
    """Keeps the time of one connection. Everything happens on the loop thread.

    Arguments: the site, both sides of the connection, and ``on_expiry(expiry)``, called when the
    time of a state is over. Which option that is stands in ``states``.
    """

    __slots__ = (
        "_deadline",
        "_exchange",
        "_on_expiry",
        "_receiver",
        "_sender",
        "_site",
        "_state",
        "since",
    )

    def __init__(
        self,
        site: Site,
        receiver: Receiver,
        sender: Sender,
        on_expiry: Callable[[Expiry], None],
    ) -> None:
        self._site = site
        self._receiver = receiver
        self._sender = sender
        self._on_expiry = on_expiry
        self._deadline = Deadline(site.loop, self._look)
        self._state = IDLE
        self._exchange: Exchange | None = None
        # When the connection came into its state, by the site's clock.
        self.since = site.clock()

    @property
    def age(self) -> float:
        """Seconds for which the connection has been in its state."""
        return self._site.clock() - self.since

    def enter(self, state: State, exchange: Exchange | None) -> None:
        """Start the clock of a state, in which there is this exchange."""
        self._state = state
        self._exchange = exchange
        self.since = self._site.clock()
        self._deadline.set(self._site.timeouts[state])
        if state is ACTIVE or state is BODY:
            self.arm()

    def arm(self) -> None:
        """Start the clock of whoever is waited for, now that this may have changed."""
        if self._state is not ACTIVE and self._state is not BODY:
            return
        left = math.inf
        if self._sender.waiting:
            # What the client sends is no progress of what it takes. How it gets on is looked up.
            left = min(self._sender.time_left(), LINGER_TIMEOUT)
        elif self._receiver.waiting:
            left = self._receiver.time_left()
        left = min(left, self._request_time_left())
        self._deadline.set(None if left == math.inf else max(left, 0.0))

    def rate(self) -> float | None:
        """Return the bytes a second that the client moves, if it is waited for."""
        if self._sender.waiting:
            return self._sender.rate()
        match self._state:
            case State.HEAD:
                moved = self._receiver.buffered
            case State.DRAIN:
                moved = self._receiver.dropped
            case State.CLOSING:
                moved = 0  # There is only its end to come.
            case _:
                return self._receiver.rate()
        return moved / self.age if self.age >= FIRST_MOMENTS else None

    def stop(self) -> None:
        """Let go of everything, also of the owner: the connection is gone."""
        self._deadline.cancel()
        self._exchange = None
        self._on_expiry = no_callback

    def _request_time_left(self) -> float:
        """Return the seconds that the application has for the head of its response."""
        exchange, limit = self._exchange, self._site.config.timeout_request
        if not limit or exchange is None or exchange.first_byte_at or exchange.job is None:
            return math.inf
        started = exchange.job.started()
        return math.inf if started is None else started.at + limit - self._site.clock()

    def _look(self) -> None:
        """Tell who is slow from who has had their time."""
        match self._state:
            case State.IDLE | State.DRAIN:
                self._on_expiry(Expiry.IDLE)
            case State.HEAD:
                self._on_expiry(Expiry.HEAD)
            case State.QUEUED:
                self._look_at_queue()
            case State.BODY | State.ACTIVE:
                self._look_at_progress()
            case State.CLOSING if not self._sender.waiting:
                self._on_expiry(Expiry.LINGER)
            case State.CLOSING if self._sender.time_left() <= _NOW:
                self._on_expiry(Expiry.WRITE)
            case State.CLOSING:
                self._deadline.set(LINGER_TIMEOUT)

    def _look_at_queue(self) -> None:
        """Find out whether the request runs by now, or has waited for too long."""
        exchange = self._exchange
        assert exchange is not None  # It is what is queued.
        assert exchange.job is not None
        config = self._site.config
        waited = self._site.clock() - exchange.ready_at + _NOW
        if exchange.job.started() is not None or waited >= config.queue_timeout:
            self._on_expiry(Expiry.QUEUE)
        elif self._receiver.eof and waited >= config.queue_target:
            # It may only have said all it has to say; but most such clients have given up, and
            # others wait.
            self._on_expiry(Expiry.GONE)
        else:
            if waited >= config.queue_target:
                self._site.waits.look(waited)
            self._site.relief.threads()
            self._deadline.set(self._site.timeouts[QUEUED])

    def _look_at_progress(self) -> None:
        if self._request_time_left() <= _NOW:
            self._on_expiry(Expiry.REQUEST)
        elif self._sender.waiting and self._sender.time_left() <= _NOW:
            self._on_expiry(Expiry.WRITE)
        elif (
            not self._sender.waiting
            and self._receiver.waiting
            and self._receiver.time_left() <= _NOW
        ):
            self._on_expiry(Expiry.BODY)
        else:
            self.arm()
            # Somebody has to look while nothing moves. This client may have to go.
            self._site.relief.is_memory_short()
