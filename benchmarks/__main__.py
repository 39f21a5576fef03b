"""The command line: `python -m benchmarks [options]`, run from the repository root.

Exit codes: 0 everything was measured, 1 a server could not be installed, started or measured,
2 the machine or the command line does not allow a measurement.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks import machine, report
from benchmarks.client import Client, ClientError
from benchmarks.installation import Installation, InstallationError
from benchmarks.peers import PEERS, Peer
from benchmarks.process import ProcessError, ServerProcess, free_port
from benchmarks.report import Sample
from benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_SECONDS = 1

_Named = TypeVar("_Named", Peer, Workload)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line as data."""

    workloads: list[Workload]
    peers: list[Peer]
    rounds: int
    duration: int
    connections: int
    threads: int
    json: Path | None


@dataclass(slots=True)
class Row:
    """What one row has gathered so far: samples by server, and the servers that failed."""

    samples: dict[str, list[Sample]]
    failures: dict[str, str] = field(default_factory=dict)


class Benchmark:
    """One run: every row, every round, every server in turn."""

    def __init__(
        self,
        options: Options,
        *,
        client: Client,
        installation: Installation,
        server_core: int,
        client_core: int,
    ) -> None:
        self._options = options
        self._client = client
        self._installation = installation
        self._server_core = server_core
        self._client_core = client_core

    def run_row(self, workload: Workload, peers: Sequence[Peer]) -> Row:
        """Measure each server once a round; a server that fails is left out of later rounds."""
        row = Row({peer.name: [] for peer in peers})
        for number in range(1, self._options.rounds + 1):
            # Each round starts with another server, so that none is always first or last.
            shift = (number - 1) % len(peers)
            for peer in (*peers[shift:], *peers[:shift]):
                if peer.name in row.failures:
                    continue
                try:
                    sample = self._measure(workload, peer, number)
                except (ProcessError, ClientError) as exc:
                    row.failures[peer.name] = str(exc)
                    outcome = "failed"
                else:
                    row.samples[peer.name].append(sample)
                    outcome = f"{report.rate(sample.measurement.requests_per_second)} requests/s"
                _say(f"{workload.name} {number}/{self._options.rounds} {peer.name}: {outcome}")
        return row

    def connections(self, workload: Workload) -> int:
        """Return how many connections a row is measured with."""
        return workload.connections or self._options.connections

    def threads(self, workload: Workload) -> int:
        """Return how many threads the servers of a row have."""
        return workload.threads or self._options.threads

    def _measure(self, workload: Workload, peer: Peer, number: int) -> Sample:
        """Start a server, check it, warm it up, measure it, weigh it, stop it."""
        port = free_port()
        arguments = peer.arguments(
            port=port, threads=self.threads(workload), application=workload.application
        )
        command = [str(self._installation.python), "-m", *arguments]
        connections = self.connections(workload)
        environment = self._environment(workload)
        with ServerProcess(command, port=port, core=self._server_core, env=environment) as server:
            server.check(workload)
            self._client.measure(
                workload, port=port, connections=connections, duration=WARM_UP_SECONDS
            )
            before = self._cpu_of_others(server)
            measurement = self._client.measure(
                workload, port=port, connections=connections, duration=self._options.duration
            )
            on_server, on_client = (
                now - then for now, then in zip(self._cpu_of_others(server), before, strict=True)
            )
            disturbed = max(0.0, on_server, on_client - measurement.client_cpu)
            return Sample(
                number,
                measurement,
                resident_bytes=server.resident_bytes(),
                interference=disturbed / measurement.elapsed,
            )

    def _cpu_of_others(self, server: ServerProcess) -> tuple[float, float]:
        """Return the seconds that all but the server used on its core, and that all used on
        wrk's."""
        return (
            machine.core_seconds(self._server_core) - server.cpu_seconds(),
            machine.core_seconds(self._client_core),
        )

    def _environment(self, workload: Workload) -> dict[str, str]:
        """Return the environment of a server: nothing a user has set for one of them applies."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "BENCHMARK_THREADS": str(self.threads(workload)),
        }


def main() -> int:
    """Run the command line and return the exit code."""
    options = _parse_options()
    if not sys.platform.startswith("linux"):
        return _refuse("the benchmark reads /proc and pins processes to cores: it needs Linux")
    cores = machine.choose_cores()
    if cores is None:
        return _refuse("server and client need a core each: this machine offers only one")
    server_core, client_core = cores
    # Ended from outside, leave the running server as Ctrl-C would: stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    installation = Installation(ROOT, ROOT / ".bench-venv")
    try:
        client = Client(core=client_core)
        installation.prepare()
        peers, notes, incomplete = _install(installation, options.peers)
        versions = installation.versions(peers)
    except (ClientError, InstallationError) as exc:
        return _refuse(str(exc))
    if not peers:
        return _refuse("\n".join(["no server is left to measure", *notes]))

    facts = {
        **machine.describe(ROOT),
        "wrk": client.version(),
        "server core": str(server_core),
        "client core": str(client_core),
    }
    benchmark = Benchmark(
        options,
        client=client,
        installation=installation,
        server_core=server_core,
        client_core=client_core,
    )
    measurements = len(options.workloads) * len(peers) * options.rounds
    seconds = measurements * (WARM_UP_SECONDS + options.duration + 1)
    _say(f"measurements to take: {measurements}, in about {seconds} s")

    print(report.heading(facts, versions), flush=True)
    rows: dict[str, object] = {}
    for workload in options.workloads:
        row = benchmark.run_row(workload, peers)
        summaries = report.summarise(row.samples)
        failed = [f"{name}: failed: {message}" for name, message in row.failures.items()]
        incomplete = incomplete or bool(failed)
        connections = benchmark.connections(workload)
        text = report.table(
            workload,
            summaries,
            connections=connections,
            rounds=options.rounds,
            duration=options.duration,
            notes=[*notes, *failed],
        )
        print(f"\n{text}", flush=True)
        rows[workload.name] = {
            "connections": connections,
            "threads": benchmark.threads(workload),
            "summaries": {name: dataclasses.asdict(s) for name, s in summaries.items()},
            "samples": {
                name: [dataclasses.asdict(s) for s in taken] for name, taken in row.samples.items()
            },
            "failures": row.failures,
        }
    if options.json is not None:
        document = {
            "facts": facts,
            "versions": versions,
            "rounds": options.rounds,
            "duration": options.duration,
            "rows": rows,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if incomplete else 0


def _install(
    installation: Installation, wanted: Sequence[Peer]
) -> tuple[list[Peer], list[str], bool]:
    """Install the peers; return those that can run, a note for each that cannot, and whether
    one of the missing is not optional."""
    installed, notes, incomplete = [], [], False
    for peer in wanted:
        try:
            installation.install(peer)
        except InstallationError as exc:
            if peer.optional:
                notes.append(f"{peer.name}: not measured, it did not install: {peer.optional}.")
            else:
                notes.append(f"{peer.name}: not measured: {exc}")
                incomplete = True
        else:
            installed.append(peer)
    return installed, notes, incomplete


def _parse_options() -> Options:
    """Read the command line; ends the program with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure aiowsgi beside its peers, interleaved, in one run.",
        epilog="rows: "
        + "; ".join(f"{w.name} ({w.title})" for w in WORKLOADS)
        + ". peers: "
        + ", ".join(p.name for p in PEERS)
        + ".",
    )
    parser.add_argument(
        "--rows", default="hello", metavar="A,B", help='rows to measure, or "all" (default: hello)'
    )
    parser.add_argument(
        "--peers", default="all", metavar="A,B", help="servers to measure (default: all)"
    )
    number = _positive
    parser.add_argument(
        "--rounds", type=number, default=5, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--duration",
        type=number,
        default=5,
        metavar="SECONDS",
        help="length of one measurement (default: %(default)s)",
    )
    parser.add_argument(
        "--connections",
        type=number,
        default=64,
        metavar="N",
        help="for the rows that do not fix it themselves (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=number,
        default=8,
        metavar="N",
        help="for the rows that do not fix it themselves (default: %(default)s)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every sample to this file"
    )
    given = parser.parse_args()
    if given.json is not None and not given.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {given.json.parent}")
    try:
        workloads = _select("row", given.rows, WORKLOADS)
        peers = _select("peer", given.peers, PEERS)
    except ValueError as exc:
        parser.error(str(exc))
    return Options(
        workloads=workloads,
        peers=peers,
        rounds=given.rounds,
        duration=given.duration,
        connections=given.connections,
        threads=given.threads,
        json=given.json,
    )


def _select(kind: str, text: str, choices: Sequence[_Named]) -> list[_Named]:
    """Return the named choices in the order of `choices`; raise `ValueError` for others."""
    names = {choice.name for choice in choices}
    wanted = names if text == "all" else {name.strip() for name in text.split(",")}
    unknown = sorted(wanted - names)
    if unknown:
        known = ", ".join(choice.name for choice in choices)
        raise ValueError(f"no such {kind}: {', '.join(unknown)} (there are: {known})")
    return [choice for choice in choices if choice.name in wanted]


def _positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _refuse(message: str) -> int:
    """Print why nothing was measured and return exit code 2."""
    print(f"benchmarks: {message}", file=sys.stderr)
    return 2


def _say(message: str) -> None:
    """Print progress, apart from the tables on standard output."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)
