"""The PID file: what is in it and when, and which files are replaced and which never."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_process import ANSWER, PATIENCE, served

from aiowsgi.errors import PidFileError
from aiowsgi.folder_lock import locked
from aiowsgi.process.identity.pid_file import PidFile

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says when a process began")


@pytest.fixture
def other() -> Iterator[int]:
    """Return the number of another process that is running."""
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def _written(path: Path, text: str, *, age: float = 0.0) -> Path:
    """Write a file as if it had been written ``age`` seconds ago."""
    path.write_text(text)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def _refusal(path: Path) -> str:
    with pytest.raises(PidFileError) as checked:
        PidFile(path).check()
    with pytest.raises(PidFileError) as written:
        PidFile(path).write()
    assert str(checked.value) == str(written.value)
    beginning = f"cannot write the PID file {path}: "
    assert str(checked.value).startswith(beginning)
    return str(checked.value).removeprefix(beginning)


def test_the_file_holds_the_number_of_the_process_until_it_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(path)
    file.check()
    assert not path.exists()
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == [path]
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_everybody_may_read_the_file_unless_the_umask_forbids_it(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            PidFile(path).write()
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == mode


def test_without_a_path_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("")
    file.check()
    file.write()
    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path_is_found_again_wherever_the_process_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("pid")
    monkeypatch.chdir("/")
    file.write()
    assert (tmp_path / "pid").exists()
    file.remove()
    assert not (tmp_path / "pid").exists()


def test_a_reader_never_sees_a_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(path)
    file.write()
    done = threading.Event()
    seen = set()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(200):
            file.write()
    finally:
        done.set()
        reader.join(PATIENCE)
    assert seen == {f"{os.getpid()}\n"}


# Whose file it is.


def test_the_file_of_a_running_process_is_refused(tmp_path: Path, other: int) -> None:
    path = _written(tmp_path / "pid", f"{other}\n")
    assert _refusal(path) == (
        f"process {other} is running, and the file is its; stop that process first, "
        "or choose another file"
    )
    assert path.read_text() == f"{other}\n"


def test_the_file_of_a_running_process_of_somebody_else_is_refused(
    tmp_path: Path, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may send a signal to everybody.
    def kill(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", kill)
    path = _written(tmp_path / "pid", f"{other}\n")
    assert _refusal(path).startswith(f"process {other} is running")


def test_the_file_of_a_process_that_has_ended_is_replaced(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(PATIENCE)
    path = _written(tmp_path / "pid", f"{process.pid}\n")
    file = PidFile(path)
    file.check()
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"


@linux
def test_a_process_whose_end_nobody_has_noticed_does_not_run(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        PidFile(_written(tmp_path / "pid", f"{process.pid}\n")).check()


@linux
def test_a_process_that_has_got_the_number_later_does_not_count(tmp_path: Path, other: int) -> None:
    path = _written(tmp_path / "pid", f"{other}\n", age=3600)
    PidFile(path).check()
    PidFile(path).write()
    assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", ["", "\n", "9999999999\n", "{}\n"])
def test_a_file_that_names_no_other_process_is_replaced(tmp_path: Path, text: str) -> None:
    path = _written(tmp_path / "pid", text.format(os.getpid()))
    PidFile(path).check()
    PidFile(path).write()
    assert path.read_text() == f"{os.getpid()}\n"


def test_what_a_killed_process_of_this_number_was_writing_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    _written(tmp_path / f"pid.{os.getpid()}", "")
    PidFile(path).write()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["[Unit]\n", "12 13\n", "-1\n", "0\n", "1" * 100])
def test_a_file_of_another_kind_is_never_replaced(tmp_path: Path, text: str) -> None:
    path = _written(tmp_path / "pid", text)
    assert _refusal(path) == "the file exists and is no PID file; choose another one"
    assert path.read_text() == text


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "pid")
    PidFile(path).check()


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    assert _refusal(tmp_path) == "Is a directory"


def test_a_missing_folder_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(PidFileError, match="its folder does not exist; make it, or choose another"):
        PidFile(tmp_path / "missing" / "pid").check()
    with pytest.raises(PidFileError, match="No such file or directory"):
        PidFile(tmp_path / "missing" / "pid").write()


def test_a_folder_that_may_not_be_written_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, whom the kernel forbids nothing.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PidFileError, match="this process may not write to its folder"):
        PidFile(tmp_path / "pid").check()


def test_the_file_of_another_process_is_not_removed(tmp_path: Path, other: int) -> None:
    path = tmp_path / "pid"
    file = PidFile(path)
    file.write()
    path.write_text(f"{other}\n")
    file.remove()
    assert path.read_text() == f"{other}\n"


def test_a_file_that_has_become_something_else_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile(path)
    file.write()
    path.write_text("something else")
    file.remove()
    assert path.exists()


# The lock on its folder.


def test_a_folder_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with locked(str(tmp_path)), pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiowsgi.folder_lock._PATIENCE", 0.05)
    with locked(str(tmp_path)):
        PidFile(tmp_path / "pid").write()
    assert (tmp_path / "pid").exists()


# A process that serves.


def test_the_file_is_there_while_the_process_serves(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with served(tmp_path, ANSWER, "--pid-file", "pid") as process:
        process.port()
        assert path.read_text() == f"{process.pid}\n"
        assert process.stop() == 0
        assert not path.exists()


def test_the_file_is_removed_by_a_process_that_is_told_to_stop_now(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with served(tmp_path, ANSWER, "--pid-file", str(path)) as process:
        process.port()
        process.signal(3)  # SIGQUIT
        assert process.ended() == 131
        assert not path.exists()


def test_a_second_process_does_not_load_the_application(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with served(tmp_path, ANSWER, "--pid-file", "pid") as first:
        first.port()
        with served(tmp_path, "raise SystemExit(9)", "--pid-file", "pid") as second:
            assert second.ended() == 1
            assert second.lines == [
                f"aiowsgi: error: cannot write the PID file {path}: process {first.pid} is "
                "running, and the file is its; stop that process first, or choose another file"
            ]
        assert path.read_text() == f"{first.pid}\n"
        assert first.stop() == 0


def test_a_process_that_cannot_listen_writes_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = ("--port", str(taken.getsockname()[1]))
        with served(tmp_path, ANSWER, "--pid-file", "pid", bind=bind) as process:
            assert process.ended() == 1
            assert "another program listens there" in process.lines[-1]
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_a_file_that_cannot_be_written_any_more_ends_the_start(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    # The folder goes between the check and the time when the process serves.
    source = f"import os\nos.rmdir('gone')\n{ANSWER}"
    (tmp_path / "gone").mkdir()
    with served(tmp_path, source, "--pid-file", "gone/pid", *options) as process:
        assert process.ended() == 1
        assert process.lines[-1].startswith("aiowsgi: error: cannot write the PID file ")
        assert not any("Traceback" in line or "Serving" in line for line in process.lines)
