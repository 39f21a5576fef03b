"""Who a server is to its clients, and they to it, with the clients of the field."""

import re
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path

import httpx
import pytest
from cryptography.x509.oid import NameOID
from extent import exhaustive
from made_certificates import CLIENT, Issuer, connected, name, server_context
from openssl_client import GET, s_client
from raw_client import StartServer, connect, on_each_loop
from served_process import PATIENCE, ServedProcess, served
from tls_client import TlsClient
from tools import tool

from aiowsgi.net.tls.certificates.served import KeyPair

HOSTS = ("localhost", "b.example", "*.b.example")

# Answers with the number of its process, and what TLS adds to the environ.
APPLICATION = """
import os

def application(environ, start_response):
    lines = [f"PID={os.getpid()}"]
    lines += [f"{key}={value}" for key, value in environ.items() if key.startswith("SSL_")]
    lines += [f"{key}={value}" for key, value in environ.items() if key.startswith("HTTP_SSL")]
    body = ("\\n".join(lines) + "\\n").encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def folder_of_all(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Path:
    folder = tmp_path_factory.mktemp("identity")
    (folder / "ca.pem").write_bytes(issuer.pem)
    return folder


@pytest.fixture(scope="module")
def site(folder_of_all: Path, issuer: Issuer) -> list[str]:
    """Return the options of a server with certificates for several hosts."""
    options = []
    for number, host in enumerate(HOSTS):
        pair = issuer.issue(host).write(folder_of_all, f"site{number}")
        options += ["--certfile", pair.certfile, "--keyfile", pair.keyfile]
    return options


@pytest.fixture(scope="module")
def client(folder_of_all: Path, issuer: Issuer) -> KeyPair:
    """Return the files of a client's certificate."""
    subject = name((NameOID.ORGANIZATION_NAME, "Müller, Söhne"), (NameOID.COMMON_NAME, "alice"))
    return issuer.issue(subject=subject, usage=CLIENT).write(folder_of_all, "client")


def port_of(process: ServedProcess) -> int:
    return int(process.said(r" Serving .* at https://127\.0\.0\.1:(\d+) ")[1])


@pytest.fixture(scope="module")
def port(folder_of_all: Path, site: list[str]) -> Iterator[int]:
    """Return the port of a server that the tests share."""
    options = ["--client-certs", "optional", "--ca-certs", str(folder_of_all / "ca.pem")]
    with served(folder_of_all, APPLICATION, *site, *options) as process:
        yield port_of(process)
        assert process.stop() == 0


def said_to(port: int, *arguments: str) -> str:
    """Return what ``openssl s_client`` says of a request, which has to work."""
    code, said = s_client(port, *arguments)
    assert code == 0, said
    return said


@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        (["-noservername"], "localhost"),
        (["-servername", "nobody.example"], "localhost"),
        (["-servername", "b.example"], "b.example"),
        (["-servername", "B.EXAMPLE"], "b.example"),
        (["-servername", "a.b.example"], "*.b.example"),
    ],
)
@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_openssl_gets_the_certificate_of_the_host_that_it_names(
    port: int, folder_of_all: Path, arguments: list[str], host: str, version: str
) -> None:
    said = said_to(
        port,
        f"-tls{version}",
        *("-verify_return_error", "-CAfile", str(folder_of_all / "ca.pem")),
        *("-verify_hostname", host.replace("*", "x")),
        *arguments,
    )
    assert "Verify return code: 0 (ok)" in said
    asked = arguments[1] if len(arguments) > 1 else None
    assert re.findall(r"SSL_TLS_SNI=(.*)", said) == ([] if asked is None else [asked])


@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_a_session_of_another_host_is_not_resumed(port: int, tmp_path: Path, version: str) -> None:
    session = str(tmp_path / "session")
    of_host = ["-servername", "b.example"]
    said_to(port, f"-tls{version}", *of_host, "-sess_out", session)
    said = said_to(port, f"-tls{version}", *of_host, "-sess_in", session)
    assert "SSL_SESSION_RESUMED=Resumed" in said
    said = said_to(port, f"-tls{version}", "-servername", "localhost", "-sess_in", session)
    assert "SSL_SESSION_RESUMED=Initial" in said


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_shows_its_certificate(
    port: int, folder_of_all: Path, client: KeyPair, version: str
) -> None:
    command = [tool("curl", package="curl"), "--silent", "--show-error", "--noproxy", "*"]
    command += ["--cacert", str(folder_of_all / "ca.pem"), "--max-time", str(int(PATIENCE))]
    command += [f"--tlsv{version}", "--tls-max", version, "--header", "SSL-Client-Verify: x"]
    command += [f"https://localhost:{port}/"]
    done = subprocess.run(command, capture_output=True, timeout=2 * PATIENCE)
    assert b"SSL_CLIENT_VERIFY=NONE\n" in done.stdout
    assert b"SSL_CLIENT_S_DN" not in done.stdout
    assert b"HTTP_SSL_CLIENT_VERIFY=x" in done.stdout
    command += ["--cert", client.certfile, "--key", client.keyfile]
    done = subprocess.run(command, capture_output=True, timeout=2 * PATIENCE)
    lines = done.stdout.decode().splitlines()
    assert "SSL_CLIENT_VERIFY=SUCCESS" in lines
    assert "SSL_CLIENT_S_DN=CN=alice,O=Müller\\, Söhne" in lines
    assert f"SSL_PROTOCOL=TLSv{version}" in lines


def test_httpx_shows_its_certificate(port: int, issuer: Issuer, client: KeyPair) -> None:
    context = issuer.client_context()
    context.load_cert_chain(client.certfile, client.keyfile)
    with httpx.Client(verify=context, trust_env=False, timeout=PATIENCE) as browser:
        for _ in range(2):
            lines = browser.get(f"https://localhost:{port}/").text.splitlines()
            assert "SSL_CLIENT_S_DN_CN=alice" in lines
            assert "SSL_CLIENT_S_DN_O=Müller, Söhne" in lines


@pytest.mark.parametrize("version", ["1_2", "1_3"])
def test_a_certificate_is_known_in_a_session_that_is_resumed(
    port: int, client: KeyPair, tmp_path: Path, version: str
) -> None:
    session = str(tmp_path / "session")
    arguments = [f"-tls{version}", "-cert", client.certfile, "-key", client.keyfile]
    said_to(port, *arguments, "-sess_out", session)
    said = said_to(port, *arguments, "-sess_in", session)
    assert "SSL_SESSION_RESUMED=Resumed" in said
    assert "SSL_CLIENT_VERIFY=SUCCESS" in said
    assert "SSL_CLIENT_S_DN_CN=alice" in said


def examples() -> list[str]:
    """Return the Flask applications in docs/tls.md: one redirects, one asks for certificates."""
    text = (Path(__file__).parent.parent / "docs" / "tls.md").read_text()
    return re.findall(r"```python\n(from flask .*?)```", text, re.DOTALL)


def test_the_example_of_the_documentation_redirects_to_https(tmp_path: Path) -> None:
    example, _ = examples()
    (tmp_path / "shop.py").write_text(example)
    client = run_path(str(tmp_path / "shop.py"), run_name="shop")["app"].test_client()
    answer = client.post("/cart?back=http://b", base_url="http://shop.example")
    assert answer.status_code == 308
    assert answer.headers["Location"] == "https://shop.example/cart?back=http://b"
    assert client.get("/cart", base_url="https://shop.example").status_code == 404


def test_the_flask_example_of_the_documentation_works(
    folder_of_all: Path, site: list[str], issuer: Issuer, client: KeyPair, tmp_path: Path
) -> None:
    _, example = examples()
    options = ["--client-certs", "optional", "--ca-certs", str(folder_of_all / "ca.pem")]
    with served(tmp_path, f"{example}\napplication = app\n", *site, *options) as process:
        url = f"https://localhost:{port_of(process)}/"
        context = issuer.client_context()
        assert httpx.get(url, verify=context, trust_env=False).status_code == 403
        context.load_cert_chain(client.certfile, client.keyfile)
        assert httpx.get(url, verify=context, trust_env=False).text == "Hello alice"
        assert process.stop() == 0


@pytest.mark.parametrize(
    "options",
    [pytest.param((), id="plain", marks=exhaustive), pytest.param(("--preload",), id="preload")],
)
def test_a_worker_resumes_its_own_sessions_only(
    tmp_path: Path, site: list[str], issuer: Issuer, options: tuple[str, ...]
) -> None:
    context = issuer.client_context()

    def ask(port: int, session: ssl.SSLSession | None) -> tuple[str, str, ssl.SSLSession]:
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as sock,
            context.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
        ):
            tls.sendall(GET.encode())
            answer = b""
            while data := tls.recv(4096):
                answer += data
            text = answer.decode("latin-1")
            (pid,) = re.findall("PID=(.*)", text)
            (resumed,) = re.findall("SSL_SESSION_RESUMED=(.*)", text)
            assert tls.session is not None
            return pid, resumed, tls.session

    with served(tmp_path, APPLICATION, *site, "--workers", "2", *options) as process:
        port = port_of(process)
        found: Counter[tuple[bool, str]] = Counter()
        for _ in range(500):
            first, _, session = ask(port, None)
            second, resumed, _ = ask(port, session)
            found[first == second, resumed] += 1
            if len(found) > 1 and sum(found.values()) >= 10:
                break
        assert set(found) == {(True, "Resumed"), (False, "Initial")}
        assert process.stop() == 0


@on_each_loop
async def test_a_hello_may_come_one_byte_at_a_time(
    start_server: StartServer, issuer: Issuer, tmp_path: Path
) -> None:
    def app(environ: object, start_response: object) -> list[bytes]:
        raise AssertionError("not asked")

    pairs = [issuer.issue(host).write(tmp_path, host) for host in ("a.example", "b.example")]
    server = await start_server(
        app,
        certfile=tuple(pair.certfile for pair in pairs),
        keyfile=tuple(pair.keyfile for pair in pairs),
    )
    async with await connect(server) as plain:
        slow = TlsClient(plain, issuer.client_context(), "b.example")
        with pytest.raises(ssl.SSLWantReadError):
            slow.tls.do_handshake()
        for byte in slow._outgoing.read():
            await plain.send(bytes([byte]))
        await slow.handshake()
        assert slow.tls.getpeercert()


def test_a_certificate_of_an_elliptic_curve_may_stand_beside_one_of_rsa(
    issuer: Issuer, tmp_path: Path
) -> None:
    ec, rsa = (issuer.issue("localhost", key=key).write(tmp_path, key) for key in ("ec", "rsa"))
    options = ["--certfile", ec.certfile, "--keyfile", ec.keyfile]
    options += ["--certfile", rsa.certfile, "--keyfile", rsa.keyfile]
    with served(tmp_path, APPLICATION, *options) as process:
        port = port_of(process)
        for kind in ("ECDSA", "RSA"):
            said = said_to(port, "-tls1_2", "-cipher", f"ECDHE-{kind}-AES128-GCM-SHA256")
            assert f"SSL_CIPHER=ECDHE-{kind}-AES128-GCM-SHA256" in said
        assert process.stop() == 0
    # Without the other one, it is none for such clients.
    context = issuer.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aRSA")
    with pytest.raises(ssl.SSLError):
        connected(server_context([ec]), context, "localhost")
