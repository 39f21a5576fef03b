"""The servers that are compared: how each is installed, started, and asked for its version.

Data only. A new peer is one more `Peer` in `PEERS`; nothing else changes.
"""

from dataclasses import dataclass, replace

MANY_CONNECTIONS = 20_000
"""Room for connections that the rows with thousands of them ask servers to have."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One server, told to use `{workers}` processes, `{threads}` threads and no access log.

    In commands `{port}`, `{threads}`, `{workers}` and `{application}` (as `MODULE:NAME`) are filled
    in; the first word is a program of the virtual environment.
    """

    name: str
    requirements: tuple[str, ...]
    """What pip installs; `{root}` stands for the repository."""
    command: tuple[str, ...]
    distributions: tuple[str, ...]
    """Installed distributions whose versions are printed; the server itself comes first."""
    ours: bool = False
    """Whether all others are compared with this one."""
    compiled: bool = False
    """Whether it runs the compiled modules of aiowsgi, in place of the working tree."""
    several: tuple[str, ...] = ()
    """The command for more than one process, where `command` does not take `{workers}`, or would
    start a supervisor for a single one."""
    many: tuple[str, ...] = ()
    """Further arguments of `python -m MODULE` for thousands of connections."""
    tls: tuple[str, ...] = ()
    """Further arguments of `python -m MODULE` with which it speaks TLS, `{certificate}` and `{key}`
    among them; empty: it takes no part in rows with TLS."""
    rows: tuple[str, ...] = ()
    """The only rows it takes part in; empty for all."""
    program: str = ""
    """A program outside the virtual environment that it is, or that it needs."""
    optional: str = ""
    """Not empty: it is no error when it cannot be installed, and this says what it needs."""
    note: str = ""
    """What readers of a table must know to compare it fairly."""

    def has_workers(self) -> bool:
        """Return whether it can run in several processes."""
        return bool(self.several) or any("{workers}" in part for part in self.command)

    def arguments(
        self,
        *,
        port: int,
        threads: int,
        workers: int,
        application: str,
        many: bool,
        certificate: tuple[str, str] | None = None,
    ) -> list[str]:
        """Return the command for one start of the server.

        `certificate` is the paths of a certificate and its key; with it, the server speaks TLS.
        """
        command = self.several if self.several and workers > 1 else self.command
        more = (*(self.tls if certificate else ()), *(self.many if many else ()))
        return [
            part.format(
                port=port,
                threads=threads,
                workers=workers,
                application=application,
                certificate=certificate[0] if certificate else "",
                key=certificate[1] if certificate else "",
            )
            # Behind the program and its module, because waitress takes no option at the end.
            for part in (*command[:3], *more, *command[3:])
        ]


def _aiowsgi(http: str, requirement: str) -> Peer:
    """Return aiowsgi with the parser `http` ("h11" or "httptools")."""
    command = (
        *("python", "-m", "aiowsgi", "{application}", "--bind", "127.0.0.1:{port}"),
        *("--http", http, "--threads", "{threads}"),
        *("--no-access-log", "--log-level", "warning"),
    )
    return Peer(
        name=f"aiowsgi-{http}",
        requirements=("--editable", requirement),
        command=command,
        several=(*command, "--workers", "{workers}"),
        many=("--max-connections", str(MANY_CONNECTIONS)),
        tls=("--certfile", "{certificate}", "--keyfile", "{key}"),
        distributions=("aiowsgi-server", "uvloop", http),
        ours=True,
    )


def _compiled() -> Peer:
    """Return aiowsgi with httptools and its compiled modules."""
    return replace(
        _aiowsgi("httptools", "{root}[speed]"),
        name="aiowsgi-compiled",
        compiled=True,
        optional="needs a C compiler and Python's headers (Debian: gcc, python3-dev)",
    )


def _uvicorn(http: str) -> Peer:
    """Return uvicorn with the parser `http` ("h11" or "httptools") and a2wsgi's adapter."""
    return Peer(
        name=f"uvicorn-{http}",
        requirements=("uvicorn[standard]", "a2wsgi"),
        command=(
            *("python", "-m", "uvicorn", "benchmarks.asgi:application", "--http", http),
            *("--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}"),
            *("--timeout-keep-alive", "65", "--no-access-log", "--log-level", "warning"),
        ),
        tls=("--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}"),
        distributions=("uvicorn", "a2wsgi", "uvloop", http),
    )


PEERS = (
    _aiowsgi("h11", "{root}"),
    _aiowsgi("httptools", "{root}[speed]"),
    _compiled(),
    Peer(
        name="gunicorn",
        requirements=("gunicorn",),
        command=(
            *("python", "-m", "gunicorn", "--worker-class", "gthread", "--workers", "{workers}"),
            *("--threads", "{threads}", "--keep-alive", "65", "--log-level", "warning"),
            *("--bind", "127.0.0.1:{port}", "{application}"),
        ),
        many=("--worker-connections", str(MANY_CONNECTIONS)),
        tls=("--certfile", "{certificate}", "--keyfile", "{key}"),
        distributions=("gunicorn",),
    ),
    Peer(
        name="waitress",
        requirements=("waitress",),
        command=(
            *("python", "-m", "benchmarks.servers.waitress", "--threads={threads}"),
            *("--listen=127.0.0.1:{port}", "{application}"),
        ),
        many=(
            *(f"--connection-limit={MANY_CONNECTIONS}", "--asyncore-use-poll"),
            "--channel-timeout=600",
        ),
        distributions=("waitress",),
    ),
    Peer(
        name="cheroot",
        requirements=("cheroot",),
        command=(
            *("python", "-m", "benchmarks.servers.cheroot", "{application}"),
            *("--threads", "{threads}", "--bind", "127.0.0.1:{port}", "--timeout", "65"),
        ),
        distributions=("cheroot",),
    ),
    _uvicorn("h11"),
    _uvicorn("httptools"),
    Peer(
        name="hypercorn",
        requirements=("hypercorn[uvloop]",),
        command=(
            *("python", "-m", "hypercorn", "wsgi:{application}", "--worker-class", "uvloop"),
            *("--workers", "{workers}", "--bind", "127.0.0.1:{port}", "--keep-alive", "65"),
            *("--log-level", "warning"),
        ),
        tls=("--certfile", "{certificate}", "--keyfile", "{key}"),
        distributions=("hypercorn", "uvloop", "h11"),
        note="has no option for threads: it uses asyncio's default, processors + 4, at most 32",
    ),
    Peer(
        name="aiohttp-wsgi",
        requirements=("aiohttp-wsgi",),
        command=(
            *("aiohttp-wsgi-serve", "--quiet", "--threads", "{threads}", "--host", "127.0.0.1"),
            *("--port", "{port}", "{application}"),
        ),
        distributions=("aiohttp-wsgi", "aiohttp"),
        note="runs on asyncio's own event loop: with uvloop it does not start",
    ),
    Peer(
        name="granian",
        requirements=("granian",),
        command=(
            *("python", "-m", "granian", "--interface", "wsgi", "--workers", "{workers}"),
            *("--blocking-threads", "{threads}", "--host", "127.0.0.1", "--port", "{port}"),
            *("--no-access-log", "--log-level", "warning", "{application}"),
        ),
        many=("--backpressure", str(MANY_CONNECTIONS)),
        tls=("--ssl-certificate", "{certificate}", "--ssl-keyfile", "{key}"),
        distributions=("granian",),
    ),
    Peer(
        name="uwsgi",
        requirements=("uwsgi",),
        command=(
            *("uwsgi", "--http", "127.0.0.1:{port}", "--http-keepalive=65", "--http-auto-chunked"),
            *("--module", "{application}", "--single-interpreter", "--need-app"),
            *("--processes", "{workers}", "--threads", "{threads}", "--enable-threads"),
            *("--listen", "1024", "--master", "--die-on-term", "--disable-logging"),
        ),
        distributions=("uwsgi",),
        optional="needs a C compiler and Python's headers (Debian: gcc, python3-dev)",
        note="runs behind its own HTTP router, a process on the same core, because with its "
        "http11-socket each idle connection holds a thread; does not say that it closes a "
        "connection, which wrk counts as an error in the row close",
    ),
    Peer(
        name="bjoern",
        requirements=("bjoern",),
        command=("python", "-m", "benchmarks.servers.bjoern", "{port}", "{workers}"),
        distributions=("bjoern",),
        optional="needs a C compiler and libev (Debian: gcc, libev-dev)",
        note="has no threads: one request runs at a time",
    ),
    Peer(
        name="fastwsgi",
        # It asks pkg_resources for its version, which newer setuptools have not.
        requirements=("fastwsgi", "setuptools<81"),
        command=("python", "-m", "benchmarks.servers.fastwsgi", "{port}", "{workers}"),
        distributions=("fastwsgi",),
        optional="needs a wheel for this Python, or a C compiler and Python's headers",
        note="has no threads: one request runs at a time",
    ),
    Peer(
        name="nginx",
        requirements=(),
        command=("python", "-m", "benchmarks.servers.nginx", "{port}"),
        distributions=(),
        tls=("{certificate}", "{key}"),
        rows=("file", "tls", "tls-handshakes", "tls-resumed", "tls-idle"),
        program="nginx",
        optional="needs nginx (Debian: nginx-light)",
        note="serves the file and the 14 bytes itself, without Python",
    ),
)
