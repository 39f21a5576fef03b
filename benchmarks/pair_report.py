"""What `pair` has found: its file, its tables, and the pages of the repository that show them."""

import dataclasses
import json
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.client import Burst
from benchmarks.figures import THROUGHPUT, number
from benchmarks.report import markdown
from benchmarks.rows import ROWS, Row

SHORT_ROWS = {
    "browser": "a small answer to a browser",
    "flask": "Flask answers JSON",
    "django": "Django behind its middleware",
    "stream": "10 MiB are sent in pieces",
    "upload": "1 MiB is posted and read",
    "close": "a new connection for each request",
}
"""The rows of the README, and their titles there."""
_README_BLOCK = re.compile(r"(?<=<!-- benchmark -->\n).*?(?=<!-- end -->)", re.DOTALL)
_PAGE_BLOCK = re.compile(r"(?<=<!-- pair -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(slots=True)
class Bursts:
    """The bursts of one server: a place in each list for each."""

    rates: list[float] = field(default_factory=list)
    """Requests a second; bytes a second in rows of large answers."""
    costs: list[float] = field(default_factory=list)
    """Seconds of the server's processor for a request, or for a byte; 0 where none was answered."""
    errors: int = 0

    def add(self, burst: Burst, seconds: float) -> None:
        """Take one, and the processor time that the server has spent on it."""
        amount = burst.amount
        self.rates.append(amount / burst.seconds)
        self.costs.append(seconds / amount if amount else 0.0)
        self.errors += burst.errors


@dataclass(frozen=True, slots=True)
class Quartiles:
    """A median, and what a quarter of the values is below, and above."""

    median: float
    low: float
    high: float

    @classmethod
    def of_ratios(cls, values: Sequence[float], others: Sequence[float]) -> Self | None:
        """Return those of the ratios of two lists place by place; None where there are too few."""
        ratios = [a / b for a, b in zip(values, others, strict=True) if a and b]
        if len(ratios) < 2:
            return None
        low, _, high = statistics.quantiles(ratios, n=4)
        return cls(statistics.median(ratios), low, high)

    def text(self) -> str:
        """Return `median (low-high)`."""
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Everything that one comparison has found."""

    facts: dict[str, str]
    versions: dict[str, str]
    bursts: int
    rows: dict[str, dict[str, Bursts]]
    """By row and server; all are compared with the first server."""

    def write(self, path: Path) -> None:
        """Write the file from which the pages are made."""
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read such a file."""
        document: dict[str, Any] = json.loads(path.read_text())
        rows = {
            row: {server: Bursts(**bursts) for server, bursts in servers.items()}
            for row, servers in document["rows"].items()
        }
        return cls(**{**document, "rows": rows})

    def rate(self, row: str, server: str) -> Quartiles | None:
        """Return the rate of a server, divided by that of the first."""
        servers = self.rows[row]
        first = next(iter(servers.values()))
        return Quartiles.of_ratios(servers[server].rates, first.rates)

    def cost(self, row: str, server: str) -> Quartiles | None:
        """Return the processor time of a server for a request, divided by that of the first."""
        servers = self.rows[row]
        first = next(iter(servers.values()))
        return Quartiles.of_ratios(servers[server].costs, first.costs)


def table(row: Row, found: Pairs) -> str:
    """Return the Markdown table of one row, a line for each server."""
    servers = found.rows[row.name]
    first = next(iter(servers))
    counts_bytes = row.headlines[0] == THROUGHPUT
    rate = "MB/s" if counts_bytes else "requests/s"
    cost = "CPU ms a MB" if counts_bytes else "CPU µs a request"
    scale, digits = (1e-6, 0) if counts_bytes else (1.0, 0)
    lines = [["server", f"rate : {first}", f"CPU : {first}", rate, cost]]
    for name, bursts in servers.items():
        ratios = found.rate(row.name, name), found.cost(row.name, name)
        costs = [each for each in bursts.costs if each] or [0.0]
        lines.append(
            [
                f"{name} !" if bursts.errors else name,
                *("-" if ratio is None else ratio.text() for ratio in ratios),
                number(statistics.median(bursts.rates) * scale, digits),
                number(statistics.median(costs) * (1e9 if counts_bytes else 1e6)),
            ]
        )
    title = f"### {row.name}: {row.title}; {found.bursts} bursts each; medians (quartiles)"
    notes = ["! requests failed"] if any(bursts.errors for bursts in servers.values()) else []
    return "\n".join([title, "", *markdown(lines), *notes])


def show(found: Pairs, path: Path, root: Path) -> None:
    """Put a comparison, written to `path`, into the pages of a repository.

    Raises `ValueError` where one of them has no place for it.
    """
    page = root / "docs" / "performance.md"
    places = (
        (root / "README.md", _README_BLOCK, short_block(found)),
        (page, _PAGE_BLOCK, block(found, os.path.relpath(path, page.parent))),
    )
    replaced = {}
    for file, place, text in places:
        before = file.read_text()
        if len(place.findall(before)) != 1:
            raise ValueError(f"{file} has no place, or several, for what was found")
        replaced[file] = place.sub(lambda _, text=text: text, before)  # type: ignore[misc]
    for file, text in replaced.items():
        file.write_text(text)


def short_block(found: Pairs) -> str:
    """Return the Markdown of a few rows, for people who have three minutes."""
    servers = list(next(iter(found.rows.values())))
    lines = [["requests a second, in ratio", *servers]]
    for name, title in SHORT_ROWS.items():
        if name in found.rows:
            lines.append([title, *_cells(found, name, servers, quartiles=False)])
    facts = found.facts
    return (
        "\n".join(markdown(lines))
        + f"\n\nMeasured on {facts['date'][:10]} with one core for the server "
        f"({facts['processor']}, {facts['python']}). {servers[0]} is 1; more is better.\n"
    )


def block(found: Pairs, link: str) -> str:
    """Return the Markdown of a comparison whose file is `link`."""
    facts = found.facts
    servers = list(next(iter(found.rows.values())))
    tables = []
    for heading, costs in (("rate", False), ("processor time a request", True)):
        lines = [[heading, *servers]]
        for row in ROWS:
            if row.name in found.rows:
                cells = _cells(found, row.name, servers, quartiles=True, costs=costs)
                lines.append([row.title, *cells])
        tables.append("\n".join(markdown(lines)))
    installed = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return "\n\n".join(
        [
            f"Measured on {facts['date']}, commit {facts['commit']}: {facts['processor']}, "
            f"{facts['kernel']}, {facts['python']}; all servers on one core, wrk on another; "
            f"{found.bursts} bursts of each. What is shown are ratios to {servers[0]}: medians, "
            "and between which a half of the ratios lies. A dash stands where requests failed.",
            *tables,
            f"{installed}. All bursts are in [{Path(link).name}]({link}).\n",
        ]
    )


def _cells(
    found: Pairs, row: str, servers: Sequence[str], *, quartiles: bool, costs: bool = False
) -> list[str]:
    """Return a cell for each server, the best median bold."""
    ratios = {}
    for server in servers:
        bursts = found.rows[row].get(server)
        if bursts is not None and not bursts.errors:
            ratios[server] = (found.cost if costs else found.rate)(row, server)
    medians = {server: ratio.median for server, ratio in ratios.items() if ratio is not None}
    best = (min if costs else max)(medians.values(), default=None)
    cells = []
    for server in servers:
        ratio = ratios.get(server)
        if ratio is None:
            cells.append("-")
        else:
            text = ratio.text() if quartiles else f"{ratio.median:.2f}"
            cells.append(f"**{text}**" if ratio.median == best else text)
    return cells
