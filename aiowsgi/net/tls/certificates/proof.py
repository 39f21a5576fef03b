"""A handshake in memory, that shows what clients will make of a certificate, and what it says.

The ``ssl`` module tells what is in a certificate only to a client that trusts it. So there is one,
for a moment. And a context that cannot do a handshake is found out before a client meets it.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from ....errors import ConfigError

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for: a certificate that is
# over is looked at, too.
_NO_CHECK_TIME = 0x200000
# A client and a server take turns; TLS 1.2 needs the most, two each.
_TURNS = 8
# What a host name is made of, where an old certificate has it as its common name only.
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is known of one certificate, the first one of its file."""

    file: str
    names: frozenset[str]
    """host names that it is for, in small letters; empty where they cannot be known"""
    not_before: float
    """from when it is valid, in seconds since 1970; minus infinity where it cannot be known"""
    not_after: float
    """until when, likewise; infinity where it cannot be known"""
    key_algorithm: bytes
    """object identifier of the algorithm of its key, in DER: RSA, elliptic curves and so on"""
    objection: str
    """why every client will refuse it, however it trusts its issuer; empty if there is no reason"""


def prove(context: ssl.SSLContext, file: str) -> Leaf:
    """Have a client connect to a server with this context, and return what the client sees.

    It may be called on any thread, while nothing else uses the context. ``file`` is the name of the
    certificate for messages. Raises ConfigError if no client could connect.
    """
    # Clients that need a certificate of their own could not show one here.
    mode, context.verify_mode = context.verify_mode, ssl.CERT_NONE
    try:
        try:
            certificate = _handshake(context, _client()).getpeercert(binary_form=True)
        except ssl.SSLError as error:
            raise ConfigError(
                f"no client could connect with the certificate {file}: {_reason(error)}"
            ) from error
        assert certificate is not None  # Every server shows one, in the suites that there are.
        algorithm = _key_algorithm(certificate)
        try:
            seen = _handshake(context, _client(certificate)).getpeercert() or {}
        except (ssl.SSLError, ValueError) as error:
            return Leaf(file, frozenset(), -inf, inf, algorithm, _reason(error))
    finally:
        context.verify_mode = mode
    return Leaf(
        file,
        _names(seen),
        ssl.cert_time_to_seconds(str(seen["notBefore"])),
        ssl.cert_time_to_seconds(str(seen["notAfter"])),
        algorithm,
        "",
    )


def _reason(error: Exception) -> str:
    """Return what OpenSSL says, without the numbers around it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


def _client(trusted: bytes | None = None) -> ssl.SSLContext:
    """Return a context that trusts this certificate, in DER, and no other; without one, any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Whatever the server is restricted to, they should have something in common.
    context.set_ciphers("ALL:@SECLEVEL=0")
    if trusted is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        # The certificate itself is what is trusted, not only an issuer that signs itself.
        flags = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        context.verify_flags = ssl.VerifyFlags(flags)
        context.load_verify_locations(cadata=trusted)
    return context


def _handshake(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> ssl.SSLObject:
    """Return the client's side of a new connection. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(_TURNS):
        for side in waiting.copy():
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return client
    raise ssl.SSLError("the handshake does not come to an end")


def _names(certificate: Mapping[str, object]) -> frozenset[str]:
    """Return the host names in what ``getpeercert`` has returned."""
    alternatives: object = certificate.get("subjectAltName", ())
    assert isinstance(alternatives, tuple)
    names = {value.lower() for kind, value in alternatives if kind == "DNS"}
    if not names:
        # No current client looks there (RFC 9525 §6.3 says why), but some old ones do.
        subject: object = certificate.get("subject", ())
        assert isinstance(subject, tuple)
        names = {
            value.lower()
            for part in subject
            for key, value in part
            if key == "commonName" and _HOST.fullmatch(value)
        }
    return frozenset(names)


def _key_algorithm(certificate: bytes) -> bytes:
    """Return the algorithm of the key: what stands in a certificate behind its subject.

    Certificate, TBSCertificate, SubjectPublicKeyInfo and AlgorithmIdentifier are the first in each
    other, but for six or seven fields (RFC 5280 §4.1). OpenSSL has read the certificate before.
    """
    tbs = _element(_element(certificate)[1])[1]
    # Only from version 2 on it is there.
    skipped = 6 if tbs[0] == 0xA0 else 5
    for _ in range(skipped):
        tbs = _element(tbs)[2]
    return _element(_element(_element(tbs)[1])[1])[1]


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element in DER (X.690 §8.1), and what is behind it."""
    length, start = data[1], 2
    if length >= 0x80:
        start += length - 0x80
        length = int.from_bytes(data[2:start], "big")
    return data[0], data[start : start + length], data[start + length :]
