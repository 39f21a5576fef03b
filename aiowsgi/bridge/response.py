"""The response on its way from a pool thread to the client.

The pool thread sends by itself what the kernel takes at once. The rest goes through a queue,
bounded in bytes, to the loop thread, which waits for the client.
"""

import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from ..errors import ApplicationError, ClientDisconnected
from .budget import MIN_COUNTED, Budget
from .locks import Lock, make_lock, reentered
from .mailbox import Mailbox
from .pieces import unsent
from .pool.jobs import SHORT_WAIT, ThreadSlots
from .source import ABORTED, FINISHED, LEFT, OPEN, Progress, Source, Tail

# Bytes that each writer may queue although the budget is exceeded, so that every response goes on.
_ALWAYS_ALLOWED: Final = 1 << 16
# Larger pieces are split, so that the loop thread can take a little at a time.
_MAX_PIECE: Final = 1 << 17
# Queued pieces are joined up to this size, as soon as many bytes are queued.
_JOIN_LIMIT: Final = 1 << 12
# A thread that waits for room goes on when the queue holds only one part in so many of high water.
# To run and wait again costs as much as some pieces, and the kernel has enough for the client then.
_LOW_WATER_PART: Final = 4


class ResponseOwner(Protocol):
    """What a response belongs to, as its writer sees it."""

    def note_first_byte(self) -> None:
        """Take note that the pool thread is about to send the first byte.

        Called on that thread, under the lock.
        """


class WriterTerms:
    """What all writers of a server have in common. It is not changed.

    Arguments: the mailbox that takes an owner to the loop thread, which calls ``take`` soon;
    ``high_water`` in bytes, beyond which a write waits; what counts the bytes that are buffered for
    all clients; and where a pool thread releases its slot while it waits.
    """

    __slots__ = ("budget", "high_water", "mailbox", "slots")

    def __init__(
        self, mailbox: Mailbox[Any], high_water: int, budget: Budget, slots: ThreadSlots
    ) -> None:
        self.mailbox = mailbox
        self.high_water = high_water
        self.budget = budget
        self.slots = slots


class ResponseWriter(Source):
    """A bounded queue of bytes: one pool thread writes, the loop thread takes.

    While nothing is queued, and the loop thread has nothing left to send, the pool thread may send
    by itself. See ``send_now``.

    Arguments: the owner; what all writers have in common; and a lock, which may be that of an
    earlier writer whose response is complete: to make one costs as much as all else of a writer.
    """

    __slots__ = (
        "_begun",
        "_blocked_threads",
        "_direct",
        "_error",
        "_held",
        "_lock",
        "_owner",
        "_pieces",
        "_progress",
        "_room",
        "_size",
        "_tail",
        "_terms",
        "_woken",
        "send_now",
    )

    def __init__(
        self,
        owner: ResponseOwner,
        terms: WriterTerms,
        lock: Lock,
    ) -> None:
        # None once the loop thread need not be woken any more.
        self._owner: ResponseOwner | None = owner
        self._terms = terms
        # Protects everything below. Taken by the pool thread to write and by the loop thread to
        # take, each for a few instructions, or for as long as the kernel needs to take a piece.
        # A signal handler or destructor that interrupts that may look at the writer, but not write.
        self._lock = lock
        # Made when the pool thread has to wait for the first time. Most responses never wait.
        self._room: threading.Condition | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._held = 0  # What the budget counts.
        self._progress = OPEN
        self._tail: Tail | None = None
        self._error: ClientDisconnected | None = None
        self._woken = False
        # Whether bytes of the response were sent, or taken by the loop thread.
        self._begun = False
        # ``send_now(pieces)`` gives bytes to the kernel and returns how many it took; it does not
        # block and raises nothing. It is called on the pool thread under the lock, and never after
        # ``disconnect``. Set on the loop thread before the job is queued, where the pool thread may
        # send by itself. Whether it may now: only if all bytes before are sent, and more may
        # follow.
        self.send_now: Callable[[list[bytes]], int] | None = None
        self._direct = True
        # How many threads wait for room: more than one only if the application writes on several.
        self._blocked_threads = 0

    @property
    def blocks_thread(self) -> bool:
        """Whether a thread waits for the client to take something."""
        with self._lock:
            return self._blocked_threads > 0

    @property
    def held(self) -> int:
        """How many bytes the budget counts."""
        with self._lock:
            return self._held

    @property
    def progress(self) -> Progress:
        """How far the application is: OPEN, FINISHED or ABORTED."""
        with self._lock:
            return self._progress

    def resume_direct(self) -> None:
        """Let the pool thread send again, unless more is queued.

        Called on the loop thread when everything that it has taken is sent.
        """
        with self._lock:
            self._direct = self._progress is OPEN and not self._pieces

    def write(self, pieces: list[bytes], after: Progress = OPEN, direct: bool = True) -> None:
        """Send or queue pieces. Called on a pool thread; blocks above high water.

        ``after`` is what follows them: the last ones are FINISHED. It is noted together with the
        last piece, so that a response in one piece takes the lock and wakes the loop thread once.
        Without ``direct`` the pool thread sends nothing by itself, because the loop thread has many
        responses to send, and sends them in one pass. Raises ClientDisconnected if the client is
        gone.
        """
        if not pieces and after is OPEN:
            return
        if self._lock._is_owned():
            raise reentered("the response")
        while True:
            owner: ResponseOwner | None = None
            try:
                with self._lock:
                    sends = (
                        direct
                        and self._direct
                        and self.send_now is not None
                        and not self._pieces
                        and bool(pieces)
                    )
                    if sends and not (pieces := self._send_directly(pieces)):
                        if after is OPEN:
                            return
                    else:
                        pieces = self._queue(pieces)
                    direct = False
                    if not pieces:
                        # Another thread of the application may be writing a piece of the body.
                        is_cut = after is FINISHED and self._blocked_threads > 0
                        self._progress = ABORTED if is_cut else after
                        if after is not OPEN:
                            self._direct = False
                    if not self._woken and (self._pieces or not pieces):
                        owner = self._owner
                        self._woken = True
                if owner is not None:
                    self._terms.mailbox.post(owner)
            except BaseException:
                if owner is not None:
                    self._rearm_wake()
                raise
            if not pieces:
                return
            first = pieces[0]
            largest = min(_MAX_PIECE, self._terms.high_water)
            if len(first) > largest:
                # Copies, not views: one view that is still queued would keep the whole piece in
                # memory.
                for start in range(0, len(first), largest):
                    self.write([first[start : start + largest]], OPEN, False)
                pieces = pieces[1:]

    def check(self) -> None:
        """Raise ClientDisconnected if the client is gone. Called on a pool thread."""
        with self._lock:
            if self._error is not None:
                raise self._error.copy()

    def finish(self, pieces: list[bytes], tail: Tail | None = None) -> None:
        """Send or queue the last pieces, and then the tail; the response is complete.

        Called on a pool thread; may block. ``tail`` belongs to the writer from here on. Raises
        ClientDisconnected.
        """
        if tail is not None:
            with self._lock:
                self._tail = tail
        try:
            self.write(pieces, FINISHED, tail is None)
        except BaseException:
            if (left := self.take_tail()) is not None:
                left.close()
            raise

    def abort(self) -> None:
        """Give up the response: what is queued is sent, then the connection is cut.

        Called on a pool thread; does not block.
        """
        owner: ResponseOwner | None = None
        try:
            with self._lock:
                self._progress = ABORTED
                self._direct = False
                if self._woken or self._error is not None:
                    return
                owner = self._owner
                self._woken = True
            if owner is not None:
                self._terms.mailbox.post(owner)
        except BaseException:
            if owner is not None:
                self._rearm_wake()
            raise

    def _rearm_wake(self) -> None:
        """Have the next write wake the loop thread, because the last one may have failed to."""
        with self._lock:
            self._woken = False

    def _send_directly(self, pieces: list[bytes]) -> list[bytes]:
        """Give the kernel as many bytes as it takes, and return the rest. The lock is held."""
        assert self.send_now is not None  # As the caller has seen.
        if not self._begun:
            self._begun = True
            if self._owner is not None:
                self._owner.note_first_byte()
        # If something is left, the loop thread waits for the client and sends it.
        self._direct = False
        left = unsent(pieces, self.send_now(pieces))
        self._direct = not left
        return left

    def _queue(self, pieces: list[bytes]) -> list[bytes]:
        """Queue pieces, and return those that are not. The lock is held.

        Where there is no room, wait for it. But the loop thread has to be woken before that, which
        is done without the lock, as is the splitting of a large piece: then all from there on are
        returned.
        """
        if self._progress is not OPEN or self._error is not None:
            self._check_open()
        queued = 0
        # Without enumerate(), which takes twice as long for one piece.
        for piece in pieces:
            size = len(piece)
            if size > _MAX_PIECE or size > self._terms.high_water:
                return pieces[queued:]
            # Most responses are queued at once, when nothing else is.
            if self._size and not self._has_room(size):
                if not self._woken:
                    return pieces[queued:]
                self._wait_for_room(size)
                self._check_open()
            queued += 1
            if not size:
                continue
            if self._size < MIN_COUNTED:
                self._pieces.append(piece)
            else:
                self._append(piece)
            self._size += size
            if self._size >= MIN_COUNTED:
                self._count()
        return []

    def _check_open(self) -> None:
        """Raise an error where nothing more can be queued. The lock is held."""
        if self._error is not None:
            raise self._error.copy()
        if self._progress is not OPEN:
            raise ApplicationError("the response is complete; nothing can be written behind it")

    def _has_room(self, more: int) -> bool:
        """Return whether ``more`` bytes can be queued. The lock is held."""
        size = self._size + more
        if not self._size or not more or self._error is not None:
            return True
        if size > self._terms.high_water:
            return False
        return size <= _ALWAYS_ALLOWED or self._terms.budget.has_room(self._held, size)

    def _is_low(self, more: int) -> bool:
        """Return whether a thread that waits to queue ``more`` bytes goes on. The lock is held."""
        return self._is_drained() and self._has_room(more)

    def _is_drained(self) -> bool:
        """Return whether little enough is queued to wake who waits. The lock is held."""
        return self._size <= self._terms.high_water // _LOW_WATER_PART or self._error is not None

    def _wait_for_room(self, more: int) -> None:
        """Wait until ``more`` bytes can be queued, and some more. The lock is held.

        The loop thread ends the wait: it takes what is queued when the client has room for it, and
        disconnects when the client leaves, takes nothing for too long, or the server stops.
        """
        if self._room is None:
            self._room = self._terms.slots.make_condition(self._lock)
        self._blocked_threads += 1
        try:
            if not self._room.wait_for(lambda: self._is_low(more), SHORT_WAIT):
                try:
                    self._terms.slots.release_slot()
                    self._room.wait_for(lambda: self._is_low(more))
                finally:
                    self._terms.slots.reclaim_slot()
        finally:
            self._blocked_threads -= 1

    def _append(self, piece: bytes) -> None:
        """Add a piece to a queue that is counted. The lock is held."""
        pieces = self._pieces
        if len(pieces[-1]) + len(piece) <= _JOIN_LIMIT:
            # The client is slow. Many small pieces would take more memory than their bytes.
            pieces[-1] += piece
        else:
            pieces.append(piece)

    def _count(self) -> None:
        """Tell the budget how many bytes are queued. The lock is held."""
        self._held = self._terms.budget.update(self._held, self._size)

    def take(self, limit: int) -> tuple[list[bytes], Progress]:
        """Return pieces from the queue, and what follows them. Called on the loop thread.

        They are about ``limit`` bytes at most. If more is LEFT, the loop thread calls this again
        without being woken.
        """
        with self._lock:
            pieces, self._pieces = self._pieces, []
            if pieces:
                self._begun = True
                self._direct = False
            if self._size > limit:
                taken = number = 0
                while taken < limit:
                    taken += len(pieces[number])
                    number += 1
                pieces, self._pieces = pieces[:number], pieces[number:]
                self._size -= taken
            else:
                self._size = 0
            if self._held:
                self._count()
            if self._room is not None and self._is_drained():
                self._room.notify_all()
            if self._size:
                return pieces, LEFT
            self._woken = False
            if self._progress is not OPEN:
                # Nothing wakes or sends any more, and each of the two knows the other.
                self._owner = None
            return pieces, self._progress

    def retire(self) -> None:
        """Wake nobody any more: nothing is taken from here. Called on the loop thread."""
        with self._lock:
            self._drop_callbacks()

    def _drop_callbacks(self) -> None:
        """Wake and send no more. The lock is held."""
        self._owner = None
        self.send_now = None
        self._direct = False

    def take_tail(self) -> Tail | None:
        """Return the tail, if any. It belongs to the caller from here on. Called on any thread."""
        with self._lock:
            tail, self._tail = self._tail, None
            return tail

    def withdraw(self, error: ClientDisconnected) -> bool:
        """Refuse the response, if none of it was sent or queued yet. Return whether that is so.

        Called on the loop thread, which sends another response in its place, and then disconnects
        the writer.
        """
        with self._lock:
            if self._begun or self._pieces or self._progress is not OPEN:
                return False
            self._error = error
            self._direct = False
            return True

    def disconnect(self, error: ClientDisconnected) -> None:
        """Drop what is queued and release the pool thread with ``error``.

        Called on the loop thread; every later write raises ``error`` too.
        """
        with self._lock:
            self._error = self._error or error
            self._drop_callbacks()
            self._pieces = []
            self._size = 0
            self._count()
            tail, self._tail = self._tail, None
            if self._room is not None:
                self._room.notify_all()
        if tail is not None:
            tail.close()

    def abandon(self, error: ClientDisconnected) -> None:
        """Raise ``error`` in each later write: the parent has the response. See ``forks``."""
        self._lock = make_lock()
        self._room = None
        self._error = error
        self._drop_callbacks()
