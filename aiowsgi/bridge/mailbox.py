"""Hand-over from any thread to the loop thread, with one wake-up for everything that is ready."""

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from .locks import make_lock

Item = TypeVar("Item")

_log = logging.getLogger("aiowsgi.error")


class Mailbox(Generic[Item]):
    """Delivers items on the loop thread, in the order in which they were posted.

    Arguments: ``wake(callback)`` makes the loop thread call ``callback`` soon and may be called
    from any thread (``loop.call_soon_threadsafe``); ``deliver(item)`` is called on the loop thread.
    """

    def __init__(
        self, wake: Callable[[Callable[[], None]], object], deliver: Callable[[Item], None]
    ) -> None:
        self._wake = wake
        self._deliver = deliver
        # Protects the list and the flag. Taken by pool threads to post and by the loop thread to
        # collect, each for a few instructions. A signal handler or destructor that interrupts that
        # may post as well.
        self._lock = make_lock()
        self._items: list[Item] = []
        self._woken = False

    def post(self, item: Item) -> None:
        """Hand ``item`` over. Called on any thread; does not block.

        Raises RuntimeError if the loop is closed, so that the item will never be delivered.
        """
        waking = False
        try:
            with self._lock:
                self._items.append(item)
                if self._woken:
                    return
                self._woken = waking = True
            self._wake(self._collect)
        except BaseException:
            if waking:
                # The loop thread was perhaps not woken. The next post wakes it, perhaps once too
                # often, which does no harm.
                with self._lock:
                    self._woken = False
            raise

    def abandon(self) -> None:
        """Never wake the loop in a forked child. See ``forks``."""
        self._lock = make_lock()
        self._woken = True

    def _collect(self) -> None:
        # An item that is posted from here on has a wake-up of its own. So the work of one pass is
        # bounded.
        with self._lock:
            self._woken = False
            items, self._items = self._items, []
        left = iter(items)
        try:
            for item in left:
                try:
                    self._deliver(item)
                except Exception:  # noqa: BLE001
                    # A defect of the server. The other items are delivered all the same.
                    _log.critical("A delivery to the event loop failed", exc_info=True)
        except BaseException:
            # A signal handler has raised KeyboardInterrupt, for example, and the host may run its
            # loop again.
            self._put_back(list(left))
            raise

    def _put_back(self, items: list[Item]) -> None:
        """Have items delivered in the next pass, before all others."""
        with self._lock:
            self._items[:0] = items
            if self._woken or not items:
                return
            self._woken = True
        self._wake(self._collect)
