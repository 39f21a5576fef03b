"""What is told of a request: to the access log, and to people who look. On the loop thread."""

from typing import TYPE_CHECKING

from ..bridge.response import OPEN
from ..observe.access import CLIENT_CLOSED_REQUEST, AccessRecord, Times
from ..observe.inspection import RequestInfo

if TYPE_CHECKING:
    from .exchange import Exchange


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
