"""The file of a Unix socket: whose it is, when it is replaced, and who removes it."""

import errno
import grp
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_process import ANSWER, PATIENCE, served

from aiowsgi import folder_lock
from aiowsgi.config import Config, ListenerConfig
from aiowsgi.errors import BindError, ConfigError
from aiowsgi.net.bind import socket_file
from aiowsgi.net.bind.bind import bind
from aiowsgi.net.bind.listening import ListeningSocket

# What stands behind an application, to have each request fork a child that ends.
FORKING = """
import os

answer = application

def application(environ, start_response):
    pid = os.fork()
    if not pid:
        raise SystemExit(3)
    os.waitpid(pid, 0)
    return answer(environ, start_response)
"""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may give a file away: run the tests as root for this"
)

IN_USE = "another program listens there; stop it, or choose another address"


@pytest.fixture
def path() -> Iterator[Path]:
    """Return where a socket may be: the path of one has about 100 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "s"


def _listen(path: Path, *, backlog: int = 8) -> ListeningSocket:
    (listening,) = bind(ListenerConfig.parse(f"unix:{path}", backlog=backlog))
    return listening


def _listen_at(text: str, **options: Any) -> ListeningSocket:
    (listening,) = bind(*Config(bind=(text,), **options).listeners)
    return listening


def _leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def _can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


def _in_child(action: Any) -> int:
    """Call a function in a forked child; return its exit code."""
    pid = os.fork()
    if not pid:
        try:
            action()
        except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _refusal(path: Path) -> str:
    with pytest.raises(BindError) as caught:
        _listen(path)
    beginning = f"cannot bind unix:{path}: "
    assert str(caught.value).startswith(beginning)
    return str(caught.value).removeprefix(beginning)


# Which file is replaced.


@pytest.mark.parametrize(
    ("parameters", "umask", "mode"),
    [
        ("", None, 0o666),
        ("", 0o007, 0o660),
        ("?mode=660", None, 0o660),
        # What is said of one socket counts more than what is said of all files.
        ("?mode=666", 0o077, 0o666),
        ("?mode=0", None, 0o000),
    ],
)
def test_who_may_connect_is_said_whatever_the_process_has_as_umask(
    path: Path, parameters: str, umask: int | None, mode: int
) -> None:
    before = os.umask(0o077)
    try:
        listening = _listen_at(f"unix:{path}{parameters}", umask=umask)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    listening.close()
    assert not path.exists()


@needs_root
def test_a_socket_is_given_to_whom_the_address_names(path: Path) -> None:
    listening = _listen_at(f"unix:{path}?owner=12345&group=daemon")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, grp.getgrnam("daemon").gr_gid)
    # The process becomes another user, and what was named stays.
    listening.give_to(1, 1)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, grp.getgrnam("daemon").gr_gid)
    listening.close()


@needs_root
def test_the_user_of_the_process_gets_what_the_address_does_not_name(path: Path) -> None:
    listening = _listen_at(f"unix:{path}?group=12346")
    listening.give_to(54321, 54322)
    assert (path.stat().st_uid, path.stat().st_gid) == (54321, 12346)
    listening.close()


@pytest.mark.parametrize("what", ["owner", "group"])
def test_an_account_that_the_system_does_not_know_is_told_and_leaves_nothing(
    path: Path, what: str
) -> None:
    kind = "user" if what == "owner" else "group"
    with pytest.raises(ConfigError, match=rf"{what}=no-such: the system knows no {kind} 'no-such'"):
        _listen_at(f"unix:{path}?{what}=no-such")
    assert not path.exists()


def test_a_socket_that_cannot_be_given_away_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chown(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    with pytest.raises(ConfigError, match="to user 7: Operation not permitted; only root"):
        _listen_at(f"unix:{path}?owner=7")
    assert not path.exists()


def test_of_two_that_find_a_stale_file_at_once_one_listens_in_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _leave_stale(path)
    about_to_replace, second_waits = threading.Event(), threading.Event()
    unlink, sleep = os.unlink, folder_lock.time.sleep

    def unlink_late(name: str) -> None:
        about_to_replace.set()
        assert second_waits.wait(PATIENCE)
        unlink(name)

    def note_wait(seconds: float) -> None:
        second_waits.set()
        sleep(seconds)

    monkeypatch.setattr(folder_lock, "_PATIENCE", PATIENCE)
    monkeypatch.setattr(folder_lock.time, "sleep", note_wait)
    monkeypatch.setattr(socket_file.os, "unlink", unlink_late)
    made: list[ListeningSocket] = []
    first = threading.Thread(target=lambda: made.append(_listen(path)))
    first.start()
    assert about_to_replace.wait(PATIENCE)
    assert _refusal(path) == IN_USE
    first.join(PATIENCE)
    monkeypatch.setattr(socket_file.os, "unlink", unlink)
    assert _can_connect(path)
    made[0].close()
    assert not path.exists()


def test_a_listener_whose_queue_is_full_is_left_alone(path: Path) -> None:
    listening = _listen(path, backlog=1)
    waiting = []
    try:
        while True:
            client = socket.socket(socket.AF_UNIX)
            waiting.append(client)
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        assert _refusal(path) == IN_USE
        assert path.exists()
    finally:
        for client in waiting:
            client.close()
        listening.close()


def test_a_socket_of_another_kind_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert _refusal(path) == IN_USE
    assert path.exists()


def test_a_socket_that_cannot_be_tried_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, whom the kernel forbids nothing.
    class Forbidden(socket.socket):
        def connect(self, address: Any, /) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    _leave_stale(path)
    monkeypatch.setattr(socket_file.socket, "socket", Forbidden)
    assert _refusal(path).startswith("the socket there is of another user, and you may not find")
    assert path.exists()


# Who removes it.


def test_a_forked_process_leaves_the_file_to_the_one_that_made_it(path: Path) -> None:
    listening = _listen(path)
    assert _in_child(listening.close) == 0
    assert _can_connect(path)
    listening.close()
    assert not path.exists()


def test_the_file_of_a_successor_is_left_alone(path: Path) -> None:
    first = _listen(path)
    path.unlink()
    second = _listen(path)
    first.close()
    assert _can_connect(path)
    second.close()


def test_a_socket_that_is_closed_twice_removes_nothing_the_second_time(path: Path) -> None:
    listening = _listen(path)
    kept = path.with_name("kept")
    os.link(path, kept)
    listening.close()
    # The same file again, as one that is made later may have its number.
    os.rename(kept, path)
    listening.close()
    assert path.exists()


# Processes.


def _get(path: Path) -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=PATIENCE) as client:
        return client.get("http://x/").text


def test_what_a_killed_process_has_left_is_replaced(tmp_path: Path, path: Path) -> None:
    where = ("--bind", f"unix:{path}")
    with served(tmp_path, ANSWER, bind=where) as first:
        first.said(" Serving ")
        first.signal(signal.SIGKILL)
        assert first.ended() == -signal.SIGKILL
    assert path.exists()
    with served(tmp_path, ANSWER, bind=where) as second:
        second.said(" Serving ")
        assert _get(path) == "hello"
        with served(tmp_path, ANSWER, bind=where) as third:
            assert third.ended() == 1
            assert third.lines[-1] == f"aiowsgi: error: cannot bind unix:{path}: {IN_USE}"
        assert _get(path) == "hello"
        assert second.stop() == 0
    assert not path.exists()


def test_a_child_that_the_application_forks_and_that_ends_takes_no_file_along(
    tmp_path: Path, path: Path
) -> None:
    where = ("--bind", f"unix:{path}")
    with served(tmp_path, ANSWER + FORKING, bind=where) as process:
        process.said(" Serving ")
        assert _get(path) == "hello"
        assert _get(path) == "hello"
        assert process.stop() == 0
    assert not path.exists()
