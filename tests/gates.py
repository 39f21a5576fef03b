"""Holds processes that a test has started at places in their code, until the test lets them go on.

The application of such a test begins with ``SOURCE``, and calls ``pass_gate(place)`` where it may
be held. It tells the test which process has come there.
"""

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

_PATIENCE = 30.0
_VARIABLE = "AIOWSGI_TEST_GATES"
_FILE = "closed_gates"

SOURCE = f"""
import os, socket

def pass_gate(place):
    with open({_FILE!r}) as file:
        if place not in file.read().split():
            return
    with socket.create_connection(("127.0.0.1", int(os.environ[{_VARIABLE!r}]))) as gate:
        gate.sendall(f"{{place}} {{os.getpid()}}\\n".encode())
        gate.recv(1)
"""


class Gates:
    """The gates of one application, in whose folder it is started. All are open at first."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _FILE
        self._file.write_text("")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(_PATIENCE)
        self._held: list[socket.socket] = []
        self.environment = {**os.environ, _VARIABLE: str(self._listening.getsockname()[1])}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.open()
        self._listening.close()

    def close(self, *places: str) -> None:
        """Hold who comes to these places from now on."""
        self._file.write_text(" ".join(places))

    def wait_for(self, place: str) -> int:
        """Wait until a process is held at a place; return its number."""
        held, _ = self._listening.accept()
        self._held.append(held)
        held.settimeout(_PATIENCE)
        with held.makefile() as reader:
            where, pid = reader.readline().split()
        assert where == place
        return int(pid)

    def open(self, *, but: str = "") -> None:
        """Open all gates but one, and let those go on that are held at any."""
        self.close(but)
        for held in self._held:
            held.close()
        self._held.clear()
