"""The states of a connection, and what leads from one to another.

The documentation shows the same tables, printed. What becomes of a request is not here: a stream
has states of its own (``exchange.states``).
"""

import enum
import math
from typing import Final, NamedTuple

from ..config import Config
from ..exchange.states import StreamState
from ..exchange.transitions import compiled

# Once a response that ends the connection is out, the client has this many seconds to read it and
# to close (RFC 9112 §9.6): since it last sent something, which is dropped, and in all.
LINGER_TIMEOUT = 2.0
LINGER_TOTAL = 30.0
# A queued request is checked this often, in seconds: it may run by now, or be kept waiting by slow
# clients.
_QUEUE_CHECK = 0.5


class ConnectionState(enum.IntEnum):
    """What is read and written on a connection.

    The order matters: from DROPPING on there is no request any more, from CLOSING on none comes.
    """

    IDLE = 0
    HEAD = 1
    BUSY = 2
    DROPPING = 3
    CLOSING = 4
    CLOSED = 5


class ConnectionEvent(enum.IntEnum):
    """What happens on it."""

    BYTES = 0
    REQUEST = 1
    STREAM_END = 2
    STREAM_END_EARLY = 3
    BODY_END = 4
    CLOSE = 5
    LOST = 6


# By these names they are looked up several times faster, as in ``exchange.states``.
IDLE: Final = ConnectionState.IDLE
HEAD: Final = ConnectionState.HEAD
BUSY: Final = ConnectionState.BUSY
DROPPING: Final = ConnectionState.DROPPING
CLOSING: Final = ConnectionState.CLOSING
CLOSED: Final = ConnectionState.CLOSED

BYTES: Final = ConnectionEvent.BYTES
REQUEST: Final = ConnectionEvent.REQUEST
STREAM_END: Final = ConnectionEvent.STREAM_END
STREAM_END_EARLY: Final = ConnectionEvent.STREAM_END_EARLY
BODY_END: Final = ConnectionEvent.BODY_END
CLOSE: Final = ConnectionEvent.CLOSE
LOST: Final = ConnectionEvent.LOST

EVENT_MEANINGS: dict[ConnectionEvent, str] = {
    BYTES: "the first bytes of a request have arrived, and no whole head",
    REQUEST: "a stream begins: a request head is there, or something that is refused",
    STREAM_END: "the stream has ended, and so has its request",
    STREAM_END_EARLY: "the stream has ended, and the rest of the request body is still to come",
    BODY_END: "the rest of the request body has come",
    CLOSE: "nothing more is read, and the connection ends once what is buffered is sent",
    LOST: "the connection is gone",
}
TRANSITIONS: dict[ConnectionState, dict[ConnectionEvent, ConnectionState]] = {
    IDLE: {BYTES: HEAD, REQUEST: BUSY, CLOSE: CLOSING, LOST: CLOSED},
    HEAD: {REQUEST: BUSY, LOST: CLOSED},
    BUSY: {STREAM_END: IDLE, STREAM_END_EARLY: DROPPING, CLOSE: CLOSING, LOST: CLOSED},
    DROPPING: {BODY_END: IDLE, CLOSE: CLOSING, LOST: CLOSED},
    CLOSING: {LOST: CLOSED},
    CLOSED: {},
}
NEXT: Final = compiled(ConnectionState, ConnectionEvent, TRANSITIONS)


class Rule(NamedTuple):
    """What holds in a state. ``timeout`` names a field of ``Config``, or a number of seconds.

    The code runs on ``timeout``. The other texts are for the documentation; what they say is done
    in ``Connection`` and ``Receiver``, and tests go through it state by state.
    """

    meaning: str
    timeout: str | float | None
    reading: str
    on_timeout: str
    on_shutdown: str


# While a connection is BUSY, the rules are those of its stream.
RULES: dict[ConnectionState, Rule] = {
    IDLE: Rule("no byte of a request has arrived", "timeout_keep_alive", "on", "close", "close"),
    HEAD: Rule(
        "a request head is arriving", "timeout_header", "on", "408, close", "go on, then close"
    ),
    DROPPING: Rule(
        "answered; the rest of the request body is read and dropped",
        "timeout_body",
        "on",
        "close",
        "close",
    ),
    CLOSING: Rule(
        "answered; what is buffered is sent, and the client's end is awaited",
        LINGER_TIMEOUT,
        "on, dropped",
        "cut",
        "go on",
    ),
    CLOSED: Rule("the connection is gone", None, "off", "", ""),
}
STREAM_RULES: dict[StreamState, Rule] = {
    StreamState.BODY: Rule(
        "a request body is arriving, and is buffered before a thread is taken",
        "timeout_body",
        "on; until the disk is behind, with a spool",
        "408, close; 503 if the disk is waited for",
        "go on, then close",
    ),
    StreamState.QUEUED: Rule(
        "the request waits for a thread",
        "queue_timeout",
        "until the buffers are full",
        "503, close",
        "go on, then close",
    ),
    # Two more clocks run only while the client is waited for: timeout_write and min_response_rate
    # while it has to take something of the response, timeout_body and min_body_rate while a
    # streamed body stays away.
    StreamState.ACTIVE: Rule(
        "the application runs, or what it has answered is sent",
        "timeout_request",
        "until the buffers are full",
        "504, close; while the client is waited for: reset (write), 408 (body)",
        "go on, then close",
    ),
    StreamState.ANSWERED: Rule(
        "what the loop has answered is sent",
        "timeout_write",
        "until the buffers are full; on, dropped if the request was refused",
        "reset",
        "go on, then close",
    ),
}


def _seconds(rule: Rule | None, config: Config) -> float:
    if rule is None or rule.timeout is None:
        return math.inf
    if isinstance(rule.timeout, str):
        seconds: float = getattr(config, rule.timeout)
        return seconds
    return rule.timeout


class Timeouts:
    """Seconds until a connection is checked, by its state and that of its stream, or infinity."""

    def __init__(self, config: Config) -> None:
        self.connection = tuple(_seconds(RULES.get(state), config) for state in ConnectionState)
        stream = {state: _seconds(STREAM_RULES.get(state), config) for state in StreamState}
        # In these states, what is waited for changes. See ``Watchdog.rearm``.
        stream[StreamState.ACTIVE] = stream[StreamState.ANSWERED] = math.inf
        # The loop thread is not told when a thread takes a request, so it checks.
        self.queued = min(
            config.queue_timeout, _QUEUE_CHECK, config.timeout_request or _QUEUE_CHECK
        )
        stream[StreamState.QUEUED] = self.queued
        self.stream = tuple(stream.values())


def table() -> str:
    """Return the rules as Markdown."""
    lines = [
        "| state | meaning | timeout | reading | on timeout | on shutdown |",
        "|---|---|---|---|---|---|",
    ]
    rules = {state.name: rule for state, rule in RULES.items()}
    streams = {f"BUSY, {state.name}": rule for state, rule in STREAM_RULES.items()}
    # Where BUSY would be.
    for name in [*list(rules)[:BUSY], *streams, *list(rules)[BUSY:]]:
        rule = (rules | streams)[name]
        match rule.timeout:
            case None:
                timeout = ""
            case str():
                timeout = f"`--{rule.timeout.replace('_', '-')}`"
            case _:
                timeout = f"{rule.timeout:g} s"
        lines.append(
            f"| {name} | {rule.meaning} | {timeout} | {rule.reading} "
            f"| {rule.on_timeout} | {rule.on_shutdown} |"
        )
    return "\n".join(lines)
