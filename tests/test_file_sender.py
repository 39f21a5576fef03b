"""Files on their way to a client, on a loop and a clock that the test moves."""

import asyncio
import contextlib
import errno
import os
import random
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sent_files import fail_sendfile

from aiowsgi.net.sendfile import FileSender
from aiowsgi.wsgi.file_wrapper import FilePart

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

# Several times what a socket takes.
DATA = random.Random("file").randbytes(3_000_001)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"

SendFile = Callable[[int, int, int, int], int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the offset and size of every call of ``os.sendfile``."""
    calls: list[tuple[int, int]] = []
    sendfile = os.sendfile

    def spy(target: int, source: int, offset: int, size: int) -> int:
        assert size > 0, "on some systems 0 is everything"
        calls.append((offset, size))
        return sendfile(target, source, offset, size)

    monkeypatch.setattr("os.sendfile", spy)
    return calls


class Wire:
    """A transport over one end of a pair of sockets, its loop, and a client at the other end."""

    def __init__(self, *, tls: bool = False) -> None:
        self.socket, self.client = socket.socketpair()
        self.socket.setblocking(False)
        self.client.setblocking(False)
        self._info = {"socket": self.socket, "sslcontext": object() if tls else None}
        self._ready: list[Callable[[], object]] = []
        self.writers: dict[int, Callable[[], object]] = {}
        self.unsent = b""
        # Called when there is room again, as the protocol does.
        self.on_room: Callable[[], object] = lambda: None
        self.largest = 0
        self.aborted = False
        self.received = bytearray()

    def close(self) -> None:
        self.socket.close()
        self.client.close()

    # The loop.

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._ready.append(callback)

    def add_writer(self, descriptor: int, callback: Callable[[], object]) -> None:
        assert descriptor != self.socket.fileno(), "that one belongs to the transport"
        os.fstat(descriptor)
        self.writers[descriptor] = callback

    def remove_writer(self, descriptor: int) -> None:
        os.fstat(descriptor)
        del self.writers[descriptor]

    def turn(self) -> None:
        """Run what is due now, and not what that makes due."""
        ready, self._ready = self._ready, []
        for callback in ready:
            callback()
        _, writable, _ = select.select([], list(self.writers), [], 0)
        for descriptor in writable:
            self.writers[descriptor]()

    # The transport.

    def get_extra_info(self, name: str) -> Any:
        return self._info[name]

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def write(self, data: bytes) -> None:
        assert not self.unsent, "there is no room"
        self.unsent = data
        self.largest = max(self.largest, len(data))
        self._send()

    def _send(self) -> None:
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            return
        self.unsent = self.unsent[sent:]

    def abort(self) -> None:
        self.aborted = True

    # The client.

    def take(self) -> None:
        """Let the client read what has arrived."""
        with contextlib.suppress(BlockingIOError):
            while data := self.client.recv(1 << 20):
                self.received += data
        if self.unsent:
            self._send()
            if not self.unsent:
                self.on_room()


class Sending:
    """A file on its way."""

    def __init__(
        self, path: Path, *, offset: int = 0, size: int | None = None, tls: bool = False
    ) -> None:
        size = os.path.getsize(path) - offset if size is None else size
        self.part = FilePart(os.open(path, os.O_RDONLY), offset, size)
        self.wire = Wire(tls=tls)
        self.ends: list[bool] = []
        self.sender = FileSender(
            cast(asyncio.Transport, self.wire),
            cast(asyncio.AbstractEventLoop, self.wire),
            self.part,
            self.ends.append,
        )
        self.wire.on_room = lambda: self.wire.call_soon(self.sender.send)
        self._begun = False

    def begin(self) -> None:
        """Send what there is room for."""
        self._begun = True
        self.sender.send()

    def run(self) -> bytes:
        """Send until it ends, to a client that takes everything; return what that has got."""
        if not self._begun:
            self.begin()
        for _ in range(10_000):
            if self.ends or self.wire.aborted:
                break
            self.wire.take()
            self.wire.turn()
        while self.wire.unsent:
            self.wire.take()
        self.wire.take()
        assert not self.wire.writers
        assert len(self.ends) <= 1
        return bytes(self.wire.received)


@pytest.fixture
def sending(path: Path) -> Iterator[Callable[..., Sending]]:
    """Return a maker of ``Sending``."""
    made: list[Sending] = []

    def make(**options: Any) -> Sending:
        made.append(Sending(path, **options))
        return made[-1]

    yield make
    for one in made:
        one.sender.close()
        one.wire.close()


Make = Callable[..., Sending]


# The sender alone.


def test_file_is_sent_by_the_kernel(sending: Make, calls: list[tuple[int, int]]) -> None:
    one = sending()
    assert one.run() == DATA
    assert one.ends == [True]
    assert one.wire.largest == 0, "it was copied"
    assert calls[0] == (0, 1 << 20)
    assert len(calls) > 2


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (1, 70_000), (2_000_000, 1_000_001), (3_000_000, 1)]
)
@pytest.mark.parametrize("tls", [False, True], ids=["sent", "copied"])
def test_part_of_a_file_is_sent(sending: Make, offset: int, size: int, tls: bool) -> None:
    one = sending(offset=offset, size=size, tls=tls)
    assert one.run() == DATA[offset : offset + size]
    assert one.ends == [True]


def test_others_have_their_turn_however_fast_the_client_is(
    sending: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client on the same machine takes a file of any size as fast as it can be sent."""
    sizes: list[int] = []

    def boundless(target: int, source: int, offset: int, size: int) -> int:
        sizes.append(size)
        return size

    monkeypatch.setattr("os.sendfile", boundless)
    one = sending()
    one.begin()
    assert sizes == [1 << 20]
    assert one.sender.unsent == len(DATA) - (1 << 20)
    one.wire.turn()
    assert sizes == [1 << 20] * 2
    one.wire.turn()
    assert sizes == [1 << 20, 1 << 20, len(DATA) - (2 << 20)]
    assert one.ends == [True]


def test_sender_waits_for_room(sending: Make, calls: list[tuple[int, int]]) -> None:
    one = sending()
    one.begin()
    for _ in range(20):
        one.wire.turn()
    asked, unsent = len(calls), one.sender.unsent
    assert 0 < unsent < len(DATA)
    for _ in range(20):
        one.wire.turn()
    assert (len(calls), one.sender.unsent) == (asked, unsent), "it asks although there is no room"
    one.wire.take()
    one.wire.turn()
    assert one.sender.unsent < unsent
    assert one.run() == DATA


@pytest.mark.parametrize("interruption", [errno.EAGAIN, errno.EINTR])
def test_interruption_is_no_end(
    sending: Make, monkeypatch: pytest.MonkeyPatch, interruption: int
) -> None:
    sendfile = os.sendfile
    interruptions = [interruption] * 3

    def interrupted(target: int, source: int, offset: int, size: int) -> int:
        if interruptions:
            raise OSError(interruptions.pop(), "once more")
        return sendfile(target, source, offset, size)

    monkeypatch.setattr("os.sendfile", interrupted)
    assert sending().run() == DATA


@pytest.mark.parametrize("number", [0, 2], ids=["at once", "later"])
@pytest.mark.parametrize(
    "error",
    [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTSOCK],
    ids=errno.errorcode.get,
)
def test_file_that_the_system_does_not_send_is_copied(
    sending: Make, monkeypatch: pytest.MonkeyPatch, error: int, number: int
) -> None:
    fail_sendfile(monkeypatch, number, error)
    one = sending()
    assert one.run() == DATA
    assert one.ends == [True]
    assert 0 < one.wire.largest <= 1 << 17


def test_file_is_copied_where_the_system_sends_none(
    sending: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.sendfile")
    one = sending()
    assert one.run() == DATA
    assert one.ends == [True]


def test_file_is_copied_where_it_has_to_be_encrypted(
    sending: Make, calls: list[tuple[int, int]]
) -> None:
    one = sending(tls=True)
    assert one.run() == DATA
    assert one.ends == [True]
    assert calls == []


def test_no_more_is_copied_than_the_client_takes(sending: Make) -> None:
    one = sending(tls=True)
    one.begin()
    for _ in range(50):
        one.wire.turn()
    unsent = one.sender.unsent
    assert one.wire.unsent
    for _ in range(50):
        one.wire.turn()
    assert one.sender.unsent == unsent > len(DATA) / 2
    assert one.run() == DATA


def test_file_is_copied_where_no_descriptor_is_left_to_wait_with(
    sending: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor_left(descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    one = sending()
    monkeypatch.setattr("os.dup", no_descriptor_left)
    assert one.run() == DATA
    assert one.ends == [True]


@pytest.mark.parametrize("tls", [False, True], ids=["sent", "copied"])
def test_file_that_becomes_shorter_ends_incomplete(
    sending: Make, path: Path, caplog: pytest.LogCaptureFixture, tls: bool
) -> None:
    one = sending(tls=tls)
    one.begin()
    os.truncate(path, 2_000_000)
    assert one.run() == DATA[:2_000_000]
    assert one.ends == [False]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "shorter" in caplog.text


def test_file_that_becomes_longer_is_sent_as_it_was(sending: Make, path: Path) -> None:
    one = sending()
    one.begin()
    with open(path, "ab") as file:
        file.write(b"another line of the log")
    assert one.run() == DATA
    assert one.ends == [True]


@pytest.mark.parametrize("number", [0, 2], ids=["at once", "later"])
def test_file_that_cannot_be_read_ends_incomplete(
    sending: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    fail_sendfile(monkeypatch, number, errno.EIO)
    one = sending()
    received = one.run()
    assert one.ends == [False]
    assert received == DATA[: len(received)]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert os.strerror(errno.EIO) in caplog.text


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL])
def test_file_that_cannot_be_copied_ends_incomplete(
    sending: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    """The same errors that say "copy it" when the kernel is asked to send."""

    def failing(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("os.pread", failing)
    one = sending(tls=True)
    assert one.run() == b""
    assert one.ends == [False]
    assert len(caplog.records) == 1


def test_client_that_has_gone_is_no_error(sending: Make, caplog: pytest.LogCaptureFixture) -> None:
    one = sending()
    one.begin()
    one.wire.client.close()
    one.wire.turn()
    assert one.wire.aborted
    # The transport says what follows from that.
    assert one.ends == []
    one.sender.close()
    assert not one.wire.writers
    assert caplog.records == []


def test_sender_that_is_closed_stops(sending: Make, calls: list[tuple[int, int]]) -> None:
    one = sending()
    one.begin()
    one.wire.call_soon(one.sender.send)
    asked = len(calls)
    one.sender.close()
    one.sender.close()
    assert not one.wire.writers
    one.wire.take()
    one.wire.turn()
    assert (len(calls), one.ends) == (asked, [])
