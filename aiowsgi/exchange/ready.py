"""A response that is complete from the beginning: one that the loop thread makes itself."""

from ..bridge.source import FINISHED, Progress, Source, Tail


class ReadyResponse(Source):
    """Bytes that are there already. On the loop thread only."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def take(self, limit: int) -> tuple[list[bytes], Progress]:
        """Return everything, whatever the limit: it is small. See ``Source``."""
        del limit
        pieces, self._pieces = self._pieces, []
        return pieces, FINISHED

    def take_tail(self) -> Tail | None:
        """Return None: no file follows."""
        return None

    def resume_direct(self) -> None:
        """Do nothing: no other thread sends."""
