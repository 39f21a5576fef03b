"""Hand-over from any thread to the loop thread, with one wake-up for everything that is ready."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

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
        # Without a lock: a deque may be appended to on any thread while another one takes from it,
        # also by a signal handler or destructor that interrupts either. Each side first makes its
        # mark (the item; the end of a pass) and then looks for the other's. So it cannot be that
        # neither sees the other: an item for which nobody is woken is before the end of a pass that
        # has yet to come to it.
        self._items: deque[Item | None] = deque()
        self._woken = False

    def post(self, item: Item) -> None:
        """Hand ``item`` over. Called on any thread; does not block.

        Raises RuntimeError if the loop is closed, so that the item will never be delivered.
        """
        self._items.append(item)
        if self._woken:
            return
        try:
            # Two threads may come here at the same time. To be woken twice does no harm.
            self._woken = True
            self._wake(self._collect)
        except BaseException:
            # The loop thread was perhaps not woken. The next post wakes it, perhaps once too often.
            self._woken = False
            raise

    def abandon(self) -> None:
        """Never wake the loop in a forked child. See ``forks``."""
        self._woken = True

    def _collect(self) -> None:
        # An item that is posted from here on has a wake-up of its own. So the work of one pass is
        # bounded: by None, which ends it.
        self._woken = False
        items = self._items
        try:
            items.append(None)
            # Not by calls from here: a signal handler might interrupt between one and its result.
            for item in iter(items.popleft, None):
                try:
                    self._deliver(item)
                except Exception:  # noqa: BLE001
                    # A defect of the server. The other items are delivered all the same.
                    _log.critical("A delivery to the event loop failed", exc_info=True)
        except BaseException:
            # A signal handler has raised KeyboardInterrupt, for example, and the host may run its
            # loop again. What is left is delivered in the next pass, before all others.
            with contextlib.suppress(ValueError):  # There was no memory for it.
                items.remove(None)
            if items and not self._woken:
                self._woken = True
                self._wake(self._collect)
            raise
