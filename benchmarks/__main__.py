"""The command line: `python -m benchmarks ROW...`, `pair`, `report`, `regress` or `footprint`.

Run from the root of the repository.

Exit codes: 0 everything was measured, 1 a server could not be installed, started or measured,
2 the machine or the command line does not allow a measurement.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks import footprint, machine, pair, publish, regress, report
from benchmarks.client import Client, ClientError
from benchmarks.installation import Installation, InstallationError
from benchmarks.peers import PEERS, Peer
from benchmarks.results import FOLDER, Run
from benchmarks.rows import ROWS, Row
from benchmarks.run import Benchmark, Conditions, estimate_seconds, say
from benchmarks.starting import Starter

ROOT = Path(__file__).resolve().parent.parent

_Named = TypeVar("_Named", Peer, Row)


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    match arguments:
        case ["report", *rest]:
            return publish.main(rest)
        case ["regress", *rest]:
            return regress.main(rest)
        case ["pair", *rest]:
            return pair.main(rest)
        case ["footprint", *rest]:
            return footprint.main(rest)
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        rows = select("row", options.rows, ROWS)
        peers = select("peer", options.peers.split(","), PEERS)
    except ValueError as exc:
        parser.error(str(exc))
    peers = [peer for peer in peers if not peer.rows or any(row.name in peer.rows for row in rows)]
    return measure(rows, peers, options)


def measure(rows: Sequence[Row], peers: Sequence[Peer], options: argparse.Namespace) -> int:
    """Install what is needed, measure, print the tables, write the results."""
    if not sys.platform.startswith("linux"):
        return _refuse("the benchmark reads /proc and pins processes to cores: it needs Linux")
    cores = machine.choose_cores()
    if cores is None:
        return _refuse("server and client need a core each: this machine offers only one")
    conditions = Conditions(
        rounds=options.rounds,
        duration=options.duration,
        connections=options.connections,
        threads=options.threads,
        rate=options.rate,
        server_core=cores[0],
        client_core=cores[1],
    )
    installation = Installation(ROOT, ROOT / ".bench-venv")
    try:
        client = Client()
        installation.prepare()
        for row in rows:
            if row.requirements:
                installation.install(f"row-{row.name}", row.requirements)
        peers, notes, complete = _install(installation, peers)
        versions = _versions(installation, rows, peers)
    except (ClientError, InstallationError) as exc:
        return _refuse(str(exc))
    if not peers:
        return _refuse("\n".join(["no server is left to measure", *notes]))

    facts = {
        **machine.describe(ROOT),
        "wrk": client.version(),
        "server core": str(conditions.server_core),
        "client core": str(conditions.client_core),
    }
    run = Run(facts, versions, notes, conditions.rounds, conditions.duration, rows={})
    say(f"this takes about {estimate_seconds(rows, peers, conditions) / 60:.0f} minutes")
    print(report.heading(run), flush=True)
    # The name that sorts by time; a run that is ended half-way leaves the rows it has finished.
    path = options.out / f"{facts['date'][:16].replace(' ', '-').replace(':', '')}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        starter = Starter(installation, ROOT, Path(folder))
        benchmark = Benchmark(conditions, client=client, starter=starter)
        for row in rows:
            result, well = benchmark.run_row(row, peers)
            complete = complete and well
            run.rows[row.name] = result
            run.write(path)
            text = report.table(row, result, rounds=run.rounds, duration=run.duration)
            print(f"\n{text}", flush=True)
    say(f"written to {path}")
    publish.draw(run, path)
    return 0 if complete else 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure aiowsgi beside its peers, interleaved, in one run.",
        epilog="commands instead of rows: pair (in short bursts, on a machine that others "
        "use), report (shows a run again), regress (the cost of a request, where time is too "
        "noisy), footprint (the memory of several workers). rows: "
        + "; ".join(f"{row.name} ({row.title})" for row in ROWS)
        + ". servers: "
        + ", ".join(peer.name for peer in PEERS)
        + ".",
    )
    parser.add_argument("rows", nargs="+", metavar="ROW", help='a row to measure, or "all"')
    parser.add_argument(
        "--peers", default="all", metavar="A,B", help="servers to measure (default: all)"
    )
    for name, default, help in (
        ("rounds", 5, "measurements of each server in each row"),
        ("duration", 5, "seconds of one measurement"),
        ("connections", 64, "open connections, where the row does not fix them"),
        ("threads", 8, "threads of each server, where the row does not fix them"),
        ("rate", 1000, "requests a second in the row latency"),
    ):
        parser.add_argument(
            f"--{name}",
            type=_positive,
            default=default,
            metavar="N",
            help=f"{help} (default: %(default)s)",
        )
    parser.add_argument(
        "--out",
        type=Path,
        default=FOLDER,
        metavar="DIR",
        help="folder for the results (default: benchmarks/results)",
    )
    return parser


def select(kind: str, wanted: Sequence[str], choices: Sequence[_Named]) -> list[_Named]:
    """Return the named choices in the order of `choices`, all of them for "all".

    Raises `ValueError` for a name that none of them has.
    """
    names = {choice.name: choice for choice in choices}
    unknown = [name for name in wanted if name not in names and name != "all"]
    if unknown:
        raise ValueError(f"no such {kind}: {', '.join(unknown)} (there are: {', '.join(names)})")
    return [choice for choice in choices if choice.name in wanted or "all" in wanted]


def _install(
    installation: Installation, wanted: Sequence[Peer]
) -> tuple[list[Peer], list[str], bool]:
    """Install the peers; return those that can run, what readers must know of them and of the
    others, and whether only optional ones are missing."""
    installed, notes, complete = [], [], True
    for peer in wanted:
        try:
            if peer.program and machine.program(peer.program) is None:
                raise InstallationError(f"{peer.program} is not installed")
            if peer.requirements:
                installation.install(peer.name, peer.requirements)
            if peer.compiled:
                installation.compile()
        except InstallationError as exc:
            complete = complete and bool(peer.optional)
            notes.append(f"{peer.name}: not measured: {peer.optional or exc}.")
        else:
            installed.append(peer)
            if peer.note:
                notes.append(f"{peer.name}: {peer.note}.")
    return installed, notes, complete


def _versions(
    installation: Installation, rows: Sequence[Row], peers: Sequence[Peer]
) -> dict[str, str]:
    """Return the versions of everything that takes part, servers first."""
    versions = installation.versions(
        [
            *(name for peer in peers for name in peer.distributions),
            *(name for row in rows for name in row.requirements),
        ]
    )
    for peer in peers:
        if peer.program and (path := machine.program(peer.program)) is not None:
            versions[peer.program] = machine.program_version(path)
    return versions


def _positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _refuse(message: str) -> int:
    """Print why nothing was measured and return exit code 2."""
    print(f"benchmarks: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    # Ended from outside, leave the running server as Ctrl-C would: stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)
