"""How the watcher waits until it may be worth looking again: for a time, or for a notification.

What has changed is decided by looking only. So a notification that is lost, as on a network file
system, costs time, and nothing else.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

# Seconds between two looks without notifications, at least; and how many times longer than a look
# the time between two is, so that looking takes at most a tenth of one core.
_POLL_INTERVAL = 0.1
_POLL_RATIO = 10.0
# The same with notifications.
_RARE_INTERVAL = 2.0
_RARE_RATIO = 100.0
# What watchfiles is given, in milliseconds: how often it collects what the system has told, how
# long it goes on collecting, and after which time without anything it returns.
_STEP = 25
_DEBOUNCE = 100
_TICK = 250

_Events = Iterator[set[tuple[Any, str]]]


class Waiter(Protocol):
    """Waits until it may be worth looking again."""

    def wait(self, cost: float, folders: Mapping[str, int]) -> None:
        """Return when it may be: a look takes ``cost`` seconds, and reads these folders.

        The folders have the numbers of their inodes.
        """


class Poller:
    """Waits for a time that depends on what a look costs. ``pause(seconds)`` waits for so long."""

    def __init__(self, pause: Callable[[float], None]) -> None:
        self._pause = pause

    def wait(self, cost: float, folders: Mapping[str, int]) -> None:
        """See ``Waiter``."""
        self._pause(max(_POLL_INTERVAL, _POLL_RATIO * cost))


class Notifications:
    """Waits until watchfiles tells that something has changed that may count.

    Arguments: ``watch``, that of watchfiles; ``may_count(path)``, of a file; ``pause``, as of
    ``Poller``; and ``on_failed(reason)``, called once if the system gives no notifications, as when
    it allows no more. It is a ``Poller`` from then on.
    """

    def __init__(
        self,
        watch: Callable[..., _Events],
        may_count: Callable[[str], bool],
        pause: Callable[[float], None],
        on_failed: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._may_count = may_count
        self._pause = pause
        self._on_failed = on_failed
        self._clock = clock
        self._instead: Poller | None = None
        self._events: _Events | None = None
        self._folders: dict[str, int] = {}

    def wait(self, cost: float, folders: Mapping[str, int]) -> None:
        """See ``Waiter``."""
        if self._instead is not None:
            self._instead.wait(cost, folders)
            return
        try:
            self._wait(max(_RARE_INTERVAL, _RARE_RATIO * cost), folders)
        except (OSError, RuntimeError) as error:
            if isinstance(error, ConnectionError):
                raise  # Of ``pause``: there is nobody to watch for.
            self._events = None
            self._instead = Poller(self._pause)
            self._on_failed(str(error))

    def _wait(self, seconds: float, folders: Mapping[str, int]) -> None:
        if self._events is None or self._folders != folders:
            self._folders = dict(folders)
            self._events = self._watch(
                *self._folders,
                watch_filter=None,
                step=_STEP,
                debounce=_DEBOUNCE,
                rust_timeout=_TICK,
                yield_on_timeout=True,
                raise_interrupt=False,
                recursive=False,
                ignore_permission_denied=True,
            )
            # It begins here. What has changed before was not told, so it has to be looked for.
            next(self._events)
            return
        end = self._clock() + seconds
        while self._clock() < end:
            self._pause(0)
            if any(self._is_worth_a_look(path) for _, path in next(self._events)):
                return

    def _is_worth_a_look(self, path: str) -> bool:
        return self._may_count(path) or path in self._folders or os.path.isdir(path)
