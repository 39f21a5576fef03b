"""Log lines on their way to a stream: a bounded queue, and a thread that writes.

A thread that logs only puts a line into the queue. If the reader of the stream is slow, stuck or
gone, only the writing thread waits for it: not the event loop, not a pool thread, and not the end
of the process.
"""

import contextlib
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from ..bridge import forks
from ..wording import counted

# The limits of the queue. Lines beyond them are dropped.
_MAX_BYTES = 4 << 20
_MAX_LINES = 50_000
# So many bytes are written at a time, or one longer line. Few, so that the writer notices whether a
# slow reader still reads.
_PIECE = 8192
# Seconds that the thread waits after it has written, so that more lines gather. Otherwise a busy
# server would wake it for each line.
_GATHER_SECONDS = 0.05
# A reader that reads nothing for so many seconds is taken to be stuck.
_STUCK_SECONDS = 2.0
# Seconds between two messages that lines were dropped.
_REPORT_INTERVAL = 10.0


class LogWriter:
    """Writes lines to a standard stream. May be used on any thread, and in signal handlers.

    Arguments: the stream, and its name for messages. Two callbacks are called on the writing
    thread: ``on_broken(message)`` if the stream cannot be written to, and ``on_dropped(message)``
    if lines were dropped and the stream takes lines again.
    """

    def __init__(
        self,
        stream: TextIO,
        name: str,
        *,
        on_broken: Callable[[str], None],
        on_dropped: Callable[[str], None],
    ) -> None:
        self._stream = stream
        # A standard stream is written to by its descriptor, because the stream has locks, which
        # threads of the application hold while they print. If the application has replaced the
        # stream, lines go through its ``write``.
        self._descriptor = -1
        if stream is sys.__stdout__ or stream is sys.__stderr__:
            with contextlib.suppress(OSError, ValueError):  # Closed, or on no file.
                self._descriptor = stream.fileno()
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._name = name
        self._on_broken = on_broken
        self._on_dropped = on_dropped
        # Protects everything below. Taken by each thread that logs, by the writing thread and by
        # ``flush``, for a few instructions. Re-entrant, because a signal handler that interrupts
        # them may log as well.
        self._changed = threading.Condition(threading.RLock())
        self._lines: deque[bytes] = deque()
        self._size = 0
        # How many lines were dropped, and for how many of them that was for an error of the stream.
        self._dropped = 0
        self._failed = 0
        # How many lines the thread is writing now, and how often it has written.
        self._writing = 0
        self._written = 0
        self._thread: threading.Thread | None = None
        # The idle thread waits to acquire this. A condition would not do: a destructor may log on
        # this very thread just before it begins to wait, and the notification would be lost.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()
        # Whether the thread waits for lines, and whether it ends when there are none.
        self._idle = False
        self._ending = False
        # Whether the thread that logs writes the line itself, because there is no writing thread.
        self._direct = False
        # Used by the writing thread only: whether ``on_broken`` was called for the error that
        # lasts, and when ``on_dropped`` was called last.
        self._broken = False
        self._reported_at = float("-inf")
        forks.register(self)

    def put(self, line: str) -> None:
        """Have a line written soon. Does not block. Drops the line if the queue is full."""
        data = f"{line}\n".encode(self._encoding, "backslashreplace")
        with self._changed:
            direct = self._direct
            if not direct:
                if self._size + len(data) > _MAX_BYTES or len(self._lines) >= _MAX_LINES:
                    self._dropped += 1
                    return
                self._lines.append(data)
                self._size += len(data)
                if self._idle:
                    self._wake()
            start = not direct and self._thread is None
            if start:
                self._ending = False
                self._thread = threading.Thread(target=self._work, name="aiowsgi-log", daemon=True)
        if direct:
            self._write(data)
        elif start:
            self._start()

    def flush(self, timeout: float) -> str:
        """Wait until all lines are written, for ``timeout`` seconds at most.

        It does not wait for a reader that is stuck. Lines that are left are dropped. Return the
        message that says so; it is empty if none was dropped. The thread ends. A later line starts
        another one.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            self._wake()
            written, since = self._written, time.monotonic()
            while self._lines or self._writing:
                now = time.monotonic()
                if written != self._written:
                    written, since = self._written, now
                left = min(deadline, since + _STUCK_SECONDS) - now
                if left <= 0:
                    break
                self._changed.wait(left)
            self._dropped += len(self._lines) + self._writing
            self._lines.clear()
            # If the thread is stuck, another call does not wait for the same lines again.
            self._size = self._writing = 0
            return self._dropped_message() if self._dropped else ""

    def _start(self) -> None:
        """Start the thread, or write the queued lines without it.

        The lock is not held, because the new thread takes it.
        """
        assert self._thread is not None  # ``put`` has just made it.
        try:
            self._thread.start()
        except RuntimeError:  # At the limit of threads, or at the end of the interpreter.
            with self._changed:
                self._thread = None
                data = b"".join(self._lines)
                self._lines.clear()
                self._size = 0
            self._write(data)

    def abandon(self) -> None:
        """Go on without a thread in a forked child. The parent writes what is queued.

        See ``bridge.forks``.
        """
        self._changed = threading.Condition(threading.RLock())
        self._lines.clear()
        self._size = self._dropped = self._failed = self._writing = 0
        self._direct = True

    def _wake(self) -> None:
        """Wake the thread if it is idle. The lock is held."""
        self._idle = False
        with contextlib.suppress(RuntimeError):  # It was woken already.
            self._wakeup.release()

    def _work(self) -> None:
        while True:
            with self._changed:
                # This is the first step: from here on, a thread that logs wakes this one.
                self._idle = True
                if not self._lines and self._ending:
                    self._thread = None
                    return
                piece = self._take()
            if not piece:
                self._wakeup.acquire()
                continue
            written = self._write(b"".join(piece))
            message = self._finish_piece(written)
            if message:
                self._on_dropped(message)

    def _take(self) -> list[bytes]:
        """Take the lines to write next out of the queue. The lock is held."""
        piece: list[bytes] = []
        size = 0
        while self._lines and (not piece or size + len(self._lines[0]) <= _PIECE):
            piece.append(line := self._lines.popleft())
            size += len(line)
        if piece:
            self._idle = False
        self._size -= size
        self._writing = len(piece)
        return piece

    def _finish_piece(self, written: bool) -> str:
        """Take note that a piece was written or lost, and wait until more lines gather.

        Return the message that lines were dropped, if it is due; else an empty text.
        """
        with self._changed:
            if not written:
                self._dropped += self._writing
                self._failed += self._writing
            self._writing = 0
            self._written += 1
            if self._ending:
                self._changed.notify_all()
            elif not self._lines:
                self._changed.wait(_GATHER_SECONDS)
            now = time.monotonic()
            if not written or not self._dropped or now - self._reported_at < _REPORT_INTERVAL:
                return ""
            self._reported_at = now
            return self._dropped_message()

    def _dropped_message(self) -> str:
        """Return the message that lines were dropped, and count from 0. The lock is held."""
        number, failed = self._dropped, self._failed
        self._dropped = self._failed = 0
        verb = "was" if number == 1 else "were"
        causes = ["could not be written to"] if failed else []
        if number > failed:
            causes.append("did not take everything in time")
        reason = " and ".join(causes)
        return f"{counted(number, 'log line')} {verb} dropped: {self._name} {reason}"

    def _write(self, data: bytes) -> bool:
        """Write all of ``data``. Return False if that fails. May block."""
        try:
            if getattr(self._stream, "closed", False):
                # The number of its descriptor may belong to a client's socket by now.
                raise ValueError("it is closed")
            if self._descriptor < 0:
                self._stream.write(data.decode(self._encoding))
                # ``print`` wants no flush() of a stream either.
                if (flush := getattr(self._stream, "flush", None)) is not None:
                    flush()
            else:
                self._write_descriptor(data)
        except Exception as error:  # noqa: BLE001 - an application's stream may raise anything
            if not self._broken:
                self._broken = True
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                self._on_broken(f"{self._name} cannot be written to: {reason}; log lines are lost")
            return False
        self._broken = False
        return True

    def _write_descriptor(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                # Another process that shares the stream has made it non-blocking.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
