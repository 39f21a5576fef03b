"""The command `footprint`: how much memory several workers of a Django site take together.

What counts is the sum of PSS (proportional set size, proc_pid_smaps(5)) over all processes of a
server: a page that several of them share counts once. Another quantity than the row `memory`.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks import machine
from benchmarks.client import Client, ClientError
from benchmarks.figures import Spread
from benchmarks.installation import Installation, InstallationError
from benchmarks.peers import PEERS
from benchmarks.process import ProcessError, ServerProcess, free_port
from benchmarks.report import markdown
from benchmarks.results import FOLDER
from benchmarks.rows import ROWS
from benchmarks.run import say

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
SITE = next(row for row in ROWS if row.name == "django")
WORKERS, THREADS = 4, 8
CONNECTIONS, SECONDS, LOADS = 64, 1, 3
"""What wrk asks with, for how long, and how often: anew each time, so that every worker serves."""
COMMAND = "python -m benchmarks footprint"
_BLOCK = re.compile(r"(?<=<!-- footprint -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to start a server."""

    name: str
    peer: str
    options: tuple[str, ...] = ()
    """Added behind the program and its module."""


_OURS = ("--workers", str(WORKERS))
_WARM = ("--warm-up", "http://127.0.0.1/")
VARIANTS = (
    Variant("aiowsgi", "aiowsgi-httptools", _OURS),
    Variant("aiowsgi, preload", "aiowsgi-httptools", (*_OURS, "--preload")),
    Variant("aiowsgi, preload and warm-up", "aiowsgi-httptools", (*_OURS, "--preload", *_WARM)),
    Variant("gunicorn", "gunicorn"),
    Variant("gunicorn, preload", "gunicorn", ("--preload",)),
    Variant("granian", "granian"),
)


@dataclass(frozen=True, slots=True)
class Footprints:
    """What one run has found."""

    facts: dict[str, str]
    versions: dict[str, str]
    samples: dict[str, list[int]]
    """Bytes, by the name of a variant, one for each round."""

    def write(self, path: Path) -> None:
        """Write the file from which the page is made."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read such a file."""
        document: dict[str, Any] = json.loads(path.read_text())
        return cls(**document)


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the table. Return 0; 1 where a server failed; 2 where none can run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks footprint",
        description=f"Weigh {WORKERS} workers of a Django site, by the sum of PSS.",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="starts of each server (default: 3)"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="also write the samples to benchmarks/results, and the table to docs/performance.md",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds takes a number of at least 1")
    if not sys.platform.startswith("linux"):
        print("benchmarks: PSS is in /proc: this needs Linux", file=sys.stderr)
        return 2
    installation = Installation(ROOT, ROOT / ".bench-venv")
    try:
        found = measure(installation, options.rounds)
    except (ClientError, InstallationError) as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 2
    print(table(found))
    if options.write:
        path = FOLDER / f"footprint-{found.facts['date'][:10]}.json"
        found.write(path)
        show(found, path, PAGE)
    return 0 if len(found.samples) == len(VARIANTS) else 1


def measure(installation: Installation, rounds: int) -> Footprints:
    """Install what is needed and weigh each variant once a round.

    One that fails is left out, which is told. Raises `ClientError` and `InstallationError`.
    """
    client = Client()
    installation.prepare()
    peers = {peer.name: peer for peer in PEERS}
    taking_part = [peers[name] for name in dict.fromkeys(variant.peer for variant in VARIANTS)]
    for peer in taking_part:
        installation.install(peer.name, peer.requirements)
    installation.install("row-django", SITE.requirements)
    distributions = [name for peer in taking_part for name in peer.distributions]
    versions = installation.versions([*distributions, *SITE.requirements])
    samples: dict[str, list[int]] = {variant.name: [] for variant in VARIANTS}
    for number in range(1, rounds + 1):
        for variant in VARIANTS:
            if variant.name not in samples:
                continue
            say(f"round {number} of {rounds}: {variant.name}")
            try:
                samples[variant.name].append(weigh(variant, installation, client))
            except (ClientError, ProcessError) as exc:
                say(f"{variant.name} failed: {exc}")
                del samples[variant.name]
    return Footprints(machine.describe(ROOT), versions, samples)


def weigh(variant: Variant, installation: Installation, client: Client) -> int:
    """Start a server, ask it, and return the bytes that it takes.

    Raises `ProcessError` or `ClientError` where it does not start or answer.
    """
    port = free_port()
    program, *arguments = command(variant, port)
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
    }
    line = [installation.program(program), *arguments]
    with ServerProcess(line, port=port, cores=None, env=environment) as server:
        server.check(SITE)
        for _ in range(LOADS):
            client.measure(
                SITE,
                port=port,
                connections=CONNECTIONS,
                duration=SECONDS,
                rate=0,
                cores=os.sched_getaffinity(0),
            )
        return server.proportional_bytes()


def command(variant: Variant, port: int) -> list[str]:
    """Return the command for a variant."""
    peer = next(peer for peer in PEERS if peer.name == variant.peer)
    # Ours is started by its own option, which is among those of the variant.
    workers = 1 if peer.ours else WORKERS
    line = peer.arguments(
        port=port, threads=THREADS, workers=workers, application=SITE.application, many=False
    )
    return [*line[:3], *variant.options, *line[3:]]


def table(found: Footprints) -> str:
    """Return the Markdown table, the least bold."""
    lines = [["server", "MiB (range)"]]
    medians = {name: Spread.of(list(map(float, taken))) for name, taken in found.samples.items()}
    best = min((spread.median for spread in medians.values()), default=None)
    for name, spread in medians.items():
        text = spread.text(2**-20, 1)
        lines.append([name, f"**{text}**" if spread.median == best else text])
    return "\n".join(markdown(lines))


def block(found: Footprints, link: str) -> str:
    """Return the Markdown of a run whose file is `link`."""
    facts = found.facts
    rounds = max(map(len, found.samples.values()), default=0)
    installed = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return (
        f"{table(found)}\n\n"
        f"Measured on {facts['date'][:10]}: {WORKERS} workers with {THREADS} threads each, after "
        f"{LOADS * SECONDS} seconds of requests; the sum of PSS over all processes of a server, "
        f"where a page that several share counts once; medians of {rounds} starts "
        f"({facts['processor']}, {facts['python']}). {installed}. Samples: "
        f"[{Path(link).name}]({link}). To measure again: `{COMMAND}`\n"
    )


def show(found: Footprints, path: Path, page: Path) -> None:
    """Put a run, written to `path`, into a page. Raises `ValueError` where it has no place."""
    text, count = _BLOCK.subn(
        lambda _: block(found, os.path.relpath(path, page.parent)), page.read_text()
    )
    if count != 1:
        raise ValueError(f"{page} has {count} places between <!-- footprint --> and <!-- end -->")
    page.write_text(text)
