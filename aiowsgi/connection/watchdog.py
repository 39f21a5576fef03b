"""The timeouts of one connection: of the client, of the application, and of the queue."""

import enum
import math
from collections.abc import Callable

from ..callbacks import no_callback
from ..exchange.states import QUEUED
from ..exchange.stream import Stream
from .deadline import Deadline
from .pace import FIRST_MOMENTS
from .receiver import Receiver
from .sender import Sender
from .shared import Shared
from .states import IDLE, LINGER_TIMEOUT, ConnectionState

# Fewer seconds than this count as none: loops round their clocks.
_NOW = 0.001


class Expiry(enum.Enum):
    """What a check has found when a deadline had passed. The texts are for readers."""

    IDLE = "no request has come"
    HEAD = "the request head takes too long"
    BODY = "the request body takes too long"
    DROPPING = "the rest of a request body that is dropped takes too long"
    STARTED = "a thread has taken the request out of the queue"
    QUEUE = "no thread became free"
    GONE = "no thread became free, and the client has ended its side meanwhile"
    REQUEST = "the application has not answered"
    WRITE = "the client takes nothing of what it is sent"
    LINGER = "the client does not close a connection that is over"


class Watchdog:
    """Keeps the time of one connection. Everything happens on the loop thread.

    It does not ask the connection for its state, but is told what to watch: a connection without a
    stream, or a stream. So it must be told of each change (``watch_connection``, ``watch_stream``).

    Arguments: what connections share, both sides of the connection, and ``on_expiry(expiry)``,
    called when the time of a state is over. ``states`` names the option for each state.
    """

    __slots__ = (
        "_deadline",
        "_now",
        "_on_expiry",
        "_receiver",
        "_sender",
        "_shared",
        "_state",
        "_stream",
        "since",
    )

    def __init__(
        self,
        shared: Shared,
        receiver: Receiver,
        sender: Sender,
        on_expiry: Callable[[Expiry], None],
    ) -> None:
        self._shared = shared
        self._now = shared.resources.clock
        self._receiver = receiver
        self._sender = sender
        self._on_expiry = on_expiry
        self._deadline = Deadline(shared.first_checks, self._now, self._check)
        # What is watched: the stream, or without one the connection in this state.
        self._stream: Stream | None = None
        self._state = IDLE
        # When the connection, or its stream, came into its state, by the clock of the server. Known
        # as soon as it is told what to watch.
        self.since = 0.0

    @property
    def age(self) -> float:
        """Seconds for which the connection, or its stream, has been in its state."""
        return self._now() - self.since

    def watch_connection(self, state: ConnectionState) -> None:
        """Start the time of a connection that has no stream."""
        self._state = state
        self._stream = None
        self.since = now = self._now()
        number: int = state
        seconds = self._shared.timeouts.connection[number]
        # As ``Deadline.set`` does, but without a call: each request comes along here twice.
        deadline = self._deadline
        deadline.at = at = now + seconds
        if at < deadline.timer_at:
            deadline.check_within(seconds, now)

    def watch_stream(self, stream: Stream) -> None:
        """Start the time of a stream in its state."""
        self._stream = stream
        if stream.state is not QUEUED:
            self.since = self._now()
            self._deadline.set(self._shared.timeouts.stream[stream.state], self.since)
            self.rearm()
            return
        self.since = since = stream.ready_at
        # As above.
        seconds = self._shared.timeouts.queued
        deadline = self._deadline
        deadline.at = at = since + seconds
        if at < deadline.timer_at:
            deadline.check_within(seconds, since)

    def rearm(self) -> None:
        """Move the deadline: the client or the application may be waited for now."""
        stream = self._stream
        if stream is None or stream.state is QUEUED:
            return
        left = math.inf
        if self._sender.waits_for_client:
            # No event tells how much the client has taken, so that is checked every few seconds.
            left = min(self._sender.time_left(), LINGER_TIMEOUT)
        elif self._receiver.update_pace():
            left = self._receiver.time_left()
        left = min(left, self._request_time_left(stream))
        self._deadline.set(max(left, 0.0), self._now())

    def rate(self) -> float | None:
        """Return the bytes a second that the client moves, if it is waited for."""
        if self._sender.waits_for_client:
            return self._sender.rate()
        if self._stream is not None:
            return self._receiver.rate()
        match self._state:
            case ConnectionState.HEAD:
                moved = self._receiver.buffered
            case ConnectionState.DROPPING:
                moved = self._receiver.dropped
            case ConnectionState.CLOSING:
                moved = 0  # Only the client's end is to come.
            case _:
                return self._receiver.rate()
        return moved / self.age if self.age >= FIRST_MOMENTS else None

    def stop(self) -> None:
        """Stop all timers, and drop the reference to the connection: it is gone."""
        self._deadline.cancel()
        self._stream = None
        self._on_expiry = no_callback

    def _request_time_left(self, stream: Stream) -> float:
        """Return the seconds that the application has for the head of its response."""
        limit = self._shared.resources.config.timeout_request
        if not limit or stream.first_byte_at or stream.job is None:
            return math.inf
        started = stream.job.started()
        return math.inf if started is None else started.at + limit - self._now()

    def _check(self) -> None:
        """Find out whether the time is over, or what is waited for has made progress."""
        if (stream := self._stream) is not None:
            if stream.state is QUEUED:
                self._check_queue(stream)
            else:
                self._check_progress(stream)
            return
        match self._state:
            case ConnectionState.IDLE:
                self._on_expiry(Expiry.IDLE)
            case ConnectionState.DROPPING:
                self._on_expiry(Expiry.DROPPING)
            case ConnectionState.HEAD:
                self._on_expiry(Expiry.HEAD)
            case ConnectionState.CLOSING if not self._sender.waits_for_client:
                self._on_expiry(Expiry.LINGER)
            case ConnectionState.CLOSING if self._sender.time_left() <= _NOW:
                self._on_expiry(Expiry.WRITE)
            case ConnectionState.CLOSING:
                self._deadline.set(LINGER_TIMEOUT, self._now())

    def _check_queue(self, stream: Stream) -> None:
        """Find out whether the request runs by now, or has waited for too long."""
        assert stream.job is not None  # It is what is queued.
        config = self._shared.resources.config
        waited = self._now() - stream.ready_at + _NOW
        if stream.job.started() is not None:
            self._on_expiry(Expiry.STARTED)
        elif waited >= config.queue_timeout:
            self._on_expiry(Expiry.QUEUE)
        elif self._receiver.eof and waited >= config.queue_target:
            # A client may end its side and still want the answer. But most have given up, and
            # others wait for a thread.
            self._on_expiry(Expiry.GONE)
        else:
            if waited >= config.queue_target:
                self._shared.observers.waits.note_waiting(waited)
            self._shared.shedding.free_threads()
            self._deadline.set(self._shared.timeouts.queued, self._now())

    def _check_progress(self, stream: Stream) -> None:
        if self._request_time_left(stream) <= _NOW:
            self._on_expiry(Expiry.REQUEST)
        elif self._sender.waits_for_client and self._sender.time_left() <= _NOW:
            self._on_expiry(Expiry.WRITE)
        elif (
            not self._sender.waits_for_client
            and self._receiver.update_pace()
            and self._receiver.time_left() <= _NOW
        ):
            self._on_expiry(Expiry.BODY)
        else:
            self.rearm()
            # While nothing moves, no other event leads to this check. It may cut this client.
            self._shared.shedding.free_memory()
