"""Whatever comes in place of a handshake costs little, reaches no application, and ends."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx
import pytest
import tls_nonsense
from certificates import Certificates
from extent import examples, representative
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import MemoryServer
from served_process import ANSWER, PATIENCE, served
from slow_clients import LOOPS
from tls_nonsense import (
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    RECORD_BYTES,
    client_hello,
    in_records,
    nonsense,
    record,
    second_flight,
)

from aiowsgi.connection.states import LINGER_TIMEOUT
from aiowsgi.net.tls.handshake import TlsTerms
from aiowsgi.net.transport import SocketWire

TIMEOUT = 10.0
# More than a server ever says in a handshake that does not come to its end.
SAID = 8 << 10


class MemoryTransport(asyncio.Transport):
    """The plain transport below TLS. The client takes everything, and says what it is told to."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__()
        self._timers = server.timers
        self.sent = bytearray()
        self.reading = True
        self.wrote_eof = False
        self.ended = False
        self._closing = False

    def begin(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    def receive(self, data: bytes) -> None:
        """Let bytes arrive, unless the server has closed."""
        assert self.reading
        if not self._closing:
            self._protocol.data_received(data)
        self._timers.run_ready()

    def receive_end(self) -> None:
        """Let the client's end arrive. Where the server has closed, nothing does."""
        if not self._closing and not self._protocol.eof_received():
            self.close()
        self._timers.run_ready()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 443) if name == "sockname" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: Any) -> None:
        if not self._closing:
            self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.wrote_eof = True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._timers.call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def _lose(self) -> None:
        self.ended = True
        self._protocol.connection_lost(None)


def unreachable(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    raise AssertionError("the application is asked")


class Visit:
    """A connection to a server that speaks TLS, in memory."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.server = MemoryServer(unreachable, timeout_handshake=TIMEOUT)
        terms = TlsTerms(self.server.shared, lambda _: context, self.loop)
        # It is asked for its name only: the transport is in memory.
        self.socket = socket.socket()
        wire = SocketWire(
            self.server.shared, self.server.codec, self.socket, ("127.0.0.1", 50000), self.loop
        )
        self.transport = MemoryTransport(self.server)
        self.transport.begin(terms.step(self.socket, wire))

    @property
    def loop(self) -> Any:
        return self.server.timers

    @property
    def is_over(self) -> bool:
        """Whether nothing that the client sends is looked at any more."""
        return self.transport.is_closing() or self.transport.wrote_eof

    def end(self) -> None:
        """Let the time of the handshake pass; see that nothing of the connection is left."""
        self.server.timers.advance(TIMEOUT + LINGER_TIMEOUT + 1)
        assert self.transport.ended
        assert self.server.disconnects == 1
        assert not self.server.shared.connections
        assert not self.server.timers.pending
        assert not self.server.pool.jobs
        assert self.server.resources.budget.used == 0
        assert len(self.transport.sent) <= SAID
        self.socket.close()


def split(data: bytes, places: list[int]) -> Iterator[bytes]:
    """Return the parts between these places, as far as they are in the data."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)} - {0})
    start = 0
    for end in ends:
        if end > start:
            yield data[start:end]
        start = end


_places = st.lists(st.integers(0, 1 << 20), max_size=5)


@pytest.fixture(scope="module")
def context(certificates: Certificates) -> ssl.SSLContext:
    return certificates.server_context()


@given(data=nonsense, places=_places, leaves=st.booleans())
def test_nonsense_ends_or_waits_for_the_timeout(
    context: ssl.SSLContext, data: bytes, places: list[int], leaves: bool
) -> None:
    visit = Visit(context)
    for piece in split(data, places):
        visit.transport.receive(piece)
    if leaves:
        visit.transport.receive_end()
        assert visit.transport.ended
    visit.end()


@given(data=second_flight, places=_places, leaves=st.booleans())
def test_nonsense_behind_a_good_beginning_does_so_too(
    context: ssl.SSLContext, data: bytes, places: list[int], leaves: bool
) -> None:
    visit = Visit(context)
    visit.transport.receive(client_hello())
    assert visit.transport.sent[0] == HANDSHAKE
    for piece in split(data, places):
        visit.transport.receive(piece)
    if leaves:
        visit.transport.receive_end()
        assert visit.transport.ended
    visit.end()


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_handshake_in_tiny_records_is_a_handshake(context: ssl.SSLContext, size: int) -> None:
    visit = Visit(context)
    whole = in_records(tls_nonsense.hello_message(), size)
    for start in range(0, len(whole), 7):
        visit.transport.receive(whole[start : start + 7])
    assert visit.transport.sent[0] == HANDSHAKE
    visit.end()


FLOODS = {
    "empty records": record(HANDSHAKE, b""),
    "fragments of a message that is said to be long": record(HANDSHAKE, b"\x01\xff\xff\xff" * 4096),
    "messages of an unknown kind": record(HANDSHAKE, b"\xee\x00\x00\x01\x00"),
    "requests to hello": record(HANDSHAKE, b"\x00\x00\x00\x00"),
    "application data": record(APPLICATION_DATA, bytes(RECORD_BYTES)),
    "change of ciphers": record(CHANGE_CIPHER_SPEC, b"\x01"),
    "warnings": record(tls_nonsense.ALERT, b"\x01\x5a"),
    "heartbeats": record(tls_nonsense.HEARTBEAT, b"\x01\x40\x00x"),
    "zeros": bytes(1 << 14),
    "letters": b"A" * (1 << 14),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("behind", [b"", client_hello()], ids=["first", "behind a hello"])
def test_no_flood_lasts(context: ssl.SSLContext, flood: bytes, behind: bytes) -> None:
    """Before its handshake, a client may send about 128 KiB: the longest hello there is."""
    visit = Visit(context)
    if behind:
        visit.transport.receive(behind)
    answered = len(visit.transport.sent)
    arrived = 0
    while not visit.is_over and arrived < 1 << 20:
        data = flood * max(1, (1 << 14) // len(flood))
        visit.transport.receive(data)
        arrived += len(data)
    assert arrived <= 192 << 10
    # Every alert is said once.
    assert len(visit.transport.sent) - answered < 1 << 10
    visit.end()


# Behind the handshake.


class Guest:
    """A client in memory that has shaken hands with the server of a visit."""

    def __init__(self, visit: Visit, context: ssl.SSLContext) -> None:
        self.visit = visit
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._taken = 0
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.exchange()
        self.exchange()

    def exchange(self, size: int = 1 << 16) -> None:
        """Let what both ends have to say arrive, ``size`` bytes of the client's at a time."""
        while self._outgoing.pending:
            self.visit.transport.receive(self._outgoing.read(size))
        sent = self.visit.transport.sent
        self._incoming.write(sent[self._taken :])
        self._taken = len(sent)

    def sealed(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._outgoing.read()


@pytest.fixture(scope="module", params=["1.2", "1.3"])
def guest_context(request: pytest.FixtureRequest, certificates: Certificates) -> ssl.SSLContext:
    client = certificates.client_context()
    version = ssl.TLSVersion.TLSv1_2 if request.param == "1.2" else ssl.TLSVersion.TLSv1_3
    client.minimum_version = client.maximum_version = version
    return client


@given(data=st.one_of(nonsense, second_flight), places=_places)
def test_nonsense_behind_the_handshake_ends_the_connection_or_waits(
    context: ssl.SSLContext, guest_context: ssl.SSLContext, data: bytes, places: list[int]
) -> None:
    visit = Visit(context)
    Guest(visit, guest_context)
    for piece in split(data, places):
        visit.transport.receive(piece)
    visit.server.timers.advance(100)  # The time that idle connections have.
    visit.end()


@given(place=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_a_record_that_was_changed_on_its_way_is_no_request(
    context: ssl.SSLContext, guest_context: ssl.SSLContext, place: int, bit: int
) -> None:
    visit = Visit(context)
    guest = Guest(visit, guest_context)
    data = bytearray(guest.sealed(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    data[place % len(data)] ^= 1 << bit
    visit.transport.receive(bytes(data))
    visit.server.timers.advance(100)
    visit.end()


@pytest.mark.parametrize(
    "flood",
    [
        record(CHANGE_CIPHER_SPEC, b"\x01"),
        record(APPLICATION_DATA, b""),
        record(HANDSHAKE, b""),
        record(tls_nonsense.ALERT, b"\x01\x5a"),
    ],
    ids=["change of ciphers", "empty records", "empty handshakes", "warnings"],
)
def test_no_flood_lasts_behind_the_handshake(
    context: ssl.SSLContext, guest_context: ssl.SSLContext, flood: bytes
) -> None:
    visit = Visit(context)
    Guest(visit, guest_context)
    for _ in range(64):
        visit.transport.receive(flood * 200)
        if visit.is_over:
            break
    assert visit.is_over
    visit.end()


def test_a_request_in_front_of_nonsense_is_the_clients_own(
    context: ssl.SSLContext, guest_context: ssl.SSLContext
) -> None:
    visit = Visit(context)
    guest = Guest(visit, guest_context)
    request = guest.sealed(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    visit.transport.receive(request + record(APPLICATION_DATA, b"x" * 100))
    assert len(visit.server.pool.jobs) == 1
    # But there is nobody to answer it to.
    assert visit.transport.is_closing()
    visit.socket.close()


# Over sockets.


@pytest.fixture(scope="module", params=representative(LOOPS, LOOPS[-1]))
def port(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    """Return the port of a server whose application says hello."""
    options = ["--certfile", certificates.site, "--timeout-handshake", "0.3"]
    folder: Path = tmp_path_factory.mktemp("served")
    with served(folder, ANSWER, *options, "--loop", request.param) as server:
        yield int(server.said(r" Serving .* at https://127\.0\.0\.1:(\d+) ")[1])
        assert server.stop() == 0


def visit_over_a_socket(port: int, data: bytes) -> bytes:
    """Send bytes, and wait for the server's end; return what it said."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        said = bytearray()
        # It may reset a connection of which it has not read everything.
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            while received := sock.recv(1 << 16):
                said += received
    return bytes(said)


@settings(max_examples=examples(200))
@given(data=st.one_of(nonsense, second_flight.map(lambda data: client_hello() + data)))
def test_a_server_goes_on_whatever_it_is_sent(
    port: int, certificates: Certificates, data: bytes
) -> None:
    context = certificates.client_context()
    said = visit_over_a_socket(port, data)
    assert len(said) <= SAID
    assert b"hello" not in said
    with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as client:
        assert client.get(f"https://localhost:{port}/").text == "hello"
