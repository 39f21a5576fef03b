"""The command `pair`: servers side by side, all running at once, asked in turn in short bursts.

A machine that others use is faster in one second than in the next, but hardly in one tenth of a
second than in the next tenth. So what counts is each burst divided by that of the first server
beside it: the median of these ratios, and between which a half of them lies.
"""

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, pair_report
from benchmarks.client import Client, ClientError
from benchmarks.installation import Installation, InstallationError
from benchmarks.pair_report import Bursts, Pairs
from benchmarks.peers import PEERS, Peer
from benchmarks.process import ProcessError, ServerProcess
from benchmarks.results import FOLDER
from benchmarks.rows import ROWS, Row
from benchmarks.run import say
from benchmarks.starting import Starter

ROOT = Path(__file__).resolve().parent.parent
ALL = (
    *("hello", "browser", "varied", "flask", "django"),
    *("stream", "upload", "close", "single", "tls"),
)
"""The rows of "all"."""
BURST = 0.2
"""Seconds: wrk ends at full tenths."""
WARM_UP = 1.0
CONNECTIONS, THREADS = 64, 8
"""Where a row does not fix them."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server by the name that it has in this comparison."""

    name: str
    peer: Peer
    root: Path
    """The checkout that it is started from."""


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the tables. Return 0; 1 where a server failed; 2 where none can run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks pair",
        description="Compare servers in short bursts that alternate between them.",
    )
    parser.add_argument("row", help=f'a row, several with commas, or "all": {", ".join(ALL)}')
    parser.add_argument(
        "servers",
        nargs="+",
        metavar="NAME=SERVER[@DIR]",
        help="a name for the tables, and a server, perhaps of another checkout of the repository; "
        "the others are compared with the first",
    )
    parser.add_argument(
        "--bursts", type=int, default=60, metavar="N", help="of each server (default: 60)"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="also write the samples to benchmarks/results, and the tables to README.md and "
        "docs/performance.md",
    )
    options = parser.parse_args(arguments)
    try:
        rows = select_rows(options.row)
        contenders = [contender(text) for text in options.servers]
        if len({it.name for it in contenders}) < len(contenders):
            raise ValueError("two servers have the same name")
        if options.bursts < 2:
            raise ValueError("--bursts takes a number of at least 2")
    except ValueError as exc:
        parser.error(str(exc))
    cores = machine.choose_cores() if sys.platform.startswith("linux") else None
    if cores is None:
        print("benchmarks: this needs Linux, and a core each for servers and client")
        return 2
    try:
        found = measure(rows, contenders, options.bursts, cores)
    except (ClientError, InstallationError, ProcessError) as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    if options.write:
        path = FOLDER / f"pair-{found.facts['date'][:10]}.json"
        found.write(path)
        pair_report.show(found, path, ROOT)
    return 0


def select_rows(text: str) -> list[Row]:
    """Return the rows that a text names. Raises `ValueError` for one that cannot be compared so."""
    names = ALL if text == "all" else tuple(text.split(","))
    rows = {row.name: row for row in ROWS}
    for name in names:
        row = rows.get(name)
        if row is None:
            raise ValueError(f"no such row: {name} (there are: {', '.join(rows)})")
        if row.burners or row.offered or row.handshakes or row.idle or row.workers > 1:
            raise ValueError(f"the row {name} is not made of bursts; see: python -m benchmarks")
    return [rows[name] for name in names]


def contender(text: str) -> Contender:
    """Return what `NAME=SERVER[@DIR]` stands for. Raises `ValueError` where it is nothing."""
    name, _, rest = text.partition("=")
    server, _, folder = rest.partition("@")
    peers = {peer.name: peer for peer in PEERS}
    if not name or server not in peers:
        raise ValueError(f"{text}: not NAME=SERVER with one of the servers {', '.join(peers)}")
    root = Path(folder).resolve() if folder else ROOT
    if not (root / "benchmarks").is_dir():
        raise ValueError(f"{text}: {root} is no checkout of the repository")
    return Contender(name, peers[server], root)


def measure(
    rows: Sequence[Row], contenders: Sequence[Contender], bursts: int, cores: tuple[int, int]
) -> Pairs:
    """Install what is needed, and print the table of each row as it is measured.

    Raises `ClientError`, `InstallationError` or `ProcessError` where a server fails.
    """
    client = Client()
    with tempfile.TemporaryDirectory() as folder:
        starters = {
            root: _starter(root, [it.peer for it in contenders if it.root == root], rows, folder)
            for root in {it.root for it in contenders}
        }
        facts = {**machine.describe(ROOT), "wrk": client.version()}
        versions: dict[str, str] = {}
        for it in contenders:
            versions |= starters[it.root].installation.versions(it.peer.distributions)
        found = Pairs(facts, versions, bursts, rows={})
        for row in rows:
            found.rows[row.name] = measure_row(row, contenders, starters, client, bursts, cores)
            print(pair_report.table(row, found), end="\n\n", flush=True)
    return found


def _starter(root: Path, peers: Sequence[Peer], rows: Sequence[Row], folder: str) -> Starter:
    """Return what starts servers of a checkout, with all that they need installed."""
    installation = Installation(root, root / ".bench-venv")
    installation.prepare()
    for row in rows:
        if row.requirements:
            installation.install(f"row-{row.name}", row.requirements)
    for peer in peers:
        installation.install(peer.name, peer.requirements)
        if peer.compiled:
            installation.compile()
    return Starter(installation, root, Path(folder))


def measure_row(
    row: Row,
    contenders: Sequence[Contender],
    starters: dict[Path, Starter],
    client: Client,
    bursts: int,
    cores: tuple[int, int],
) -> dict[str, Bursts]:
    """Start all servers on one core, and ask them in turn from the other one."""
    server_core, client_core = cores
    connections, threads = row.connections or CONNECTIONS, row.threads or THREADS
    contenders = [it for it in contenders if it.peer.tls or not row.tls]
    found = {it.name: Bursts() for it in contenders}
    with contextlib.ExitStack() as stack:
        running: dict[str, tuple[ServerProcess, int]] = {}
        for it in contenders:
            running[it.name] = stack.enter_context(
                starters[it.root].server(
                    row, it.peer, threads=threads, workers=1, cores={server_core}
                )
            )
        for _, port in running.values():
            client.burst(row, port, connections, WARM_UP, client_core)
        say(f"{row.name}: {bursts} bursts of each server")
        there = list(running)
        # There and back: so each is before the first one as often as behind it.
        for names in itertools.islice(itertools.cycle((there, there[::-1])), bursts):
            for name in names:
                server, port = running[name]
                before = server.cpu_by_thread()
                burst = client.burst(row, port, connections, BURST, client_core)
                found[name].add(burst, _spent(before, server.cpu_by_thread()))
    return found


def _spent(before: dict[int, float], after: dict[int, float]) -> float:
    """Return the processor time of all threads between two readings, in seconds."""
    return sum(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
