"""Applications that fork: the child leaves everything to its parent, and ends as it wants to.

The servers are processes of their own, for the tests' own process is not one to be forked: some are
``python -m aiowsgi``, some a program that embeds the server.
"""

import contextlib
import errno
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from certificates import Certificates
from defects import check_log
from extent import exhaustive, representative
from waiting import eventually

# Fail-safe, in seconds.
TIMEOUT = 30.0

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
pytestmark = needs_fork


class Client:
    """A connection that knows where an answer ends, so that anything behind it shows."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        if tls is not None:
            self.socket = tls.wrap_socket(
                self.socket, server_hostname="localhost", suppress_ragged_eofs=False
            )
        self._data = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(
        self, path: str, *, method: str = "GET", version: str = "1.1", fields: str = ""
    ) -> None:
        head = f"{method} /{path} HTTP/{version}\r\nHost: h\r\n{fields}\r\n"
        self.socket.sendall(head.encode())

    def _fill(self) -> None:
        more = self.socket.recv(65536)
        assert more, f"the connection has ended behind {self._data!r}"
        self._data += more

    def _through(self, mark: bytes) -> bytes:
        while mark not in self._data:
            self._fill()
        found, _, self._data = self._data.partition(mark)
        return found

    def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            self._fill()
        found, self._data = self._data[:size], self._data[size:]
        return found

    def receive(self) -> str:
        """Return the body of one answer with status 200."""
        head = self._through(b"\r\n\r\n").lower()
        assert head.startswith(b"http/1.1 200 "), head
        if length := re.search(rb"content-length: (\d+)", head):
            return self._take(int(length[1])).decode()
        body = b""
        while size := int(self._through(b"\r\n"), 16):
            body += self._take(size)
            self._take(2)
        self._take(2)
        return body.decode()

    def ask(self, path: str, **more: str) -> str:
        self.send(path, **more)
        return self.receive()

    def end(self) -> bytes:
        """Return what comes before the server's end."""
        data, self._data = self._data, b""
        while more := self.socket.recv(65536):
            data += more
        return data


class Server:
    """A process that serves ``forking_app``, in a process group of its own."""

    def __init__(self, folder: Path, *command: str, tls: ssl.SSLContext | None = None) -> None:
        # Of its clients.
        self._tls = tls
        self._log = folder / "err"
        with self._log.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore::DeprecationWarning", *command],
                cwd=Path(__file__).parent,
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,
            )
        self.port = 0

    def wait_started(self) -> None:
        eventually(
            lambda: re.search(r"127\.0\.0\.1:(\d+) with", self.log()) or self.process.poll(),
            "the server started",
        )
        started = re.search(r"127\.0\.0\.1:(\d+) with", self.log())
        assert started, self.log()
        self.port = int(started[1])

    def log(self) -> str:
        return self._log.read_text("utf-8")

    def connect(self) -> Client:
        return Client(self.port, self._tls)

    def ask(self, path: str) -> str:
        with self.connect() as client:
            return client.ask(path)

    def refuses(self) -> bool:
        """Return whether nobody listens on the port."""
        try:
            self.connect().socket.close()
        except ConnectionRefusedError:
            return True
        return False

    def end(self) -> None:
        # Children, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT)
        check_log(self.log().splitlines())


Start = Callable[..., Server]


def _starter(folder: Path, certificates: Certificates) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(loop: str, *options: str, embedded: bool = False, secure: bool = False) -> Server:
            command = ["forking_app.py", loop]
            if not embedded:
                command = ["-m", "aiowsgi", "forking_app:application", "--bind=127.0.0.1:0"]
                command += [f"--loop={loop}", "--threads=4", *options]
                command += [f"--certfile={certificates.site}"] if secure else []
            tls = certificates.client_context() if secure else None
            server = Server(folder, *command, tls=tls)
            stack.callback(server.end)
            server.wait_started()
            return server

        yield start


@pytest.fixture
def start(tmp_path: Path, certificates: Certificates) -> Iterator[Start]:
    yield from _starter(tmp_path, certificates)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", False, False), id="asyncio", marks=exhaustive),
        pytest.param(("uvloop", False, False), id="uvloop"),
        pytest.param(("asyncio", True, False), id="asyncio-embedded"),
        pytest.param(("uvloop", True, False), id="uvloop-embedded", marks=exhaustive),
        pytest.param(("asyncio", False, True), id="asyncio-tls"),
        pytest.param(("uvloop", False, True), id="uvloop-tls", marks=exhaustive),
    ],
)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
) -> Iterator[Server]:
    """Return a server that goes on serving, whatever its children do."""
    loop, embedded, secure = request.param
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    for start in _starter(tmp_path_factory.mktemp("server"), certificates):
        yield start(loop, embedded=embedded, secure=secure)


@pytest.fixture(params=representative(["asyncio", "uvloop"], "uvloop"))
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    name: str = request.param
    return name


# --- how a child ends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("in_the_call?exits", "7"),
        ("in_the_call?exits_with_text", "1"),
        ("in_the_call?exits_without_code", "0"),
        ("in_the_call?raises", "1"),
        ("in_the_call?interrupts", "1"),
        ("in_the_call?answers", "0"),
        ("in_the_call?answers_badly", "0"),
        ("in_the_call?iterates", "0"),
        ("in_the_call?writes", "0"),
        ("in_the_call?reads", "0"),
        ("in_the_call?sends_a_file", "0"),
        ("in_the_call?asks_the_loop", "1"),
        ("in_the_call?asks_who_is_there", "3"),
        ("in_the_call?uses_the_pool", "4"),
        ("in_the_call?stops_the_server", "6"),
        ("in_the_call?serves", "8"),
        ("in_the_body?ends", "begun,0"),
        ("in_the_body?goes+on", "begun,0"),
        ("in_the_body?exits", "begun,7"),
        ("in_the_body?raises", "begun,1"),
        ("on_the_loop?returns", "0"),
        ("on_the_loop?exits", "7"),
        ("on_the_loop?raises", "1"),
        ("on_a_pool_thread?returns", "0"),
        ("on_a_pool_thread?exits", "7"),
        ("on_a_pool_thread?raises", "1"),
    ],
)
def test_child_ends_with_the_code_it_asks_for_and_answers_nothing(
    server: Server, path: str, answer: str
) -> None:
    with server.connect() as client, server.connect() as other:
        assert other.ask("hello") == "hello"
        assert client.ask(path) == answer
        # Behind one answer there is the next one.
        assert client.ask("hello") == "hello"
        assert other.ask("hello") == "hello"


@pytest.mark.parametrize(
    ("query", "code"), [("returns", "0"), ("exits", "7"), ("raises", "1"), ("exits_with_text", "1")]
)
def test_child_that_is_forked_behind_the_response_ends_in_the_same_way(
    server: Server, query: str, code: str
) -> None:
    with server.connect() as client:
        before = client.ask("codes")
        assert client.ask(f"InClose?{query}") == "closing"
        eventually(lambda: client.ask("codes") == before + code, "the child has ended")


def test_child_says_what_was_wrong(server: Server) -> None:
    said = len(server.log())
    server.ask("in_the_call?raises")
    assert "ValueError: the child fails\n" in server.log()[said:]
    said = len(server.log())
    server.ask("in_the_call?exits_with_text")
    assert "what went wrong\n" in server.log()[said:]
    assert "Traceback" not in server.log()[said:]
    said = len(server.log())
    server.ask("in_the_call?answers")
    assert "Traceback" not in server.log()[said:]


def test_child_with_a_streamed_body_reads_no_byte_of_it(server: Server) -> None:
    with server.connect() as client:
        client.send(
            "in_the_call?reads", fields="Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"
        )
        # Its parent does not read, either.
        assert client.receive() == "1"
    assert "RequestBodyError: this is a forked child" in server.log()


def test_child_with_a_body_in_a_file_leaves_it_to_its_parent(start: Start, loop: str) -> None:
    server = start(loop, "--body-prefetch=1000", "--body-spool=1M")
    with server.connect() as client:
        client.send("reads_in_both", method="POST", fields="Content-Length: 300000\r\n")
        client.socket.sendall(b"x" * 300_000)
        # The exit code of the child, and what its parent has read.
        assert client.receive() == "1,300000"
    assert "ValueError" in server.log()


def test_child_on_the_loop_that_comes_back_to_it_ends(start: Start, loop: str) -> None:
    server = start(loop)
    assert server.ask("on_the_loop?waits") == "0"
    assert server.ask("hello") == "hello"


def test_child_ends_although_a_thread_of_its_parent_is_in_the_midst_of_printing() -> None:
    program = """
        import os
        import sys
        import threading

        from aiowsgi.bridge import forks

        class Stuck:
            def write(self, data):
                with lock:
                    pass

            flush = fileno = None

        lock = threading.Lock()
        lock.acquire()  # As the buffer of a stream is, whose reader does not read.
        sys.stdout = sys.stderr = Stuck()
        if pid := os.fork():
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        forks.exit_child(SystemExit("what went wrong"))
    """
    process = subprocess.run([sys.executable, "-c", dedent(program)], timeout=TIMEOUT)
    assert process.returncode == 1


def test_child_cancels_a_job_of_its_parent_for_itself_and_without_a_word() -> None:
    program = """
        import os
        import threading

        import aiowsgi

        pool = aiowsgi.ThreadPool(1)
        begun, release = threading.Event(), threading.Event()
        pool.submit(lambda: begun.set() or release.wait())
        assert begun.wait(30)
        queued = pool.submit(lambda: "done")
        if not (pid := os.fork()):
            os._exit(0 if queued.cancel() and queued.cancelled() else 1)
        assert os.waitpid(pid, 0)[1] == 0
        release.set()
        assert queued.result(30) == "done"
        pool.shutdown()
    """
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", dedent(program)],
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stderr) == (0, "")


# --- what it shares ------------------------------------------------------------------------------


def test_process_is_terminated_and_its_parent_is_not(server: Server) -> None:
    pid = server.ask("as_process")
    assert server.ask(f"terminates?{pid}") == str(-signal.SIGTERM)
    assert server.ask("hello") == "hello"
    assert "Stopping" not in server.log()


def test_process_pool_works_and_ends_with_the_server(start: Start, loop: str) -> None:
    server = start(loop)
    assert server.ask("in_a_process_pool?10") == "1024"
    assert server.ask("hello") == "hello"
    server.process.terminate()
    assert server.process.wait(TIMEOUT) == 0
    # No process of the group is left.
    with pytest.raises(ProcessLookupError):
        os.killpg(server.process.pid, 0)
    assert "second" not in server.log()


@needs_proc
def test_child_has_no_socket_of_its_parent(server: Server) -> None:
    with server.connect() as idle:
        idle.ask("hello")
        pid = server.ask("as_process")
        folder = Path("/proc", pid, "fd")
        inodes = _tcp_inodes(server.port)
        assert inodes

        def held() -> set[str]:
            names = set()
            for link in folder.iterdir():
                # It may be closed between the listing and this.
                with contextlib.suppress(FileNotFoundError):
                    names.add(os.readlink(link))
            return names & inodes

        # It may have begun a moment ago.
        eventually(lambda: not held(), "the child has let go of everything")
        server.ask(f"terminates?{pid}")


def _tcp_inodes(port: int) -> set[str]:
    """Return the sockets at the server's end, as /proc names them."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    ours = [row for row in rows if int(row[1].rpartition(":")[2], 16) == port]
    return {f"socket:[{row[9]}]" for row in ours if row[9] != "0"}


@needs_proc
def test_another_program_inherits_no_descriptor(server: Server) -> None:
    listing = server.ask("another_program")
    descriptors = re.findall(r" (\d+) -> (\S+)", listing)
    # Its own look at the folder, and the standard streams.
    assert len(descriptors) == 4, listing


# From Python 3.12 on, asyncio leaves no child woken.
@pytest.mark.parametrize(
    ("who", "kept"), [("main", sys.version_info < (3, 12)), ("application", False)]
)
def test_child_is_woken_by_signals_only_where_it_has_the_thread_that_is(
    loop: str, who: str, kept: bool
) -> None:
    """The server's loop runs on another thread than the one that handles signals."""
    program = """
        import asyncio
        import os
        import signal
        import socket
        import threading
        import urllib.request

        import aiowsgi

        def fork():
            pid = os.fork()
            if not pid:
                os._exit(signal.set_wakeup_fd(-1) == ours.fileno())
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        def application(environ, start_response):
            start_response("200 OK", [])
            return [str(fork()).encode()]

        async def serve():
            global url
            async with aiowsgi.serve(application, "127.0.0.1", 0) as server:
                url = server.url
                serving.set()
                await asyncio.Event().wait()

        factory = None
        if LOOP == "uvloop":
            import uvloop
            factory = uvloop.new_event_loop
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        signal.set_wakeup_fd(ours.fileno())
        serving = threading.Event()
        runner = asyncio.Runner(loop_factory=factory)
        threading.Thread(target=runner.run, args=(serve(),), daemon=True).start()
        assert serving.wait(30)
        kept = fork() if WHO == "main" else int(urllib.request.urlopen(url, timeout=30).read())
        os._exit(kept)
    """
    program = f"LOOP, WHO = {loop!r}, {who!r}\n{dedent(program)}"
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", program], timeout=TIMEOUT)
    assert process.returncode == kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_to_the_process_group_counts_once(
    start: Start, loop: str, number: signal.Signals
) -> None:
    server = start(loop)
    with socket.create_server(("127.0.0.1", 0)) as gate, server.connect() as client:
        gate.settimeout(TIMEOUT)
        for _ in range(3):
            server.ask("as_process")
        client.send(f"waits?{gate.getsockname()[1]}")
        waiting, _ = gate.accept()
        os.killpg(server.process.pid, number)
        eventually(lambda: "Stopping on" in server.log(), "the signal is noticed")
        eventually(server.refuses, "no more connections are accepted")
        waiting.close()
        assert client.receive() == "waited"
    assert server.process.wait(TIMEOUT) == 0
    assert "second" not in server.log()


def test_port_is_free_when_the_server_has_stopped_though_a_child_lives(
    start: Start, loop: str
) -> None:
    server = start(loop)
    child = int(server.ask("as_process"))
    server.process.kill()
    server.process.wait(TIMEOUT)
    eventually(server.refuses, "nobody listens")
    os.kill(child, 0)  # It lives.


# --- the end of a connection ---------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_response_ends_for_the_client_though_a_child_has_its_connection(
    start: Start, loop: str, secure: bool
) -> None:
    server = start(loop, secure=secure)
    with server.connect() as closing, server.connect() as broken:
        for client in (closing, broken):
            client.ask("hello")
        server.ask("behind_pythons_back")
        closing.send("hello", fields="Connection: close\r\n")
        assert closing.end().endswith(b"\r\n\r\nhello")
        broken.send("breaks_off", version="1.0")
        # What was sent so far must not look complete. The ssl module may take a reset for an end
        # without close_notify, which is none, either.
        with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
            broken.end()


@exhaustive
@pytest.mark.parametrize("wire", ["plain", "tls"])
def test_patience_ends_for_the_client_though_a_child_has_its_connection(
    start: Start, loop: str, wire: str
) -> None:
    server = start(loop, "--timeout-keep-alive=1", "--timeout-write=1", secure=wire == "tls")
    with server.connect() as idle, server.connect() as slow:
        slow.send("endless")
        server.ask("behind_pythons_back")
        assert idle.end() == b""
        # Not a word was read of that.
        eventually(lambda: _is_reset(slow), "the client is cut")


def _is_reset(client: Client) -> bool:
    return client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
