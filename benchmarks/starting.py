"""Starting a server for a row: its command and environment, and the check of its first answer."""

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import certificate
from benchmarks.application import THREADS_VARIABLE, VARIABLE
from benchmarks.apps import CHUNK, FILE_CHUNKS, FILE_VARIABLE
from benchmarks.installation import Installation
from benchmarks.peers import Peer
from benchmarks.process import ServerProcess, free_port
from benchmarks.rows import Row


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts servers of an installation, which belongs to the repository in `root`."""

    installation: Installation
    root: Path
    folder: Path
    """For the files that servers need, made once."""

    @contextlib.contextmanager
    def server(
        self, row: Row, peer: Peer, *, threads: int, workers: int, cores: Collection[int]
    ) -> Iterator[tuple[ServerProcess, int]]:
        """Run a server that has given the right answer once; yield it and its port.

        Raises `ProcessError` where it does not start, or gives another one.
        """
        port = free_port()
        program, *arguments = peer.arguments(
            port=port,
            threads=threads,
            workers=workers,
            application=row.application,
            many=bool(row.idle),
            certificate=certificate.made(self.folder / "certificate") if row.tls else None,
        )
        file = self.folder / "file"
        if row.expected_times == FILE_CHUNKS and not file.exists():
            file.write_bytes(CHUNK * FILE_CHUNKS)
        path = [self.installation.compiled] if peer.compiled else []
        path.append(self.root)
        environment = {
            # Nothing that a user has set for one of the servers applies.
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            # Else the working directory would go first.
            "PYTHONSAFEPATH": "1",
            VARIABLE: row.application,
            THREADS_VARIABLE: str(threads),
            FILE_VARIABLE: str(file),
        }
        command = [self.installation.program(program), *arguments]
        with ServerProcess(command, port=port, cores=cores, env=environment) as server:
            server.check(row)
            yield server, port
