"""Request bodies in temporary files, and the thread that writes them.

Disks may be slow, or hang. Neither the loop thread nor a thread of the application waits for one to
take a body: that is done by one thread of the server's own.
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

# With so many bytes that are not written yet, the client has to wait.
_HIGH_WATER = 1 << 18


def _temporary_file() -> FileIO:
    """Return a file without a name: it is gone with its process, however that ends."""
    # Here, because it takes a MiB with what it imports, and most servers need none.
    import tempfile

    return tempfile.TemporaryFile(buffering=0)


class Spool:
    """One request body on its way into a temporary file. Fed on the loop thread.

    Arguments: who writes it, and ``on_progress()``, called on that thread when it has written
    something, or failed.
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
        # Of the body so far, in bytes.
        self.size = 0
        # Protects everything below. Taken by the loop thread, by the thread that writes and by the
        # one that runs the application, each for a few instructions.
        self._lock = threading.Lock()
        self._on_progress = on_progress
        self._held = 0  # What the spooler's budget counts.
        self._pieces = Pieces()
        self._pending = 0  # Bytes that are not written.
        self._error: Exception | None = None
        self._closed = False
        # Whether the thread that writes has it, or will have; until then the file is not touched by
        # any other.
        self._queued = False
        self._file: FileIO | None = None
        forks.watch(self)

    @property
    def held(self) -> int:
        """How many bytes the spooler's budget counts."""
        with self._lock:
            return self._held

    @property
    def pending(self) -> int:
        """How many bytes are kept in memory."""
        with self._lock:
            return self._pending

    @property
    def full(self) -> bool:
        """Whether the disk has to be waited for before more is read from the client."""
        return self.pending >= _HIGH_WATER

    @property
    def error(self) -> Exception | None:
        """Why the body cannot be kept, if that is so."""
        with self._lock:
            return self._error

    def feed(self, data: bytes) -> None:
        """Take bytes of the body. Called on the loop thread; does not block."""
        self.size += len(data)
        with self._lock:
            self._held = self._spooler.budget.hold(self._held, self.size)
            self._pieces.append(data)
            self._pending += len(data)
            queued, self._queued = self._queued, True
        if not queued:
            try:
                self._spooler.submit(self)
            except RuntimeError as error:  # There is no thread to be had.
                with self._lock:
                    self._error, self._queued = error, False

    def open(self) -> FileIO:
        """Return the file, at its beginning; it is all there. Called on a pool thread."""
        assert self._file is not None  # Something was written.
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Let the file go, also while it is written. Idempotent; called on any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._on_progress = no_callback
            self._held = self._spooler.budget.hold(self._held, 0)
            self._pieces = Pieces()
            self._pending = 0
            queued, self._queued = self._queued, True
        if queued or self._file is None:
            return
        # To remove a large file may take a while, too.
        try:
            self._spooler.submit(self)
        except RuntimeError:  # It is stopped: this is a thread that was left behind.
            self._file.close()

    def abandon(self) -> None:
        """Read nothing in a forked child: what it reads, its parent misses. See ``forks``."""
        if self._file is not None:
            self._file.close()

    def work(self) -> None:
        """Write what has come, or remove the file. Called on the spooler's thread."""
        with self._lock:
            closed, pieces = self._closed, self._pieces
            self._pieces = Pieces()
        error: Exception | None = None
        try:
            if closed:
                if self._file is not None:
                    self._spooler.files -= 1
                    self._file.close()
                return
            self._write(pieces.join())
        except Exception as problem:  # noqa: BLE001 - whatever it is, the body cannot be kept
            error = problem
        with self._lock:
            more = self._closed
            if not more:
                self._pending -= pieces.size
                self._error = self._error or error
                more = self._queued = self._pieces.size > 0 and self._error is None
            on_progress = self._on_progress
        if more:
            self._spooler.go_on(self)
        # Nobody waits for it where the loop is closed.
        with contextlib.suppress(ServerStopped):
            on_progress()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = _temporary_file()
            self._spooler.files += 1
        with memoryview(data) as view:
            written = 0
            while written < len(view):
                written += self._file.write(view[written:])


class Spooler:
    """The thread that writes spools; it begins with the first one.

    ``limit`` bounds the bytes of all spools together; it is their users who look at ``budget``.
    """

    def __init__(self, limit: int) -> None:
        self.budget = Budget(limit)
        # How many are open. Changed on its thread alone; who reads it late errs by a few.
        self.files = 0
        self._queue: queue.SimpleQueue[Spool | None] = queue.SimpleQueue()
        # Protects the thread and the flag: nothing is queued behind the end. Taken by whoever
        # submits, for a few instructions, and while the thread is started.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        # Whether there is no thread any more, or it is about to end.
        self.ended = False
        self._on_stopped: Callable[[], None] = no_callback

    def submit(self, spool: Spool) -> None:
        """Have ``spool.work`` called soon. Called on any thread.

        Raises RuntimeError where it is stopped, or no thread can be started.
        """
        with self._lock:
            if self._stopped:
                raise RuntimeError("the server is stopped")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="aiowsgi-spool", daemon=True)
                thread.start()
                self._thread = thread
            self._queue.put(spool)

    def go_on(self, spool: Spool) -> None:
        """Have ``spool.work`` called again, behind what waits. Called on its thread."""
        self._queue.put(spool)

    def stop(self, on_stopped: Callable[[], None]) -> None:
        """Take no more; ``on_stopped()`` is called, on any thread, once ``ended``.

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
        """Wait for the thread that is about to end, behind ``on_stopped``."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # The flag is looked at without the lock: behind it comes what ends the wait.
        while not self._stopped or not self._queue.empty():
            try:
                if (spool := self._queue.get()) is not None:
                    spool.work()
            except BaseException:  # noqa: BLE001 - also what is raised from outside: others wait
                _log.critical("A request body was lost on its way to the disk", exc_info=True)
        self.ended = True
        self._on_stopped()
