"""Certificates as tests want them, also such as no CA would issue. Without any sockets.

``trustme`` makes good ones; these can be over, be for another purpose, or have names with anything.
"""

import datetime
import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aiowsgi.net.tls.certificates.served import KeyPair

_DAY = datetime.timedelta(days=1)
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """Return a name of these attributes, of any length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That no CA would do it.
        return x509.Name(
            [x509.NameAttribute(kind, value, _validate=False) for kind, value in attributes]
        )


def _new_key(kind: str) -> _Key:
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return ec.generate_private_key(ec.SECP256R1())


def _pem(key: _Key, password: str = "") -> bytes:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password.encode())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@dataclass
class Made:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, stem: str) -> KeyPair:
        """Write both into a folder, and return where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        certfile, keyfile = folder / f"{stem}.pem", folder / f"{stem}.key"
        certfile.write_bytes(self.certificate)
        keyfile.write_bytes(self.key)
        return KeyPair(str(certfile), str(keyfile))


class Issuer:
    """A CA, whose certificate is ``pem``."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._name = name((NameOID.ORGANIZATION_NAME, "Test"), (NameOID.COMMON_NAME, "Test CA"))
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 9999 * _DAY)
            .not_valid_after(now + 9999 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_SIGNS_CERTIFICATES, critical=True)
            .add_extension(self._identifier, critical=False)
        )
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this CA."""
        return ssl.create_default_context(cadata=self.pem.decode())

    def issue(
        self,
        *hosts: str,
        subject: x509.Name | None = None,
        emails: Sequence[str] = (),
        key: str = "ec",
        usage: x509.ObjectIdentifier | None = SERVER,
        days: tuple[float, float] = (-1, 90),
        password: str = "",
        self_signed: bool = False,
    ) -> Made:
        """Return a certificate for hosts, valid between two days from now."""
        own = _new_key(key)
        now = datetime.datetime.now(datetime.UTC)
        subject = name((NameOID.COMMON_NAME, "somebody")) if subject is None else subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._name)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * _DAY)
            .not_valid_after(now + days[1] * _DAY)
        )
        # From Python 3.13 on, clients want CAs to be told apart (RFC 5280 §4.2.1.1).
        if not self_signed:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier
            builder = builder.add_extension(identifier(self._identifier), critical=False)
        alternatives: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        alternatives += [x509.RFC822Name(email) for email in emails]
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        signer: _Key = own if self_signed else self._key
        algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        made = builder.sign(signer, algorithm)
        return Made(made.public_bytes(serialization.Encoding.PEM), _pem(own, password))


def server_context(pairs: Sequence[KeyPair]) -> ssl.SSLContext:
    """Return a plain context with these certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for pair in pairs:
        context.load_cert_chain(pair.certfile, pair.keyfile)
    return context


def connected(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, host: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return the server's and the client's side of a handshake that is over. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    waiting = [client, server]
    while waiting:
        for side in waiting.copy():
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    return server, client
