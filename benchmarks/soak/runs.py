"""Runs against one server: what is done, in which order, and what is looked at for the verdict."""

import asyncio
import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import number
from benchmarks.process import ServerProcess
from benchmarks.soak import app, verdict
from benchmarks.soak.faults import Faults
from benchmarks.soak.kinds import KINDS
from benchmarks.soak.traffic import Traffic
from benchmarks.soak.verdict import Check, Sample

MAX_SAMPLES = 2000
PROGRESS_SECONDS = 10.0
SETTLE_SECONDS = 15.0
"""How long a server may take to let go of everything once all clients have gone."""
IDLE_SECONDS = 2.0
SERVE_SECONDS = 1.0
ASK_TIMEOUT = 10.0
STOP_SECONDS = 10.0

# Of runs with faults: how often fresh workers are made to do everything; what the log says when
# they serve; and what it may say of those that were killed.
_WARM_UPS = 3
_RELOADED = " Reloaded: "
DUE = (
    r"ERROR \[\d+\] (Worker \d+ was killed by SIG(KILL|ABRT)"
    r"|The mold \d+ (was killed by SIGKILL|has forked no worker)"
    r"|Worker \d+ has not answered for|Worker \d+ did not end in time|Not reloaded:)"
)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line as data."""

    seconds: int
    loop: str
    threads: int
    workers: int
    """0 is one process without a supervisor; with more, faults befall them."""
    preload: bool
    seed: int
    out: Path


class Soak:
    """One run against one server."""

    def __init__(self, server: ServerProcess, *, port: int, options: Options) -> None:
        self._server = server
        self._port = port
        self._options = options
        self._started = 0.0
        self.traffic = Traffic(port, seed=options.seed, may_be_killed=bool(options.workers))
        self.samples: list[Sample] = []

    def run(self) -> list[Check]:
        """Idle, traffic, idle again, SIGTERM; return the verdict."""
        self._ask("/hello")
        idle_threads = self._server.threads()
        # One visit of each kind brings up what a server makes when it is first needed, so that the
        # descriptors it has then are those of an idle server.
        asyncio.run(self.traffic.once())
        # Threads of the pool stay; those that stood in for others do not.
        idle_threads = max(idle_threads, 1 + self._options.threads)
        idle_descriptors = self._least_descriptors()
        in_use = self._in_use()
        say(f"idle: {idle_descriptors} descriptors, at most {idle_threads} threads")

        asyncio.run(self._drive())
        checks = [
            verdict.answers(self.traffic.errors),
            verdict.memory(self.samples, self._options.seconds),
        ]
        if not self._server.is_running():
            ended = Check("alive", False, "the server ended by itself")
            return [*checks, ended, verdict.log(self._server.log())]
        self._settle(idle_descriptors, idle_threads)
        checks += [
            verdict.back_to_idle("descriptors", self._server.descriptors(), idle_descriptors),
            verdict.back_to_idle("threads", self._server.threads(), idle_threads),
            self._idle_load(),
            self._still_serves(),
            self._compare_in_use(in_use),
        ]
        asked = time.monotonic()
        status = self._server.terminate(STOP_SECONDS)
        checks.append(verdict.stopped(status, time.monotonic() - asked))
        checks.append(verdict.log(self._server.log()))
        return checks

    async def _drive(self) -> None:
        """Send the traffic and take samples until both are done."""
        self._started = time.monotonic()
        end = self._started + self._options.seconds
        driving = asyncio.create_task(
            self._send(lambda: time.monotonic() >= end or not self._server.is_running())
        )
        interval = max(0.5, self._options.seconds / MAX_SAMPLES)
        progress = 0.0
        while not driving.done():
            sample = self._sample()
            self.samples.append(sample)
            if sample.at >= progress:
                self._show(sample, progress)
                progress += PROGRESS_SECONDS
            await asyncio.wait({driving}, timeout=interval)
        await driving

    async def _send(self, is_over: Callable[[], bool]) -> None:
        """Send the traffic until `is_over()`."""
        await self.traffic.run(is_over)

    def _sample(self) -> Sample:
        return Sample(
            at=time.monotonic() - self._started,
            resident_bytes=self._server.resident_bytes(),
            descriptors=self._server.descriptors(),
            threads=self._server.threads(),
            requests=self.traffic.requests,
            errors=self.traffic.errors,
        )

    def _show(self, sample: Sample, due: float) -> None:
        earlier = [other for other in self.samples if other.at <= due - PROGRESS_SECONDS]
        since = earlier[-1] if earlier else self.samples[0]
        elapsed = sample.at - since.at
        answered = (sample.requests - since.requests) / elapsed if elapsed else 0.0
        kinds = ", ".join(
            f"{sum(tally.errors.values())} {name}"
            for name, tally in self.traffic.tallies.items()
            if tally.errors
        )
        say(
            f"{sample.at:6.0f} s {number(answered):>7} answers/s "
            f"{sample.resident_bytes / 2**20:7.1f} MiB {sample.descriptors:4} descriptors "
            f"{sample.threads:3} threads, errors: {kinds or 'none'}"
        )

    def _least_descriptors(self) -> int:
        """Return how many descriptors stay when nobody is connected any more."""
        deadline = time.monotonic() + SETTLE_SECONDS / 3
        least = self._server.descriptors()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            least = min(least, self._server.descriptors())
        return least

    def _settle(self, descriptors: int, threads: int) -> None:
        """Return when the server is back at these figures, or has had its time."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if self._server.descriptors() <= descriptors and self._server.threads() <= threads:
                return
            time.sleep(0.1)

    def _idle_load(self) -> Check:
        before, started = self._server.cpu_seconds(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        elapsed = time.monotonic() - started
        return verdict.idle_load(self._server.cpu_seconds() - before, elapsed)

    def _still_serves(self) -> Check:
        started = time.monotonic()
        try:
            right = self._ask("/hello") == app.HELLO
        except (OSError, http.client.HTTPException) as exc:
            return Check("serves", False, f"a request after the traffic failed: {exc!r}")
        seconds = time.monotonic() - started
        text = f"a request after the traffic took {seconds:.3f} s"
        return Check("serves", right and seconds < SERVE_SECONDS, text)

    def _compare_in_use(self, before: Mapping[str, int]) -> Check:
        try:
            return verdict.in_use(before, self._in_use())
        except (OSError, http.client.HTTPException) as exc:
            return Check("in use", False, f"no account of it: {exc!r}")

    def _in_use(self) -> dict[str, int]:
        """Return what the server has in use, by its own account."""
        counts: dict[str, int] = json.loads(self._ask("/memory"))
        return counts

    def _ask(self, path: str) -> bytes:
        """Send one request on a connection of its own and return the body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ASK_TIMEOUT)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class State:
    """What a supervisor and its fresh workers take."""

    processes: int
    descriptors: int
    resident_bytes: int
    supervisor_bytes: int


class SoakWithFaults(Soak):
    """One run against a supervisor whose workers are killed, stopped, replaced and counted anew."""

    def __init__(self, server: ServerProcess, *, port: int, options: Options) -> None:
        super().__init__(server, port=port, options=options)
        self._faults = Faults(server.pid, seed=options.seed)
        # A mold that was killed soon after it was made is made again once it is needed.
        self._least = 1 + options.workers
        self._processes = self._least + options.preload

    def run(self) -> list[Check]:
        """Traffic and faults between two looks at fresh workers, then SIGTERM."""
        before = self._renewed()
        say(f"before: {before}")
        asyncio.run(self._drive())
        faults = ", ".join(f"{count} {name}" for name, count in self._faults.done.items())
        say(f"faults: {faults}")
        checks = [
            verdict.answers_in_spite(
                {name: tally.errors for name, tally in self.traffic.tallies.items()},
                {kind.name: kind.clients for kind in KINDS},
                ends=self._faults.ends,
                losses=self._faults.losses,
            )
        ]
        if not self._server.is_running():
            return [*checks, Check("alive", False, "the supervisor ended by itself")]
        expected = self._least, self._processes
        self._wait(lambda: self._server.processes() in expected, "processes")
        checks.append(verdict.settled(self._server.processes(), expected))
        after = self._renewed()
        say(f"after: {after}")
        checks += [
            verdict.same("processes", before.processes, after.processes),
            verdict.back_to_idle("descriptors", after.descriptors, before.descriptors),
            verdict.not_grown("memory", before.resident_bytes, after.resident_bytes),
            verdict.not_grown("supervisor", before.supervisor_bytes, after.supervisor_bytes),
        ]
        checks += [self._idle_load(), self._still_serves()]
        asked = time.monotonic()
        status = self._server.terminate(STOP_SECONDS)
        checks.append(verdict.stopped(status, time.monotonic() - asked))
        checks.append(verdict.log(self._server.log(), DUE))
        return checks

    async def _send(self, is_over: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.traffic.run(is_over))
            group.create_task(self._faults.run(is_over))

    def _renewed(self) -> State:
        """Have fresh workers, let them do a little of everything, and return what they take.

        Workers that have served for long have warm heaps, which says nothing about a leak; what a
        supervisor keeps of each that has ended shows.
        """
        reloads = self._server.log().count(_RELOADED)
        os.kill(self._server.pid, signal.SIGHUP)
        self._wait(lambda: self._server.log().count(_RELOADED) > reloads, "a reload")
        self._wait(lambda: self._server.processes() == self._processes, "processes")
        for _ in range(_WARM_UPS):
            asyncio.run(self.traffic.once())
        self._wait(lambda: self._server.processes() == self._processes, "processes")
        descriptors = self._least_descriptors()
        return State(
            processes=self._server.processes(),
            descriptors=descriptors,
            resident_bytes=self._server.resident_bytes(),
            supervisor_bytes=self._server.own_resident_bytes(),
        )

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 3 * SETTLE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                say(f"waited in vain for {what}")
                return
            time.sleep(0.1)


def say(message: str) -> None:
    """Print progress at once."""
    print(message, flush=True)
