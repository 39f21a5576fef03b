"""What each signal does, in each phase of the life of a process."""

import asyncio
import collections
import contextlib
import fcntl
import logging
import os
import pty
import queue
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import FrameType
from typing import cast

import httpx
import pytest
from processes import children_of
from raw_client import eventually
from served_process import ANSWER, PATIENCE, served

import aiowsgi
from aiowsgi.process import signals as signals_module
from aiowsgi.process.signals import Signals

# It is imported for as long as the process lives, and swallows whatever is thrown into it.
SLOW_IMPORT = """
    import sys
    import time

    while True:
        try:
            print("importing", file=sys.stderr, flush=True)
            time.sleep(600)
        except BaseException as error:
            print("swallowed", repr(error), file=sys.stderr, flush=True)
"""

STOPS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGQUIT, 131)]


in_each_loop = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def ask(port: int) -> str:
    return httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE, trust_env=False).text


# While the application is imported.


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_stop_while_importing_ends_at_once(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with served(tmp_path, SLOW_IMPORT) as process:
        process.said("importing")
        process.signal(number)
        assert process.ended() == code
        assert process.lines == ["importing"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(("number", "code"), STOPS)
def test_first_process_of_a_container_is_ended_while_importing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("the system gives no namespaces")
    command = (*unshare, sys.executable, "-m", "aiowsgi", "app:application")
    with served(tmp_path, SLOW_IMPORT, command=command) as process:
        process.said("importing")
        (first,) = children_of(process.pid)
        os.kill(first, number)
        assert process.ended() == code


def test_signals_that_do_not_stop_do_not_stop_an_import(tmp_path: Path) -> None:
    with served(tmp_path, SLOW_IMPORT) as process:
        process.said("importing")
        for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGURG"):
            process.signal(getattr(signal, name))
            if name != "SIGURG":
                process.said(f"^aiowsgi: Ignored {name}: ")
        assert process.stop() == 143
        assert not any("swallowed" in line for line in process.lines)


# While it serves.


@in_each_loop
def test_signals_of_other_servers_are_refused_with_what_to_do_instead(
    tmp_path: Path, loop: str
) -> None:
    pytest.importorskip(loop)
    with served(tmp_path, ANSWER, "--loop", loop) as process:
        port = process.port()
        process.signal(signal.SIGHUP)
        process.said("WARNING Ignored SIGHUP: .* start it again, or start it with --workers 1")
        process.signal(signal.SIGUSR1)
        process.said("WARNING Ignored SIGUSR1: .* logs go to standard output and error$")
        process.signal(signal.SIGUSR2)
        process.said(
            "WARNING Ignored SIGUSR2: .* start it with --workers 1: then SIGUSR2 upgrades it$"
        )
        assert ask(port) == "hello"
        assert process.stop() == 0


@in_each_loop
def test_quit_stops_now(tmp_path: Path, loop: str) -> None:
    pytest.importorskip(loop)
    source = """
        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return iter(lambda: b"x", None)
    """
    with served(tmp_path, source, "--loop", loop) as process:
        with httpx.stream("GET", f"http://127.0.0.1:{process.port()}/", trust_env=False) as stream:
            pieces = stream.iter_raw()
            assert next(pieces).startswith(b"x")
            process.signal(signal.SIGQUIT)
            with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
                collections.deque(pieces, maxlen=0)
        assert process.ended() == 131
        assert any(line.endswith("WARNING Stopping now on SIGQUIT") for line in process.lines)


def test_hangup_that_was_ignored_stays_ignored(tmp_path: Path) -> None:
    def ignore() -> None:  # As nohup does.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with served(tmp_path, ANSWER, preexec=ignore) as process:
        process.port()
        process.signal(signal.SIGHUP)
        process.signal(signal.SIGUSR1)
        process.said("Ignored SIGUSR1")
        assert process.stop() == 0
        assert not any("SIGHUP" in line for line in process.lines)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGQUIT, 131)])
def test_server_in_the_background_of_a_script_can_be_stopped(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    def ignore() -> None:  # As a shell does with what stands before "&" in a script.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)

    with served(tmp_path, ANSWER, preexec=ignore) as process:
        process.port()
        process.signal(number)
        assert process.ended() == code


def test_blocked_signals_are_let_through(tmp_path: Path) -> None:
    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    with served(tmp_path, ANSWER, preexec=block) as process:
        process.port()
        process.signal(signal.SIGUSR1)
        process.said("Ignored SIGUSR1")
        assert process.stop() == 0


def test_process_whose_terminal_has_gone_stops(tmp_path: Path) -> None:
    keyboard, terminal = pty.openpty()

    def have_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    try:
        with served(
            tmp_path, ANSWER, preexec=have_terminal, stdin=terminal, pass_fds=(terminal,)
        ) as process:
            process.port()
            # The terminal is still there, so this does not come from its end.
            process.signal(signal.SIGHUP)
            process.said("Ignored SIGHUP")
            os.close(keyboard)
            process.said("Stopping on SIGHUP: finishing requests in flight")
            assert process.ended() == 0
    finally:
        os.close(terminal)
        with contextlib.suppress(OSError):
            os.close(keyboard)


# The application's own handlers.


@in_each_loop
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise SystemExit(5)", []),
        ("raise KeyboardInterrupt", []),
        ("1 / 0", ["ZeroDivisionError: division by zero"]),
        ("stop.set()", []),
    ],
)
def test_handler_that_the_application_installed_is_called_when_the_server_stops(
    tmp_path: Path, loop: str, what: str, said: list[str]
) -> None:
    pytest.importorskip(loop)
    source = f"""
        import os
        import signal
        import threading

        stop = threading.Event()

        def on_term(number, frame):
            text = f"on_term {{number}} {{threading.current_thread().name}}\\n"
            os.write(2, text.encode())
            {what}

        signal.signal(signal.SIGTERM, on_term)
    """
    source = dedent(source) + ANSWER
    with served(tmp_path, source, "--loop", loop) as process:
        process.said("INFO SIGTERM stops the server, and then calls .* own handler app:on_term$")
        assert ask(process.port()) == "hello"
        assert process.stop() == 0
        assert "on_term 15 MainThread" in process.lines
        assert any("Stopping on SIGTERM" in line for line in process.lines)
        assert [line for line in process.lines if "Error" in line] == said


def test_handlers_of_signals_that_do_not_stop_are_the_applications(tmp_path: Path) -> None:
    source = """
        import faulthandler
        import signal
        import sys

        # A handler in C. Not of all threads: to walk the frames of one that runs is a race, which
        # ends in a crash now and then.
        faulthandler.register(signal.SIGUSR1, all_threads=False)
        signal.signal(signal.SIGHUP, lambda number, _: print("mine", file=sys.stderr, flush=True))
    """
    source = dedent(source) + ANSWER
    with served(tmp_path, source) as process:
        process.port()
        process.signal(signal.SIGUSR1)
        process.said(r"^Stack \(most recent call first\)")
        process.signal(signal.SIGHUP)
        process.said("^mine$")
        assert process.stop() == 0
        assert not any("Ignored" in line for line in process.lines)


# The blocking form, in a program that goes on.


@in_each_loop
def test_handlers_of_a_program_are_called_and_put_back(loop: str) -> None:
    pytest.importorskip(loop)
    calls: queue.SimpleQueue[int] = queue.SimpleQueue()
    begun = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        calls.put(number)

    def drive() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE, trust_env=False)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)

    def app(environ: object, start_response: object) -> list[bytes]:
        begun.set()
        raise RuntimeError

    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    # Otherwise the server would configure the logging of this process.
    handler_of_logs = logging.NullHandler()
    package = logging.getLogger("aiowsgi")
    package.addHandler(handler_of_logs)
    try:
        for number in numbers:
            signal.signal(number, handler)
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        driver = threading.Thread(target=drive)
        driver.start()
        config = aiowsgi.Config(bind=(f"fd:{listening.detach()}",), loop=loop)
        aiowsgi.run(app, config=config)
        driver.join(PATIENCE)
        assert begun.is_set()
        # In any order: both may be there when the main thread has its turn.
        assert {calls.get(timeout=PATIENCE) for _ in numbers} == set(numbers)
        assert calls.empty()
        assert [signal.getsignal(number) for number in numbers] == [handler, handler]
    finally:
        package.removeHandler(handler_of_logs)
        for number in numbers:
            signal.signal(number, before[number])
    after = {number: signal.getsignal(number) for number in signal.valid_signals()}
    assert after == before


def test_signal_before_there_is_a_server_does_what_it_did_before() -> None:
    # In the background of a script, this process has it ignored.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    signals = Signals()
    signals.install()
    try:
        assert signal.getsignal(signal.SIGINT) != before[signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signals.restore()
        after = {number: signal.getsignal(number) for number in signal.valid_signals()}
        signal.signal(signal.SIGINT, ignored)
    assert after == before


def test_nothing_is_installed_on_another_thread() -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    thread = threading.Thread(target=Signals().install)
    thread.start()
    thread.join(PATIENCE)
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


# In this process, with a server that only notes what it is told.


class FakeServer:
    def __init__(self, *, certificates: bool = False) -> None:
        self.serving = True
        self.certificates = certificates
        self.renewed_by: list[str] = []

    def is_serving(self) -> bool:
        return self.serving

    def close(self) -> None:
        self.serving = False

    def inspect(self) -> str:
        return "what is in flight"

    def renew_certificates(self, asked_by: str) -> bool:
        if not self.certificates:
            return False
        self.renewed_by.append(asked_by)
        return True


@pytest.fixture
def signals() -> Iterator[Signals]:
    """Return handlers that are installed; everything is put back."""
    found = {number: signal.getsignal(number) for number in signal.valid_signals()}
    signals = Signals(without_server=ended.put)
    while not ended.empty():
        ended.get()
    signals.unblock()
    signals.install()
    yield signals
    signals.restore()
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == found


# With which signals the process would have ended.
ended: "queue.SimpleQueue[int]" = queue.SimpleQueue()


async def said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    await eventually(lambda: any(message.startswith(text) for message in caplog.messages))


@pytest.mark.parametrize("taken", [[], ["SIGURG", "SIGINFO"]], ids=["none", "inspect"])
async def test_loop_wakes_up_whichever_thread_the_system_interrupts(
    signals: Signals, taken: list[str]
) -> None:
    # The application may have handlers of its own for those that only look.
    numbers = [getattr(signal, name) for name in taken if hasattr(signal, name)]
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signals.attach(cast(aiowsgi.Server, FakeServer()))
    # The loop sleeps by then, if the machine is not too busy.
    thread = threading.Timer(0.05, signal.raise_signal, [signal.SIGQUIT])
    thread.start()
    async with asyncio.timeout(PATIENCE):
        await signals.forced.wait()
    thread.join(PATIENCE)
    signals.detach()
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


async def test_server_gets_what_signals_ask_for(
    signals: Signals, caplog: pytest.LogCaptureFixture
) -> None:
    send = signal.raise_signal
    caplog.set_level("INFO", "aiowsgi.error")
    server = FakeServer()
    signals.attach(cast(aiowsgi.Server, server))
    send(signal.SIGURG)
    await said(caplog, "Asked by SIGURG: what is in flight")
    send(signal.SIGHUP)
    await said(caplog, "Ignored SIGHUP: ")
    send(signal.SIGTERM)
    await said(caplog, "Stopping on SIGTERM: ")
    assert not server.serving
    assert signals.exit_code == 0
    send(signal.SIGINT)
    await said(caplog, "Stopping now on a second SIGINT")
    assert signals.forced.is_set()
    assert signals.exit_code == 130
    send(signal.SIGQUIT)
    await said(caplog, "Stopping now on SIGQUIT")
    assert signals.exit_code == 131
    signals.detach()
    assert ended.empty()


async def test_hangup_has_certificates_read_again_and_says_what_it_does_not_do(
    signals: Signals, caplog: pytest.LogCaptureFixture
) -> None:
    server = FakeServer(certificates=True)
    signals.attach(cast(aiowsgi.Server, server))
    signal.raise_signal(signal.SIGHUP)
    await said(caplog, "Reading the certificates again on SIGHUP, and nothing else: a single")
    assert "--workers 1: then SIGHUP reloads it" in caplog.text
    assert server.renewed_by == ["SIGHUP"]
    assert server.serving
    signals.detach()


async def test_signal_that_the_loop_does_not_come_to_is_not_lost(signals: Signals) -> None:
    signals.attach(cast(aiowsgi.Server, FakeServer()))
    signal.raise_signal(signal.SIGTERM)
    signals.detach()
    assert ended.get(timeout=PATIENCE) == signal.SIGTERM
    # What the loop was told is of no interest any more.
    await asyncio.sleep(0)
    signal.raise_signal(signal.SIGINT)
    assert ended.get(timeout=PATIENCE) == signal.SIGINT


async def test_hangup_stops_where_the_terminal_has_gone(
    signals: Signals, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "aiowsgi.error")
    monkeypatch.setattr(signals, "_had_terminal", True)
    monkeypatch.setattr(signals_module, "has_terminal", lambda: False)
    server = FakeServer()
    signals.attach(cast(aiowsgi.Server, server))
    signal.raise_signal(signal.SIGHUP)
    await said(caplog, "Stopping on SIGHUP: ")
    assert not server.serving
    signals.detach()


@pytest.mark.parametrize("error", [None, SystemExit(3), KeyboardInterrupt(), ValueError("boom")])
async def test_handler_of_the_application_may_do_what_it_likes(
    signals: Signals, caplog: pytest.LogCaptureFixture, error: BaseException | None
) -> None:
    caplog.set_level("INFO", "aiowsgi.error")
    calls = []

    def on_term(number: int, frame: FrameType | None) -> None:
        calls.append(number)
        if error is not None:
            raise error

    signal.signal(signal.SIGTERM, on_term)
    signals.install()
    signals.attach(cast(aiowsgi.Server, FakeServer()))
    signal.raise_signal(signal.SIGTERM)
    await said(caplog, "Stopping on SIGTERM: ")
    assert calls == [signal.SIGTERM]
    failed = [message for message in caplog.messages if "of the application failed" in message]
    assert len(failed) == isinstance(error, ValueError)
    signals.detach()
    signals.restore()
    assert signal.getsignal(signal.SIGTERM) == on_term
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_refusal_without_a_server_is_written_to_standard_error(
    signals: Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGURG)
    assert capfd.readouterr().err == (
        "aiowsgi: Ignored SIGUSR1: there are no log files to open again: logs go to standard "
        "output and error\n"
    )
    assert ended.empty()
