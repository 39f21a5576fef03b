"""The health check: whether a load balancer should send requests here. Needs no thread."""

from collections.abc import Callable

from ..exchange.interfaces import Answerer
from ..exchange.stream import Stream

_FIELDS = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))


class HealthAnswerer(Answerer):
    """Answers one path, and leaves all others to another answerer.

    Arguments: the path, as clients send it; ``is_up()``, whether requests are welcome; and
    what answers other paths.
    """

    def __init__(self, path: str, is_up: Callable[[], bool], otherwise: Answerer) -> None:
        self._path = path
        self._is_up = is_up
        self._otherwise = otherwise

    def answer(self, stream: Stream) -> None:
        """Answer 200 or 503 where the path is that of the health check."""
        if stream.head.path != self._path:
            self._otherwise.answer(stream)
        elif stream.head.method not in ("GET", "HEAD"):
            stream.respond(405, (*_FIELDS, ("Allow", "GET, HEAD")), b"405 Method Not Allowed\n")
        elif self._is_up():
            stream.respond(200, _FIELDS, b"ok\n")
        else:
            stream.respond(503, _FIELDS, b"503 Service Unavailable\n")
