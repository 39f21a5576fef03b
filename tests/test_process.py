"""A process that serves: ``python -m aiowsgi`` as a person or a service manager runs it.

The processes are real; every wait for them is bounded. The blocking form, ``aiowsgi.run``, is also
run inside the test's own process.
"""

import asyncio
import contextlib
import ctypes
import importlib.util
import json
import logging
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx
import pytest
from defects import check_log

import aiowsgi
from aiowsgi.process import logs
from aiowsgi.server.serving import Serving

# Long enough for a busy machine; a test that passes never waits for it.
PATIENCE = 20.0

HAS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")

APPLICATION = """
    import asyncio
    import json
    import os
    import socket
    import sys

    import aiowsgi

    def application(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path == "/loop-thread":
            # The same on a thread of the event loop's own, which the interpreter waits for.
            aiowsgi.run_coroutine(asyncio.to_thread(application, environ | {"PATH_INFO": "/wait"},
                                                    start_response))
        if path == "/wait":
            # Says to the test that it was called, and waits for the test's word.
            with socket.create_connection(("127.0.0.1", int(query)), timeout=30) as gate:
                gate.recv(1)
        if path == "/endless":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return iter(lambda: b"x" * 65536, None)
        if path == "/input":
            environ["wsgi.input"].read(1)
        body = json.dumps({"cwd": os.getcwd(), "path": path}).encode()
        start_response(
            "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        )
        return [body]

    class site:
        wsgi = staticmethod(application)

    def create_app():
        return application
"""

# Answers what its process has imported.
MODULES = """
    import sys

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [" ".join(sys.modules).encode()]
"""

# Takes memory while it is imported and frees every other piece; answers how much was left of it.
HOLES = """
    import os

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    kept = [b"x" * 65536 for _ in range(512)][::2]
    imported = resident()

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{imported - resident()}".encode()]
"""

# Modules that take much memory, often by what they import in turn, and that a server can do without
# as long as it has no mistake to explain, no help to show and no unusual request to read, is alone
# and is no service of systemd.
RARELY_NEEDED = {
    "aiowsgi.bridge.pool.executor_queue",
    "aiowsgi.bridge.pool.reporting_pool",
    "aiowsgi.cli.foreign_options",
    "aiowsgi.net.silence",
    "aiowsgi.net.turns",
    "aiowsgi.observe.scoreboard",
    "aiowsgi.process.hooks.hook",
    "aiowsgi.process.own_requests.request",
    "aiowsgi.process.supervisor.wakeups",
    "aiowsgi.process.systemd.activation",
    "aiowsgi.process.systemd.notification",
    "aiowsgi.process.systemd.report",
    "aiowsgi.server.reporting",
    "difflib",
    "email.utils",
    "encodings.idna",
    "importlib.metadata",
    "mmap",
    "pkgutil",
    "platform",
    "shutil",
    "tempfile",
}

# Said where root runs the tests. test_user.py is about it.
OF_ROOT = "The application runs as root: "

_STARTED = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO Serving (?P<name>.+) at (?P<urls>.+)"
    r" with (?P<threads>\d+) threads? on (?P<loop>\w+) with (?P<http>\w+) \(press Ctrl-C to stop\)$"
)

Start = Callable[..., "contextlib.AbstractAsyncContextManager[Process]"]


class Process:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._tasks: list[asyncio.Task[None]] = []
        self._grown = asyncio.Event()
        self.out: list[str] = []
        self.err: list[str] = []
        self.started: re.Match[str] | None = None

    def watch(self) -> None:
        """Begin to collect what it says."""
        for stream, lines in ((self._process.stdout, self.out), (self._process.stderr, self.err)):
            assert stream is not None
            self._tasks.append(asyncio.create_task(self._collect(stream, lines)))

    async def _collect(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await stream.readline():
            if OF_ROOT not in (text := line.decode()):
                lines.append(text.rstrip("\n"))
            self._grown.set()

    async def said(self, pattern: str) -> re.Match[str]:
        """Wait for a line on standard error; return its match."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._grown.clear()
                for line in self.err:
                    if match := re.search(pattern, line):
                        return match
                if all(task.done() for task in self._tasks):
                    pytest.fail("it ended and said:\n" + "\n".join(self.err))
                growth = asyncio.ensure_future(self._grown.wait())
                await asyncio.wait(
                    {growth, *self._tasks}, return_when=asyncio.FIRST_COMPLETED, timeout=1
                )
                growth.cancel()

    @property
    def urls(self) -> list[str]:
        assert self.started is not None
        return self.started["urls"].split(", ")

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of the process and of its output; return the exit code."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._tasks)
            return await self._process.wait()

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def clean_up(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self.ended()
        check_log(self.err)


class Gate:
    """Where the application at /wait, in another process, waits until the test lets it go on."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self._waiting: list[asyncio.StreamWriter] = []
        self.port = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def make(cls) -> AsyncIterator["Gate"]:
        gate = cls()
        server = await asyncio.start_server(gate._on_connect, "127.0.0.1", 0)
        gate.port = server.sockets[0].getsockname()[1]
        try:
            yield gate
        finally:
            gate.open()
            server.close()
            await server.wait_closed()

    def _on_connect(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._arrived.put_nowait(writer)

    async def arrival(self) -> None:
        """Wait until a request is inside the application."""
        async with asyncio.timeout(PATIENCE):
            self._waiting.append(await self._arrived.get())

    def open(self) -> None:
        """Let every request that waits go on."""
        while self._waiting:
            self._waiting.pop().close()


class Client:
    """A connection of a test: raw bytes, every wait bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, path: str) -> None:
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())

    async def receive(self) -> Any:
        """Return the JSON of a response."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            match = re.search(rb"(?i)content-length: (\d+)", head)
            assert match is not None
            return json.loads(await self._reader.readexactly(int(match[1])))

    async def receive_bytes(self, size: int) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._reader.readexactly(size)

    async def ended(self) -> bytes:
        """Wait for the server's end; return the last of what came before it."""
        async with asyncio.timeout(PATIENCE):
            data = b""
            with contextlib.suppress(ConnectionError):
                while piece := await self._reader.read(1 << 16):
                    data = data[-16:] + piece
            return data

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connect(address: tuple[str, int]) -> AsyncIterator[Client]:
    async with asyncio.timeout(PATIENCE):
        client = Client(*await asyncio.open_connection(*address))
    try:
        yield client
    finally:
        await client.close()


async def get(url: str, *, uds: str | None = None) -> httpx.Response:
    transport = httpx.AsyncHTTPTransport(uds=uds)
    async with httpx.AsyncClient(transport=transport, timeout=PATIENCE) as client:
        return await client.get(url)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a project with an application in ``app.py``."""
    (tmp_path / "app.py").write_text(dedent(APPLICATION))
    return tmp_path


@pytest.fixture
def start(project: Path) -> Start:
    """Return ``async with start(*options, ...) as process``: a server that has said it serves."""

    @contextlib.asynccontextmanager
    async def make(
        *options: str,
        application: str | None = "app:application",
        command: Sequence[str] = (sys.executable, "-m", "aiowsgi"),
        bind: Sequence[str] = ("127.0.0.1:0",),
        cwd: Path = project,
        pass_fds: Sequence[int] = (),
    ) -> AsyncIterator[Process]:
        arguments = [*command, *([] if application is None else [application]), *options]
        for address in bind:
            arguments += ["--bind", address]
        process = Process(
            await asyncio.create_subprocess_exec(
                *arguments,
                cwd=cwd,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=pass_fds,
            )
        )
        process.watch()
        try:
            process.started = _STARTED.match((await process.said(" Serving ")).string)
            assert process.started is not None, process.err
            yield process
        finally:
            await process.clean_up()

    return make


# Starting.


async def test_start_message_names_application_url_threads_and_how_to_stop(start: Start) -> None:
    async with start("--threads", "3", "--loop", "asyncio", "--http", "h11") as process:
        assert process.started is not None
        assert process.started["name"] == "app:application"
        assert process.started["threads"] == "3"
        assert (process.started["loop"], process.started["http"]) == ("asyncio", "h11")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", process.url)
        assert (await get(process.url)).json()["path"] == "/"
        assert await process.stop() == 0
    assert len(process.err) == 2
    assert process.err[1].endswith(
        "INFO Stopping on SIGTERM: finishing requests in flight (again to stop now)"
    )


async def test_single_thread_is_counted_in_the_singular(start: Start) -> None:
    async with start("--threads", "1") as process:
        assert " with 1 thread on " in process.err[0]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "auto"])
async def test_event_loop_is_the_one_that_was_asked_for(start: Start, loop: str) -> None:
    there = importlib.util.find_spec("uvloop") is not None
    if loop == "uvloop" and not there:
        pytest.skip("uvloop is not installed")
    async with start("--loop", loop) as process:
        assert process.started is not None
        expected = ("uvloop" if there else "asyncio") if loop == "auto" else loop
        assert (process.started["loop"], process.started["http"]) == (expected, "httptools")
        assert (await get(process.url)).status_code == 200
        assert await process.stop() == 0


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_what_is_rarely_needed_is_not_loaded(start: Start, project: Path, http: str) -> None:
    (project / "modules.py").write_text(dedent(MODULES))
    interpreter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; print(*sys.modules)", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, _ = await interpreter.communicate()
    async with start("--http", http, application="modules:application") as process:
        loaded = set((await get(process.url)).text.split()) - set(out.decode().split())
        assert await process.stop() == 0
    assert {"aiowsgi.cli.command", http} <= loaded
    assert not (RARELY_NEEDED | {"h11", "httptools"} - {http}) & loaded


# Which modules, of those that a supervisor does without, are there once the arguments are read.
READ_ARGUMENTS = """
import sys
from aiowsgi.cli import main
from aiowsgi.cli.arguments import parse_arguments
parse_arguments(["app:application", "--threads", "4"])
print(*{"asyncio", "ssl", "h11", "uvloop", "threading"} & sys.modules.keys(),
      *(name for name in sys.modules if name.startswith("aiowsgi.server")))
"""


async def test_reading_the_arguments_loads_no_event_loop() -> None:
    interpreter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READ_ARGUMENTS, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, _ = await interpreter.communicate()
    # The lock of the standard streams and of logging.
    assert out.decode().split() == ["threading"]


@pytest.mark.skipif(not HAS_GLIBC, reason="the heap of another C library")
async def test_memory_that_only_the_start_took_is_given_back(start: Start, project: Path) -> None:
    (project / "holes.py").write_text(dedent(HOLES))
    async with start(application="holes:application") as process:
        # Serving takes a few MiB of its own.
        assert int((await get(process.url)).text) > 8 << 20
        assert await process.stop() == 0


@pytest.mark.parametrize("application", ["app:site.wsgi", "app:create_app()"])
async def test_dotted_attribute_and_factory(start: Start, application: str) -> None:
    async with start(application=application) as process:
        assert process.started is not None
        assert process.started["name"] == application
        assert (await get(process.url)).status_code == 200


async def test_chdir_is_where_the_application_lives(start: Start, project: Path) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        async with start("--chdir", str(project), cwd=Path(elsewhere)) as process:
            assert (await get(process.url)).json()["cwd"] == str(project)


async def test_console_script_imports_from_the_current_directory(start: Start) -> None:
    script = shutil.which("aiowsgi", path=os.path.dirname(sys.executable))
    assert script is not None, "the package is not installed"
    async with start(command=[script]) as process:
        assert (await get(process.url)).status_code == 200
        assert await process.stop() == 0


async def test_two_addresses_are_served_and_told(start: Start) -> None:
    async with start(bind=("127.0.0.1:0", "127.0.0.1:0")) as process:
        first, second = process.urls
        assert first != second
        assert (await get(first)).status_code == 200
        assert (await get(second)).status_code == 200


async def test_server_on_all_interfaces_says_so(start: Start) -> None:
    async with start(bind=("127.0.0.1:0", ":0")) as process:
        first, second = process.urls
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", first)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+ \(on all interfaces\)", second)


async def test_unix_socket_is_served_and_its_file_removed_at_the_end(
    start: Start, project: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s"
        # A process that died has left its file.
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        async with start(bind=(f"unix:{path}",)) as process:
            assert process.url == f"unix:{path}"
            assert (await get("http://test/", uds=path)).status_code == 200
            assert await process.stop() == 0
        assert os.listdir(folder) == []


async def test_inherited_descriptor_is_served(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        number = given.fileno()
        async with start(bind=(f"fd:{number}",), pass_fds=(number,)) as process:
            assert process.address == given.getsockname()
            assert (await get(process.url)).status_code == 200
            assert await process.stop() == 0


async def test_error_has_an_exit_code_and_no_traceback(project: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "aiowsgi", "app:aplication"),
        cwd=project,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode == 2
    assert out == b""
    assert err.decode() == (
        "aiowsgi: error: 'app' has no attribute 'aplication'; did you mean 'app:application'?\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no file that stands for a full disk")
@pytest.mark.parametrize("arguments", ["app:aplication", "app:application --no-such-option"])
def test_the_exit_code_is_the_same_where_no_message_can_be_written(
    project: Path, arguments: str
) -> None:
    command = (sys.executable, "-m", "aiowsgi", *arguments.split())
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, cwd=project, stderr=full, timeout=PATIENCE).returncode == 2


# Started without standard streams, as cron and some daemons do.

# Answers what the first descriptors lead to, the streams that stand for them, and wsgi.errors.
STREAMS = """
    import os
    import sys

    def application(environ, start_response):
        print("an error", file=environ["wsgi.errors"], flush=True)
        print("a word", flush=True)
        sys.stderr.write("a word")
        found = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
        found += [str(stream.fileno()) for stream in (sys.stdin, sys.stdout, sys.stderr)]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [" ".join(found).encode()]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["command", "run"])
async def test_missing_standard_streams_are_opened_on_dev_null(
    project: Path, loop: str, how: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    (project / "streams.py").write_text(dedent(STREAMS))
    (project / "program.py").write_text(
        "import os, sys\n"
        "import aiowsgi\n"
        "from streams import application\n"
        "config = aiowsgi.Config(bind=(sys.argv[2],), loop=sys.argv[1])\n"
        "aiowsgi.run(application, config=config)\n"
    )
    arguments = {
        "command": ["-m", "aiowsgi", "streams:application", "--loop", loop, "-b"],
        "run": ["program.py", loop],
    }[how]
    # The process has no stream to print its address to, so the test chooses it.
    with socket.create_server(("127.0.0.1", 0)) as given:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", sys.executable, *arguments),
            f"fd:{given.fileno()}",
            cwd=project,
            pass_fds=(given.fileno(),),
        )
        try:
            host, port = given.getsockname()
            response = await get(f"http://{host}:{port}/")
            assert response.text == "/dev/null /dev/null /dev/null 0 1 2"
            process.terminate()
            async with asyncio.timeout(PATIENCE):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


# Stopping.


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_finishes_requests_in_flight_and_closes_idle_connections(
    start: Start, number: signal.Signals, loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    async with (
        Gate.make() as gate,
        start("--loop", loop) as process,
        connect(process.address) as idle,
        connect(process.address) as busy,
    ):
        idle.send("/idle")
        assert (await idle.receive())["path"] == "/idle"
        busy.send(f"/wait?{gate.port}")
        await gate.arrival()
        process.signal(number)
        # While the other request still runs, and long before --timeout-keep-alive.
        assert await idle.ended() == b""
        with pytest.raises(ConnectionRefusedError):
            async with connect(process.address):
                pytest.fail("it does not listen any more")
        gate.open()
        assert (await busy.receive())["path"] == "/wait"
        assert await busy.ended() == b""
        # Else the server waits a while for the client to close.
        await busy.close()
        assert await process.ended() == 0
        assert f"Stopping on {number.name}:" in process.err[1]


@pytest.mark.parametrize("path", ["/wait", "/loop-thread"])
@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)],
)
async def test_second_signal_ends_the_process_though_a_thread_is_stuck(
    start: Start, first: signal.Signals, second: signal.Signals, path: str
) -> None:
    async with (
        Gate.make() as gate,
        start() as process,
        connect(process.address) as busy,
    ):
        busy.send(f"{path}?{gate.port}")
        await gate.arrival()
        process.signal(first)
        await process.said(f"Stopping on {first.name}")
        process.signal(second)
        # Less than --timeout-graceful, which is 30 seconds. The thread is still stuck.
        assert await process.ended() == 128 + second
        assert await busy.ended() == b""
        assert f"Stopping now on a second {second.name}" in process.err[2]


async def test_graceful_timeout_cuts_requests_and_leaves_stuck_threads_behind(
    start: Start,
) -> None:
    async with (
        Gate.make() as gate,
        start("--timeout-graceful", "50ms") as process,
        connect(process.address) as stuck,
        connect(process.address) as endless,
    ):
        stuck.send(f"/wait?{gate.port}")
        await gate.arrival()
        # This one's thread waits for the client, and is released.
        endless.send("/endless")
        process.signal(signal.SIGTERM)
        assert await stuck.ended() == b""
        # Cut: the last chunk that says that the response is complete never comes.
        assert not (await endless.ended()).endswith(b"0\r\n\r\n")
        assert await process.ended() == 0
        text = "\n".join(process.err)
        assert "did not end in time" in text
        (stack,) = re.findall(
            r"the thread aiowsgi-\d+-\d+ is left behind at:\n((?: +.*\n?)+)", text
        )
        # The stack shows where the application is stuck.
        assert "gate.recv(1)" in stack


# Logging.


async def test_access_log_goes_to_standard_output(start: Start) -> None:
    async with start() as process:
        await get(f"{process.url}/shelf?x=1")
        assert await process.stop() == 0
    (line,) = process.out
    assert re.match(
        r'127\.0\.0\.1 - - \[.+\] "GET /shelf\?x=1 HTTP/1\.1" 200 \d+ "-" "python-httpx/', line
    )
    assert not any("/shelf" in line for line in process.err)


async def test_no_access_log_writes_none(start: Start) -> None:
    async with start("--no-access-log") as process:
        await get(process.url)
        assert await process.stop() == 0
    assert process.out == []


async def test_log_level_does_not_silence_the_access_log(start: Start) -> None:
    # The start message is information: the URL has to be known otherwise.
    with socket.create_server(("127.0.0.1", 0)) as given:
        process = Process(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "aiowsgi", "aiowsgi.demo:application", "--log-level", "error"),
                *("--bind", f"fd:{given.fileno()}"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(given.fileno(),),
            )
        )
        process.watch()
        try:
            host, port = given.getsockname()
            assert (await get(f"http://{host}:{port}/")).status_code == 200
            assert await process.stop() == 0
        finally:
            await process.clean_up()
    assert process.err == []
    assert len(process.out) == 1


async def test_application_that_disables_loggers_does_not_silence_the_server(
    start: Start, project: Path
) -> None:
    (project / "silencer.py").write_text(
        "import logging.config\n"
        "import aiowsgi\n"
        'logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})\n'
        "from app import application\n"
    )
    async with start(application="silencer:application") as process:
        await get(process.url)
        assert await process.stop() == 0
    assert len(process.out) == 1
    assert len(process.err) == 2


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_development_mode_has_nothing_to_complain_about(start: Start, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "aiowsgi"]
    async with (
        start("--loop", loop, command=command) as process,
        connect(process.address) as idle,
        connect(process.address) as leaver,
        httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client,
    ):
        idle.send("/idle")
        await idle.receive()
        # A client that leaves in mid-response.
        leaver.send("/endless")
        await leaver.receive_bytes(1 << 16)
        await leaver.close()
        response = await client.post(f"{process.url}/input", content=b"x" * (1 << 18))
        assert response.status_code == 200
        assert await process.stop() == 0
    # Debug mode also reports slow steps of the loop, which a busy machine has.
    lines = [line for line in process.err if not re.match(r"Executing .* took \d", line)]
    assert [re.sub(r"^[-\d]+ [:,\d]+ ", "", line)[:13] for line in lines] == [
        "INFO Serving ",
        "INFO Stopping",
    ]


# The blocking form, for programs.


async def test_run_serves_until_a_signal(start: Start, project: Path) -> None:
    (project / "program.py").write_text(
        "import aiowsgi\n"
        "from app import application\n"
        'aiowsgi.run(application, "127.0.0.1", 0)\n'
        'print("run returned")\n'
    )
    command = [sys.executable, "program.py"]
    async with start(command=command, application=None, bind=()) as process:
        assert process.started is not None
        assert process.started["name"] == "app:application"
        assert (await get(process.url)).status_code == 200
        assert await process.stop() == 0
    assert process.out[-1] == "run returned"


@pytest.fixture
def quiet_logs() -> Iterator["queue.Queue[str]"]:
    """Return the messages of this process's server, and take back how it configured logging."""
    messages: queue.Queue[str] = queue.Queue()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if OF_ROOT not in (message := record.getMessage()):
                messages.put(message)

    logger = logging.getLogger("aiowsgi.error")
    access = logging.getLogger("aiowsgi.access")
    handlers = Collect(), logging.NullHandler()
    logger.addHandler(handlers[0])
    access.addHandler(handlers[1])
    level = logger.level
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(handlers[0])
    access.removeHandler(handlers[1])
    logger.setLevel(level)


class Captured:
    """The server that ``aiowsgi.run`` started in this process, as another thread uses it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._started: queue.Queue[tuple[aiowsgi.Server, asyncio.AbstractEventLoop]] = queue.Queue()
        real = Serving

        async def serve(*args: Any, **options: Any) -> aiowsgi.Server:
            server = await real(*args, **options)
            self._started.put((server, asyncio.get_running_loop()))
            return server

        monkeypatch.setattr("aiowsgi.process.run.Serving", serve)

    def wait(self) -> tuple[aiowsgi.Server, asyncio.AbstractEventLoop]:
        return self._started.get(timeout=PATIENCE)


def _hello(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_run_in_a_thread_serves_until_it_is_closed(
    monkeypatch: pytest.MonkeyPatch, quiet_logs: "queue.Queue[str]", loop: str
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    captured = Captured(monkeypatch)
    config = aiowsgi.Config(loop=loop)
    # Only the main thread may set signal handlers, so none is set.
    thread = threading.Thread(
        target=aiowsgi.run, args=(_hello, "127.0.0.1", 0), kwargs={"config": config}
    )
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    thread.start()
    server, its_loop = captured.wait()
    assert httpx.get(server.url, timeout=PATIENCE, trust_env=False).text == "hello"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    its_loop.call_soon_threadsafe(server.close)
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_returns_after_a_signal_and_gives_the_handlers_back(
    monkeypatch: pytest.MonkeyPatch,
    quiet_logs: "queue.Queue[str]",
    number: signal.Signals,
    loop: str,
) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    captured = Captured(monkeypatch)
    answers: list[str] = []

    def drive() -> None:
        server, _ = captured.wait()
        # The handlers are there once this has been said.
        assert quiet_logs.get(timeout=PATIENCE).startswith("Serving ")
        answers.append(httpx.get(server.url, timeout=PATIENCE, trust_env=False).text)
        os.kill(os.getpid(), number)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    driver = threading.Thread(target=drive)
    driver.start()
    aiowsgi.run(_hello, "127.0.0.1", 0, config=aiowsgi.Config(loop=loop))
    driver.join(PATIENCE)
    assert answers == ["hello"]
    assert quiet_logs.get_nowait().startswith(f"Stopping on {number.name}")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_second_signal_returns_though_a_thread_is_stuck(
    monkeypatch: pytest.MonkeyPatch, quiet_logs: "queue.Queue[str]"
) -> None:
    from aiowsgi.process.beginning import begun
    from aiowsgi.process.hooks.hooks import Hooks
    from aiowsgi.process.run import serve_until_signal
    from aiowsgi.process.signals import Signals

    captured = Captured(monkeypatch)
    entered, release = threading.Event(), threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        entered.set()
        assert release.wait(PATIENCE)
        return _hello(environ, start_response)

    def drive() -> None:
        server, _ = captured.wait()
        assert quiet_logs.get(timeout=PATIENCE).startswith("Serving ")
        with socket.create_connection(server.sockets[0].getsockname()[:2]) as client:
            client.settimeout(PATIENCE)
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert entered.wait(PATIENCE)
            os.kill(os.getpid(), signal.SIGTERM)
            assert quiet_logs.get(timeout=PATIENCE).startswith("Stopping on ")
            os.kill(os.getpid(), signal.SIGTERM)
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""

    before = set(threading.enumerate())
    driver = threading.Thread(target=drive)
    driver.start()
    config = aiowsgi.Config(bind=("127.0.0.1:0",))
    signals = Signals()
    try:
        with begun(config) as beginning:
            code = serve_until_signal(
                app,
                config,
                name="app",
                signals=signals,
                beginning=beginning,
                hooks=Hooks(config),
            )
    finally:
        signals.restore()
    assert code == 128 + signal.SIGTERM
    driver.join(PATIENCE)
    assert quiet_logs.get_nowait() == "Stopping now on a second SIGTERM"
    # The thread comes back to a loop that is gone; an exception would be an error of the test.
    left = set(threading.enumerate()) - before
    (stuck,) = [thread for thread in left if re.fullmatch(r"aiowsgi-\d+-\d+", thread.name)]
    release.set()
    stuck.join(PATIENCE)
    assert not stuck.is_alive()


# Logging for a process.


@pytest.fixture
def fresh_loggers(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[logging.Logger, logging.Logger]]:
    """Return the two loggers, without handlers; everything is taken back."""
    loggers = logging.getLogger("aiowsgi.error"), logging.getLogger("aiowsgi.access")
    for logger in loggers:
        for attribute, value in {"handlers": [], "propagate": True, "disabled": False}.items():
            monkeypatch.setattr(logger, attribute, value)
        monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    yield loggers
    logs.flush(PATIENCE)


def test_logging_goes_to_the_two_streams(
    fresh_loggers: tuple[logging.Logger, logging.Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    error, access = fresh_loggers
    logs.configure("warning")
    error.info("too quiet")
    error.warning("loud")
    access.info("a line")
    logs.flush(PATIENCE)
    out, err = capsys.readouterr()
    assert out == "a line\n"
    assert err.endswith(" WARNING loud\n")
    assert err.count("\n") == 1


def test_logging_is_configured_once(
    fresh_loggers: tuple[logging.Logger, logging.Logger],
) -> None:
    logs.configure("info")
    logs.configure("info")
    assert [len(logger.handlers) for logger in fresh_loggers] == [1, 1]


def test_logger_that_has_a_handler_is_left_alone(
    fresh_loggers: tuple[logging.Logger, logging.Logger],
) -> None:
    error, _ = fresh_loggers
    handler = logging.NullHandler()
    error.addHandler(handler)
    error.setLevel(logging.ERROR)
    logs.configure("debug")
    assert error.handlers == [handler]
    assert error.level == logging.ERROR
    assert error.propagate
