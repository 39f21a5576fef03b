"""The servers that are compared: how each is installed, started, and asked for its version.

Data only. A new peer is one more `Peer` in `PEERS`; nothing else changes.
"""

from dataclasses import dataclass

OURS = "aiowsgi"
"""Name of the peer that all others are compared with."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One server, told to use one worker process, `{threads}` threads and no access log."""

    name: str
    requirements: tuple[str, ...]
    """What pip installs; `{root}` stands for the repository."""
    command: tuple[str, ...]
    """Arguments of `python -m`; `{port}`, `{threads}` and `{application}` are filled in."""
    distributions: tuple[str, ...]
    """Installed distributions whose versions are printed; the server itself comes first."""
    optional: str = ""
    """Not empty: a failed installation is not an error, and this says what it needs."""

    def arguments(self, *, port: int, threads: int, application: str) -> list[str]:
        """Return the arguments of `python -m` for one start of the server."""
        return [
            part.format(port=port, threads=threads, application=application)
            for part in self.command
        ]


def _uvicorn(http: str) -> Peer:
    """Return uvicorn with the parser `http` ("h11" or "httptools") and a2wsgi's adapter."""
    return Peer(
        name=f"uvicorn-{http}",
        requirements=("uvicorn[standard]", "a2wsgi"),
        command=(
            *("uvicorn", "benchmarks.asgi:{application}"),
            *("--host", "127.0.0.1", "--port", "{port}", "--http", http),
            *("--no-access-log", "--log-level", "warning"),
        ),
        distributions=("uvicorn", "a2wsgi", "uvloop", http),
    )


PEERS = (
    Peer(
        name=OURS,
        requirements=("--editable", "{root}"),
        command=(
            *("aiowsgi", "--bind", "127.0.0.1:{port}", "--threads", "{threads}"),
            *("--no-access-log", "--log-level", "warning"),
            "benchmarks.apps:{application}",
        ),
        distributions=("aiowsgi", "uvloop", "h11"),
    ),
    Peer(
        name="gunicorn",
        requirements=("gunicorn",),
        command=(
            *("gunicorn", "--worker-class", "gthread", "--workers", "1"),
            *("--threads", "{threads}", "--keep-alive", "65", "--worker-connections", "1000"),
            *("--bind", "127.0.0.1:{port}", "--log-level", "warning"),
            "benchmarks.apps:{application}",
        ),
        distributions=("gunicorn",),
    ),
    Peer(
        name="waitress",
        requirements=("waitress",),
        command=(
            *("benchmarks.waitress_server", "--threads={threads}", "--listen=127.0.0.1:{port}"),
            "benchmarks.apps:{application}",
        ),
        distributions=("waitress",),
    ),
    _uvicorn("h11"),
    _uvicorn("httptools"),
    Peer(
        name="granian",
        requirements=("granian",),
        command=(
            *("granian", "--interface", "wsgi", "--workers", "1"),
            *("--blocking-threads", "{threads}", "--host", "127.0.0.1", "--port", "{port}"),
            *("--no-access-log", "--log-level", "warning"),
            "benchmarks.apps:{application}",
        ),
        distributions=("granian",),
    ),
    Peer(
        name="bjoern",
        requirements=("bjoern",),
        command=("benchmarks.bjoern_server", "{port}", "{application}"),
        distributions=("bjoern",),
        optional="needs a C compiler and libev (Debian: apt-get install gcc libev-dev)",
    ),
)
