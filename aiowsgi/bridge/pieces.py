"""Bytes in the pieces in which they have arrived, for who wants them in others or as a whole."""

from collections import deque

# Smaller pieces are joined when they arrive. A client chooses their size, and many small objects
# take far more memory than their bytes.
_SMALL = 1 << 12


def unsent(pieces: list[bytes], sent: int) -> list[bytes]:
    """Return what is left of pieces of which ``sent`` bytes have gone. Only one is cut up."""
    gone = 0
    for piece in pieces:
        gone += 1  # noqa: SIM113 - enumerate() takes twice as long for one piece
        if sent < len(piece):
            return [piece[sent:] if sent else piece, *pieces[gone:]]
        sent -= len(piece)
    return []


class Pieces:
    """Collects pieces of bytes, first in, first out. Used by one thread at a time."""

    __slots__ = ("_pieces", "_small", "_taken", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] = deque()
        self._small = bytearray()
        # How many bytes of the first piece were taken.
        self._taken = 0
        # In bytes.
        self.size = 0

    def append(self, data: bytes) -> None:
        """Add a piece. A large one is not copied."""
        self.size += len(data)
        if len(data) < _SMALL:
            self._small += data
            return
        self._close_small()
        self._pieces.append(data)

    def take_into(self, buffer: memoryview) -> int:
        """Move as many bytes as there are and fit to a buffer. Return their number."""
        wanted = min(len(buffer), self.size)
        done = 0
        while done < wanted:
            if not self._pieces:
                self._close_small()
            piece, start = self._pieces[0], self._taken
            end = min(len(piece), start + wanted - done)
            with memoryview(piece) as view:
                buffer[done : done + end - start] = view[start:end]
            done += end - start
            if end == len(piece):
                self._pieces.popleft()
                end = 0
            self._taken = end
        self.size -= done
        return done

    def all(self) -> list[bytes | bytearray]:
        """Return all pieces, of which nothing was taken. They are not changed any more."""
        self._close_small()
        return list(self._pieces)

    def _close_small(self) -> None:
        if self._small:
            self._pieces.append(self._small)
            self._small = bytearray()
