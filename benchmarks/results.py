"""What a run has found: samples, their file, and the summary of a row over its rounds."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.figures import Figure, Spread

FOLDER = Path(__file__).parent / "results"
"""Where runs are written, a file each, named by its time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One server in one round."""

    round: int
    figures: dict[str, float]
    """By the key of a `Figure`: seconds, bytes or plain numbers."""
    errors: int
    """Requests and connections that failed."""
    client_load: float
    """Share of its core that the client used: near 1, it was the limit itself."""
    interference: float
    """Processor cores that others took from server and client meanwhile."""
    distribution: dict[str, float] = field(default_factory=dict)
    """Latencies in seconds by percentile, where the client knows them exactly."""


@dataclass(slots=True)
class RowResult:
    """One row: the samples of each server in the order of the table, and who is missing and why."""

    connections: int
    threads: int
    samples: dict[str, list[Sample]]
    rate: int = 0
    """Requests a second that were offered; 0 where clients ask as fast as they are answered."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run has found."""

    facts: dict[str, str]
    """The machine, the date, the commit."""
    versions: dict[str, str]
    notes: list[str]
    """What holds for every row."""
    rounds: int
    duration: int
    """Seconds of one measurement."""
    rows: dict[str, RowResult]

    def write(self, path: Path) -> None:
        """Write the file from which tables and pictures are made."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read such a file. Raises `OSError`, or `ValueError` where it is another."""
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            rows = {
                name: RowResult(
                    **{
                        **row,
                        "samples": {
                            server: [Sample(**sample) for sample in samples]
                            for server, samples in row["samples"].items()
                        },
                    }
                )
                for name, row in document["rows"].items()
            }
            return cls(**{**document, "rows": rows})
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"{path} is not a result of this benchmark: {exc!r}") from exc


@dataclass(frozen=True, slots=True)
class Summary:
    """One server over all rounds of one row."""

    figures: dict[str, Spread]
    ratios: dict[tuple[str, str], Spread]
    """By figure and server: that figure divided by the other server's in the same round."""
    errors: int
    client_load: float
    interference: float
    """The largest of all rounds."""


def summarise(
    result: RowResult, headlines: Sequence[Figure], baselines: Sequence[str]
) -> dict[str, Summary]:
    """Return a summary for every server that was measured at least once.

    Ratios, of the headlines to those of the baselines, pair the rounds: what slows the machine for
    a while slows both sides of a pair.
    """
    of_baseline = {
        name: {sample.round: sample.figures for sample in result.samples.get(name, ())}
        for name in baselines
    }
    summaries = {}
    for server, samples in result.samples.items():
        if not samples:
            continue
        ratios = {}
        for name, rounds in of_baseline.items():
            for figure in headlines:
                pairs = [
                    sample.figures[figure.key] / rounds[sample.round][figure.key]
                    for sample in samples
                    if rounds.get(sample.round, {}).get(figure.key)
                ]
                if pairs and name != server:
                    ratios[figure.key, name] = Spread.of(pairs)
        summaries[server] = Summary(
            figures={
                key: Spread.of([sample.figures[key] for sample in samples])
                for key in samples[0].figures
            },
            ratios=ratios,
            errors=sum(sample.errors for sample in samples),
            client_load=Spread.of([sample.client_load for sample in samples]).median,
            interference=max(sample.interference for sample in samples),
        )
    return summaries
