"""What the tests of the bridge share: threads that wait, and what tells the test that they do.

A thread is known to be blocked when it has entered the wait of its condition: that is reported
while the lock is held, so whoever is told and then takes the lock comes after it.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from aiowsgi.bridge.body import RequestBody
from aiowsgi.bridge.pieces import Pieces

# Fail-safe only: no wait of these tests is meant to last.
TIMEOUT = 20.0


class ThreadSlots:
    """Counts how often a slot is released and reclaimed."""

    # What threads wait on.
    condition: type[threading.Condition] = threading.Condition

    def __init__(self) -> None:
        self.released = 0
        self.reclaimed = 0

    def make_condition(self, lock: Any) -> threading.Condition:
        return self.condition(lock)

    def release_slot(self) -> None:
        self.released += 1

    def reclaim_slot(self) -> None:
        self.reclaimed += 1


class Counter:
    """A callable that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


class StillClock:
    """Stands in for ``time.monotonic``, and for its module; it stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return round(self.now * 1e9)


def pieces_of(data: bytes) -> Pieces:
    """Return what a body is made of that begins with some bytes."""
    pieces = Pieces()
    pieces.append(data)
    return pieces


def read(body: RequestBody, size: int) -> bytes:
    """Return up to ``size`` bytes of a body."""
    buffer = bytearray(size)
    return bytes(buffer[: body.read_into(memoryview(buffer))])


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Run ``call`` on a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def use_condition(monkeypatch: pytest.MonkeyPatch, condition: type[threading.Condition]) -> None:
    """Let threads wait on conditions of that type."""
    monkeypatch.setattr(ThreadSlots, "condition", condition)


def watch(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, *, short: float
) -> queue.SimpleQueue[None]:
    """Return a queue with an item for every time that a thread in a module has begun to wait.

    A wait is a long one behind ``short`` seconds. With none, the first part of a wait is over at
    once and not reported: only long ones are.
    """
    entered: queue.SimpleQueue[None] = queue.SimpleQueue()

    class Watched(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout != 0:
                entered.put(None)
            return super().wait(TIMEOUT if timeout is None else timeout)

    monkeypatch.setattr(module, "SHORT_WAIT", short)
    use_condition(monkeypatch, Watched)
    return entered


class WouldWait(Exception):
    """Raised instead of waiting."""


class Refusing(threading.Condition):
    """A condition that nobody can wait for."""

    def wait(self, timeout: float | None = None) -> bool:
        raise WouldWait
