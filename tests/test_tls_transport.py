"""TLS after the handshake, in memory: what a wire gets and gives, whatever the network does."""

import gc
import ssl
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
from certificates import Certificates
from hypothesis import given
from hypothesis import strategies as st
from memory import ManualTimers

from aiowsgi.bridge.budget import Budget
from aiowsgi.net.tls.session import Session
from aiowsgi.net.tls.transport import TlsTransport

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
each_version = pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
# What is encrypted at a time, with what records add to it.
MOST_ENCRYPTED = (1 << 16) + 1024
# Longer than any of the bounds inside.
LONG = bytes(range(256)) * 4000


class Plain:
    """A plain transport, as strict as that of uvloop. ``capacity`` is what the client takes."""

    def __init__(self) -> None:
        self.protocol: TlsTransport | None = None
        self.capacity: int | None = None
        self.buffer = bytearray()
        self.sent = bytearray()
        self.high: int | None = None
        self.most_held = 0
        self.is_read = True
        self.has_eof = self.was_closed = self.was_aborted = False
        # Whether the client has reset the connection, which shows at the next write.
        self.is_reset = False
        self._paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return f"the {name}"

    def is_closing(self) -> bool:
        return self.was_closed or self.was_aborted

    def write(self, data: bytes) -> None:
        assert data, "nothing is written"
        assert not self.has_eof, "written behind the end"
        assert not self.is_closing(), "written behind the end"
        if self.is_reset:
            self.abort()
            return
        self.buffer += data
        self._send()
        self.most_held = max(self.most_held, len(self.buffer))
        if self.buffer and not self._paused:
            self._paused = True
            assert self.protocol is not None
            self.protocol.pause_writing()

    def take(self, size: int | None) -> None:
        """Let the client take bytes; None is any number, from now on."""
        self.capacity = None if size is None else (self.capacity or 0) + size
        self._send()
        if self._paused and not self.buffer:
            self._paused = False
            assert self.protocol is not None
            self.protocol.resume_writing()

    def _send(self) -> None:
        count = len(self.buffer) if self.capacity is None else self.capacity
        self.sent += self.buffer[:count]
        if self.capacity is not None:
            self.capacity -= len(self.buffer[:count])
        del self.buffer[:count]

    def pause_reading(self) -> None:
        assert not self.is_closing()
        assert self.is_read
        self.is_read = False

    def resume_reading(self) -> None:
        assert not self.is_closing()
        assert not self.is_read
        self.is_read = True

    def write_eof(self) -> None:
        assert not self.is_closing()
        assert not self.has_eof
        self.has_eof = True

    def close(self) -> None:
        self.was_closed = True

    def abort(self) -> None:
        self.was_aborted = True
        self.buffer.clear()


class Wire:
    """What a ``SocketWire`` is to the transport. ``on_data(data)`` is what it does with data."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.portions: list[int] = []
        self.ends = self.losses = 0
        self.holds = False
        self.on_data: Callable[[bytes], None] = lambda data: None

    def connection_made(self, transport: TlsTransport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        assert data
        assert not self.ends
        assert self.transport.is_reading(), "handed on while reading is paused"
        self.received += data
        self.portions.append(len(data))
        self.on_data(data)

    def eof_received(self) -> bool:
        self.ends += 1
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.losses += 1

    def pause_writing(self) -> None:
        assert not self.holds
        self.holds = True

    def resume_writing(self) -> None:
        assert self.holds
        self.holds = False


class Conversation:
    """A client and a server whose handshake is complete. ``behind`` comes with its last bytes."""

    def __init__(
        self,
        certificates: Certificates,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        *,
        behind: bytes = b"",
    ) -> None:
        context = certificates.server_context()
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.maximum_version = version
        self.session = Session(context)
        self._to_client, self._to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = certificates.client_context().wrap_bio(
            self._to_client, self._to_server, server_hostname="localhost"
        )
        self.plain, self.wire, self.timers = Plain(), Wire(), ManualTimers()
        complete = False
        while not complete:
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                if behind:
                    self.client.write(behind)
            self.session.feed(self._to_server.read())
            complete = self.session.handshake()
            if not complete or version is ssl.TLSVersion.TLSv1_2:
                self._to_client.write(self.session.take_output())
        self.budget = Budget(1 << 30)
        self.transport = TlsTransport(
            self.session, cast(Any, self.wire), cast(Any, self.timers), self.budget
        )
        self.plain.protocol = self.transport
        self.transport.connection_made(cast(Any, self.plain))
        if version is ssl.TLSVersion.TLSv1_2:
            self.client.do_handshake()
            if behind:
                self.client.write(behind)
                self.feed(self.take_ciphertext())

    def take_ciphertext(self) -> bytes:
        """Return what the client sends."""
        return self._to_server.read()

    def encrypt(self, data: bytes) -> bytes:
        """Return what the client sends for some bytes."""
        self.client.write(data)
        return self.take_ciphertext()

    def close_notify(self) -> bytes:
        """Return what the client sends to say that it ends."""
        with pytest.raises(ssl.SSLWantReadError):
            self.client.unwrap()
        return self.take_ciphertext()

    def feed(self, data: bytes) -> None:
        """Let bytes arrive, as a transport does: none while it does not read."""
        assert self.plain.is_read
        assert not self.plain.is_closing()
        self.transport.data_received(data)

    def feed_all(self, data: bytes, size: int) -> None:
        """Let bytes arrive a few at a time, each as soon as the server reads."""
        for start in range(0, len(data), size):
            while not self.plain.is_read:
                assert self.timers.ready, "it does not go on"
                self.timers.run_ready()
            self.feed(data[start : start + size])
        self.timers.run_ready()

    def read(self) -> bytes:
        """Return what has arrived at the client, decrypted."""
        self._to_client.write(bytes(self.plain.sent))
        self.plain.sent.clear()
        data = bytearray()
        while True:
            try:
                piece = self.client.read(1 << 16)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                return bytes(data)
            if not piece:
                return bytes(data)
            data += piece

    def has_ended(self) -> bool:
        """Return whether the client has got close_notify, behind what it has read."""
        self.read()
        try:
            return self.client.read(1) == b""
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLZeroReturnError:
            return True


@pytest.fixture
def conversation(certificates: Certificates) -> Conversation:
    return Conversation(certificates)


# Reading.


@each_version
@pytest.mark.parametrize("size", [1, 7, 16_384, 1 << 18])
def test_what_a_client_sends_arrives_however_it_is_split(
    certificates: Certificates, version: ssl.TLSVersion, size: int
) -> None:
    talk = Conversation(certificates, version)
    data = LONG[:2000] if size < 100 else LONG
    talk.feed_all(talk.encrypt(data) + talk.encrypt(b"end"), size)
    assert talk.wire.received == data + b"end"
    assert max(talk.wire.portions) <= (1 << 16) + (1 << 14)


@each_version
def test_what_comes_with_the_handshake_is_read(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    talk = Conversation(certificates, version, behind=b"GET /")
    talk.timers.run_ready()
    assert talk.wire.received == b"GET /"


def test_bytes_that_arrive_although_reading_is_paused_come_behind_the_others(
    conversation: Conversation,
) -> None:
    """Some loops deliver what they had read before."""
    wire, transport = conversation.wire, conversation.transport
    wire.on_data = lambda data: transport.pause_reading()
    conversation.feed(conversation.encrypt(LONG[:200_000]))
    for start in range(200_000, 260_000, 20_000):
        transport.data_received(conversation.encrypt(LONG[start : start + 20_000]))
    assert len(wire.portions) == 1
    wire.on_data = lambda data: None
    transport.resume_reading()
    conversation.timers.run_ready()
    assert wire.received == LONG[:260_000]


def test_others_have_their_turn_between_many_small_records(conversation: Conversation) -> None:
    records = b"".join(conversation.encrypt(b"x") for _ in range(1000))
    conversation.feed(records)
    assert len(conversation.wire.received) == 64
    assert not conversation.plain.is_read, "it reads further ones meanwhile"
    conversation.timers.run_ready()
    assert len(conversation.wire.received) == 1000
    assert conversation.plain.is_read


def test_nothing_is_handed_on_while_reading_is_paused(conversation: Conversation) -> None:
    wire, transport = conversation.wire, conversation.transport
    wire.on_data = lambda data: transport.pause_reading()
    conversation.feed(conversation.encrypt(LONG[:200_000]))
    assert len(wire.portions) == 1
    conversation.timers.run_ready()
    assert len(wire.portions) == 1
    assert not conversation.plain.is_read
    wire.on_data = lambda data: None
    transport.resume_reading()
    assert len(wire.portions) == 1, "it calls back in the midst of a call"
    conversation.timers.run_ready()
    assert wire.received == LONG[:200_000]
    assert conversation.plain.is_read


def test_what_is_not_decrypted_counts_as_memory(conversation: Conversation) -> None:
    data = LONG[: 1 << 18]
    ciphertext = conversation.encrypt(data)
    conversation.wire.on_data = lambda _: conversation.transport.pause_reading()
    conversation.feed(ciphertext)
    # But for one portion, and what OpenSSL has.
    kept = conversation.budget.used
    assert len(ciphertext) - (1 << 17) < kept < len(ciphertext) - (1 << 16)
    conversation.transport.resume_reading()
    conversation.timers.run_ready()
    assert 0 < conversation.budget.used < kept
    conversation.wire.on_data = lambda _: None
    conversation.transport.resume_reading()
    conversation.timers.run_ready()
    assert conversation.wire.received == data
    assert conversation.budget.used == 0


@pytest.mark.parametrize("end", ["close", "abort", "lost"])
def test_memory_of_what_is_not_decrypted_is_free_with_the_end(
    conversation: Conversation, end: str
) -> None:
    ciphertext = conversation.encrypt(LONG[: 1 << 18])
    conversation.wire.on_data = lambda _: conversation.transport.pause_reading()
    conversation.feed(ciphertext)
    assert conversation.budget.used > 0
    if end == "lost":
        conversation.transport.connection_lost(None)
    else:
        getattr(conversation.transport, end)()
    assert conversation.budget.used == 0


def test_end_that_comes_while_reading_is_paused_is_told_later(conversation: Conversation) -> None:
    wire, transport = conversation.wire, conversation.transport
    wire.on_data = lambda data: transport.pause_reading()
    conversation.feed(conversation.encrypt(b"last") + conversation.close_notify())
    conversation.timers.run_ready()
    assert (wire.received, wire.ends) == (b"last", 0)
    transport.resume_reading()
    conversation.timers.run_ready()
    assert wire.ends == 1


@given(
    actions=st.lists(
        st.one_of(
            st.integers(1, 40_000),  # So many bytes arrive.
            st.sampled_from(["send", "pause", "resume", "pass"]),
        ),
        max_size=60,
    ),
    sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=6),
)
def test_everything_arrives_in_order_whatever_is_paused(
    certificates: Certificates, actions: list[Any], sizes: list[int]
) -> None:
    talk = Conversation(certificates)
    data = b"".join(LONG[size : 2 * size] for size in sizes)
    ciphertext, position = talk.encrypt(data) + talk.close_notify(), 0
    for action in [*actions, "resume"]:
        match action:
            case "pass":
                talk.timers.run_ready()
            case "pause":
                talk.transport.pause_reading()
            case "resume":
                talk.transport.resume_reading()
            case int() if talk.plain.is_read:
                piece = ciphertext[position : position + action]
                position += len(piece)
                if piece:
                    talk.feed(piece)
    talk.timers.run_ready()
    talk.feed_all(ciphertext[position:], 1 << 18)
    assert (talk.wire.received, talk.wire.ends) == (data, 1)


def test_nothing_is_written_to_a_client_that_has_reset_the_connection(
    certificates: Certificates,
) -> None:
    talk = Conversation(certificates)
    talk.plain.is_reset = True
    talk.transport.write(LONG)  # It would be several writes.
    assert talk.plain.was_aborted
    # What is not sent is no response that is out.
    assert talk.transport.get_write_buffer_size() > 0
    talk.transport.connection_lost(None)
    assert talk.wire.losses == 1
    assert talk.transport.get_write_buffer_size() == 0


@given(data=st.data())
def test_broken_records_end_the_connection_and_nothing_else(
    certificates: Certificates, data: st.DataObject
) -> None:
    talk = Conversation(certificates)
    first, second = talk.encrypt(b"good"), talk.encrypt(b"bad" * 50)
    position = data.draw(st.integers(0, len(second) - 1))
    broken = bytearray(second)
    broken[position] ^= data.draw(st.integers(1, 255))
    size = data.draw(st.integers(1, 400))
    for start in range(0, len(both := first + bytes(broken)), size):
        if talk.plain.is_closing():
            break
        talk.feed(both[start : start + size])
    talk.timers.run_ready()
    assert talk.wire.received == b"good"
    assert talk.wire.ends == 0
    if not talk.plain.is_closing():  # It waits for the rest of a record that seems to be longer.
        assert position in (3, 4)
        talk.transport.eof_received()
        assert talk.wire.ends == 1
    talk.transport.connection_lost(None)
    assert talk.wire.losses == 1


def test_broken_records_leave_nothing_to_the_garbage_collector(certificates: Certificates) -> None:
    talk = Conversation(certificates)
    transport = weakref.ref(talk.transport)
    gc.collect()
    gc.disable()
    try:
        talk.feed(b"\x17\x03\x03\0\x20" + bytes(32))
        assert talk.plain.is_closing()
        talk.transport.connection_lost(None)
        talk.plain.protocol = None
        del talk
        assert transport() is None
    finally:
        gc.enable()


def test_client_that_changes_its_keys_again_and_again_is_read_only_as_it_reads(
    conversation: Conversation,
) -> None:
    """Each KeyUpdate (RFC 8446 §4.6.3) is answered with one, which has to be sent."""
    plain = conversation.plain
    plain.take(0)
    # The ssl module does not let a client send KeyUpdate. Whatever fills the buffer will do.
    conversation.transport.write(b"x")
    plain.buffer += bytes(300_000)
    conversation.feed(conversation.encrypt(b"more"))
    assert conversation.wire.received == b""
    assert not plain.is_read
    del plain.buffer[1:]
    plain.take(1)
    conversation.timers.run_ready()
    assert conversation.wire.received == b"more"
    assert plain.is_read


# Writing.


@each_version
def test_what_is_written_arrives(certificates: Certificates, version: ssl.TLSVersion) -> None:
    talk = Conversation(certificates, version)
    for size in (1, 16_384, 16_385, len(LONG)):
        talk.transport.write(LONG[:size])
        assert talk.read() == LONG[:size]
    assert talk.transport.get_write_buffer_size() == 0
    assert not talk.wire.holds


def test_no_more_is_encrypted_than_the_kernel_takes(conversation: Conversation) -> None:
    plain, transport = conversation.plain, conversation.transport
    assert plain.high == 0
    plain.take(0)
    transport.write(LONG)
    assert conversation.wire.holds
    assert plain.most_held <= MOST_ENCRYPTED
    assert len(LONG) <= transport.get_write_buffer_size() <= len(LONG) + 1024
    received = b""
    while transport.get_write_buffer_size():
        assert conversation.wire.holds
        plain.take(10_000)
        received += conversation.read()
    assert not conversation.wire.holds
    assert received == LONG
    assert plain.most_held <= MOST_ENCRYPTED


@given(
    actions=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 200_000)),
            st.tuples(st.just("take"), st.integers(1, 100_000)),
        ),
        max_size=30,
    )
)
def test_wire_knows_exactly_whether_anything_is_held(
    certificates: Certificates, actions: list[tuple[str, int]]
) -> None:
    talk = Conversation(certificates)
    talk.plain.take(0)
    written, received = bytearray(), bytearray()
    for action, size in actions:
        if action == "write":
            data = LONG[size : 2 * size]
            written += data
            talk.transport.write(data)
        else:
            talk.plain.take(size)
        received += talk.read()
        assert talk.wire.holds is (talk.transport.get_write_buffer_size() > 0)
        assert len(written) - len(received) <= talk.transport.get_write_buffer_size() + (1 << 14)
        assert talk.plain.most_held <= MOST_ENCRYPTED
    talk.plain.take(None)
    received += talk.read()
    assert received == written
    assert not talk.wire.holds


# Ends.


@each_version
def test_end_of_the_client_is_told_and_its_answer_can_follow(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    talk = Conversation(certificates, version)
    talk.feed(talk.encrypt(b"request") + talk.close_notify())
    assert (talk.wire.received, talk.wire.ends) == (b"request", 1)
    talk.transport.eof_received()  # Of the socket.
    assert talk.wire.ends == 1
    talk.transport.write(LONG)
    assert talk.read() == LONG
    talk.transport.close()
    assert talk.has_ended()
    assert talk.plain.was_closed


def test_what_follows_the_end_of_the_client_is_ignored(conversation: Conversation) -> None:
    more = conversation.close_notify()
    conversation.feed(more + b"garbage")
    conversation.feed(b"garbage")
    assert (conversation.wire.received, conversation.wire.ends) == (b"", 1)
    assert not conversation.plain.is_closing()


@each_version
def test_socket_that_ends_is_the_end_of_the_client(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    talk = Conversation(certificates, version)
    half = talk.encrypt(b"whole") + talk.encrypt(b"cut off")[:-3]
    talk.feed(half)
    assert talk.transport.eof_received() is True
    assert (talk.wire.received, talk.wire.ends) == (b"whole", 1)


def test_half_close_comes_behind_what_is_held_and_reading_goes_on(
    conversation: Conversation,
) -> None:
    plain, transport = conversation.plain, conversation.transport
    plain.take(0)
    transport.write(LONG)
    transport.write_eof()
    transport.write(b"too late")
    assert not plain.has_eof
    conversation.feed(conversation.encrypt(b"still there"))
    assert conversation.wire.received == b"still there"
    plain.take(None)
    assert conversation.read() == LONG
    assert conversation.has_ended()
    assert plain.has_eof
    assert not plain.is_closing()
    conversation.feed(conversation.encrypt(b"and still"))
    assert conversation.wire.received == b"still thereand still"
    transport.close()
    assert plain.was_closed


@pytest.mark.parametrize("sent", ["garbage", "more", "the end"])
def test_nothing_is_sent_behind_a_half_close(conversation: Conversation, sent: str) -> None:
    plain, wire = conversation.plain, conversation.wire
    conversation.transport.write_eof()
    assert plain.has_eof  # What is written now, ``Plain`` refuses.
    assert conversation.has_ended()
    # In the place of an answer to what the client sends, such as an update of its keys.
    conversation.session._outgoing.write(b"answer")
    if sent == "garbage":
        conversation.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert plain.was_closed
    elif sent == "more":
        conversation.feed(conversation.encrypt(b"more"))
        assert wire.received == b"more"
    else:
        conversation.client.unwrap()
        conversation.feed(conversation.take_ciphertext())
        assert wire.ends == 1


def test_close_comes_behind_what_is_held_and_reads_no_more(conversation: Conversation) -> None:
    plain, transport = conversation.plain, conversation.transport
    plain.take(0)
    transport.write(LONG)
    transport.close()
    assert transport.is_closing()
    assert not plain.was_closed
    assert not plain.is_read
    transport.write(b"too late")
    plain.take(None)
    assert conversation.read() == LONG
    assert conversation.has_ended()
    assert plain.was_closed
    transport.close()
    transport.connection_lost(None)
    transport.connection_lost(None)  # As some loops do.
    assert conversation.wire.losses == 1


def test_client_can_tell_that_a_connection_was_cut(conversation: Conversation) -> None:
    conversation.transport.write(b"half")
    conversation.transport.abort()
    assert conversation.plain.was_aborted
    assert conversation.read() == b"half"
    assert not conversation.has_ended()
    conversation.transport.write(b"more")
    conversation.transport.write_eof()
    conversation.transport.close()
    assert conversation.transport.get_write_buffer_size() == 0


def test_wire_may_end_the_connection_in_the_midst_of_data(conversation: Conversation) -> None:
    for end in (conversation.transport.close, conversation.transport.abort):
        conversation.wire.on_data = lambda data, end=end: end()  # type: ignore[misc]
        if not conversation.transport.is_closing():
            conversation.feed(conversation.encrypt(LONG[:200_000]))
        conversation.timers.run_ready()
        assert len(conversation.wire.portions) == 1


def test_exception_of_the_wire_behind_a_pause_cuts_the_connection(
    conversation: Conversation,
) -> None:
    def fail(data: bytes) -> None:
        raise MemoryError

    conversation.transport.pause_reading()
    conversation.transport.data_received(conversation.encrypt(b"data"))
    conversation.wire.on_data = fail
    conversation.transport.resume_reading()
    with pytest.raises(MemoryError):
        conversation.timers.run_ready()
    assert conversation.plain.was_aborted


def test_transport_tells_what_it_is(conversation: Conversation) -> None:
    transport = conversation.transport
    assert transport.get_extra_info("sslcontext") is conversation.session.object.context
    assert transport.get_extra_info("ssl_object") is conversation.session.object
    assert transport.get_extra_info("peername") == "the peername"
    assert transport.can_write_eof()
