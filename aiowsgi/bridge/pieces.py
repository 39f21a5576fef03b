"""Bytes that arrive in pieces and are wanted as a whole."""

# Smaller pieces are joined when they arrive. A client chooses their size, and many small objects
# take far more memory than their bytes.
_SMALL = 1 << 12


class Pieces:
    """Collects pieces of bytes. Used by one thread at a time."""

    __slots__ = ("_pieces", "_small", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes | bytearray] = []
        self._small = bytearray()
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

    def join(self) -> bytes:
        """Return everything, in a single copy."""
        self._close_small()
        return b"".join(self._pieces)

    def _close_small(self) -> None:
        if self._small:
            self._pieces.append(self._small)
            self._small = bytearray()
