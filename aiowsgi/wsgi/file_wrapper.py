"""``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific File Handling")."""

from collections.abc import Callable, Iterator
from typing import Protocol


class Readable(Protocol):
    """A file-like object; its ``close`` is used where it has one."""

    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """An iterable over the blocks of a file-like object. ``block_size`` is in bytes."""

    def __init__(self, filelike: Readable, block_size: int = 1 << 16) -> None:
        self._filelike = filelike
        self._block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        while block := self._filelike.read(self._block_size):
            yield block

    def close(self) -> None:
        """Close the file-like object, if it can be closed."""
        close: Callable[[], None] | None = getattr(self._filelike, "close", None)
        if close is not None:
            close()
