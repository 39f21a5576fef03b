"""The end of a process whose application has threads, or other work, of its own."""

import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from served_process import ANSWER, PATIENCE, served

from aiowsgi.exchange.resources import ABORT_TIMEOUT
from aiowsgi.process import ending

# What holds the end of a process for ever, and which thread that is.
HOLDERS = {
    "thread": (
        """
        import threading

        def work_for_ever():
            threading.Event().wait()

        threading.Thread(target=work_for_ever, name="mine").start()
        """,
        "mine",
    ),
    "executor": (
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor

        def work_for_ever():
            threading.Event().wait()

        executor = ThreadPoolExecutor(4, thread_name_prefix="mine")
        executor.submit(work_for_ever)
        # This one is idle by then, and is not to be named.
        executor.submit(int)
        """,
        "mine_0",
    ),
    "atexit": (
        """
        import atexit
        import threading

        @atexit.register
        def work_for_ever():
            threading.Event().wait()
        """,
        "MainThread",
    ),
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_work_that_does_not_end_is_named_and_the_process_ends(tmp_path: Path, kind: str) -> None:
    source, name = HOLDERS[kind]
    # The idle thread of an executor ends meanwhile, on a busy machine too.
    timeout = "1s" if kind == "executor" else "300ms"
    with served(tmp_path, dedent(source) + ANSWER, "--timeout-graceful", timeout) as process:
        process.port()
        process.signal(signal.SIGTERM)
        found = process.said(r"WARNING .* the thread (\S+) of the application is still at work")
        assert found[1] == name
        process.said(r"in work_for_ever$")
        assert process.ended() == 0
        assert sum("still at work" in line for line in process.lines) == 1


def test_work_that_was_given_to_threads_of_the_event_loop_is_named_too(tmp_path: Path) -> None:
    source = """
        import asyncio
        import sys
        import threading

        import aiowsgi

        def work_for_ever():
            print("begun", file=sys.stderr, flush=True)
            threading.Event().wait()

        def application(environ, start_response):
            aiowsgi.run_coroutine(asyncio.to_thread(work_for_ever))
    """
    with served(tmp_path, source, "--timeout-graceful", "300ms") as process:
        with socket.create_connection(("127.0.0.1", process.port()), PATIENCE) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            process.said("begun")
            process.signal(signal.SIGTERM)
            process.said("the thread (asyncio|uvloop)_0 of the application is still at work")
        assert process.ended() == 0
        assert sum("still at work" in line for line in process.lines) == 1


def test_work_that_ends_in_time_is_waited_for(tmp_path: Path) -> None:
    source = """
        import sys
        import threading

        def work():
            threading.main_thread().join()
            print("done", file=sys.stderr)

        def application(environ, start_response):
            # Not a daemon, though the thread that runs this is none that is waited for.
            threading.Thread(target=work).start()
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
            return []
    """
    with served(tmp_path, source) as process:
        url = f"http://127.0.0.1:{process.port()}/"
        subprocess.run(
            [sys.executable, "-c", f"import urllib.request as r; r.urlopen({url!r}).read()"],
            check=True,
        )
        assert process.stop() == 0
        assert process.lines[-1] == "done"
        assert not any("still at work" in line for line in process.lines)


def test_second_signal_ends_the_wait(tmp_path: Path) -> None:
    with served(tmp_path, dedent(HOLDERS["thread"][0]) + ANSWER) as process:
        process.port()
        process.signal(signal.SIGTERM)
        process.said("Stopping on SIGTERM")
        # Again and again, because Python loses a signal that comes just before it begins to wait
        # for a thread: it handles that once the wait is over.
        while process.process.poll() is None:
            process.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.process.wait(PATIENCE / 10)
        assert process.ended() == 143


def test_failed_start_does_not_wait_for_ever_either(tmp_path: Path) -> None:
    source = dedent(HOLDERS["thread"][0]) + "1 / 0\n"
    with served(tmp_path, source, "--timeout-graceful", "300ms") as process:
        process.said("aiowsgi: error: importing the module 'app' failed")
        process.said("the thread mine of the application is still at work")
        assert process.ended() == 1


def test_output_that_nobody_reads_does_not_hold_the_end(tmp_path: Path) -> None:
    source = """
        import sys

        sys.stdout = open(1, "w", buffering=1 << 24, closefd=False)
        sys.stdout.write("x" * (1 << 23))
    """
    options = ("--timeout-graceful", "300ms")
    # The pipe is not read while the process is there.
    with served(tmp_path, dedent(source) + ANSWER, *options, stdout=subprocess.PIPE) as process:
        process.port()
        assert process.stop() == 0


def test_steps_behind_the_time_for_shutdown_take_a_second_together() -> None:
    assert ABORT_TIMEOUT + ending._MIN_SECONDS + ending._LAST_RESORT < 1.0


# In this process, which does not end.


class Exited(BaseException):
    """Raised in the place of the end of the process."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> "queue.SimpleQueue[int]":
    """Return the exit codes with which the process would have ended; logs go where they go."""
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()

    def exit_process(code: int) -> None:
        codes.put(code)
        if threading.current_thread() is threading.main_thread():
            raise Exited

    monkeypatch.setattr(os, "_exit", exit_process)
    # It would close the handlers of the tests.
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    return codes


@pytest.fixture
def lingering() -> Iterator[threading.Thread]:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="lingering")
    thread.start()
    yield thread
    release.set()
    thread.join(PATIENCE)


def test_threads_that_are_left_are_named_once_the_time_is_over(
    exits: "queue.SimpleQueue[int]", lingering: threading.Thread, caplog: pytest.LogCaptureFixture
) -> None:
    ending.end_within(7, 0.0)
    # The first one ends the process. The second one does so if the first is stuck.
    assert [exits.get(timeout=PATIENCE) for _ in range(2)] == [7, 7]
    (message,) = caplog.messages
    assert " thread lingering of the application " in message


def test_time_without_end_is_no_longer_than_a_thread_can_sleep(
    exits: "queue.SimpleQueue[int]", monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: queue.SimpleQueue[float] = queue.SimpleQueue()
    monkeypatch.setattr(time, "sleep", slept.put)
    ending.end_within(7, 1e13)
    assert [exits.get(timeout=PATIENCE) for _ in range(2)] == [7, 7]
    assert max(slept.get(timeout=PATIENCE) for _ in range(2)) < threading.TIMEOUT_MAX


def test_threads_behind_a_stuck_application_are_not_waited_for(
    exits: "queue.SimpleQueue[int]",
) -> None:
    with pytest.raises(Exited):
        ending.end_within(7, None)
    assert [exits.get(timeout=PATIENCE) for _ in range(2)] == [7, 7]


def test_process_without_another_thread_ends_at_once(
    exits: "queue.SimpleQueue[int]",
    lingering: threading.Thread,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    for seconds in (1000.0, None):
        with pytest.raises(Exited):
            ending.end_within(7, seconds)
        assert exits.get(timeout=PATIENCE) == 7
    assert " thread lingering of the application " in caplog.messages[0]


def test_main_thread_that_is_at_work_for_the_server_is_not_named(
    exits: "queue.SimpleQueue[int]",
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = threading.main_thread()
    assert main.ident is not None
    stacks = {main.ident: f'  File "{ending.__file__}", line 1, in drain\n'}
    monkeypatch.setattr(ending, "_blocking_threads", lambda: [main])
    monkeypatch.setattr(ending, "stacks_of", lambda idents: stacks)
    with pytest.raises(Exited):
        ending._force_exit(3)
    assert caplog.messages == []
    stacks[main.ident] = '  File "/app.py", line 1, in work\n'
    with pytest.raises(Exited):
        ending._force_exit(3)
    assert len(caplog.messages) == 1
    assert [exits.get(timeout=PATIENCE) for _ in range(2)] == [3, 3]


def test_exit_on_a_signal_has_the_code_that_shells_report(exits: "queue.SimpleQueue[int]") -> None:
    with pytest.raises(Exited):
        ending.exit_on_signal(signal.SIGTERM)
    assert exits.get(timeout=PATIENCE) == 143
