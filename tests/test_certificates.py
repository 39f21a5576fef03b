"""What is found out about certificates before a client meets them, and which one it gets then."""

import ssl
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

import pytest
from cryptography.x509.oid import NameOID
from made_certificates import (
    CLIENT,
    Issuer,
    connected,
    name,
    server_context,
)

from aiowsgi.errors import ConfigError
from aiowsgi.net.tls.certificates.proof import _key_algorithm, prove
from aiowsgi.net.tls.certificates.served import Certificates, KeyPair, load

DAY = 86400
RSA = bytes.fromhex("2a864886f70d010101")
EC = bytes.fromhex("2a8648ce3d0201")
ED25519 = bytes.fromhex("2b6570")


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.mark.parametrize(("key", "algorithm"), [("rsa", RSA), ("ec", EC), ("ed25519", ED25519)])
@pytest.mark.parametrize("self_signed", [False, True])
def test_names_end_and_key_of_a_certificate_are_found_out(
    issuer: Issuer, tmp_path: Path, key: str, algorithm: bytes, self_signed: bool
) -> None:
    made = issuer.issue("A.example", "*.b.example", key=key, self_signed=self_signed)
    leaf = prove(server_context([made.write(tmp_path, "a")]), "a.pem")
    assert leaf.file == "a.pem"
    assert leaf.names == {"a.example", "*.b.example"}
    assert leaf.key_algorithm == algorithm
    assert leaf.objection == ""
    assert abs(leaf.not_after - time.time() - 90 * DAY) < 3600
    assert abs(leaf.not_before - time.time() + DAY) < 3600


def test_a_certificate_without_host_names_has_that_of_its_subject(
    issuer: Issuer, tmp_path: Path
) -> None:
    subject = name((NameOID.COMMON_NAME, "Old.example"), (NameOID.COMMON_NAME, "Old Example Inc."))
    pair = issuer.issue(subject=subject).write(tmp_path, "a")
    assert prove(server_context([pair]), "a.pem").names == {"old.example"}
    pair = issuer.issue("new.example", subject=subject).write(tmp_path, "b")
    assert prove(server_context([pair]), "b.pem").names == {"new.example"}


@pytest.mark.parametrize("days", [(-20, -10), (10, 20)])
def test_one_that_is_over_or_not_valid_yet_is_read_all_the_same(
    issuer: Issuer, tmp_path: Path, days: tuple[int, int]
) -> None:
    pair = issuer.issue("a.example", days=days).write(tmp_path, "a")
    leaf = prove(server_context([pair]), "a.pem")
    assert leaf.names == {"a.example"}
    assert abs(leaf.not_after - time.time() - days[1] * DAY) < 3600


def test_one_for_another_purpose_is_used_with_a_warning(issuer: Issuer, tmp_path: Path) -> None:
    pair = issuer.issue("a.example", usage=CLIENT).write(tmp_path, "a")
    certificates = load([pair], server_context)
    (leaf,) = certificates.leaves
    assert "purpose" in leaf.objection
    assert (leaf.names, leaf.not_after, leaf.not_before) == (frozenset(), inf, -inf)
    (doubt,) = certificates.doubts
    assert pair.certfile in doubt
    assert "purpose" in doubt
    assert "no client gets it" not in doubt
    (doubt,) = load([issuer.issue("b").write(tmp_path, "b"), pair], server_context).doubts
    assert "no client gets it" in doubt


def test_a_server_that_demands_certificates_of_clients_goes_on_demanding_them(
    issuer: Issuer, tmp_path: Path
) -> None:
    context = server_context([issuer.issue("a.example").write(tmp_path, "a")])
    context.load_verify_locations(cadata=issuer.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    assert prove(context, "a.pem").names == {"a.example"}
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_whatever_version_is_spoken(
    issuer: Issuer, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    context = server_context([issuer.issue("a.example").write(tmp_path, "a")])
    context.minimum_version = context.maximum_version = version
    assert prove(context, "a.pem").names == {"a.example"}


def test_a_context_with_which_nobody_can_connect_is_refused(issuer: Issuer, tmp_path: Path) -> None:
    context = server_context([issuer.issue("a.example").write(tmp_path, "a")])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    # For a key of another kind than the certificate has.
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    with pytest.raises(ConfigError, match=r"no client could connect .* a\.pem: no shared cipher"):
        prove(context, "a.pem")


class TestTheChoice:
    """Which certificate a client gets."""

    @pytest.fixture
    def served(self, issuer: Issuer, tmp_path: Path) -> Certificates:
        pairs = [
            issuer.issue("first.example").write(tmp_path, "first"),
            issuer.issue("*.shop.example").write(tmp_path, "wildcard"),
            issuer.issue("a.shop.example", "xn--bcher-kva.example").write(tmp_path, "exact"),
        ]
        return load(pairs, server_context)

    @pytest.mark.parametrize(
        ("asked", "gets"),
        [
            ("first.example", "first.example"),
            ("b.shop.example", "*.shop.example"),
            ("B.SHOP.EXAMPLE", "*.shop.example"),
            ("a.shop.example", "a.shop.example"),
            ("bücher.example", "a.shop.example"),
            ("nobody.example", "first.example"),
            ("c.b.shop.example", "first.example"),
            ("192.0.2.1", "first.example"),
            (None, "first.example"),
        ],
    )
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_is_by_the_name_that_it_asks_for(
        self,
        issuer: Issuer,
        served: Certificates,
        asked: str | None,
        gets: str,
        version: ssl.TLSVersion,
    ) -> None:
        client_context = issuer.client_context()
        client_context.check_hostname = False
        client_context.maximum_version = version
        sent = None if asked in (None, "192.0.2.1") else asked.encode("idna").decode()
        _, client = connected(served.context(sent), client_context, asked)
        seen = client.getpeercert()
        assert seen is not None
        assert gets in [value for _, value in seen["subjectAltName"]]

    def test_leaves_what_else_is_agreed_as_it_is(self, issuer: Issuer, tmp_path: Path) -> None:
        def new_context(pairs: Sequence[KeyPair]) -> ssl.SSLContext:
            context = server_context(pairs)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.set_alpn_protocols(["http/1.1"])
            context.load_verify_locations(cadata=issuer.pem.decode())
            context.verify_mode = ssl.CERT_REQUIRED
            return context

        pairs = [issuer.issue(host).write(tmp_path, host) for host in ("a.example", "b.example")]
        served = load(pairs, new_context)
        own = issuer.issue(usage=CLIENT).write(tmp_path, "client")
        for host in ("a.example", "b.example"):
            client_context = issuer.client_context()
            client_context.set_alpn_protocols(["h2", "http/1.1"])
            with pytest.raises(ssl.SSLError):  # Without a certificate.
                connected(served.context(host), client_context, host)
            client_context.load_cert_chain(own.certfile, own.keyfile)
            server, client = connected(served.context(host), client_context, host)
            assert client.selected_alpn_protocol() == "http/1.1"
            assert server.getpeercert()
            client_context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError):
                connected(served.context(host), client_context, host)

    @pytest.mark.parametrize("order", [("rsa", "ec"), ("ec", "rsa")])
    def test_is_by_the_key_that_it_can_check_where_there_are_two_for_its_name(
        self, issuer: Issuer, tmp_path: Path, order: tuple[str, str]
    ) -> None:
        first = issuer.issue("other.example").write(tmp_path, "other")
        pairs = [
            issuer.issue("a.example", "b.example", key=key).write(tmp_path, key) for key in order
        ]
        served = load([first, *pairs], server_context)
        for ciphers, key in (("aRSA", RSA), ("aECDSA", EC)):
            client_context = issuer.client_context()
            client_context.maximum_version = ssl.TLSVersion.TLSv1_2
            client_context.set_ciphers(ciphers)
            _, client = connected(served.context("b.example"), client_context, "b.example")
            sent = client.getpeercert(binary_form=True)
            assert sent is not None
            assert key in sent

    def test_is_the_first_one_of_two_with_the_same_kind_of_key(
        self, issuer: Issuer, tmp_path: Path
    ) -> None:
        pairs = [issuer.issue("a.example").write(tmp_path, stem) for stem in ("one", "two")]
        served = load(pairs, server_context)
        _, client = connected(served.context("a.example"), issuer.client_context(), "a.example")
        sent = client.getpeercert(binary_form=True)
        assert sent is not None
        assert ssl.PEM_cert_to_DER_cert(Path(pairs[0].certfile).read_text()) == sent
        (doubt,) = served.doubts
        assert "two.pem" in doubt


def test_the_first_end_of_several_certificates_is_told(issuer: Issuer, tmp_path: Path) -> None:
    pairs = [
        issuer.issue(f"{days}.example", days=(-1, days)).write(tmp_path, str(days))
        for days in (50, 30, 40)
    ]
    served = load(pairs, server_context)
    assert abs(served.expires_at - time.time() - 30 * DAY) < 3600


def der(tag: int, *parts: bytes) -> bytes:
    """Return an element in DER that is shorter than 128 bytes."""
    content = b"".join(parts)
    return bytes([tag, len(content)]) + content


@pytest.mark.parametrize("version", [b"", der(0xA0, der(2, b"\2"))], ids=["1", "3"])
def test_the_kind_of_key_is_found_in_old_certificates_too(version: bytes) -> None:
    empty = der(0x30)
    key = der(0x30, der(0x30, der(6, EC)), der(3, b"\0key"))
    tbs = der(0x30, version, der(2, b"\7"), empty, empty, empty, empty, key)
    assert _key_algorithm(der(0x30, tbs, empty)) == EC


def test_certificates_for_no_host_name_are_not_taken_for_ones_with_the_same_names(
    issuer: Issuer, tmp_path: Path
) -> None:
    subject = name((NameOID.COMMON_NAME, "For no host"))
    pairs = [issuer.issue(subject=subject, key=key).write(tmp_path, key) for key in ("ec", "rsa")]
    served = load(pairs, server_context)
    client_context = issuer.client_context()
    client_context.check_hostname = False
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client_context.set_ciphers("aRSA")
    with pytest.raises(ssl.SSLError):
        connected(served.default, client_context)
    (doubt,) = served.doubts
    assert "rsa.pem is for no host name" in doubt
