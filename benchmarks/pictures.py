"""The pictures of a run: a chart of bars with a panel for each row, and one of how latencies are
distributed. They need matplotlib.
"""

import math
import statistics
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.report import OURS, found_rows, sustained
from benchmarks.results import Run, summarise
from benchmarks.rows import Row

COLUMNS = 3
OURS_COLOUR, THEIRS_COLOUR = "#c0392b", "#7f8c9b"


def draw(run: Run, path: Path) -> list[Path]:
    """Draw what a run has found into files that are named like `path`, and return those.

    Raises `ImportError` where matplotlib is not installed.
    """
    bars = path.with_suffix(".png")
    _draw_bars(run, bars)
    drawn = [bars]
    for row in found_rows(run):
        if row.offered:
            drawn.append(path.with_name(f"{path.stem}-{row.name}.png"))
            _draw_distribution(run, row, drawn[-1])
    return drawn


def _figure(width: float, height: float) -> Any:
    # By name: it is an extra, and a static import would make the type check depend on it.
    return import_module("matplotlib.figure").Figure((width, height), layout="constrained")


def _title(run: Run) -> str:
    facts = run.facts
    return f"{facts['date']}; {facts['processor']}; {facts['python']}; commit {facts['commit']}"


def _draw_bars(run: Run, path: Path) -> None:
    rows = found_rows(run)
    lines = math.ceil(len(rows) / COLUMNS)
    figure = _figure(5 * COLUMNS, 3.4 * lines)
    figure.suptitle(_title(run), fontsize=9)
    panels = list(figure.subplots(lines, COLUMNS, squeeze=False).flat)
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    for panel, row in zip(panels, rows, strict=False):
        _draw_row(panel, run, row)
    figure.savefig(path, dpi=100)


def _draw_row(panel: Any, run: Run, row: Row) -> None:
    """Draw the first headline of a row: the best server on top, a whisker for its range."""
    figure = row.headlines[0]
    spreads = {
        server: summary.figures[figure.key]
        for server, summary in summarise(run.rows[row.name], row.headlines, OURS).items()
        if not summary.errors
    }
    # Bars are drawn from the bottom.
    servers = sorted(
        spreads, key=lambda server: spreads[server].median, reverse=not figure.more_is_better
    )
    medians = [spreads[server].median * figure.scale for server in servers]
    below = [(spreads[s].median - spreads[s].low) * figure.scale for s in servers]
    above = [(spreads[s].high - spreads[s].median) * figure.scale for s in servers]
    colours = [OURS_COLOUR if server in OURS else THEIRS_COLOUR for server in servers]
    bars = panel.barh(
        servers, medians, xerr=(below, above), color=colours, error_kw={"elinewidth": 1}
    )
    labels = [figure.text(spreads[server].median) for server in servers]
    panel.bar_label(bars, labels, padding=6, fontsize=7)
    panel.margins(x=0.2)
    better = "more" if figure.more_is_better else "less"
    panel.set_title(f"{row.name}: {figure.heading}, {better} is better", fontsize=9)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_distribution(run: Run, row: Row, path: Path) -> None:
    """Draw a line for each server, of its medians over the rounds; dashed if it did not keep up."""
    figure = _figure(10, 6)
    figure.suptitle(_title(run), fontsize=9)
    panel = figure.subplots()
    # More servers than the usual ten colours.
    panel.set_prop_cycle(color=import_module("matplotlib").colormaps["tab20"].colors)
    result = run.rows[row.name]
    shares: list[str] = []
    for server, summary in summarise(result, row.headlines, OURS).items():
        samples = result.samples[server]
        shares = list(samples[0].distribution)
        panel.plot(
            [_nines(share) for share in shares],
            [
                statistics.median(sample.distribution[share] for sample in samples) * 1000
                for share in shares
            ],
            label=server,
            linewidth=3 if server in OURS else 1.2,
            linestyle="-" if sustained(summary) else "--",
        )
    panel.set(xscale="log", yscale="log", xlabel="percentile", ylabel="latency, ms")
    panel.set_xticks([_nines(share) for share in shares], [f"{share}%" for share in shares])
    panel.minorticks_off()
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    panel.set_title(f"{row.name}: {row.title}; {result.rate:,} requests/s", fontsize=9)
    figure.savefig(path, dpi=100)


def _nines(share: str) -> float:
    """Return where a percentile stands: 90, 99 and 99.9 are as far from each other."""
    return 100 / (100 - float(share))
