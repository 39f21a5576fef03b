"""Taking the samples: every row, every round, every server in turn, on fresh processes."""

import contextlib
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import idle, machine
from benchmarks.apps import SLEEP_SECONDS
from benchmarks.client import Client, ClientError, Measurement
from benchmarks.peers import Peer
from benchmarks.process import ProcessError, ServerProcess
from benchmarks.results import RowResult, Sample
from benchmarks.rows import Row
from benchmarks.starting import Starter

WARM_UP_SECONDS = 1
SPARE_DESCRIPTORS = 2000
"""What a process opens besides its idle connections, generously."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for all rows of a run."""

    rounds: int
    duration: int
    """Seconds of one measurement."""
    connections: int
    """For the rows that do not fix them; so are the threads."""
    threads: int
    rate: int
    """Requests a second, for the rows in which they come at a fixed rate."""
    server_core: int
    client_core: int


class Benchmark:
    """Measures rows."""

    def __init__(self, conditions: Conditions, *, client: Client, starter: Starter) -> None:
        self._conditions = conditions
        self._client = client
        self._starter = starter

    def run_row(self, row: Row, peers: Sequence[Peer]) -> tuple[RowResult, bool]:
        """Measure each server once a round; one that fails is left out of later rounds.

        Return the result, and whether all was well.
        """
        able = [peer for peer in peers if not peer.rows or row.name in peer.rows]
        if row.tls:
            able = [peer for peer in able if peer.tls]
        unable = []
        if row.workers > 1:
            unable = [peer.name for peer in able if not peer.has_workers()]
            able = [peer for peer in able if peer.has_workers()]
        failures: dict[str, str] = {}
        result = RowResult(
            connections=row.idle or row.connections or self._conditions.connections,
            threads=row.threads or self._conditions.threads,
            samples={peer.name: [] for peer in able},
            rate=self._conditions.rate if row.offered else 0,
        )
        for number in range(1, self._conditions.rounds + 1):
            # Each round starts with another server, so that none is always first or last.
            shift = (number - 1) % max(1, len(able))
            for peer in (*able[shift:], *able[:shift]):
                if peer.name in failures:
                    continue
                try:
                    sample = self._measure(row, peer, number)
                except (ProcessError, ClientError, OSError) as exc:
                    failures[peer.name] = str(exc)
                    outcome = f"failed: {exc}"
                else:
                    result.samples[peer.name].append(sample)
                    headline = row.headlines[0]
                    outcome = f"{headline.text(sample.figures[headline.key])} {headline.heading}"
                say(f"{row.name} {number}/{self._conditions.rounds} {peer.name}: {outcome}")
        result.notes += [
            f"{name}: failed: {message.splitlines()[0]}." for name, message in failures.items()
        ]
        if unable:
            result.notes.append(f"Without an option for several processes: {', '.join(unable)}.")
        return result, not failures

    def _measure(self, row: Row, peer: Peer, number: int) -> Sample:
        """Take one sample of a server."""
        if row.idle:
            return self._measure_idle(row, peer, number)
        if row.workers > 1:
            return self._measure_scaling(row, peer, number)
        sample = self._measure_load(row, peer, number, workers=1)
        if row.name == "sleep":
            threads = row.threads or self._conditions.threads
            possible = threads / SLEEP_SECONDS
            sample.figures["share"] = sample.figures["requests_per_second"] / possible
        return sample

    def _measure_load(self, row: Row, peer: Peer, number: int, *, workers: int) -> Sample:
        """Start a server, check it, warm it up, load it, weigh it, stop it."""
        server_cores, client_cores = self._cores(row)
        with self._server(row, peer, workers=workers, cores=server_cores) as (server, port):
            self._warm_up(row, port, client_cores)
            others_before = self._cpu_of_others(server)
            cpu_before = server.cpu_seconds()
            measurement = self._load(row, port, self._conditions.duration, client_cores)
            cpu = server.cpu_seconds() - cpu_before
            others = self._cpu_of_others(server) - others_before - measurement.cpu
            figures = {**measurement.findings.figures, "resident_bytes": server.resident_bytes()}
            if "requests_per_second" in figures:
                requests = figures["requests_per_second"] * self._conditions.duration
                figures["cpu_per_request"] = cpu / requests
            return Sample(
                number,
                figures,
                errors=measurement.findings.errors,
                # A client that never sleeps is always busy, and reports its own delay instead.
                client_load=0.0 if row.offered else measurement.cpu / measurement.elapsed,
                interference=max(0.0, others / measurement.elapsed),
                distribution=measurement.findings.distribution,
            )

    def _measure_scaling(self, row: Row, peer: Peer, number: int) -> Sample:
        """Measure a server with one process, then with several."""
        one = self._measure_load(row, peer, number, workers=1)
        more = self._measure_load(row, peer, number, workers=row.workers)
        rate_of_one, rate = (s.figures["requests_per_second"] for s in (one, more))
        return Sample(
            number,
            {
                **more.figures,
                "requests_per_second_of_one": rate_of_one,
                "scaling": rate / rate_of_one,
            },
            errors=one.errors + more.errors,
            # Client and servers compete for the cores by design.
            client_load=0.0,
            interference=max(one.interference, more.interference),
        )

    def _measure_idle(self, row: Row, peer: Peer, number: int) -> Sample:
        """Weigh a server that has been at work, then again with its idle connections.

        Others can hardly disturb a weight: there is no interference to report.
        """
        server_cores, client_cores = self._cores(row)
        with (
            machine.descriptors(row.idle + SPARE_DESCRIPTORS),
            self._server(row, peer, workers=1, cores=server_cores) as (server, port),
        ):
            self._warm_up(row, port, client_cores)
            before = server.resident_bytes()
            with idle.connections(row, port) as answered:
                after = server.resident_bytes()
                kept = idle.count_open(answered)
        if not kept:
            raise ProcessError("keeps no idle connection")
        figures = {
            "bytes_per_connection": (after - before) / kept,
            "connections": kept,
            "resident_bytes": after,
        }
        closed = len(answered) - kept
        return Sample(number, figures, errors=closed, client_load=0.0, interference=0.0)

    @contextlib.contextmanager
    def _server(
        self, row: Row, peer: Peer, *, workers: int, cores: Collection[int]
    ) -> Iterator[tuple[ServerProcess, int]]:
        threads = row.threads or self._conditions.threads
        with self._starter.server(row, peer, threads=threads, workers=workers, cores=cores) as it:
            yield it

    def _warm_up(self, row: Row, port: int, cores: Collection[int]) -> None:
        # The time may be too short for a single large answer, which is no error.
        with contextlib.suppress(ClientError):
            self._load(row, port, WARM_UP_SECONDS, cores)

    def _load(self, row: Row, port: int, duration: int, cores: Collection[int]) -> Measurement:
        return self._client.measure(
            row,
            port=port,
            connections=row.connections or self._conditions.connections,
            duration=duration,
            rate=self._conditions.rate,
            cores=cores,
        )

    def _cores(self, row: Row) -> tuple[set[int], set[int]]:
        """Return the cores of the server and those of the client: one each, or both for both."""
        server, client = self._conditions.server_core, self._conditions.client_core
        return ({server}, {client}) if row.workers == 1 else ({server, client}, {server, client})

    def _cpu_of_others(self, server: ServerProcess) -> float:
        """Return the seconds that all but the server, the client among them, used on both cores."""
        cores = self._conditions.server_core, self._conditions.client_core
        return sum(map(machine.core_seconds, cores)) - server.cpu_seconds()


def estimate_seconds(rows: Sequence[Row], peers: Sequence[Peer], conditions: Conditions) -> int:
    """Return about how long a run takes: a second for start and end of each server."""
    one = WARM_UP_SECONDS + conditions.duration + 1
    return sum(row.workers for row in rows) * len(peers) * conditions.rounds * one


def say(message: str) -> None:
    """Print progress, apart from the tables on standard output."""
    print(time.strftime("%H:%M:%S"), message, file=sys.stderr, flush=True)
