"""``--reuse-port``: each worker has sockets of its own, and the kernel spreads connections."""

import asyncio
import contextlib
import contextvars
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import children_of, is_alive
from served_process import PATIENCE, ServedProcess, ask, served
from test_bind import needs_ipv6
from test_upgrade import all_killed_at_the_end, end, upgrade
from test_user import UNKNOWN, needs_open_interpreter, needs_root
from waiting import eventually

from aiowsgi.config import Config, ListenerConfig, Origin
from aiowsgi.errors import BindError, ConfigError
from aiowsgi.net.accept.listener import Listener
from aiowsgi.net.bind.bind import bind_all
from aiowsgi.net.bind.listening import ListeningSocket
from aiowsgi.net.transports.loop_transports import LoopTransports
from aiowsgi.process.worker.assignment import Assignment
from aiowsgi.process.worker.own_sockets import check_reuse_port, with_own_sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="--reuse-port is for Linux")

# Answers which process it is, of which parent and user, and whether there are others.
SOURCE = """
import os

def application(environ, start_response):
    numbers = os.getpid(), os.getppid(), os.getuid(), int(environ["wsgi.multiprocess"])
    body = " ".join(map(str, numbers)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
MOST_CONNECTIONS = 500


def answer(port: int) -> list[int]:
    """Return what a worker says on a connection of its own."""
    return [int(number) for number in ask(port).split()]


def eventually_all_answer(port: int, pids: set[int]) -> None:
    """Connect until each worker has got a connection. The kernel chooses one by chance."""
    found = set[int]()
    for _ in range(MOST_CONNECTIONS):
        found.add(answer(port)[0])
        if found >= pids:
            return
    pytest.fail(f"of {pids}, only {found} get connections")


def listening_at(port: int) -> dict[str, int]:
    """Return the numbers of the sockets that listen at a port, and the users who made them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    found = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
    return {row[9]: int(row[7]) for row in found}


@contextlib.contextmanager
def reusing(folder: Path, *options: str, **more: Any) -> Iterator[ServedProcess]:
    with served(folder, SOURCE, "--workers", "2", "--reuse-port", *options, **more) as process:
        yield process


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that other users may read."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


# Processes.


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_each_worker_listens_on_its_own_socket_and_gets_connections(
    tmp_path: Path, preload: str
) -> None:
    with reusing(tmp_path, preload) as process:
        port = process.port()
        assert len(listening_at(port)) == 2
        pid, parent, _, is_one_of_several = answer(port)
        assert (parent, is_one_of_several) == (process.pid, 1)
        pids = {pid for pid in children_of(process.pid) if holds_any(pid, listening_at(port))}
        assert len(pids) == 2
        assert pid in pids
        eventually_all_answer(port, pids)
        assert process.stop() == 0


def holds_any(pid: int, inodes: Iterable[str]) -> bool:
    """Return whether a process has one of these sockets."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # It was closed meanwhile.
            if os.readlink(file) in wanted:
                return True
    return False


def test_the_supervisor_keeps_the_port_and_takes_no_connection(tmp_path: Path) -> None:
    with reusing(tmp_path) as process:
        port = process.port()
        inodes = listening_at(port)
        assert not holds_any(process.pid, inodes)
        for pid in children_of(process.pid):
            assert holds_any(pid, inodes)
        assert process.stop() == 0


def test_a_reload_goes_on_at_the_same_port(tmp_path: Path) -> None:
    with reusing(tmp_path) as process:
        port = process.port()
        before = children_of(process.pid)
        process.signal(signal.SIGHUP)
        process.said("Reloaded: 2 workers")
        eventually(lambda: not before & children_of(process.pid), "the old workers have ended")
        eventually_all_answer(port, children_of(process.pid))
        assert len(listening_at(port)) == 2
        assert process.stop() == 0


def test_a_worker_that_dies_is_replaced_by_one_that_gets_connections(tmp_path: Path) -> None:
    with reusing(tmp_path) as process:
        port = process.port()
        killed = min(children_of(process.pid))
        os.kill(killed, signal.SIGKILL)
        process.said(rf"Worker {killed} was killed by SIGKILL")
        eventually(lambda: len(listening_at(port)) == 2, "there is another one")
        assert killed not in children_of(process.pid)
        eventually_all_answer(port, children_of(process.pid))
        assert process.stop() == 0


def test_an_upgrade_goes_on_at_the_same_port(tmp_path: Path) -> None:
    with (
        reusing(tmp_path, start_new_session=True) as process,
        all_killed_at_the_end(process),
    ):
        port = process.port()
        successor = upgrade(process, process.pid)
        eventually(lambda: not is_alive(process.pid), "the one before has ended")
        assert answer(port)[1] == successor
        assert len(listening_at(port)) == 2
        # Its own workers are replaced as before.
        os.kill(successor, signal.SIGHUP)
        process.said("Reloaded: 2 workers")
        assert answer(port)[1] == successor
        end(process, successor)


@needs_root
@needs_open_interpreter
def test_workers_of_another_user_bind_before_they_become_it(open_folder: Path) -> None:
    with reusing(open_folder, "-u", str(UNKNOWN), "-g", str(UNKNOWN)) as process:
        port = process.port()
        assert answer(port)[2] == UNKNOWN
        process.signal(signal.SIGHUP)
        process.said("Reloaded: 2 workers")
        assert answer(port)[2] == UNKNOWN
        # It may be a port that needs root.
        assert set(listening_at(port).values()) == {0}
        assert process.stop() == 0


# What is refused.


def test_a_port_of_another_such_server_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with reusing(tmp_path / "one") as process:
        port = process.port()
        with reusing(tmp_path, bind=("--bind", f"127.0.0.1:{port}")) as other:
            assert other.ended() == 1
            assert other.lines == [
                f"aiowsgi: error: cannot bind 127.0.0.1:{port}: another program listens there; "
                "stop it, or choose another address"
            ]
        assert process.stop() == 0


INSTEAD = "write HOST:PORT, or leave --reuse-port out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            (),
            "--reuse-port is for several processes, or for one that can be replaced; "
            "give --workers 1 or more, too",
        ),
        (
            ("--reload",),
            "--reuse-port has the port closed while no worker is there, and --reload keeps it open "
            "meanwhile; give one of them",
        ),
        (
            ("-w", "2", "--preload", "--user", "nobody"),
            "--reuse-port has each worker bind its sockets as the user who starts the server, and "
            "with --preload and --user a worker is another user from its start; leave one out",
        ),
        (
            ("-w", "2", "--bind", "uwsgi:unix:there"),
            "--reuse-port has each worker bind a socket of its own, and uwsgi:unix:there is a Unix "
            f"socket, of which there is one only; {INSTEAD}",
        ),
        (
            ("-w", "2", "--bind", "fd:3"),
            "--reuse-port has each worker bind a socket of its own, and fd:3 is a socket that "
            f"another program has bound, such as systemd; {INSTEAD}",
        ),
        (
            ("-w", "2", "--bind", "systemd:web"),
            "--reuse-port has each worker bind a socket of its own, and systemd:web is a socket "
            f"that systemd has bound; {INSTEAD}",
        ),
    ],
)
def test_what_does_not_go_together_is_one_message(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    with served(tmp_path, SOURCE, "--reuse-port", *options) as process:
        assert process.ended() == 2
        assert process.lines == [f"aiowsgi: error: {message}", "try: python -m aiowsgi --help"]


def test_sockets_that_systemd_passes_are_refused() -> None:
    config = Config(workers=2, reuse_port=True)
    with pytest.raises(ConfigError, match="fd:3 is a socket that another program has bound"):
        config.with_values({Origin.ENVIRONMENT: {"bind": ("fd:3",)}})


def test_systems_that_do_not_spread_connections_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    check_reuse_port(Config(workers=2))
    with pytest.raises(ConfigError) as caught:
        check_reuse_port(Config(workers=2, reuse_port=True))
    assert str(caught.value) == (
        "reuse_port needs Linux; leave it out, and the workers share their sockets"
    )


# Sockets.


def reserved(*addresses: str) -> list[ListeningSocket]:
    return bind_all([ListenerConfig.parse(text, backlog=9) for text in addresses], reserve=True)


def assignment_of(sockets: list[ListeningSocket], channel: socket.socket) -> Assignment:
    return Assignment(
        path="",
        config=Config(),
        supervisor=0,
        row=None,
        directory="",
        sockets=tuple(sockets),
        channel=channel,
        lifeline=-1,
        stacks=-1,
        mask=frozenset(),
    )


@contextlib.contextmanager
def all_closed(sockets: list[ListeningSocket]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for sock in sockets:
            stack.callback(sock.close)
        yield


def test_no_client_is_kept_waiting_before_a_socket_listens() -> None:
    found = reserved("127.0.0.1:0?backlog=7")
    name = found[0].socket.getsockname()
    with all_closed(found), socket.socket() as channel:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(name, PATIENCE)
        # In the place of the process that is forked.
        listener = found[0].listener
        theirs = [ListeningSocket(found[0].socket.dup(), listener=listener, reuses_port=True)]
        own = list(with_own_sockets(assignment_of(theirs, channel)).sockets)
        assert theirs[0].socket.fileno() == -1
        with all_closed(own):
            assert own[0].socket.getsockname() == name
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(name, PATIENCE)
            own[0].listen()
            socket.create_connection(name, PATIENCE).close()
            # What the address says, and not what counts for all: tcpi_sacked.
            info = own[0].socket.getsockopt(socket.SOL_TCP, socket.TCP_INFO, 32)
            assert struct.unpack_from("I", info, 28)[0] == 7


@needs_ipv6
def test_ipv4_and_ipv6_of_one_port_stay_apart() -> None:
    first = reserved("0.0.0.0:0")
    port = first[0].socket.getsockname()[1]
    first[0].close()
    found = reserved(f"[::]:{port}", f"0.0.0.0:{port}")
    with all_closed(found), socket.socket() as channel:
        theirs = [ListeningSocket(sock.socket.dup(), reuses_port=True) for sock in found]
        own = list(with_own_sockets(assignment_of(theirs, channel)).sockets)
        with all_closed(own):
            # Else it could take connections of IPv4 as well.
            assert own[0].socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
            for sock in own:
                sock.listen()
                sock.socket.settimeout(PATIENCE)
            for sock, host in zip(own, ("::1", "127.0.0.1"), strict=True):
                with socket.create_connection((host, port), PATIENCE):
                    sock.socket.accept()[0].close()


def test_a_socket_that_cannot_be_bound_again_leaves_none_behind() -> None:
    found = reserved("127.0.0.1:0", "127.0.0.1:0")
    with all_closed(found), socket.socket() as channel:
        # As if another user had bound it.
        found[1].socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        found[1].socket.listen()
        port = found[1].socket.getsockname()[1]
        before = os.listdir("/proc/self/fd")
        with pytest.raises(BindError) as caught:
            with_own_sockets(assignment_of(found, channel))
        assert str(caught.value) == (
            f"cannot bind 127.0.0.1:{port} in a worker: Address already in use"
        )
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_an_address_that_is_taken_meanwhile_is_told() -> None:
    found = reserved("127.0.0.1:0")
    name = found[0].socket.getsockname()
    with all_closed(found), socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(name)
        other.listen()
        with pytest.raises(BindError, match=rf"^cannot listen on 127\.0\.0\.1:{name[1]}: Address"):
            found[0].listen()


def test_an_address_that_others_share_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        with pytest.raises(BindError, match="another program listens there"):
            reserved(f"127.0.0.1:{port}")


def test_the_same_address_twice_collides() -> None:
    found = reserved("127.0.0.1:0")
    port = found[0].socket.getsockname()[1]
    found[0].close()
    with pytest.raises(BindError) as caught:
        reserved(f"127.0.0.1:{port}", f"uwsgi:127.0.0.1:{port}")
    assert str(caught.value) == (
        f"cannot bind uwsgi:127.0.0.1:{port}: it collides with 127.0.0.1:{port}, which is bound "
        "already; leave one out"
    )
    with socket.create_server(("127.0.0.1", port)):
        pass  # It is closed again.


# The end of a worker.


def waiting_on(sock: socket.socket) -> int:
    """Return how many connections wait on a listening socket: tcpi_unacked."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.SOL_TCP, socket.TCP_INFO, 28), 24)[0])


@pytest.mark.parametrize(("room", "accepted"), [(100, 3), (2, 2)])
async def test_what_waits_on_a_socket_of_its_own_is_accepted_before_it_is_closed(
    room: int, accepted: int
) -> None:
    protocols = []

    def make_protocol(_: socket.socket, peer: object) -> asyncio.Protocol:
        protocols.append(peer)
        return asyncio.Protocol()

    found = reserved("127.0.0.1:0")
    found[0].listen()
    listener = Listener(
        found[0],
        loop=asyncio.get_running_loop(),
        context=contextvars.copy_context(),
        room=lambda: room,
        make_room=lambda: None,
        on_broken=lambda: None,
        make_protocol=make_protocol,
        connector=LoopTransports(asyncio.get_running_loop()),
    )
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            name = found[0].socket.getsockname()
            stack.enter_context(socket.create_connection(name, PATIENCE))
        eventually(lambda: waiting_on(found[0].socket) == 3, "all of them wait")
        await listener.close()
        await listener.close()
    assert len(protocols) == accepted
    assert found[0].socket.fileno() == -1
