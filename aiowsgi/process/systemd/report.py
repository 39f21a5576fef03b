"""What a process that is a service of systemd tells it, from its event loop, while it serves."""

import asyncio

from ...server.server import Server
from .notification import Notifier, load


class Report:
    """Tells systemd what the server of this process does, until the process ends.

    Everything is called on the loop thread. So systemd hears that the process is alive only while
    the event loop runs, and only while the server is healthy.
    """

    def __init__(self, notifier: Notifier, server: Server) -> None:
        self._notifier = notifier
        self._server = server
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Say that the server answers, and what it does from now on."""
        self._notifier.ready(self._status())
        self._wait()

    def on_stop(self) -> None:
        """Say that the server begins to stop."""
        self._notifier.stopping(self._status())

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        interval = self._notifier.interval
        if interval < float("inf"):
            self._timer = asyncio.get_running_loop().call_later(interval, self._look)

    def _look(self) -> None:
        self._notifier.look(self._status(), is_alive=self._server.healthy)
        self._wait()

    def _status(self) -> str:
        server = self._server
        status = load("1 process", server.busy_threads, server.threads, server.queued)
        return status if server.healthy else f"{status}; not healthy: threads are lost"
