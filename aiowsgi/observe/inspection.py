"""What a server is doing now: requests in flight, and the stacks of their threads."""

import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType

from ..wording import counted

# Files whose calls come before the application's on each stack: threads of the library, and ours.
_LIBRARY = os.path.dirname(os.__file__)
_LEADING = (
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ""),
    os.path.join(_LIBRARY, "threading.py"),
    os.path.join(_LIBRARY, "concurrent", ""),
)


def stacks_of(idents: Iterable[int]) -> dict[int, str]:
    """Return the Python stacks of threads, from the application's first call to the innermost one.

    Threads that have ended are left out. A stack without the application is returned in full. Ask
    for all threads at once: in a free-threaded interpreter, each call stops every thread for a
    moment.
    """
    # A snapshot: the threads go on while it is read.
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
    ended) or "finishing" (a thread is still at work, although the client has left, or the response
    is complete or was given up). ``age`` are the seconds since the head was complete, or since the
    first byte of a head that is still arriving. ``thread`` and ``stack`` are empty if no thread is
    at work. ``request_id``, ``method`` and ``target`` are empty until the head is complete.
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
        """Return what is known of a request whose head is still arriving."""
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
    """What a server is doing. ``str()`` returns it as text for people.

    All fields but the last two are numbers: ``connections`` are open, ``idle`` of them have no
    request; ``threads`` may run requests; ``queued`` requests wait for a thread; ``lost`` threads
    have run into ``timeout_request`` and are still running; ``buffered`` bytes are held for
    clients. ``healthy`` is the server's attribute of that name.
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
