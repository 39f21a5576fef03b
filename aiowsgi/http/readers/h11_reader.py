"""Reading with h11: what defines how this server reads. The only module that imports it."""

import h11

from ...errors import Refusal
from ..request import Field
from .reader import Reader, sealed

# h11 holds incomplete heads and trailer sections against this size. Limits are ours.
_UNLIMITED = 1 << 24


def _fields(section: bytes) -> list[Field]:
    """See ``Reader``."""
    # Each section gets a connection of its own: nothing can be taken for a part of the next one.
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_UNLIMITED)
    connection.receive_data(sealed(section))
    request = _next_event(connection)
    assert isinstance(request, h11.Request)  # It is one whole head.
    return [(name[1:].lower(), value) for name, value in request.headers.raw_items()]


class _ChunkDecoder:
    """See ``reader.ChunkDecoder``."""

    __slots__ = ("_connection", "finished")

    def __init__(self) -> None:
        self.finished = False
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_UNLIMITED)
        self._connection.receive_data(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        _next_event(self._connection)

    def decode(self, piece: bytes) -> bytes:
        self._connection.receive_data(piece)
        event = _next_event(self._connection)
        if isinstance(event, h11.Data):
            return bytes(event.data)
        self.finished = isinstance(event, h11.EndOfMessage)
        return b""


def _next_event(connection: h11.Connection) -> object:
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refusal(error.error_status_hint, str(error)) from error


H11 = Reader("h11", _fields, _ChunkDecoder)
