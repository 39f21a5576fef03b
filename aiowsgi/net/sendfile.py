"""Sends a file to a client on the loop thread, as fast as the client takes it."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable

from ..wsgi.file_wrapper import FilePart

_log = logging.getLogger("aiowsgi.error")

# At a time, in bytes, before other connections have their turn.
_PER_PASS = 1 << 20
_COPIED_PER_PASS = 1 << 17
# Answers of a system that cannot send this file, or to this socket, without copying.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTSOCK)


def _read(descriptor: int, size: int, offset: int) -> bytes:
    """Return a part of a file, whose descriptor is closed. Called on a thread of the executor."""
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


class FileSender:
    """Sends a part of a file, which it owns, over a transport that has nothing else to send.

    Implements ``FileTransfer``.

    Arguments: the transport and its loop; the part; ``on_end(complete)``, called on the loop thread
    once, unless ``close`` comes first. ``complete`` is False where the file has become shorter, or
    cannot be read.

    It uses ``os.sendfile``, which neither loop offers for a transport of its own making: on a
    duplicate of the socket's descriptor, because the loops guard those of their transports. Where
    there is none, or TLS is to be spoken, the file is copied through the transport.

    What is copied is read by the threads of the loop's own executor: a disk may be slow, and the
    loop has other connections. These threads exist in every program that uses asyncio, the loop's
    owner ends them, and a forked child, which has none of them, copies nothing. A thread has a
    descriptor of its own, so that this one can be closed whatever the thread does.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        part: FilePart,
        on_end: Callable[[bool], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._part = part
        self._on_end = on_end
        self._socket: socket.socket = transport.get_extra_info("socket")
        # The duplicate, once it is needed to wait for room.
        self._waiting_on: int | None = None
        self._copies = not hasattr(os, "sendfile") or bool(transport.get_extra_info("sslcontext"))
        self._closed = False
        # Whether a thread reads what is to be copied next.
        self._is_reading = False

    @property
    def unsent(self) -> int:
        """How many bytes of the file have not been handed over."""
        return self._part.size

    def descriptors(self) -> list[int]:
        """Return the descriptors that it has beside the file's."""
        return [] if self._waiting_on is None else [self._waiting_on]

    def send(self) -> None:
        """Send as much as there is room for, and go on when there is more."""
        if self._closed or self._is_reading:
            return
        try:
            if self._copies:
                self._copy()
            else:
                self._send_without_copying()
        except (BlockingIOError, InterruptedError):
            self._wait()
        except ConnectionError:
            self._transport.abort()
        except OSError as error:
            if not self._copies and error.errno in _UNSUPPORTED:
                self._copy_from_here_on()
            else:
                self._fail(error)

    def close(self) -> None:
        """Stop, and let the file go."""
        self._closed = True
        self._stop_waiting()
        self._part.close()

    def _send_without_copying(self) -> None:
        part = self._part
        sent = os.sendfile(
            self._socket.fileno(), part.descriptor, part.offset, min(part.size, _PER_PASS)
        )
        self._advance(sent)
        if not self._closed:
            self._wait()

    def _copy(self) -> None:
        """Have a piece read, to hand it to the transport."""
        part = self._part
        size = min(part.size, _COPIED_PER_PASS)
        try:
            descriptor = os.dup(part.descriptor)
        except OSError:
            # None is left, or it is broken, which shows.
            self._hand_over(os.pread(part.descriptor, size, part.offset))
            return
        try:
            reading = self._loop.run_in_executor(None, _read, descriptor, size, part.offset)
        except BaseException:
            os.close(descriptor)
            raise
        self._is_reading = True
        reading.add_done_callback(self._on_read)

    def _on_read(self, reading: "asyncio.Future[bytes]") -> None:
        self._is_reading = False
        if reading.cancelled():
            return
        error = reading.exception()  # In any case: else the loop would tell of it.
        if self._closed:
            return
        if error is None:
            self._hand_over(reading.result())
        else:
            self._fail(error)

    def _hand_over(self, data: bytes) -> None:
        """Hand a piece to the transport; the protocol calls ``send`` when that has sent it."""
        if data:
            self._transport.write(data)
            if self._closed:
                return  # Memory is short, and this client was one of the slowest.
        self._advance(len(data))
        if not self._closed and not self._transport.get_write_buffer_size():
            self._loop.call_soon(self.send)

    def _advance(self, sent: int) -> None:
        self._part.offset += sent
        self._part.size -= sent
        if not self._part.size:
            self._end(True)
        elif not sent:
            _log.error("A file has become shorter while it was sent; the connection is cut")
            self._end(False)

    def _fail(self, error: BaseException) -> None:
        _log.error("A file cannot be sent to its end, the connection is cut: %s", error)
        self._end(False)

    def _end(self, complete: bool) -> None:
        self.close()
        self._on_end(complete)

    def _copy_from_here_on(self) -> None:
        self._stop_waiting()
        self._copies = True
        self._loop.call_soon(self.send)

    def _wait(self) -> None:
        if self._waiting_on is not None:
            return
        try:
            self._waiting_on = os.dup(self._socket.fileno())
        except OSError:  # No descriptor is left. The transport has one.
            self._copy_from_here_on()
        else:
            self._loop.add_writer(self._waiting_on, self.send)

    def _stop_waiting(self) -> None:
        if self._waiting_on is not None:
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                self._loop.remove_writer(self._waiting_on)
            os.close(self._waiting_on)
            self._waiting_on = None
