"""The command `regress`: two figures for the cost of a request that a noisy machine hardly changes.

Instructions, counted in memory (`instructions`), and processor time as a multiple of what a plain
asyncio server takes in the same minute for the same bytes. A report: it judges nothing.
"""

import argparse
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import instructions
from benchmarks.apps import HELLO_BODY
from benchmarks.process import ProcessError, ServerProcess, free_port

ROOT = Path(__file__).resolve().parent.parent
ANSWER_TIMEOUT = 10.0
CONNECTIONS = 16
WARM_UP_BATCHES, BATCHES, ROUNDS = 50, 60, 12
ECHOES = 5
"""Requests to the echo for one to aiowsgi: the kernel counts processor time in steps of 10 ms."""


def main(arguments: Sequence[str]) -> int:
    """Print the report. Return 0, and 1 where a part of it is missing."""
    argparse.ArgumentParser(
        prog="python -m benchmarks regress",
        description="Report the cost of a request, in the environment in which aiowsgi runs.",
    ).parse_args(arguments)
    complete = True
    try:
        counts = instructions.count(ROOT)
        if counts is None:
            print("instructions a request: not counted, valgrind is not installed")
        else:
            print("instructions a request, in memory, h11:", _list(counts, ",d"))
        print("processor time a request, h11, echo of asyncio = 1:", _list(measure_ratios(), ".1f"))
    except (OSError, ProcessError) as exc:
        complete = False
        print(f"failed: {exc}", file=sys.stderr)
    return 0 if complete else 1


def measure_ratios() -> dict[str, float]:
    """Return how many times as much processor time as an echo aiowsgi takes, by kind of request.

    Both run side by side and are asked in turn, so that what slows the machine slows both.
    """
    port, echo_port = free_port(), free_port()
    command = [sys.executable, "-m", "aiowsgi", "benchmarks.apps:hello", "--loop", "asyncio"]
    command += [
        "--http",
        "h11",
        "--bind",
        f"127.0.0.1:{port}",
        "--no-access-log",
        "--log-level",
        "warning",
    ]
    echo_command = [sys.executable, "-m", "benchmarks.servers.echo", str(echo_port)]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT)}
    with (
        ServerProcess(command, port=port, cores=None, env=environment) as server,
        ServerProcess(echo_command, port=echo_port, cores=None, env=environment) as echo,
    ):
        return {
            kind: _ratio((server, port), (echo, echo_port), instructions.request(kind, 0))
            for kind in ("hello", "browser")
        }


def _ratio(
    ours: tuple[ServerProcess, int], echo: tuple[ServerProcess, int], request: bytes
) -> float:
    with contextlib.ExitStack() as stack:
        sides = [
            (server, [stack.enter_context(_connect(port)) for _ in range(CONNECTIONS)], batches)
            for (server, port), batches in ((ours, BATCHES), (echo, BATCHES * ECHOES))
        ]
        for _, connections, _ in sides:
            _ask(connections, request, WARM_UP_BATCHES)
        before = [server.cpu_seconds() for server, _, _ in sides]
        for _ in range(ROUNDS):
            for _, connections, batches in sides:
                _ask(connections, request, batches)
        spent, of_echo = (
            server.cpu_seconds() - then for (server, _, _), then in zip(sides, before, strict=True)
        )
    return spent / (of_echo / ECHOES)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT)


def _ask(connections: Sequence[socket.socket], request: bytes, batches: int) -> None:
    """Send a request on every connection, read all answers, and that so many times."""
    for _ in range(batches):
        for sock in connections:
            sock.sendall(request)
        for sock in connections:
            answer = b""
            while not answer.endswith(HELLO_BODY):
                piece = sock.recv(65536)
                if not piece:
                    raise ConnectionResetError("a server closed a connection before its answer")
                answer += piece


def _list(values: dict[str, int] | dict[str, float], form: str) -> str:
    return ", ".join(f"{kind} {value:{form}}" for kind, value in values.items())
