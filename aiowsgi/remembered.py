"""What is made of the same thing again and again, remembered within bounds. Data only."""

from array import array
from collections import deque
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """What was made of keys that have come twice; look it up in ``known``.

    It is bounded in bytes: by ``most`` keys, and none whose size is more than ``longest``. What
    comes once only, as what holds a number or a secret of its own mostly does, is not kept, and
    drives out nothing; else the oldest makes room.

    Called on any thread, without a lock: each step is one operation of a built-in type, and what
    several threads do at once is done twice, or forgotten. Values are the same whoever makes them.
    """

    __slots__ = ("_longest", "_most", "_order", "_seen", "known")

    def __init__(self, most: int, longest: int) -> None:
        self._most = most
        self._longest = longest
        self.known: dict[Key, Value] = {}
        self._order: deque[Key] = deque()
        # The hashes of keys that came once, where no other has taken their place since.
        self._seen = array("q", bytes(8 * most))

    def note(self, key: Key, value: Value, size: int) -> None:
        """Take note of a value that had to be made; the key is of so many bytes."""
        if size > self._longest:
            return
        mark = hash(key)
        place = mark % self._most
        if self._seen[place] == mark:
            self.known[key] = value
            self._order.append(key)
            if len(self._order) > self._most:
                self.known.pop(self._order.popleft(), None)
        self._seen[place] = mark
