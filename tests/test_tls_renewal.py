"""Certificates of a server that runs: which one a client gets, and how they are renewed."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from cryptography.x509.oid import NameOID
from extent import exhaustive
from made_certificates import CLIENT, Issuer, Made, name, server_context
from processes import children_of
from raw_client import StartServer, connect, eventually, on_each_loop
from served_process import ANSWER, ServedProcess, served
from test_client_hello import with_name
from tls_client import connect_tls
from waiting import eventually as in_time

import aiowsgi
from aiowsgi.net.tls.certificates import renewal

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 30.0


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def made(issuer: Issuer) -> list[Made]:
    """Certificates for two hosts, by which one can tell what is served."""
    return [issuer.issue("localhost", host) for host in ("old.example", "new.example")]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have looks follow each other at once."""
    monkeypatch.setattr(renewal, "INTERVAL", 0.02)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the variables of TLS."""
    lines = [f"{key}={value}" for key, value in environ.items() if key[:4] in ("SSL_", "HTTP")]
    body = "\n".join(lines).encode("latin-1")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def hosts_of(tls: ssl.SSLObject | ssl.SSLSocket) -> set[str]:
    """Return the hosts of the certificate that the server has shown."""
    certificate = tls.getpeercert()
    assert certificate is not None
    return {value for _, value in certificate["subjectAltName"]}


async def served_hosts(server: aiowsgi.Server, issuer: Issuer, name: str = "localhost") -> set[str]:
    """Connect, and return the hosts of the certificate."""
    context = issuer.client_context()
    context.check_hostname = False
    async with await connect_tls(server, context, name=name) as client:
        assert (await client.request(GET)).status == 200
        return hosts_of(client.tls)


@on_each_loop
async def test_a_client_gets_the_certificate_of_the_host_that_it_wants(
    start_server: StartServer, issuer: Issuer, tmp_path: Path
) -> None:
    hosts = ("a.example", "b.example", "*.b.example")
    pairs = [issuer.issue(host).write(tmp_path, str(n)) for n, host in enumerate(hosts)]
    server = await start_server(
        app,
        certfile=tuple(pair.certfile for pair in pairs),
        keyfile=tuple(pair.keyfile for pair in pairs),
    )
    for asked, gets in (
        ("a.example", "a.example"),
        ("B.example", "b.example"),
        ("x.b.example", "*.b.example"),
        ("nobody.example", "a.example"),
        ("127.0.0.1", "a.example"),
    ):
        assert await served_hosts(server, issuer, asked) == {gets}


@on_each_loop
async def test_what_tls_has_agreed_is_in_the_environ(
    start_server: StartServer, issuer: Issuer, tmp_path: Path
) -> None:
    pair = issuer.issue("a.example").write(tmp_path, "a")
    (tmp_path / "ca.pem").write_bytes(issuer.pem)
    subject = name((NameOID.COMMON_NAME, "al\nice"))
    own = issuer.issue(subject=subject, usage=CLIENT).write(tmp_path, "client")
    server = await start_server(
        app,
        certfile=(pair.certfile,),
        keyfile=(pair.keyfile,),
        client_certs="optional",
        ca_certs=str(tmp_path / "ca.pem"),
    )
    context = issuer.client_context()
    async with await connect_tls(server, context, name="a.example") as client:
        lines = (await client.request(GET)).body.decode().splitlines()
        assert "HTTPS=on" in lines
        assert "SSL_PROTOCOL=TLSv1.3" in lines
        assert "SSL_TLS_SNI=a.example" in lines
        assert "SSL_CLIENT_VERIFY=NONE" in lines
    context.load_cert_chain(own.certfile, own.keyfile)
    async with await connect_tls(server, context, name="a.example") as client:
        for _ in range(2):
            lines = (await client.request(GET)).body.decode().splitlines()
            assert "SSL_CLIENT_VERIFY=SUCCESS" in lines
            assert "SSL_CLIENT_S_DN=CN=al\\0Aice" in lines


@on_each_loop
async def test_names_that_are_none_leave_no_traceback(
    start_server: StartServer,
    issuer: Issuer,
    made: list[Made],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pair = made[0].write(tmp_path, "site")
    server = await start_server(app, certfile=(pair.certfile,), keyfile=(pair.keyfile,))
    for sent in (b"\xff\xfe", b"a\0b", b"a\nb", b"x" * 255):
        async with await connect(server) as client:
            await client.send(with_name(sent))
            answer = await client.read(100)
            # An alert: it offers no key.
            assert answer[:1] == b"\x15"
    assert await served_hosts(server, issuer) == {"localhost", "old.example"}
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    assert "Exception" not in captured.err


@pytest.mark.usefixtures("quick")
@on_each_loop
async def test_a_new_certificate_is_served_and_old_connections_go_on(
    start_server: StartServer, issuer: Issuer, made: list[Made], tmp_path: Path
) -> None:
    pair = made[0].write(tmp_path, "site")
    server = await start_server(app, certfile=(pair.certfile,), keyfile=(pair.keyfile,))
    context = issuer.client_context()
    async with await connect_tls(server, context) as before, await connect(server) as slow:
        await slow.send(with_name(b"localhost")[:20])  # In the midst of a handshake.
        made[1].write(tmp_path, "site")
        await until_served(server, issuer, "new.example")
        assert (await before.request(GET)).status == 200
        assert hosts_of(before.tls) == {"localhost", "old.example"}


async def until_served(server: aiowsgi.Server, issuer: Issuer, host: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while host not in await served_hosts(server, issuer):
            pass


@pytest.mark.usefixtures("quick")
@on_each_loop
async def test_a_broken_file_is_told_with_its_name_and_the_old_certificate_is_served(
    start_server: StartServer,
    issuer: Issuer,
    made: list[Made],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = made[0].write(tmp_path, "site")
    server = await start_server(app, certfile=(pair.certfile,), keyfile=(pair.keyfile,))
    (tmp_path / "site.pem").write_bytes(made[1].certificate)  # And not the key.
    await eventually(lambda: "are still served" in caplog.text)
    (record,) = [record for record in caplog.records if "still served" in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert pair.certfile in record.getMessage()
    assert pair.keyfile in record.getMessage()
    assert await served_hosts(server, issuer) == {"localhost", "old.example"}
    (tmp_path / "site.key").write_bytes(made[1].key)
    await eventually(lambda: "can be read again" in caplog.text)
    assert await served_hosts(server, issuer) == {"localhost", "new.example"}


@pytest.mark.usefixtures("quick")
@on_each_loop
async def test_new_authorities_and_passwords_count_as_changes(
    start_server: StartServer, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = Issuer()
    issuer.issue("localhost", password="first").write(tmp_path, "site")
    (tmp_path / "ca.pem").write_bytes(issuer.pem)
    (tmp_path / "password").write_text("first\n")
    server = await start_server(
        app,
        certfile=("site.pem",),
        keyfile=("site.key",),
        keyfile_password="file:password",
        client_certs="required",
        ca_certs="ca.pem",
    )
    # Later the names stand for the same files.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    own = other.issue(usage=CLIENT).write(tmp_path, "client")
    context = issuer.client_context()
    context.load_cert_chain(own.certfile, own.keyfile)

    async def is_let_in() -> bool:
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            async with await connect_tls(server, context) as client:
                return (await client.request(GET)).status == 200
        return False

    assert not await is_let_in()
    (tmp_path / "ca.pem").write_bytes(other.pem)
    async with asyncio.timeout(PATIENCE):
        while not await is_let_in():
            pass
    issuer.issue("localhost", "new.example", password="second").write(tmp_path, "site")
    (tmp_path / "password").write_text("second\n")
    async with asyncio.timeout(PATIENCE):
        hosts: set[str] = set()
        while "new.example" not in hosts:
            async with await connect_tls(server, context) as client:
                hosts = hosts_of(client.tls)


@exhaustive
@pytest.mark.usefixtures("quick")
@on_each_loop
async def test_no_connection_fails_while_certificates_are_swapped(
    start_server: StartServer, issuer: Issuer, made: list[Made], tmp_path: Path
) -> None:
    (tmp_path / "live").mkdir()
    for number, each in enumerate(made):
        each.write(tmp_path / str(number), "site")
    link = tmp_path / "live" / "data"
    link.symlink_to(tmp_path / "0")
    server = await start_server(
        app, certfile=(str(link / "site.pem"),), keyfile=(str(link / "site.key"),)
    )
    seen: dict[frozenset[str], int] = {}
    is_over = False

    async def ask_on() -> None:
        while not is_over:
            hosts = frozenset(await served_hosts(server, issuer))
            seen[hosts] = seen.get(hosts, 0) + 1

    async with asyncio.TaskGroup() as clients:
        for _ in range(3):
            clients.create_task(ask_on())
        for swap in range(1, 21):
            new = tmp_path / "new"
            new.symlink_to(tmp_path / str(swap % 2))
            new.rename(link)
            await until_served(server, issuer, ("old.example", "new.example")[swap % 2])
        is_over = True
    assert set(seen) == {
        frozenset({"localhost", "old.example"}),
        frozenset({"localhost", "new.example"}),
    }
    assert sum(seen.values()) > 20


@on_each_loop
async def test_a_server_tells_when_its_certificates_expire(
    start_server: StartServer, made: list[Made], tmp_path: Path, issuer: Issuer
) -> None:
    pair = made[0].write(tmp_path, "site")
    server = await start_server(app, certfile=(pair.certfile,), keyfile=(pair.keyfile,))
    assert server.certificates_expire_at is not None
    assert abs(server.certificates_expire_at - time.time() - 90 * 86400) < 3600
    async with (
        aiowsgi.serve(app, "127.0.0.1", 0) as plain,
        aiowsgi.serve(app, "127.0.0.1", 0, ssl=server_context([pair])) as with_context_of_host,
    ):
        for each in (plain, with_context_of_host):
            assert each.certificates_expire_at is None
            assert not each.renew_certificates("the test")


@on_each_loop
async def test_an_end_that_is_near_is_told_at_the_start(
    start_server: StartServer, issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for days, told in ((5.5, "expires on"), (-0.5, "has expired on")):
        pair = issuer.issue("localhost", days=(-1, days)).write(tmp_path, "site")
        await start_server(app, certfile=(pair.certfile,), keyfile=(pair.keyfile,))
        (text,) = [text for text in caplog.messages if "expire" in text]
        assert f"The certificate {pair.certfile} {told} 20" in text
        caplog.clear()


async def test_a_look_that_hangs_does_not_keep_the_server_from_stopping(
    made: list[Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = made[0].write(tmp_path, "site")
    has_begun, may_end = threading.Event(), threading.Event()
    look_at = renewal.look_at

    def hang(paths: Iterable[str]) -> Any:
        has_begun.set()
        may_end.wait(PATIENCE)
        return look_at(paths)

    monkeypatch.setattr(renewal, "look_at", hang)
    config = aiowsgi.Config(certfile=(pair.certfile,), keyfile=(pair.keyfile,))
    try:
        async with aiowsgi.serve(app, "127.0.0.1", 0, config=config) as server:
            assert server.renew_certificates("the test")
            await asyncio.to_thread(has_begun.wait, PATIENCE)
        assert not may_end.is_set()
    finally:
        may_end.set()


async def test_nothing_is_left_to_look_once_the_server_has_stopped(
    made: list[Made], tmp_path: Path
) -> None:
    pair = made[0].write(tmp_path, "site")
    config = aiowsgi.Config(certfile=(pair.certfile,), keyfile=(pair.keyfile,))
    async with aiowsgi.serve(app, "127.0.0.1", 0, config=config) as server:
        found = weakref.ref(server._renewal)
        assert found() is not None
    del server
    gc.collect()  # A timer of the loop would hold it.
    assert found() is None


# In processes.


class Site:
    """A certificate in files, and a process that serves it."""

    def __init__(self, folder: Path, issuer: Issuer, made: list[Made]) -> None:
        self._folder, self._issuer, self._made = folder, issuer, made
        self.pair = made[0].write(folder, "site")
        self.options = ("--certfile", self.pair.certfile, "--keyfile", self.pair.keyfile)

    def renew(self) -> None:
        """Write the new certificate, as a whole."""
        new = self._made[1].write(self._folder, "next")
        os.replace(new.certfile, self.pair.certfile)
        os.replace(new.keyfile, self.pair.keyfile)

    def hosts(self, port: int) -> set[str]:
        """Connect, and return the hosts of the certificate."""
        context = self._issuer.client_context()
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert tls.recv(4096).startswith(b"HTTP/1.1 200 ")
            return hosts_of(tls)


@pytest.fixture
def site(tmp_path: Path, issuer: Issuer, made: list[Made]) -> Site:
    return Site(tmp_path, issuer, made)


def port_of(process: ServedProcess) -> int:
    return int(process.said(r" Serving .* at https://127\.0\.0\.1:(\d+) ")[1])


def test_one_process_reads_certificates_again_on_hangup(tmp_path: Path, site: Site) -> None:
    with served(tmp_path, ANSWER, *site.options) as process:
        port = port_of(process)
        assert site.hosts(port) == {"localhost", "old.example"}
        site.renew()
        process.signal(signal.SIGHUP)
        process.said("WARNING Reading the certificates again on SIGHUP, and nothing else: a single")
        process.said(f"Asked by SIGHUP: certificates were read again.* {site.pair.certfile}")
        assert site.hosts(port) == {"localhost", "new.example"}
        assert process.stop() == 0


def test_workers_read_certificates_again_on_hangup(tmp_path: Path, site: Site) -> None:
    with served(tmp_path, ANSWER, *site.options, "--workers", "2") as process:
        port = port_of(process)
        assert site.hosts(port) == {"localhost", "old.example"}
        before = children_of(process.pid)
        site.renew()
        process.signal(signal.SIGHUP)
        process.said("Reloaded: 2 workers, in ")
        in_time(lambda: not before & children_of(process.pid), "the old ones have ended")
        assert site.hosts(port) == {"localhost", "new.example"}
        assert process.stop() == 0


@exhaustive
def test_each_worker_reads_certificates_again_by_itself(tmp_path: Path, site: Site) -> None:
    with served(tmp_path, ANSWER, *site.options, "--workers", "2") as process:
        port_of(process)
        site.renew()
        first = process.said(r"\[(\d+)\] Files have changed: certificates were read again")[1]
        second = process.said(r"\[(\d+)\] Files have changed: certificates were read again")[1]
        assert first != second
        assert process.stop() == 0
