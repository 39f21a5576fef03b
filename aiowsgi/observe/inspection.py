"""What a server is doing right now: requests in flight and the stacks of their threads."""

import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType

from ..wording import counted

# What stands before the application on every stack: the threads of the library, and ours.
_LIBRARY = os.path.dirname(os.__file__)
_LEADING = (
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ""),
    os.path.join(_LIBRARY, "threading.py"),
    os.path.join(_LIBRARY, "concurrent", ""),
)


def stacks_of(idents: Iterable[int]) -> dict[int, str]:
    """Return the Python stacks of threads, from the application on, the innermost call last.

    Threads that have ended are left out; a stack without an application is given whole. All are
    looked at in one go: that stops every thread, where they run at the same time.
    """
    # A snapshot: the threads run on while it is read.
    frames = sys._current_frames()
    return {ident: _text_of(frames[ident]) for ident in idents if ident in frames}


def _text_of(frame: FrameType) -> str:
    calls = traceback.extract_stack(frame)
    own = 0
    while own < len(calls) and calls[own].filename.startswith(_LEADING):
        own += 1
    return "".join(traceback.format_list(calls[own:] or calls))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """A request in flight.

    ``phase`` is "reading" (it arrives), "queued" (it waits for a thread), "running", "blocked" (the
    application waits until the client sends or takes something), "sending" (the application has
    ended) or "finishing" (a thread is at work although its client has left, its response is
    complete, or it was given up). ``age`` counts seconds from the whole head, or from the first
    byte while that arrives. ``thread`` and ``stack`` are empty where no thread is at work; id,
    method and target while no head is complete.
    """

    phase: str
    age: float
    client: str
    request_id: str = ""
    method: str = ""
    target: str = ""
    queue_wait: float = 0.0
    thread: str = ""
    stack: str = ""

    @classmethod
    def reading(cls, age: float, client: str) -> "RequestInfo":
        """Return what is known while the head arrives."""
        return cls(phase="reading", age=age, client=client)

    def __str__(self) -> str:
        thread = f" on {self.thread}" if self.thread else ""
        line = f"{self.phase}{thread} for {self.age:.3f} s"
        if self.method:
            line += f": {self.method} {self.target} [{self.request_id}]"
        if self.client:
            line += f" from {self.client}"
        return f"{line}\n{self.stack}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a server is doing. ``str()`` of it is for people.

    ``connections`` are open, ``idle`` of them without a request; ``buffered`` counts the bytes that
    are held for clients; ``lost`` threads were given up by ``timeout_request`` and still run.
    """

    connections: int
    idle: int
    threads: int
    queued: int
    lost: int
    buffered: int
    healthy: bool
    requests: tuple[RequestInfo, ...]

    def __str__(self) -> str:
        summary = (
            f"{counted(len(self.requests), 'request')} in flight, {self.queued} of them queued for "
            f"{counted(self.threads, 'thread')}; {counted(self.connections, 'connection')}, "
            f"{self.idle} of them idle; {counted(self.buffered, 'byte')} buffered"
        )
        if self.lost:
            summary += f"; {counted(self.lost, 'thread')} lost"
        if not self.healthy:
            summary += "; unhealthy"
        return "\n".join([summary, *(str(request) for request in self.requests)])
