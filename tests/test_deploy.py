"""What the page about deploying shows, as it stands there: each example is run, or checked by the
program that it is for. Only addresses and folders are replaced.
"""

import contextlib
import grp
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import pytest
import service_manager
from proxies import (
    KINDS,
    NGINX_FOLDERS,
    NGINX_MAIN,
    TIMEOUT,
    TLS_KINDS,
    UWSGI_PARAMS,
    Front,
    configured_front,
    kept_port,
)
from sandbox import sandboxed
from test_user import needs_open_interpreter, needs_root
from tools import tool
from waiting import eventually

import aiowsgi
from aiowsgi.cli.arguments import parse_arguments

PAGE = Path(__file__).parent.parent / "docs" / "deploy.md"

# Says what it was asked for, and by which process it is served.
APPLICATION = """
import json
import os

FIELDS = ("HTTP_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_CONNECTION")

def application(environ, start_response):
    answer = {field: environ.get(field) for field in FIELDS}
    answer["path"] = environ["PATH_INFO"]
    answer["script"] = environ["SCRIPT_NAME"]
    answer["scheme"] = environ["wsgi.url_scheme"]
    answer["client"] = environ["REMOTE_ADDR"]
    answer["pid"] = os.getpid()
    answer["length"] = len(environ["wsgi.input"].read())
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

NGINX = (
    NGINX_MAIN
    + "events {} http { access_log log;"
    + NGINX_FOLDERS
    + """%s
}
"""
)

UNITS = {
    "shop.socket": "/etc/systemd/system/shop.socket",
    "shop.service": "/etc/systemd/system/shop.service",
    "shop@.service": "/etc/systemd/system/shop@.service",
    "shop.service.d/logs.conf": "/etc/systemd/system/shop.service.d/logs.conf",
    "shop.service.d/hardened.conf": "/etc/systemd/system/shop.service.d/hardened.conf",
    "shop.service.d/socket.conf": "/etc/systemd/system/shop.service.d/socket.conf",
}
# Another unit of the same name, which stands for two of these.
ALONE = "/etc/systemd/system/shop.service, with workers"


def example(name: str) -> str:
    """Return the text of the example whose first line is a comment that says ``name``."""
    match = re.search(rf"^```\w*\n# {re.escape(name)}\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert match is not None, f"the page has no example {name!r}"
    return match[1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the code of the shop; a short path, because it has Unix sockets in it."""
    with tempfile.TemporaryDirectory() as name:
        package = Path(name) / "shop" / "shop"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "wsgi.py").write_text(APPLICATION)
        static = Path(name) / "shop" / "static"
        static.mkdir()
        (static / "logo.svg").write_text("<svg/>")
        yield Path(name)


def moved(text: str, folder: Path) -> str:
    """Return an example with the folders of this test in place of the system's."""
    for old, new in (
        ("/srv/shop/.venv/bin/aiowsgi", f"{sys.executable} -m aiowsgi"),
        ("/srv/shop", f"{folder}/shop"),
        ("/run/", f"{folder}/"),
        ("/etc/ssl/", f"{folder}/"),
        ("/etc/haproxy/", f"{folder}/"),
        ("/var/log/shop", f"{folder}/log"),
    ):
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running(
    command: Sequence[str], folder: Path, *, exit_code: int = 0, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server; its messages go to the file ``messages``, where no error may be."""
    messages = folder / "messages"
    with messages.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=file, cwd=folder / "shop", **options
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == exit_code
    finally:
        process.kill()
        process.wait(TIMEOUT)
    assert not re.search("ERROR|CRITICAL|Traceback", messages.read_text()), messages.read_text()


def service_command(unit: str, folder: Path) -> list[str]:
    """Return the command of a service."""
    match = re.search(r"^ExecStart=(.*)$", moved(example(UNITS[unit]), folder), re.MULTILINE)
    assert match is not None
    return shlex.split(match[1])


@contextlib.contextmanager
def activated(folder: Path, *, tcp: bool = False) -> Iterator[socket.socket]:
    """Run the service as systemd does; give the socket that it listens on."""
    socket_unit = moved(example(UNITS["shop.socket"]), folder)
    match = re.search(r"^ListenStream=(.*)$", socket_unit, re.MULTILINE)
    assert match is not None
    path = Path(match[1])
    with (
        socket.create_server(("127.0.0.1", 0)) if tcp else listening(path) as sock,
        sharing(sock, "shop.service", folder),
    ):
        yield sock


# The line of each proxy that names the server, for a Unix socket and for TCP. The example has one,
# and the text below it the other.
LINES = {
    "nginx": ("server unix:/run/shop.sock fail_timeout=0;", "server 127.0.0.1:8000;"),
    "haproxy": ("server shop1 unix@/run/shop.sock check", "server shop1 127.0.0.1:8000 check"),
    "apache": (
        "ProxyPass / unix:/run/shop.sock|http://shop/ ttl=60",
        "ProxyPass / http://127.0.0.1:8000/ ttl=60",
    ),
    "caddy": ("reverse_proxy unix//run/shop.sock {", "reverse_proxy 127.0.0.1:8000 {"),
}


def reaching(sock: socket.socket, proxy: str, text: str) -> str:
    """Return the configuration of a proxy, changed as the page says to reach this socket."""
    unix, tcp = LINES[proxy]
    shown, other = (unix, tcp) if unix in text else (tcp, unix)
    assert text.count(shown) == 1
    assert f"`{other}`" in PAGE.read_text()
    if sock.family == socket.AF_UNIX:
        return text.replace(shown, unix)
    return text.replace(shown, tcp.replace("8000", str(sock.getsockname()[1])))


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Give a Unix socket that listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock


@contextlib.contextmanager
def sharing(
    sock: socket.socket, unit: str, folder: Path, output: int | BinaryIO = subprocess.DEVNULL
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a service that listens on a socket which others may have too."""
    command = service_command(unit, folder)
    if sock.family != socket.AF_UNIX:
        assert PAGE.read_text().count("`--forwarded-allow-ips 127.0.0.1`") >= 2
        command[command.index("--forwarded-allow-ips") + 1] = "127.0.0.1"
    given = service_manager.service(command, [sock])
    with running(folder=folder, stdout=output, **given) as process:
        yield process


@pytest.fixture
def certificate(folder: Path) -> Path:
    """Make the files that the proxies name, and return the certificate."""
    subprocess.run(
        [
            *(tool("openssl", package="openssl"), "req", "-x509", "-newkey", "ec", "-nodes"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=shop.example"),
            *("-addext", "subjectAltName=DNS:shop.example", "-days", "2"),
            *("-keyout", "shop.key", "-out", "certificate"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=TIMEOUT,
    )
    certificate = folder / "certificate"
    # HAProxy has both in one file; nginx passes over the key.
    (folder / "shop.pem").write_text(certificate.read_text() + (folder / "shop.key").read_text())
    return certificate


def ask(listener: socket.socket, path: str, body: bytes | None = None) -> bytes:
    """Return the body of the answer of whoever accepts on a socket."""
    sock = socket.socket(listener.family, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    sock.connect(listener.getsockname())
    return fetch(sock, path, body)


def ask_proxy(proxy: Front, path: str, certificate: Path, body: bytes | None = None) -> bytes:
    """Return the body of the answer of a proxy, over TLS."""
    context = ssl.create_default_context(cafile=certificate)
    sock = context.wrap_socket(proxy.connect(), server_hostname="shop.example")
    claimed = {
        "X-Forwarded-For": "192.0.2.66",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "0",
        "X-Forwarded-Prefix": "/../evil",
    }
    return fetch(sock, path, body, claimed)


def fetch(
    sock: socket.socket,
    path: str,
    body: bytes | None = None,
    fields: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    client = HTTPConnection("shop.example", timeout=TIMEOUT)
    client.sock = sock
    with contextlib.closing(client):
        client.request("GET" if body is None else "POST", path, body, fields)
        response = client.getresponse()
        assert response.status == 200
        return response.read()


def assert_forwarded(proxy: Front, certificate: Path, peer: str) -> None:
    """Check what the application sees; ``peer`` is where the proxy comes from."""
    # Also over connections that were used before.
    for _ in range(3):
        answer = json.loads(ask_proxy(proxy, "/cart", certificate, b"four"))
        assert answer["HTTP_HOST"] == "shop.example"
        assert answer["HTTP_X_FORWARDED_PROTO"] == "https"
        assert answer["HTTP_CONNECTION"] in (None, "Keep-Alive")
        assert answer["path"] == "/cart"
        # What the proxy knows of a client, which may come on a Unix socket; not what that says.
        assert answer["HTTP_X_FORWARDED_FOR"] in ("unix:", "", "127.0.0.1")
        assert answer["client"] == (answer["HTTP_X_FORWARDED_FOR"] or peer)
        assert answer["scheme"] == "https"
        assert answer["length"] == 4


@pytest.mark.parametrize("alone", [False, True], ids=["", "alone"])
def test_units_are_right_in_the_eyes_of_systemd(folder: Path, alone: bool) -> None:
    units = UNITS | {"shop.service": ALONE} if alone else UNITS
    for unit, name in units.items():
        path = folder / unit
        path.parent.mkdir(exist_ok=True)
        path.write_text(moved(example(name), folder))
    (folder / "log").mkdir()
    result = subprocess.run(
        [
            *(tool("systemd-analyze", package="systemd"), "verify"),
            *("./shop.socket", "./shop.service", "./shop@1.service"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    # Much of what is wrong is only said, and changes no exit code.
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# What a hardened service cannot do any more, one for each option that the stand-in knows.
REFUSED = """
import ctypes
import mmap
import os
import socket
import sys
import threading

def refused(call, *arguments):
    try:
        return call(*arguments) == -1
    except OSError:
        return True

print(
    threading.get_ident() != 0,
    refused(os.nice, 1),
    refused(os.chown, sys.executable, 0, 0),
    refused(mmap.mmap, -1, 4096, mmap.MAP_PRIVATE, 7),
    refused(os.chmod, "file", 0o4755),
    refused(ctypes.CDLL(None).unshare, 0x10000000),
    refused(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
    refused(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
    refused(ctypes.CDLL(None).personality, 0x0040000),
)
"""


def test_stand_in_takes_from_a_program_what_systemd_would(folder: Path) -> None:
    (folder / "file").touch()
    result = subprocess.run(
        sandboxed(example(UNITS["shop.service.d/hardened.conf"]), [sys.executable, "-c", REFUSED]),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (result.stdout.split(), result.stderr) == (["True"] * 9, "")


@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--workers", "2", "--preload")])
def test_hardened_service_works(folder: Path, options: tuple[str, ...]) -> None:
    path = f"{folder}/shop.sock"
    command = [*service_command("shop.service", folder), *options, "--body-spool", "16MiB"]
    hardened = sandboxed(example(UNITS["shop.service.d/hardened.conf"]), command)
    with (
        service_manager.listening(folder) as systemd,
        listening(Path(path)) as sock,
        running(
            folder=folder,
            stdout=subprocess.DEVNULL,
            **service_manager.service(
                hardened, [sock], variables={"NOTIFY_SOCKET": systemd.address}
            ),
        ) as process,
    ):
        systemd.hear_of("READY")
        # Longer than what is kept in memory, so that there is a temporary file.
        assert json.loads(ask(sock, "/cart", b"x" * (1 << 20)))["length"] == 1 << 20
        if options:
            process.send_signal(signal.SIGHUP)
            systemd.hear_of("RELOADING")
            assert "not reloaded" not in systemd.hear_of("READY")["STATUS"]
            assert json.loads(ask(sock, "/cart"))["path"] == "/cart"
    messages = (folder / "messages").read_text().splitlines()
    # The stand-in changes no user: where root runs the tests, the service is root's.
    assert not [line for line in messages if "WARNING" in line and "runs as root" not in line]


def test_service_with_workers_reloads_and_stops(folder: Path) -> None:
    match = re.search(r"^ExecStart=(.*)$", moved(example(ALONE), folder), re.MULTILINE)
    assert match is not None
    command = shlex.split(match[1].replace("127.0.0.1:8000", "127.0.0.1:0"))
    with (
        service_manager.listening(folder) as systemd,
        running(
            folder=folder,
            stdout=subprocess.DEVNULL,
            **service_manager.service(command, variables={"NOTIFY_SOCKET": systemd.address}),
        ) as process,
    ):
        assert systemd.hear_of("READY")["STATUS"].startswith("4 workers")
        port = re.search(r"http://127\.0\.0\.1:(\d+)", (folder / "messages").read_text())
        assert port is not None
        process.send_signal(signal.SIGHUP)
        systemd.hear_of("RELOADING")
        systemd.hear_of("READY")
        assert fetch(socket.create_connection(("127.0.0.1", int(port[1])), TIMEOUT), "/cart")


def connects(path: Path, user: int, *groups: int) -> bool:
    """Return whether a user who is in these groups may connect."""
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", program, path],
        user=user,
        group=groups[0],
        extra_groups=groups[1:],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0 or "PermissionError: [Errno 13]" in result.stderr, result.stderr
    return not result.returncode


@needs_root
@needs_open_interpreter
def test_web_server_may_connect_to_the_socket_and_nobody_else(folder: Path) -> None:
    drop_in = moved(example(UNITS["shop.service.d/socket.conf"]), folder)
    assert re.findall(r"^(?:Runtime|Supp)\w+=(.*)$", drop_in, re.M) == ["shop", "www-data"]
    command = shlex.split(re.findall(r"^ExecStart=(.+)$", drop_in, re.M)[-1])
    socket_folder = folder / "run"
    command = [part.replace(f"{folder}/shop/web", f"{socket_folder}/web") for part in command]
    # As systemd does; the user and the group of the service are in no database here.
    shop, www_data = 54321, grp.getgrnam("www-data").gr_gid
    folder.chmod(0o755)
    socket_folder.mkdir()
    os.chown(socket_folder, shop, shop)
    with running(
        command,
        folder,
        stdout=subprocess.DEVNULL,
        user=shop,
        group=shop,
        extra_groups=[www_data],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    ):
        path = socket_folder / "web.sock"
        eventually(lambda: "Serving" in (folder / "messages").read_text(), "it serves")
        assert connects(path, 33333, 33333, www_data)
        assert connects(path, 33333, www_data)
        assert not connects(path, 33333, 33333)
        # The first of the rows about 502: a folder that the web server may not enter.
        os.chmod(socket_folder, 0o750)
        assert not connects(path, 33333, www_data)
    assert not path.exists()


def test_processes_share_the_socket_of_systemd(folder: Path) -> None:
    def served_by() -> int:
        pid = json.loads(ask(sock, "/cart"))["pid"]
        assert isinstance(pid, int)
        return pid

    with (
        listening(folder / "shop.sock") as sock,
        sharing(sock, "shop@.service", folder) as first,
    ):
        with sharing(sock, "shop@.service", folder) as second:
            with stopped(first):
                assert served_by() == second.pid
            with stopped(second):
                assert served_by() == first.pid
        # One has ended; the socket is still open for the other.
        assert served_by() == first.pid


@contextlib.contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Have a process do nothing, so that only others can accept."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_nginx_serves_the_shop(folder: Path, certificate: Path, tcp: bool) -> None:
    text = example("/etc/nginx/conf.d/shop.conf")
    text, count = re.subn("listen 443", "listen unix:front", text)
    assert count == 1
    with activated(folder, tcp=tcp) as sock:
        text = reaching(sock, "nginx", text)
        with configured_front(KINDS["nginx"], folder, NGINX % moved(text, folder)) as proxy:
            assert_forwarded(proxy, certificate, "127.0.0.1" if tcp else "")
            assert ask_proxy(proxy, "/static/logo.svg", certificate) == b"<svg/>"
            assert not (folder / "errors").read_text()


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_nginx_serves_the_shop_through_uwsgi_pass(
    folder: Path, certificate: Path, tcp: bool
) -> None:
    text = example("/etc/nginx/conf.d/shop.conf, with uwsgi_pass")
    below = example("/etc/nginx/conf.d/shop.conf, below a path")
    text = text.replace("listen 443", "listen unix:front")
    text = text.replace("    location / {", below + "    location / {")
    (folder / "uwsgi_params").write_text(UWSGI_PARAMS)
    unix = f"{folder}/shop.sock"
    with socket.create_server(("127.0.0.1", 0)) if tcp else listening(Path(unix)) as sock:
        if tcp:
            assert "`server 127.0.0.1:3031;`" in PAGE.read_text()
            text = text.replace(
                "server unix:/run/shop.sock fail_timeout=0;",
                f"server 127.0.0.1:{sock.getsockname()[1]};",
            )
        # What the page says of a socket of systemd.
        assert "`--bind uwsgi:systemd`" in PAGE.read_text()
        command = [sys.executable, "-m", "aiowsgi", "shop.wsgi", "--bind", "uwsgi:systemd"]
        with (
            running(
                folder=folder,
                stdout=subprocess.DEVNULL,
                **service_manager.service(command, [sock]),
            ),
            configured_front(KINDS["nginx"], folder, NGINX % moved(text, folder)) as proxy,
        ):
            for _ in range(2):
                answer = json.loads(ask_proxy(proxy, "/cart", certificate, b"four"))
                assert answer["HTTP_HOST"] == "shop.example"
                assert (answer["scheme"], answer["client"]) == ("https", "unix:")
                assert (answer["script"], answer["path"], answer["length"]) == ("", "/cart", 4)
                # Not what the client says.
                assert answer["HTTP_X_FORWARDED_FOR"] is answer["HTTP_X_FORWARDED_PROTO"] is None
            answer = json.loads(ask_proxy(proxy, "/shop/a", certificate))
            assert (answer["script"], answer["path"]) == ("/shop", "/a")


def test_nginx_takes_websockets_elsewhere(folder: Path, certificate: Path) -> None:
    shop = moved(example("/etc/nginx/conf.d/shop.conf"), folder)
    location = example("/etc/nginx/conf.d/shop.conf, for WebSockets")
    text = shop.replace("listen 443", "listen unix:front")
    text = text.replace("    location / {", location + "    location / {")
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(TIMEOUT)
        text, count = re.subn("127.0.0.1:8010", f"127.0.0.1:{elsewhere.getsockname()[1]}", text)
        assert count == 1
        with configured_front(KINDS["nginx"], folder, NGINX % text) as proxy:
            context = ssl.create_default_context(cafile=certificate)
            with context.wrap_socket(proxy.connect(), server_hostname="shop.example") as client:
                client.sendall(
                    b"GET /ws/chat HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\n"
                    b"Upgrade: websocket\r\n\r\n"
                )
                server, _ = elsewhere.accept()
                server.settimeout(TIMEOUT)
                with server, server.makefile("rwb") as stream:
                    head = b"".join(iter(stream.readline, b"\r\n")).lower()
                    assert b"\r\nupgrade: websocket\r\n" in head
                    assert b"\r\nconnection: upgrade\r\n" in head
                    stream.write(
                        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
                        b"Upgrade: websocket\r\n\r\nhello"
                    )
                    stream.flush()
                    with client.makefile("rb") as answer:
                        assert b" 101 " in answer.readline()
                        while answer.readline() != b"\r\n":
                            pass
                        assert answer.read(5) == b"hello"


# What Debian's configuration says of Apache beside the sites.
APACHE = """
ServerName front
DefaultRuntimeDir .
PidFile pid
Listen 127.0.0.1:%d
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule alias_module {modules}/mod_alias.so
LoadModule ssl_module {modules}/mod_ssl.so
LoadModule headers_module {modules}/mod_headers.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
User www-data
Group www-data
ErrorLog /dev/stderr
LogLevel warn
""".format(modules="/usr/lib/apache2/modules")


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_apache_serves_the_shop(folder: Path, certificate: Path, tcp: bool) -> None:
    text = example("/etc/apache2/sites-available/shop.conf")
    assert "`a2enmod ssl headers proxy proxy_http`" in PAGE.read_text()
    folder.chmod(0o755)  # It is another user.
    with activated(folder, tcp=tcp) as sock, kept_port() as port:
        if not tcp:  # In place of SocketGroup=.
            os.chmod(sock.getsockname(), 0o666)
        text = reaching(sock, "apache", text.replace("*:443", f"*:{port}"))
        configuration = APACHE % port + moved(text, folder)
        with configured_front(KINDS["apache"], folder, configuration, port) as proxy:
            assert_forwarded(proxy, certificate, "127.0.0.1" if tcp else "")
            assert ask_proxy(proxy, "/static/logo.svg", certificate) == b"<svg/>"


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_caddy_serves_the_shop(folder: Path, certificate: Path, tcp: bool) -> None:
    text = example("/etc/caddy/Caddyfile")
    with activated(folder, tcp=tcp) as sock, kept_port() as port:
        text = reaching(sock, "caddy", text)
        # It would get a certificate for the name.
        site = f"https://shop.example:{port} {{\nbind 127.0.0.1\ntls shop.pem shop.key\n"
        text = "{\nadmin off\nauto_https off\n}\n" + text.replace("shop.example {\n", site)
        with configured_front(KINDS["caddy"], folder, moved(text, folder), port) as proxy:
            assert_forwarded(proxy, certificate, "127.0.0.1" if tcp else "")
            assert ask_proxy(proxy, "/static/logo.svg", certificate) == b"<svg/>"


@pytest.mark.parametrize("proxy", ["nginx", "HAProxy", "Apache", "Caddy"])
def test_tls_to_the_server_is_written_as_other_tests_have_it(proxy: str) -> None:
    match = re.search(rf"^\| {proxy} \| (.*(?:ssl|SSL|tls).*) \|$", PAGE.read_text(), re.MULTILINE)
    assert match is not None
    kind = TLS_KINDS[f"{proxy.lower()}-tls"]
    tested = (kind.options + kind.parameters).replace("{ca}", "ca.pem")
    code = re.findall(r"`([^`]*(?:ssl|SSL|tls)[^`]*)`", match[1])
    assert len(code) >= (1 if proxy == "HAProxy" else 3)
    for text in code:
        assert text.replace("shop.internal", "localhost") in tested


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_haproxy_serves_the_shop(folder: Path, certificate: Path, tcp: bool) -> None:
    text = example("/etc/haproxy/haproxy.cfg")
    text, count = re.subn("bind :443", "bind unix@front", text)
    assert count == 1
    with activated(folder, tcp=tcp) as sock:
        text = reaching(sock, "haproxy", text)
        with configured_front(KINDS["haproxy"], folder, moved(text, folder)) as proxy:
            assert_forwarded(proxy, certificate, "127.0.0.1" if tcp else "")
        checked = subprocess.run(
            [tool("haproxy", package="haproxy"), "-c", "-f", "configuration"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    assert checked.returncode == 0
    assert "WARNING" not in checked.stderr


def test_command_of_the_container_serves_and_stops(folder: Path) -> None:
    dockerfile = example("Dockerfile")
    match = re.search(r"^CMD (.*)$", dockerfile, re.MULTILINE)
    assert match is not None
    program, *arguments = json.loads(match[1])
    assert program == "aiowsgi"
    arguments = [text.replace("0.0.0.0:8000", "127.0.0.1:0") for text in arguments]
    with running([sys.executable, "-m", "aiowsgi", *arguments], folder):
        messages = folder / "messages"
        eventually(lambda: "Serving" in messages.read_text(), messages.read_text)
        url = re.search(r"http://127\.0\.0\.1:(\d+)", messages.read_text())
        assert url is not None
        assert fetch(socket.create_connection(("127.0.0.1", int(url[1])), TIMEOUT), "/cart")


def test_image_runs_the_server_without_a_shell_and_not_as_root() -> None:
    lines = [line.partition(" ") for line in example("Dockerfile").splitlines()]
    instructions = {name: text for name, _, text in lines}
    assert list(instructions)[-1] == "CMD"
    assert "ENTRYPOINT" not in instructions
    # Kubernetes cannot tell of a name whether it is root's.
    assert int(instructions["USER"]) > 0
    assert f"useradd --system --uid {instructions['USER']} shop" in example("Dockerfile")
    assert instructions["STOPSIGNAL"] == "SIGTERM"
    # docker stop kills after ten seconds.
    _, config = parse_arguments(json.loads(instructions["CMD"])[1:])
    assert config.drain_delay + config.timeout_graceful < 10


def manifests() -> dict[str, Any]:
    """Return the parts of the example for Kubernetes by their kinds."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is of the extra test")
    return {part["kind"]: part for part in yaml.safe_load_all(example("shop.yaml"))}


def test_the_arguments_of_a_container_with_certificates_are_a_command() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is of the extra test")
    (text,) = re.findall(r"```yaml\n(.*?)```", (PAGE.parent / "tls.md").read_text(), re.DOTALL)
    pod = yaml.safe_load(text)
    (container,) = pod["containers"]
    program, *arguments = container["args"]
    # In place of the CMD of the image, which has no entry point.
    assert program == "aiowsgi"
    _, config = parse_arguments(arguments)
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert config.certfile == (f"{mount['mountPath']}/tls.crt",)
    assert config.keyfile == (f"{mount['mountPath']}/tls.key",)


def test_times_and_names_in_the_manifest_fit_each_other() -> None:
    parts = manifests()
    deployment, pod = parts["Deployment"], parts["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    program, *arguments = container["args"]
    assert program == "aiowsgi"
    _, config = parse_arguments(arguments)
    # A worker is killed five seconds after its time is over.
    longest = config.drain_delay + config.timeout_graceful + 5
    assert longest < pod["spec"]["terminationGracePeriodSeconds"]
    (port,) = container["ports"]
    assert config.bind == (f"0.0.0.0:{port['containerPort']}",)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert (asked["path"], asked["port"]) == (config.health_path, port["name"])
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < config.drain_delay
    assert container["securityContext"]["runAsNonRoot"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["spec"]["volumes"]
    }
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert parts["Service"]["spec"]["selector"] == labels
    assert parts["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    scaled = parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])


def test_command_of_the_manifest_is_ready_and_says_so_while_it_stops(folder: Path) -> None:
    container = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    path = container["readinessProbe"]["httpGet"]["path"]
    arguments = [text.replace("0.0.0.0:8000", "127.0.0.1:0") for text in container["args"]]
    command = [sys.executable, "-m", *(a for a in arguments if "--drain-delay" not in a)]
    command += ["--drain-delay", "60"]
    # The test does not wait for the delay: a second signal ends it.
    with running(command, folder, exit_code=128 + signal.SIGTERM) as process:
        messages = folder / "messages"
        eventually(lambda: "Serving" in messages.read_text(), messages.read_text)
        url = re.search(r"http://127\.0\.0\.1:(\d+)", messages.read_text())
        assert url is not None

        def status() -> int:
            client = HTTPConnection("127.0.0.1", int(url[1]), timeout=TIMEOUT)
            with contextlib.closing(client):
                client.request("GET", path)
                return client.getresponse().status

        assert status() == 200
        process.send_signal(signal.SIGTERM)
        eventually(lambda: status() == 503, "the probe notices the end")


def test_image_installs_the_wheel_of_this_version() -> None:
    assert f"/aiowsgi_server-{aiowsgi.__version__}-py3-none-any.whl[speed]" in example("Dockerfile")


def rotate(folder: Path, name: str) -> None:
    """Run logrotate with an example, on the folder of this test."""
    text = moved(example(f"/etc/logrotate.d/shop, for files of {name}"), folder)
    # Only the system's administrator can act for somebody else.
    text = re.sub(r"^ *su .*\n", "", text, flags=re.MULTILINE)
    configuration = folder / "logrotate"
    configuration.write_text(text)
    configuration.chmod(0o644)
    program = tool("logrotate", package="logrotate")
    subprocess.run(
        [program, "--force", "--state", "state", "logrotate"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=TIMEOUT,
    )


def test_files_of_systemd_are_rotated(folder: Path) -> None:
    log = folder / "log" / "access.log"
    log.parent.mkdir()
    with (
        # As StandardOutput=append: opens it.
        log.open("ab") as output,
        listening(folder / "shop.sock") as sock,
        sharing(sock, "shop.service", folder, output),
    ):
        ask(sock, "/before")
        eventually(lambda: "/before" in log.read_text(), log.read_text)
        rotate(folder, "systemd")
        assert "/before" in log.with_suffix(".log.1").read_text()
        ask(sock, "/behind")
        eventually(lambda: "/behind" in log.read_text(), log.read_text)
    assert "/before" not in log.read_text()
    # The server writes at the end of the file, not where it was before.
    assert b"\0" not in log.read_bytes()


def test_files_of_the_application_are_rotated(folder: Path) -> None:
    log = folder / "log" / "access.log"
    log.parent.mkdir()
    package = folder / "shop" / "shop"
    (package / "logs.py").write_text(moved(example("shop/logs.py"), folder))
    application = package / "wsgi.py"
    application.write_text(f"import shop.logs\n{application.read_text()}")
    with listening(folder / "shop.sock") as sock, sharing(sock, "shop.service", folder):
        ask(sock, "/before")
        eventually(lambda: "/before" in log.read_text(), log.read_text)
        rotate(folder, "the application")
        ask(sock, "/behind")
        eventually(lambda: log.exists() and "/behind" in log.read_text(), lambda: "no new file")
    assert "/before" in log.with_suffix(".log.1").read_text()
    assert "/before" not in log.read_text()
