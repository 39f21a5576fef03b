"""What TLS adds to the environ, in memory: what the handshake has agreed, and who the client is."""

import contextlib
import re
import ssl
from pathlib import Path

import pytest
from cryptography.x509.oid import NameOID
from extent import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from made_certificates import CLIENT, Issuer, Made, connected, name, server_context

from aiowsgi.net.tls.certificates.served import Certificates, KeyPair, load
from aiowsgi.net.tls.distinguished_name import distinguished_name, harmless, parts
from aiowsgi.net.tls.variables import TlsVariables

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def pair(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return issuer.issue("a.example").write(tmp_path_factory.mktemp("server"), "a")


def served(issuer: Issuer, pair: KeyPair, mode: ssl.VerifyMode) -> Certificates:
    def new_context(pairs: object) -> ssl.SSLContext:
        context = server_context([pair])
        context.load_verify_locations(cadata=issuer.pem.decode())
        context.verify_mode = mode
        return context

    return load([pair], new_context)


def variables_of(
    issuer: Issuer,
    pair: KeyPair,
    own: Made | None = None,
    *,
    folder: Path,
    mode: ssl.VerifyMode = ssl.CERT_OPTIONAL,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    host: str = "a.example",
) -> dict[str, str]:
    """Return what the environ gets where a client has this certificate."""
    context = served(issuer, pair, mode).default
    client_context = issuer.client_context()
    client_context.check_hostname = False
    client_context.maximum_version = version
    if own is not None:
        files = own.write(folder, "client")
        client_context.load_cert_chain(files.certfile, files.keyfile)
    server, _ = connected(context, client_context, host)
    return dict(TlsVariables(server, host).variables())


@pytest.mark.parametrize("mode", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
def test_what_was_agreed_is_told(
    issuer: Issuer, pair: KeyPair, tmp_path: Path, mode: ssl.VerifyMode
) -> None:
    assert variables_of(issuer, pair, folder=tmp_path, mode=mode) == {
        "HTTPS": "on",
        "SSL_PROTOCOL": "TLSv1.3",
        "SSL_CIPHER": "TLS_AES_256_GCM_SHA384",
        "SSL_CIPHER_USEKEYSIZE": "256",
        "SSL_CIPHER_ALGKEYSIZE": "256",
        "SSL_SESSION_RESUMED": "Initial",
        "SSL_TLS_SNI": "a.example",
        "SSL_CLIENT_VERIFY": "NONE",
    }


def test_a_session_that_is_resumed_is_told(issuer: Issuer, pair: KeyPair) -> None:
    context = served(issuer, pair, ssl.CERT_NONE).default
    client_context = issuer.client_context()
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, client = connected(context, client_context, "a.example")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    again = client_context.wrap_bio(
        to_client, to_server, server_hostname="a.example", session=client.session
    )
    for side in (again, server, again, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    variables = TlsVariables(server, None).variables()
    assert variables["SSL_SESSION_RESUMED"] == "Resumed"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mode", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
def test_the_certificate_of_a_client_is_told(
    issuer: Issuer,
    pair: KeyPair,
    tmp_path: Path,
    version: ssl.TLSVersion,
    mode: ssl.VerifyMode,
) -> None:
    subject = name(
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.ORGANIZATION_NAME, "Müller, Söhne"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "one"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "two"),
        (NameOID.COMMON_NAME, "alice"),
        (NameOID.EMAIL_ADDRESS, "alice@a.example"),
    )
    own = issuer.issue(
        "laptop.a.example",
        subject=subject,
        emails=["alice@a.example", "al@a.example"],
        usage=CLIENT,
    )
    found = variables_of(
        issuer, pair, own, folder=tmp_path, mode=mode, version=version, host="a.example"
    )
    assert found["SSL_PROTOCOL"] == ("TLSv1.2" if version.name == "TLSv1_2" else "TLSv1.3")
    of_client = {
        key.removeprefix("SSL_CLIENT_"): value.encode("latin-1").decode()
        for key, value in found.items()
        if key.startswith("SSL_CLIENT_")
    }
    assert of_client.pop("CERT") == own.certificate.decode()
    assert re.fullmatch("[0-9A-F]{2,40}", of_client.pop("M_SERIAL"))
    for key in ("V_START", "V_END"):
        assert ssl.cert_time_to_seconds(of_client.pop(key)) > 0
    assert of_client == {
        "VERIFY": "SUCCESS",
        "M_VERSION": "3",
        "S_DN": "emailAddress=alice@a.example,CN=alice,OU=two,OU=one,O=Müller\\, Söhne,C=DE",
        "S_DN_C": "DE",
        "S_DN_O": "Müller, Söhne",
        "S_DN_OU": "one",
        "S_DN_OU_1": "two",
        "S_DN_CN": "alice",
        "S_DN_Email": "alice@a.example",
        "I_DN": "CN=Test CA,O=Test",
        "I_DN_O": "Test",
        "I_DN_CN": "Test CA",
        "SAN_DNS_0": "laptop.a.example",
        "SAN_Email_0": "alice@a.example",
        "SAN_Email_1": "al@a.example",
    }


@pytest.mark.parametrize(
    "common_name",
    [
        "a\r\nX-Admin: yes",
        "a\0b",
        "\u202e\u2066evil",
        # With more, no session ticket can hold the certificate, and OpenSSL gives up.
        "x" * 60000,
        "\N{PILE OF POO}" * 3,
        " # ",
        "",
        "\\0A",
    ],
    ids=["newlines", "nul", "directions", "long", "emoji", "spaces", "empty", "escaped"],
)
def test_a_hostile_certificate_breaks_nothing(
    issuer: Issuer, pair: KeyPair, tmp_path: Path, common_name: str
) -> None:
    subject = name((NameOID.COMMON_NAME, common_name), (NameOID.LOCALITY_NAME, "Here"))
    own = issuer.issue(subject=subject, usage=CLIENT)
    found = variables_of(issuer, pair, own, folder=tmp_path)
    assert found["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert found["SSL_CLIENT_S_DN_L"] == "Here"
    assert len(found["SSL_CLIENT_CERT"]) > 500
    for key, value in found.items():
        value.encode("latin-1")  # A native string.
        if key != "SSL_CLIENT_CERT":
            assert not CONTROL.search(value)
            assert len(value) <= 16384


def test_what_is_too_long_is_left_out_and_not_cut(
    issuer: Issuer, pair: KeyPair, tmp_path: Path
) -> None:
    subject = name((NameOID.COMMON_NAME, "x" * 16385), (NameOID.LOCALITY_NAME, "y" * 8192))
    hosts = [f"h{number}.example" for number in range(100)]
    own = issuer.issue(*hosts, subject=subject, usage=CLIENT)
    found = variables_of(issuer, pair, own, folder=tmp_path)
    assert "SSL_CLIENT_S_DN" not in found
    assert "SSL_CLIENT_S_DN_CN" not in found
    assert len(found["SSL_CLIENT_S_DN_L"]) == 8192
    assert found["SSL_CLIENT_SAN_DNS_63"] == "h63.example"
    assert "SSL_CLIENT_SAN_DNS_64" not in found


def test_a_certificate_that_python_cannot_read_is_passed_on_as_it_is(
    issuer: Issuer, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tls:
        session_reused = False

        def version(self) -> str:
            return "TLSv1.3"

        def cipher(self) -> tuple[str, str, int]:
            return ("TLS_X", "TLSv1.3", 128)

        def getpeercert(self, binary_form: bool = False) -> bytes:
            if binary_form:
                return b"certificate"
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")

    found = TlsVariables(Tls(), None).variables()  # type: ignore[arg-type]
    assert found["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert "BEGIN CERTIFICATE" in found["SSL_CLIENT_CERT"]
    assert "SSL_CLIENT_S_DN" not in found
    assert "SSL_CIPHER_ALGKEYSIZE" not in found


def test_variables_are_made_once(issuer: Issuer, pair: KeyPair) -> None:
    server, _ = connected(
        served(issuer, pair, ssl.CERT_NONE).default, issuer.client_context(), "a.example"
    )
    variables = TlsVariables(server, None)
    assert variables.variables() is variables.variables()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ('a,b+c"d<e>f;g\\h', 'a\\,b\\+c\\"d\\<e\\>f\\;g\\\\h'),
        (" a b ", "\\ a b\\ "),
        (" ", "\\ "),
        ("#1 #2", "\\#1 #2"),
        ("a\n", "a\\0A"),
        ("a \n", "a \\0A"),
        ("\x85\u202e", "\\C2\\85\\E2\\80\\AE"),
        ("ü=ß", "ü=ß"),
    ],
)
def test_values_are_escaped_as_rfc_2253_wants_it(value: str, text: str) -> None:
    assert distinguished_name(((("commonName", value),),)) == f"CN={text}"


def test_types_have_short_names_or_their_own_and_attributes_of_one_part_stay_together() -> None:
    written = (
        (("domainComponent", "org"),),
        (("1.2.3.4", "x"),),
        (("commonName", "a"), ("userId", "b")),
    )
    assert distinguished_name(written) == "UID=b+CN=a,1.2.3.4=x,DC=org"
    assert list(parts(written)) == [("DC", "org"), ("CN", "a"), ("UID", "b")]
    assert distinguished_name(()) == ""


def unescaped(text: str) -> str:
    """Undo RFC 2253 §2.4, as a reader of it would."""
    data = re.sub(
        rb'\\([0-9A-F]{2})|\\([ #\\,+"<>;])',
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else found[2],
        text.encode(),
    )
    return data.decode()


@settings(max_examples=examples(500))
@given(st.lists(st.text(max_size=8), min_size=1, max_size=3))
def test_whatever_is_in_a_name_can_be_read_back(values: list[str]) -> None:
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return  # No certificate has surrogates.
    text = distinguished_name(tuple((("commonName", value),) for value in values))
    assert not CONTROL.search(text)
    read = re.findall(r"CN=((?:[^\\,]|\\[0-9A-F]{2}|\\.)*)(?:,|\Z)", text)
    assert [unescaped(value) for value in reversed(read)] == values


@given(st.text(max_size=30))
def test_parts_never_have_harmful_characters(value: str) -> None:
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", harmless(value))
