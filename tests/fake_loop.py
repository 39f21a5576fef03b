"""A connection in memory, on a clock that a test moves: no sockets, no threads, no waiting."""

import asyncio
import heapq
import itertools
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, cast
from wsgiref.types import WSGIApplication

from aiowsgi.bridge.budget import Budget
from aiowsgi.bridge.mailbox import Mailbox
from aiowsgi.bridge.pool.jobs import Job, JobQueue, Started
from aiowsgi.config import Config
from aiowsgi.connection.connection import Protocol
from aiowsgi.connection.states import timeouts
from aiowsgi.errors import QueueFull
from aiowsgi.exchange.stream import Exchange
from aiowsgi.http.readers.h11_reader import H11
from aiowsgi.http.request import Limits
from aiowsgi.http.sections import FieldSections
from aiowsgi.server.site import Site
from aiowsgi.wsgi.environ import base_environ

# Fail-safe for what real threads do.
TIMEOUT = 30.0


class FakeTimer:
    """What ``call_later`` returns."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """As much of an event loop as a connection uses. Time passes in ``advance`` only."""

    def __init__(self) -> None:
        self.now = 1000.0
        # Pool threads append to it.
        self._ready: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[..., object], *args: object, context: Context | None = None
    ) -> None:
        del context
        self._ready.append(lambda: callback(*args))

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> FakeTimer:
        timer = FakeTimer(self.now + delay, lambda: callback(*args))
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        return timer

    @property
    def waiting(self) -> list[FakeTimer]:
        """The timers that wait to fire."""
        return [timer for _, _, timer in self._timers if not timer.cancelled]

    @property
    def timers(self) -> int:
        """How many they are."""
        return len(self.waiting)

    def run_ready(self) -> None:
        """Run what is due now, and what that makes due."""
        while self._ready:
            self._ready.popleft()()

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


class FakeSocket:
    """The socket of a ``FakeTransport``: the kernel knows of none."""

    def __init__(self) -> None:
        self.shut_down = False

    def fileno(self) -> int:
        return -1

    def sendmsg(self, *args: object) -> int:
        raise BlockingIOError

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_RDWR
        self.shut_down = True


def make_protocol(site: Site) -> Protocol:
    """Return the protocol of a connection in memory."""
    return Protocol(site, cast(socket.socket, FakeSocket()))


class FakeTransport:
    """Takes what is written. ``capacity`` is how many bytes it sends; the rest stays in it."""

    def __init__(self, loop: FakeLoop, protocol: Protocol) -> None:
        # It is full when more than this is in it, and has room again when no more than this is.
        self.high_water = 1 << 16
        self._loop = loop
        self._protocol = protocol
        self.sent = bytearray()
        self.unsent = bytearray()
        # None: a client that takes everything.
        self.capacity: int | None = None
        self.reading = True
        self.eof_written = False
        self.closing = False
        self.aborted = False
        self.lost = False
        self._paused = False
        # Resuming is told in the midst of sending: an asyncio transport that is closed there
        # reports the end of the connection twice.
        self._resuming = False

    def get_extra_info(self, name: str) -> Any:
        return {"sockname": ("127.0.0.1", 8000), "peername": ("127.0.0.1", 50000)}.get(name)

    def set_write_buffer_limits(self, *, high: int) -> None:
        self.high_water = high

    def write(self, data: bytes) -> None:
        assert not self.eof_written, "written behind the end"
        if self.closing:
            return
        self.unsent += data
        self._send()
        if len(self.unsent) > self.high_water and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def take(self, size: int) -> None:
        """Let the client read ``size`` bytes."""
        assert self.capacity is not None
        self.capacity += size
        self._send()

    def _send(self) -> None:
        count = len(self.unsent) if self.capacity is None else min(self.capacity, len(self.unsent))
        self.sent += self.unsent[:count]
        del self.unsent[:count]
        if self.capacity is not None:
            self.capacity -= count
        if self._paused and len(self.unsent) <= self.high_water:
            self._paused = False
            self._resuming = True
            self._protocol.resume_writing()
            self._resuming = False
        if self.closing and not self.unsent:
            self._lose(None)

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert not self._resuming, "ended in the midst of sending"
        self.eof_written = True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        assert not self._resuming, "closed in the midst of sending"
        if not self.closing:
            self.closing = True
            if not self.unsent:
                self._lose(None)

    def abort(self) -> None:
        self.closing = self.aborted = True
        self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._loop.call_soon(self._protocol.connection_lost, error)


class FakeJob:
    """A job of a ``FakePool``; ``run`` is what a thread would do."""

    def __init__(self, pool: "FakePool", run: Callable[[], None]) -> None:
        self._pool = pool
        self._run = run
        self.taken: Started | None = None
        self.cancelled = False
        self.ended = False

    def cancel(self) -> bool:
        self.cancelled = self.cancelled or self.taken is None
        return self.taken is None

    def started(self) -> Started | None:
        return self.taken

    def write_off(self) -> bool:
        self._pool.lost += not self.ended
        return not self.ended

    def run(self) -> None:
        assert self.taken is None
        assert not self.cancelled
        thread = threading.current_thread()
        self.taken = Started(thread.name, thread.ident or 0, self._pool.clock())
        self._run()
        self.ended = True


class FakePool:
    """Holds jobs until the test runs them; ``full`` makes it refuse."""

    threads = 1

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.jobs: list[FakeJob] = []
        self.full = False
        self.away = 0
        self.lost = 0
        self.starved = False

    @property
    def waiting(self) -> int:
        return sum(job.taken is None and not job.cancelled for job in self.jobs)

    def start(
        self,
        run: Callable[[], None],
        failed: Callable[[], None],
        *,
        wake: bool = True,
    ) -> Job:
        if self.full:
            raise QueueFull("no room")
        self.jobs.append(job := FakeJob(self, run))
        return job

    def wake(self) -> None:
        pass

    def release_slot(self) -> None:
        self.away += 1

    def reclaim_slot(self) -> None:
        self.away -= 1


class FakeConnection:
    """A server's end of one connection, with everything around it made of fakes."""

    def __init__(self, app: WSGIApplication, **options: Any) -> None:
        self.loop = FakeLoop()
        self.pool = FakePool(self.loop.time)
        self.disconnects = 0
        config = Config(**options)
        mailbox: Mailbox[Exchange] = Mailbox(
            self.loop.call_soon_threadsafe, lambda exchange: exchange.protocol.on_wake(exchange)
        )
        self.site = Site(
            app=app,
            config=config,
            sections=FieldSections(
                Limits(body=config.limit_request_body), H11, header_map=config.header_map
            ),
            timeouts=timeouts(config),
            loop=cast(asyncio.AbstractEventLoop, self.loop),
            context=copy_context(),
            pool=cast(JobQueue, self.pool),
            budget=Budget(config.max_buffered),
            mailbox=mailbox,
            base_environ=base_environ(software="test", multithread=False, multiprocess=False),
            server_field="Server: test\r\n",
            on_disconnect=self._on_disconnect,
            clock=self.loop.time,
        )
        self.protocol = make_protocol(self.site)
        self.transport = FakeTransport(self.loop, self.protocol)
        self.protocol.connection_made(cast(asyncio.Transport, self.transport))

    def _on_disconnect(self) -> None:
        self.disconnects += 1

    def receive(self, data: bytes) -> None:
        """Let bytes arrive from the client."""
        assert self.transport.reading, "the server does not read"
        self.protocol.data_received(data)

    def end(self) -> None:
        """Let the client half-close."""
        self.protocol.eof_received()

    def run_job(self) -> None:
        """Run the oldest job, then what it made due on the loop."""
        self.pool.jobs.pop(0).run()
        self.loop.run_ready()

    def start_job(self) -> threading.Thread:
        """Run the oldest job on a thread, where it may block; ``loop.run_until`` serves it."""
        thread = threading.Thread(target=self.pool.jobs.pop(0).run, daemon=True)
        thread.start()
        return thread

    @property
    def sent(self) -> bytes:
        return bytes(self.transport.sent)

    @property
    def status(self) -> int:
        """The status of the first response that was sent; 0 where there is none."""
        return int(self.sent[9:12]) if self.sent else 0

    @property
    def closed(self) -> bool:
        """Whether the connection is gone, with everything that belonged to it."""
        self.loop.run_ready()
        return self.transport.lost
