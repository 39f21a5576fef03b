"""The command line: `python -m benchmarks.soak [options]`, run from the repository root with a
Python in which aiowsgi can run.

Exit codes: 0 the verdict is good, 1 it is not, 2 the machine or the command line does not allow a
run or the server did not start.
"""

import argparse
import asyncio
import dataclasses
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import number
from benchmarks.process import ProcessError, ServerProcess, free_port
from benchmarks.report import markdown
from benchmarks.soak import app, plot, verdict
from benchmarks.soak.traffic import VISIT_LIMIT, Tally, Traffic
from benchmarks.soak.verdict import Check, Sample

ROOT = Path(__file__).resolve().parent.parent.parent
MIN_SECONDS = 10
MAX_SAMPLES = 2000
PROGRESS_SECONDS = 10.0
SETTLE_SECONDS = 15.0
"""How long a server may take to let go of everything once all clients have gone."""
IDLE_SECONDS = 2.0
SERVE_SECONDS = 1.0
ASK_TIMEOUT = 10.0
STOP_SECONDS = 10.0

# Settings of the C library's allocator and of Python's that are passed on to the server.
_ALLOCATOR_PREFIXES = ("MALLOC_", "GLIBC_TUNABLES", "PYTHONMALLOC")
# One heap for all threads, if nothing else is said. With a heap for each, what they keep for later
# rises for longer than most runs take, and hides what a small leak would add.
_ALLOCATOR = {"MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True, slots=True)
class Options:
    """The command line as data."""

    seconds: int
    loop: str
    threads: int
    seed: int
    out: Path


class Soak:
    """One run against one server."""

    def __init__(self, server: ServerProcess, *, port: int, options: Options) -> None:
        self._server = server
        self._port = port
        self._options = options
        self._started = 0.0
        self.traffic = Traffic(port, seed=options.seed)
        self.samples: list[Sample] = []

    def run(self) -> list[Check]:
        """Idle, traffic, idle again, SIGTERM; return the verdict."""
        self._ask("/hello")
        idle_threads = self._server.threads()
        # One visit of each kind brings up what a server makes when it is first needed, so that the
        # descriptors it has then are those of an idle server.
        asyncio.run(self.traffic.once())
        # Threads of the pool stay; those that stood in for others do not.
        idle_threads = max(idle_threads, 1 + self._options.threads)
        idle_descriptors = self._least_descriptors()
        in_use = self._in_use()
        _say(f"idle: {idle_descriptors} descriptors, at most {idle_threads} threads")

        asyncio.run(self._drive())
        checks = [
            verdict.answers(self.traffic.errors),
            verdict.memory(self.samples, self._options.seconds),
        ]
        if not self._server.is_running():
            ended = Check("alive", False, "the server ended by itself")
            return [*checks, ended, verdict.log(self._server.log())]
        self._settle(idle_descriptors, idle_threads)
        checks += [
            verdict.back_to_idle("descriptors", self._server.descriptors(), idle_descriptors),
            verdict.back_to_idle("threads", self._server.threads(), idle_threads),
            self._idle_load(),
            self._still_serves(),
            self._compare_in_use(in_use),
        ]
        asked = time.monotonic()
        status = self._server.terminate(STOP_SECONDS)
        checks.append(verdict.stopped(status, time.monotonic() - asked))
        checks.append(verdict.log(self._server.log()))
        return checks

    async def _drive(self) -> None:
        """Send the traffic and take samples until both are done."""
        self._started = time.monotonic()
        end = self._started + self._options.seconds
        driving = asyncio.create_task(
            self.traffic.run(lambda: time.monotonic() >= end or not self._server.is_running())
        )
        interval = max(0.5, self._options.seconds / MAX_SAMPLES)
        progress = 0.0
        while not driving.done():
            sample = self._sample()
            self.samples.append(sample)
            if sample.at >= progress:
                self._show(sample, progress)
                progress += PROGRESS_SECONDS
            await asyncio.wait({driving}, timeout=interval)
        await driving

    def _sample(self) -> Sample:
        return Sample(
            at=time.monotonic() - self._started,
            resident_bytes=self._server.resident_bytes(),
            descriptors=self._server.descriptors(),
            threads=self._server.threads(),
            requests=self.traffic.requests,
            errors=self.traffic.errors,
        )

    def _show(self, sample: Sample, due: float) -> None:
        earlier = [other for other in self.samples if other.at <= due - PROGRESS_SECONDS]
        since = earlier[-1] if earlier else self.samples[0]
        elapsed = sample.at - since.at
        answered = (sample.requests - since.requests) / elapsed if elapsed else 0.0
        kinds = ", ".join(
            f"{sum(tally.errors.values())} {name}"
            for name, tally in self.traffic.tallies.items()
            if tally.errors
        )
        _say(
            f"{sample.at:6.0f} s {number(answered):>7} answers/s "
            f"{sample.resident_bytes / 2**20:7.1f} MiB {sample.descriptors:4} descriptors "
            f"{sample.threads:3} threads, errors: {kinds or 'none'}"
        )

    def _least_descriptors(self) -> int:
        """Return how many descriptors stay when nobody is connected any more."""
        deadline = time.monotonic() + SETTLE_SECONDS / 3
        least = self._server.descriptors()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            least = min(least, self._server.descriptors())
        return least

    def _settle(self, descriptors: int, threads: int) -> None:
        """Return when the server is back at these figures, or has had its time."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if self._server.descriptors() <= descriptors and self._server.threads() <= threads:
                return
            time.sleep(0.1)

    def _idle_load(self) -> Check:
        before, started = self._server.cpu_seconds(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        elapsed = time.monotonic() - started
        return verdict.idle_load(self._server.cpu_seconds() - before, elapsed)

    def _still_serves(self) -> Check:
        started = time.monotonic()
        try:
            right = self._ask("/hello") == app.HELLO
        except (OSError, http.client.HTTPException) as exc:
            return Check("serves", False, f"a request after the traffic failed: {exc!r}")
        seconds = time.monotonic() - started
        text = f"a request after the traffic took {seconds:.3f} s"
        return Check("serves", right and seconds < SERVE_SECONDS, text)

    def _compare_in_use(self, before: Mapping[str, int]) -> Check:
        try:
            return verdict.in_use(before, self._in_use())
        except (OSError, http.client.HTTPException) as exc:
            return Check("in use", False, f"no account of it: {exc!r}")

    def _in_use(self) -> dict[str, int]:
        """Return what the server has in use, by its own account."""
        counts: dict[str, int] = json.loads(self._ask("/memory"))
        return counts

    def _ask(self, path: str) -> bytes:
        """Send one request on a connection of its own and return the body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ASK_TIMEOUT)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()


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
    command.append("benchmarks.soak.app:application")
    given = {n: value for n, value in os.environ.items() if n.startswith(_ALLOCATOR_PREFIXES)}
    allocator = {**_ALLOCATOR, **given}
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**kept, **allocator, "PYTHONPATH": str(ROOT)}
    facts = {**machine.describe(ROOT), **allocator}
    _say(f"{facts['date']}; {facts['kernel']}; {facts['processor']}; load {facts['load']}")
    _say(f"{facts['python']}; commit {facts['commit']}; {options.loop}, {options.threads} threads")
    for name, value in allocator.items():
        _say(f"{name}={value}")
    try:
        with ServerProcess(command, port=port, cores=None, env=environment) as server:
            soak = Soak(server, port=port, options=options)
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
    path = options.out / f"soak-{options.loop}.json"
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
    return Options(given.seconds, given.loop, given.threads, given.seed, given.out)


def _refuse(message: str) -> int:
    """Print why there was no run and return exit code 2."""
    print(f"soak: {message}", file=sys.stderr)
    return 2


def _say(message: str) -> None:
    """Print progress at once."""
    print(message, flush=True)


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)
