"""The part of the repository's README that shows a run: made here, never by hand."""

import os
import re
from pathlib import Path

from benchmarks.report import OURS, found_rows, markdown
from benchmarks.results import Run, summarise

COMMAND = "python3 -m pip install -e '.[bench]' && python3 -m benchmarks all"
"""What measures all of it again."""
_BLOCK = re.compile(r"(?<=<!-- benchmark -->\n).*?(?=<!-- end -->)", re.DOTALL)


def write(run: Run, *, result: Path, readme: Path) -> None:
    """Put a run, read from `result` and drawn beside it, into the file `readme`.

    Raises `ValueError` where that has no place for it.
    """
    text = readme.read_text()
    link = os.path.relpath(result.with_suffix(""), readme.parent)
    replaced, count = _BLOCK.subn(lambda _: block(run, link=link), text)
    if count != 1:
        raise ValueError(f"{readme} has {count} places between <!-- benchmark --> and <!-- end -->")
    readme.write_text(replaced)


def block(run: Run, *, link: str) -> str:
    """Return the Markdown of a run whose files are `link` with their suffixes."""
    facts = run.facts
    installed = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    parts = [
        f"Measured on {facts['date']}, commit {facts['commit']}: {facts['processor']}, "
        f"{facts['kernel']}, {facts['python']}; server and client on a core each; medians of "
        f"{run.rounds} rounds of {run.duration} s. The best are bold; a dash stands where a server "
        "failed, gave wrong answers, or cannot take part.",
        "\n".join(markdown(_table(run))),
        f"![A chart of bars for each row]({link}.png)",
        *(
            f"![How latencies are distributed at a fixed rate]({link}-{row.name}.png)"
            for row in found_rows(run)
            if row.offered
        ),
        " ".join([f"{installed}.", *run.notes]),
        f"Every sample is in [{Path(link).name}.json]({link}.json);",
        f"```sh\n{COMMAND}\n```",
        "takes them anew on your machine.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(run: Run) -> list[list[str]]:
    """Return a line for each headline of each row, a column for each server; ours come first."""
    rows = found_rows(run)
    servers = list(dict.fromkeys(server for row in rows for server in run.rows[row.name].samples))
    servers.sort(key=lambda server: server not in OURS)
    lines = [["", *servers]]
    for row in rows:
        summaries = {
            server: summary
            for server, summary in summarise(run.rows[row.name], row.headlines, OURS).items()
            if not summary.errors
        }
        for figure in row.headlines:
            medians = {name: s.figures[figure.key].median for name, s in summaries.items()}
            best = max if figure.more_is_better else min
            cells = {
                name: f"**{figure.text(median)}**"
                if median == best(medians.values())
                else figure.text(median)
                for name, median in medians.items()
            }
            title = f"{row.title}: {figure.heading}"
            lines.append([title, *(cells.get(server, "-") for server in servers)])
    return lines
