"""The response on its way from a pool thread to the loop thread: a queue bounded in bytes."""

import enum
import threading
from collections.abc import Callable

from ..errors import ApplicationError, ClientDisconnected


class Progress(enum.Enum):
    """What the loop thread finds behind the pieces that it took."""

    OPEN = "more will come"
    FINISHED = "the response is complete"
    ABORTED = "the response cannot be completed"


def _nobody_to_wake() -> None:
    """Take the place of ``wake`` at the end.

    It usually belongs to the owner of the writer: a circle, which would keep both, and all that
    the owner has, until the garbage collector comes by.
    """


class ResponseWriter:
    """A bounded queue of bytes: one pool thread writes, the loop thread takes.

    Arguments: ``wake()`` makes the loop thread call ``take`` soon, and is called on the pool
    thread; ``high_water`` in bytes. A write waits while that much or more is queued, and no single
    piece is larger than that, so that less than twice ``high_water`` is ever queued.
    """

    __slots__ = (
        "_error",
        "_high_water",
        "_lock",
        "_pieces",
        "_progress",
        "_room",
        "_size",
        "_waiting",
        "_wake",
        "_woken",
    )

    def __init__(self, wake: Callable[[], None], *, high_water: int) -> None:
        self._wake = wake
        self._high_water = high_water
        # Protects everything below. Taken by the pool thread to write and by the loop thread to
        # take, each for a few instructions.
        self._lock = threading.Lock()
        # Made when the pool thread first has to wait, which most responses never do.
        self._room: threading.Condition | None = None
        self._pieces: list[bytes | memoryview] = []
        self._size = 0
        self._progress = Progress.OPEN
        self._error: ClientDisconnected | None = None
        self._woken = False
        self._waiting = 0  # Threads that wait for room: one, unless the application has its own.

    def write(self, pieces: list[bytes]) -> None:
        """Queue pieces. Called on a pool thread; blocks above high water.

        Raises ClientDisconnected when nobody is left to send to.
        """
        for piece in pieces:
            if len(piece) <= self._high_water:
                self._put(piece, Progress.OPEN)
            else:
                view = memoryview(piece)
                for start in range(0, len(piece), self._high_water):
                    self._put(view[start : start + self._high_water], Progress.OPEN)

    def check(self) -> None:
        """Raise ClientDisconnected when nobody is left to send to. Called on a pool thread."""
        with self._lock:
            if self._error is not None:
                raise self._error.anew()

    def finish(self, pieces: list[bytes]) -> None:
        """Queue the last pieces; the response is complete. Called on a pool thread; may block.

        Raises ClientDisconnected.
        """
        last = pieces.pop() if pieces and len(pieces[-1]) <= self._high_water else b""
        if pieces:
            self.write(pieces)
        # The last piece and the end travel together: one wake-up for a response in one piece.
        self._put(last, Progress.FINISHED)

    def abort(self) -> None:
        """Give the response up: what is queued is sent, then the connection is cut.

        Called on a pool thread; does not block.
        """
        with self._lock:
            self._progress = Progress.ABORTED
            if self._woken or self._error is not None:
                return
            self._woken = True
        self._wake()

    def _put(self, piece: bytes | memoryview, progress: Progress) -> None:
        with self._lock:
            while piece and self._size >= self._high_water and self._error is None:
                if self._room is None:
                    self._room = threading.Condition(self._lock)
                # The loop thread ends this wait: it takes what is queued when the client has room
                # for it, and disconnects when the client leaves, takes nothing for too long, or
                # the server stops.
                self._waiting += 1
                self._room.wait()
                self._waiting -= 1
            if self._error is not None:
                raise self._error.anew()
            if self._progress is not Progress.OPEN:
                raise ApplicationError("the response is complete; nothing can be written behind it")
            if self._waiting and progress is Progress.FINISHED:
                # Another thread of the application is in the midst of the body.
                progress = Progress.ABORTED
            if piece:
                self._pieces.append(piece)
                self._size += len(piece)
            self._progress = progress
            if self._woken:
                return
            self._woken = True
        try:
            self._wake()
        except BaseException:
            # Nobody was woken: a later write must not count on it.
            with self._lock:
                self._woken = False
            raise

    def take(self) -> tuple[list[bytes | memoryview], Progress]:
        """Return everything that is queued, and what will follow. Called on the loop thread."""
        with self._lock:
            pieces, self._pieces = self._pieces, []
            self._size = 0
            self._woken = False
            if self._room is not None:
                self._room.notify_all()
            if self._progress is not Progress.OPEN:
                self._wake = _nobody_to_wake
            return pieces, self._progress

    def disconnect(self, error: ClientDisconnected) -> None:
        """Drop what is queued and release the pool thread with ``error``.

        Called on the loop thread; every later write raises ``error`` too.
        """
        with self._lock:
            self._error = self._error or error
            self._wake = _nobody_to_wake
            self._pieces = []
            self._size = 0
            if self._room is not None:
                self._room.notify_all()
