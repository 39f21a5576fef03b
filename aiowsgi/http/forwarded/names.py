"""The names of the fields, and of those that look like them in an environ. Data only."""

from collections.abc import Iterator, Mapping
from itertools import product

FOR = b"x-forwarded-for"
PROTO = b"x-forwarded-proto"
HOST = b"x-forwarded-host"
PORT = b"x-forwarded-port"
PREFIX = b"x-forwarded-prefix"
FORWARDED = b"forwarded"


def _alike(name: bytes) -> Iterator[bytes]:
    """Yield a name with underscores in place of some, all and none of its dashes."""
    first, *others = name.split(b"-")
    for marks in product((b"-", b"_"), repeat=len(others)):
        yield first + b"".join(mark + part for mark, part in zip(marks, others, strict=True))


# All names that make a key of the environ that one of the fields has.
NAMES: Mapping[bytes, bytes] = {
    alike: name for name in (FOR, PROTO, HOST, PORT, PREFIX, FORWARDED) for alike in _alike(name)
}
# As a set, which is the fastest to look for one of them.
ALL_NAMES = frozenset(NAMES)
