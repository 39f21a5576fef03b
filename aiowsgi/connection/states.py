"""The states of a connection, as a table. The documentation shows the same table, printed.

Each row says which option bounds the state in time, whether bytes are read from the client, what
the end of that time does, and what a shutdown does.
"""

import enum
from typing import NamedTuple

from ..config import Config

# Once a response that ends the connection is out, the client has this many seconds to read it and
# to close (RFC 9112 §9.6): since it last sent something, which is dropped, and in all.
LINGER_TIMEOUT = 2.0
LINGER_TOTAL = 30.0
# A queued request is looked at this often, in seconds: it may run by now, or be kept waiting by
# slow clients.
_QUEUE_LOOK = 0.5


class State(enum.IntEnum):
    IDLE = 0
    HEAD = 1
    BODY = 2
    QUEUED = 3
    ACTIVE = 4
    DRAIN = 5
    CLOSING = 6
    CLOSED = 7


# By these names they are looked up several times faster, which is done many times a request.
IDLE, HEAD, BODY, QUEUED, ACTIVE, DRAIN, CLOSING, CLOSED = State


class Rule(NamedTuple):
    """What holds in a state. ``timeout`` names a field of ``Config``, or a number of seconds."""

    meaning: str
    timeout: str | float | None
    reading: str
    on_timeout: str
    on_shutdown: str


RULES: dict[State, Rule] = {
    State.IDLE: Rule(
        "no byte of a request has arrived", "timeout_keep_alive", "on", "close", "close"
    ),
    State.HEAD: Rule(
        "a request head is arriving", "timeout_header", "on", "408, close", "go on, then close"
    ),
    State.BODY: Rule(
        "a request body is arriving, and is buffered before a thread is taken",
        "timeout_body",
        "on; until the disk is behind, with a spool",
        "408, close; 503 if the disk is waited for",
        "go on, then close",
    ),
    State.QUEUED: Rule(
        "the request waits for a thread",
        "queue_timeout",
        "until the buffers are full",
        "503, close",
        "go on, then close",
    ),
    # Two more clocks run only while the client is waited for: timeout_write and min_response_rate
    # while it has to take something of the response, timeout_body and min_body_rate while a
    # streamed body stays away.
    State.ACTIVE: Rule(
        "the application runs, or what it has answered is sent",
        "timeout_request",
        "until the buffers are full",
        "504, close; while the client is waited for: reset (write), 408 (body)",
        "go on, then close",
    ),
    State.DRAIN: Rule(
        "answered; the rest of the request body is read and dropped",
        "timeout_body",
        "on",
        "close",
        "close",
    ),
    State.CLOSING: Rule(
        "answered; what is buffered is sent, and the client's end is awaited",
        LINGER_TIMEOUT,
        "on, dropped",
        "cut",
        "go on",
    ),
    State.CLOSED: Rule("the transport is gone", None, "off", "", ""),
}


def timeouts(config: Config) -> tuple[float | None, ...]:
    """Return the seconds after which each state is looked at, in the order of the states."""
    seconds: dict[State, float | None] = {
        state: getattr(config, rule.timeout) if isinstance(rule.timeout, str) else rule.timeout
        for state, rule in RULES.items()
    }
    # Who is waited for changes within this state. See ``Clock.arm``.
    seconds[State.ACTIVE] = None
    # The loop thread is not told when a thread takes a request, and looks.
    seconds[State.QUEUED] = min(
        config.queue_timeout, _QUEUE_LOOK, config.timeout_request or _QUEUE_LOOK
    )
    return tuple(seconds[state] for state in State)


def table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| state | meaning | timeout | reading | on timeout | on shutdown |",
        "|---|---|---|---|---|---|",
    ]
    for state, rule in RULES.items():
        match rule.timeout:
            case None:
                timeout = ""
            case str():
                timeout = f"`--{rule.timeout.replace('_', '-')}`"
            case _:
                timeout = f"{rule.timeout:g} s"
        lines.append(
            f"| {state.name} | {rule.meaning} | {timeout} | {rule.reading} "
            f"| {rule.on_timeout} | {rule.on_shutdown} |"
        )
    return "\n".join(lines)
