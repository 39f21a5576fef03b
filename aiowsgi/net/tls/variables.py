"""What TLS adds to the environ: the variables that Apache's mod_ssl has made common."""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any

from .distinguished_name import distinguished_name, harmless, native, parts

# A certificate may have as much as OpenSSL takes, which is 100 KiB, and each request has a copy of
# what is made of it. So what is longer is left out, not cut: a part of a name is another name.
_LONGEST = 16384
_MOST_PARTS = 64


class TlsVariables:
    """The variables of one connection. See ``TlsInfo``.

    It is made on the loop thread when the handshake has ended, of what is asked of ``tls`` there:
    that must not be touched by two threads. The texts are made when a request needs them.
    Arguments: the server's side of TLS, and the name that the client has sent (SNI).
    """

    __slots__ = (
        "_certificate",
        "_cipher",
        "_der",
        "_protocol",
        "_resumed",
        "_server_name",
        "_variables",
    )

    def __init__(self, tls: ssl.SSLObject, server_name: str | None) -> None:
        self._protocol = tls.version() or ""
        self._cipher = tls.cipher()
        self._resumed = tls.session_reused
        self._server_name = server_name
        # None without a certificate of the client, as with most. There are no others than verified
        # ones: the handshake fails with all others.
        self._der = tls.getpeercert(binary_form=True)
        # None where it cannot be read.
        self._certificate: dict[str, Any] | None = None
        if self._der is not None:
            # It may have text that is not in its encoding. It was verified all the same, and the
            # application may have a way to read it.
            with suppress(ValueError, ssl.SSLError):
                self._certificate = tls.getpeercert()
        # Pool threads may make them at the same time. Each makes equal ones, and stores them when
        # they are complete. After that they are never changed.
        self._variables: Mapping[str, str] | None = None

    def variables(self) -> Mapping[str, str]:
        """See ``TlsInfo``."""
        if self._variables is None:
            self._variables = dict(self._all())
        return self._variables

    def _all(self) -> Iterator[tuple[str, str]]:
        yield "HTTPS", "on"
        yield "SSL_PROTOCOL", self._protocol
        if self._cipher is not None:
            name, _, used = self._cipher
            yield "SSL_CIPHER", name
            yield "SSL_CIPHER_USEKEYSIZE", str(used)
            if name in (sizes := _key_sizes()):
                yield "SSL_CIPHER_ALGKEYSIZE", str(sizes[name])
        yield "SSL_SESSION_RESUMED", "Resumed" if self._resumed else "Initial"
        if self._server_name is not None:
            yield "SSL_TLS_SNI", harmless(self._server_name)
        if self._der is None:
            yield "SSL_CLIENT_VERIFY", "NONE"
            return
        yield "SSL_CLIENT_VERIFY", "SUCCESS"
        yield "SSL_CLIENT_CERT", ssl.DER_cert_to_PEM_cert(self._der)
        if self._certificate is not None:
            for key, value in native(_of_certificate(self._certificate)):
                if len(value) <= _LONGEST:
                    yield f"SSL_CLIENT_{key}", value


def _of_certificate(certificate: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what ``getpeercert`` has returned, under the second half of the variables' names."""
    yield "M_VERSION", str(certificate["version"])
    yield "M_SERIAL", certificate["serialNumber"]
    yield "V_START", certificate["notBefore"]
    yield "V_END", certificate["notAfter"]
    for letter, key in (("S", "subject"), ("I", "issuer")):
        name = certificate.get(key, ())
        yield f"{letter}_DN", distinguished_name(name)
        for part, value in islice(parts(name), _MOST_PARTS):
            yield f"{letter}_DN_{part}", value
    alternatives = certificate.get("subjectAltName", ())
    for key, kind in (("DNS", "DNS"), ("Email", "email")):
        values = (value for found, value in alternatives if found == kind)
        for number, value in enumerate(islice(values, _MOST_PARTS)):
            yield f"SAN_{key}_{number}", harmless(value)


@cache
def _key_sizes() -> Mapping[str, int]:
    """Return how many bits the keys of each cipher suite have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    return {suite["name"]: suite["alg_bits"] for suite in context.get_ciphers()}
