"""``wsgi.input``: a request body as a file (PEP 3333, "Input and Error Streams")."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# One read of the request body returns up to this many bytes.
_BUFFER_SIZE = 1 << 16


class _BodyReader(io.RawIOBase):
    """A streamed body as a raw file. ``io.BufferedReader`` adds lines and exact sizes."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._read(len(view))
        view[: len(data)] = data
        return len(data)


class _StreamedInput(io.BufferedReader):
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


def streamed_input(read: Callable[[int], bytes]) -> BinaryIO:
    """Return the input of a request whose body is still arriving.

    ``read(size)`` returns 1 to ``size`` bytes, and none at the end of the body. It may block. Every
    reading method passes its exceptions on.
    """
    return _StreamedInput(_BodyReader(read), _BUFFER_SIZE)


def spooled_input(file: io.FileIO) -> BinaryIO:
    """Return the input of a request whose body is in ``file``, positioned at its beginning."""
    return _StreamedInput(file, _BUFFER_SIZE)
