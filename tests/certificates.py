"""Certificates for tests: a CA, and what it issues to servers and clients, as files."""

import ssl
from pathlib import Path
from typing import Any

import trustme

# The names under which tests reach their servers.
LOCAL = ("localhost", "127.0.0.1", "::1")


class Certificates:
    """A CA of its own, with files in a folder. ``certificates`` in conftest has one a session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self.ca = trustme.CA()
        # What clients know as the only CA.
        self.ca_file = self.write(self.ca.cert_pem.bytes())
        # Of a server on this machine: with its key, and alone.
        self.local = self.issue(*LOCAL)
        self.site = self.both_in_one(self.local)

    def write(self, data: bytes) -> str:
        """Return the path of a new file."""
        self._number += 1
        path = self._folder / f"{self._number}.pem"
        path.write_bytes(data)
        return str(path)

    def issue(self, *names: str, **options: Any) -> trustme.LeafCert:
        """Return a new certificate. ``options`` are those of ``trustme.CA.issue_cert``."""
        return self.ca.issue_cert(*names, **options)

    def both_in_one(self, certificate: trustme.LeafCert) -> str:
        """Return the path of a file with the key and the certificate."""
        return self.write(certificate.private_key_and_cert_chain_pem.bytes())

    def key(self, certificate: trustme.LeafCert) -> str:
        """Return the path of a file with the key alone."""
        return self.write(certificate.private_key_pem.bytes())

    def chain(self, certificate: trustme.LeafCert) -> str:
        """Return the path of a file with the certificate alone."""
        return self.write(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))

    def client_context(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return the context of a client that knows the CA, and perhaps has a certificate."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if certificate is not None:
            certificate.configure_cert(context)
        return context

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server, as a host makes one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.local.configure_cert(context)
        return context
