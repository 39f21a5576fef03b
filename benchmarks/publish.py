"""The command `report`: tables and pictures of a run that was taken before, and the page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page, pictures, report
from benchmarks.results import FOLDER, Run

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 2 where there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report", description="Show a run that was taken before."
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="its file (default: the newest in benchmarks/results)"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="also put it into docs/performance.md of the repository",
    )
    options = parser.parse_args(arguments)
    # Their names begin with the date.
    path = options.file or max(FOLDER.glob("[0-9]*.json"), default=None)
    if path is None:
        print(f"benchmarks: there is no result in {FOLDER}", file=sys.stderr)
        return 2
    try:
        run = Run.read(path)
    except (OSError, ValueError) as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 2
    print(report.tables(run))
    draw(run, path)
    if options.write:
        page.write(run, result=path, page=PAGE)
    return 0


def draw(run: Run, path: Path) -> None:
    """Draw the pictures beside the file of a run; where that cannot be, say why."""
    try:
        drawn = pictures.draw(run, path)
    except ImportError:
        print("no pictures: they need matplotlib (pip install -e '.[bench]')", file=sys.stderr)
    else:
        print(f"drawn: {', '.join(map(str, drawn))}", file=sys.stderr)
