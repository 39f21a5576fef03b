"""Real clients speak TLS with a real server: curl, httpx and openssl, on each event loop."""

import hashlib
import os
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from certificates import Certificates
from extent import exhaustive, representative
from openssl_client import GET, s_client
from served_process import PATIENCE, ServedProcess, served
from slow_clients import LOOPS
from tools import tool

MIB = 1 << 20

APPLICATION = """
import hashlib

def application(environ, start_response):
    if environ["PATH_INFO"] == "/large":
        body = [b"x" * 65536] * 160
        fields = []
    elif environ["PATH_INFO"] == "/upload":
        read = environ["wsgi.input"].read
        digest = hashlib.sha256()
        for data in iter(lambda: read(65536), b""):
            digest.update(data)
        body = [digest.hexdigest().encode()]
        fields = [("Content-Length", "64")]
    else:
        names = ("wsgi.url_scheme", "HTTPS", "SERVER_PROTOCOL")
        body = ["".join(f"{name}={environ.get(name)}\\n" for name in names).encode()]
        fields = [("Content-Length", str(len(body[0])))]
    start_response("200 OK", [("Content-Type", "text/plain"), *fields])
    return body
"""
SAID = "wsgi.url_scheme=https\nHTTPS=on\nSERVER_PROTOCOL=HTTP/1.1\n"
KEPT = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(scope="module", params=representative(LOOPS, LOOPS[-1]))
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def port_of(server: ServedProcess) -> int:
    return int(server.said(r" Serving .* at https://127\.0\.0\.1:(\d+) ")[1])


@pytest.fixture(scope="module")
def port(
    loop: str, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """Return the port of a server that the tests share."""
    folder = tmp_path_factory.mktemp("served")
    with served(folder, APPLICATION, "--certfile", certificates.site, "--loop", loop) as server:
        yield port_of(server)
        # What these clients do wrong is said once, if at all, and nothing else is.
        assert server.stop() == 0


@pytest.fixture(scope="module", params=representative(["optional", "required"], "required"))
def demand(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def demanding(
    demand: str, loop: str, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """Return the port of a server that asks clients for certificates."""
    options = [
        "--certfile",
        certificates.site,
        "--client-certs",
        demand,
        "--ca-certs",
        certificates.ca_file,
    ]
    folder = tmp_path_factory.mktemp("demanding")
    with served(folder, APPLICATION, *options, "--loop", loop) as server:
        yield port_of(server)
        assert server.stop() == 0


def ask(port: int, certificates: Certificates) -> str:
    """Return the answer to a client of another kind: the server goes on."""
    url = f"https://127.0.0.1:{port}/"
    context = certificates.client_context()
    with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as client:
        return client.get(url).text


# --- curl ----------------------------------------------------------------------------------------


def curl(
    certificates: Certificates, *arguments: str, body: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """Run curl, which has to succeed."""
    command = [tool("curl", package="curl"), "--silent", "--show-error", "--noproxy", "*"]
    command += ["--cacert", certificates.ca_file, "--max-time", str(int(PATIENCE)), *arguments]
    done = subprocess.run(command, input=body, capture_output=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return done


def only(version: str) -> list[str]:
    return [f"--tlsv{version}", "--tls-max", version]


@pytest.mark.parametrize("version", VERSIONS)
def test_curl_keeps_a_connection(port: int, certificates: Certificates, version: str) -> None:
    url = f"https://localhost:{port}/"
    form = ["--write-out", "%{num_connects} %{http_code}\n"]
    done = curl(certificates, *only(version), *form, url, url, url)
    counted = [f"{connects} 200\n" for connects in (1, 0, 0)]
    assert done.stdout.decode() == "".join(SAID + line for line in counted)


def test_curl_offers_http2_and_gets_http_1_1(port: int, certificates: Certificates) -> None:
    done = curl(certificates, "--verbose", "--http2", f"https://localhost:{port}/")
    assert re.search(rb"ALPN\W+server accepted (to use )?http/1\.1", done.stderr), done.stderr
    assert done.stdout.decode() == SAID


def test_curl_speaks_http_1_0(port: int, certificates: Certificates) -> None:
    done = curl(certificates, "--http1.0", f"https://localhost:{port}/")
    assert done.stdout.decode() == SAID.replace("HTTP/1.1", "HTTP/1.0")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_curl_uploads(port: int, certificates: Certificates, version: str, chunked: bool) -> None:
    body = bytes(range(256)) * (4 * MIB // 256)
    how = ["--upload-file", "-"] if chunked else ["--data-binary", "@-"]
    done = curl(certificates, *only(version), *how, f"https://localhost:{port}/upload", body=body)
    assert done.stdout.decode() == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("http", ["--http1.1", "--http1.0"])
def test_curl_downloads(port: int, certificates: Certificates, http: str) -> None:
    """With HTTP/1.0 the end of the connection is the end of the body: curl wants a close_notify."""
    done = curl(certificates, http, f"https://localhost:{port}/large")
    assert done.stdout == b"x" * 10 * MIB


# --- httpx ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_httpx_keeps_a_connection(
    port: int, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    body = b"y" * MIB
    url = f"https://localhost:{port}"
    context = certificates.client_context()
    context.minimum_version = context.maximum_version = version
    with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as client:
        assert client.get(url).text == SAID
        assert client.post(f"{url}/upload", content=body).text == hashlib.sha256(body).hexdigest()
        assert len(client.get(f"{url}/large").content) == 10 * MIB


# --- openssl -------------------------------------------------------------------------------------


def test_a_client_may_change_its_keys(port: int, certificates: Certificates) -> None:
    """It asks for new ones of the server as well (RFC 8446 §4.6.3)."""
    command = [tool("openssl", package="openssl"), "s_client", "-tls1_3"]
    command += ["-connect", f"127.0.0.1:{port}", "-CAfile", certificates.ca_file]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        timer = threading.Timer(2 * PATIENCE, client.kill)
        timer.start()
        said = b""

        def wait_for(text: bytes) -> None:
            nonlocal said
            while text not in said:
                assert client.stdout is not None
                more = os.read(client.stdout.fileno(), 1 << 16)
                assert more, said
                said += more
            said = said.partition(text)[2]

        # "K" at the beginning of what it reads at once is a command.
        for _ in range(3):
            client.stdin.write(KEPT.encode())
            client.stdin.flush()
            wait_for(SAID.encode())
            client.stdin.write(b"K\n")
            client.stdin.flush()
            wait_for(b"KEYUPDATE")
        client.kill()
        timer.cancel()


@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_versions_that_are_good(port: int, certificates: Certificates, version: str) -> None:
    code, said = s_client(port, f"-tls{version}", "-CAfile", certificates.ca_file)
    assert f"New, TLSv{version.replace('_', '.')}, Cipher is " in said
    assert "Verify return code: 0 (ok)" in said
    assert SAID in said
    assert code == 0, said


@pytest.mark.parametrize("version", ["1", "1_1"])
def test_versions_that_are_too_old_get_the_alert_for_that(
    port: int, certificates: Certificates, version: str
) -> None:
    code, said = s_client(port, f"-tls{version}", "-cipher", "ALL:@SECLEVEL=0")
    assert code != 0
    assert re.search(r"alert protocol version.*SSL alert number 70", said), said
    assert ask(port, certificates) == SAID


@pytest.mark.parametrize("cipher", ["AES128-SHA", "DHE-RSA-AES128-SHA", "NULL", "aNULL", "3DES"])
def test_ciphers_that_are_weak_are_refused(port: int, cipher: str) -> None:
    code, said = s_client(port, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert code != 0
    # The client may not know it any more, either.
    assert re.search(r"alert handshake failure|no cipher match|no ciphers available", said), said


@pytest.mark.parametrize("version", ["1_2", "1_3"])
@pytest.mark.parametrize("tickets", [(), ("-no_ticket",)], ids=["tickets", "no-tickets"])
def test_sessions_are_resumed(
    port: int, version: str, tickets: tuple[str, ...], tmp_path: Path
) -> None:
    session = str(tmp_path / "session")
    code, said = s_client(port, f"-tls{version}", *tickets, "-sess_out", session)
    assert (code, SAID in said) == (0, True), said
    assert "New, " in said
    code, said = s_client(port, f"-tls{version}", *tickets, "-sess_in", session)
    assert (code, SAID in said) == (0, True), said
    if version == "1_3" or not tickets:
        assert f"Reused, TLSv{version.replace('_', '.')}" in said


def test_no_early_data_is_accepted(port: int, tmp_path: Path) -> None:
    """It could be replayed (RFC 8446 §8), and nothing would tell the application."""
    session, early = str(tmp_path / "session"), tmp_path / "early"
    _, said = s_client(port, "-tls1_3", "-sess_out", session)
    assert "Max Early Data: 0" in said
    early.write_text(GET)
    _, said = s_client(port, "-tls1_3", "-sess_in", session, "-early_data", str(early))
    assert "Early data was accepted" not in said


def test_compression_is_never_used(port: int) -> None:
    _, said = s_client(port, "-tls1_2", "-comp")
    assert "Compression: NONE" in said


@pytest.mark.parametrize("name", ["localhost", "another.example"])
def test_names_that_clients_ask_for_are_no_obstacle(port: int, name: str) -> None:
    code, said = s_client(port, "-servername", name)
    assert (code, SAID in said) == (0, True), said


def test_a_client_cannot_renegotiate(port: int, certificates: Certificates) -> None:
    """It would cost the server much and the client little; HTTP has no use for it."""
    command = [tool("openssl", package="openssl"), "s_client", "-tls1_2"]
    with subprocess.Popen(
        [*command, "-connect", f"127.0.0.1:{port}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("R\n")
        process.stdin.flush()
        # Until it has given up itself: its own standard input is still open.
        code = process.wait(PATIENCE)
        said = process.stdout.read()
    assert code != 0
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert ask(port, certificates) == SAID


@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_a_client_with_a_certificate_is_served(
    demanding: int, certificates: Certificates, version: str
) -> None:
    file = certificates.both_in_one(certificates.issue("client@example.com"))
    arguments = [f"-tls{version}", "-cert", file, "-key", file]
    code, said = s_client(demanding, *arguments)
    assert (code, SAID in said) == (0, True), said


@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_a_client_without_a_certificate_is_served_where_it_is_optional(
    demanding: int, demand: str, version: str
) -> None:
    code, said = s_client(demanding, f"-tls{version}")
    assert (SAID in said) is (demand == "optional")
    if demand == "required":
        assert code != 0
        alert = "certificate required" if version == "1_3" else "handshake failure"
        assert f"alert {alert}" in said


@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_a_client_whose_certificate_nobody_vouches_for_is_refused(
    demanding: int, version: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "own.pem")
    command = [tool("openssl", package="openssl"), "req", "-x509", "-nodes", "-newkey", "ec"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=client", "-days", "2"]
    subprocess.run([*command, "-keyout", path, "-out", f"{path}.crt"], check=True, timeout=60)
    arguments = [f"-tls{version}", "-cert", f"{path}.crt", "-key", path]
    code, said = s_client(demanding, *arguments)
    assert SAID not in said
    assert code != 0
    assert "alert unknown ca" in said


# --- what is offered -----------------------------------------------------------------------------


@exhaustive
def test_only_ciphers_with_forward_secrecy_and_authenticated_encryption_are_offered(
    port: int,
) -> None:
    """As in the intermediate profile of Mozilla, which sslyze checks in full."""
    openssl = tool("openssl", package="openssl")
    listed = subprocess.run(
        [openssl, "ciphers", "-tls1_2", "-s", "ALL:@SECLEVEL=0"], capture_output=True, text=True
    )
    taken = set()
    for cipher in listed.stdout.strip().split(":"):
        code, said = s_client(port, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
        if code == 0 and SAID in said:
            taken.add(cipher)
    assert taken == {
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    }
