"""``wsgi.input``: a request body as a file (PEP 3333, "Input and Error Streams")."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# One read of the request body returns up to this many bytes.
_BUFFER_SIZE = 1 << 16


class _BodyReader(io.RawIOBase):
    """A streamed body as a raw file. ``io.BufferedReader`` adds lines and exact sizes."""

    def __init__(self, read_into: Callable[[memoryview], int]) -> None:
        self._read_into = read_into

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        return self._read_into(memoryview(buffer).cast("B"))


class _KeptReader(io.RawIOBase):
    """A body in memory as a raw file: in the pieces in which it has arrived, not to copy it."""

    def __init__(self, pieces: Sequence[bytes | bytearray]) -> None:
        self._pieces = pieces
        # Which piece is read next, and from where.
        self._index = self._start = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        # As ``io.BytesIO`` does, with the same errors: nothing is changed by a call that fails.
        if whence == io.SEEK_SET:
            before = 0
            if offset < 0:
                raise ValueError(f"negative seek value {offset}")
        elif whence == io.SEEK_CUR:
            before = self._index
            offset += self._start
        elif whence == io.SEEK_END:
            before = len(self._pieces)
        else:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        position = max(0, offset + sum(map(len, self._pieces[:before])))
        self._index, self._start = 0, position
        while self._index < len(self._pieces) and self._start >= len(self._pieces[self._index]):
            self._start -= len(self._pieces[self._index])
            self._index += 1
        return position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        wanted = memoryview(buffer).cast("B")
        size, done = len(wanted), 0
        while done < size and self._index < len(self._pieces):
            piece, start = self._pieces[self._index], self._start
            data = memoryview(piece)[start : start + size - done]
            wanted[done : done + len(data)] = data
            done += len(data)
            self._start += len(data)
            if self._start == len(piece):
                self._index += 1
                self._start = 0
        return done

    def readall(self) -> bytes:
        # The one of ``io.RawIOBase`` reads 8 KiB at a time, and joins that.
        if self._index == len(self._pieces):
            return b""
        first, *others = self._pieces[self._index :]
        rest = [memoryview(first)[self._start :], *others]
        self._index, self._start = len(self._pieces), 0
        return b"".join(rest)


class _Input(io.BufferedReader):
    """A buffered reader that takes the same arguments as ``io.BytesIO``."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(-1 if size is None or size < 0 else size)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        for line in self:
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines


def streamed_input(read_into: Callable[[memoryview], int]) -> BinaryIO:
    """Return the input of a request whose body is still arriving.

    ``read_into(buffer)`` moves at least one byte to a buffer, and returns how many; none at the
    end of the body. It may block. Every reading method passes its exceptions on.
    """
    return _Input(_BodyReader(read_into), _BUFFER_SIZE)


def kept_input(pieces: list[bytes | bytearray]) -> BinaryIO:
    """Return the input of a request whose body is in memory. It can be read more than once."""
    if len(pieces) > 1 and sum(map(len, pieces)) > _BUFFER_SIZE:
        return _Input(_KeptReader(pieces), _BUFFER_SIZE)
    return io.BytesIO(b"".join(pieces))


def spooled_input(file: io.FileIO) -> BinaryIO:
    """Return the input of a request whose body is in ``file``, positioned at its beginning."""
    return _Input(file, _BUFFER_SIZE)
