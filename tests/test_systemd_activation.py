"""Sockets that systemd has opened: which the server listens on, and what it says of the others.

The processes are real, and started as systemd starts them.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from served_process import PATIENCE, ServedProcess, served
from service_manager import service
from tools import tool
from uwsgi_packets import packet, stock_variables

from aiowsgi import Config, ConfigError
from aiowsgi.config import Origin
from aiowsgi.net.bind.bind import bind_all
from aiowsgi.process.systemd.activation import with_passed_sockets

# Says what its process has of what systemd gave, and what a program that it starts has.
APPLICATION = """
import json
import os
import subprocess
import sys

CHILD = "import json, os; print(json.dumps([dict(os.environ), os.listdir('/proc/self/fd')]))"

def application(environ, start_response):
    child = [sys.executable, "-c", CHILD]
    output = subprocess.run(child, close_fds=False, stdout=subprocess.PIPE, check=True).stdout
    variables, descriptors = json.loads(output)
    answer = {
        "ours": sorted(os.environ.keys() & {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}),
        "of the child": sorted({"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} & variables.keys()),
        "descriptors of the child": sorted(map(int, descriptors)),
        "path": environ["PATH_INFO"],
        "port": environ["SERVER_PORT"],
        "client": environ["REMOTE_ADDR"],
    }
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
COMMAND = (sys.executable, "-m", "aiowsgi", "app:application")

# What aiowsgi.run does in a program of somebody else.
PROGRAM = """
import aiowsgi
from app import application

aiowsgi.run(application, config=aiowsgi.Config({}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short name: the path of a Unix socket has about 100 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def web() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def admin() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def ask(listening: socket.socket, path: str = "/") -> Any:
    """Return what the application answers on a socket."""
    client = HTTPConnection("server.test", timeout=PATIENCE)
    client.sock = socket.socket(listening.family)
    client.sock.settimeout(PATIENCE)
    client.sock.connect(listening.getsockname())
    try:
        client.request("GET", path)
        return json.loads(client.getresponse().read())
    finally:
        client.close()


def url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def started(server: ServedProcess, *urls: str) -> None:
    """Wait until it says that it serves at these addresses, in this order."""
    assert server.said(" Serving .* at (.*) with .* on ")[1] == ", ".join(urls)


def fails(folder: Path, *options: str, **given: Any) -> str:
    """Return the one message of a command that is wrong."""
    with served(folder, APPLICATION, *options, bind=(), **given) as server:
        assert server.ended() == 2
    (line,) = server.lines
    assert line.startswith("aiowsgi: error: ")
    return line.removeprefix("aiowsgi: error: ")


@pytest.mark.parametrize("options", [(), ("--bind", "systemd")], ids=["without", "with"])
def test_sockets_are_listened_on(
    folder: Path, web: socket.socket, admin: socket.socket, options: tuple[str, ...]
) -> None:
    given = service(COMMAND, [web, admin])
    with served(folder, APPLICATION, *options, bind=(), **given) as server:
        started(server, url(web), url(admin))
        assert ask(web, "/shelf")["path"] == "/shelf"
        assert ask(admin)["port"] == str(admin.getsockname()[1])
        assert server.stop() == 0
    # They are systemd's, and go on: clients wait for the next process.
    with socket.create_connection(web.getsockname(), PATIENCE):
        pass


def test_unix_socket_keeps_its_file(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "s"))
        sock.listen()
        with served(folder, APPLICATION, bind=(), **service(COMMAND, [sock])) as server:
            started(server, f"unix:{folder}/s")
            assert ask(sock)["path"] == "/"
            assert server.stop() == 0
    assert (folder / "s").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("options", [(), ("--bind", "systemd:web"), ("--bind", "fd:3")])
def test_neither_the_application_nor_its_children_take_them(
    folder: Path, web: socket.socket, options: tuple[str, ...]
) -> None:
    given = service(COMMAND, [web], names="web")
    with served(folder, APPLICATION, *options, bind=(), **given) as server:
        started(server, url(web))
        answer = ask(web)
        assert answer["ours"] == answer["of the child"] == []
        # Its standard streams, and the one with which it reads the list.
        assert answer["descriptors of the child"] == [0, 1, 2, 3]
        assert server.stop() == 0
    assert not any("systemd" in line for line in server.lines)


def test_sockets_are_chosen_by_name(folder: Path, web: socket.socket, admin: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxied:
        given = service(COMMAND, [web, proxied, admin, web], names="web:proxy:admin:web")
        options = ["--bind", "systemd", "--bind", "uwsgi:systemd:proxy", "--bind", "systemd:admin"]
        with served(folder, APPLICATION, *options, bind=(), **given) as server:
            # In the order of the addresses.
            started(server, url(web), url(web), url(proxied).replace("http", "uwsgi"), url(admin))
            assert ask(web)["port"] == str(web.getsockname()[1])
            with socket.create_connection(proxied.getsockname(), PATIENCE) as client:
                client.sendall(packet(stock_variables({"REMOTE_ADDR": "192.0.2.9"})))
                with client.makefile("rb") as stream:
                    assert b'"client": "192.0.2.9"' in stream.read()
            assert server.stop() == 0
    # None is left.
    assert not any("nothing" in line or "names it" in line for line in server.lines)


def test_sockets_speak_tls_as_their_addresses_say(
    folder: Path, web: socket.socket, admin: socket.socket, certificates: Certificates
) -> None:
    given = service(COMMAND, [web, admin], names="web:admin")
    secure = [url(sock).replace("http", "https") for sock in (web, admin)]
    for bind, urls in (
        ((), secure),
        (("tls:systemd:web", "systemd"), [secure[0], url(admin)]),
        (("systemd:web", "http:systemd"), [secure[0], url(admin)]),
    ):
        options = ["--certfile", certificates.site]
        options += [text for address in bind for text in ("--bind", address)]
        with served(folder, APPLICATION, *options, bind=(), **given) as server:
            started(server, *urls)
            assert server.stop() == 0


def test_socket_that_no_address_names_is_told(
    folder: Path, web: socket.socket, admin: socket.socket
) -> None:
    given = service(COMMAND, [web, admin], names="web:admin")
    with served(folder, APPLICATION, "--bind", "systemd:web", bind=(), **given) as server:
        message = server.said("systemd has passed (.*), and no address names it")
        assert message[1] == "descriptor 4 (admin)"
        started(server, url(web))
        assert server.stop() == 0


def test_address_on_the_command_line_counts_more(folder: Path, web: socket.socket) -> None:
    with served(folder, APPLICATION, **service(COMMAND, [web])) as server:
        server.said(r"systemd has passed descriptor 3 \(unknown\), and no address names it")
        assert server.port() != web.getsockname()[1]
        assert server.stop() == 0


@pytest.mark.parametrize("options", ["", "bind=('systemd:web',)"])
def test_program_that_runs_a_server_takes_them(
    folder: Path, web: socket.socket, options: str
) -> None:
    (folder / "program.py").write_text(PROGRAM.format(options))
    given = service([sys.executable, "program.py"], [web], names="web")
    with served(folder, APPLICATION, bind=(), **given) as server:
        started(server, url(web))
        assert ask(web)["ours"] == []
        assert server.stop() == 0


def test_tool_of_systemd_starts_it(folder: Path) -> None:
    program = tool("systemd-socket-activate", package="systemd")
    path = folder / "s"
    command = (program, "--listen", str(path), "--fdname", "web", *COMMAND)
    with served(folder, APPLICATION, "--bind", "systemd:web", command=command, bind=()) as server:
        server.said("Listening on ")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.settimeout(PATIENCE)
            started(server, f"unix:{path}")
            sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            with sock.makefile("rb") as stream:
                assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
        assert server.stop() == 0


# What is wrong.


def test_without_systemd_there_is_none(folder: Path) -> None:
    assert fails(folder, "--bind", "systemd", command=COMMAND) == (
        "cannot bind systemd: systemd has passed no sockets to this process; start it through a "
        "socket unit, or try it out with: systemd-socket-activate -l 8000 COMMAND"
    )


def test_sockets_of_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "HOME": "/"}
    config = with_passed_sockets(Config(), environment)
    assert config.bind == ("127.0.0.1:8000",)
    assert config.origin("bind") is Origin.DEFAULT
    assert environment == {"HOME": "/"}


def test_sockets_of_another_process_cannot_be_named() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    with pytest.raises(ConfigError) as caught:
        with_passed_sockets(Config(bind=("127.0.0.1:0", "uwsgi:systemd:web")), environment)
    assert str(caught.value) == (
        "cannot bind uwsgi:systemd:web: the sockets that systemd has passed are for the process 1 "
        f"(LISTEN_PID), and this is the process {os.getpid()}; have ExecStart= start it directly, "
        "or write exec before the command in the script that does"
    )


@pytest.mark.parametrize(
    ("count", "names", "message"),
    [
        ("x", "", "LISTEN_FDS in the environment is 'x', and should be a number"),
        ("-1", "", "LISTEN_FDS in the environment is '-1', and should be a number"),
        ("2", "web", "should have one name for each of the 2 descriptors of LISTEN_FDS"),
        ("1", "a:b", "LISTEN_FDNAMES in the environment is 'a:b', and should have one name"),
    ],
)
def test_variables_that_are_wrong_are_told(count: str, names: str, message: str) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    with pytest.raises(ConfigError, match=message):
        with_passed_sockets(Config(), environment)


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (
            ["systemd:shop"],
            "cannot bind systemd:shop: systemd has passed no socket of that name, but "
            "descriptor 3 (web), descriptor 4 (admin) "
            "(see FileDescriptorName= in the socket unit)",
        ),
        (
            ["systemd:web", "uwsgi:systemd:web"],
            "cannot bind uwsgi:systemd:web: its socket is bound as systemd:web already; leave one "
            "out",
        ),
        (
            ["fd:3", "systemd:web"],
            "cannot bind systemd:web: its socket is bound as fd:3 already; leave one out",
        ),
        (
            ["systemd", "systemd"],
            "cannot bind systemd: every socket that systemd has passed is bound by another "
            "address already",
        ),
    ],
)
def test_address_without_a_socket_of_its_own_is_told(
    folder: Path, web: socket.socket, admin: socket.socket, addresses: list[str], message: str
) -> None:
    options = [word for address in addresses for word in ("--bind", address)]
    given = service(COMMAND, [web, admin], names="web:admin")
    assert fails(folder, *options, **given) == message


def made(kind: str) -> Iterator[int]:
    """Give a descriptor of what is no stream socket."""
    if kind == "file":
        with open(os.devnull) as file:
            yield file.fileno()
        return
    pair: tuple[socket.socket, ...]
    match kind:
        case "datagrams":
            pair = (socket.socket(type=socket.SOCK_DGRAM),)
        case "packets":
            pair = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),)
        case "vsock":
            pair = (socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),)
        case _:
            pair = socket.socketpair()
    with contextlib.ExitStack() as stack:
        for sock in pair:
            stack.enter_context(sock)
        yield pair[0].fileno()


@pytest.mark.parametrize(
    ("kind", "objection"),
    [
        ("datagrams", "is a socket for datagrams (ListenDatagram=); write ListenStream= in the"),
        ("packets", "is a socket for packets (ListenSequentialPacket=); write ListenStream= in th"),
        ("connection", "is a single connection; leave Accept=yes out of the socket unit"),
        ("file", "is no socket; a socket unit has it with ListenStream="),
        ("vsock", "is neither a TCP socket nor a Unix socket"),
    ],
)
def test_what_is_no_stream_socket_is_told(folder: Path, kind: str, objection: str) -> None:
    with contextlib.ExitStack() as stack:
        try:
            number = stack.enter_context(contextlib.contextmanager(made)(kind))
        except (AttributeError, OSError):
            pytest.skip("this system has no such sockets")
        message = fails(folder, **service(COMMAND, [number], names="web"))
    beginning = "cannot bind systemd: descriptor 3 (web), which systemd has passed, "
    assert message.startswith(beginning + objection)


def test_descriptor_that_is_not_open_is_told(folder: Path, web: socket.socket) -> None:
    command = ["sh", "-c", 'exec "$@" 3>&-', "sh", *COMMAND]
    assert fails(folder, **service(command, [web])) == (
        "cannot bind systemd: descriptor 3 (unknown), which systemd has passed, is not open "
        "(Bad file descriptor)"
    )


def test_server_inside_of_a_program_takes_none() -> None:
    with pytest.raises(ConfigError) as caught:
        bind_all(Config(bind=("uwsgi:systemd:web",)).listeners)
    assert str(caught.value) == (
        "cannot bind uwsgi:systemd:web: only aiowsgi.run and the command line take the sockets of "
        "systemd; write uwsgi:fd:3 for the first one, or pass sock="
    )
