"""Refusals: answers that the loop makes, and after which the connection ends."""

from ..bridge.locks import make_lock
from ..errors import ForeignProtocol, Refusal
from ..http.request import FieldSection, RequestHead
from ..http.response import status_text
from .info import ConnectionInfo
from .interfaces import Codec
from .ready import ReadyResponse
from .resources import Resources
from .stream import Stream, StreamOwner


def unknown_head(request_line: str, told_client: str) -> RequestHead:
    """Return what stands for the head of a request that could not be understood.

    Of its request line only the method matters (RFC 9110 §9.3.2): HEAD gets no content, refused or
    not. ``told_client`` is whom a web server in front has named as the client, if any.
    """
    section = FieldSection("HTTP/1.1", [], None, None, False, False, False)
    variables = {"REMOTE_ADDR": told_client} if told_client else None
    return RequestHead(request_line.partition(" ")[0], "", "", "", None, section, variables)


def stream_without_head(
    resources: Resources,
    owner: StreamOwner,
    info: ConnectionInfo,
    codec: Codec,
    request_line: str,
    told_client: str,
) -> Stream:
    """Return a stream for a request that is refused before its head is there, or understood.

    For the last two arguments see ``unknown_head``.
    """
    head = unknown_head(request_line, told_client)
    stream = Stream(resources, owner, info, head, codec.encoder(head), make_lock())
    stream.partial_request_line = request_line
    return stream


def respond_with_refusal(stream: Stream, refusal: Refusal) -> None:
    """Answer a request with a 4xx or 5xx. Called on the loop thread. No thread answers it."""
    stream.refusal = refusal
    stream.is_last = True
    if isinstance(refusal, ForeignProtocol):
        stream.respond(refusal.status, (), b"")
        stream.source = ReadyResponse([refusal.answer])
        return
    body = f"{status_text(refusal.status)}: {refusal.reason}\n".encode()
    fields = [("Content-Type", "text/plain; charset=utf-8")]
    if refusal.retry_after is not None:
        fields.append(("Retry-After", str(refusal.retry_after)))
    stream.respond(refusal.status, tuple(fields), body)
