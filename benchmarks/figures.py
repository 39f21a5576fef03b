"""What is measured: the figures of a sample, how they read, and the spread over rounds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind of number. Samples hold it in seconds, bytes or plain numbers."""

    key: str
    """Its name in a sample."""
    heading: str
    """Its name in tables and pictures, with the unit."""
    scale: float = 1.0
    """Factor from what samples hold to that unit."""
    digits: int | None = None
    """Decimals; None keeps about three digits."""
    more_is_better: bool = True

    def text(self, value: float) -> str:
        """Return a value of a sample in the unit of the heading."""
        return number(value * self.scale, self.digits)


RATE = Figure("requests_per_second", "requests/s")
THROUGHPUT = Figure("bytes_per_second", "MB/s", scale=1e-6)
P50 = Figure("p50", "p50 ms", scale=1e3, digits=2, more_is_better=False)
P99 = Figure("p99", "p99 ms", scale=1e3, digits=2, more_is_better=False)
P999 = Figure("p999", "p99.9 ms", scale=1e3, digits=2, more_is_better=False)
CLIENT_DELAY = Figure("client_delay", "client's p99 ms", scale=1e3, digits=2, more_is_better=False)
MEMORY = Figure("resident_bytes", "memory MiB", scale=2**-20, digits=1, more_is_better=False)
BURNED = Figure("requests_per_second", "CPU-bound/s")
CPU_PER_REQUEST = Figure(
    "cpu_per_request", "server's CPU µs a request", scale=1e6, digits=0, more_is_better=False
)
SLEEP_SHARE = Figure("share", "% of threads / 10 ms", scale=100, digits=1)
PER_CONNECTION = Figure(
    "bytes_per_connection", "KiB a connection", scale=2**-10, digits=2, more_is_better=False
)
KEPT = Figure("connections", "open connections", digits=0)
SCALING = Figure("scaling", "2 processes : 1", digits=2)
RATE_OF_ONE = Figure("requests_per_second_of_one", "requests/s of 1")
RATE_OF_TWO = Figure("requests_per_second", "requests/s of 2")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, scale: float = 1.0, digits: int | None = None) -> str:
        """Return `median (low-high)`, all three with the same decimals."""
        if digits is None:
            digits = _decimals(self.high * scale)
        low, middle, high = (
            number(value * scale, digits) for value in (self.low, self.median, self.high)
        )
        return f"{middle} ({low}-{high})"


def number(value: float, digits: int | None = None) -> str:
    """Return a number with so many decimals, or with as many as keep about three digits."""
    return f"{value:,.{_decimals(value) if digits is None else digits}f}"


def _decimals(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 10 else 2
