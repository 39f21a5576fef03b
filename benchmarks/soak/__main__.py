"""The command line: `python -m benchmarks.soak [options]`, run from the repository root with a
Python in which aiowsgi can run.

Exit codes: 0 the verdict is good, 1 it is not, 2 the machine or the command line does not allow a
run or the server did not start.
"""

import argparse
import dataclasses
import http.client
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import number
from benchmarks.process import ProcessError, ServerProcess, free_port
from benchmarks.report import markdown
from benchmarks.soak import plot
from benchmarks.soak.faults import TIMEOUT_WORKER
from benchmarks.soak.runs import Options, Soak, SoakWithFaults, say
from benchmarks.soak.traffic import VISIT_LIMIT, Tally
from benchmarks.soak.verdict import Check, Sample

ROOT = Path(__file__).resolve().parent.parent.parent
MIN_SECONDS = 10

# Seconds that workers have for requests in flight, where faults befall them.
_GRACEFUL = 8

# Settings of the C library's allocator and of Python's that are passed on to the server.
_ALLOCATOR_PREFIXES = ("MALLOC_", "GLIBC_TUNABLES", "PYTHONMALLOC")
# One heap for all threads, if nothing else is said. With a heap for each, what they keep for later
# rises for longer than most runs take, and hides what a small leak would add.
_ALLOCATOR = {"MALLOC_ARENA_MAX": "1"}


def main() -> int:
    """Run the command line and return the exit code."""
    options = _parse_options()
    if not sys.platform.startswith("linux"):
        return _refuse("the soak reads /proc: it needs Linux")
    # Ended from outside, leave the server as Ctrl-C would: stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    port = free_port()
    command = [sys.executable, "-m", "aiowsgi", "--bind", f"127.0.0.1:{port}"]
    command += ["--threads", str(options.threads), "--loop", options.loop, "--no-access-log"]
    if options.workers:
        command += ["--workers", str(options.workers), "--timeout-worker", str(TIMEOUT_WORKER)]
        command += ["--timeout-graceful", str(_GRACEFUL)]
        command += ["--preload"] if options.preload else []
    command.append("benchmarks.soak.app:application")
    given = {n: value for n, value in os.environ.items() if n.startswith(_ALLOCATOR_PREFIXES)}
    allocator = {**_ALLOCATOR, **given}
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**kept, **allocator, "PYTHONPATH": str(ROOT)}
    facts = {**machine.describe(ROOT), **allocator}
    say(f"{facts['date']}; {facts['kernel']}; {facts['processor']}; load {facts['load']}")
    say(f"{facts['python']}; commit {facts['commit']}; {options.loop}, {options.threads} threads")
    for name, value in allocator.items():
        say(f"{name}={value}")
    try:
        with ServerProcess(command, port=port, cores=None, env=environment) as server:
            kind = SoakWithFaults if options.workers else Soak
            soak = kind(server, port=port, options=options)
            checks = soak.run()
    except (ProcessError, OSError, http.client.HTTPException) as exc:
        return _refuse(f"the run ended early: {exc}")
    passed = all(check.passed for check in checks)
    print(_table(soak.traffic.tallies, soak.samples))
    for check in checks:
        print(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.text}")
    print("the verdict is", "good" if passed else "bad", flush=True)
    _write(options, facts, soak, checks, passed)
    return 0 if passed else 1


def _table(tallies: Mapping[str, Tally], samples: Sequence[Sample]) -> str:
    """Return what came of each kind, and the messages of the first errors."""
    elapsed = samples[-1].at or 1.0
    rows = [["kind", "visits", "answers", "answers/s", "slowest visit s", "errors"]]
    messages = []
    for name, tally in tallies.items():
        errors = ", ".join(f"{count} {sort}" for sort, count in tally.errors.items())
        rows.append(
            [
                *(name, f"{tally.visits:,}", f"{tally.requests:,}"),
                *(number(tally.requests / elapsed), f"{tally.slowest:.2f}", errors or "-"),
            ]
        )
        messages += [f"{name}: {message}" for message in tally.messages]
    return "\n".join(["", *markdown(rows), "", *messages])


def _write(
    options: Options, facts: dict[str, str], soak: Soak, checks: Sequence[Check], passed: bool
) -> None:
    """Write the JSON, and the picture where matplotlib is installed."""
    options.out.mkdir(parents=True, exist_ok=True)
    document = {
        "facts": facts,
        "options": {**dataclasses.asdict(options), "out": str(options.out)},
        "passed": passed,
        "checks": [dataclasses.asdict(check) for check in checks],
        "kinds": {name: dataclasses.asdict(tally) for name, tally in soak.traffic.tallies.items()},
        "samples": [dataclasses.asdict(sample) for sample in soak.samples],
    }
    mode = f"faults{'-preload' if options.preload else ''}-" if options.workers else ""
    path = options.out / f"soak-{mode}{options.loop}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"written: {path}")
    picture = path.with_suffix(".png")
    title = f"{options.loop}, {options.threads} threads, {facts['python']}, {facts['date']}"
    try:
        plot.draw(soak.samples, seconds=options.seconds, title=title, path=picture)
    except ImportError:
        print("no picture: matplotlib is not installed (pip install -e '.[bench]')")
    else:
        print(f"written: {picture}")


def _parse_options() -> Options:
    """Read the command line; ends the program with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Send mixed traffic to a real aiowsgi process and judge how it takes it. "
        f"Visits that have begun are finished, which takes up to {VISIT_LIMIT:.0f} s more.",
    )
    add = parser.add_argument
    add("--seconds", type=int, default=600, metavar="N", help="default: %(default)s")
    add("--loop", choices=("uvloop", "asyncio"), default="uvloop", help="default: %(default)s")
    add("--threads", type=int, default=8, metavar="N", help="of the server (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="below a supervisor, and faults befall them: kill -9 of workers and molds, SIGSTOP, "
        "reloads, more and fewer workers",
    )
    add("--preload", action="store_true", help="fork the workers from a mold")
    add("--seed", type=int, default=1, metavar="N", help="of what the clients choose")
    add(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results",
        metavar="DIR",
        help="for the JSON and the picture (default: benchmarks/results)",
    )
    given = parser.parse_args()
    if given.seconds < MIN_SECONDS:
        parser.error(f"--seconds: less than {MIN_SECONDS} says nothing")
    if given.threads < 1:
        parser.error("--threads: at least 1")
    if given.workers < 0 or (given.preload and not given.workers):
        parser.error("--workers: at least 1 with --preload")
    return Options(
        given.seconds,
        given.loop,
        given.threads,
        given.workers,
        given.preload,
        given.seed,
        given.out,
    )


def _refuse(message: str) -> int:
    """Print why there was no run and return exit code 2."""
    print(f"soak: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)
