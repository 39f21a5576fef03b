"""Files on their way to a client, on both event loops and over real sockets.

What a kernel answers only on other systems, or in years, is answered in its place.
"""

import asyncio
import contextlib
import errno
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from descriptors import descriptors_used_up, open_descriptors
from raw_client import TIMEOUT, eventually, on_each_loop
from sent_files import fail_sendfile

from aiowsgi.net.sendfile import FileSender
from aiowsgi.wsgi.file_wrapper import FilePart

# Several times what a socket takes.
DATA = random.Random("file").randbytes(3_000_001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


class Transport:
    """A real transport, of which a test knows what was asked, and that may claim to be another."""

    def __init__(self, transport: asyncio.Transport, *, tls: bool) -> None:
        self._transport = transport
        self._sslcontext = object() if tls else None
        # Whose descriptor its socket tells.
        self.target: socket.socket | BinaryIO = transport.get_extra_info("socket")
        # How many bytes it was given, and how many of them at a time.
        self.copied = self.largest = 0
        self.aborted = False

    def get_extra_info(self, name: str) -> Any:
        return {"socket": self, "sslcontext": self._sslcontext}[name]

    def fileno(self) -> int:
        return self.target.fileno()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        assert not self.get_write_buffer_size(), "there is no room"
        self.copied += len(data)
        self.largest = max(self.largest, len(data))
        self._transport.write(data)

    def abort(self) -> None:
        self.aborted = True
        self._transport.abort()


class Loop:
    """The running loop, which counts how often it has said that there is room."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.call_soon = self._loop.call_soon
        self.run_in_executor = self._loop.run_in_executor
        self.calls = 0
        self.writers: set[int] = set()

    def add_writer(self, descriptor: int, callback: Callable[[], object]) -> None:
        def counted() -> None:
            self.calls += 1
            callback()

        self._loop.add_writer(descriptor, counted)
        self.writers.add(descriptor)

    def remove_writer(self, descriptor: int) -> None:
        os.fstat(descriptor)
        self._loop.remove_writer(descriptor)
        self.writers.remove(descriptor)


class Room(asyncio.Protocol):
    """Tells a sender, as a connection does, when there is room again, and nobody any more."""

    def __init__(self) -> None:
        self.sender: FileSender | None = None

    def eof_received(self) -> bool:
        return True

    def resume_writing(self) -> None:
        assert self.sender is not None
        asyncio.get_running_loop().call_soon(self.sender.send)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.sender is not None
        self.sender.close()


class Sending:
    """A file on its way. Use ``sending``."""

    def __init__(self, transport: Transport, client: socket.socket, part: FilePart) -> None:
        self.transport = transport
        self.client = client
        self.part = part
        self.loop = Loop()
        self.received = bytearray()
        self.ends: list[bool] = []
        self._ended = asyncio.Event()
        self.sender = FileSender(
            cast(asyncio.Transport, transport),
            cast(asyncio.AbstractEventLoop, self.loop),
            part,
            self._end,
        )

    def _end(self, complete: bool) -> None:
        self.ends.append(complete)
        self._ended.set()

    def take(self) -> None:
        """Let the client read what has arrived."""
        with contextlib.suppress(BlockingIOError):
            while data := self.client.recv(1 << 20):
                self.received += data

    async def wait_until_full(self) -> None:
        """Let the loop have so many passes that more would change nothing."""
        unsent = -1
        while unsent != self.sender.unsent:
            unsent = self.sender.unsent
            await passes()

    async def run(self, *, begun: bool = False) -> bytes:
        """Send to a client that takes everything, until it ends; return what that has got."""
        if not begun:
            self.sender.send()
        async with asyncio.timeout(TIMEOUT):
            while not self._ended.is_set() or self.transport.get_write_buffer_size():
                self.take()
                await asyncio.sleep(0)
        self.take()
        assert not self.loop.writers
        assert len(self.ends) == 1
        return bytes(self.received)


async def passes() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def sending(
    path: Path, *, offset: int = 0, size: int = len(DATA), tls: bool = False
) -> AsyncIterator[Sending]:
    """Give a part of a file to a sender, which has nothing open any more behind the block."""
    ours, client = socket.socketpair()
    for sock in (ours, client):
        sock.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, room = await loop.create_unix_connection(Room, sock=ours)
    transport.set_write_buffer_limits(high=0)
    before = open_descriptors()
    part = FilePart(os.open(path, os.O_RDONLY), offset, size)
    one = Sending(Transport(transport, tls=tls), client, part)
    room.sender = one.sender
    try:
        yield one
    finally:
        one.sender.close()
        assert not one.loop.writers
        # A thread may be reading.
        await eventually(lambda: open_descriptors() <= before)
        transport.abort()
        client.close()


sent_or_copied = pytest.mark.parametrize("tls", [False, True], ids=["sent", "copied"])
at_once_or_later = pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])


@on_each_loop
async def test_file_is_sent_by_the_kernel(path: Path) -> None:
    async with sending(path) as one:
        assert await one.run() == DATA
        assert one.ends == [True]
        assert one.transport.copied == 0


@on_each_loop
@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (1, 70_000), (2_000_000, 1_000_001), (3_000_000, 1)]
)
@sent_or_copied
async def test_part_of_a_file_is_sent(path: Path, offset: int, size: int, tls: bool) -> None:
    async with sending(path, offset=offset, size=size, tls=tls) as one:
        assert await one.run() == DATA[offset : offset + size]
        assert one.ends == [True]


@on_each_loop
async def test_others_have_their_turn_however_fast_the_client_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client on the same machine takes a file of any size as fast as it can be sent."""
    sizes: list[int] = []
    at_pass: list[int] = []
    number = 0

    def boundless(target: int, source: int, offset: int, size: int) -> int:
        sizes.append(size)
        at_pass.append(number)
        return size

    def other() -> None:
        nonlocal number
        number += 1
        if not one.ends:
            loop.call_soon(other)

    monkeypatch.setattr("os.sendfile", boundless)
    loop = asyncio.get_running_loop()
    async with sending(path) as one:
        one.sender.send()
        assert one.sender.unsent == len(DATA) - (1 << 20)
        other()
        await eventually(lambda: one.ends)
        assert one.ends == [True]
    assert sizes == [1 << 20, 1 << 20, len(DATA) - (2 << 20)]
    assert at_pass == sorted(set(at_pass)), "twice in one pass"


@on_each_loop
async def test_sender_waits_for_room(path: Path) -> None:
    async with sending(path) as one:
        one.sender.send()
        await one.wait_until_full()
        calls, unsent = one.loop.calls, one.sender.unsent
        assert 0 < unsent < len(DATA)
        await passes()
        assert (one.loop.calls, one.sender.unsent) == (calls, unsent), "it asks without room"
        one.take()
        await eventually(lambda: one.sender.unsent < unsent)
        assert await one.run(begun=True) == DATA


@on_each_loop
@pytest.mark.parametrize("interruption", [errno.EAGAIN, errno.EINTR])
async def test_interruption_is_no_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, interruption: int
) -> None:
    sendfile = os.sendfile
    interruptions = [interruption] * 3

    def interrupted(target: int, source: int, offset: int, size: int) -> int:
        if interruptions:
            raise OSError(interruptions.pop(), "once more")
        return sendfile(target, source, offset, size)

    monkeypatch.setattr("os.sendfile", interrupted)
    async with sending(path) as one:
        assert await one.run() == DATA


@on_each_loop
@at_once_or_later
async def test_file_that_the_kernel_does_not_send_is_copied(
    path: Path, tmp_path: Path, later: bool
) -> None:
    """To a file that is opened to be appended to Linux sends nothing, nor do others to any file.

    What is copied goes to the socket of the transport.
    """
    with (tmp_path / "other").open("ab") as other:
        async with sending(path) as one:
            if later:
                one.sender.send()
            one.transport.target = other
            assert await one.run(begun=later) == DATA
            assert one.ends == [True]
            assert 0 < one.transport.largest <= 1 << 17


@on_each_loop
@at_once_or_later
@pytest.mark.parametrize(
    "error",
    [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTSOCK],
    ids=errno.errorcode.get,
)
async def test_file_that_the_system_does_not_send_is_copied(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: int, later: bool
) -> None:
    fail_sendfile(monkeypatch, 2 if later else 0, error)
    async with sending(path) as one:
        assert await one.run() == DATA
        assert one.ends == [True]
        assert 0 < one.transport.largest <= 1 << 17


@on_each_loop
async def test_file_is_copied_where_the_system_sends_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.sendfile")
    async with sending(path) as one:
        assert await one.run() == DATA
        assert one.ends == [True]


@on_each_loop
async def test_file_is_copied_where_it_has_to_be_encrypted(path: Path) -> None:
    async with sending(path, tls=True) as one:
        assert await one.run() == DATA
        assert one.ends == [True]
        assert one.transport.copied == len(DATA)


@on_each_loop
async def test_the_loop_goes_on_while_a_slow_disk_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    pread = os.pread

    def slow(descriptor: int, size: int, offset: int) -> bytes:
        reading.set()
        assert go_on.wait(TIMEOUT)
        return pread(descriptor, size, offset)

    monkeypatch.setattr("os.pread", slow)
    async with sending(path, tls=True) as one:
        one.sender.send()
        await eventually(reading.is_set)
        one.sender.send()  # There is room. That changes nothing.
        await passes()
        assert one.transport.copied == 0
        go_on.set()
        assert await one.run(begun=True) == DATA


@on_each_loop
async def test_client_that_leaves_while_a_slow_disk_is_read_is_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow(descriptor: int, size: int, offset: int) -> bytes:
        reading.set()
        assert go_on.wait(TIMEOUT)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("os.pread", slow)
    async with sending(path, tls=True) as one:
        one.sender.send()
        await eventually(reading.is_set)
        one.sender.close()
        assert one.part.descriptor == -1
        go_on.set()
        await passes()
        assert (one.ends, one.transport.copied) == ([], 0)


@on_each_loop
async def test_no_more_is_copied_than_the_client_takes(path: Path) -> None:
    async with sending(path, tls=True) as one:
        one.sender.send()
        await eventually(one.transport.get_write_buffer_size)
        unsent = one.sender.unsent
        await passes()
        assert one.sender.unsent == unsent > len(DATA) / 2
        assert await one.run(begun=True) == DATA


@on_each_loop
async def test_file_is_copied_where_no_descriptor_is_left_to_wait_with(path: Path) -> None:
    async with sending(path) as one:
        with descriptors_used_up():
            assert await one.run() == DATA
        assert one.ends == [True]
        assert one.transport.copied > 0


@on_each_loop
@sent_or_copied
async def test_file_that_becomes_shorter_ends_incomplete(
    path: Path, caplog: pytest.LogCaptureFixture, tls: bool
) -> None:
    async with sending(path, tls=tls) as one:
        one.sender.send()
        os.truncate(path, 2_000_000)
        assert await one.run(begun=True) == DATA[:2_000_000]
        assert one.ends == [False]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "shorter" in caplog.text


@on_each_loop
async def test_file_that_becomes_longer_is_sent_as_it_was(path: Path) -> None:
    async with sending(path) as one:
        one.sender.send()
        with path.open("ab") as file:
            file.write(b"another line of the log")
        assert await one.run(begun=True) == DATA
        assert one.ends == [True]


@on_each_loop
@at_once_or_later
@sent_or_copied
async def test_file_that_cannot_be_read_ends_incomplete(
    path: Path, caplog: pytest.LogCaptureFixture, tls: bool, later: bool
) -> None:
    async with sending(path, tls=tls) as one:
        if later:
            one.sender.send()
        unreadable = os.open(path, os.O_WRONLY)
        os.dup2(unreadable, one.part.descriptor)
        os.close(unreadable)
        received = await one.run(begun=later)
        assert one.ends == [False]
        assert bool(received) is later
        assert received == DATA[: len(received)]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert os.strerror(errno.EBADF) in caplog.text


@on_each_loop
async def test_copy_that_is_answered_like_a_file_that_has_to_be_copied_ends_incomplete(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same error says "copy it" when the kernel is asked to send."""
    async with sending(path, offset=-1, size=10, tls=True) as one:
        assert await one.run() == b""
        assert one.ends == [False]
    (record,) = caplog.records
    assert os.strerror(errno.EINVAL) in record.getMessage()


@on_each_loop
async def test_client_that_has_gone_is_no_error(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with sending(path) as one:
        one.sender.send()
        one.client.close()
        one.sender.send()
        assert one.transport.aborted
        await passes()
        # What follows from that is up to the connection.
        assert one.ends == []
    assert caplog.records == []


@on_each_loop
async def test_sender_that_is_closed_stops(path: Path) -> None:
    async with sending(path) as one:
        one.sender.send()
        one.loop.call_soon(one.sender.send)
        unsent = one.sender.unsent
        one.sender.close()
        one.sender.close()
        assert not one.loop.writers
        one.take()
        await passes()
        assert (one.sender.unsent, one.ends) == (unsent, [])
