"""What the tests of slow clients share: a server in a process of its own, crowds of clients that do
only what they are told, and a probe that says hello all the while and notes how long that takes.
All of them speak TLS to a server with a certificate.

The process runs ``python -m aiowsgi slow_clients:application``, so this file is imported there too
and needs nothing but the standard library. Sockets block, with a limit; no event loop is involved.
"""

import contextlib
import http.client
import importlib.util
import os
import re
import resource
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

from defects import check_log
from waiting import eventually

LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
# Fail-safe, in seconds: long enough for a busy machine; a test that passes never waits for it.
PATIENCE = 60.0
# A client with this receive buffer makes the server feel at once that it does not read.
TINY_BUFFER = 2048
KIB, MIB = 1 << 10, 1 << 20
FILE_SIZE = 50 * MIB
# No answer takes longer where a thread is free, in seconds, however busy the machine is with other
# things. Half of them take a few milliseconds.
AT_ONCE = 8.0
# The main thread, and one for each standard stream that is written to.
_OTHER_THREADS = 3
# The most threads of the loop's own executor, which read files where TLS is spoken. A certificate
# is looked at by one more, now and then.
_READING_THREADS = min(32, (os.cpu_count() or 1) + 4) + 1
# Where more threads wait for clients than there are spare ones, a client is cut for each request
# that waits for a thread, once it has been slow for a second. The server looks once a second. The
# rest is for a busy machine.
FREED_WITHIN = 20.0
# What the server says of that.
CUT = (
    r"WARNING (Cut \d+ slow clients?: the server is short of (threads|memory)|Requests waited|"
    r"The queue for |Refused )"
)
# What it says where the machine stands still for a second. How late an answer may be, the probe
# finds out; but nobody may be refused.
_LATE = r"WARNING Requests waited up to \d+\.\d s for one of \d+ threads: \d+ ran late, 0 got a 503"
# Descriptors for the largest crowd, at either end.
_DESCRIPTORS = 4096
# What the garbage collector has yet to find of a crowd, and the allocator keeps in small blocks.
_MEMORY_SLACK = 32 * MIB
# With TLS there are many more of these, some 20 KiB for each of thousands of connections.
_TLS_MEMORY_SLACK = 96 * MIB

# --- what is served ------------------------------------------------------------------------------


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer /hello; /bytes/N with N bytes at once; /stream/N with N bytes in pieces, or without
    end where N is 0; /file with a file; /upload with the size of the request's body.
    """
    _, name, *rest = environ["PATH_INFO"].split("/")
    size = int(rest[0]) if rest else 0
    fields = [("Content-Type", "application/octet-stream")]
    body: Iterable[bytes]
    match name:
        case "hello":
            body = [b"hello"]
        case "bytes":
            # Made anew for each request: one that all share would make the memory look good.
            body = [b"x" * size]
        case "stream":
            pieces = range(-(-size // (64 * KIB))) if size else iter(int, 1)
            body = (b"x" * (64 * KIB) for _ in pieces)
        case "file":
            fields.append(("Content-Length", str(FILE_SIZE)))
            file = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
            file.truncate(FILE_SIZE)  # All zeros: it takes no space.
            body = environ["wsgi.file_wrapper"](file, 64 * KIB)
        case "upload":
            stream = environ["wsgi.input"]
            body = [b"%d" % sum(map(len, iter(lambda: stream.read(64 * KIB), b"")))]
        case _:
            raise LookupError(name)
    start_response("200 OK", fields)
    return body


def get(path: str, *fields: str) -> bytes:
    """Return a request."""
    return _request(f"GET {path} HTTP/1.1", "Host: test", *fields)


def post(size: int, *fields: str) -> bytes:
    """Return the head of an upload."""
    return _request("POST /upload HTTP/1.1", "Host: test", f"Content-Length: {size}", *fields)


def _request(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


# --- the server ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process takes of the machine. ``resident`` is bytes of memory."""

    threads: int
    descriptors: int
    resident: int


class ServerProcess:
    """``python -m aiowsgi`` with the application above, on a port that the kernel chose.

    ``at_rest`` is what it takes when it has answered a request of each kind and nobody is there.
    With ``certificate``, a path, it speaks TLS; ``context`` is that of its clients.
    """

    def __init__(
        self,
        loop: str,
        *options: str,
        threads: int = 8,
        certificate: str | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.threads = threads
        self.other_threads = _OTHER_THREADS + (_READING_THREADS if certificate else 0)
        self.context = context
        if certificate is not None:
            options = ("--certfile", certificate, *options)
        self.log: list[str] = []
        arguments = ["--bind", "127.0.0.1:0", "--chdir", str(Path(__file__).parent)]
        arguments += ["--loop", loop, "--threads", str(threads), "--no-access-log", *options]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aiowsgi", "slow_clients:application", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            # Buffers that are freed go back to the system at once. Else what the allocator keeps of
            # them would hide what the server does.
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(64 * KIB)},
        )
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        try:
            eventually(
                lambda: self._find_address() or self._process.poll() is not None, lambda: arguments
            )
            started = self._find_address()
            assert started is not None, self.log
            self.address = (started[1], int(started[2]))
            for path in ("/hello", f"/bytes/{MIB}", f"/stream/{MIB}", "/file"):
                with Crowd(self, 1) as crowd:
                    crowd.send(get(path))
                    assert {status for status, _ in crowd.responses()} == {200}
            self.at_rest = self.usage()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _find_address(self) -> re.Match[str] | None:
        return re.search(r" at https?://([\d.]+):(\d+) with ", "".join(self.log))

    def _read_log(self) -> None:
        assert self._process.stderr is not None  # It is a pipe.
        with self._process.stderr as stream:
            self.log.extend(iter(stream.readline, ""))

    def usage(self) -> Usage:
        """Return what the process takes now."""
        process = Path(f"/proc/{self._process.pid}")
        lines = (process / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return Usage(
            threads=int(status["Threads"]),
            descriptors=len(os.listdir(process / "fd")),
            resident=int(status["VmRSS"].split()[0]) * KIB,
        )

    def wait_for_rest(self, kept: int = 0) -> None:
        """Wait until it takes no more than it did before anybody came.

        ``kept`` are bytes that the allocator of the C library keeps, because they are scattered.
        """
        slack = kept + (_MEMORY_SLACK if self.context is None else _TLS_MEMORY_SLACK)

        def rests() -> bool:
            now = self.usage()
            return (
                now.threads <= self.other_threads + self.threads
                and now.descriptors <= self.at_rest.descriptors
                and now.resident <= self.at_rest.resident + slack
            )

        eventually(rests, lambda: f"{self.usage()}, and {self.at_rest} before")

    def stop(self) -> None:
        """End the process, now if need be."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        finally:
            self._process.kill()  # Does nothing where it has ended.
            self._process.wait(PATIENCE)
            self._reader.join(PATIENCE)
        check_log(self.log)


# --- its clients ---------------------------------------------------------------------------------


class Crowd:
    """Many connections to a server. They send what they are told, and read when they are told.

    With ``plain`` they have not begun to speak TLS, whatever the server speaks.
    """

    def __init__(
        self,
        server: ServerProcess,
        count: int,
        *,
        receive_buffer: int | None = None,
        plain: bool = False,
    ) -> None:
        self.sockets: list[socket.socket] = []
        try:
            for _ in range(count):
                sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                self.sockets.append(sock)
                sock.settimeout(PATIENCE)
                if receive_buffer is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                sock.connect(server.address)
                if server.context is not None and not plain:
                    self.sockets[-1] = server.context.wrap_socket(
                        sock, server_hostname=server.address[0]
                    )
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def _close(self) -> None:
        for sock in self.sockets:
            sock.close()

    def send(self, data: bytes) -> None:
        """Let each send ``data``."""
        for sock in self.sockets:
            sock.sendall(data)

    def wait_for_bytes(self) -> None:
        """Wait until something has come to each, and leave it where it is."""
        poll = select.poll()
        for sock in self.sockets:
            poll.register(sock, select.POLLIN)
        waiting = len(self.sockets)

        def all_have() -> bool:
            nonlocal waiting
            for descriptor, _ in poll.poll(0):
                poll.unregister(descriptor)
                waiting -= 1
            return not waiting

        eventually(all_have, lambda: f"nothing has come to {waiting} clients")

    def closed(self) -> list[bool]:
        """Return of each whether the server has closed it; none has anything to read."""
        return [is_readable(sock) for sock in self.sockets]

    def ask(self, data: bytes) -> Counter[tuple[int, bytes]]:
        """Let one after the other send ``data`` and read a response; return status and body."""
        responses: Counter[tuple[int, bytes]] = Counter()
        for sock in self.sockets:
            sock.sendall(data)
            responses[read_response(sock)] += 1
        return responses

    def responses(self, count: int | None = None) -> Counter[tuple[int, bytes]]:
        """Let each, or the first ``count``, read a response; return as above."""
        return Counter(map(read_response, self.sockets[:count]))


def is_readable(sock: socket.socket, seconds: float = 0.0) -> bool:
    """Return whether there is something to read, or the end, within ``seconds``."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    poll = select.poll()  # Not select(), which knows no descriptor above 1023.
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def read_response(sock: socket.socket) -> tuple[int, bytes]:
    """Return status and body of a response."""
    # It may have been made tiny, and what is left would be read a few bytes at a time.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
    with contextlib.closing(http.client.HTTPResponse(sock)) as response:
        response.begin()
        return response.status, response.read()


class Probe:
    """Says hello to a server, over and over, on a thread of its own: each time on a connection that
    is kept and on a fresh one. Notes how long each answer takes, and the threads of the server.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._thread = threading.Thread(target=self._run)
        self._stop = threading.Event()
        # Protects what the thread notes; notified of each round and of the end.
        self._noted = threading.Condition()
        self.seconds: list[float] = []
        self.usages: list[Usage] = []
        self._failure: BaseException | None = None

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with contextlib.closing(self._connection()) as kept:
                kept.connect()
                kept.auto_open = 0  # Else it is a fresh one, too, when the server has closed it.
                while not self._stop.wait(0.01):
                    with contextlib.closing(self._connection()) as fresh:
                        seconds = [self._say_hello(fresh), self._say_hello(kept)]
                    with self._noted:
                        self.seconds += seconds
                        self.usages.append(self._server.usage())
                        self._noted.notify()
        except (OSError, http.client.HTTPException, AssertionError) as failure:
            with self._noted:
                self._failure = failure
                self._noted.notify()

    def _connection(self) -> http.client.HTTPConnection:
        if self._server.context is None:
            return http.client.HTTPConnection(*self._server.address, timeout=PATIENCE)
        return http.client.HTTPSConnection(
            *self._server.address, timeout=PATIENCE, context=self._server.context
        )

    def _say_hello(self, connection: http.client.HTTPConnection) -> float:
        begin = time.monotonic()
        connection.request("GET", "/hello")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"hello")
        return time.monotonic() - begin

    def more(self, rounds: int) -> None:
        """Wait until so many further rounds have been answered."""
        with self._noted:
            target = len(self.usages) + rounds
            self._noted.wait_for(
                lambda: self._failure is not None or len(self.usages) >= target, PATIENCE
            )
            assert self._failure is None, f"hello was not answered: {self._failure!r}"
            assert len(self.usages) >= target, "hello is not answered in time"

    def check(self, *, threads: int, memory: int, slowest: float) -> None:
        """Fail where hello took too long, or the server more than it may."""
        assert self._failure is None, f"hello was not answered: {self._failure!r}"
        late = [f"{seconds:.2f}" for seconds in self.seconds if seconds >= slowest]
        assert not late, f"hello took {late} seconds; the server says {self._server.log}"
        assert statistics.median(self.seconds) < 1.0, "hello was answered slowly"
        most = max(usage.threads for usage in self.usages)
        assert most <= threads, f"the server had {most} threads"
        most = max(usage.resident for usage in self.usages)
        assert most <= memory, f"the server had {most / MIB:.0f} MiB of memory"


@contextlib.contextmanager
def under_attack(
    server: ServerProcess,
    *,
    spare: int = 0,
    memory: int = 64 * MIB,
    kept: int = 0,
    slowest: float = AT_ONCE,
    says: str = "nothing",
) -> Iterator[Probe]:
    """Have hello answered all through the block, and the server at rest soon behind it.

    No answer may take ``slowest`` seconds, and half of them a fraction of one. The server may have
    its threads and ``spare`` more, and ``memory`` more bytes than at rest, of which ``kept`` stay;
    its error log may have lines that match ``says``, and say that requests were late.
    """
    said = len(server.log)
    with Probe(server) as probe:
        yield probe
    probe.check(
        threads=server.other_threads + server.threads + spare,
        memory=server.at_rest.resident + memory,
        slowest=slowest,
    )
    server.wait_for_rest(kept)
    unexpected = [
        line
        for line in server.log[said:]
        if not re.search(says, line) and not re.search(_LATE, line)
    ]
    assert unexpected == [], unexpected


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """Let this process, and those that it starts, have as many descriptors as a crowd needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _DESCRIPTORS)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
