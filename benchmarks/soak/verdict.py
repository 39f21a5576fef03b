"""From what was seen to a verdict: functions from data to data."""

import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

MEMORY_SHARE = 0.05
MEMORY_BYTES = 4 * 1024 * 1024
"""What memory may grow by, from the second fifth of the run to the last: the larger of the two."""
RENEWED_BYTES = 2 * 1024 * 1024
"""What memory may grow by from before faults to behind them, with fresh workers, or by that share
of it: the larger of the two."""
IN_USE_SHARE = 0.02
IN_USE_FLOORS = {"objects": 500, "blocks": 2000, "heap": 1024 * 1024}
"""What an idle server may have in use more than before the traffic: the larger of the two."""
IDLE_LOAD = 0.05
"""Share of a core that a server may use when nobody asks for anything."""

_MIB = 1024 * 1024
_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) ")


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment."""

    at: float
    """Seconds from the start of the traffic."""
    resident_bytes: int
    descriptors: int
    threads: int
    requests: int
    """All that were answered up to now."""
    errors: int


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the verdict."""

    name: str
    passed: bool
    text: str


def fifth(samples: Sequence[Sample], number: int, seconds: float) -> list[Sample]:
    """Return the samples of one fifth of a run that took so long; `number` counts from 1."""
    first, end = seconds * (number - 1) / 5, seconds * number / 5
    return [sample for sample in samples if first <= sample.at < end]


def memory(samples: Sequence[Sample], seconds: float) -> Check:
    """Judge whether memory is flat once the server is warm.

    The first fifth warms up. Medians, because slow clients make single samples high.
    """
    before = [sample.resident_bytes for sample in fifth(samples, 2, seconds)]
    after = [sample.resident_bytes for sample in fifth(samples, 5, seconds)]
    if not before or not after:
        return Check("memory", False, "too few samples")
    reference, final = statistics.median(before), statistics.median(after)
    growth, allowed = final - reference, max(reference * MEMORY_SHARE, MEMORY_BYTES)
    warm = [sample for sample in samples if seconds / 5 <= sample.at < seconds]
    slope = statistics.linear_regression(
        [sample.at for sample in warm], [sample.resident_bytes for sample in warm]
    ).slope
    text = (
        f"{reference / _MIB:.1f} MiB in the second fifth, {final / _MIB:.1f} in the last: "
        f"{growth / _MIB:+.1f} of {allowed / _MIB:.1f} allowed; "
        f"trend {slope * 3600 / _MIB:+.1f} MiB an hour"
    )
    return Check("memory", growth <= allowed, text)


def in_use(before: Mapping[str, int], after: Mapping[str, int]) -> Check:
    """Judge whether something stays in use that requests have made.

    Resident memory has in it what the allocators keep for later. This has not, so it tells a leak
    from a heap with holes: whatever stays behind is counted as often as there were requests.
    """
    grown = {name: after[name] - count for name, count in before.items()}
    allowed = {
        name: max(count * IN_USE_SHARE, IN_USE_FLOORS[name]) for name, count in before.items()
    }
    text = ", ".join(
        f"{before[name]:,} {name} {grown[name]:+,} ({allowed[name]:,.0f} allowed)"
        for name in before
    )
    return Check("in use", all(grown[name] <= allowed[name] for name in before), text)


def back_to_idle(name: str, final: int, idle: int) -> Check:
    """Judge whether a count is back to what an idle server has."""
    return Check(name, final <= idle, f"{final} after the traffic, {idle} when idle")


def idle_load(cpu_seconds: float, elapsed: float) -> Check:
    """Judge whether a server to which nobody is connected does nothing."""
    load = cpu_seconds / elapsed
    return Check("idle", load <= IDLE_LOAD, f"{load:.1%} of a core without any client")


def answers(errors: int) -> Check:
    """Judge what the clients saw."""
    return Check("answers", errors == 0, f"{errors} errors")


def answers_in_spite(
    errors: Mapping[str, Mapping[str, int]], clients: Mapping[str, int], *, ends: int, losses: int
) -> Check:
    """Judge what the clients saw while workers ended.

    `errors` of each kind are by their sorts. A worker that ends breaks off at most one visit of
    each client, also one that ends in order: some clients do not care what they were told. A client
    that makes a single request can lose it only to a worker that was killed: there are `losses`
    of these among the `ends`. No answer is ever wrong, and no visit hangs.
    """
    broken = sum(sorts.get("broken", 0) for sorts in errors.values())
    others = sum(sum(sorts.values()) for sorts in errors.values()) - broken
    single = errors["hello-once"].get("broken", 0)
    allowed, allowed_single = ends * sum(clients.values()), losses * clients["hello-once"]
    passed = not others and broken <= allowed and single <= allowed_single
    text = (
        f"{others} wrong or without an end; {broken} broken of {allowed} allowed; "
        f"{single} of single requests broken, of {allowed_single} allowed"
    )
    return Check("answers", passed, text)


def same(name: str, before: int, after: int) -> Check:
    """Judge whether a number is what it was."""
    return Check(name, after == before, f"{before} before, {after} after")


def settled(processes: int, expected: Collection[int]) -> Check:
    """Judge whether there are as many processes as there may be when nothing happens any more."""
    allowed = " or ".join(map(str, sorted(set(expected))))
    return Check("settled", processes in expected, f"{processes} processes, expected {allowed}")


def not_grown(name: str, before: int, after: int) -> Check:
    """Judge whether memory, in bytes, is hardly more than it was: 5% or 2 MiB, the larger."""
    allowed = max(before * MEMORY_SHARE, RENEWED_BYTES)
    text = (
        f"{before / _MIB:.1f} MiB before, {after / _MIB:.1f} after: "
        f"{(after - before) / _MIB:+.1f} of {allowed / _MIB:.1f} allowed"
    )
    return Check(name, after <= before + allowed, text)


def log(text: str, expected: str = "") -> Check:
    """Judge the log of the server: no errors but those the application makes on purpose.

    `expected` is a pattern of others that are due.
    """
    odd = unexpected_records(text)
    if expected:
        odd = [record for record in odd if not re.search(expected, record)]
    shown = "\n    ".join(["", *odd[0].splitlines()[:30]]) if odd else ""
    return Check("log", not odd, f"{len(odd)} unexpected records{shown}")


def unexpected_records(text: str) -> list[str]:
    """Return the records of a log that tell of a defect.

    A record goes up to the next line that begins with a time. What is printed past the logging,
    such as an exception that nobody took, stands within a record of any level.
    """
    starts = [match.start() for match in re.finditer(rf"^{_RECORD.pattern}", text, re.MULTILINE)]
    records = [
        text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True)
    ]
    return [record for record in records if _is_unexpected(record)]


def _is_unexpected(record: str) -> bool:
    if "Deliberate" in record:
        # Whatever else was printed within this record has a traceback of its own.
        return record.count("Traceback (most recent call last)") > 1
    match = _RECORD.match(record)
    severe = match is not None and match[1] in ("ERROR", "CRITICAL")
    return severe or re.search(r"Traceback|Exception ignored|Warning:", record) is not None


def stopped(status: int | None, seconds: float) -> Check:
    """Judge how the server took SIGTERM; `status` is None where it did not end."""
    ended = "did not end" if status is None else f"ended with status {status}"
    return Check("stop", status == 0, f"{ended} on SIGTERM, {seconds:.1f} s")
