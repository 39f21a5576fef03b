"""Several addresses at once, each with a protocol and a trust of its own, through what befalls a
process: several workers, a reload, an upgrade.
"""

import json
import os
import re
import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from extent import representative
from proxies import open_folder
from served_process import PATIENCE, served
from uwsgi_packets import request

APPLICATION = """
import json

def application(environ, start_response):
    start_response("200 OK", [])
    keys = ("REMOTE_ADDR", "wsgi.url_scheme")
    return [json.dumps([environ[key] for key in keys]).encode()]
"""
CLAIM = (
    b"GET / HTTP/1.0\r\nHost: h\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n"
)
HEADER = b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 443\r\n"
PACKET = request(REMOTE_ADDR="192.0.2.8", HTTPS="on")

Connect = Callable[[], socket.socket]


def ask(connect: Connect, data: bytes) -> Any:
    """Return what the application says of a request, or the first line of another answer."""
    with connect() as sock, sock.makefile("rb") as reader:
        sock.settimeout(PATIENCE)
        sock.sendall(data)
        answer = reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return head.partition(b"\r\n")[0].decode()
    return json.loads(body)


def on_path(path: str) -> Connect:
    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        return sock

    return connect


def on_port(port: str) -> Connect:
    return lambda: socket.create_connection(("127.0.0.1", int(port)), PATIENCE)


def over_tls(connect: Connect, context: ssl.SSLContext) -> Connect:
    return lambda: context.wrap_socket(connect(), server_hostname="localhost")


class Site:
    """What listens, and what each address is expected to answer."""

    def __init__(
        self, ports: list[str], certificates: Certificates, folder: Path, name: str
    ) -> None:
        self._ports = [on_port(port) for port in ports]
        self._context = certificates.client_context()
        self._folder = folder
        # Of the abstract socket; empty where there are no Unix sockets.
        self._name = name

    def check(self) -> None:
        plain, trusting, tls, tls_proxy, proxy, uwsgi = self._ports

        def behind_header() -> socket.socket:
            sock = tls_proxy()
            sock.sendall(HEADER)
            return self._context.wrap_socket(sock, server_hostname="localhost")

        assert ask(plain, CLAIM) == ["127.0.0.1", "http"]
        assert ask(trusting, CLAIM) == ["192.0.2.7", "https"]
        assert ask(over_tls(tls, self._context), CLAIM) == ["127.0.0.1", "https"]
        assert ask(behind_header, CLAIM) == ["192.0.2.9", "https"]
        assert ask(proxy, HEADER + CLAIM) == ["192.0.2.9", "http"]
        assert ask(uwsgi, PACKET) == ["192.0.2.8", "https"]
        # Each speaks nothing else.
        for connect, data in ((plain, HEADER + CLAIM), (tls, CLAIM), (uwsgi, CLAIM)):
            assert ask(connect, data) == "HTTP/1.1 400 Bad Request"
        assert ask(proxy, CLAIM) == ""
        if not self._name:
            return
        assert ask(on_path(f"{self._folder}/trusting"), CLAIM) == ["192.0.2.7", "https"]
        assert ask(on_path(f"{self._folder}/plain"), CLAIM) == ["", "http"]
        assert ask(on_path(f"{self._folder}/uwsgi"), PACKET) == ["192.0.2.8", "https"]
        assert ask(on_path(f"\0{self._name}"), CLAIM) == ["", "http"]
        assert (self._folder / "trusting").stat().st_mode & 0o777 == 0o600
        assert (self._folder / "plain").stat().st_mode & 0o777 == 0o666


WAYS = ("", "--workers 2", "--workers 2 --preload", "--workers 2 --reuse-port")


@pytest.mark.parametrize("options", representative(WAYS, "--workers 2 --preload"))
def test_each_address_keeps_its_protocol_and_its_trust(
    options: str, certificates: Certificates
) -> None:
    name = "" if "reuse" in options else f"aiowsgi-together-{os.getpid()}"
    with open_folder() as folder:
        addresses = [
            "127.0.0.1:0",
            "127.0.0.1:0?trust=127.0.0.1",
            "tls:127.0.0.1:0",
            "tls:127.0.0.1:0?proxy=on&trust=127.0.0.1",
            "127.0.0.1:0?proxy=on&trust=127.0.0.1&backlog=7",
            "uwsgi:127.0.0.1:0",
        ]
        if name:
            addresses += [
                f"unix:{folder}/trusting?trust=unix&mode=600",
                f"unix:{folder}/plain",
                f"uwsgi:unix:{folder}/uwsgi",
                f"unix:@{name}",
            ]
        bind = [text for address in addresses for text in ("--bind", address)]
        common = ("--certfile", certificates.site, "--forwarded-allow-ips", "192.0.2.200")
        with served(folder, APPLICATION, *common, *options.split(), bind=tuple(bind)) as process:
            said = process.said(r" Serving .*? at (.*) with ")[1]
            ports = re.findall(r"://127\.0\.0\.1:(\d+)", said)
            site = Site(ports, certificates, folder, name)
            site.check()
            if not options:
                return
            process.signal(signal.SIGHUP)
            process.said(" Reloaded: ")
            site.check()
            process.signal(signal.SIGUSR2)
            successor = int(process.said(r" process (\d+) is started ")[1])
            process.said(" Upgraded: ")
            assert process.process.wait(PATIENCE) == 0
            site.check()
            os.kill(successor, signal.SIGTERM)
            process.ended()
