"""The access log: one line a request on the logger ``aiowsgi.access``, in the combined format."""

import logging
import re
import time
from functools import lru_cache
from typing import NamedTuple

from .loggers import access_log

# The status for a request whose client went away before it was answered, as nginx logs it.
CLIENT_CLOSED_REQUEST = 499

# Characters that could end the line or the quoted text, or that control a terminal.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x22, 0x5C)}
# Texts in which there are none of them. To find that out is much cheaper than to translate.
_PLAIN = re.compile(r"[ !#-\[\]-~]*")

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Times(NamedTuple):
    """When a request reached which stage, by ``time.monotonic``; 0 for stages it did not reach.

    ``accepted`` is that of the connection. At ``ready`` the head has arrived, and so much of the
    body that the request may have a thread, if it needs one. Until ``started`` it waited for that.
    """

    accepted: float = 0.0
    head: float = 0.0
    ready: float = 0.0
    started: float = 0.0
    first_byte: float = 0.0
    last_byte: float = 0.0

    @property
    def duration(self) -> float:
        """Seconds from the complete head to the end of the response.

        Where the head was refused before it was complete, from its first byte.
        """
        return self.last_byte - self.head

    @property
    def queue_wait(self) -> float:
        """Seconds for which the request waited for a thread, also if it never got one.

        What never got one waited until the server answered for itself, or to its end.
        """
        if not self.ready:
            return 0.0
        return (self.started or self.first_byte or self.last_byte) - self.ready


class AccessRecord(NamedTuple):
    """What is logged about a request after its response.

    ``request_line`` may be incomplete or cut short if the request was refused; ``size`` is that of
    the response body in bytes; ``peer`` is who has connected in the name of the client, empty where
    it is the client itself.
    """

    client: str
    request_line: str = ""
    status: int = 0
    size: int = 0
    referer: str = ""
    user_agent: str = ""
    times: Times = Times()
    peer: str = ""


@lru_cache(maxsize=2)
def _timestamp(second: int) -> str:
    moment = time.localtime(second)
    # Not %b, which depends on the locale: the format has English names.
    return time.strftime(f"%d/{_MONTHS[moment.tm_mon - 1]}/%Y:%H:%M:%S %z", moment)


def escaped(text: str) -> str:
    """Return text from a client with every character escaped that could forge a log line."""
    return text if _PLAIN.fullmatch(text) else text.translate(_ESCAPES)


def _quoted(text: str) -> str:
    return f'"{escaped(text)}"' if text else '"-"'


def format_record(record: AccessRecord, now: float) -> str:
    """Return the log line of a request.

    That is the combined log format, and two numbers more, in seconds: how long the request took,
    and how long it waited for a thread. Behind them is the peer, where it is not the client.
    """
    return (
        f"{record.client or '-'} - - [{_timestamp(int(now))}] {_quoted(record.request_line)} "
        f"{record.status} {record.size} {_quoted(record.referer)} {_quoted(record.user_agent)} "
        f"{record.times.duration:.6f} {record.times.queue_wait:.6f}"
        f"{record.peer and f' peer={record.peer}'}"
    )


def write(record: AccessRecord) -> None:
    """Log a record, at level INFO. Called on the loop thread, where that level is enabled."""
    # Not by ``access_log.info``, which looks through the stack for its caller.
    line = write.__code__.co_firstlineno
    text = format_record(record, time.time())
    access_log.handle(
        access_log.makeRecord(
            access_log.name, logging.INFO, __file__, line, "%s", (text,), None, write.__name__
        )
    )
