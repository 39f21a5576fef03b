"""What a fork would break of what an application has begun, and where it has begun that."""

import ctypes
import fcntl
import os
import select
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aiowsgi import ThreadPool
from aiowsgi.process.mold import hazards
from aiowsgi.process.mold.hazards import Possessions
from aiowsgi.process.mold.origins import Origins

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="--preload is for Linux")

PACKAGE = "/venv/lib/python3/site-packages/poller.py"
HERE = f'File "{__file__}", line '


@pytest.fixture
def origins() -> Iterator[Origins]:
    with Origins() as origins:
        yield origins


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def line() -> int:
    """Return the number of the line that calls this."""
    return sys._getframe(1).f_lineno


def texts(before: Possessions, origins: Origins) -> list[str]:
    return [str(hazard) for hazard in before.hazards(origins)]


# Threads.


def test_nothing_is_found_where_nothing_was_begun(origins: Origins) -> None:
    before = Possessions()
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert before.hazards(origins) == []


def test_a_thread_is_found_with_the_line_that_has_started_it(
    origins: Origins, stack: ExitStack
) -> None:
    before = Possessions()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="poller", daemon=True)
    thread.start()
    started = line() - 1
    stack.callback(thread.join)
    stack.callback(end.set)
    assert texts(before, origins) == [f"the thread 'poller' ({HERE}{started})"]


def test_a_thread_that_another_one_has_started_is_found(origins: Origins, stack: ExitStack) -> None:
    before = Possessions()
    end = threading.Event()
    threads = []

    def start() -> None:
        threads.append(threading.Thread(target=end.wait, name="second"))
        threads[0].start()

    first = threading.Thread(target=start)
    first.start()
    first.join()
    stack.callback(threads[0].join)
    stack.callback(end.set)
    (found,) = before.hazards(origins)
    assert found.what == "the thread 'second'"
    assert found.line.startswith(HERE)


def test_a_thread_that_was_there_before_is_no_hazard(origins: Origins, stack: ExitStack) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    stack.callback(thread.join)
    stack.callback(end.set)
    assert Possessions().hazards(origins) == []


def test_a_thread_with_something_short_to_do_may_end(
    origins: Origins, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Possessions()
    asked, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    stack.callback(thread.join)
    stack.callback(end.set)

    def sleep(seconds: float) -> None:
        asked.set()
        end.set()
        thread.join()

    monkeypatch.setattr(hazards.time, "sleep", sleep)
    assert before.hazards(origins) == []
    assert asked.is_set()


def test_a_thread_that_ends_before_each_fork_is_no_hazard(stack: ExitStack) -> None:
    # In a process of its own, because what is registered for forks stays so.
    code = """
import os, threading
from aiowsgi.process.mold.hazards import Possessions
from aiowsgi.process.mold.origins import Origins
with Origins() as origins:
    before = Possessions()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    os.register_at_fork(before=lambda: (end.set(), thread.join()))
    print(before.hazards(origins))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_a_fork_that_hangs_is_a_hazard() -> None:
    code = """
import os, threading
from aiowsgi.process.mold import hazards
from aiowsgi.process.mold.origins import Origins
hazards._CHILD_TIMEOUT = 0.1
with Origins() as origins:
    before = hazards.Possessions()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="needed")
    thread.start()
    parent = os.getpid()
    os.register_at_fork(after_in_child=lambda: end.wait(60))
    print([hazard.what for hazard in before.hazards(origins)])
    end.set()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    found = ["a fork of this process, which does not end", "the thread 'needed'"]
    assert done.stdout == f"{found}\n", done.stderr


def test_a_thread_that_python_does_not_know_is_found(origins: Origins, stack: ExitStack) -> None:
    before = Possessions()
    libc = ctypes.CDLL(None)
    # A semaphore that is 0: whoever waits for it waits until it is posted.
    semaphore = ctypes.create_string_buffer(64)
    thread = ctypes.c_ulong()
    assert libc.pthread_create(ctypes.byref(thread), None, libc.sem_wait, semaphore) == 0

    @stack.callback
    def end() -> None:
        libc.sem_post(semaphore)
        libc.pthread_join(thread, None)

    (found,) = before.hazards(origins)
    assert found.what.startswith("a thread called ")
    assert found.what.endswith(", of a library")
    assert found.line == ""


# Descriptors.


@pytest.fixture
def listening(stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_server(("127.0.0.1", 0)))


def test_a_connection_is_found_with_its_peer_and_its_line(
    origins: Origins, stack: ExitStack, listening: socket.socket
) -> None:
    before = Possessions()
    stack.enter_context(socket.create_connection(listening.getsockname()))
    opened = line() - 1
    port = listening.getsockname()[1]
    assert texts(before, origins) == [f"a connection to 127.0.0.1:{port} ({HERE}{opened})"]


def test_a_connection_of_a_library_is_found_without_a_line(
    origins: Origins, stack: ExitStack, listening: socket.socket
) -> None:
    client = stack.enter_context(socket.create_connection(listening.getsockname()))
    before = Possessions()
    # What no socket object of Python has opened.
    stack.callback(os.close, os.dup(client.fileno()))
    port = listening.getsockname()[1]
    assert texts(before, origins) == [f"a connection to 127.0.0.1:{port}"]


def test_a_line_is_that_of_the_socket_which_has_the_number_now(
    origins: Origins, stack: ExitStack, listening: socket.socket
) -> None:
    client = stack.enter_context(socket.create_connection(listening.getsockname()))
    before = Possessions()
    with socket.socket() as closed:
        number = closed.fileno()
    assert os.dup(client.fileno()) == number
    stack.callback(os.close, number)
    (found,) = before.hazards(origins)
    assert found.line == ""


def test_the_usual_port_of_a_database_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from aiowsgi.process.mold import descriptors

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setitem(descriptors._SERVICES, port, "PostgreSQL")
        with socket.create_connection(listening.getsockname()) as client:
            told = descriptors.breaks(client.fileno())
    assert told == f"a connection to 127.0.0.1:{port} (PostgreSQL)"


def test_a_connection_over_ipv6_is_found(origins: Origins, stack: ExitStack) -> None:
    try:
        server = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
    except OSError:
        pytest.skip("there is no IPv6")
    before = Possessions()
    client = stack.enter_context(socket.socket(socket.AF_INET6))
    client.connect(server.getsockname())
    (found,) = before.hazards(origins)
    assert found.what == f"a connection to [::1]:{server.getsockname()[1]}"


@pytest.mark.parametrize("name", ["socket", "\0abstract"])
def test_a_connection_to_a_unix_socket_is_found(
    origins: Origins, stack: ExitStack, tmp_path: Path, name: str
) -> None:
    path = str(tmp_path / "socket") if name == "socket" else f"{name}{os.getpid()}"
    server = stack.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(path)
    server.listen()
    before = Possessions()
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(path)
    (found,) = before.hazards(origins)
    assert found.what == "a connection to unix:" + path.replace("\0", "@")


def test_a_listening_socket_is_found(origins: Origins, stack: ExitStack) -> None:
    before = Possessions()
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    (found,) = before.hazards(origins)
    assert found.what == f"a socket that listens at 127.0.0.1:{server.getsockname()[1]}"


def test_a_pair_of_sockets_is_one_hazard(origins: Origins, stack: ExitStack) -> None:
    before = Possessions()
    for opened in socket.socketpair():
        stack.enter_context(opened)
    (found,) = before.hazards(origins)
    assert found.what == "a pair of sockets"
    assert found.line.startswith(HERE)


def test_an_epoll_descriptor_is_found(origins: Origins, stack: ExitStack) -> None:
    before = Possessions()
    stack.enter_context(select.epoll())
    assert texts(before, origins) == ["an epoll descriptor, such as that of an event loop"]


def test_a_database_of_sqlite_is_found(origins: Origins, stack: ExitStack, tmp_path: Path) -> None:
    path = tmp_path / "db"
    before = Possessions()
    database = sqlite3.connect(path)
    stack.callback(database.close)
    database.execute("create table t (a)")
    assert texts(before, origins) == [f"the SQLite database {path}"]


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf])
def test_a_lock_is_found(
    origins: Origins, stack: ExitStack, tmp_path: Path, lock: Callable[[int, int], object]
) -> None:
    before = Possessions()
    file = stack.enter_context((tmp_path / "lock").open("w"))
    lock(file.fileno(), fcntl.LOCK_EX)
    assert texts(before, origins) == [f"a lock on the file {tmp_path / 'lock'}"]


def test_what_several_processes_can_share_is_no_hazard(
    origins: Origins, stack: ExitStack, tmp_path: Path
) -> None:
    before = Possessions()
    # A log file, data that is read, messages to a daemon, a socket that is connected to nothing,
    # and a pipe.
    stack.enter_context((tmp_path / "log").open("a"))
    stack.enter_context((tmp_path / "log").open("rb"))
    stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)).connect(("127.0.0.1", 9))
    stack.enter_context(socket.socket())
    for number in os.pipe():
        stack.callback(os.close, number)
    assert before.hazards(origins) == []


def test_what_was_open_before_is_no_hazard(origins: Origins, listening: socket.socket) -> None:
    assert Possessions().hazards(origins) == []


# Processes, and what is registered for forks.


def test_a_child_process_is_found(origins: Origins, stack: ExitStack) -> None:
    before = Possessions()
    pipe = subprocess.PIPE
    child = stack.enter_context(subprocess.Popen(["cat"], stdin=pipe, stdout=pipe, bufsize=0))
    stack.callback(child.kill)
    assert child.stdin is not None
    assert child.stdout is not None
    # Once it answers, it is what it was started as.
    child.stdin.write(b"a")
    assert child.stdout.read(1) == b"a"
    assert texts(before, origins) == [f"the child process {child.pid} (cat)"]


def test_a_child_that_has_ended_is_no_hazard(origins: Origins) -> None:
    before = Possessions()
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert before.hazards(origins) == []


def test_the_tracker_of_multiprocessing_is_no_hazard() -> None:
    code = """
from multiprocessing import get_context
from aiowsgi.process.mold.hazards import Possessions
from aiowsgi.process.mold.origins import Origins
with Origins() as origins:
    before = Possessions()
    lock = get_context("spawn").Lock()
    print(before.hazards(origins))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_a_pool_of_this_package_is_found(origins: Origins) -> None:
    before = Possessions()
    pool = ThreadPool(1)
    assert texts(before, origins) == ["a ThreadPool of aiowsgi"]
    pool.shutdown()


# The lines.


def test_watching_leaves_nothing_behind() -> None:
    start, init = threading.Thread.start, socket.socket.__init__
    with Origins():
        assert threading.Thread.start is not start
        assert threading.Thread.start.__name__ == "start"
    assert threading.Thread.start is start
    assert socket.socket.__init__ is init


def test_what_the_application_has_put_in_front_stays(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    started = []
    with Origins() as origins:
        ours = threading.Thread.start

        def theirs(thread: threading.Thread) -> None:
            started.append(thread)
            ours(thread)

        monkeypatch.setattr(threading.Thread, "start", theirs)
    assert threading.Thread.start is theirs
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert started == [thread]
    # Nothing is noted any more.
    assert origins.of_thread(thread) == ""
    monkeypatch.undo()


def test_the_line_is_the_applications_and_not_that_of_a_package(
    origins: Origins, stack: ExitStack
) -> None:
    source = "import threading\ndef begin(end):\n    t = threading.Thread(target=end.wait)\n"
    source += "    t.start()\n    return t\n"
    package: dict[str, Callable[[threading.Event], threading.Thread]] = {}
    exec(compile(source, PACKAGE, "exec"), package)  # noqa: S102
    before = Possessions()
    end = threading.Event()
    thread = package["begin"](end)
    called = line() - 1
    stack.callback(thread.join)
    stack.callback(end.set)
    (found,) = before.hazards(origins)
    assert found.line == f"{HERE}{called}"


def test_the_line_of_a_package_is_better_than_none(origins: Origins, stack: ExitStack) -> None:
    source = "import threading\nend = threading.Event()\n"
    source += "threading.Thread(target=end.wait).start()\n"
    package: dict[str, threading.Event] = {}
    code = compile(source, PACKAGE, "exec")
    before = Possessions()
    # On a thread, below which there is no code of an application.
    outer = threading.Thread(target=exec, args=(code, package))
    outer.start()
    outer.join()
    stack.callback(package["end"].set)
    (found,) = before.hazards(origins)
    assert found.line == f'File "{PACKAGE}", line 3'
