"""Log lines on their way to a stream: a slow, stuck or gone reader stops no other thread.

The streams are pipes, whose kernel buffer a test fills, and streams that wait for the test.
"""

import contextlib
import io
import logging
import logging.config
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import FrameType
from typing import Any, ClassVar, TextIO, cast

import pytest
from waiting import eventually

from aiowsgi.observe import log_writer
from aiowsgi.observe.log_writer import LogWriter
from aiowsgi.observe.loggers import ServerLogger, access_log, error_log
from aiowsgi.process import logs, standard_streams

# Fail-safe, in seconds.
PATIENCE = 30.0


class Gate(io.StringIO):
    """A stream that takes nothing until the test opens it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.opened.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return super().write(text)


class Told:
    """A writer, and what it says."""

    all: ClassVar[list["Told"]] = []

    def __init__(self, stream: TextIO) -> None:
        self.all.append(self)
        self.stream = stream
        self.broken: list[str] = []
        self.dropped: list[str] = []
        self.writer = LogWriter(
            stream, "the stream", on_broken=self.broken.append, on_dropped=self.dropped.append
        )


@pytest.fixture(autouse=True)
def every_writer_ends() -> Iterator[None]:
    """Let every writing thread end."""
    yield
    while Told.all:
        told = Told.all.pop()
        if isinstance(told.stream, Gate):
            told.stream.opened.set()
        told.writer.flush(PATIENCE)
    logs.flush(PATIENCE)


# --- the queue -----------------------------------------------------------------------------------


def test_lines_are_written_in_their_order_by_a_thread_of_its_own() -> None:
    stream = Gate()
    writer = Told(stream).writer
    for number in range(1000):
        writer.put(f"line {number}")
    stream.opened.set()
    assert writer.flush(PATIENCE) == ""
    assert stream.getvalue().splitlines() == [f"line {number}" for number in range(1000)]


def test_lines_beyond_the_bound_are_dropped_and_counted_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_writer, "_MAX_LINES", 10)
    stream = Gate()
    told = Told(stream)
    told.writer.put("first")
    assert stream.entered.wait(PATIENCE)  # It has left the queue.
    for number in range(15):
        told.writer.put(f"{number}")
    assert told.dropped == []
    stream.opened.set()
    eventually(lambda: told.dropped)
    assert told.dropped == ["5 log lines were dropped: the stream did not take everything in time"]
    assert told.writer.flush(PATIENCE) == ""
    assert stream.getvalue().split() == ["first", *map(str, range(10))]


def test_queue_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_MAX_BYTES", 100)
    stream = Gate()
    told = Told(stream)
    told.writer.put("first")
    assert stream.entered.wait(PATIENCE)
    for size in (60, 60, 30):
        told.writer.put("x" * size)
    stream.opened.set()
    eventually(lambda: told.dropped)
    assert told.dropped == ["1 log line was dropped: the stream did not take everything in time"]
    told.writer.flush(PATIENCE)
    assert [len(line) for line in stream.getvalue().splitlines()] == [5, 60, 30]


def test_reader_that_is_gone_is_told_once_until_one_is_there_again() -> None:
    stream = Gate()
    stream.opened.set()
    stream.error = BrokenPipeError(32, "Broken pipe")
    told = Told(stream)
    for _ in range(3):
        told.writer.put("lost")
        eventually(lambda: not told.writer._lines and not told.writer._writing)
    assert told.broken == ["the stream cannot be written to: Broken pipe; log lines are lost"]
    stream.error = None
    told.writer.put("found")
    eventually(lambda: told.dropped)
    assert told.dropped == ["3 log lines were dropped: the stream could not be written to"]
    stream.error = ValueError("I/O operation on closed file")
    told.writer.put("lost again")
    eventually(lambda: len(told.broken) == 2)
    assert stream.getvalue() == "found\n"


class Plain:
    """What some put in place of a standard stream: it has nothing that ``print`` does not need."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


def test_stream_without_flush_gets_every_line() -> None:
    stream = Plain()
    told = Told(cast(TextIO, stream))
    for text in ("one", "two"):
        told.writer.put(text)
        assert told.writer.flush(PATIENCE) == ""
    assert stream.text == "one\ntwo\n"
    assert told.broken == []


@pytest.mark.parametrize("error", [AttributeError("no such attribute"), RuntimeError(), KeyError()])
def test_stream_that_raises_anything_is_told_once_and_does_not_end_the_thread(
    error: Exception,
) -> None:
    stream = Gate()
    stream.opened.set()
    stream.error = error
    told = Told(stream)
    for _ in range(2):
        told.writer.put("lost")
        assert told.writer.flush(PATIENCE) == (
            "1 log line was dropped: the stream could not be written to"
        )
    reason = str(error) or type(error).__name__
    assert told.broken == [f"the stream cannot be written to: {reason}; log lines are lost"]
    stream.error = None
    told.writer.put("found")
    assert told.writer.flush(PATIENCE) == ""
    assert stream.getvalue() == "found\n"


def test_stuck_reader_is_not_waited_for_and_what_is_lost_is_told_once() -> None:
    stream = Gate()
    writer = Told(stream).writer
    for _ in range(3):
        writer.put("x" * 5000)
    assert stream.entered.wait(PATIENCE)
    assert (
        writer.flush(0.01) == "3 log lines were dropped: the stream did not take everything in time"
    )
    assert writer.flush(PATIENCE) == ""  # At once.
    stream.opened.set()


def test_signal_handler_may_log_in_the_midst_of_logging() -> None:
    stream = Gate()
    writer = Told(stream).writer
    with writer._changed:  # As where the signal comes while this thread holds it.
        writer.put("inner")
    stream.opened.set()
    assert writer.flush(PATIENCE) == ""
    assert stream.getvalue() == "inner\n"


@pytest.mark.parametrize("number", range(1, 90))
def test_writing_thread_may_log_itself_before_any_line_of_its_code(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a destructor does that the garbage collector runs there."""
    monkeypatch.setattr(log_writer, "_GATHER_SECONDS", 0.0)
    left = [number]
    stream = io.StringIO()
    writer = Told(stream).writer

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        ours = frame.f_code.co_filename in (log_writer.__file__, threading.__file__)
        return at_line if ours else None

    def at_line(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and left:
            left[0] -= 1
            if left[0] == 0:
                left.clear()
                writer.put("inner")
        return at_line

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        writer.put("first")
        eventually(lambda: writer._idle)
    finally:
        threading.settrace(before)  # type: ignore[arg-type]
    eventually(lambda: sorted(stream.getvalue().split()) == ["first", "inner"][: 2 - len(left)])
    writer.put("last")
    eventually(lambda: "last" in stream.getvalue())


def test_lines_are_written_at_once_where_there_can_be_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    stream = io.StringIO()
    writer = Told(stream).writer
    writer.put("one")
    assert stream.getvalue() == "one\n"


def test_what_an_encoding_cannot_say_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    writer = Told(stream).writer
    writer.put("grün")
    assert writer.flush(PATIENCE) == ""
    assert raw.getvalue() == b"gr\\xfcn\n"


@contextlib.contextmanager
def standard_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, TextIO]]:
    """Make standard output a pipe; yield its other end, and the stream."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as reader, open(writing, "w") as stream:
        monkeypatch.setattr(sys, "__stdout__", stream)
        yield reader.fileno(), stream


def read_lines(descriptor: int, count: int) -> list[bytes]:
    data = b""
    while data.count(b"\n") < count:
        data += os.read(descriptor, 1 << 16)
    return data.splitlines()


@pytest.mark.parametrize("blocking", [True, False])
def test_pipe_that_is_full_keeps_nobody_waiting_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, blocking: bool
) -> None:
    with standard_pipe(monkeypatch) as (reader, stream):
        # A parent may have made it so for all who share it.
        os.set_blocking(stream.fileno(), blocking)
        writer = Told(stream).writer
        lines = [b"%d" % number + b"x" * 999 for number in range(1000)]
        for line in lines:
            writer.put(line.decode())
        assert read_lines(reader, len(lines)) == lines
        assert writer.flush(PATIENCE) == ""


def test_long_line_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with standard_pipe(monkeypatch) as (reader, stream):
        writer = Told(stream).writer
        writer.put("x" * 300_000)
        assert len(read_lines(reader, 1)[0]) == 300_000


def test_number_of_a_stream_that_was_closed_is_not_written_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with standard_pipe(monkeypatch) as (_, stream):
        told = Told(stream)
        number = stream.fileno()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            stream.close()
            # As a connection might, it takes the number that has become free.
            os.dup2(ours.fileno(), number)
            try:
                told.writer.put("lost")
                eventually(lambda: told.broken)
                ours.shutdown(socket.SHUT_RDWR)
                assert theirs.recv(100) == b""
            finally:
                os.close(number)
    assert told.broken == ["the stream cannot be written to: it is closed; log lines are lost"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_writes_its_own_lines_and_none_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with standard_pipe(monkeypatch) as (reader, stream):
        gate = Gate()
        waiting = Told(gate).writer
        waiting.put("taken")
        assert gate.entered.wait(PATIENCE)
        waiting.put("in the queue")
        waiting._stream = stream
        waiting._descriptor = stream.fileno()
        # Another thread is at it while the child is made.
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with waiting._changed:
                held.set()
                assert release.wait(PATIENCE)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(PATIENCE)
        child = os.fork()
        if not child:
            try:
                waiting.put("child's")
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert read_lines(reader, 1) == [b"child's"]
        release.set()
        holder.join(PATIENCE)
        gate.opened.set()
        assert read_lines(reader, 1) == [b"in the queue"]


# --- the loggers ---------------------------------------------------------------------------------


Written = Callable[[], tuple[str, str]]
Configure = Callable[[], Written]


@pytest.fixture
def configure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Configure]:
    """Return a function that configures logging as for a process; all is taken back.

    It returns one that returns what was written. Not done here: capsys is another one by then.
    """
    root = logging.getLogger()
    above = logging.getLogger("aiowsgi")
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    logging.getLogger("other")
    for known_logger in logging.Logger.manager.loggerDict.values():
        if isinstance(known_logger, logging.Logger):
            monkeypatch.setattr(known_logger, "disabled", False)
    # Those of pytest, which configuring would close.
    for logger in (root, above, error_log, access_log):
        for name in ("handlers", "level", "disabled", "propagate"):
            value: Any = [] if name == "handlers" else getattr(logger, name)
            monkeypatch.setattr(logger, name, value)
    for own in (error_log, access_log):
        monkeypatch.setattr(own, "level", logging.NOTSET)
    known = list(logging._handlerList)  # type: ignore[attr-defined]

    def written() -> tuple[str, str]:
        logs.flush(PATIENCE)
        captured = capsys.readouterr()
        return captured.out, captured.err

    def start() -> Written:
        monkeypatch.setattr(root, "handlers", [])  # Pytest has some for each phase.
        logs.configure("info")
        return written

    yield start
    logging._handlerList[:] = known  # type: ignore[attr-defined]
    for logger in (error_log, access_log):
        logger._cache.clear()  # type: ignore[attr-defined]


def test_configuring_late_does_not_silence_the_server(configure: Configure) -> None:
    written = configure()
    other = logging.getLogger("other")
    logging.config.dictConfig({"version": 1, "root": {"level": "INFO"}})
    assert other.disabled
    error_log.error("seen")
    access_log.info("a line")
    out, err = written()
    assert (out, err.split()[-1]) == ("a line\n", "seen")


def test_configuration_that_names_a_logger_wins(configure: Configure) -> None:
    written = configure()
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"mine": {"class": "logging.StreamHandler", "stream": sys.stdout}},
            "loggers": {"aiowsgi.error": {"handlers": ["mine"]}},
        }
    )
    error_log.error("seen")
    access_log.info("a line")
    out, err = written()
    assert (out, err) == ("seen\na line\n", "")


def test_configuration_that_names_the_logger_above_both_wins(configure: Configure) -> None:
    written = configure()
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"mine": {"class": "logging.StreamHandler", "stream": sys.stdout}},
            "loggers": {"aiowsgi": {"handlers": ["mine"], "level": "INFO"}},
        }
    )
    error_log.error("seen")
    access_log.info("a line")
    assert written() == ("seen\na line\n", "")


def test_logger_that_is_disabled_by_hand_stays_so(configure: Configure) -> None:
    written = configure()
    access_log.disabled = True
    access_log.info("a line")
    assert written() == ("", "")


def test_what_nobody_has_configured_is_written_in_the_same_way(configure: Configure) -> None:
    written = configure()
    logging.getLogger("asyncio").error("an exception")
    assert written() == ("", "an exception\n")


def test_application_that_configured_the_loggers_first_is_heeded(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = logging.NullHandler()
    monkeypatch.setattr(logging.getLogger("aiowsgi"), "handlers", [handler])
    logs.configure("info")
    assert not error_log.handlers
    assert error_log.propagate


def test_record_that_cannot_be_formatted_is_told_and_stops_nobody(configure: Configure) -> None:
    written = configure()
    error_log.error("%d", "x")
    error_log.error("seen")
    _, err = written()
    assert "--- Logging error ---" in err
    assert err.splitlines()[-1].endswith(" seen")


def test_loggers_are_those_that_everybody_knows() -> None:
    assert isinstance(logging.getLogger("aiowsgi.error"), ServerLogger)
    assert logging.getLogger("aiowsgi.access") is access_log


# --- the text streams ----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, logs.AT_EXIT, 5.0])
def test_stuck_output_leaves_a_moment_to_tell_of_it(
    seconds: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = began = 1000.0

    class StuckWriter:
        def flush(self, timeout: float) -> str:
            nonlocal now
            given.append(timeout)
            now += timeout
            return "lost"

    given: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(logs, "_writers", [StuckWriter(), StuckWriter()])
    logs.flush(seconds)
    monkeypatch.undo()
    # Both together take no longer than the end of the process waits for them.
    assert now - began == pytest.approx(max(seconds, logs.AT_EXIT))
    assert given[1] == pytest.approx(logs._LAST_MOMENT)
    assert caplog.messages == ["lost", "lost"]


def test_streams_of_a_stuck_reader_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        def flush(self) -> None:
            assert opened.wait(PATIENCE)

    opened = threading.Event()
    monkeypatch.setattr(sys, "stdout", cast(TextIO, Stuck()))
    assert not standard_streams.flush(0.01)
    opened.set()
    assert standard_streams.flush(PATIENCE)


def test_streams_without_a_reader_do_not_fail_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        stream.write("lost")
        monkeypatch.setattr(sys, "stdout", stream)
        assert standard_streams.flush(PATIENCE)
        # It leads nowhere now.


def test_stream_that_knows_no_flush_keeps_no_other_from_it() -> None:
    flushed = threading.Event()

    class Flushed(io.StringIO):
        def flush(self) -> None:
            flushed.set()

    plain = cast(TextIO, Plain())
    with contextlib.redirect_stdout(plain), contextlib.redirect_stderr(Flushed()):
        assert standard_streams.flush(PATIENCE)
    assert flushed.is_set()


# --- processes -----------------------------------------------------------------------------------

APPLICATION = """
    import logging
    import logging.config
    import os

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/configure":
            logging.config.dictConfig({"version": 1})
        if environ["PATH_INFO"] == "/raise":
            raise RuntimeError("of the application")
        if environ["PATH_INFO"] == "/print":
            print("x" * int(environ["QUERY_STRING"]))
        if environ["PATH_INFO"] == "/fork":
            child = os.fork()
            if not child:
                logging.getLogger("aiowsgi.error").warning("said by the child")
                os._exit(0)
            os.waitpid(child, 0)
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]
"""


class Served:
    """A server in a process of its own, whose outputs are pipes that the test may read."""

    def __init__(self, folder: Path, *options: str) -> None:
        (folder / "app.py").write_text(dedent(APPLICATION))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.address = listening.getsockname()
            command = [sys.executable, "-m", "aiowsgi", "app:application", *options]
            self.process = subprocess.Popen(
                [*command, "--bind", f"fd:{listening.fileno()}"],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(listening.fileno(),),
                # What is printed waits in a buffer, as it does by default.
                env={**os.environ, "PYTHONUNBUFFERED": ""},
            )
            # Its end is the end of every wait for it.
            self._watchdog = threading.Timer(2 * PATIENCE, self.process.kill)
            self._watchdog.start()

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._watchdog.cancel()
        self.process.kill()
        self.process.communicate()

    def ask(self, *targets: str) -> None:
        """Send requests on one connection, one after the other, and see that each is answered."""
        with socket.create_connection(self.address, PATIENCE) as client:
            for target in targets:
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                answer = b""
                while not answer.endswith((b"hello", b"Error\n")):
                    piece = client.recv(1 << 16)
                    assert piece, answer
                    answer += piece

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


LONG = "/" + "x" * 4000


def test_output_that_nobody_reads_stops_neither_requests_nor_the_end(tmp_path: Path) -> None:
    with Served(tmp_path, "--timeout-graceful", "0.5") as served:
        served.ask(*[LONG] * 100)
        assert served.stop() == 0
        assert served.process.stderr is not None
        text = served.process.stderr.read().decode()
    # Where the machine stands still meanwhile, there is no time left to say so of the one output on
    # the other, and only that is said.
    assert re.search(r"dropped: standard (output|error) did not take everything in time", text)
    assert "Traceback" not in text


def test_both_outputs_that_nobody_reads_stop_neither(tmp_path: Path) -> None:
    with Served(tmp_path, "--timeout-graceful", "0.5") as served:
        served.ask(*["/raise"] * 300)
        assert served.stop() == 0


def test_application_that_prints_to_nobody_does_not_stop_the_end(tmp_path: Path) -> None:
    with (
        Served(tmp_path, "--timeout-graceful", "0.5") as served,
        socket.create_connection(served.address, PATIENCE) as client,
    ):
        client.sendall(b"GET /print?300000 HTTP/1.1\r\nHost: h\r\n\r\n")
        # Others are served, and logged, while it is stuck.
        served.ask(*[LONG] * 50)
        assert served.stop() == 0
        assert client.recv(1) == b""


def test_output_without_a_reader_is_told_once(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        assert served.process.stdout is not None
        assert served.process.stderr is not None
        served.process.stdout.close()
        served.ask("/print?5", *["/"] * 20)
        assert served.stop() == 0
        text = served.process.stderr.read().decode()
    assert text.count("standard output cannot be written to: Broken pipe") == 1
    assert "Traceback" not in text
    assert "Exception ignored" not in text


def test_errors_without_a_reader_are_told_to_the_other_output(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        assert served.process.stdout is not None
        assert served.process.stderr is not None
        served.process.stderr.close()
        served.ask(*["/raise"] * 20)
        assert served.stop() == 0
        text = served.process.stdout.read().decode()
    assert text.count("standard error cannot be written to: Broken pipe") == 1
    assert text.count(" 500 ") == 20


def test_reader_that_is_merely_slow_gets_every_line(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.ask(*[f"{LONG}?{number}" for number in range(100)])
        served.process.send_signal(signal.SIGTERM)
        assert served.process.stdout is not None
        lines = [line for line in served.process.stdout if LONG.encode() in line]
        assert served.process.wait(PATIENCE) == 0
    assert len(lines) == 100


def test_child_of_the_application_logs_once_and_repeats_nothing(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        served.ask("/", "/fork", "/")
        assert served.stop() == 0
        out, err = served.process.communicate(timeout=PATIENCE)
    assert out.count(b"\n") == 3
    assert err.count(b"said by the child") == 1
    assert err.count(b"Serving ") == 1


def test_application_that_configures_logging_in_a_request_does_not_silence_it(
    tmp_path: Path,
) -> None:
    with Served(tmp_path) as served:
        served.ask("/configure", "/raise")
        assert served.stop() == 0
        out, err = served.process.communicate(timeout=PATIENCE)
    assert out.count(b"\n") == 2
    assert b"RuntimeError: of the application" in err
    assert b"Stopping on SIGTERM" in err
