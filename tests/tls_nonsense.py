"""What a server that speaks TLS may get in place of a handshake, as Hypothesis strategies.

Plain bytes: any server, in memory or behind a socket, can be sent them. None is a whole handshake.
"""

import functools
import ssl

from hypothesis import strategies as st

# Types of records (RFC 8446 §5.1).
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA, HEARTBEAT = range(20, 25)
TLS12 = b"\x03\x03"
# What a record holds at most, and what its ciphertext may be longer than that in TLS 1.2.
RECORD_BYTES = 1 << 14
EXPANSION = 2048


def record(kind: int, payload: bytes, version: bytes = TLS12, length: int | None = None) -> bytes:
    """Return a record, which may say a length that it does not have."""
    size = len(payload) if length is None else length
    return bytes([kind]) + version + size.to_bytes(2, "big") + payload


@functools.cache
def client_hello() -> bytes:
    """Return the record with which a handshake of Python's own begins."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


def hello_message() -> bytes:
    """Return the handshake message in it."""
    return client_hello()[5:]


def in_records(message: bytes, size: int) -> bytes:
    """Return a handshake message in records with so many bytes each."""
    parts = (message[start : start + size] for start in range(0, len(message), size))
    return b"".join(record(HANDSHAKE, part) for part in parts)


def _with_bits_flipped(places: list[int]) -> bytes:
    data = bytearray(client_hello())
    for place in places:
        data[place // 8 % len(data)] ^= 1 << place % 8
    return bytes(data)


_kinds = st.one_of(st.integers(20, 24), st.integers(0, 255))
_versions = st.one_of(
    st.sampled_from([b"\x00\x02", b"\x03\x00", b"\x03\x01", TLS12, b"\x03\x04", b"\x7f\x1c"]),
    st.binary(min_size=2, max_size=2),
)
_lengths = st.sampled_from(
    [0, 1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1, RECORD_BYTES + EXPANSION, 0xFFFF]
)

garbage = st.binary(max_size=600)
truncated = st.integers(0, 10_000).map(lambda end: client_hello()[: end % len(client_hello())])
flipped = st.lists(st.integers(0, 10_000), min_size=1, max_size=8).map(_with_bits_flipped)
records = st.builds(record, _kinds, st.binary(max_size=300), _versions)
long_records = st.builds(
    lambda kind, version, size: record(kind, b"\x01" * size, version), _kinds, _versions, _lengths
)
records_with_wrong_lengths = st.builds(
    record, _kinds, st.binary(max_size=50), _versions, st.integers(0, 0xFFFF)
)
wrong_versions = st.builds(
    lambda outer, inner: record(
        HANDSHAKE, hello_message()[:4] + inner + hello_message()[6:], outer
    ),
    _versions,
    _versions,
)
application_data = st.binary(max_size=100).map(
    lambda data: record(APPLICATION_DATA, b"GET / HTTP/1.1\r\n\r\n" + data)
)
alerts = st.builds(
    lambda level, what, times: record(ALERT, bytes([level, what])) * times,
    st.sampled_from([0, 1, 2, 255]),
    st.integers(0, 255),
    st.integers(1, 40),
)
change_cipher_specs = st.builds(
    lambda payload, times: record(CHANGE_CIPHER_SPEC, payload) * times,
    st.sampled_from([b"\x01", b"", b"\x00", b"\x01\x01"]),
    st.integers(1, 500),
)
empty_records = st.builds(
    lambda kind, times: record(kind, b"") * times, _kinds, st.integers(1, 300)
)
heartbeats = st.integers(0, 0xFFFF).map(
    lambda size: record(HEARTBEAT, b"\x01" + size.to_bytes(2, "big") + b"bleed")
)
tiny_records = st.builds(
    lambda size, end: in_records(hello_message()[: end % len(hello_message())], size),
    st.integers(1, 4),
    st.integers(1, 10_000),
)
# A message that says that it is long, and comes in fragments without end.
long_messages = st.builds(
    lambda kind, size, fragment, times: in_records(
        bytes([kind]) + size.to_bytes(3, "big") + b"\x00" * fragment * times, max(fragment, 1)
    ),
    st.sampled_from([1, 2, 11, 16, 20, 24, 255]),
    st.sampled_from([0, 1 << 14, 1 << 17, (1 << 24) - 1]),
    st.sampled_from([1, 100, RECORD_BYTES]),
    st.integers(1, 4),
)
# SSL 2.0 had another kind of record, with which handshakes of TLS 1.0 could begin, too.
ssl2_hellos = st.binary(max_size=60).map(lambda data: bytes([0x80, len(data) + 1, 1]) + data)
http = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        b"\r\nGET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"get / http/1.0\n\n",
    ]
)

kinds = (
    *(garbage, truncated, flipped, records, long_records, records_with_wrong_lengths),
    *(wrong_versions, application_data, alerts, change_cipher_specs, empty_records, heartbeats),
    *(tiny_records, long_messages, ssl2_hellos, http),
)

# One of them, or several one after the other.
nonsense = st.lists(st.one_of(kinds), min_size=1, max_size=4).map(b"".join)
# What comes behind a ClientHello that is all right.
second_flight = st.lists(
    st.one_of([kind for kind in kinds if kind not in (truncated, http)]), min_size=1, max_size=4
).map(b"".join)
