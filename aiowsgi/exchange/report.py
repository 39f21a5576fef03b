"""What is told of a request: to the access log, and to people who look. On the loop thread."""

import dataclasses
from typing import TYPE_CHECKING

from ..bridge.pool.jobs import Started
from ..bridge.response import OPEN
from ..observe.access import CLIENT_CLOSED_REQUEST, AccessRecord, Times
from ..observe.inspection import RequestInfo, stacks_of

if TYPE_CHECKING:
    from ..server.site import Site
    from .stream import Exchange


def access_record(exchange: "Exchange", client: str, status: int, now: float) -> AccessRecord:
    """Return what the access log says of a request; ``status`` is 0 if none was sent."""
    fields = dict(exchange.head.section.fields)
    return AccessRecord(
        client,
        exchange.request_line,
        status or CLIENT_CLOSED_REQUEST,
        exchange.encoder.body_size - (0 if exchange.file is None else exchange.file.size),
        fields.get(b"referer", b"").decode("latin-1"),
        fields.get(b"user-agent", b"").decode("latin-1"),
        Times(
            exchange.protocol.accepted_at,
            exchange.head_at,
            exchange.ready_at,
            exchange.started_at,
            exchange.first_byte_at,
            now,
        ),
    )


def request_info(exchange: "Exchange", stacks: dict[int, str], now: float) -> RequestInfo:
    """Return what a request is about right now. ``stacks`` are those of all busy threads."""
    started = None if exchange.job is None else exchange.job.started()
    queue_wait = 0.0
    if exchange.ready_at:
        queue_wait = (now if started is None else started.at) - exchange.ready_at
    thread = stack = ""
    if exchange.job is None:
        phase = "reading"
    elif started is None:
        phase = "queued"
    elif exchange.writer.progress is not OPEN:
        phase = "sending"
    else:
        phase = "blocked" if exchange.blocked else "running"
        thread, stack = started.thread, stacks.get(started.ident, "")
    return RequestInfo(
        phase=phase,
        age=now - exchange.head_at,
        client=exchange.protocol.client_address[0],
        request_id=exchange.request_id,
        method=exchange.head.method,
        target=exchange.head.target,
        queue_wait=queue_wait,
        thread=thread,
        stack=stack,
    )


def requests_in_flight(
    site: "Site", busy: list[tuple[Started, "Exchange | None"]]
) -> list[RequestInfo]:
    """Return the requests in flight, the oldest first, with the stacks of their threads.

    ``busy`` are the threads that are at work, each with what it answers, if it still does.
    """
    stacks = stacks_of(started.ident for started, _ in busy)
    found = (protocol.inspect(stacks) for protocol in site.connections)
    requests = [request for request in found if request is not None]
    known = {request.thread for request in requests}
    # Threads whose client has left, those behind a complete response, and those that
    # timeout_request has given up.
    requests += [
        dataclasses.replace(
            request_info(exchange, stacks, site.clock()),
            phase="finishing",
            thread=started.thread,
            stack=stacks.get(started.ident, ""),
        )
        for started, exchange in busy
        if started.thread not in known and exchange is not None
    ]
    requests.sort(key=lambda request: -request.age)
    return requests
