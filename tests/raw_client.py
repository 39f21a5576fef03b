"""A client that does to a server what browsers do not: raw bytes, half-closes, resets, silence.

It reads only when it is told to, so that a test decides when the kernel's buffers are full. Every
wait is bounded. ``on_each_loop`` makes a test that runs on asyncio's event loop and on uvloop's,
with the transports of the server and with those of the loop; ``on_each_wire`` makes one that runs
over TLS as well, where the same client encrypts what it sends.
"""

import asyncio
import contextlib
import functools
import inspect
import select
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from wsgiref.types import WSGIApplication
from wsgiref.validate import validator

import h11
import pytest
from certificates import Certificates
from extent import exhaustive

import aiowsgi
from aiowsgi.connection.connection import Connection
from aiowsgi.server.assembly import Assembly

# Fail-safe: nothing on the loopback interface takes this long.
TIMEOUT = 30.0
_READ_SIZE = 1 << 16

Result = TypeVar("Result")

# What clients speak in a test of ``on_each_wire``: TLS with this context, or none.
_spoken: ContextVar[ssl.SSLContext | None] = ContextVar("spoken", default=None)

# Those that a test which fails leaves behind, so that it takes no other test along.
_clients: list["RawClient"] = []


class Incomplete(Exception):
    """The connection ended before the response did. ``received`` is the body so far."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"the response ended after {len(received)} bytes of its body")
        self.received = received


@dataclass(slots=True)
class Response:
    """One response, with the 1xx responses before it. Field names are in lower case."""

    status: int
    fields: list[tuple[str, str]]
    http_version: str = "1.1"
    body: bytes = b""
    informational: list[int] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """Return the value of a field that is there at most once."""
        values = [value for other, value in self.fields if other == name]
        assert len(values) < 2, f"{name} is sent {len(values)} times"
        return values[0] if values else None


def _lower(fields: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("ascii"), value.decode("latin-1")) for name, value in fields]


class RawClient:
    """A connection to a server. Use ``connect``; close it, or let ``async with`` do so."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = b""
        self._eof = False

    async def __aenter__(self) -> "RawClient":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        async with asyncio.timeout(TIMEOUT):
            await self._loop.sock_sendall(self.socket, data)

    async def send_until_full(self, data: bytes, *, limit: int) -> int:
        """Send ``data`` over and over until neither kernel takes any more; return the bytes sent.

        At most about ``limit``: a server that always reads would take it for ever.
        """
        sent = idle = 0
        while sent < limit and idle < 50:
            try:
                sent += self._send_some(data, sent)
                idle = 0
            except BlockingIOError:
                idle += 1
                # Not a wait for an event: the absence of one is what is looked for.
                await asyncio.sleep(0.01)
        return sent

    def _send_some(self, data: bytes, sent: int) -> int:
        """Send what the kernel takes of the rest of ``data``; return how many bytes that was."""
        return self.socket.send(memoryview(data)[sent % len(data) :])

    async def _read_more(self) -> bool:
        """Read once into the buffer; return False at the end of the stream."""
        data = await self.read(_READ_SIZE)
        self._buffer += data
        self._eof = not data
        return not self._eof

    async def read(self, size: int) -> bytes:
        """Return what arrives next, at most ``size`` bytes; none at the end of the stream."""
        async with asyncio.timeout(TIMEOUT):
            return await self._loop.sock_recv(self.socket, size)

    async def receive(self, method: str = "GET") -> Response:
        """Return one response; bytes behind it are kept for the next.

        ``method`` is that of its request. Raises Incomplete.
        """
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        connection.send(h11.EndOfMessage())
        if self._buffer:  # No bytes would be the end of the stream.
            connection.receive_data(self._buffer)
            self._buffer = b""
        response: Response | None = None
        informational: list[int] = []
        body = bytearray()
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                if not self._eof:
                    raise
                raise Incomplete(bytes(body)) from error
            if event is h11.NEED_DATA:
                try:
                    data = await self.read(_READ_SIZE)
                except ConnectionError as error:
                    raise Incomplete(bytes(body)) from error
                self._eof = not data
                connection.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                version = event.http_version.decode("ascii")
                response = Response(event.status_code, _lower(event.headers), version)
                response.informational = informational
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None  # h11 has it in this order.
                response.body = bytes(body)
                self._buffer = connection.trailing_data[0]
                return response
            else:
                raise Incomplete(bytes(body))

    async def request(self, data: bytes, method: str = "GET") -> Response:
        """Send a request and return its response."""
        await self.send(data)
        return await self.receive(method)

    async def read_until(self, end: bytes) -> bytes:
        """Return everything up to and including ``end``. Raises Incomplete."""
        while (found := self._buffer.find(end)) < 0:
            if not await self._read_more():
                raise Incomplete(self._buffer)
        found += len(end)
        data, self._buffer = self._buffer[:found], self._buffer[found:]
        return data

    async def read_until_eof(self) -> bytes:
        """Return everything up to the server's end. Raises ConnectionResetError."""
        while not self._eof and await self._read_more():
            pass
        data, self._buffer = self._buffer, b""
        return data

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close: the server sees the end of the stream."""
        self.socket.close()

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


async def connect(server: aiowsgi.Server, *, receive_buffer: int | None = None) -> RawClient:
    """Connect to a server. A small ``receive_buffer`` makes it feel early that nobody reads."""
    plain = await connect_to(server.sockets[0].getsockname(), receive_buffer=receive_buffer)
    if (context := _spoken.get()) is None:
        return plain
    from tls_client import LikeRawClient  # It is made of what is here.

    client = LikeRawClient(plain, context, "localhost")
    await client.handshake()
    return client


async def connect_to(address: tuple[str, int], *, receive_buffer: int | None = None) -> RawClient:
    """Connect to an address, such as that of a server that is closing."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        async with asyncio.timeout(TIMEOUT):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    client = RawClient(sock)
    _clients.append(client)
    return client


def parts_of(server: aiowsgi.Server) -> Assembly:
    """Return the parts of a server, which count what tests want to know."""
    return server._assembly


def be_patient(server: aiowsgi.Server) -> aiowsgi.Server:
    """Let threads that were released come back late, as on a machine that is busy."""
    parts_of(server).resources.abort_timeout = TIMEOUT
    return server


def clients_of(server: aiowsgi.Server) -> list[Connection]:
    """Return the connections of a server, without those that are not ready for a request."""
    return [one for one in parts_of(server).shared.connections if isinstance(one, Connection)]


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` holds; fail where it does not."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what changes it knows of no event
            await asyncio.sleep(0.002)


async def in_thread(function: Callable[..., Result], *args: Any) -> Result:
    """Call a function that blocks, such as the wait of a ``threading.Event``, in a thread."""
    async with asyncio.timeout(TIMEOUT):
        return await asyncio.to_thread(function, *args)


@contextlib.asynccontextmanager
async def watched_loop() -> AsyncIterator[None]:
    """Fail where anything in the block escapes to the event loop's exception handler."""
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    try:
        yield
    finally:
        loop.set_exception_handler(None)
        while _clients:
            _clients.pop().close()
    assert not problems, problems


StartServer = Callable[..., Awaitable[aiowsgi.Server]]
NewLoop = Callable[[], asyncio.AbstractEventLoop]

# Whether servers have transports of their own here.
HAS_TRANSPORTS = hasattr(select, "epoll")


class Wire(NamedTuple):
    """Between server and client: the loop, whether TLS is spoken, and whose transports there are.

    ``own`` are those that servers have here, others those of the loop.
    """

    new_loop: NewLoop
    tls: bool = False
    own: bool = True


def loop_factories() -> list[Any]:
    factories = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    with contextlib.suppress(ImportError):  # It does not exist on every platform.
        import uvloop

        factories.append(pytest.param(uvloop.new_event_loop, id="uvloop"))
    return factories


@contextlib.contextmanager
def transports_of_the_loop() -> Iterator[None]:
    """Let servers that start meanwhile have what they have on systems without epoll."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(select, "epoll", raising=False)
        yield


def _represents(scenario: Callable[..., Awaitable[None]], *, one_in: int) -> bool:
    """Return whether a test is one of those that represent the others."""
    # By the name, so that another test does not move the choice.
    return zlib.crc32(scenario.__name__.encode()) % one_in == 0


def on_each_wire(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test like ``on_each_loop``, which runs over TLS, too: ``connect`` speaks it there.

    Where not everything is asked for, that is on one loop only, and one in four of these tests.
    Otherwise these do so with the transports of the loops, too.
    """
    loops = loop_factories()
    is_representative = _represents(scenario, one_in=4)
    secure = [
        pytest.param(
            Wire(loop.values[0], tls=True, own=own),
            id=f"tls-{loop.id}" if own else f"tls-{loop.id}-transports",
            marks=() if own and is_representative and loop is loops[-1] else exhaustive,
        )
        for own in ((True, False) if HAS_TRANSPORTS and is_representative else (True,))
        for loop in loops
    ]
    return _test_of(scenario, _cleartext(scenario) + secure)


def on_each_loop(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of ``async def scenario(start_server, ...)``; other arguments are parameters.

    ``start_server`` is like the fixture of that name, for who needs it. The test fails when an
    exception escapes to the event loop.
    """
    return _test_of(scenario, _cleartext(scenario))


def _cleartext(scenario: Callable[..., Awaitable[None]]) -> list[Any]:
    """Return the loops of a test, with the server's transports and with their own.

    Where not everything is asked for, that is the loop that servers take where it is installed. One
    in three tests runs on the other one, too, and one in eight there with the transports of that.
    """
    loops = loop_factories()
    with_theirs = _represents(scenario, one_in=8) and HAS_TRANSPORTS

    def represents(loop: Any, own: bool) -> bool:
        if loop is loops[0] and with_theirs:
            return not own
        return own and (loop is loops[-1] or _represents(scenario, one_in=3))

    return [
        pytest.param(
            Wire(loop.values[0], own=own),
            id=loop.id if own else f"{loop.id}-transports",
            marks=() if represents(loop, own) else exhaustive,
        )
        for own in ((True, False) if HAS_TRANSPORTS else (True,))
        for loop in loops
    ]


def _test_of(scenario: Callable[..., Awaitable[None]], wires: list[Any]) -> Callable[..., None]:
    """Return a test with these wires."""
    own = inspect.signature(scenario).parameters

    async def run(context: ssl.SSLContext | None, **arguments: Any) -> None:
        async with watched_loop(), contextlib.AsyncExitStack() as stack:

            async def start(
                app: WSGIApplication, *, validate: bool = True, executor: Any = None, **options: Any
            ) -> aiowsgi.Server:
                options = {"timeout_graceful": 5.0, "threads": 4, **options}
                app = validator(app) if validate else app
                config = aiowsgi.Config(**options)
                serving = aiowsgi.serve(
                    app, "127.0.0.1", 0, config=config, executor=executor, ssl=context
                )
                return be_patient(await stack.enter_async_context(serving))

            if "start_server" in own:
                arguments["start_server"] = start
            await scenario(**arguments)

    def test(wire: Wire, certificates: Certificates, **arguments: Any) -> None:
        if "certificates" in own:
            arguments["certificates"] = certificates
        token = _spoken.set(certificates.client_context() if wire.tls else None)
        transports = contextlib.nullcontext() if wire.own else transports_of_the_loop()
        try:
            with transports, asyncio.Runner(loop_factory=wire.new_loop) as runner:
                runner.run(run(certificates.server_context() if wire.tls else None, **arguments))
        finally:
            _spoken.reset(token)

    functools.update_wrapper(test, scenario)
    # pytest finds the arguments by the signature: the scenario's own, with the wire and what speaks
    # TLS instead of the server.
    first = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for name in ("wire", "certificates")
    ]
    others = [
        parameter
        for parameter in own.values()
        if parameter.name not in ("start_server", "certificates")
    ]
    test.__signature__ = inspect.Signature([*first, *others])  # type: ignore[attr-defined]
    del test.__wrapped__  # type: ignore[attr-defined]
    parametrized: Callable[..., None] = pytest.mark.parametrize("wire", wires)(test)
    return parametrized
