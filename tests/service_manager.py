"""A stand-in for systemd: starts a program with the sockets and variables that a service gets."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Gives descriptors the numbers from 3 on, says so, and becomes the program: so the process has the
# number that LISTEN_PID says. The descriptors go out of the way first, where they may have such
# numbers already.
_LAUNCHER = """
import fcntl, os, sys
given, *program = sys.argv[1:]
low = [int(number) for number in given.split(",") if number]
high = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in low]
for descriptor in set(low):
    os.close(descriptor)
for number, descriptor in enumerate(high, 3):
    os.dup2(descriptor, number)
    os.close(descriptor)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(high))
os.execvp(program[0], program)
"""
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def activated(
    command: Sequence[str],
    sockets: Sequence[socket.socket | int],
    *,
    names: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Return the arguments of ``served`` that start a program with these sockets.

    ``names`` is what LISTEN_FDNAMES says; None for a systemd that does not set it.
    """
    numbers = [sock if isinstance(sock, int) else sock.fileno() for sock in sockets]
    given = {name: value for name, value in environment.items() if name not in VARIABLES}
    return {
        "command": (sys.executable, "-c", _LAUNCHER, ",".join(map(str, numbers)), *command),
        "pass_fds": numbers,
        "env": given if names is None else given | {"LISTEN_FDNAMES": names},
    }
