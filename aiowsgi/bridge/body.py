"""The request body on its way from the loop thread to a pool thread."""

import time
from collections.abc import Callable

from ..callbacks import no_callback
from ..errors import ClientDisconnected, RequestBodyError
from .budget import Budget
from .locks import make_lock, reentered
from .pieces import Pieces
from .pool.jobs import SHORT_WAIT, ThreadSlots


class RequestBody:
    """A byte channel with water marks: the loop feeds it, one pool thread reads it.

    Arguments: ``on_demand()`` is called on the pool thread when that thread wants bytes: before it
    waits for the first time, and when it has drained a full buffer to the low water mark;
    ``high_water`` in bytes; ``budget`` counts what is buffered for all clients; ``slots``, where
    the pool thread releases its slot while it waits; ``initial`` is what has already arrived; it
    belongs to the body from here on.
    """

    __slots__ = (
        "_blocked",
        "_budget",
        "_buffer",
        "_condition",
        "_demanded",
        "_dropping",
        "_error",
        "_finished",
        "_full",
        "_held",
        "_high_water",
        "_lock",
        "_on_demand",
        "_short_wait",
        "_slots",
        "received",
    )

    def __init__(
        self,
        on_demand: Callable[[], None],
        *,
        high_water: int,
        budget: Budget,
        slots: ThreadSlots,
        initial: Pieces | None = None,
    ) -> None:
        self._on_demand = on_demand
        self._high_water = high_water
        self._budget = budget
        self._slots = slots
        # Protects everything below. Taken by the loop thread to feed and by the pool thread to
        # read; the pool thread waits on it, and feed, finish and abort each end the wait.
        # A signal handler or destructor that interrupts that may look at the body, but not read.
        self._lock = make_lock()
        self._condition = self._slots.make_condition(self._lock)
        self._buffer = Pieces() if initial is None else initial
        self._held = budget.update(0, self._buffer.size)  # What the budget counts.
        self._blocked = False
        # The seconds for which the thread may still wait before it releases its slot.
        self._short_wait = SHORT_WAIT
        self._dropping = False
        self._finished = False
        self._error: ClientDisconnected | None = None
        self._full = self._buffer.size >= high_water
        self._demanded = False
        # Bytes fed in all. Changed by the loop thread only.
        self.received = self._buffer.size

    @property
    def is_full(self) -> bool:
        """Whether reading from the client should pause. Called on the loop thread."""
        with self._condition:
            return self._full

    @property
    def was_asked_for(self) -> bool:
        """Whether the application has waited for bytes, or bytes have come without that."""
        with self._condition:
            return self._demanded or self.received > 0

    def is_too_long_to_drop(self, length: int | None, limit: int) -> bool:
        """Return whether more than ``limit`` bytes of the body have yet to arrive.

        ``length`` is that of the whole body in bytes, or None for a chunked one, whose length is
        not known. That one is taken to be too long if the buffer is full and holds more than
        ``limit`` bytes. Called on the pool thread.
        """
        with self._condition:
            if self._finished:
                return False
            if length is None:
                return self._full and self._buffer.size > limit
            return length - self.received > limit

    @property
    def was_read(self) -> bool:
        """Whether some of the body was read. Called on the pool thread."""
        with self._condition:
            return self.received > self._buffer.size

    @property
    def blocks_thread(self) -> bool:
        """Whether a thread waits for the client to send something."""
        with self._condition:
            return self._blocked

    @property
    def held(self) -> int:
        """How many bytes the budget counts."""
        with self._condition:
            return self._held

    def feed(self, data: bytes) -> None:
        """Take bytes from the client. Called on the loop thread."""
        with self._condition:
            self.received += len(data)
            if self._dropping:
                return
            self._buffer.append(data)
            self._held = self._budget.update(self._held, self._buffer.size)
            # A full buffer counts as full until a read has drained it to the low water mark.
            self._full = self._full or self._buffer.size >= self._high_water
            self._condition.notify()

    def finish(self) -> None:
        """Take the end of the body. Called on the loop thread."""
        with self._condition:
            self._finished = True
            self._on_demand = no_callback
            self._condition.notify()

    def abort(self, error: ClientDisconnected) -> None:
        """End the body with an error, unless it is complete. Called on the loop thread."""
        with self._condition:
            if not self._finished:
                # The first error is kept: it is the reason for the others.
                self._error = self._error or error
                self._buffer = Pieces()
                self._held = self._budget.update(self._held, 0)
            self._on_demand = no_callback
            self._condition.notify()

    def drop(self) -> None:
        """Drop what is buffered and what still arrives: the application has returned.

        Called on the pool thread, or on the loop thread if no thread has run the request.
        """
        with self._condition:
            self._dropping = True
            # A thread that the application has started may still read.
            self._error = self._error or RequestBodyError("the application has returned")
            self._condition.notify_all()
            self._buffer = Pieces()
            self._held = self._budget.update(self._held, 0)
            demand, self._full = self._full, False
        if demand:
            # The client may have to send all of its body before it reads the answer.
            self._on_demand()

    def abandon(self, error: ClientDisconnected) -> None:
        """Raise ``error`` in each later read: the body belongs to the parent. See ``forks``."""
        self._lock = make_lock()
        self._condition = self._slots.make_condition(self._lock)
        self._error = error
        self._on_demand = no_callback

    def read_into(self, buffer: memoryview) -> int:
        """Move what there is to a buffer, as far as it fits. Return how many bytes: 0 at the end.

        Called on a pool thread; blocks until the client sends. Raises ClientDisconnected,
        usually a RequestBodyError, when the rest of the body will never arrive.
        """
        demand = False
        if self._lock._is_owned():
            raise reentered("the request body")
        with self._condition:
            if not (self._buffer.size or self._finished or self._error or self._demanded):
                self._demanded = demand = True
        if demand:
            self._ask()
            demand = False
        with self._condition:
            if not self._ready():
                self._wait()
            if self._error is not None:
                raise self._error.copy()
            count = self._buffer.take_into(buffer)
            self._held = self._budget.update(self._held, self._buffer.size)
            if self._full and self._buffer.size <= self._high_water // 2:
                self._full = False
                demand = True
        if demand:
            self._ask()
        return count

    def _ask(self) -> None:
        """Ask the loop thread to read more from the client."""
        try:
            self._on_demand()
        except BaseException:
            # The loop thread was perhaps not told, and would read nothing more. Later reads fail
            # instead of waiting for ever.
            with self._condition:
                self._error = self._error or RequestBodyError("the request body is lost")
            raise

    def _ready(self) -> bool:
        return bool(self._buffer.size or self._finished or self._error)

    def _wait(self) -> None:
        """Wait until a read has something to return or to raise. The lock is held.

        The loop thread ends the wait: with bytes, with the end, or with an error when the client
        leaves, stalls for too long, or the server stops.
        """
        self._blocked = True
        began = time.monotonic()
        try:
            if not self._condition.wait_for(self._ready, self._short_wait):
                try:
                    self._slots.release_slot()
                    self._condition.wait_for(self._ready)
                finally:
                    self._slots.reclaim_slot()
        finally:
            self._blocked = False
            # This counts all waits together, because a client that sends one byte at a time makes
            # many short ones.
            self._short_wait = max(0.0, self._short_wait - (time.monotonic() - began))
