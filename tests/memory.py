"""A connection in memory, on a clock that a test moves: no event loop, no sockets, no waiting."""

import asyncio
import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, cast
from wsgiref.types import WSGIApplication

from aiowsgi.bridge.locks import Lock, make_condition
from aiowsgi.bridge.mailbox import Mailbox
from aiowsgi.bridge.pool.jobs import Job, JobQueue, JobThread
from aiowsgi.config import Config, ListenerConfig, ListenerProtocol
from aiowsgi.connection.connection import Connection
from aiowsgi.errors import QueueFull
from aiowsgi.exchange.info import ConnectionInfo
from aiowsgi.exchange.interfaces import FileTransfer
from aiowsgi.exchange.stream import Stream
from aiowsgi.exchange.transitions import IllegalEvent
from aiowsgi.http.readers.h11_reader import H11
from aiowsgi.server.assembly import Assembly
from aiowsgi.server.entrances import codecs
from aiowsgi.wsgi.file_wrapper import FilePart

# Fail-safe for what real threads do.
TIMEOUT = 30.0

# What is known of a connection.
INFO = ConnectionInfo(("127.0.0.1", "8000"), ("127.0.0.1", "50000"), "http", None, 0.0)


class Owner:
    """What a writer belongs to that has no stream."""

    def note_first_byte(self) -> None: ...


def waking(wake: Callable[[], object] = lambda: None) -> Mailbox[Owner]:
    """Return a mailbox that calls ``wake()`` each time that the loop thread would be woken."""

    def collect(collect: Callable[[], None]) -> None:
        collect()
        wake()

    return Mailbox(collect, lambda owner: None)


class ManualTimer:
    """What ``call_later`` returns."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualTimers:
    """See ``Timers``. Time passes in ``advance`` only."""

    def __init__(self) -> None:
        self.now = 1000.0
        # Pool threads append to it.
        self.ready: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.ready.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> ManualTimer:
        timer = ManualTimer(self.now + delay, callback)
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        return timer

    @property
    def pending(self) -> list[ManualTimer]:
        """The timers that will fire."""
        return [timer for _, _, timer in self._timers if not timer.cancelled]

    def run_ready(self) -> None:
        """Run what is due now, and what that makes due."""
        while self.ready:
            self.ready.popleft()()

    def run_until(self, condition: Callable[[], object]) -> None:
        """Run what threads make due until ``condition()`` holds; fail where it does not."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, "the condition does not come true"
            self.run_ready()
            # What threads change knows of no event; this only lets them run.
            time.sleep(0.0005)

    def advance(self, seconds: float) -> None:
        """Let time pass; timers fire in their order, at their time."""
        self.run_ready()
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self.now = max(self.now, when)
                timer.callback()
                self.run_ready()
        self.now = end


class MemoryTransfer:
    """A file on its way over a ``MemoryWire``. See ``FileTransfer``."""

    def __init__(self, wire: "MemoryWire", part: FilePart, on_end: Callable[[bool], None]) -> None:
        self._wire = wire
        self.part = part
        self._on_end = on_end
        self.closed = False

    @property
    def unsent(self) -> int:
        return self.part.size

    def send(self) -> None:
        """Send as much as the client takes; ``MemoryWire.take`` goes on."""
        while not self.closed:
            room = self._wire.room
            if room == 0:
                return
            part = self.part
            size = part.size if room is None else min(part.size, room)
            data = os.pread(part.descriptor, size, part.offset)
            if not data:
                self.end(complete=False)
                return
            self._wire.take_now(data)
            part.offset += len(data)
            part.size -= len(data)
            if not part.size:
                self.end(complete=True)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.part.close()

    def descriptors(self) -> list[int]:
        return []

    def end(self, *, complete: bool) -> None:
        """Let the file go, and say so."""
        self.close()
        self._on_end(complete)


class MemoryWire:
    """See ``Wire``. ``capacity`` is how many bytes the client takes; the rest is buffered."""

    def __init__(self, timers: ManualTimers) -> None:
        self._timers = timers
        # Whom it tells; set once there is one.
        self.connection: Connection | None = None
        self.is_plain = False
        self.can_half_close = True
        self.sent = bytearray()
        # What of it other threads have sent.
        self.sent_now = bytearray()
        self.pending = bytearray()
        # None: a client that takes everything.
        self.capacity: int | None = None
        self.reading = True
        # What was asked of it.
        self.half_closed = False
        self.is_closing = False
        self.was_aborted = False
        self.was_reset = False
        self.was_shut_down = False
        # Whether the connection was told, or will be, that it is gone.
        self.lost = False
        self.file: MemoryTransfer | None = None
        self._paused = False
        # To resume is told in the midst of sending: a transport of asyncio that is closed there
        # reports the end of the connection twice.
        self._resuming = False

    @property
    def owner(self) -> Connection:
        assert self.connection is not None
        return self.connection

    @property
    def buffered(self) -> int:
        return len(self.pending)

    @property
    def unsent(self) -> int:
        return len(self.pending)

    @property
    def room(self) -> int | None:
        """How many bytes the client takes now; None if any number."""
        return self.capacity

    def take_now(self, data: bytes) -> None:
        """Let the client take bytes past the buffer."""
        assert not self.pending, "they overtake what is buffered"
        self.sent += data
        if self.capacity is not None:
            self.capacity -= len(data)

    def write(self, pieces: list[bytes]) -> None:
        assert not self.half_closed, "written behind the end"
        assert pieces
        if self.is_closing:
            return
        self.pending += b"".join(pieces)
        self.send()
        if self.pending and not self._paused:
            self._paused = True
            self.owner.pause_writing()

    def write_last(self, pieces: list[bytes]) -> None:
        self.write(pieces)
        # The end has to follow at once: before the next pass of the loop.
        self._timers.call_soon(self._assert_ended)

    def _assert_ended(self) -> None:
        assert self.is_closing or self.half_closed or self.pending, "the end does not follow"

    def send_now(self, pieces: list[bytes]) -> int:
        assert self.is_plain
        data = b"".join(pieces)[: self.capacity]
        self.sent_now += data
        self.take_now(data)
        return len(data)

    def send_file(self, part: FilePart, on_end: Callable[[bool], None]) -> FileTransfer:
        self.file = MemoryTransfer(self, part, on_end)
        return self.file

    def take(self, size: int) -> None:
        """Let the client read ``size`` bytes."""
        assert self.capacity is not None
        self.capacity += size
        self.send()

    def send(self) -> None:
        """Send what is buffered, as far as the client takes it."""
        size = len(self.pending)
        count = size if self.capacity is None else min(self.capacity, size)
        self.sent += self.pending[:count]
        del self.pending[:count]
        if self.capacity is not None:
            self.capacity -= count
        if self._paused and not self.pending:
            self._paused = False
            self._resuming = True
            self.owner.resume_writing()
            self._resuming = False
        if self.is_closing and not self.pending:
            self._lose()
        elif self.file is not None and not self.file.closed and not self.pending:
            self.file.send()

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def half_close(self) -> None:
        assert not self._resuming, "ended in the midst of sending"
        self.half_closed = True

    def close(self) -> None:
        assert not self._resuming, "closed in the midst of sending"
        if not self.is_closing:
            self.is_closing = True
            if not self.pending:
                self._lose()

    def abort(self) -> None:
        self.is_closing = self.was_aborted = True
        self._lose()

    def reset(self) -> None:
        self.was_reset = True
        self.abort()

    def shut_down(self) -> None:
        self.was_shut_down = True

    def descriptors(self) -> list[int]:
        return []

    def fail(self) -> None:
        """Break: the client is gone."""
        self.is_closing = True
        self.pending.clear()
        self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._timers.call_soon(lambda: self.owner.on_lost())


class HeldJob:
    """A job of a ``HeldPool``; ``run`` is what a thread would do."""

    def __init__(self, pool: "HeldPool", run: Callable[[], None]) -> None:
        self._pool = pool
        self._run = run
        self.taken: JobThread | None = None
        self.cancelled = False
        self.ended = False

    def cancel(self) -> bool:
        self.cancelled = self.cancelled or self.taken is None
        return self.taken is None

    def started(self) -> JobThread | None:
        return self.taken

    def write_off(self) -> bool:
        self._pool.lost += not self.ended
        return not self.ended

    def run(self) -> None:
        assert self.taken is None
        assert not self.cancelled
        thread = threading.current_thread()
        self.taken = JobThread(thread.name, thread.ident or 0, self._pool.clock())
        self._run()
        self.ended = True


class HeldPool(JobQueue):
    """Holds jobs until the test runs them; ``full`` makes it refuse."""

    threads = 1
    is_concurrent = False
    lost = 0
    is_starved = False

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.jobs: list[HeldJob] = []
        self.full = False
        self.away = 0
        self.crowded = False

    @property
    def queued(self) -> int:
        return sum(job.taken is None and not job.cancelled for job in self.jobs)

    def enqueue(
        self, run: Callable[[], None], failed: Callable[[], None], *, wake: bool = True
    ) -> Job:
        if self.full:
            raise QueueFull("no room")
        self.jobs.append(job := HeldJob(self, run))
        return job

    def wake(self) -> None:
        pass

    # Nothing asks for these.
    stop = join = abandon = running = None  # type: ignore[assignment]

    def make_condition(self, lock: Lock) -> threading.Condition:
        return make_condition(lock)

    def release_slot(self) -> None:
        self.away += 1

    def reclaim_slot(self) -> None:
        self.away -= 1


def raise_defect(error: IllegalEvent) -> None:
    """Fail the test."""
    raise error


class MemoryServer:
    """Everything around connections, made in memory.

    ``protocol`` is what clients speak; ``options`` are fields of ``Config``.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        timers: ManualTimers | None = None,
        pool: HeldPool | None = None,
        protocol: ListenerProtocol = "http",
        **options: Any,
    ) -> None:
        self.timers = ManualTimers() if timers is None else timers
        self.pool = HeldPool(self.timers.time) if pool is None else pool
        self.disconnects = 0
        config = Config(**options)
        mailbox: Mailbox[Stream] = Mailbox(
            self.timers.call_soon, lambda stream: stream.owner.look_after(stream)
        )
        self.assembly = Assembly(
            app,
            config,
            pool=self.pool,
            timers=self.timers,
            # Coroutines are tried on loops, not here.
            loop=cast(asyncio.AbstractEventLoop, None),
            mailbox=mailbox,
            context=copy_context(),
            multiprocess=False,
            on_disconnect=self._on_disconnect,
            clock=self.timers.time,
        )
        self.resources = self.assembly.resources
        self.shared = self.assembly.shared
        self.resources.on_defect = raise_defect
        listener = ListenerConfig("", protocol)
        self.codec = codecs(config, H11, [listener])[protocol, None]

    def _on_disconnect(self) -> None:
        self.disconnects += 1

    def connect(self, wire: MemoryWire) -> Connection:
        """Return a new connection on a wire."""
        info = ConnectionInfo(INFO.server, INFO.client, INFO.scheme, None, self.timers.now)
        wire.connection = Connection(self.shared, wire, self.codec, info)
        return wire.connection


class MemoryConnection(MemoryServer):
    """A server's end of one connection, with everything around it in memory."""

    def __init__(self, app: WSGIApplication, *, is_plain: bool = False, **options: Any) -> None:
        super().__init__(app, **options)
        self.wire = MemoryWire(self.timers)
        self.wire.is_plain = is_plain
        self.connection = self.connect(self.wire)

    def receive(self, data: bytes) -> None:
        """Let bytes arrive from the client."""
        assert self.wire.reading, "the server does not read"
        self.connection.receive(data)

    def end(self) -> None:
        """Let the client half-close."""
        self.connection.receive_end()

    def run_job(self) -> None:
        """Run the oldest job, then what it made due on the loop."""
        self.pool.jobs.pop(0).run()
        self.timers.run_ready()

    def start_job(self) -> threading.Thread:
        """Run the oldest job on a thread, where it may block; ``timers.run_until`` serves it."""
        thread = threading.Thread(target=self.pool.jobs.pop(0).run, daemon=True)
        thread.start()
        return thread

    @property
    def sent(self) -> bytes:
        return bytes(self.wire.sent)

    @property
    def status(self) -> int:
        """The status of the first response that was sent; 0 where there is none."""
        return int(self.sent[9:12]) if self.sent else 0

    @property
    def closed(self) -> bool:
        """Whether the connection is gone, with everything that belonged to it."""
        self.timers.run_ready()
        return self.wire.lost
