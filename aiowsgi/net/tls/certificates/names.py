"""Which certificate is for which server name. Knows neither files nor TLS."""

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class NameTable(Generic[T]):
    """Values by the names of servers, as certificates have them: host names, and wildcards."""

    def __init__(self) -> None:
        self._exact: dict[str, T] = {}
        # By what stands behind "*.".
        self._wildcards: dict[str, T] = {}

    def add(self, names: Iterable[str], value: T) -> None:
        """Give names a value, except those that have one.

        A wildcard is a whole label, and the first one (RFC 9525 §6.3). Names with other asterisks
        stand for nothing, here as in clients.
        """
        for name in names:
            first, dot, rest = name.lower().partition(".")
            if first == "*" and dot and rest and "*" not in rest:
                self._wildcards.setdefault(rest, value)
            elif name and "*" not in name:
                self._exact.setdefault(name.lower(), value)

    def find(self, name: str) -> T | None:
        """Return the value of the server that a client asks for: its own, or that of a wildcard.

        The case of ASCII letters means nothing. A wildcard stands for exactly one label.
        """
        # A name in TLS has no dot at its end (RFC 6066 §3), and some clients send one.
        name = name.lower().removesuffix(".")
        if name in self._exact:
            return self._exact[name]
        first, _, rest = name.partition(".")
        return self._wildcards.get(rest) if first else None
