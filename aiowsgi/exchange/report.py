"""What logs and inspection are told of streams. On the loop thread."""

import dataclasses
import logging
from collections.abc import Callable

from ..bridge.pool.jobs import JobThread
from ..bridge.source import OPEN
from ..errors import Refusal
from ..observe import access
from ..observe.access import CLIENT_CLOSED_REQUEST, AccessRecord, Times
from ..observe.inspection import RequestInfo
from ..observe.loggers import access_log
from ..observe.refusals import Refusals
from ..observe.waits import Waits
from .states import ANSWERED
from .stream import Stream


class Observers:
    """The logs and warnings that are told how the requests of one server end.

    Arguments: whether there is an access log, how many threads there are, how many seconds a
    request may wait for one before that is told, the clock, and ``write(record)``, called with each
    access record.
    """

    def __init__(
        self,
        *,
        access_log: bool,
        threads: int,
        queue_target: float,
        clock: Callable[[], float],
        write: Callable[[AccessRecord], None] = access.write,
    ) -> None:
        self.has_access_log = access_log
        self.queue_target = queue_target
        self._clock = clock
        self._write = write
        self.waits = Waits(threads, clock)
        self._refusals = Refusals(clock)

    def note_refusal(self, client: str, request_line: str, refusal: Refusal) -> None:
        """Take note of a request that is refused. See ``Refusals.note``."""
        self._refusals.note(client, request_line, refusal)

    def note_late_start(self, stream: Stream) -> None:
        """Take note of a request that waited for its thread for longer than ``queue_target``."""
        if stream.job is not None:
            self.waits.note(stream.started_at - stream.ready_at)

    def note_end(self, stream: Stream) -> None:
        """Write the access record of a request: its response was sent, or never will be."""
        if self.has_access_log and access_log.isEnabledFor(logging.INFO):
            self._write(access_record(stream, self._clock()))


def access_record(stream: Stream, now: float) -> AccessRecord:
    """Return what the access log says of a request."""
    fields = dict(stream.head.section.fields)
    info, client, peer = stream.info, stream.client, ""
    if stream.head.variables is not None or info.peer is not None:
        host, _ = info.client if info.peer is None else info.peer.client
        if client != host:
            peer = host or "unix"
    return AccessRecord(
        client,
        stream.request_line,
        stream.encoder.status_code or CLIENT_CLOSED_REQUEST,
        stream.encoder.body_size - (0 if stream.file is None else stream.file.size),
        fields.get(b"referer", b"").decode("latin-1"),
        fields.get(b"user-agent", b"").decode("latin-1"),
        Times(
            stream.info.accepted_at,
            stream.head_at,
            stream.ready_at,
            stream.started_at,
            stream.first_byte_at,
            now,
        ),
        peer,
    )


def request_info(stream: Stream, stacks: dict[int, str], now: float) -> RequestInfo:
    """Return what a request is about right now. ``stacks`` are those of all busy threads."""
    started = None if stream.job is None else stream.job.started()
    queue_wait = 0.0
    if stream.ready_at:
        # Without a thread it waited until it was refused.
        end = (stream.first_byte_at or now) if started is None else started.at
        queue_wait = end - stream.ready_at
    thread = stack = ""
    if stream.state is ANSWERED:  # By the loop thread itself.
        phase = "sending"
    elif stream.job is None:
        phase = "reading"
    elif started is None:
        phase = "queued"
    elif stream.writer.progress is not OPEN:
        phase = "sending"
    else:
        phase = "blocked" if stream.blocks_thread else "running"
        thread, stack = started.thread, stacks.get(started.ident, "")
    return RequestInfo(
        phase=phase,
        age=now - stream.head_at,
        client=stream.client,
        request_id=stream.request_id,
        method=stream.head.method,
        target=stream.head.target,
        queue_wait=queue_wait,
        thread=thread,
        stack=stack,
    )


def requests_in_flight(
    requests: list[RequestInfo],
    busy: list[tuple[JobThread, Stream | None]],
    stacks: dict[int, str],
    now: float,
) -> list[RequestInfo]:
    """Return requests in flight, and those of other threads that are busy, the oldest first.

    ``requests`` are those of all connections. ``busy`` are the threads that are at work, each with
    what it answers, if it still does.
    """
    known = {request.thread for request in requests}
    # Threads whose client has left, threads that are still at work after a complete response, and
    # threads that timeout_request has given up.
    left = [
        dataclasses.replace(
            request_info(stream, stacks, now),
            phase="finishing",
            thread=started.thread,
            stack=stacks.get(started.ident, ""),
        )
        for started, stream in busy
        if started.thread not in known and stream is not None
    ]
    return sorted([*requests, *left], key=lambda request: -request.age)
