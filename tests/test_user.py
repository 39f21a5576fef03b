"""Who a process is: the user and the group that it becomes, and when; its umask."""

import grp
import json
import os
import pwd
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest
from extent import representative
from served_process import PATIENCE, ServedProcess, served

import aiowsgi
from aiowsgi.config import Config, Origin
from aiowsgi.config.fields.values import parse_umask
from aiowsgi.errors import ConfigError
from aiowsgi.process.identity import user as module
from aiowsgi.process.identity.user import User, become, find_user


def _is_open_to_all(path: str) -> bool:
    """Return whether each user may read a file, and search the folders that lead to it."""
    real = Path(os.path.realpath(path))
    return bool(real.stat().st_mode & 4) and all(
        parent.stat().st_mode & 1 for parent in real.parents
    )


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may become another user: run the tests as root for this"
)
# An interpreter below /root cannot load a module any more once it is another user's.
needs_open_interpreter = pytest.mark.skipif(
    not all(map(_is_open_to_all, (sys.executable, os.__file__, aiowsgi.__file__))),
    reason="other users may not read this interpreter or these sources, which lie in a folder of "
    "their owner: make the virtual environment with an interpreter of the system",
)
# Not in the database of users, nor in that of groups.
UNKNOWN = 54321

# Answers who it was while it was imported, and who it is.
IDENTITY = """
    import json
    import os

    def identity():
        return {
            "users": list(os.getresuid()),
            "group": os.getgid(),
            "groups": sorted(os.getgroups()),
            "home": os.environ.get("HOME"),
            "names": [os.environ.get("USER"), os.environ.get("LOGNAME")],
        }

    imported = identity()

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/json")])
        if environ["PATH_INFO"] == "/umask":
            with open("made", "w"):
                return [f"{os.stat('made').st_mode & 0o777:o}".encode()]
        if environ["PATH_INFO"] == "/root":
            try:
                os.setuid(0)
            except PermissionError:
                return [b"forbidden"]
        assert identity() == imported
        return [json.dumps(imported).encode()]
"""


# Answers who it is.
PROGRAM = f"""
    import os

    import aiowsgi

    def application(environ, start_response):
        start_response("200 OK", [])
        return [str(os.getuid()).encode()]

    config = aiowsgi.Config(user="{UNKNOWN}", group="{UNKNOWN}", bind=("127.0.0.1:0",))
    aiowsgi.run(application, config=config)
"""


def _somebody() -> pwd.struct_passwd:
    """Return a user who is not root."""
    return next(entry for entry in pwd.getpwall() if entry.pw_name == "nobody")


def _groups_of(entry: pwd.struct_passwd) -> list[int]:
    return sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that everybody may read and write: those of pytest are its user's."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def _ask(process: ServedProcess, path: str = "/") -> Any:
    return httpx.get(
        f"http://127.0.0.1:{process.port()}{path}", timeout=PATIENCE, trust_env=False
    ).text


def _in_child(action: Callable[[], object]) -> str:
    """Call a function in a forked child, which may become whom it likes; return what it says."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, json.dumps(action()).encode())
        except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
            os.write(writing, traceback.format_exc().encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


# Who is meant.


def test_nobody_is_meant_where_nothing_is_said() -> None:
    assert find_user(Config()) is None


def test_a_user_is_named_or_numbered_and_has_its_group_and_home() -> None:
    entry = _somebody()
    expected = User(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir)
    assert find_user(Config(user=entry.pw_name)) == expected
    assert find_user(Config(user=str(entry.pw_uid))) == expected


def test_a_group_is_named_or_numbered() -> None:
    entry = _somebody()
    group = grp.getgrall()[-1]
    for text in (group.gr_name, str(group.gr_gid)):
        found = find_user(Config(user=entry.pw_name, group=text))
        assert found is not None
        assert (found.uid, found.gid) == (entry.pw_uid, group.gr_gid)


def test_a_group_alone_leaves_the_user_as_it_is() -> None:
    found = find_user(Config(group=str(UNKNOWN)))
    assert found is not None
    assert (found.uid, found.gid) == (os.geteuid(), UNKNOWN)


def test_a_number_that_no_user_has_needs_a_group() -> None:
    assert find_user(Config(user=str(UNKNOWN), group="7")) == User(UNKNOWN, 7, "", "")
    with pytest.raises(ConfigError) as caught:
        find_user(Config(user=str(UNKNOWN)))
    assert str(caught.value) == (
        f"user: the system knows no user {UNKNOWN}, and so no group of it; "
        "name one as well (--group)"
    )


@pytest.mark.parametrize("text", ["nosuchone", "-1", "4294967295", "99999999999", "0x10", "\u0667"])
@pytest.mark.parametrize("option", ["user", "group"])
def test_one_that_is_not_there_is_told(option: str, text: str) -> None:
    config = Config().with_values({Origin.COMMAND_LINE: {option: text}})
    with pytest.raises(ConfigError) as caught:
        find_user(config)
    assert str(caught.value) == (
        f"--{option}: there is no {option} {text!r} on this machine; "
        "write the name or the number of one that there is"
    )


def test_who_one_is_already_one_may_become() -> None:
    user = find_user(Config(user=str(os.geteuid()), group=str(os.getegid())))
    assert user is not None
    groups = os.getgroups()
    become(user, Config())
    assert os.getgroups() == groups


def test_one_who_is_not_root_may_become_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "initgroups", forbidden)
    monkeypatch.setattr(os, "setgroups", forbidden)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("bob", ""):
        with pytest.raises(ConfigError) as caught:
            become(User(1001, 1002, name, "/home/bob"), Config(user="bob"))
        assert str(caught.value) == (
            f"user: cannot become user {repr(name) if name else 1001} with group 1002: only root "
            "can do that, and this process is of user 1000; start it as that user, and leave the "
            "option out"
        )


def test_a_system_that_forbids_it_even_to_root_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "setgroups", refused)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match=r"^group: .*: the system does not let this process: Inv"):
        become(User(UNKNOWN, UNKNOWN, "", ""), Config(group=str(UNKNOWN)))


@needs_root
@needs_open_interpreter
@pytest.mark.parametrize("named", [True, False])
def test_the_process_becomes_the_user_for_good(named: bool) -> None:
    entry = _somebody()
    user = User(entry.pw_uid, 7, entry.pw_name if named else "", "/somewhere")

    def act() -> object:
        os.environ["HOME"] = "/root"
        become(user, Config(user="x"))
        return [os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.environ["HOME"]]

    groups = sorted(os.getgrouplist(entry.pw_name, 7)) if named else [7]
    home = "/somewhere" if named else "/root"
    assert _in_child(act) == json.dumps([[entry.pw_uid] * 3, [7] * 3, groups, home])


@needs_root
def test_a_current_directory_that_the_user_may_not_read_is_told(tmp_path: Path) -> None:
    # The folders of pytest are of its user only.
    inner = tmp_path / "open"
    inner.mkdir()

    def act() -> object:
        os.chdir(inner)
        try:
            become(User(UNKNOWN, UNKNOWN, "", ""), Config(user=str(UNKNOWN)))
        except ConfigError as error:
            return str(error)
        return None

    assert json.loads(_in_child(act)) == (
        f"the user {UNKNOWN} may not read {inner}, the current directory; "
        "let that user read it, or name another one with --chdir"
    )


def test_an_installation_that_the_user_may_not_read_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != module._PACKAGE)
    with pytest.raises(ConfigError) as caught:
        module._check_folders(User(1, 1, "bob", ""))
    assert str(caught.value) == (
        f"the user 'bob' may not read {Path(aiowsgi.__file__).parent}, where aiowsgi is installed; "
        "let that user read it, or install it somewhere else"
    )


# A process that serves.


@needs_root
@needs_open_interpreter
def test_the_application_is_loaded_and_served_by_the_user(folder: Path) -> None:
    entry = _somebody()
    with served(folder, IDENTITY, "--user", entry.pw_name) as process:
        found = json.loads(_ask(process))
        assert found == {
            "users": [entry.pw_uid] * 3,
            "group": entry.pw_gid,
            "groups": _groups_of(entry),
            "home": entry.pw_dir,
            "names": [entry.pw_name] * 2,
        }
        assert process.stop() == 0


@needs_root
@needs_open_interpreter
def test_the_application_cannot_become_root_again(folder: Path) -> None:
    with served(folder, IDENTITY, "-u", str(UNKNOWN), "-g", str(UNKNOWN)) as process:
        assert _ask(process, "/root") == "forbidden"
        assert process.stop() == 0


@needs_root
@needs_open_interpreter
def test_addresses_that_need_root_are_bound_before(folder: Path) -> None:
    # The file of the socket is in a folder of root, as /run is.
    os.chmod(folder, 0o755)
    path = folder / "s"
    where = ("--bind", f"unix:{path}", "--bind", "127.0.0.1:0")
    options = ("-u", str(UNKNOWN), "-g", "54322", "-m", "007")
    with served(folder, IDENTITY, *options, bind=where) as process:
        process.said(" Serving ")
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (UNKNOWN, 54322)
        assert status.st_mode & 0o777 == 0o660
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, timeout=PATIENCE) as client:
            assert client.get("http://x/").json()["users"] == [UNKNOWN] * 3
        assert process.stop() == 0
    # It could not be removed, and does not keep the next one from starting.
    assert path.exists()
    with served(folder, IDENTITY, *options, bind=where) as process:
        process.said(" Serving ")
        assert process.stop() == 0


@needs_root
@needs_open_interpreter
@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_workers_become_the_user_and_their_supervisor_stays_root(
    folder: Path, preload: str
) -> None:
    os.chmod(folder, 0o755)
    path, pid_file = folder / "s", folder / "pid"
    where = ("--bind", f"unix:{path}", "--bind", "127.0.0.1:0")
    options = (
        "-u",
        str(UNKNOWN),
        "-g",
        "54322",
        "-m",
        "007",
        "--pid-file",
        "pid",
        "-w",
        "2",
        preload,
    )
    with served(folder, IDENTITY, *options, bind=where) as process:
        process.said(" Serving ")
        assert (path.stat().st_uid, path.stat().st_gid) == (UNKNOWN, 54322)
        assert path.stat().st_mode & 0o777 == 0o660
        assert pid_file.read_text() == f"{process.pid}\n"
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, timeout=PATIENCE) as client:
            found = client.get("http://x/").json()
            assert client.get("http://x/root").text == "forbidden"
        # The application saw the same while it was imported.
        assert (found["users"], found["groups"]) == ([UNKNOWN] * 3, [54322])
        # The new ones as well.
        process.signal(signal.SIGHUP)
        process.said(" Reloaded: ")
        # The mold has seen nothing that a fork would break, and no file that it may not read.
        assert not any(" WARNING " in line or " ERROR " in line for line in process.lines)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=PATIENCE) as client:
            assert client.get("http://x/").json()["users"] == [UNKNOWN] * 3
        assert process.stop() == 0
    assert not path.exists()
    assert not pid_file.exists()


def _asks_as(user: int, group: int, path: Path) -> str:
    """Return what the socket at ``path`` answers to another user, or what the system says."""

    def ask() -> str:
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            try:
                client.connect(str(path))
            except PermissionError as error:
                return str(error.strerror)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(12).decode()

    answer: str = json.loads(_in_child(ask))
    return answer


@needs_root
@needs_open_interpreter
@pytest.mark.parametrize(
    "options",
    representative(
        ["", "--workers 2", "--workers 2 --preload", "--workers 2 --umask 077"],
        "--workers 2 --preload",
    ),
)
def test_a_web_server_of_another_user_reaches_what_is_meant_for_it(
    folder: Path, options: str
) -> None:
    everybody, group, own = folder / "everybody", folder / "group", folder / "own"
    where = (f"unix:{everybody}", f"unix:{group}?mode=660&group=12345", f"unix:{own}?owner=7")
    bind = [text for address in where for text in ("--bind", address)]
    # Who connects: a stranger, one of that group, one of the group of the process.
    clients = [(UNKNOWN + 1, UNKNOWN + 1), (UNKNOWN + 1, 12345), (UNKNOWN + 1, 54322)]
    yes, no = "HTTP/1.1 200", "Permission denied"
    expected = {everybody: [no if "--umask" in options else yes] * 3, group: [no, yes, no]}

    def check() -> None:
        assert {path: [_asks_as(*client, path) for client in clients] for path in expected} == (
            expected
        )
        assert _asks_as(7, 7, own) == yes

    user = ("--user", str(UNKNOWN), "--group", "54322")
    with served(folder, IDENTITY, *user, *options.split(), bind=tuple(bind)) as process:
        process.said(" Serving ")
        check()
        if not options:
            return
        process.signal(signal.SIGHUP)
        process.said(" Reloaded: ")
        check()
        process.signal(signal.SIGUSR2)
        successor = int(process.said(r" process (\d+) is started ")[1])
        process.said(" Upgraded: ")
        assert process.process.wait(PATIENCE) == 0
        check()
        os.kill(successor, signal.SIGTERM)
        process.ended()
    assert not any(path.exists() for path in (everybody, group, own))


@needs_root
@needs_open_interpreter
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_workers_of_another_user_end_with_their_supervisor_while_they_load(folder: Path) -> None:
    # The pipe is at its end once neither the supervisor nor the worker has it any more.
    reading, writing = os.pipe()
    source = f"import os, time\nos.write({writing}, b'x')\ntime.sleep(600)\n"
    options = ("-u", str(UNKNOWN), "-g", str(UNKNOWN), "-w", "1")
    with (
        open(reading, "rb", buffering=0) as pipe,
        served(folder, source, *options, pass_fds=(writing,)) as process,
    ):
        os.close(writing)
        assert pipe.read(1) == b"x"
        process.signal(signal.SIGKILL)
        assert select.select([pipe], [], [], PATIENCE)[0]
        assert pipe.read(1) == b""


@needs_root
@needs_open_interpreter
def test_logs_go_on_into_files_of_root(folder: Path) -> None:
    descriptor = os.open(folder / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    options = ("-u", str(UNKNOWN), "-g", str(UNKNOWN))
    with open(descriptor) as log, served(folder, IDENTITY, *options, stdout=log) as process:
        assert _ask(process, "/")
        assert process.stop() == 0
    assert '"GET / HTTP/1.1" 200' in (folder / "log").read_text()


@needs_root
@needs_open_interpreter
def test_a_pid_file_that_the_user_cannot_write_is_told_before_the_application_is_loaded(
    folder: Path,
) -> None:
    os.chmod(folder, 0o755)
    options = ("-u", str(UNKNOWN), "-g", str(UNKNOWN), "--pid-file", "pid")
    with served(folder, "raise SystemExit(9)", *options) as process:
        assert process.ended() == 1
        assert process.lines == [
            f"aiowsgi: error: cannot write the PID file {folder}/pid: this process may not write "
            "to its folder; choose another one"
        ]


@needs_root
@needs_open_interpreter
def test_a_start_that_fails_leaves_no_socket_behind(folder: Path) -> None:
    path = folder / "s"
    options = ("-u", str(UNKNOWN), "-g", str(UNKNOWN))
    with served(folder, "1 / 0", *options, bind=("--bind", f"unix:{path}")) as process:
        assert process.ended() == 1
        assert process.lines[-1] == "aiowsgi: error: importing the module 'app' failed"
    assert not path.exists()


@needs_root
def test_a_port_in_use_is_told_as_without_a_user(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ("-u", str(UNKNOWN), "-g", str(UNKNOWN))
        with served(folder, "", *options, bind=("--port", str(port))) as process:
            assert process.ended() == 1
            assert process.lines == [
                f"aiowsgi: error: cannot bind 127.0.0.1:{port}: another program listens there; "
                "stop it, or choose another address"
            ]


def test_an_unknown_user_is_a_wrong_command(tmp_path: Path) -> None:
    with served(tmp_path, "raise SystemExit(9)", "--user", "nosuchone") as process:
        assert process.ended() == 2
        assert process.lines == [
            "aiowsgi: error: --user: there is no user 'nosuchone' on this machine; "
            "write the name or the number of one that there is"
        ]


@needs_root
@needs_open_interpreter
def test_one_who_is_not_root_is_told_so(folder: Path) -> None:
    def step_down() -> None:
        os.setgid(UNKNOWN)
        os.setuid(UNKNOWN)

    with served(folder, "raise SystemExit(9)", "--user", "root", preexec=step_down) as process:
        assert process.ended() == 2
        assert process.lines == [
            "aiowsgi: error: --user: cannot become user 'root' with group 0: only root can do "
            f"that, and this process is of user {UNKNOWN}; start it as that user, and leave the "
            "option out"
        ]


# In a program.


@needs_root
@needs_open_interpreter
def test_a_program_becomes_the_user_before_it_serves(folder: Path) -> None:
    (folder / "program.py").write_text(dedent(PROGRAM))
    command = (sys.executable, "program.py")
    with served(folder, "", command=command, bind=()) as process:
        assert _ask(process) == str(UNKNOWN)
        assert process.stop() == 0


# The umask.


@pytest.mark.parametrize(
    ("text", "mode"), [("0", 0), ("027", 0o27), ("0o27", 0o27), ("77", 0o77), ("0777", 0o777)]
)
def test_a_umask_is_octal(text: str, mode: int) -> None:
    assert parse_umask(text) == mode


@pytest.mark.parametrize("text", ["", "8", "1000", "0x1f", "-1", "u=rwx", "00027", "\u0662"])
def test_what_is_no_umask_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_umask(text)
    assert str(caught.value) == f"{text!r} is no umask; write it in octal, such as 027"


@pytest.mark.parametrize("value", [-1, 0o1000, "027", True, 1.0])
def test_a_umask_in_code_is_a_number(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^umask must be a number from 0 to 0o777, not "):
        Config(umask=value)


@pytest.mark.parametrize("option", ["user", "group"])
def test_a_user_in_code_is_text(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{option} must be a name or a number as str, not 5$"):
        Config(**{option: 5})


@pytest.mark.parametrize(("umask", "mode"), [("027", "640"), ("0", "666")])
def test_files_of_the_application_get_what_the_umask_leaves(
    tmp_path: Path, umask: str, mode: str
) -> None:
    with served(tmp_path, IDENTITY, "--umask", umask) as process:
        assert _ask(process, "/umask") == mode
        assert process.stop() == 0


@needs_root
@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--workers", "1", "--preload")])
def test_root_is_warned_once_and_told_what_to_do(tmp_path: Path, options: tuple[str, ...]) -> None:
    with served(tmp_path, IDENTITY, *options) as process:
        process.said(r"WARNING .*The application runs as root: .* \(--user NAME\)")
        process.port()
        if options:
            process.signal(signal.SIGHUP)
            process.said(" Reloaded: ")
        assert process.stop() == 0
        assert sum("runs as root" in line for line in process.lines) == 1


@needs_root
@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_root_that_was_asked_for_is_not_warned(tmp_path: Path, options: tuple[str, ...]) -> None:
    with served(tmp_path, IDENTITY, "--user", "root", *options) as process:
        assert json.loads(_ask(process))["users"] == [0, 0, 0]
        assert process.stop() == 0
        assert not any(" WARNING " in line for line in process.lines)
