"""The access log: one line a request, whatever the client puts into it."""

import logging
import re
import time
from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory import MemoryConnection

from aiowsgi.observe import access
from aiowsgi.observe.access import AccessRecord, Times, format_record
from aiowsgi.observe.loggers import ServerLogger, access_log, error_log

NOW = 784111777.9  # 1994-11-06 08:49:37 UTC
PLAIN = AccessRecord(
    client="192.0.2.7",
    request_line="GET /a?b HTTP/1.1",
    status=200,
    size=5,
    referer="http://a.test/",
    user_agent="curl/8.0",
    times=Times(accepted=1.0, head=2.0, ready=2.001, started=2.0034567, last_byte=2.0123456),
)
LINE = re.compile(
    r'(?P<client>\S+) - - \[(?P<time>[^\]]+)\] "(?P<request>[^"]*)" (?P<status>[0-9]+) '
    r'(?P<size>[0-9]+) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)" '
    r"(?P<duration>[0-9]+\.[0-9]{6}) (?P<queue_wait>[0-9]+\.[0-9]{6})"
)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from _in_zone(monkeypatch, "UTC")


def _in_zone(monkeypatch: pytest.MonkeyPatch, zone: str) -> Iterator[None]:
    access._timestamp.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        yield
    time.tzset()
    access._timestamp.cache_clear()


def test_the_combined_format_and_the_duration() -> None:
    assert format_record(PLAIN, NOW) == (
        '192.0.2.7 - - [06/Nov/1994:08:49:37 +0000] "GET /a?b HTTP/1.1" 200 5 '
        '"http://a.test/" "curl/8.0" 0.012346 0.002457'
    )


# As programs that analyse logs in the combined format read it: what follows is left out.
COMBINED = re.compile(
    r'(?P<host>\S+) \S+ \S+ \[[^\]]+\] "(?P<request>[^"]*)" \d+ \d+ "[^"]*" "(?P<agent>[^"]*)"'
)


def test_a_peer_that_is_not_the_client_is_shown_behind_the_combined_format() -> None:
    line = format_record(PLAIN, NOW)
    for peer in "10.0.0.1", "2001:db8::1", "unix":
        told = format_record(PLAIN._replace(peer=peer), NOW)
        assert told == f"{line} peer={peer}"
        match = COMBINED.match(told)
        assert match is not None
        assert (match["host"], match["agent"]) == ("192.0.2.7", "curl/8.0")


def test_a_request_that_never_got_a_thread_waited_to_its_end() -> None:
    times = Times(accepted=1.0, head=2.0, ready=3.0, last_byte=7.5)
    assert times.queue_wait == 4.5
    assert times.duration == 5.5


def test_a_request_that_got_an_error_instead_of_a_thread_waited_until_then() -> None:
    times = Times(accepted=1.0, head=2.0, ready=3.0, first_byte=5.0, last_byte=7.5)
    assert times.queue_wait == 2.0


@pytest.mark.parametrize("path", ["/healthz", "/app"])
def test_a_slow_client_is_not_waited_for_a_thread(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    connection = MemoryConnection(hello, health_path="/healthz")
    connection.pool.full = True  # The application's request is refused.
    connection.wire.capacity = 0
    connection.receive(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    connection.timers.advance(3.0)
    connection.wire.take(10_000)
    connection.timers.run_ready()
    (line,) = (found for text in caplog.messages if (found := LINE.fullmatch(text)))
    assert float(line["duration"]) == 3.0
    assert float(line["queue_wait"]) == 0.0


def test_a_request_that_was_refused_before_it_was_ready_did_not_wait() -> None:
    assert Times(accepted=1.0, head=2.0, last_byte=7.5).queue_wait == 0.0


def test_what_is_missing_is_a_dash() -> None:
    nothing = AccessRecord("", "", 400)
    assert format_record(nothing, NOW) == (
        '- - - [06/Nov/1994:08:49:37 +0000] "-" 400 0 "-" "-" 0.000000 0.000000'
    )


def test_the_time_is_local_and_says_its_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    # POSIX counts westwards: this is two and a half hours east of UTC.
    for _ in _in_zone(monkeypatch, "XYZ-02:30"):
        assert "[06/Nov/1994:11:19:37 +0230]" in format_record(PLAIN, NOW)


def test_the_time_moves_on() -> None:
    # Kept for the second in which it was made, not longer.
    first, same, next_second = (
        LINE.fullmatch(format_record(PLAIN, now)) for now in (NOW, NOW + 0.05, NOW + 0.2)
    )
    assert first is not None
    assert same is not None
    assert next_second is not None
    assert first["time"] == same["time"] == "06/Nov/1994:08:49:37 +0000"
    assert next_second["time"] == "06/Nov/1994:08:49:38 +0000"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ('"', "\\x22"),
        ("\\", "\\x5c"),
        ("\n", "\\x0a"),
        ("\r\n", "\\x0d\\x0a"),
        ("\t", "\\x09"),
        ("\0", "\\x00"),
        ("\x1b[2J", "\\x1b[2J"),  # Would clear the reader's terminal.
        ("\x7f", "\\x7f"),
        ("\x85", "\\x85"),  # A line break for str.splitlines, as are the next two.
        ("\x1c\x1d\x1e", "\\x1c\\x1d\\x1e"),
        ("\x0b\x0c", "\\x0b\\x0c"),
        ("\x9b2J", "\\x9b2J"),  # The same as ESC [ in one character.
        # An escape that was sent cannot be taken for one that was made here.
        ("\\x22", "\\x5cx22"),
        ("\xa0\xe9\xff", "\xa0\xe9\xff"),
        ("%s %(message)s {}", "%s %(message)s {}"),
    ],
    ids=ascii,
)
def test_what_could_forge_a_line_is_escaped(text: str, escaped: str) -> None:
    line = format_record(PLAIN._replace(request_line=text, referer=text, user_agent=text), NOW)
    assert line.count(f'"{escaped}"') == 3
    assert len(line.splitlines()) == 1


def test_a_forged_record_stays_inside_its_quotes() -> None:
    forged = 'x" 200 5 "-" "-" 0.1\n192.0.2.1 - - [01/Jan/2000:00:00:00 +0000] "GET /admin'
    match = LINE.fullmatch(format_record(PLAIN._replace(user_agent=forged), NOW))
    assert match is not None
    assert (match["client"], match["status"]) == ("192.0.2.7", "200")
    assert match["agent"].startswith("x\\x22 200 5 ")


latin = st.text(st.characters(max_codepoint=0xFF))


@given(latin, latin, latin)
def test_any_text_is_one_line_that_can_be_read_back(
    request_line: str, referer: str, agent: str
) -> None:
    record = PLAIN._replace(request_line=request_line, referer=referer, user_agent=agent)
    line = format_record(record, NOW)
    assert len(line.splitlines()) == 1
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in line)
    match = LINE.fullmatch(line)
    assert match is not None
    for text, logged in zip(
        (request_line, referer, agent), match.group("request", "referer", "agent"), strict=True
    ):
        decoded = re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), logged)
        assert decoded == (text or "-")


def test_a_record_is_logged_once_at_info(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access.time, "time", lambda: NOW)
    caplog.set_level(logging.INFO, "aiowsgi.access")
    # A percent sign of the client's is no format.
    record = PLAIN._replace(request_line="GET /%s%d HTTP/1.1")
    access.write(record)
    (logged,) = caplog.records
    assert (logged.name, logged.levelno) == ("aiowsgi.access", logging.INFO)
    assert logged.getMessage() == format_record(record, NOW)
    # What a formatter of the host's may show.
    assert (logged.pathname, logged.funcName) == (access.__file__, "write")


class Failing(logging.Filter):
    """What the host has added to a logger, and what does not work."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise KeyError("request_id")


@pytest.fixture(params=[access_log, error_log], ids=["access", "error"])
def failing_logger(request: pytest.FixtureRequest) -> Iterator[ServerLogger]:
    logger: ServerLogger = request.param
    level, added = logger.level, Failing()
    logger.addFilter(added)
    logger.setLevel(logging.INFO)
    yield logger
    logger.removeFilter(added)
    logger.setLevel(level)
    logger.has_failed = False


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "1")])
    return [b"x"]


def test_connection_whose_request_cannot_be_logged_is_released(
    failing_logger: ServerLogger,
) -> None:
    connection = MemoryConnection(hello)
    connection.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
    connection.receive(bytes(50000))
    assert connection.resources.budget.used > 0
    connection.wire.fail()
    connection.timers.run_ready()
    assert connection.disconnects == 1
    assert connection.resources.budget.used == 0
    assert not connection.shared.connections
    assert connection.wire.was_shut_down


def test_request_that_cannot_be_logged_does_not_end_its_connection(
    failing_logger: ServerLogger,
) -> None:
    connection = MemoryConnection(hello)
    for _ in range(2):
        connection.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        connection.run_job()
    connection.receive(b"nonsense\r\n\r\n")  # Which is warned of.
    connection.timers.run_ready()
    assert connection.sent.count(b"HTTP/1.1 200") == 2
    assert connection.sent.count(b"HTTP/1.1 400") == 1


def test_failure_of_the_access_log_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    added = Failing()
    access_log.addFilter(added)
    caplog.set_level(logging.INFO)
    try:
        for _ in range(3):
            access.write(PLAIN)
    finally:
        access_log.removeFilter(added)
        access_log.has_failed = False
    (told,) = caplog.records
    assert told.name == "aiowsgi.error"
    assert told.exc_info
    assert "aiowsgi.access failed" in told.getMessage()


def test_failure_of_the_error_log_is_told_once_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    added = Failing()
    error_log.addFilter(added)
    try:
        for _ in range(3):
            error_log.error("something")
    finally:
        error_log.removeFilter(added)
        error_log.has_failed = False
    assert capsys.readouterr().err.count("KeyError: 'request_id'") == 1
