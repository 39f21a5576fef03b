"""The header of the PROXY protocol: the examples of its specification, and what is none."""

import socket
from collections.abc import Iterable
from typing import Any

import proxy_headers as make
import pytest
from extent import examples
from grouped import in_one_test
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiowsgi.net.proxy_protocol.crc32c import crc32c
from aiowsgi.net.proxy_protocol.header import MAX_SIZE, Header, parse
from aiowsgi.net.proxy_protocol.malformed import Malformed

REQUEST = b"GET / HTTP/1.1\r\nHost: 192.168.0.11\r\n\r\n"
# The TLS of an ordinary client, as HAProxy tells it.
VERSION = make.tlv(make.SSL_VERSION, b"TLSv1.3")
CIPHER = make.tlv(make.SSL_CIPHER, b"ECDHE-RSA-AES128-GCM-SHA256")
NAME = make.tlv(make.SSL_CN, b"example.com")
BLOCK = make.addresses("192.0.2.1", "192.0.2.2", 1, 2)


def read(data: bytes) -> Header:
    header = parse(data)
    assert header is not None, "it is not complete"
    return header


def told(*vectors: bytes) -> dict[str, str] | None:
    """Return what a header with these vectors adds to the environ."""
    tls = read(make.binary_tcp(*vectors)).tls
    return None if tls is None else dict(tls.variables())


class TestTheSpecification:
    def test_example_before_a_request_names_both_ends(self) -> None:
        # §2.1.
        header = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
        ends = ("192.168.0.1", "56324"), ("192.168.0.11", "443")
        assert read(header + REQUEST) == (len(header), *ends, None, False)

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535", 56),
            (f"PROXY TCP6 {':'.join(['ffff'] * 8)} {':'.join(['ffff'] * 8)} 65535 65535", 104),
            ("PROXY UNKNOWN", 15),
            (f"PROXY UNKNOWN {':'.join(['ffff'] * 8)} {':'.join(['ffff'] * 8)} 65535 65535", 107),
        ],
    )
    def test_longest_lines_are_read(self, text: str, size: int) -> None:
        # §2.1, "The maximum line lengths".
        assert read(text.encode() + b"\r\n" + REQUEST).size == size

    @pytest.mark.parametrize(
        ("family", "block", "source", "destination"),
        [
            (0x00, b"", None, None),
            (0x11, BLOCK, ("192.0.2.1", "1"), ("192.0.2.2", "2")),
            (0x12, BLOCK, ("192.0.2.1", "1"), ("192.0.2.2", "2")),
            (
                0x21,
                make.addresses("::1", "2001:db8::", 0, 65535),
                ("::1", "0"),
                ("2001:db8::", "65535"),
            ),
            (
                0x22,
                make.addresses("::1", "2001:db8::", 0, 65535),
                ("::1", "0"),
                ("2001:db8::", "65535"),
            ),
            (0x31, make.unix(b"/run/a", b"\0b"), ("", ""), None),
            (0x32, make.unix(b"", b""), ("", ""), None),
        ],
    )
    def test_protocol_bytes_that_are_expected_are_read(
        self, family: int, block: bytes, source: object, destination: object
    ) -> None:
        # §2.2, "In practice".
        header = make.binary(block, family=family)
        assert read(header + REQUEST) == (16 + len(block), source, destination, None, False)

    @pytest.mark.parametrize("family", [0x01, 0x02, 0x10, 0x20, 0x30])
    @pytest.mark.parametrize("block", [b"", BLOCK, b"\xff" * 5])
    def test_addresses_are_ignored_where_family_or_transport_are_unspecified(
        self, family: int, block: bytes
    ) -> None:
        assert read(make.binary(block, family=family)) == (16 + len(block), None, None, None, False)

    @pytest.mark.parametrize("block", [b"", BLOCK, b"\xff" * 500])
    @pytest.mark.parametrize("family", [0x00, 0x11, 0x21, 0x31, 0xFF])
    def test_everything_but_the_length_of_a_local_connection_is_discarded(
        self, family: int, block: bytes
    ) -> None:
        header = make.binary(block, family=family, command=make.LOCAL)
        assert read(header + REQUEST) == (16 + len(block), None, None, None, True)

    @pytest.mark.parametrize("rest", ["", " ", " whatever", " a\rb\nc", " \x00\xff", "  TCP4"])
    def test_rest_of_a_line_of_an_unknown_connection_is_ignored(self, rest: str) -> None:
        header = b"PROXY UNKNOWN" + rest.encode("latin-1") + b"\r\n"
        assert read(header + b"\r\n") == (len(header), None, None, None, False)

    def test_both_versions_are_told_apart_by_their_first_bytes(self) -> None:
        source = ("192.0.2.1", "56324")
        assert read(make.line("192.0.2.1", "192.0.2.2", 56324, 443)).source == source
        assert read(make.binary_tcp()).source == source

    def test_names_of_its_examples_are_read(self) -> None:
        # §2.2.6.
        others = make.tlv(make.SSL_SIG_ALG, b"SHA256"), make.tlv(make.SSL_KEY_ALG, b"RSA2048")
        client = make.CLIENT_SSL | make.CERT_CONN
        assert told(make.ssl(client, 0, VERSION, CIPHER, *others, NAME)) == {
            "HTTPS": "on",
            "SSL_PROTOCOL": "TLSv1.3",
            "SSL_CIPHER": "ECDHE-RSA-AES128-GCM-SHA256",
            "SSL_CLIENT_VERIFY": "SUCCESS",
            "SSL_CLIENT_S_DN_CN": "example.com",
        }


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("::", "::"),
            ("::1", "::1"),
            ("0:0:0:0:0:0:0:1", "::1"),
            ("2001:DB8::A", "2001:db8::a"),
            ("2001:0db8:0000:0000:0000:0000:0000:000a", "2001:db8::a"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
            ("::ffff:c000:201", "::ffff:192.0.2.1"),
        ],
    )
    def test_ipv6_is_told_as_of_a_direct_connection(self, text: str, canonical: str) -> None:
        assert read(f"PROXY TCP6 {text} ::1 1 2\r\n".encode()).source == (canonical, "1")

    @pytest.mark.parametrize(
        "text", ["0.0.0.0", "255.255.255.255", "10.20.199.249", "9.99.100.200"]
    )
    def test_ipv4_is_told_as_it_is_written(self, text: str) -> None:
        assert read(f"PROXY TCP4 {text} 1.2.3.4 0 65535\r\n".encode()).source == (text, "0")


class TestExtensions:
    def test_those_that_are_not_used_are_skipped(self) -> None:
        assert (
            told(
                make.tlv(make.ALPN, b"h2"),
                make.tlv(make.NOOP, b""),
                make.tlv(make.NOOP, bytes(100)),
                make.tlv(make.UNIQUE_ID, bytes(128)),
                make.tlv(make.NETNS, b"blue"),
                # Those of AWS and of Azure, and one that is not registered.
                make.tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9"),
                make.tlv(0xEE, b"\x01\x12\x34\x56\x78"),
                make.tlv(0xFF, b"?"),
                make.tlv(make.AUTHORITY, b"shop.test"),
            )
            is None
        )

    def test_client_that_speaks_no_tls_has_none(self) -> None:
        assert told(make.ssl(0, 1)) is None
        assert told(make.ssl(make.CERT_CONN, 0, VERSION, NAME)) is None

    def test_client_that_speaks_tls_has_what_is_told_and_no_more(self) -> None:
        # HAProxy says that the certificate was verified also where there is none.
        assert told(make.ssl()) == {"HTTPS": "on", "SSL_CLIENT_VERIFY": "NONE"}
        assert told(make.ssl(), make.tlv(make.AUTHORITY, b"shop.test")) == {
            "HTTPS": "on",
            "SSL_CLIENT_VERIFY": "NONE",
            "SSL_TLS_SNI": "shop.test",
        }

    def test_tls_is_told_where_addresses_are_not(self) -> None:
        tls = read(make.binary(b"", make.ssl(1, 0, VERSION))).tls
        assert tls is not None
        assert tls.variables()["SSL_PROTOCOL"] == "TLSv1.3"

    @pytest.mark.parametrize("presented", [make.CERT_CONN, make.CERT_SESS, 6])
    def test_name_of_a_certificate_is_told_where_it_was_verified(self, presented: int) -> None:
        client = make.CLIENT_SSL | presented
        good, bad = told(make.ssl(client, 0, NAME)), told(make.ssl(client, 10, NAME))
        assert good == {
            "HTTPS": "on",
            "SSL_CLIENT_VERIFY": "SUCCESS",
            "SSL_CLIENT_S_DN_CN": "example.com",
        }
        assert bad == {"HTTPS": "on", "SSL_CLIENT_VERIFY": "FAILED:10"}
        # A name without a certificate is nobody's.
        assert told(make.ssl(1, 0, NAME)) == {"HTTPS": "on", "SSL_CLIENT_VERIFY": "NONE"}

    def test_names_are_told_as_the_environ_has_text(self) -> None:
        name = "Zoë".encode()
        variables = told(make.ssl(3, 0, make.tlv(make.SSL_CN, name)))
        assert variables is not None
        assert variables["SSL_CLIENT_S_DN_CN"].encode("latin-1") == name

    def test_checksum_is_that_of_the_standard(self) -> None:
        # RFC 3720, Appendix B.4, which has the same checksum, with the order of its bytes there.
        assert crc32c(b"123456789") == 0xE3069283
        assert crc32c(bytes(32)) == 0x8A9136AA
        assert crc32c(b"\xff" * 32) == 0x62A8AB43
        assert crc32c(bytes(range(32))) == 0x46DD794E

    def test_header_with_the_right_checksum_is_read_wherever_that_stands(self) -> None:
        assert read(make.with_checksum(make.binary_tcp())).source == ("192.0.2.1", "56324")
        header = make.binary_tcp(make.tlv(make.CRC32C, bytes(4)), make.ssl())
        header = header[:31] + make.crc32c(header).to_bytes(4) + header[35:]
        assert read(header).tls is not None

    def test_every_bit_that_has_changed_is_found_by_the_checksum(self) -> None:
        header = make.with_checksum(make.binary_tcp(make.tlv(make.NOOP, b"abc")))
        for bit in range(16 * 8, len(header) * 8):
            changed = bytearray(header)
            changed[bit // 8] ^= 1 << bit % 8
            # Unless the checksum itself, or where it stands, is not where it was.
            if not 28 * 8 <= bit < 31 * 8 and not 34 * 8 <= bit < 37 * 8:
                with pytest.raises(Malformed, match="checksum"):
                    parse(changed)


def _lines() -> Iterable[bytes]:
    for text in (
        "PROXY ",
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2",
        "PROXY TCP",
        "PROXY TCP4",
        "PROXY TCP4 ",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2",
        "PROXY tcp4 1.2.3.4 1.2.3.4 1 2",
        "PROXY UDP4 1.2.3.4 1.2.3.4 1 2",
        "PROXY UNIX /a /b",
        "PROXY unknown",
        "PROXY UNKNOWNS",
        "PROXY UNKNOWN\t",
        # Words too few, too many, or with more between them.
        "PROXY TCP4 1.2.3.4",
        "PROXY TCP4 1.2.3.4 1.2.3.4",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 ",
        "PROXY TCP4  1.2.3.4 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.4  1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4  1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1  2",
        "PROXY TCP4\t1.2.3.4 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\t2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\0",
        # Addresses of IPv4.
        "PROXY TCP4 1.2.3 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.4.5 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.4. 1.2.3.4 1 2",
        "PROXY TCP4 1.2..4 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.256 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.04 1.2.3.4 1 2",
        "PROXY TCP4 00.2.3.4 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.+4 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.-4 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.0x4 1.2.3.4 1 2",
        "PROXY TCP4 16909060 1.2.3.4 1 2",
        "PROXY TCP4 1.2.3.4 localhost 1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4/32 1 2",
        "PROXY TCP4 1.2.3.\u0664 1.2.3.4 1 2",
        "PROXY TCP4 ::1 ::1 1 2",
        "PROXY TCP4 1.2.3.4 ::1 1 2",
        # Addresses of IPv6.
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2",
        "PROXY TCP6 ::1 1.2.3.4 1 2",
        "PROXY TCP6 : ::1 1 2",
        "PROXY TCP6 ::: ::1 1 2",
        "PROXY TCP6 1::2::3 ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2",
        "PROXY TCP6 1:2:3:4:5:6:7: ::1 1 2",
        "PROXY TCP6 12345::1 ::1 1 2",
        "PROXY TCP6 g::1 ::1 1 2",
        "PROXY TCP6 fe80::1%lo ::1 1 2",
        "PROXY TCP6 [::1] ::1 1 2",
        "PROXY TCP6 ::1/128 ::1 1 2",
        "PROXY TCP6 ::ffff:1.2.3 ::1 1 2",
        "PROXY TCP6 ::ffff:1.2.3.256 ::1 1 2",
        "PROXY TCP6 ::1.2.3.4:5 ::1 1 2",
        # Ports.
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 99999 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 100000 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 00 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1.0 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 0x1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1e1 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1_0 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 http 2",
        "PROXY TCP4 1.2.3.4 1.2.3.4 \u0661 2",
    ):
        yield text.encode() + b"\r\n"


MALFORMED: list[bytes] = [
    # Something else.
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\n",
    b"PROPFIND / HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b" PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"\r\nPROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXYTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n\r\n\0\r\nQUIT\r",
    b"\r\n\r\nGET / HTTP/1.1\r\n",
    *_lines(),
    # A line that does not end, or not within its size.
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n" + bytes(107),
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r" + bytes(107),
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY UNKNOWN " + b"x" * 200,
    # Versions, commands, families and transports that there are not.
    *(make.binary(BLOCK, family=0x11, command=command) for command in (0x01, 0x11, 0x31, 0xF1)),
    *(make.binary(BLOCK, family=0x11, command=command) for command in (0x22, 0x23, 0x2F)),
    *(make.binary(BLOCK, family=family) for family in (0x03, 0x0F, 0x13, 0x1F, 0x23, 0x33)),
    *(make.binary(bytes(216), family=family) for family in (0x40, 0x41, 0x52, 0xF1, 0xFF)),
    # Too short for their addresses, and too long for anything.
    *(make.binary(bytes(size), family=0x11) for size in (0, 1, 4, 11)),
    *(make.binary(bytes(size), family=0x12) for size in (0, 11)),
    *(make.binary(bytes(size), family=0x21) for size in (0, 12, 35)),
    *(make.binary(bytes(size), family=0x22) for size in (0, 35)),
    *(make.binary(bytes(size), family=0x31) for size in (0, 36, 215)),
    make.binary(bytes(MAX_SIZE - 15), family=0x11),
    make.binary(bytes(65535), family=0x11),
    make.binary(bytes(65535), family=0x00, command=make.LOCAL),
    # Extensions that do not end where the header does.
    make.binary_tcp(b"\x04"),
    make.binary_tcp(b"\x04\x00"),
    make.binary_tcp(b"\x04\x00\x01"),
    make.binary_tcp(b"\x04\xff\xff"),
    make.binary_tcp(make.tlv(make.NOOP, b"abc")[:-1]),
    make.binary_tcp(make.tlv(make.NOOP, b"abc"), b"\0"),
    make.binary_tcp(b"\x02\x00\x04abc"),
    make.binary(b"\x04\x00", family=make.UNSPEC),
    make.binary(make.unix(b"", b""), b"\x04", family=make.UNIX_STREAM),
    # Extensions that say nothing that could be meant.
    make.binary_tcp(make.tlv(make.CRC32C, b"")),
    make.binary_tcp(make.tlv(make.CRC32C, bytes(3))),
    make.binary_tcp(make.tlv(make.CRC32C, bytes(5))),
    make.binary_tcp(make.tlv(make.CRC32C, bytes(4))),
    make.binary_tcp(make.tlv(make.CRC32C, b"\xff\xff\xff\xff")),
    make.with_checksum(make.with_checksum(make.binary_tcp())),
    make.binary_tcp(make.tlv(make.UNIQUE_ID, bytes(129))),
    make.binary_tcp(make.tlv(make.AUTHORITY, b"\xff")),
    make.binary_tcp(make.tlv(make.AUTHORITY, b"a\r\nb")),
    make.binary_tcp(make.tlv(make.AUTHORITY, b"a\0b")),
    make.binary_tcp(make.tlv(make.AUTHORITY, b"a"), make.tlv(make.AUTHORITY, b"b")),
    # TLS.
    make.binary_tcp(make.ssl(), make.ssl()),
    *(make.binary_tcp(make.tlv(make.SSL, bytes(size))) for size in range(5)),
    make.binary_tcp(make.ssl(1, 0, b"\x21")),
    make.binary_tcp(make.ssl(1, 0, b"\x21\x00")),
    make.binary_tcp(make.ssl(1, 0, b"\x21\x00\x08TLSv1.3")),
    make.binary_tcp(make.ssl(0, 0, b"\x21\xff\xff")),
    make.binary_tcp(make.ssl(1, 0, VERSION, VERSION)),
    make.binary_tcp(make.ssl(1, 0, CIPHER, CIPHER)),
    make.binary_tcp(make.ssl(3, 0, NAME, make.tlv(make.SSL_CN, b"another"))),
    make.binary_tcp(make.ssl(1, 0, make.tlv(make.SSL_VERSION, b"TLS\n"))),
    make.binary_tcp(make.ssl(1, 0, make.tlv(make.SSL_CIPHER, b"\xe9"))),
    make.binary_tcp(make.ssl(3, 0, make.tlv(make.SSL_CN, b"\xe9"))),
    make.binary_tcp(make.ssl(3, 0, make.tlv(make.SSL_CN, b"a\x7fb"))),
]


class TestWhatIsNoHeader:
    def test_there_are_many_such(self) -> None:
        assert len(set(MALFORMED)) == len(MALFORMED) > 150

    @in_one_test("data", MALFORMED, ids=repr)
    def test_is_refused_however_it_is_split(self, data: bytes) -> None:
        with pytest.raises(Malformed) as whole:
            parse(data)
        assert outcome(data, range(len(data) + 1)) == str(whole.value)
        # A reason is one line that can be logged as it is.
        assert str(whole.value).isprintable()
        assert len(str(whole.value)) <= 200

    def test_is_refused_with_what_to_do_where_the_client_speaks_something_else(self) -> None:
        for data, what in (REQUEST, "speaks HTTP"), (b"\x16\x03\x01", "speaks TLS"):
            with pytest.raises(Malformed, match=f"{what}.*send-proxy.*remove proxy=on"):
                parse(data)

    def test_is_not_waited_for_where_it_is_too_long(self) -> None:
        # It is refused once its length is known.
        with pytest.raises(Malformed, match=f"16385 bytes long, more than {MAX_SIZE}"):
            parse(make.binary(bytes(MAX_SIZE - 15), family=0x11)[:16])
        assert parse(make.binary(bytes(MAX_SIZE - 16), family=0x11)[:16]) is None

    @pytest.mark.parametrize(
        "header",
        [
            make.line("192.0.2.1", "192.0.2.2", 1, 2),
            b"PROXY UNKNOWN\r\n",
            make.with_checksum(make.binary_tcp(make.ssl(1, 0, VERSION))),
            make.binary(bytes(300), command=make.LOCAL),
        ],
    )
    def test_beginning_of_a_header_is_not_refused(self, header: bytes) -> None:
        for size in range(len(header)):
            assert parse(header[:size]) is None
        assert read(header).size == len(header)


def outcome(data: bytes, ends: Iterable[int]) -> Any:
    """Return what comes of data of which ever more has arrived."""
    for end in ends:
        try:
            header = parse(bytearray(data[:end]))
        except Malformed as error:
            return str(error)
        if header is not None:
            tls = None if header.tls is None else dict(header.tls.variables())
            return header._replace(tls=None), tls
    return None


ports = st.integers(0, 65535)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
pairs = st.one_of(st.tuples(ipv4, ipv4), st.tuples(ipv6, ipv6))
texts = st.text(
    st.characters(min_codepoint=0x20, exclude_characters="\x7f", codec="utf-8"), max_size=50
)
vectors = st.lists(
    st.tuples(
        # Others than those of which there may be one only, with contents of their own.
        st.sampled_from([make.ALPN, make.NOOP, make.NETNS, 0x06, 0xE0, 0xEA, 0xEF, 0xF0, 0xFF]),
        st.binary(max_size=40),
    ),
    max_size=5,
)


class TestProperties:
    @settings(max_examples=examples(1000))
    @given(pairs, ports, ports, st.binary(max_size=50))
    def test_lines_that_are_written_are_read(
        self, pair: tuple[str, str], source: int, destination: int, rest: bytes
    ) -> None:
        header = make.line(*pair, source, destination)
        found = read(header + rest)
        assert found.size == len(header)
        assert make.addresses(*pair, source, destination) == _packed(found)

    @settings(max_examples=examples(1000))
    @given(pairs, ports, ports, vectors, texts, texts, st.booleans(), st.booleans(), st.binary())
    def test_binary_headers_that_are_written_are_read(
        self,
        pair: tuple[str, str],
        source: int,
        destination: int,
        others: list[tuple[int, bytes]],
        authority: str,
        name: str,
        is_datagram: bool,
        has_checksum: bool,
        rest: bytes,
    ) -> None:
        block = make.addresses(*pair, source, destination)
        skipped = [make.tlv(*other) for other in others]
        told = make.ssl(7, 0, make.tlv(make.SSL_CN, name.encode()), *skipped)
        family = (make.TCP6 if ":" in pair[0] else make.TCP4) + is_datagram
        vector = make.tlv(make.AUTHORITY, authority.encode())
        header = make.binary(block, *skipped, told, vector, family=family)
        if has_checksum:
            header = make.with_checksum(header)
        found = read(header + rest)
        assert found.size == len(header)
        assert block == _packed(found)
        assert found.tls is not None
        variables = found.tls.variables()
        assert variables.get("SSL_CLIENT_S_DN_CN", "").encode("latin-1").decode() == name
        assert variables.get("SSL_TLS_SNI", "").encode("latin-1").decode() == authority

    @settings(max_examples=examples(3000))
    @given(
        st.sampled_from(
            [
                b"",
                b"PROXY ",
                b"PROXY TCP4 ",
                b"PROXY UNKNOWN",
                make.SIGNATURE,
                make.SIGNATURE + b"\x21",
            ]
        ),
        st.binary(max_size=300),
        st.lists(st.integers(0, 320), max_size=20),
    )
    @example(make.SIGNATURE + b"\x21\x11\0\x0c", bytes(40), [1, 15, 16, 17, 28])
    def test_any_bytes_are_a_header_or_none_however_they_are_split(
        self, beginning: bytes, data: bytes, ends: list[int]
    ) -> None:
        data = beginning + data
        assert outcome(data, [*sorted(ends), len(data)]) == outcome(data, [len(data)])

    @settings(max_examples=examples(2000))
    @given(st.data())
    def test_any_change_of_a_header_gives_a_header_or_none(self, data: st.DataObject) -> None:
        extensions = make.tlv(make.AUTHORITY, b"shop.test"), make.ssl(7, 0, VERSION, CIPHER, NAME)
        headers = [
            make.line("2001:db8::1", "2001:db8::2", 56324, 443),
            make.line("192.0.2.1", "192.0.2.2", 56324, 443),
            make.binary_tcp(*extensions),
            make.with_checksum(make.binary_tcp(*extensions, source="2001:db8::1")),
            make.binary(make.unix(b"/a", b"/b"), *extensions, family=make.UNIX_STREAM),
        ]
        header = bytearray(data.draw(st.sampled_from(headers)))
        changes = st.tuples(st.integers(0, len(header) - 1), st.integers(0, 255))
        for position, byte in data.draw(st.lists(changes, max_size=4)):
            header[position] = byte
        whole = bytes(header) + bytes(500)
        assert outcome(whole, range(len(whole) + 1)) == outcome(whole, [len(whole)])


def _packed(header: Header) -> bytes:
    assert header.source is not None
    assert header.destination is not None
    (source, source_port), (destination, destination_port) = header.source, header.destination
    return make.addresses(source, destination, int(source_port), int(destination_port))


@settings(max_examples=examples(500))
@given(pairs, ports, ports, texts, texts, st.integers(0, 7), st.booleans())
def test_what_another_implementation_writes_and_reads_is_the_same(
    pair: tuple[str, str],
    source: int,
    destination: int,
    authority: str,
    name: str,
    client: int,
    is_verified: bool,
) -> None:
    results = pytest.importorskip("proxyprotocol.result", reason="it needs proxy-protocol")
    from ipaddress import ip_address

    from proxyprotocol.detect import ProxyProtocolDetect
    from proxyprotocol.tlv import ProxyProtocolSSLTLV, ProxyProtocolTLV
    from proxyprotocol.v1 import ProxyProtocolV1
    from proxyprotocol.v2 import ProxyProtocolV2

    tls = ProxyProtocolSSLTLV(
        has_ssl=bool(client & 1),
        has_cert_conn=bool(client & 2),
        has_cert_sess=bool(client & 4),
        verified=is_verified,
        version="TLSv1.3",
        cn=name,
    )
    kind = results.ProxyResultIPv6 if ":" in pair[0] else results.ProxyResultIPv4
    theirs = kind(
        (ip_address(pair[0]), source),
        (ip_address(pair[1]), destination),
        protocol=socket.SOCK_STREAM,
        tlv=ProxyProtocolTLV(authority=authority, ssl=tls, unique_id=b"x", netns="blue"),
    )
    packed = make.addresses(*pair, source, destination)
    assert _packed(read(ProxyProtocolV1().pack(theirs))) == packed
    header = read(ProxyProtocolV2().pack(theirs))
    assert _packed(header) == packed
    vector = make.tlv(make.SSL_VERSION, b"TLSv1.3"), make.tlv(make.SSL_CN, name.encode())
    written = make.binary(
        packed,
        make.tlv(make.AUTHORITY, authority.encode()),
        make.ssl(client, not is_verified, *vector),
        family=make.TCP6 if ":" in pair[0] else make.TCP4,
    )
    assert (header.tls is None) == (read(written).tls is None) == (not client & 1)
    if header.tls is not None:
        assert header.tls.variables() == read(written).tls.variables()
    for ours in written, make.with_checksum(written), make.line(*pair, source, destination):
        found = ProxyProtocolDetect().unpack(ours)
        assert (found.source, found.dest) == (theirs.source, theirs.dest)
    found = ProxyProtocolDetect().unpack(written).tlv
    assert (found.authority, found.ssl.cn, found.ssl.has_ssl) == (authority, name, tls.has_ssl)
