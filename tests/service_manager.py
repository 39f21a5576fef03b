"""A stand-in for systemd: starts a program with the sockets and variables that a service gets."""

import contextlib
import os
import select
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from waiting import PATIENCE

# Gives descriptors the numbers from 3 on, sets the variables that name this process, and becomes
# the program. The descriptors go out of the way first, where they may have such numbers already.
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
if high:
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(high))
if "WATCHDOG_USEC" in os.environ:
    os.environ.setdefault("WATCHDOG_PID", str(os.getpid()))
os.execvp(program[0], program)
"""
VARIABLES = {
    *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
}


def service(
    command: Sequence[str],
    sockets: Sequence[socket.socket | int] = (),
    *,
    names: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the arguments of ``served`` that start a program as a service with these sockets.

    ``names`` is what LISTEN_FDNAMES says; None for a systemd that does not set it. ``variables``
    are set as well.
    """
    numbers = [sock if isinstance(sock, int) else sock.fileno() for sock in sockets]
    given = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if names is not None:
        given["LISTEN_FDNAMES"] = names
    return {
        "command": (sys.executable, "-c", _LAUNCHER, ",".join(map(str, numbers)), *command),
        "pass_fds": numbers,
        "env": given | dict(variables or {}),
    }


class Listening:
    """The end of systemd of a NOTIFY_SOCKET."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self._socket = sock
        # The value of the variable.
        self.address = address
        # Each message that was received, as its assignments.
        self.heard: list[dict[str, str]] = []

    def hear(self) -> dict[str, str]:
        """Wait for a message, and return its assignments."""
        text = self._socket.recv(1 << 16).decode()
        message = dict(line.split("=", 1) for line in text.split("\n"))
        self.heard.append(message)
        return message

    def hear_of(self, name: str) -> dict[str, str]:
        """Wait for a message with this assignment."""
        while name not in (message := self.hear()):
            pass
        return message

    def hear_status(self, status: str) -> dict[str, str]:
        """Wait for the message with this STATUS; others may come before, as things go on."""
        while (message := self.hear_of("STATUS"))["STATUS"] != status:
            pass
        return message

    def is_silent_for(self, seconds: float) -> bool:
        """Return whether nothing is heard for so long."""
        return not select.select([self._socket], [], [], seconds)[0]

    def pending(self) -> list[str]:
        """Return the messages that wait to be heard, as they are."""
        found = []
        while not self.is_silent_for(0):
            found.append(self._socket.recv(1 << 16).decode())
        return found


@contextlib.contextmanager
def listening(folder: Path, *, abstract: bool = False) -> Iterator[Listening]:
    """Give a socket for a service to tell what it does."""
    path = str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{path}" if abstract else path)
        sock.settimeout(PATIENCE)
        yield Listening(sock, f"@{path}" if abstract else path)
