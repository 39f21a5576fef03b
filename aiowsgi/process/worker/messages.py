"""What a worker says to its supervisor: lists of texts on a socket, as JSON, a line each.

A worker runs the application, which may do anything to the socket. So whoever reads takes nothing
for granted: lines that are no messages are left out, and so is what has no end.
"""

import contextlib
import json
import socket
from typing import NamedTuple

# Longer lines are left out.
MAX_LINE = 1 << 16
# A text that is longer is cut: one character becomes twelve at most.
_MAX_TEXT = MAX_LINE // 16
# Seconds that a supervisor may take to read, if it has not read for long.
_PATIENCE = 1.0

# The words. Behind READY come the name of the application, and the threads and the machinery of the
# server; behind FAILED what to print; behind WORN the reason.
READY, FAILED, WORN, DRAINING = "ready", "failed", "worn", "draining"
# Behind BROKEN comes what a worker answers with in the place of an application that it cannot load.
BROKEN = "broken"
# What a worker is told before the signal to stop, where others go on in its place.
REPLACED = "replaced"
# What a mold says. Behind LOADED comes the name of the application; behind UNFIT what a fork would
# break, a line each. FORK is what it is told, with the number of a worker and of its row; FORKED
# and UNFORKED answer it with that number, and with the process or the reason why there is none.
LOADED, UNFIT, FORK, FORKED, UNFORKED = "loaded", "unfit", "fork", "forked", "unforked"
# What a watcher says of files. Behind each comes a text for people.
CHANGED, NOTICE, WARNING = "changed", "notice", "warning"


class Message(NamedTuple):
    """One line."""

    word: str
    texts: tuple[str, ...]


def encode(word: str, *texts: str) -> bytes:
    """Return a line. A text that is too long loses its middle."""
    return json.dumps([word, *map(_shortened, texts)]).encode() + b"\n"


def _shortened(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


class Lines:
    """Takes what comes over the socket, and returns the messages in it."""

    def __init__(self) -> None:
        self._rest = b""
        # Whether the rest of a line that is too long is left out.
        self._skipping = False

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are complete with these bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            if not self._skipping and (message := _decode(line)) is not None:
                found.append(message)
            self._skipping = False
        if len(self._rest) > MAX_LINE:
            self._rest, self._skipping = b"", True
        return found

    def receive(self, sock: socket.socket) -> list[Message]:
        """Return the messages that are complete with what has come. Does not block.

        Closes the socket, which does not block either, at its end.
        """
        try:
            data = sock.recv(MAX_LINE)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            sock.close()
        return self.feed(data)


def _decode(line: bytes) -> Message | None:
    try:
        texts = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(texts, list) or not texts:
        return None
    if not all(isinstance(text, str) for text in texts):
        return None
    return Message(texts[0], tuple(texts[1:]))


class Channel:
    """A worker's end of the socket. Used on one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(_PATIENCE)

    def was_told(self, word: str) -> bool:
        """Return whether a message has come that is this word. Does not block."""
        data = b""
        # Nothing may have come, and each of the ends may be closed.
        with contextlib.suppress(OSError):
            self._sock.settimeout(0)
            try:
                data = self._sock.recv(MAX_LINE)
            finally:
                self._sock.settimeout(_PATIENCE)
        return Message(word, ()) in Lines().feed(data)

    def say(self, word: str, *texts: str) -> bool:
        """Send a message; return False where nobody will read it. Blocks for a second at most."""
        try:
            self._sock.sendall(encode(word, *texts))
        except OSError:
            # Part of the line may be sent, so that no further one could be read.
            with contextlib.suppress(OSError):
                self._sock.close()
            return False
        return True
