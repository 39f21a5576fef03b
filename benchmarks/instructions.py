"""Counts the instructions that aiowsgi executes for a request, where time is too noisy.

`count` runs this module once more, under valgrind: a connection in memory (`tests/memory.py`)
is given requests, with no socket, no other thread and no real clock, so that a second count is
nearly the same. What the fakes execute is counted too.
"""

import gc
import itertools
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benchmarks import apps
from benchmarks.machine import program
from benchmarks.rows import ROWS

TIMEOUT = 60.0
KINDS = ("hello", "browser", "varied")
"""Rows whose requests are counted."""
WARM_UP, FEW, MANY = 40, 40, 160
"""Requests before counting begins, and of the two counts whose difference is taken."""
_MARK = "getppid"
"""A function of the C library that nothing else calls: callgrind begins a new count there."""


def request(kind: str, number: int) -> bytes:
    """Return a request of a row as it is on the wire; `number` tells those of `varied` apart."""
    headers = dict(next(row.headers for row in ROWS if row.name == kind))
    path = "/"
    if kind == "varied":
        path = f"/account/orders/{number:032x}"
        headers["X-Request-Id"] = f"{number:032x}"
        headers["Cookie"] = f"sessionid={number:032x}"
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n".encode()


def count(root: Path) -> dict[str, int] | None:
    """Return the instructions for a request of each kind; None without valgrind.

    Raises `OSError` where the run fails. `root` is the repository.
    """
    valgrind = program("valgrind")
    if valgrind is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "counts"
        command = [
            *(valgrind, "--tool=callgrind", f"--callgrind-out-file={output}"),
            *(f"--dump-before={_MARK}", sys.executable, "-m", "benchmarks.instructions"),
        ]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": f"{root}:{root / 'tests'}",
            # Else the order of dictionaries and sets differs from run to run.
            "PYTHONHASHSEED": "0",
        }
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired as exc:
            raise OSError(f"valgrind has not ended after {TIMEOUT:.0f} s") from exc
        if done.returncode != 0:
            raise OSError("\n".join(["valgrind failed:", *done.stderr.splitlines()[-5:]]))
        # The first count ends with the warm-up, the last one is empty but for the end of Python.
        parts = range(1, 3 * len(KINDS) + 1)
        counts = [read_total(Path(f"{output}.{part}").read_text()) for part in parts]
    return per_request(counts)


def read_total(profile: str) -> int:
    """Return the instructions in a profile of callgrind."""
    match = re.search(r"^(?:totals|summary): (\d+)", profile, re.MULTILINE)
    if match is None:
        raise OSError("callgrind has written no total")
    return int(match[1])


def per_request(counts: list[int]) -> dict[str, int]:
    """Return the instructions for a request of each kind.

    For each there are three counts: up to the end of its warm-up, of few requests, and of many.
    """
    return {
        kind: round((counts[3 * number + 2] - counts[3 * number + 1]) / (MANY - FEW))
        for number, kind in enumerate(KINDS)
    }


def _drive() -> None:
    """Be the program that is counted."""
    # By name: it belongs to the tests, and is on the path only here.
    connect = import_module("memory").MemoryConnection
    for kind in KINDS:
        connection = connect(apps.hello)
        sent = connection.wire.sent
        # All made beforehand, so that this is not counted.
        requests = iter([request(kind, number) for number in range(WARM_UP + FEW + MANY)])
        # A full collection costs as much as a hundred requests, and falls into any count or none.
        gc.collect()
        gc.freeze()
        for part in (WARM_UP, FEW, MANY):
            for data in itertools.islice(requests, part):
                connection.receive(data)
                connection.run_job()
                assert sent.endswith(apps.HELLO_BODY), bytes(sent)
                sent.clear()
            os.getppid()


if __name__ == "__main__":
    _drive()
