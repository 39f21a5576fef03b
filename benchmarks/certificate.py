"""The certificate of the servers in rows with TLS, and the clients that trust everything."""

import functools
import shutil
import ssl
import subprocess
from pathlib import Path

_COMMAND = (
    *("req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
    *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
)


def made(folder: Path) -> tuple[str, str]:
    """Return the paths of a certificate and its key (P-256, PKCS #8), made where there are none.

    Raises `OSError` where openssl is not installed or fails.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if not certificate.exists():
        openssl = shutil.which("openssl")
        if openssl is None:
            raise OSError("openssl is not installed (Debian: apt-get install openssl)")
        folder.mkdir(exist_ok=True)
        made = subprocess.run(
            [openssl, *_COMMAND, "-keyout", str(key), "-out", str(certificate)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if made.returncode:
            raise OSError(f"openssl makes no certificate: {made.stderr.strip()}")
        # Started by root, a server may read its files as somebody else.
        key.chmod(0o644)
    return str(certificate), str(key)


@functools.cache
def client_context() -> ssl.SSLContext:
    """Return a context that trusts any certificate, as wrk does: servers are measured by it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
