"""Headers of the PROXY protocol as a proxy writes them: the other half of what is read."""

import socket
import struct

SIGNATURE = bytes.fromhex("0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A")
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UDP6, UNIX_STREAM, UNIX_DGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
SSL_VERSION, SSL_CN, SSL_CIPHER, SSL_SIG_ALG, SSL_KEY_ALG = range(0x21, 0x26)
CLIENT_SSL, CERT_CONN, CERT_SESS = 1, 2, 4


def line(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    """Return a header of version 1."""
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {source_port} {destination_port}\r\n".encode()


def addresses(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    """Return the addresses of a header of version 2, for TCP4, TCP6, UDP4 and UDP6."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    packed = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    return packed + struct.pack("!HH", source_port, destination_port)


def unix(source: bytes, destination: bytes) -> bytes:
    """Return the addresses of a header of version 2 for Unix sockets."""
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


def tlv(kind: int, value: bytes) -> bytes:
    """Return one vector of type, length and value."""
    return struct.pack("!BH", kind, len(value)) + value


def ssl(client: int = CLIENT_SSL, verify: int = 0, *vectors: bytes) -> bytes:
    """Return the vector that tells of TLS."""
    return tlv(SSL, struct.pack("!BI", client, verify) + b"".join(vectors))


def binary(
    block: bytes = b"", *vectors: bytes, family: int = UNSPEC, command: int = PROXY
) -> bytes:
    """Return a header of version 2: addresses, and what comes behind them."""
    block += b"".join(vectors)
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def binary_tcp(*vectors: bytes, source: str = "192.0.2.1", port: int = 56324) -> bytes:
    """Return a header of version 2 of a client that has connected to port 443 of a proxy."""
    is_ipv6 = ":" in source
    block = addresses(source, "2001:db8::2" if is_ipv6 else "192.0.2.2", port, 443)
    return binary(block, *vectors, family=TCP6 if is_ipv6 else TCP4)


def crc32c(data: bytes) -> int:
    """Return the checksum bit by bit, as its definition says."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def with_checksum(header: bytes) -> bytes:
    """Return a header of version 2 with a checksum behind everything."""
    size = int.from_bytes(header[14:16]) + 7
    longer = header[:14] + size.to_bytes(2) + header[16:] + tlv(CRC32C, bytes(4))
    return longer[:-4] + crc32c(longer).to_bytes(4)
