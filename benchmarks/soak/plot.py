"""The picture of a run: rate, memory, descriptors and threads over time."""

import itertools
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.soak.verdict import Sample


def draw(samples: Sequence[Sample], *, seconds: float, title: str, path: Path) -> None:
    """Write a PNG; the fifths in which memory is compared are shaded.

    Raises `ImportError` where matplotlib is not installed.
    """
    # By name: it is an extra, and a static import would make the type check depend on it.
    figure = import_module("matplotlib.figure").Figure(figsize=(10, 9), layout="constrained")
    times = [sample.at for sample in samples]
    rates = [
        (later.requests - sooner.requests) / (later.at - sooner.at)
        for sooner, later in itertools.pairwise(samples)
    ]
    curves = (
        ("answers a second", times[1:], rates),
        ("resident memory, MiB", times, [sample.resident_bytes / 2**20 for sample in samples]),
        ("descriptors", times, [sample.descriptors for sample in samples]),
        ("threads", times, [sample.threads for sample in samples]),
    )
    figure.suptitle(title)
    for axes, (name, at, values) in zip(figure.subplots(4, sharex=True), curves, strict=True):
        axes.plot(at, values, linewidth=1)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        for number in (2, 5):
            axes.axvspan(seconds * (number - 1) / 5, seconds * number / 5, alpha=0.1)
    axes.set_xlabel("seconds")
    figure.savefig(path)
