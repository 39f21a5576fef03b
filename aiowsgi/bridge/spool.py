"""Request bodies in temporary files, and the thread that writes them.

A disk may be slow, or hang. Neither the loop thread nor a pool thread waits until a disk has taken
a body: one thread that the server has for this writes all of them.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from io import FileIO

from ..callbacks import no_callback
from ..errors import ServerStopped
from . import forks
from .budget import Budget
from .pieces import Pieces

_log = logging.getLogger("aiowsgi.error")

# When so many bytes are not written yet, the server stops reading from the client.
_HIGH_WATER = 1 << 18


def _temporary_file() -> FileIO:
    """Return a file without a name, which the system removes at the end of the process."""
    # Imported here: it takes a MiB with its own imports, and most servers do not need it.
    import tempfile

    return tempfile.TemporaryFile(buffering=0)


class Spool:
    """One request body on its way into a temporary file. Fed on the loop thread.

    Arguments: ``spooler``, which writes the body, and ``on_progress()``, called on the spooler's
    thread when it has written something, or has failed.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_error",
        "_file",
        "_held",
        "_lock",
        "_on_progress",
        "_pending",
        "_pieces",
        "_queued",
        "_spooler",
        "size",
    )

    def __init__(self, spooler: "Spooler", on_progress: Callable[[], None]) -> None:
        self._spooler = spooler
        # How many bytes of the body have arrived.
        self.size = 0
        # Protects everything below. Taken by the loop thread, by the spooler's thread and by the
        # pool thread, each for a few instructions.
        self._lock = threading.Lock()
        self._on_progress = on_progress
        self._held = 0  # What the spooler's budget counts.
        self._pieces = Pieces()
        self._pending = 0  # Bytes that are not written yet.
        self._error: Exception | None = None
        self._closed = False
        # Whether this is in the spooler's queue, or at work. Then only the spooler's thread touches
        # the file.
        self._queued = False
        self._file: FileIO | None = None
        forks.register(self)

    @property
    def held(self) -> int:
        """How many bytes the spooler's budget counts."""
        with self._lock:
            return self._held

    @property
    def pending(self) -> int:
        """How many bytes are in memory, because they are not written yet."""
        with self._lock:
            return self._pending

    @property
    def is_full(self) -> bool:
        """Whether reading from the client should pause until the disk has taken more."""
        return self.pending >= _HIGH_WATER

    @property
    def error(self) -> Exception | None:
        """Why the body could not be written; None if no write has failed."""
        with self._lock:
            return self._error

    def feed(self, data: bytes) -> None:
        """Take bytes of the body. Called on the loop thread; does not block."""
        self.size += len(data)
        with self._lock:
            self._held = self._spooler.budget.update(self._held, self.size)
            self._pieces.append(data)
            self._pending += len(data)
            queued, self._queued = self._queued, True
        if not queued:
            try:
                self._spooler.submit(self)
            except RuntimeError as error:  # No thread can be started.
                with self._lock:
                    self._error, self._queued = error, False

    def open(self) -> FileIO:
        """Return the file at its beginning. Called on a pool thread, when all of it is written."""
        assert self._file is not None  # The body is not empty, so something was written.
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Remove the file, also while it is being written. Idempotent; called on any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._on_progress = no_callback
            self._held = self._spooler.budget.update(self._held, 0)
            self._pieces = Pieces()
            self._pending = 0
            queued, self._queued = self._queued, True
        if queued or self._file is None:
            return
        # To remove a large file may take long as well, so the spooler's thread does it.
        try:
            self._spooler.submit(self)
        except RuntimeError:  # The server has stopped, and this thread comes back later than that.
            self._file.close()

    def abandon(self) -> None:
        """Close the file in a forked child, which shares the position in it. See ``forks``."""
        if self._file is not None:
            self._file.close()

    def work(self) -> None:
        """Write what has arrived, or remove the file. Called on the spooler's thread."""
        with self._lock:
            closed, pieces = self._closed, self._pieces
            self._pieces = Pieces()
        error: Exception | None = None
        try:
            if closed:
                if self._file is not None:
                    self._spooler.open_files -= 1
                    self._file.close()
                return
            for piece in pieces.all():
                self._write(piece)
        except Exception as problem:  # noqa: BLE001 - after any error the body is incomplete
            error = problem
        with self._lock:
            more = self._closed
            if not more:
                self._pending -= pieces.size
                self._error = self._error or error
                more = self._queued = self._pieces.size > 0 and self._error is None
            on_progress = self._on_progress
        if more:
            self._spooler.resubmit(self)
        # If the loop is closed, no connection waits for the progress.
        with contextlib.suppress(ServerStopped):
            on_progress()

    def _write(self, data: bytes | bytearray) -> None:
        if self._file is None:
            self._file = _temporary_file()
            self._spooler.open_files += 1
        with memoryview(data) as view:
            written = 0
            while written < len(view):
                written += self._file.write(view[written:])


class Spooler:
    """The thread that writes spools. It is started for the first one.

    ``limit``, in bytes, is for all spools together. The spooler counts them in ``budget``, and its
    users look there before they feed a spool.
    """

    def __init__(self, limit: int) -> None:
        self.budget = Budget(limit)
        # How many files are open. Changed only on the spooler's thread. Other threads read it
        # without a lock: a number that is a moment old is good enough to them.
        self.open_files = 0
        self._queue: queue.SimpleQueue[Spool | None] = queue.SimpleQueue()
        # Protects the thread and ``_stopped``, so that nothing is queued behind the end. Taken by
        # any thread that submits, for a few instructions, and while the thread is started.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        # Whether the thread has ended, is about to end, or was never started.
        self.ended = False
        self._on_stopped: Callable[[], None] = no_callback

    def submit(self, spool: Spool) -> None:
        """Have ``spool.work`` called soon. Called on any thread.

        Raises RuntimeError if the spooler is stopped, or if no thread can be started.
        """
        with self._lock:
            if self._stopped:
                raise RuntimeError("the server is stopped")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="aiowsgi-spool", daemon=True)
                thread.start()
                self._thread = thread
            self._queue.put(spool)

    def resubmit(self, spool: Spool) -> None:
        """Have ``spool.work`` called again, after what is queued. Called on its own thread."""
        self._queue.put(spool)

    def stop(self, on_stopped: Callable[[], None]) -> None:
        """Take no more spools. ``on_stopped()`` is called, on any thread, once ``ended`` is true.

        Does not block.
        """
        with self._lock:
            self._on_stopped = on_stopped
            self._stopped = True
            if self._thread is not None:
                self._queue.put(None)
                return
        self.ended = True
        on_stopped()

    def join(self) -> None:
        """Wait until the thread has ended. Called after ``on_stopped``."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # The flag is read without the lock. After it is set, None is queued, which ends the wait.
        while not self._stopped or not self._queue.empty():
            try:
                if (spool := self._queue.get()) is not None:
                    spool.work()
            except BaseException:  # noqa: BLE001 - also raised from outside: other spools still wait
                _log.critical("A request body was lost on its way to the disk", exc_info=True)
        self.ended = True
        self._on_stopped()
