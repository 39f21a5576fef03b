"""The sending side of one connection: responses, as far and as fast as the client takes them."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from ..bridge.response import FINISHED, OPEN, Progress
from ..callbacks import no_callback
from ..exchange.stream import Exchange
from ..net.descriptors import DESCRIPTORS_OF_A_FILE
from ..net.sendfile import FileSender
from ..net.sockets import in_flight, is_plain, reset, shut_down
from ..server.site import Site
from ..wsgi.file_wrapper import FilePart
from .pace import Pace

# Bytes that the transport is given at a time.
_TAKE_BYTES = 1 << 18


class Sender:
    """Moves what threads have written to the transport. Everything happens on the loop thread.

    Arguments: the site, the transport and its socket, which it closes, and
    ``on_file_end(complete)``, called when a file that is the body of a response was sent, or could
    not be sent to its end.
    """

    __slots__ = (
        "_file",
        "_on_file_end",
        "_pace",
        "_paused",
        "_plain",
        "_site",
        "_socket",
        "_transport",
        "_unsent",
        "waiting",
    )

    def __init__(
        self,
        site: Site,
        transport: asyncio.Transport,
        sock: socket.socket,
        on_file_end: Callable[[bool], None],
    ) -> None:
        self._site = site
        self._transport = transport
        self._socket = sock
        self._plain = is_plain(transport)
        self._on_file_end = on_file_end
        self._file: FileSender | None = None
        self._paused = False
        # Of what the client takes of a response; None until it is first waited for.
        self._pace: Pace | None = None
        self._unsent = 0
        # Whether the client has to take something before there can be more.
        self.waiting = False
        # The transport says when it holds anything at all, and when that is gone: only then is a
        # response known to be out, and what is held for slow clients can be counted.
        transport.set_write_buffer_limits(high=0)

    @property
    def buffered(self) -> int:
        """How many bytes wait in memory for the client."""
        return self._transport.get_write_buffer_size() if self._paused else 0

    def allow_direct(self, exchange: Exchange) -> None:
        """Let the thread of an exchange send itself, if it can. Everything before this is sent."""
        if self._plain:
            exchange.allow_direct(self._socket)

    def flush(self, exchange: Exchange) -> Progress:
        """Send what the thread has written, as far as the client takes it.

        Return FINISHED once the kernel has it all, LEFT where there is more to send in another
        pass of the loop, ABORTED where the rest will not come, and OPEN where it has to wait.
        """
        if self.waiting:
            return OPEN
        pieces, progress = exchange.writer.take(_TAKE_BYTES)
        if pieces:
            if not exchange.first_byte_at:
                exchange.first_byte_at = self._site.clock()
            # Not writelines(), which in some releases of Python 3.12 and 3.13 knows neither that
            # the connection is lost (gh-136234) nor when to pause (CVE-2024-12254).
            try:
                self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            except BaseException:
                # They are lost, as for want of memory, and nothing may follow them.
                reset(self._transport)
                raise
        if self.waiting:
            return OPEN
        if progress is OPEN:
            exchange.writer.resume_direct()
        if progress is FINISHED and exchange.file is not None:
            tail = exchange.writer.take_tail()
            if tail is not None:
                self._send_file(cast(FilePart, tail))
                return OPEN
        if progress is FINISHED:
            self._pace = None
        return progress

    def _send_file(self, part: FilePart) -> None:
        self._site.file_descriptors += DESCRIPTORS_OF_A_FILE
        self._file = FileSender(self._transport, self._site.loop, part, self._end_file)
        self._watch()
        self._file.send()

    def _end_file(self, complete: bool) -> None:
        self._forget_file()
        self._unwatch()
        self._on_file_end(complete)

    def _forget_file(self) -> None:
        self._file = None
        self._site.file_descriptors -= DESCRIPTORS_OF_A_FILE

    def pause(self) -> None:
        """Take note that the transport holds bytes which the kernel does not take yet."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        """Take note that the transport holds nothing any more."""
        self._paused = False
        self._unwatch()
        if self._file is not None:
            # Not at once: the transport is in the midst of sending.
            self._site.loop.call_soon(self._file.send)

    def close(self) -> None:
        """Let go of everything, also of the owner: the connection is gone."""
        self._on_file_end = no_callback
        if self._file is not None:
            self._file.close()
            self._forget_file()
        shut_down(self._socket)

    def abandon(self) -> list[int]:
        """Return the descriptors that are the parent's, in a forked child."""
        own = [self._socket.fileno()]
        return own if self._file is None else own + self._file.abandon()

    # The client's pace.

    def _watch(self) -> None:
        if self.waiting:
            return
        self.waiting = True
        now = self._site.clock()
        if self._pace is None:
            self._pace = Pace(now)
        else:
            self._pace.resume(now)
        self._unsent = self._size()

    def _unwatch(self) -> None:
        if not self.waiting or self._paused or self._file is not None:
            return
        now = self._site.clock()
        self._look(now).rest(now)
        self.waiting = False

    def _size(self) -> int:
        """Return how many bytes the client has not taken of what is being sent."""
        size = self._transport.get_write_buffer_size() + in_flight(self._transport)
        return size if self._file is None else size + self._file.unsent

    def _look(self, now: float) -> Pace:
        """Return the pace up to ``now`` of the client, which is waited for."""
        assert self._pace is not None  # It has one since then.
        unsent = self._size()
        self._pace.move(self._unsent - unsent, now)
        self._unsent = unsent
        return self._pace

    def time_left(self) -> float:
        """Return the seconds that the client has for the next bytes; it is waited for."""
        config, now = self._site.config, self._site.clock()
        return self._look(now).time_left(config.timeout_write, config.min_response_rate, now)

    def rate(self) -> float | None:
        """Return the bytes a second that the client takes; None while that cannot be said."""
        now = self._site.clock()
        return self._look(now).rate(now) if self.waiting else None
