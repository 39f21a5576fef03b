"""Log lines on their way to a stream: a bounded queue, and a thread that writes.

Whoever logs only puts a line into the queue. A reader that is slow, stuck or gone keeps the writing
thread waiting, and nobody else: not the event loop, not a thread of the pool, and not the end of
the process.
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

# So much waits for a slow reader; what comes beyond is dropped.
_MOST_BYTES = 4 << 20
_MOST_LINES = 50_000
# Written at a time, as far as lines are shorter. Few bytes, so that it shows whether a slow reader
# gets on.
_PIECE = 8192
# Seconds in which lines gather behind one that was written, so that a busy server does not wake the
# thread for each.
_GATHER = 0.05
# A reader that takes nothing for so many seconds is not slow, but stuck.
_STUCK = 2.0
# Seconds between two messages that lines were dropped.
_SAID_EVERY = 10.0


class LogWriter:
    """Writes lines to a standard stream. May be used on any thread, and in signal handlers.

    Arguments: the stream and its name for messages; ``on_broken(message)`` is called, on the
    writing thread, where the stream cannot be written to, and ``on_dropped(message)`` where lines
    were dropped before and there is room again.
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
        # The text stream has locks of its own, which the application's threads hold while they
        # print. A stream that somebody put in its place has to be asked.
        self._descriptor = -1
        if stream is sys.__stdout__ or stream is sys.__stderr__:
            with contextlib.suppress(OSError, ValueError):  # Closed, or on no file.
                self._descriptor = stream.fileno()
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._name = name
        self._on_broken = on_broken
        self._on_dropped = on_dropped
        # Protects everything below. Taken by whoever logs, by the writing thread and by `drain`,
        # for a few instructions. Re-entrant, for a signal handler may log in the midst of them.
        self._changed = threading.Condition(threading.RLock())
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        # Lines that the thread has taken out of the queue, and how often it has written.
        self._writing = 0
        self._written = 0
        self._thread: threading.Thread | None = None
        # Released to wake the thread. Not by a condition: one is deaf in the moment before it
        # waits, in which a destructor may log on that very thread.
        self._turn = threading.Lock()
        self._turn.acquire()
        # Whether the thread waits for a line, and whether it ends when there is none.
        self._idle = False
        self._ending = False
        # Whether lines are written by whoever logs, because there is no thread.
        self._direct = False
        # Of the writing thread: whether the stream is known to be broken; when lines were last said
        # to be dropped.
        self._broken = False
        self._said_at = float("-inf")
        forks.register(self)

    def put(self, line: str) -> None:
        """Have a line written, some time soon. Does not block; drops it where too many wait."""
        data = f"{line}\n".encode(self._encoding, "backslashreplace")
        with self._changed:
            direct = self._direct
            if not direct:
                if self._size + len(data) > _MOST_BYTES or len(self._lines) >= _MOST_LINES:
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

    def drain(self, timeout: float) -> str:
        """Wait until everything is written: for ``timeout`` seconds, and not for a stuck reader.

        What is left then is dropped. Return the message that says so, empty where nothing was. The
        thread ends; another line starts another one.
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
                left = min(deadline, since + _STUCK) - now
                if left <= 0:
                    break
                self._changed.wait(left)
            self._dropped += len(self._lines) + self._writing
            self._lines.clear()
            # The piece that the thread is stuck with is not waited for again.
            self._size = self._writing = 0
            return self._say_dropped() if self._dropped else ""

    def _start(self) -> None:
        """Start the thread, or do its work once. Without the lock, which it may need to begin."""
        assert self._thread is not None  # Whoever has made it starts it.
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
        """Go on without a thread in a forked child; what is queued is the parent's.

        See ``bridge.forks``.
        """
        self._changed = threading.Condition(threading.RLock())
        self._lines.clear()
        self._size = self._dropped = self._writing = 0
        self._direct = True

    def _wake(self) -> None:
        """Have the thread look for lines, once it is idle. The lock is held."""
        self._idle = False
        with contextlib.suppress(RuntimeError):  # It is woken already.
            self._turn.release()

    def _work(self) -> None:
        while True:
            with self._changed:
                # First of all: from here on, whoever logs wakes it.
                self._idle = True
                if not self._lines and self._ending:
                    self._thread = None
                    return
                piece = self._take()
            if not piece:
                self._turn.acquire()
                continue
            written = self._write(b"".join(piece))
            message = self._settle(written)
            if message:
                self._on_dropped(message)

    def _take(self) -> list[bytes]:
        """Take lines out of the queue, as many as are written at a time. The lock is held."""
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

    def _settle(self, written: bool) -> str:
        """Take the end of a piece, and wait for more to gather. Return what there is to say."""
        with self._changed:
            if not written:
                self._dropped += self._writing
            self._writing = 0
            self._written += 1
            if self._ending:
                self._changed.notify_all()
            elif not self._lines:
                self._changed.wait(_GATHER)
            now = time.monotonic()
            if not written or not self._dropped or now - self._said_at < _SAID_EVERY:
                return ""
            self._said_at = now
            return self._say_dropped()

    def _say_dropped(self) -> str:
        """Return the message that lines were dropped. The lock is held."""
        number, self._dropped = self._dropped, 0
        verb = "was" if number == 1 else "were"
        lines = counted(number, "log line")
        return f"{lines} {verb} dropped: {self._name} did not take everything in time"

    def _write(self, data: bytes) -> bool:
        """Write all of it. Return False where that cannot be. May block."""
        try:
            if getattr(self._stream, "closed", False):
                # Its number may be a client's by now.
                raise ValueError("it is closed")
            if self._descriptor < 0:
                self._stream.write(data.decode(self._encoding))
                self._stream.flush()
            else:
                self._write_descriptor(data)
        except (OSError, ValueError) as error:
            if not self._broken:
                self._broken = True
                reason = getattr(error, "strerror", None) or str(error)
                self._on_broken(f"{self._name} cannot be written to: {reason}; log lines are lost")
            return False
        self._broken = False
        return True

    def _write_descriptor(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                # Whoever shares the stream has made it so.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
