"""The benchmark's own virtual environment: made on first use, filled with the peers, asked for
versions.

What a peer or a row needs is installed once: a stamp file in the environment records what was asked
for. Deleting the folder starts over and brings the newest releases.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

INSTALL_TIMEOUT = 900.0

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class InstallationError(Exception):
    """The virtual environment or a peer could not be installed; the message says why."""


class Installation:
    """The virtual environment in which the servers run.

    `root` is the repository, `directory` the environment's folder; neither needs to be on the
    import path of the harness.
    """

    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        self._directory = directory
        self._stamps = directory / "installed"
        self.python = directory / "bin" / "python"
        self.compiled = directory / "compiled"
        """Where `compile` puts aiowsgi: out of the way of those that run the working tree."""

    def prepare(self) -> None:
        """Make the environment, or make it anew when it belongs to another Python.

        Raises `InstallationError` when `venv` fails.
        """
        stamp = self._stamps / "python"
        if self.python.exists() and stamp.is_file() and stamp.read_text() == sys.version:
            return
        _run(
            [sys.executable, "-m", "venv", "--clear", str(self._directory)],
            "cannot make the virtual environment (Debian: apt-get install python3-venv)",
        )
        self._stamps.mkdir()
        stamp.write_text(sys.version)

    def install(self, name: str, requirements: Sequence[str]) -> None:
        """Install what a peer or a row needs, under a name, unless that was done before.

        Raises `InstallationError` with the last lines pip wrote.
        """
        stamp = self._stamps / name
        wanted = self._fingerprint(requirements)
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        print(f"installing {name} ...", file=sys.stderr, flush=True)
        _run(
            [
                *(str(self.python), "-m", "pip", "install", "--quiet"),
                *(part.format(root=self._root) for part in requirements),
            ],
            f"pip could not install {name}",
        )
        stamp.write_text(wanted)

    def compile(self) -> None:
        """Build aiowsgi with its compiled modules, unless that was done with the same sources.

        Raises `InstallationError` with the last lines pip wrote.
        """
        stamp = self._stamps / "compiled"
        sources = sorted((self._root / "aiowsgi").rglob("*.py"))
        digest = hashlib.sha256()
        for path in (self._root / "pyproject.toml", self._root / "hatch_build.py", *sources):
            digest.update(path.read_bytes())
        wanted = digest.hexdigest()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        print("compiling aiowsgi ...", file=sys.stderr, flush=True)
        _run(
            [
                *(str(self.python), "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"),
                *("--target", str(self.compiled), str(self._root)),
            ],
            "pip could not compile aiowsgi",
            {"AIOWSGI_COMPILE": "1"},
        )
        stamp.write_text(wanted)

    def versions(self, distributions: Iterable[str]) -> dict[str, str]:
        """Return the versions of those of the distributions that are installed."""
        names = dict.fromkeys(distributions)
        output = _run([str(self.python), "-c", _VERSIONS, *names], "cannot read the versions")
        found: dict[str, str] = json.loads(output)
        return found

    def program(self, name: str) -> str:
        """Return the path of a program of the environment."""
        return str(self.python.with_name(name))

    def _fingerprint(self, requirements: Sequence[str]) -> str:
        """Return what a stamp holds: the requirements, and for a working tree its metadata.

        An editable installation follows the sources by itself, but not a changed dependency or
        version number.
        """
        parts = [" ".join(requirements)]
        if "--editable" in requirements:
            for name in ("pyproject.toml", "aiowsgi/__init__.py"):
                path = self._root / name
                if path.is_file():
                    parts.append(hashlib.sha256(path.read_bytes()).hexdigest())
        return "\n".join(parts)


def _run(command: list[str], complaint: str, variables: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return its standard output.

    `variables` are added to its environment. Raises `InstallationError` with `complaint` and the
    last lines of its errors.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
            check=False,
            env={**os.environ, **(variables or {})},
        )
    except subprocess.TimeoutExpired as exc:
        raise InstallationError(f"{complaint}: no end after {INSTALL_TIMEOUT:.0f} s") from exc
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()[-8:]
        raise InstallationError("\n    ".join([complaint, *lines]))
    return done.stdout
