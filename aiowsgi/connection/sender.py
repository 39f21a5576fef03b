"""The sending side of one connection: responses, as far and as fast as the client takes them."""

from collections.abc import Callable
from typing import Final

from ..bridge.source import FINISHED, OPEN, Progress
from ..callbacks import no_callback
from ..exchange.interfaces import FileTransfer, Wire
from ..exchange.stream import Stream
from ..wsgi.file_wrapper import FilePart
from .pace import Pace
from .shared import Shared

# Bytes that the wire is given at a time.
_TAKE_BYTES: Final = 1 << 18


class Sender:
    """Moves responses to the wire. Everything happens on the loop thread.

    Arguments: what connections share, the wire, and ``on_file_end(complete)``, called when a file
    that is the body of a response was sent, or could not be sent to its end.
    """

    __slots__ = (
        "_last_unsent",
        "_on_file_end",
        "_pace",
        "_paused",
        "_shared",
        "_wire",
        "file",
        "waits_for_client",
    )

    def __init__(self, shared: Shared, wire: Wire, on_file_end: Callable[[bool], None]) -> None:
        self._shared = shared
        self._wire = wire
        self._on_file_end = on_file_end
        # The file that is being sent, if any.
        self.file: FileTransfer | None = None
        self._paused = False
        # How fast the client takes a response; None until the client is first waited for.
        self._pace: Pace | None = None
        self._last_unsent = 0
        # Whether the client has to take something before there can be more.
        self.waits_for_client = False

    @property
    def buffered(self) -> int:
        """How many bytes wait in memory for the client."""
        return self._wire.buffered if self._paused else 0

    def flush(self, stream: Stream) -> Progress:
        """Send what there is of the response, as far as the client takes it.

        Return FINISHED once the kernel has it all, LEFT where there is more to send in another
        pass of the loop, ABORTED where the rest will not come, and OPEN where it has to wait.
        """
        if self.waits_for_client:
            return OPEN
        pieces, progress = stream.source.take(_TAKE_BYTES)
        if pieces:
            if not stream.first_byte_at:
                stream.first_byte_at = self._shared.resources.clock()
            try:
                if progress is FINISHED and stream.file is None and not stream.encoder.keep_alive:
                    self._wire.write_last(pieces)
                else:
                    self._wire.write(pieces)
            except BaseException:
                # They are lost, as for want of memory, and nothing may follow them.
                self._wire.reset()
                raise
        if self._paused:
            return OPEN
        if progress is OPEN:
            stream.source.resume_direct()
        if progress is FINISHED:
            # The tail is that file. Once it is taken, nothing is left to send.
            if (file := stream.file) is not None and stream.source.take_tail() is not None:
                self._send_file(file)
                return OPEN
            self._pace = None
        return progress

    def _send_file(self, part: FilePart) -> None:
        self._shared.files_being_sent += 1
        self.file = self._wire.send_file(part, self._on_transfer_end)
        self._start_waiting()
        self.file.send()

    def _on_transfer_end(self, complete: bool) -> None:
        self._forget_file()
        self._stop_waiting()
        self._on_file_end(complete)

    def _forget_file(self) -> None:
        self.file = None
        self._shared.files_being_sent -= 1

    def pause(self) -> None:
        """Take note that the wire buffers bytes which the kernel does not take yet."""
        self._paused = True
        self._start_waiting()

    def resume(self) -> None:
        """Take note that the wire buffers nothing any more."""
        self._paused = False
        self._stop_waiting()
        if self.file is not None:
            # Not at once: the wire calls this while it sends.
            self._shared.timers.call_soon(self.file.send)

    def close(self) -> None:
        """Drop everything, also the reference to the connection: it is gone."""
        self._on_file_end = no_callback
        if self.file is not None:
            self.file.close()
            self._forget_file()
        self._wire.shut_down()

    def abandon(self) -> list[int]:
        """Return the descriptors that are the parent's, in a forked child."""
        own = self._wire.descriptors()
        return own if self.file is None else own + self.file.descriptors()

    # The client's pace.

    def _start_waiting(self) -> None:
        if self.waits_for_client:
            return
        self.waits_for_client = True
        now = self._shared.resources.clock()
        if self._pace is None:
            self._pace = Pace(now)
        else:
            self._pace.resume(now)
        self._last_unsent = self._count_unsent()

    def _stop_waiting(self) -> None:
        if not self.waits_for_client or self._paused or self.file is not None:
            return
        now = self._shared.resources.clock()
        self._update_pace(now).pause(now)
        self.waits_for_client = False

    def _count_unsent(self) -> int:
        """Return how many bytes the client has not taken of what is being sent."""
        size = self._wire.unsent
        return size if self.file is None else size + self.file.unsent

    def _update_pace(self, now: float) -> Pace:
        """Return the pace up to ``now`` of the client, which is waited for."""
        assert self._pace is not None  # Made when waiting began.
        unsent = self._count_unsent()
        self._pace.add(self._last_unsent - unsent, now)
        self._last_unsent = unsent
        return self._pace

    def time_left(self) -> float:
        """Return the seconds that the client has for the next bytes; it is waited for."""
        config, now = self._shared.resources.config, self._shared.resources.clock()
        return self._update_pace(now).time_left(config.timeout_write, config.min_response_rate, now)

    def rate(self) -> float | None:
        """Return the bytes a second that the client takes; None while that is not known."""
        now = self._shared.resources.clock()
        return self._update_pace(now).rate(now) if self.waits_for_client else None
