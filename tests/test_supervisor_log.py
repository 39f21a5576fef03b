"""What a supervisor logs where nobody reads it: it never waits for long."""

import logging
import os
from collections.abc import Iterator

import pytest

from aiowsgi.process.supervisor import log


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Return the ends of a pipe for the log, for which nobody has any patience."""
    monkeypatch.setattr(log, "_PATIENCE", 0.0)
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        os.close(descriptor)


def fill(writing: int) -> None:
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("aiowsgi.error", logging.INFO, "", 0, text, arguments, None)


def test_what_a_full_pipe_does_not_take_is_counted(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    handler = log._Handler(writing, "%(message)s")
    handler.emit(record("first %s", "message"))
    assert os.read(reading, 100) == b"first message\n"
    fill(writing)
    handler.emit(record("lost"))
    handler.emit(record("lost"))
    while len(os.read(reading, 1 << 20)) == 1 << 20:
        pass
    handler.emit(record("second"))
    handler.emit(record("third"))
    assert os.read(reading, 100) == (b"2 messages of the supervisor got lost here\nsecond\nthird\n")


def test_a_log_that_is_closed_is_no_error(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    assert log.write("text\n", writing)
    other = os.dup(writing)
    os.close(other)
    assert not log.write("text\n", other)


def test_a_record_that_cannot_be_formatted_is_reported_as_logging_does(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = pipe
    handler = log._Handler(writing, "%(message)s")
    handler.emit(record("%d", "no number"))
    assert "--- Logging error ---" in capsys.readouterr().err
    handler.emit(record("goes on"))
    assert os.read(reading, 100) == b"goes on\n"
