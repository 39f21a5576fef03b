"""A server in a process of its own, clients that misbehave towards it, and what the kernel knows.

Nothing here trusts the server's word: /proc tells its threads, descriptors, memory and work,
sock_diag(7) the bytes that it has not read yet. Needs Linux. Every wait is for a condition,
and bounded.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from defects import check_log
from waiting import eventually

# Fail-safe: nothing on the loopback interface takes this long.
TIMEOUT = 30.0

THREADS = 2
# The main thread, the one of the application that answers the harness, and one for each log.
_OTHER_THREADS = 4
GRACEFUL = 20.0
FILE_SIZE = 10 << 20
_READ_SIZE = 1 << 18

# Of linux/netlink.h and linux/sock_diag.h.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ANY = 0xFFFFFFFF

_STARTED = re.compile(r" at http://127\.0\.0\.1:(\d+) with ")
# That a server with all threads busy says so is right: the harness makes it so. So it is that a
# request is refused, where it is. The tests may run as root.
_COMPLAINT = re.compile(
    r" (WARNING(?! Requests waited| The queue for | Refused | The application runs as root)|ERROR|"
    r"CRITICAL) |Traceback|Warning|never (retrieved|awaited)"
)
_names = itertools.count(1)


class Ended(Exception):
    """No response any more. The message is "close", "reset", or "cut" in the middle of one."""


class Client:
    """A connection to a server: raw bytes, and reading only when told to.

    A small ``receive_buffer`` makes a server feel early that nobody reads.
    """

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self._buffer = b""
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise
        self.port: int = self.socket.getsockname()[1]
        # Of the socket at the other end, once that is accepted.
        self.server_inode = 0

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        self.socket.sendall(data)

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Leave as clients do; idempotent."""
        self.socket.close()

    def reset(self) -> None:
        """Leave with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def is_delivered(self) -> bool:
        """Return whether the other end's kernel has all that was sent."""
        unacknowledged = fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4))
        return unacknowledged == bytes(4)

    def heard(self) -> tuple[int, bool]:
        """Return the bytes that have come and were not read, and whether the end has come."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        (waiting,) = struct.unpack("i", fcntl.ioctl(self.socket, termios.FIONREAD, bytes(4)))
        return len(self._buffer) + waiting, bool(poll.poll(0))

    def receive(self) -> int:
        """Read one response to its end, be it a 1xx; return its status. Raises Ended."""
        if not self._buffer:
            self._fill(end="close")
        head = self._through(b"\r\n\r\n").lower()
        status = int(head[9:12])
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            while size := int(self._through(b"\r\n"), 16):
                self._skip(size + 2)
            self._skip(2)
        elif (length := re.search(rb"\r\ncontent-length: ([0-9]+)\r\n", head)) is not None:
            self._skip(int(length[1]))
        else:
            assert status < 200, head
        return status

    def end(self) -> str:
        """Return how the connection ends; or a status, where it goes on."""
        try:
            return str(self.receive())
        except Ended as ended:
            return str(ended)

    def _fill(self, *, end: str = "cut") -> None:
        try:
            data = self.socket.recv(_READ_SIZE)
        except ConnectionError:
            raise Ended("reset") from None
        if not data:
            raise Ended(end)
        self._buffer += data

    def _through(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(mark)
        return head + mark

    def _skip(self, size: int) -> None:
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer = b""
            self._fill()
        self._buffer = self._buffer[size:]


class Calls(NamedTuple):
    """What the application knows of the requests of a name: see ``Board.report``."""

    called: int
    active: int
    blocks: int
    running: int


class Queues(NamedTuple):
    """Bytes in the kernel at the server's end of a connection, and the name of its socket."""

    unsent: int
    unread: int
    inode: int


def _queues(local: int, remote: int) -> Queues | None:
    """Ask the kernel for one end of a connection, by the ports. None where it is gone."""
    address = socket.inet_aton("127.0.0.1")
    # struct inet_diag_req_v2: any state, any interface, any cookie.
    request = struct.pack("=BBxxI", socket.AF_INET, socket.IPPROTO_TCP, _ANY)
    request += struct.pack("!HH16s16s3I", local, remote, address, address, 0, _ANY, _ANY)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(TIMEOUT)
        header = (16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
        kernel.send(struct.pack("=IHHII", *header) + request)
        answer = kernel.recv(1 << 13)
    kind, code = struct.unpack_from("=4xH10xi", answer)
    if kind == _NLMSG_ERROR:
        assert code == -errno.ENOENT, os.strerror(-code)
        return None
    # struct inet_diag_msg. The listening socket stands in for a connection that is gone; one that
    # is not accepted yet, or closed, has no inode.
    (peer,) = struct.unpack_from("!H", answer, 22)
    unread, unsent, inode = struct.unpack_from("=II4xI", answer, 72)
    return Queues(unsent, unread, inode) if peer == remote and inode else None


class Server:
    """``python -m aiowsgi`` with the application of the faults. ``ready`` comes before all else.

    ``folder`` takes its logs; ``impatient`` is that of its timeouts, in seconds.
    """

    def __init__(
        self, folder: Path, loop: str, *, impatient: float | None = None, graceful: float = GRACEFUL
    ) -> None:
        self.impatient = impatient
        self._port = 0
        self._log_file = folder / "err"
        document = folder / "document"
        with document.open("wb") as file:
            file.truncate(FILE_SIZE)
        options = {
            "bind": "127.0.0.1:0",
            "loop": loop,
            "threads": THREADS,
            "timeout-graceful": graceful,
            "limit-request-body": "16M",
            "response-buffer": "1M",
        }
        if impatient is not None:
            for name in ("timeout-header", "timeout-body", "timeout-write", "queue-timeout"):
                options[name] = impatient
            # Between two requests the test itself is at work, and may be kept waiting.
            options["timeout-keep-alive"] = 2 * impatient
        arguments = [f"--{name}={value}" for name, value in options.items()]
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT)
        environment = {"FAULT_CONTROL": str(theirs.fileno()), "FAULT_FILE": str(document)}
        with theirs, self._log_file.open("wb") as err, (folder / "out").open("wb") as out:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "default::ResourceWarning", "-m", "aiowsgi"),
                    *("fault_app:application", *arguments),
                ],
                cwd=Path(__file__).parent,
                env=os.environ | environment,
                pass_fds=[theirs.fileno()],
                stdout=out,
                stderr=err,
            )
        self._control = ours
        self._answers = ours.makefile("rb")
        self._proc = Path("/proc", str(self._process.pid))

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait(TIMEOUT)
        self._answers.close()
        self._control.close()
        check_log(self.log().splitlines())

    # Its life.

    def ready(self) -> "Server":
        """Wait until it serves; return it."""
        if self._port:
            return self
        eventually(lambda: _STARTED.search(self.log()) or self.has_ended(), "the server started")
        started = _STARTED.search(self.log())
        assert started is not None, self.log()
        self._port = int(started[1])
        # Some of what an event loop needs it opens with the first connection.
        client = self.connect()
        client.close()
        eventually(lambda: not self.holds(client), "the first client is let go of")
        self._descriptors = len(self.descriptors())
        return self

    def begin_to_stop(self) -> None:
        """Send SIGTERM, and wait until that is noticed."""
        self._process.send_signal(signal.SIGTERM)
        eventually(lambda: "Stopping on SIGTERM" in self.log(), "SIGTERM was noticed")

    def has_ended(self) -> bool:
        """Return whether the process is gone."""
        return self._process.poll() is not None

    def wait_ended(self) -> int:
        """Wait until the process is gone; return its exit code."""
        eventually(self.has_ended, "the process has ended")
        return self._process.wait()

    def log(self) -> str:
        """Return what it wrote to standard error."""
        return self._log_file.read_text("utf-8")

    def complaints(self) -> list[str]:
        """Return the lines of the log that nobody wants to see."""
        return [line for line in self.log().splitlines() if _COMPLAINT.search(line)]

    # Its clients.

    def connect(self, receive_buffer: int | None = None) -> Client:
        """Return a new connection, once it is accepted."""
        client = Client(self._port, receive_buffer)

        def is_accepted() -> bool:
            if (queues := self.queues(client)) is not None:
                client.server_inode = queues.inode
            # One that is impatient may have given it up already.
            return queues is not None or any(client.heard())

        eventually(is_accepted, "a connection is accepted")
        return client

    def greets(self) -> bool:
        """Return whether a client with an ordinary request gets an answer."""
        client = self.connect()
        try:
            client.send(b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n")
            return client.receive() == 200
        except Ended:
            return False
        finally:
            client.close()

    def refuses(self) -> bool:
        """Return whether no client can connect."""
        try:
            Client(self._port).close()
        except ConnectionError:
            return True
        return False

    def queues(self, client: Client) -> Queues | None:
        """Return what waits at the server's end of a connection; None if it is gone."""
        return _queues(self._port, client.port)

    def holds(self, client: Client) -> bool:
        """Return whether the server has a descriptor of its end of a connection."""
        return f"socket:[{client.server_inode}]" in self.descriptors()

    def has_read_all(self, client: Client) -> bool:
        """Return whether the server has accepted a connection and read all that was sent on it."""
        # In this order: what was delivered is in the queue.
        return (
            client.is_delivered()
            and (queues := self.queues(client)) is not None
            and (queues.unread == 0)
        )

    # Its application.

    def _ask(self, verb: str, name: str = "") -> dict[str, int]:
        self._control.sendall(f"{verb} {name}\n".encode())
        if not (line := self._answers.readline()):
            raise BrokenPipeError("the application does not answer")
        answer: dict[str, int] = json.loads(line)
        return answer

    def calls(self, name: str = "") -> Calls:
        """Return what has become of the requests of a name."""
        return Calls(**self._ask("report", name))

    def open_gate(self, name: str) -> None:
        """Let the request of that name go on."""
        self._ask("open", name)

    def objects(self) -> Counter[str]:
        """Return how many objects of the package's classes there are, by class.

        But for what is remembered of requests and responses that come again, and the threads, which
        have a bound; and for what the context of a request names: asyncio keeps the context of a
        cancelled timer.
        """
        objects = Counter(self._ask("objects"))
        remembered = ("FieldSection", "RequestHead", "_ApplicationPart", "_Head")
        for name in (*remembered, "PoolThread", "ThreadNotes", "WsgiCall", "ClientDisconnected"):
            del objects[name]
        return objects

    # Its process.

    def descriptors(self) -> list[str]:
        """Return what the open descriptors are of."""
        found = []
        for link in (self._proc / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # Closed between two looks.
                found.append(os.readlink(link))
        return found

    def _status(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+)", (self._proc / "status").read_text(), re.MULTILINE)
        assert found is not None, name
        return int(found[1])

    def threads(self) -> int:
        """Return how many threads there are."""
        return self._status("Threads")

    def resident(self) -> int:
        """Return the bytes of memory in use."""
        return self._status("VmRSS") << 10

    def busy_time(self) -> float:
        """Return the seconds in which the loop's thread has worked, or waited for a processor."""
        schedule = self._proc / "task" / self._proc.name / "schedstat"
        worked, waited, _ = map(int, schedule.read_text("ascii").split())
        return (worked + waited) / 1e9

    def is_at_rest(self) -> bool:
        """Return whether it is as it was before the first request, but for its pool of threads."""
        return (
            self.calls().running == 0
            and len(self.descriptors()) == self._descriptors
            and self.threads() <= THREADS + _OTHER_THREADS
        )


class Scene:
    """A client and a server, and what is needed to bring the one into a state and out of it.

    ``name`` is that of the client's request.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"request-{next(_names)}"
        # What the client has not sent of its request yet.
        self.rest = b""
        # Names of requests that wait behind others: they have not begun.
        self.waiting: list[str] = []
        self._clients: list[Client] = []
        self._gates = [self.name]

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.open_gates()
        for client in self._clients:
            client.close()

    @property
    def client(self) -> Client:
        """The one whose state it is."""
        return self._clients[0]

    def connect(self, receive_buffer: int | None = None) -> None:
        """Let the client come in."""
        self._clients.append(self.server.connect(receive_buffer))

    def add(self, path: str) -> str:
        """Let another client make a request, wait until it is called, and return its name."""
        name = f"{self.name}-{len(self._gates)}"
        self._gates.append(name)
        self._clients.append(self.server.connect())
        self._clients[-1].send(f"GET {path}?{name} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        eventually(lambda: self.server.calls(name).active, f"{path} is called")
        return name

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition. A server that is impatient may give the client up meanwhile."""
        impatient = self.server.impatient is not None
        eventually(lambda: condition() or (impatient and not self.server.holds(self.client)), what)

    def until_read(self) -> None:
        """Wait until the server has read all that the client has sent."""
        self.until(lambda: self.server.has_read_all(self.client), "the server has read")

    def until_called(self) -> None:
        """Wait until the application is at work on the client's request."""
        self.until(lambda: self.server.calls(self.name).active, "the application is called")

    def open_gates(self) -> None:
        """Let the application go on, wherever it waits."""
        with contextlib.suppress(BrokenPipeError):  # The server may have been stopped.
            for name in self._gates:
                self.server.open_gate(name)

    def resume(self) -> None:
        """Let everything go on: the client sends what is missing, and the gates open."""
        if self.rest:
            self.client.send(self.rest)
        self.open_gates()

    def let_time_pass(self) -> None:
        """Wait for longer than any timeout, and see that the server says and does nothing."""
        heard = self.client.heard()
        begun, used = time.monotonic(), self.server.busy_time()
        # Another client shows when the time is over: the same timeout is its end.
        witness = self.server.connect()
        witness.send(b"GET")
        assert witness.receive() == 408
        witness.close()
        assert self.client.heard() == heard
        elapsed = time.monotonic() - begun
        assert self.server.busy_time() - used < elapsed / 2, "the server is busy with nothing"
