"""Reading with h11, which defines what HTTP this server accepts. Only this module imports it."""

import h11

from ...errors import Refusal
from ..request import Field
from .reader import Reader, with_neutral_names

# The limit of h11 for incomplete heads and trailer sections. Our own limits are lower.
_UNLIMITED = 1 << 24


def _fields(section: bytes) -> list[Field]:
    """See ``Reader``."""
    # Each section gets an h11 connection of its own, so that nothing is left over for the next one.
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_UNLIMITED)
    connection.receive_data(with_neutral_names(section))
    request = _next_event(connection)
    assert isinstance(request, h11.Request)  # One complete head was given.
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
