"""Medians, spreads, ratios, and the tables: functions from samples to text."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.client import Measurement
from benchmarks.peers import OURS
from benchmarks.workloads import Workload

CLIENT_BOUND = 0.95
"""Load of wrk's core from which its own speed, not the server's, limits the figure."""
INTERFERENCE = 0.05
"""Share of a core taken by others from which a table says that it was disturbed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round."""

    round: int
    measurement: Measurement
    resident_bytes: int
    """Memory of the server and its children right after the load."""
    interference: float
    """Share of the server's or of wrk's core, whichever is more, that others used meanwhile."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Summary:
    """One server over all rounds of one row. Latencies are seconds, memory is bytes."""

    requests_per_second: Spread
    p50: Spread
    p99: Spread
    resident_bytes: Spread
    client_load: Spread
    ratio: Spread | None
    """Requests/s divided by ours in the same round; None without a round of ours."""
    p50_ratio: Spread | None
    """The same of the median latency."""
    interference: Spread
    errors: int


def summarise(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Summary]:
    """Return a summary for every server that was measured at least once.

    The ratio pairs the rounds: what slows the machine for a while slows both sides of a pair.
    """
    ours = {s.round: s.measurement for s in samples.get(OURS, ())}
    summaries = {}
    for name, taken in samples.items():
        if not taken:
            continue
        pairs = [(s.measurement, ours[s.round]) for s in taken if s.round in ours]
        ratios = [theirs.requests_per_second / own.requests_per_second for theirs, own in pairs]
        p50_ratios = [theirs.p50 / own.p50 for theirs, own in pairs]
        summaries[name] = Summary(
            requests_per_second=Spread.of([s.measurement.requests_per_second for s in taken]),
            p50=Spread.of([s.measurement.p50 for s in taken]),
            p99=Spread.of([s.measurement.p99 for s in taken]),
            resident_bytes=Spread.of([s.resident_bytes for s in taken]),
            client_load=Spread.of([s.measurement.client_load for s in taken]),
            ratio=Spread.of(ratios) if ratios else None,
            p50_ratio=Spread.of(p50_ratios) if p50_ratios else None,
            interference=Spread.of([s.interference for s in taken]),
            errors=sum(s.measurement.errors.total for s in taken),
        )
    return summaries


def rate(value: float) -> str:
    """Return a number of things a second, with decimals where it is small."""
    return f"{value:,.{_decimals(value)}f}"


def heading(facts: Mapping[str, str], versions: Mapping[str, str]) -> str:
    """Return the lines that say where, when and with which versions the figures were taken."""
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{facts['date']}; {facts['kernel']}; {facts['processor']}; load {facts['load']}\n"
        f"{facts['python']}; server on core {facts['server core']}, "
        f"wrk {facts['wrk']} on core {facts['client core']}\n"
        f"{installed}; commit {facts['commit']}"
    )


def table(
    workload: Workload,
    summaries: Mapping[str, Summary],
    *,
    connections: int,
    rounds: int,
    duration: int,
    notes: Iterable[str] = (),
) -> str:
    """Return one row of the benchmark as a Markdown table with its title and footnotes."""
    header = ["server", "requests/s (range)"]
    if workload.payload_bytes:
        header.append("MB/s")
    header += ["p50 ms", "p99 ms (range)", "memory MiB", "vs aiowsgi (range)"]
    if workload.burners:
        header[1] = "CPU-bound/s (range)"
        header.append("p50 vs aiowsgi (range)")
    header.append("errors")
    lines = [_cells(name, summary, workload) for name, summary in summaries.items()]
    footnotes = list(notes)
    if any(_client_bound(summary) for summary in summaries.values()):
        footnotes.append("* the client used its whole core: the server can do at least this much.")
    disturbed = max((s.interference.high for s in summaries.values()), default=0.0)
    if disturbed >= INTERFERENCE:
        footnotes.append(
            f"The machine was not idle: others took up to {disturbed:.0%} of a core in use."
        )
    failing = [name for name, summary in summaries.items() if summary.errors]
    if failing:
        footnotes.append(f"! requests failed, the figures do not count: {', '.join(failing)}.")
    advantages = [
        f"{1 / summary.ratio.median:.2f} times {name}"
        for name, summary in summaries.items()
        if name != OURS and summary.ratio is not None and not summary.errors
    ]
    if advantages and OURS in summaries and not summaries[OURS].errors:
        what = "serves CPU-bound requests" if workload.burners else "serves"
        footnotes.append(f"aiowsgi {what} {', '.join(advantages)}.")
        if workload.burners:
            footnotes.append(_latency_advantages(summaries))
    title = (
        f"### {workload.name}: {workload.title}; {_count(connections, 'connection')}, "
        f"{_count(rounds, 'round')} of {duration} s, medians"
    )
    return "\n".join([title, "", *markdown([header, *lines]), "", *footnotes]).rstrip()


def _latency_advantages(summaries: Mapping[str, Summary]) -> str:
    """Return the sentence that compares the median latencies."""
    parts = [
        f"{1 / summary.p50_ratio.median:.2f} times that of {name}"
        for name, summary in summaries.items()
        if name != OURS and summary.p50_ratio is not None and not summary.errors
    ]
    return f"The median latency of aiowsgi beside them is {', '.join(parts)}."


def _cells(name: str, summary: Summary, workload: Workload) -> list[str]:
    """Return one line of the table."""
    rate = _spread(summary.requests_per_second, 0)
    marks = ("!" if summary.errors else "") + ("*" if _client_bound(summary) else "")
    cells = [f"{name} {marks}".rstrip(), rate]
    if workload.payload_bytes:
        cells.append(f"{summary.requests_per_second.median * workload.payload_bytes / 1e6:,.0f}")
    cells += [
        f"{summary.p50.median * 1000:.2f}",
        _spread(_scaled(summary.p99, 1000), 2),
        f"{summary.resident_bytes.median / 2**20:.1f}",
        _spread(summary.ratio, 2) if summary.ratio else "-",
    ]
    if workload.burners:
        cells.append(_spread(summary.p50_ratio, 2) if summary.p50_ratio else "-")
    return [*cells, str(summary.errors)]


def _client_bound(summary: Summary) -> bool:
    return summary.client_load.median >= CLIENT_BOUND


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(spread.median * factor, spread.low * factor, spread.high * factor)


def _spread(spread: Spread, digits: int) -> str:
    """Return `median (low-high)`; slow rows get decimals so that the range is not lost."""
    digits = digits or _decimals(spread.high)
    low, middle, high = (
        f"{value:,.{digits}f}" for value in (spread.low, spread.median, spread.high)
    )
    return f"{middle} ({low}-{high})"


def _decimals(value: float) -> int:
    """Return how many decimals keep about three digits of a value."""
    return 0 if value >= 1000 else 1 if value >= 10 else 2


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines of a Markdown table; the first row is the header."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = row
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, f"| {' | '.join(rule)} |")
    return lines
