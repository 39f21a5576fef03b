"""``wsgi.file_wrapper`` (PEP 3333, "Optional Platform-Specific File Handling")."""

import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, cast

# Types that read a file of the operating system as it is. Other file-like objects may decode or
# decrypt what they read.
_FILES = (io.BufferedReader, io.BufferedRandom, io.FileIO)


class Readable(Protocol):
    """A file-like object. Its ``close`` is called if it has one."""

    def read(self, size: int, /) -> bytes: ...


class FilePart:
    """The part of a file that is the body of a response, with a descriptor of its own.

    ``offset`` and ``size`` are in bytes.
    """

    __slots__ = ("descriptor", "offset", "size")

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.size = size

    def close(self) -> None:
        """Close the descriptor. Idempotent; called by the owner of the part."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class FileWrapper:
    """An iterable over the blocks of a file-like object. ``block_size`` is in bytes.

    A server that sends files by other means asks for ``part`` instead.
    """

    def __init__(self, filelike: Readable, block_size: int = 1 << 16) -> None:
        self._filelike = filelike
        self._block_size = block_size

    def __iter__(self) -> Iterator[bytes]:
        # The iterator is the object itself: code that closes the iterator closes the file.
        return self

    def __next__(self) -> bytes:
        if block := self._filelike.read(self._block_size):
            return block
        raise StopIteration

    # Frameworks that answer a range request look for these methods. Without them they would read
    # all bytes before the range.

    def seekable(self) -> bool:
        """Return whether the file-like object has positions to go to."""
        seekable: Callable[[], bool] | None = getattr(self._filelike, "seekable", None)
        return seekable is not None and seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position of the file-like object, which is ``seekable``."""
        return cast(BinaryIO, self._filelike).seek(offset, whence)

    def tell(self) -> int:
        """Return the position of the file-like object, which is ``seekable``."""
        return cast(BinaryIO, self._filelike).tell()

    def close(self) -> None:
        """Close the file-like object, if it can be closed."""
        close: Callable[[], None] | None = getattr(self._filelike, "close", None)
        if close is not None:
            close()

    def part(self) -> FilePart | None:
        """Return the rest of the file from its position on; None if it is no regular file."""
        if not hasattr(os, "pread"):
            return None  # The system cannot read at an offset.
        read = self._filelike.read
        # An application with a temporary file has imported this module. To import it here would
        # take a MiB for nothing.
        tempfile = sys.modules.get("tempfile")
        if tempfile is not None and getattr(read, "__globals__", None) is vars(tempfile):
            read = getattr(read, "__wrapped__", read)
        # The file that is read in the end. Files of Django and temporary files are objects in front
        # of it, which pass its ``read`` on.
        file = getattr(read, "__self__", None)
        if type(file) not in _FILES:
            return None
        assert isinstance(file, _FILES)
        raw = file if isinstance(file, io.FileIO) else file.raw
        if type(raw) is not io.FileIO:
            return None
        try:
            if isinstance(file, io.BufferedRandom):
                file.flush()
            offset = file.tell()
            status = os.fstat(raw.fileno())
            size = status.st_size - offset
            # Some files of the system, such as those in /proc, report the size 0, and are not
            # empty.
            if not stat.S_ISREG(status.st_mode) or size <= 0:
                return None
            # Others have fewer bytes than they report, or cannot be read.
            if not os.pread(raw.fileno(), 1, status.st_size - 1):
                return None
            # A descriptor of its own, because the application may close the file before it is sent.
            return FilePart(os.dup(raw.fileno()), offset, size)
        except (OSError, ValueError):
            # It is closed, or has no position. The caller reads it, which gives a better error.
            return None
