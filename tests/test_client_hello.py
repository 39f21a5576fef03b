"""The first message of TLS: which server a client asks for, whatever the bytes look like."""

import ssl
import struct
from collections.abc import Sequence

import pytest
from extent import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from aiowsgi.net.tls import client_hello
from aiowsgi.net.tls.client_hello import ClientHello

HOSTS = st.from_regex(
    r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z][a-z0-9]{0,10}){1,4}", fullmatch=True
)


def hello_of(
    host: str | None,
    versions: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    *,
    offered: Sequence[str] = (),
) -> bytes:
    """Return what OpenSSL sends as a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if offered:
        context.set_alpn_protocols(offered)
    context.check_hostname = False
    context.maximum_version = versions
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def read(*pieces: bytes) -> tuple[bool, str | None]:
    """Return whether the last piece has completed the message, and the name."""
    hello = ClientHello()
    complete = False
    for piece in pieces:
        assert not complete
        complete = hello.feed(piece)
    assert hello.received == b"".join(pieces)
    return complete, hello.server_name


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("host", ["shop.example", "xn--bcher-kva.example", None, "192.0.2.1"])
def test_the_name_that_a_client_sends_is_read(version: ssl.TLSVersion, host: str | None) -> None:
    sent = None if host == "192.0.2.1" else host
    assert read(hello_of(host, version)) == (True, sent)


@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["acme-tls/1"], []])
def test_what_a_client_offers_to_speak_is_read(offered: list[str]) -> None:
    hello = ClientHello()
    assert hello.feed(hello_of("shop.example", offered=offered))
    assert hello.application_protocols == tuple(name.encode() for name in offered)
    assert hello.server_name == "shop.example"


@settings(max_examples=examples(200))
@given(HOSTS, st.data())
def test_it_does_not_matter_in_which_pieces_and_records_it_comes(
    host: str, data: st.DataObject
) -> None:
    message = hello_of(host)[5:]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(message) - 1), max_size=5)))
    parts = [message[a:b] for a, b in zip([0, *cuts], [*cuts, len(message)], strict=True)]
    sent = b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in parts)
    assert read(sent) == (True, host)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=5)))
    pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert read(*pieces) == (True, host)
    assert read(sent[:-1]) == (False, None)


@settings(max_examples=examples(1000))
@given(st.data())
def test_whatever_a_client_sends_is_taken(data: st.DataObject) -> None:
    sent = bytearray(hello_of("shop.example"))
    for _ in range(data.draw(st.integers(0, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    name = read(bytes(sent))[1]
    assert name is None or name.isascii()


@given(st.binary(max_size=300))
def test_any_bytes_are_taken(sent: bytes) -> None:
    read(sent)
    read(b"\x16\x03\x01" + struct.pack(">H", len(sent)) + sent)
    message = b"\x01" + struct.pack(">I", len(sent))[1:] + sent
    assert read(b"\x16\x03\x01" + struct.pack(">H", len(message)) + message)[0]


def with_name(name: bytes, kind: int = 0) -> bytes:
    """Return a ClientHello that has nothing but a name."""
    entry = bytes([kind]) + struct.pack(">H", len(name)) + name
    names = struct.pack(">H", len(entry)) + entry
    extension = struct.pack(">HH", 0, len(names)) + names
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    body += struct.pack(">H", len(extension)) + extension
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack(">H", len(message)) + message


def test_names_of_another_kind_and_no_names_are_none() -> None:
    assert read(with_name(b"a.example")) == (True, "a.example")
    assert read(with_name(b"a.example", kind=1)) == (True, None)
    assert read(with_name(b"")) == (True, None)
    assert read(with_name("bücher.example".encode())) == (True, None)
    assert read(with_name(b"a\nb")) == (True, "a\nb")


def test_what_is_no_handshake_is_not_waited_for() -> None:
    assert read(b"GET / HTTP/1.1\r\n") == (True, None)
    assert read(b"\x16\x02\x01\0\5")[0]
    assert read(b"\x16\x03\x01\0\0")[0]  # An empty record.
    assert read(b"\x16\x03\x01\xff\xff")[0]  # A record that is too long.
    assert read(b"\x16\x03\x01\0\4\2\0\0\0")[0]  # Another message.
    assert read(b"\x16\x03\x01\0\4\1\xff\xff\xff")[0]  # One that is too long.
    assert not read(b"\x16\x03\x01\0")[0]


def test_only_so_much_is_waited_for_in_whatever_records() -> None:
    message = b"\x01\0\x80\0" + bytes(1 << 15)
    small = [b"\x16\x03\x01\0\1" + message[place : place + 1] for place in range(64)]
    assert read(*small)[0]
    assert read(b"".join(small) + b"\x16\x03\x01\0\1\0")[0]
    assert not read(*small[:-1])[0]
    # Those that are not small make the message long enough to be complete, or too long.
    large = [message[:16384], message[16384:32768], message[32768:]]
    records = [b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in large]
    assert read(*records)[0]
    assert not read(*records[:-1])[0]


def with_extensions(*extensions: tuple[int, bytes]) -> bytes:
    """Return a ClientHello that has these, in as many records as it takes."""
    content = b"".join(
        struct.pack(">HH", kind, len(content)) + content for kind, content in extensions
    )
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    body += struct.pack(">H", len(content)) + content
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body
    parts = [message[start : start + 16384] for start in range(0, len(message), 16384)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in parts)


NAME = (0, b"\0\x0c\0\0\x09a.example")


def test_what_has_more_than_any_client_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The loop looks at each, and a message has room for tens of thousands.
    steps = 0
    vector = client_hello._vector

    def counting(data: bytes, width: int) -> tuple[bytes, bytes]:
        nonlocal steps
        steps += 1
        return vector(data, width)

    monkeypatch.setattr(client_hello, "_vector", counting)
    protocols = b"\1a" * 16000
    offer = (16, struct.pack(">H", len(protocols)) + protocols)
    for extensions in (
        [offer],
        [NAME] * 2000,
        [(kind, b"") for kind in range(100, 8000)],
        [(16, b"\0\x64" + b"\1a" * 50)] * 300,
    ):
        steps = 0
        assert read(with_extensions(*extensions))[0]
        assert steps < 250
    assert read(with_extensions(offer, NAME)) == (True, "a.example")
    # One that is there twice is refused by OpenSSL, whichever of them is read here.
    assert read(with_extensions(NAME, (0, b""))) == (True, "a.example")
