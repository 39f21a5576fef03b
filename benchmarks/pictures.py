"""The pictures of a run: a chart of bars with a panel for each row. They need matplotlib."""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.report import OURS, found_rows
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
    return [bars]


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
