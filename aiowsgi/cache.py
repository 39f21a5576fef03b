"""A cache, bounded in bytes, for values that are made of the same keys again and again."""

from array import array
from collections import deque
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """Keeps values whose keys were offered twice. To look one up, use the dict ``known``.

    Its size in bytes is bounded: it has at most ``max_keys`` keys, and none of more than
    ``max_key_size`` bytes. A key that is offered once only is not kept, and takes no other's place:
    it mostly holds a number or a secret of one request. When the cache is full, the oldest key
    makes room.

    Called on any thread, without a lock, because each step is one operation of a built-in type.
    What several threads do at the same time may be done twice, or be lost. That does no harm: the
    value for a key is the same whichever thread makes it.
    """

    __slots__ = ("_max_key_size", "_max_keys", "_offered", "_order", "known")

    def __init__(self, max_keys: int, max_key_size: int) -> None:
        self._max_keys = max_keys
        self._max_key_size = max_key_size
        self.known: dict[Key, Value] = {}
        # The keys in ``known``, the oldest first.
        self._order: deque[Key] = deque()
        # The hashes of keys that were offered. A later key with the same place overwrites a hash.
        self._offered = array("q", bytes(8 * max_keys))

    def offer(self, key: Key, value: Value, size: int) -> None:
        """Keep a value that was just made, if its key was offered before.

        ``size`` is that of the key in bytes.
        """
        if size > self._max_key_size:
            return
        key_hash = hash(key)
        place = key_hash % self._max_keys
        if self._offered[place] == key_hash:
            self.known[key] = value
            self._order.append(key)
            if len(self._order) > self._max_keys:
                self.known.pop(self._order.popleft(), None)
        self._offered[place] = key_hash
