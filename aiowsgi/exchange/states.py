"""The states of a stream, which is one request and its response, and what changes them.

The documentation shows the same tables, printed.
"""

import enum
from typing import Final

from .transitions import compiled


class StreamState(enum.IntEnum):
    """What becomes of one request.

    The order matters: up to QUEUED, no thread has it as far as the loop thread knows.
    """

    BEGUN = 0
    BODY = 1
    QUEUED = 2
    ACTIVE = 3
    ANSWERED = 4
    ENDED = 5


class StreamEvent(enum.IntEnum):
    """What happens to it."""

    EXPECT_BODY = 0
    DISPATCH = 1
    START = 2
    RESPOND = 3
    SENT = 4
    GIVE_UP = 5


# By these names they are looked up several times faster, which is done many times a request. A name
# that is Final is not looked up at all by compiled modules.
BEGUN: Final = StreamState.BEGUN
BODY: Final = StreamState.BODY
QUEUED: Final = StreamState.QUEUED
ACTIVE: Final = StreamState.ACTIVE
ANSWERED: Final = StreamState.ANSWERED
ENDED: Final = StreamState.ENDED

EXPECT_BODY: Final = StreamEvent.EXPECT_BODY
DISPATCH: Final = StreamEvent.DISPATCH
START: Final = StreamEvent.START
RESPOND: Final = StreamEvent.RESPOND
SENT: Final = StreamEvent.SENT
GIVE_UP: Final = StreamEvent.GIVE_UP

STATE_MEANINGS: dict[StreamState, str] = {
    BEGUN: "the request head is there, and nothing else has happened",
    BODY: "the request body is arriving, and is buffered before the request is answered",
    QUEUED: "the request waits for a thread, as far as the loop thread knows",
    ACTIVE: "the application runs, or what it has answered is sent",
    ANSWERED: "the loop thread has answered, and what is left of that is sent",
    ENDED: "nothing more is sent on this stream",
}
EVENT_MEANINGS: dict[StreamEvent, str] = {
    EXPECT_BODY: "a request body is waited for",
    DISPATCH: "an answerer gets the request, and has another thread answer it",
    START: "that thread has begun, or is the only one that can end the request",
    RESPOND: "the loop thread answers itself",
    SENT: "the response is complete, and the kernel has it",
    GIVE_UP: "the client has gone, or the answer is given up in favour of another one",
}
TRANSITIONS: dict[StreamState, dict[StreamEvent, StreamState]] = {
    BEGUN: {EXPECT_BODY: BODY, DISPATCH: QUEUED, RESPOND: ANSWERED, GIVE_UP: ENDED},
    BODY: {DISPATCH: QUEUED, RESPOND: ANSWERED, GIVE_UP: ENDED},
    # A thread may have answered before the loop thread knows that it has begun.
    QUEUED: {START: ACTIVE, SENT: ENDED, GIVE_UP: ENDED},
    ACTIVE: {SENT: ENDED, GIVE_UP: ENDED},
    ANSWERED: {SENT: ENDED, GIVE_UP: ENDED},
    ENDED: {},
}
NEXT: Final = compiled(StreamState, StreamEvent, TRANSITIONS)
