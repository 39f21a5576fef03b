"""``wsgi.file_wrapper``: what it reads, and which files it hands over without reading them."""

# ruff: noqa: SIM115 - files are opened here for others to close

import bz2
import contextlib
import errno
import functools
import gzip
import io
import lzma
import mmap
import os
import random
import socket
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.base import File  # type: ignore[import-untyped]
from django.db.models.fields.files import FieldFile  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.wsgi.file_wrapper import FilePart, FileWrapper

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

# More than the buffer of a file.
DATA = random.Random("file").randbytes(200_003)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


# What is read.


class Reads:
    """A file-like object without ``close`` that records the sizes it is asked for."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = list(blocks)
        self.sizes: list[int] = []

    def read(self, size: int, /) -> bytes:
        self.sizes.append(size)
        return self.blocks.pop(0) if self.blocks else b""


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1000])
def test_the_file_comes_in_blocks(size: int) -> None:
    data = bytes(range(250)) * 4
    blocks = list(FileWrapper(io.BytesIO(data[:size]), 4))
    assert b"".join(blocks) == data[:size]
    assert {len(block) for block in blocks[:-1]} <= {4}


def test_it_reads_with_the_block_size_until_nothing_comes() -> None:
    # A raw file may give less than it is asked for before its end.
    file = Reads(b"aa", b"b", b"cc")
    assert list(FileWrapper(file, 2)) == [b"aa", b"b", b"cc"]
    assert file.sizes == [2, 2, 2, 2]


def test_the_block_size_has_a_default() -> None:
    file = Reads()
    assert list(FileWrapper(file)) == []
    assert file.sizes == [1 << 16]


def test_it_starts_where_the_file_stands() -> None:
    file = io.BytesIO(b"0123456789")
    file.seek(7)
    assert list(FileWrapper(file)) == [b"789"]


def test_who_closes_the_iterator_closes_the_file() -> None:
    """Werkzeug cuts a range out of it, and knows nothing but its iterator by then."""
    file = io.BytesIO(b"0123456789")
    iterator: Any = iter(FileWrapper(file, 4))
    assert next(iterator) == b"0123"
    iterator.close()
    assert file.closed


def test_it_goes_where_the_file_can_go() -> None:
    wrapper = FileWrapper(io.BytesIO(b"0123456789"), 2)
    assert wrapper.seekable()
    assert wrapper.seek(3) == wrapper.tell() == 3
    assert next(wrapper) == b"34"
    assert wrapper.seek(-1, os.SEEK_END) == wrapper.tell() == 9
    assert list(wrapper) == [b"9"]


def test_it_goes_nowhere_where_the_file_cannot() -> None:
    assert not FileWrapper(Reads(b"a")).seekable()
    reader, writer = os.pipe()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert not FileWrapper(pipe).seekable()


def test_close_closes_the_file() -> None:
    file = io.BytesIO(b"a")
    wrapper = FileWrapper(file)
    assert not file.closed
    wrapper.close()
    assert file.closed


def test_close_without_a_close_does_nothing() -> None:
    file = Reads(b"a")
    FileWrapper(file).close()
    assert file.sizes == []


# Files that are handed over.


def content(part: FilePart | None) -> bytes:
    """Return what a server would send that takes the part, and close it."""
    assert part is not None, "it has to be read"
    with contextlib.closing(part):
        data = os.pread(part.descriptor, part.size + 1, part.offset)
        assert len(data) == part.size
        return data


def filled(file: Any) -> Any:
    file.write(DATA)
    file.seek(0)
    return file


def deleted(path: Path) -> Any:
    file = open(path, "rb")
    path.unlink()
    return file


def field_file(path: Path) -> Any:
    storage = SimpleNamespace(open=lambda name, mode: File(open(name, mode)))
    return FieldFile(None, SimpleNamespace(storage=storage), str(path))


class Proxy:
    """Has nothing of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


FILES: dict[str, Callable[[Path], Any]] = {
    "buffered": lambda path: open(path, "rb"),
    "raw": lambda path: open(path, "rb", buffering=0),
    "random access": lambda path: open(path, "r+b"),
    "raw random access": lambda path: open(path, "r+b", buffering=0),
    "small buffer": lambda path: open(path, "rb", buffering=16),
    "FileIO": lambda path: io.FileIO(path),
    "descriptor": lambda path: os.fdopen(os.open(path, os.O_RDONLY), "rb"),
    "open_code": lambda path: io.open_code(str(path)),
    "deleted": deleted,
    "TemporaryFile": lambda _: filled(tempfile.TemporaryFile()),
    "NamedTemporaryFile": lambda _: filled(tempfile.NamedTemporaryFile()),
    "Django File": lambda path: File(open(path, "rb")),
    "Django FieldFile": field_file,
    "Django upload": lambda _: File(filled(tempfile.NamedTemporaryFile())),
    "proxy": lambda path: Proxy(open(path, "rb")),
}

MOVES: dict[str, Callable[[Any], object]] = {
    "at the start": lambda file: None,
    "behind a byte": lambda file: file.read(1),
    "behind a buffer": lambda file: file.read(io.DEFAULT_BUFFER_SIZE),
    "behind more": lambda file: file.read(100_000),
    "behind a line": lambda file: file.readline(),
    "behind a seek": lambda file: file.seek(7),
    "back in the buffer": lambda file: (file.read(50), file.seek(10)),
    "before the end": lambda file: file.seek(-1, os.SEEK_END),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("open_file", FILES.values(), ids=FILES)
def test_part_is_what_would_be_read(
    path: Path, open_file: Callable[[Path], Any], move: Callable[[Any], object]
) -> None:
    with contextlib.closing(open_file(path)) as file:
        move(file)
        wrapper = FileWrapper(file)
        data = content(wrapper.part())
        assert data
        assert data == b"".join(wrapper)


OPERATIONS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 120)),
    st.tuples(st.just("seek"), st.integers(0, 110)),
    st.tuples(st.just("write"), st.binary(max_size=20)),
)


@given(st.lists(OPERATIONS, max_size=8))
def test_part_of_a_file_that_is_being_written_is_what_would_be_read(
    operations: list[tuple[str, Any]],
) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(DATA[:100])
        file.seek(0)
        for name, argument in operations:
            getattr(file, name)(argument)
        wrapper = FileWrapper(file)
        part = wrapper.part()
        position = file.tell()
        rest = b"".join(wrapper)
        assert (b"" if part is None else content(part)) == rest
        file.seek(0)
        assert file.read()[position:] == rest


def test_bytes_that_were_written_and_not_flushed_belong_to_the_part(path: Path) -> None:
    with open(path, "r+b") as file:
        file.read(50)
        file.seek(10)
        file.write(b"new")
        file.seek(8)
        assert content(FileWrapper(file).part())[:7] == DATA[8:10] + b"new" + DATA[13:15]


def test_part_outlives_the_file(path: Path) -> None:
    with open(path, "rb") as file:
        file.read(5)
        part = FileWrapper(file).part()
        file.seek(100)
    path.unlink()
    path.write_bytes(b"another one")
    assert content(part) == DATA[5:]


def test_descriptor_of_a_part_is_its_own(path: Path) -> None:
    with open(path, "rb") as file:
        part = FileWrapper(file).part()
        assert part is not None
        assert part.descriptor != file.fileno()
        assert not os.get_inheritable(part.descriptor)
        part.close()
        assert file.read() == DATA


def test_part_that_is_closed_twice_closes_nothing_else(path: Path) -> None:
    with open(path, "rb") as file:
        part = FileWrapper(file).part()
    assert part is not None
    number = part.descriptor
    part.close()
    # Another file gets the number, as happens all the time.
    with open(path, "rb") as file, open(os.dup2(file.fileno(), number), "rb") as other:
        part.close()
        assert other.read() == DATA


# What has to be read.


def compressed(module: Any) -> Callable[[Path], Any]:
    def make(path: Path) -> Any:
        path.write_bytes(module.compress(DATA))
        return module.open(path)

    return make


def zipped(path: Path) -> Any:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("member", DATA)
    with zipfile.ZipFile(path) as archive:
        return archive.open("member")


def archived(path: Path) -> Any:
    archive_path = path.with_suffix(".tar")
    with tarfile.open(archive_path, "w") as archive:
        archive.add(path, "member")
    archive = tarfile.open(archive_path)
    member: Any = archive.extractfile("member")
    return SimpleNamespace(read=member.read, close=archive.close)


def mapped(path: Path) -> Any:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def piped(buffering: int) -> Callable[[Path], Any]:
    def make(path: Path) -> Any:
        reader, writer = os.pipe()
        os.write(writer, b"few bytes")
        os.close(writer)
        return os.fdopen(reader, "rb", buffering)

    return make


def received(path: Path) -> Any:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"few bytes")
    theirs.close()
    with ours:
        return ours.makefile("rb")


class OwnReader(io.BufferedReader):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size)[::-1]


class OwnRandom(io.BufferedRandom):
    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size)[::-1]


class OwnRaw(io.FileIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return (super().read(size) or b"")[::-1]

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer) or 0
        buffer[:count] = bytes(buffer[:count])[::-1]
        return count


class Descrambler:
    """Has the descriptor of a file, and something else to read."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")
        self.fileno = self._file.fileno
        self.close = self._file.close

    def read(self, size: int, /) -> bytes:
        return self._file.read(size)[::-1]


def wrapped(path: Path) -> Any:
    """Make an object whose ``read`` is decorated as is good custom."""
    file = open(path, "rb")

    @functools.wraps(file.read)
    def read(size: int) -> bytes:
        return file.read(size)[::-1]

    return SimpleNamespace(read=read, close=file.close)


def wrapped_in_place(path: Path) -> Any:
    file: Any = open(path, "rb")
    read = file.read
    file.read = functools.wraps(read)(lambda size: read(size)[::-1])
    return file


def spooled(limit: int) -> Callable[[Path], Any]:
    # Its read is one of its own also when it has become a file.
    return lambda _: filled(tempfile.SpooledTemporaryFile(limit))


def moved(position: int) -> Callable[[Path], Any]:
    def make(path: Path) -> Any:
        file = open(path, "rb")
        file.seek(position)
        return file

    return make


def reversed_blocks(size: int) -> bytes:
    return b"".join(DATA[i : i + size][::-1] for i in range(0, len(DATA), size))


# How they are made, and what is read from them in blocks of 64 KiB.
READ: dict[str, tuple[Callable[[Path], Any], bytes]] = {
    "GzipFile": (compressed(gzip), DATA),
    "BZ2File": (compressed(bz2), DATA),
    "LZMAFile": (compressed(lzma), DATA),
    "member of a zip": (zipped, DATA),
    "member of a tar": (archived, DATA),
    "BytesIO": (lambda _: io.BytesIO(DATA), DATA),
    "Django File over BytesIO": (lambda _: File(io.BytesIO(DATA)), DATA),
    "spooled in memory": (spooled(1 << 20), DATA),
    "spooled to a file": (spooled(1 << 10), DATA),
    "mmap": (mapped, DATA),
    "pipe": (piped(-1), b"few bytes"),
    "raw pipe": (piped(0), b"few bytes"),
    "socket": (received, b"few bytes"),
    "device": (lambda _: open(os.devnull, "rb"), b""),
    "at its end": (moved(len(DATA)), b""),
    "behind its end": (moved(len(DATA) + 10), b""),
    "own BufferedReader": (lambda path: OwnReader(io.FileIO(path)), reversed_blocks(1 << 16)),
    "own BufferedRandom": (lambda path: OwnRandom(io.FileIO(path, "r+")), reversed_blocks(1 << 16)),
    "own FileIO": (lambda path: OwnRaw(path), reversed_blocks(1 << 16)),
    "buffered own FileIO": (
        lambda path: io.BufferedReader(OwnRaw(path), 1 << 16),
        reversed_blocks(1 << 16),
    ),
    "object with a fileno": (Descrambler, reversed_blocks(1 << 16)),
    "wrapped read": (wrapped, reversed_blocks(1 << 16)),
    "read wrapped in place": (wrapped_in_place, reversed_blocks(1 << 16)),
}


@pytest.mark.parametrize(("make", "expected"), READ.values(), ids=READ)
def test_what_is_no_plain_file_is_read(
    path: Path, make: Callable[[Path], Any], expected: bytes
) -> None:
    with contextlib.closing(make(path)) as file:
        wrapper = FileWrapper(file)
        assert wrapper.part() is None
        assert b"".join(wrapper) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="such files are Linux's")
@pytest.mark.parametrize("name", ["/proc/version", "/sys/devices/system/cpu/online"])
def test_what_the_system_makes_up_is_read(name: str) -> None:
    """Whatever size it claims to have: none, or that of a page."""
    with open(name, "rb") as file:
        wrapper = FileWrapper(file)
        assert wrapper.part() is None
        assert b"".join(wrapper) == Path(name).read_bytes() != b""


@pytest.mark.parametrize(
    "file", [io.StringIO("text"), io.TextIOWrapper(io.BytesIO(b"text"))], ids=["memory", "file"]
)
def test_text_is_read(file: Any) -> None:
    wrapper = FileWrapper(file)
    assert wrapper.part() is None
    blocks: list[Any] = list(wrapper)
    assert blocks == ["text"]


@pytest.mark.parametrize("buffering", [-1, 0])
def test_closed_file_gives_no_part(path: Path, buffering: int) -> None:
    with open(path, "rb", buffering=buffering) as file:
        wrapper = FileWrapper(file)
    assert wrapper.part() is None
    with pytest.raises(ValueError, match="closed"):
        list(wrapper)


def test_file_that_cannot_be_read_gives_no_part(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb", buffering=0) as file:
        file.write(DATA)
        file.seek(0)
        wrapper = FileWrapper(file)
        assert wrapper.part() is None
        with pytest.raises(io.UnsupportedOperation):
            list(wrapper)


@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_file_that_lost_its_descriptor_gives_no_part(path: Path, mode: str) -> None:
    file: Any = open(path, mode)
    with contextlib.suppress(io.UnsupportedOperation):
        file.write(b"never flushed")
    os.close(file.fileno())
    assert FileWrapper(file).part() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.close()


def test_object_that_has_every_attribute_is_read() -> None:
    class Recording:
        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, *args: object) -> bytes:
            return b""

    wrapper = FileWrapper(Recording())
    assert wrapper.part() is None
    assert list(wrapper) == []


def test_file_is_read_where_no_descriptor_is_left(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor_left(descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("os.dup", no_descriptor_left)
    with open(path, "rb") as file:
        wrapper = FileWrapper(file)
        assert wrapper.part() is None
        assert b"".join(wrapper) == DATA


def test_file_is_read_where_no_part_of_it_could_be(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.pread")
    with open(path, "rb") as file:
        wrapper = FileWrapper(file)
        assert wrapper.part() is None
        assert b"".join(wrapper) == DATA
