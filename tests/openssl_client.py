"""The client of TLS that comes with OpenSSL."""

import subprocess

from served_process import PATIENCE
from tools import tool

GET = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def s_client(port: int, *arguments: str) -> tuple[int, str]:
    """Have ``openssl s_client`` make a request; return its exit code and all it says."""
    command = [tool("openssl", package="openssl"), "s_client", "-ign_eof"]
    command += ["-connect", f"127.0.0.1:{port}", *arguments]
    done = subprocess.run(
        command,
        input=GET.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=2 * PATIENCE,
    )
    return done.returncode, done.stdout.decode(errors="replace")
