"""Drives all kinds of traffic at the same time and counts what came of it."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

from benchmarks.soak.connection import Connection, Incomplete, Wrong
from benchmarks.soak.kinds import KINDS, Kind, Visitor

VISIT_LIMIT = 60.0
"""Seconds from which a visit hangs. The slowest takes some ten on a machine that is busy."""
_MESSAGES = 5
_AFTER_ERROR = 0.2
"""Seconds a client waits behind an error, so that a server that is gone is not asked in a rush."""


@dataclass(slots=True)
class Tally:
    """What came of one kind of traffic."""

    visits: int = 0
    requests: int = 0
    """Answers that were received to their end."""
    slowest: float = 0.0
    """Seconds of the longest visit."""
    errors: dict[str, int] = field(default_factory=dict)
    """By sort: "wrong" (an answer that must not be), "broken" (a connection that ended too soon),
    "hang" (no end)."""
    messages: list[str] = field(default_factory=list)
    """What was wrong, of the first few of each sort."""


class Traffic:
    """The clients of one server. `seed` decides what they choose, not when they do it.

    `may_be_killed` says whether the server may be, meanwhile.
    """

    def __init__(self, port: int, *, seed: int, may_be_killed: bool) -> None:
        self._port = port
        self._seed = seed
        self._may_be_killed = may_be_killed
        self.tallies = {kind.name: Tally() for kind in KINDS}

    @property
    def requests(self) -> int:
        """Return how many answers were received."""
        return sum(tally.requests for tally in self.tallies.values())

    @property
    def errors(self) -> int:
        """Return how many visits failed."""
        return sum(sum(tally.errors.values()) for tally in self.tallies.values())

    async def once(self) -> None:
        """Make a visit of each kind, one after the other."""
        for kind in KINDS:
            await self._visit(kind, random.Random(self._seed))

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Drive everything until `is_over()`, then finish the visits that have begun."""
        async with asyncio.TaskGroup() as clients:
            for kind in KINDS:
                for number in range(kind.clients):
                    chance = random.Random(f"{self._seed} {kind.name} {number}")
                    clients.create_task(self._repeat(kind, chance, is_over))

    async def _repeat(self, kind: Kind, chance: random.Random, is_over: Callable[[], bool]) -> None:
        while not is_over():
            if not await self._visit(kind, chance):
                await asyncio.sleep(_AFTER_ERROR)

    async def _visit(self, kind: Kind, chance: random.Random) -> bool:
        """Make one visit and count it; return whether all was well."""
        tally = self.tallies[kind.name]
        visitor = Visitor(partial(self._connect, tally), chance, self._may_be_killed)
        started = time.monotonic()
        error = ""
        try:
            async with asyncio.timeout(VISIT_LIMIT):
                await kind.visit(visitor)
        except Wrong as exc:
            error, message = "wrong", str(exc)
        except TimeoutError:
            error, message = "hang", f"no end after {VISIT_LIMIT:.0f} s"
        except (Incomplete, OSError) as exc:
            error, message = "broken", repr(exc)
        tally.visits += 1
        tally.slowest = max(tally.slowest, time.monotonic() - started)
        if error:
            tally.errors[error] = tally.errors.get(error, 0) + 1
            if tally.errors[error] <= _MESSAGES:
                tally.messages.append(f"{error}: {message}")
        return not error

    @contextlib.asynccontextmanager
    async def _connect(
        self, tally: Tally, *, receive_buffer: int | None = None
    ) -> AsyncIterator[Connection]:
        async with await Connection.open(self._port, receive_buffer=receive_buffer) as connection:
            try:
                yield connection
            finally:
                tally.requests += connection.answers
