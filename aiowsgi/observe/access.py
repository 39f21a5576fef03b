"""The access log: one line a request on the logger ``aiowsgi.access``, in the combined format."""

import time
from functools import lru_cache
from typing import NamedTuple

from .loggers import access_log

# Nobody answered: the client was gone. The number that nginx made customary.
CLIENT_CLOSED_REQUEST = 499

# What could end the line, the quotation or the terminal's good manners.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x22, 0x5C)}


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Times(NamedTuple):
    """When a request got where, in seconds of ``time.monotonic``; 0 where it did not get.

    ``accepted`` is that of its connection. Between ``ready`` (the head, and as much of the body as
    a thread is not taken without) and ``started`` it waited for a thread.
    """

    accepted: float = 0.0
    head: float = 0.0
    ready: float = 0.0
    started: float = 0.0
    first_byte: float = 0.0
    last_byte: float = 0.0

    @property
    def duration(self) -> float:
        """Seconds from the whole head to the end of the response."""
        return self.last_byte - self.head

    @property
    def queue_wait(self) -> float:
        """Seconds that it waited for a thread, in vain where it never started."""
        return (self.started or self.last_byte) - self.ready if self.ready else 0.0


class AccessRecord(NamedTuple):
    """What is known about a request when its last byte is on its way.

    ``request_line`` is what is known of it, and may be cut short where the request was refused;
    ``size`` is that of the response body in bytes.
    """

    client: str
    request_line: str = ""
    status: int = 0
    size: int = 0
    referer: str = ""
    user_agent: str = ""
    times: Times = Times()


@lru_cache(maxsize=2)
def _timestamp(second: int) -> str:
    moment = time.localtime(second)
    # Not %b: the format has English months, whatever the locale.
    return time.strftime(f"%d/{_MONTHS[moment.tm_mon - 1]}/%Y:%H:%M:%S %z", moment)


def escaped(text: str) -> str:
    """Return text of a client's so that it can neither end a line or a quotation nor do worse."""
    return text.translate(_ESCAPES)


def _quoted(text: str) -> str:
    return f'"{escaped(text)}"' if text else '"-"'


def format_record(record: AccessRecord, now: float) -> str:
    """Return the line: the combined log format; behind it, in seconds, how long the request took
    and how much of that it waited for a thread.
    """
    return (
        f"{record.client or '-'} - - [{_timestamp(int(now))}] {_quoted(record.request_line)} "
        f"{record.status} {record.size} {_quoted(record.referer)} {_quoted(record.user_agent)} "
        f"{record.times.duration:.6f} {record.times.queue_wait:.6f}"
    )


def write(record: AccessRecord) -> None:
    """Log a record. Called on the loop thread."""
    access_log.info("%s", format_record(record, time.time()))
