"""Clients that ask a server all the time, while something is done to it: what was lost, and when.

A lost request is one that was sent and not answered with 200. No client asks again, as better ones
would: each request that is lost shows.
"""

import http.client
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from waiting import eventually

# Fail-safe, in seconds: nothing that a test does to a server takes that long.
_TIMEOUT = 30.0
# Seconds between an answer and the next request, which leave the machine to the server.
_PAUSE = 0.002


class Loss(NamedTuple):
    """A request that was not answered as it should."""

    error: str
    # The answer before on this connection, which may say who was asked; empty if it was the first.
    before: str


class _Connection(http.client.HTTPConnection):
    """Opens its sockets as it is told, and opens one where there is none."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__("h")
        self._connect = connect

    def connect(self) -> None:
        self.sock = self._connect()


class Client(threading.Thread):
    """Asks again and again, on one connection as long as it may, or each time on a new one."""

    def __init__(self, connect: Callable[[], socket.socket], *, keeps: bool) -> None:
        super().__init__(daemon=True)
        self._connection = _Connection(connect)
        self._fields = {} if keeps else {"Connection": "close"}
        self._is_over = threading.Event()
        self.sent = 0
        self.answered = 0
        self.lost: list[Loss] = []
        self.longest = 0.0
        """seconds of the longest wait for an answer; a new connection is part of it"""

    def run(self) -> None:
        before = ""
        while not self._is_over.wait(_PAUSE):
            began = time.monotonic()
            if self._connection.sock is None:
                before = ""
            self.sent += 1
            try:
                before = self._ask()
                self.answered += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, a request is lost
                self.lost.append(Loss(repr(error), before))
                self._connection.close()
            self.longest = max(self.longest, time.monotonic() - began)
        self._connection.close()

    def _ask(self) -> str:
        self._connection.request("GET", "/", headers=self._fields)
        response = self._connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, f"{response.status} {body[:200]}"
        return body

    def finish(self) -> None:
        """End once the request that is sent is answered."""
        self._is_over.set()
        self.join(_TIMEOUT)
        assert not self.is_alive(), "a client waits for an answer that does not come"


class ConstantLoad:
    """Several clients at the same time, between enter and exit.

    ``connect()`` returns a new connection to the server, on which every wait is bounded. ``kept``
    is how many clients keep their connection, ``fresh`` how many open one for each request.
    """

    def __init__(
        self, connect: Callable[[], socket.socket], *, kept: int = 2, fresh: int = 2
    ) -> None:
        self.clients = [Client(connect, keeps=number < kept) for number in range(kept + fresh)]

    @classmethod
    def on_port(cls, port: int, *, kept: int = 2, fresh: int = 2) -> Self:
        """Ask at a port of this machine."""
        return cls(lambda: _connect(socket.AF_INET, ("127.0.0.1", port)), kept=kept, fresh=fresh)

    @classmethod
    def on_path(cls, path: str, *, kept: int = 2, fresh: int = 2) -> Self:
        """Ask at a Unix socket."""
        return cls(lambda: _connect(socket.AF_UNIX, path), kept=kept, fresh=fresh)

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for client in self.clients:
            client.finish()

    def wait_for_more(self) -> None:
        """Wait until each client has sent another request and got its answer."""
        # The answer to one that is under way would not count.
        before = [client.sent + 1 for client in self.clients]
        eventually(
            lambda: all(
                client.answered + len(client.lost) >= count
                for client, count in zip(self.clients, before, strict=True)
            ),
            "each client has another answer",
        )

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return sum(client.sent for client in self.clients)

    @property
    def answered(self) -> int:
        """How many were answered."""
        return sum(client.answered for client in self.clients)

    @property
    def lost(self) -> list[Loss]:
        """Those that were not."""
        return [loss for client in self.clients for loss in client.lost]

    @property
    def longest(self) -> float:
        """The seconds of the longest wait for an answer."""
        return max(client.longest for client in self.clients)

    def assert_nothing_lost(self) -> None:
        """Fail where a request was lost. Called behind the exit."""
        assert self.lost == []
        assert self.sent == self.answered > 0


def _connect(family: socket.AddressFamily, address: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(_TIMEOUT)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
