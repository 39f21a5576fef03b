"""The graceful stop of a server: its steps, and the time that each has. On the loop thread.

Two other ends are elsewhere: a loop that is closed before its server (``loop_end``), and the end of
the process, which comes behind this one (``process.ending``).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from contextvars import Context

from ..answers.wsgi import stream_of
from ..errors import ServerStopped
from ..net.accept.listener import Listener
from ..observe.inspection import stacks_of
from .assembly import Assembly

_log = logging.getLogger("aiowsgi.error")


class Shutdown:
    """Stops a server within the time that its resources give (``cut_at``), and a moment more.

    Arguments: its parts and its listeners; the context that callbacks of the loop run in; and
    ``count_connections()``, how many there are, with those that are being set up.
    """

    def __init__(
        self,
        assembly: Assembly,
        listeners: Sequence[Listener],
        context: Context,
        count_connections: Callable[[], int],
    ) -> None:
        self._assembly = assembly
        self._resources = assembly.resources
        self._connections = assembly.shared.connections
        self._listeners = listeners
        self._loop = assembly.coroutine_runner.loop
        self._context = context
        self._count_connections = count_connections
        # Set when something has changed that is waited for, or the end has moved.
        self.changed = asyncio.Event()
        # Whether it had to cut connections or to leave threads behind.
        self.was_cut = False
        # Whether threads are among that.
        self.left_threads_behind = False

    async def run(self, delay: float) -> None:
        """Take every step. Connections are accepted for ``delay`` more seconds."""
        # 1. Every answer says that its connection will close. Load balancers take note meanwhile.
        for connection in list(self._connections):
            connection.announce_close()
        if delay:
            await self._pass_delay()
        # 2. No more connections.
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        if self._resources.is_replaced:
            await self._pass_last_requests()
        # 3. No further request on the connections that there are; the idle ones go now.
        self._assembly.shared.is_closing = True
        for connection in list(self._connections):
            connection.close_if_idle()
        # 4. Requests in flight have their time.
        if not await self._until(self._no_connections, 0.0):
            number = self._count_connections()
            _log.warning("Cutting the connections that did not end in time: %d", number)
            # 5. What is left is cut, which releases every thread that waits for a client.
            self._cut()
            await self._until(self._no_connections, self._resources.abort_timeout)
        # 6. Threads have what is left of the time; they are not waited for without end.
        await self._stop_pool()
        await self._stop_spooler()

    async def _pass_delay(self) -> None:
        """Wait until only ``timeout_graceful`` is left of the time, which may be made shorter."""
        await self._until(lambda: False, -self._resources.config.timeout_graceful)

    async def _pass_last_requests(self) -> None:
        """Wait until clients have heard that their connections will close, if they ask anything.

        A connection that is closed while a request is on its way loses that request. Here it is
        answered, and the answer says that it was the last one. A client that asks nothing for so
        long is closed all the same: one cannot wait for it for ever.
        """
        seconds = min(self._resources.last_requests, self._resources.time_left)
        await self._until(self._no_connections, seconds - self._resources.time_left)

    def _no_connections(self) -> bool:
        return self._count_connections() == 0

    async def _until(self, done: Callable[[], bool], grace: float) -> bool:
        """Wait until ``done()``, or ``grace`` seconds behind the deadline. Return whether it is.

        A negative ``grace`` ends the wait that much before the deadline.
        ``changed`` is set by what may make it true, and by what moves the deadline.
        """
        while not done():
            self.changed.clear()
            left = self._resources.time_left + grace
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), left)
        return True

    def _note_change(self) -> None:
        """Have ``_until`` look again. Called on any thread."""
        # The loop may be gone, if threads outlive it.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.changed.set, context=self._context)

    def _cut(self) -> None:
        self.was_cut = True
        error = ServerStopped("the server stopped")
        for connection in list(self._connections):
            connection.abort(error)

    async def _stop_pool(self) -> None:
        pool = self._resources.pool
        stopped = False

        def on_stopped() -> None:
            nonlocal stopped
            stopped = True
            self._note_change()

        pool.stop(on_stopped, cancel=True)
        if not await self._until(lambda: stopped, 0.0):
            # Some threads may wait for coroutines after a complete response, where no connection
            # is left to release them.
            self._assembly.coroutine_runner.cancel_all(ServerStopped("the server stopped"))
        if await self._until(lambda: stopped, self._resources.abort_timeout):
            pool.join()  # Each thread has said that it is about to end.
        else:
            self.was_cut = self.left_threads_behind = True
            self._name_threads()

    def _name_threads(self) -> None:
        """Log which threads do not come back from the application, and where they are."""
        left = self._resources.pool.running()
        stacks = stacks_of(started.ident for started in left)
        for started in left:
            stream = stream_of(started.run)
            _log.warning(
                "The application does not return%s; the thread %s is left behind at:\n%s",
                "" if stream is None else f" from {stream.describe()}",
                started.thread,
                stacks.get(started.ident, ""),
            )

    async def _stop_spooler(self) -> None:
        """End the thread that writes request bodies; at most it has files to remove by now."""
        if (spooler := self._resources.spooler) is None:
            return
        spooler.stop(self._note_change)
        if await self._until(lambda: spooler.ended, self._resources.abort_timeout):
            spooler.join()
        else:
            _log.warning("The disk does not answer; the thread that writes to it is left behind")
