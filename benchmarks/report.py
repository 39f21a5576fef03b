"""The tables: functions from the results of a run to Markdown."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.figures import Figure
from benchmarks.peers import PEERS
from benchmarks.results import RowResult, Run, Summary, summarise
from benchmarks.rows import ROWS, Row

CLIENT_BOUND = 0.95
"""Load of the client's core from which its own speed, not the server's, limits the figure."""
INTERFERENCE = 0.05
"""Cores taken by others from which a table says that it was disturbed."""
SUSTAINED = 0.98
"""Share of requests at a fixed rate that are answered meanwhile, if a server keeps up with them."""
OURS = tuple(peer.name for peer in PEERS if peer.ours)
"""The servers that all others are compared with."""


def heading(run: Run) -> str:
    """Return the lines that say where, when and with which versions the figures were taken."""
    facts = run.facts
    installed = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    lines = [
        f"{facts['date']}; {facts['kernel']}; {facts['processor']}; load {facts['load']}",
        f"{facts['python']}; server on core {facts['server core']}, "
        f"wrk {facts['wrk']} on core {facts['client core']}",
        f"{installed}; commit {facts['commit']}",
        *run.notes,
    ]
    return "\n".join(lines)


def table(row: Row, result: RowResult, *, rounds: int, duration: int) -> str:
    """Return one row of the benchmark as a Markdown table with its title and footnotes."""
    summaries = summarise(result, row.headlines, OURS)
    baselines = [name for name in OURS if name in summaries]
    compared = [(figure, name) for figure in row.headlines for name in baselines]
    header = ["server"]
    header += [f"{figure.heading} (range)" for figure in row.headlines]
    header += [figure.heading for figure in row.figures]
    header += [f"{_short(figure, row)}: {name} (range)" for figure, name in compared]
    header.append("errors")
    lines = [header]
    for server, summary in summaries.items():
        marks = ("!" if summary.errors else "") + ("*" if _client_bound(summary) else "")
        cells = [f"{server} {marks}".rstrip()]
        cells += [summary.figures[f.key].text(f.scale, f.digits) for f in row.headlines]
        cells += [figure.text(summary.figures[figure.key].median) for figure in row.figures]
        for figure, name in compared:
            ratio = summary.ratios.get((figure.key, name))
            cells.append(ratio.text(digits=2) if ratio else "-")
        lines.append([*cells, str(summary.errors)])
    offered = f"{result.rate:,} requests/s offered, " if result.rate else ""
    title = (
        f"### {row.name}: {row.title}; {offered}{_count(result.connections, 'connection')}, "
        f"{_count(result.threads, 'thread')}, {_count(rounds, 'round')} of {duration} s, medians"
    )
    footnotes = [*result.notes, *_footnotes(row, summaries, baselines)]
    return "\n".join([title, "", *markdown(lines), "", *footnotes]).rstrip()


def tables(run: Run) -> str:
    """Return everything that a run has found, heading first."""
    parts = [
        table(row, run.rows[row.name], rounds=run.rounds, duration=run.duration)
        for row in found_rows(run)
    ]
    return "\n\n".join([heading(run), *parts])


def found_rows(run: Run) -> list[Row]:
    """Return the rows that a run has measured with at least one server, in their usual order."""
    return [
        row for row in ROWS if row.name in run.rows and any(run.rows[row.name].samples.values())
    ]


def _footnotes(
    row: Row, summaries: Mapping[str, Summary], baselines: Sequence[str]
) -> Iterable[str]:
    if any(map(_client_bound, summaries.values())):
        yield "* the client used its whole core: the server can do at least this much."
    disturbed = max((summary.interference for summary in summaries.values()), default=0.0)
    if disturbed >= INTERFERENCE:
        yield f"The machine was not idle: others took up to {disturbed:.0%} of a core in use."
    if failing := [name for name, summary in summaries.items() if summary.errors]:
        yield f"! requests failed, the figures do not count: {', '.join(failing)}."
    if slow := [name for name, summary in summaries.items() if not sustained(summary)]:
        yield f"Could not serve the requests as fast as they came: {', '.join(slow)}."
    for figure in row.headlines:
        for baseline in baselines:
            ratios = {
                name: summary.ratios[figure.key, baseline].median
                for name, summary in summaries.items()
                if (figure.key, baseline) in summary.ratios and not summary.errors
            }
            if ratios and not summaries[baseline].errors:
                parts = ", ".join(f"{1 / ratio:.2f} {name}" for name, ratio in ratios.items())
                yield f"{figure.heading} of {baseline}, times that of others: {parts}."


def sustained(summary: Summary) -> bool:
    """Return whether a server kept up with requests that came at a fixed rate."""
    share = summary.figures.get("sustained")
    return share is None or share.median >= SUSTAINED


def _short(figure: Figure, row: Row) -> str:
    """Return the name of a figure as columns of ratios have it."""
    return figure.heading if len(row.headlines) > 1 else "ratio"


def _client_bound(summary: Summary) -> bool:
    return summary.client_load >= CLIENT_BOUND


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


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
