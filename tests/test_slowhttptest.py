"""slowhttptest, a tool that others attack servers with, does not make this one unavailable.

The tool is Debian's package of that name. It judges by connections of
its own whether the server is there, and a probe says hello beside it.
"""

import csv
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from extent import exhaustive
from slow_clients import (
    AT_ONCE,
    CUT,
    FREED_WITHIN,
    KIB,
    LOOPS,
    MIB,
    PATIENCE,
    ServerProcess,
    many_descriptors,
    under_attack,
)
from tools import tool

pytestmark = exhaustive

CONNECTIONS = 400
# How long the tool attacks, and how long it waits for an answer before it calls the server gone:
# its own default.
SECONDS = 8
ANSWERED_WITHIN = 5
SLOW_READING = ("-X", "-n", "1", "-z", "32", "-w", "512", "-y", "1024")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What the tool asks for, and what that may cost: see ``under_attack``."""

    options: tuple[str, ...]
    path: str
    spare: int = 0
    memory: int = 32 * MIB
    kept: int = 0
    slowest: float = AT_ONCE
    says: str = "nothing"


ATTACKS = {
    "slow headers": Attack(options=("-H",), path="/hello"),
    "slow body": Attack(options=("-B",), path="/upload"),
    "slow read": Attack(
        options=SLOW_READING,
        path=f"/bytes/{512 * KIB}",
        # Of a part of it the transport has a copy.
        memory=CONNECTIONS * 2 * 512 * KIB,
    ),
    "slow read of a stream": Attack(
        options=SLOW_READING,
        path=f"/stream/{50 * MIB}",
        spare=64,
        memory=160 * MIB,
        # Chunks that many threads have made.
        kept=32 * MIB,
        # 72 of the 400 have a thread at a time, and any of them may have it before hello.
        slowest=5 * FREED_WITHIN,
        says=CUT,
    ),
}


def carry_out(program: str, attack: Attack, loop: str, report: Path) -> list[dict[str, int]]:
    """Attack a server with hello being answered; return what the tool saw, second by second."""
    with (
        ServerProcess(loop) as server,
        under_attack(
            server,
            spare=attack.spare,
            memory=attack.memory,
            kept=attack.kept,
            slowest=attack.slowest,
            says=attack.says,
        ) as probe,
    ):
        host, port = server.address
        arguments = [program, *attack.options, "-u", f"http://{host}:{port}{attack.path}"]
        arguments += ["-c", f"{CONNECTIONS}", "-r", "200", "-i", "1"]
        arguments += ["-l", f"{SECONDS}", "-p", f"{ANSWERED_WITHIN}"]
        arguments += ["-g", "-o", str(report)]
        subprocess.run(arguments, check=True, capture_output=True, timeout=PATIENCE)
        probe.more(20)
    with open(f"{report}.csv", newline="") as file:
        return [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[tuple[str, str], Future[list[dict[str, int]]]]]:
    """Return all attacks, each on a server of its own."""
    program = tool("slowhttptest", package="slowhttptest")
    folder = tmp_path_factory.mktemp("slowhttptest")
    cases = [(loop, name) for loop in LOOPS for name in ATTACKS]
    # Some at a time: what is measured is the server, not the machine.
    with many_descriptors(), ThreadPoolExecutor(4) as threads:
        yield {
            (loop, name): threads.submit(
                carry_out, program, ATTACKS[name], loop, folder / f"{loop} {name}"
            )
            for loop, name in cases
        }


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", ATTACKS)
def test_server_is_available_all_the_time(
    outcomes: dict[tuple[str, str], Future[list[dict[str, int]]]], loop: str, name: str
) -> None:
    seconds = outcomes[loop, name].result()
    assert len(seconds) >= SECONDS
    assert all(second["Service Available"] for second in seconds)
    # The attack took place, and only those that blocked threads may have been cut.
    assert seconds[-1]["Connected"] + seconds[-1]["Closed"] == CONNECTIONS
    assert seconds[-1]["Closed"] == 0 or ATTACKS[name].says == CUT
