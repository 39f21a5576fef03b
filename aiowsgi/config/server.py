"""What a server has, wherever it runs: threads, buffers, timeouts, limits, how it reads requests.

Durations are seconds, sizes are bytes.
"""

import os
import re
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError
from .fields.option import count, option, seconds, size, switch
from .fields.subject import Subject

_THREADS = "threads and the queue before them"
_TIMEOUT = "timeouts"
_LIMIT = "limits"
_REQUEST = "requests"

Http = Literal["auto", "h11", "httptools"]
HeaderMap = Literal["drop", "refuse", "dangerous"]


def threads_for(processors: int) -> int:
    """Return a number of threads: enough to overlap waiting, few enough for the interpreter."""
    return min(32, processors + 4)


def _default_threads() -> int:
    return threads_for(os.cpu_count() or 1)


# What the target of a request can have as its path: visible characters of ASCII. "?" ends it, and
# "#" is never sent.
_PATH = re.compile(r"/[!\"$->@-~]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|\Z)", re.IGNORECASE)


def _objection_to_path(value: object) -> str | None:
    if value == "":
        return None
    if not isinstance(value, str) or not value.startswith("/"):
        return f"must be empty or begin with '/', such as '/healthz', not {value!r}"
    if _PATH.fullmatch(value) is None:
        return (
            f"must be a path as clients send it: ASCII without '?', '#' and spaces, not {value!r}"
        )
    if _BROKEN_ESCAPE.search(value):
        return f"must be a path as clients send it: hexadecimal digits behind '%', not {value!r}"
    if _DOT_SEGMENT.search(value):
        return f"must be a path as clients send it, and they resolve '.' and '..': not {value!r}"
    return None


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Subject):
    """The options of a server."""

    threads: int = count(_default_threads, _THREADS, default_text="min(32, cpu + 4)")
    """threads that run the application"""
    queue_size: int = count(1024, _THREADS, minimum=0)
    """requests that may wait for a thread; further ones get a 503"""
    queue_timeout: float = seconds(30.0, _THREADS)
    """longest wait for a thread; then the request gets a 503"""
    queue_target: float = seconds(1.0, _THREADS)
    """once a request has waited longer than this, the newest are served first"""
    body_prefetch: int = size(1 << 20, _THREADS)
    """bytes of a request body that are buffered before a thread is taken; a longer body is
    streamed
    """
    body_spool: int = size(0, _THREADS, minimum=0, default_text="off")
    """bytes that temporary files may hold, for all clients together: they keep request bodies that
    are longer than --body-prefetch until a thread is taken; 0 streams such bodies
    """
    response_buffer: int = size(1 << 20, _THREADS)
    """bytes of a response that may wait for a slow client; a finished response of that size frees
    its thread, a longer one keeps it until no more than this is left
    """
    max_buffered: int = size(256 << 20, _THREADS)
    """bytes of all requests and responses that are buffered, for all clients together; above it
    the slowest clients are cut
    """
    spare_threads: int | None = count(
        None, _THREADS, minimum=0, default_text="64; 0 with one thread"
    )
    """further threads, used while others wait for slow clients to send or take bytes"""

    timeout_keep_alive: float = seconds(65.0, _TIMEOUT)
    """how long an idle connection stays open; longer than the usual 60 s of load balancers"""
    timeout_header: float = seconds(10.0, _TIMEOUT)
    """time in which a request head must arrive, from its first byte; else 408"""
    timeout_body: float = seconds(30.0, _TIMEOUT)
    """longest silence of the client inside a request body; else 408"""
    min_body_rate: int = size(500, _TIMEOUT)
    """bytes a second that a client must send of a request body, on average, once --timeout-body
    is over; else 408
    """
    timeout_request: float = seconds(0.0, _TIMEOUT, minimum=0, default_text="no limit")
    """longest time from the call of the application to the head of its response; else 504; 0
    is no limit
    """
    max_lost_threads: int = count(8, _TIMEOUT, minimum=0)
    """threads that --timeout-request may give up and replace; then the server is unhealthy"""
    timeout_write: float = seconds(60.0, _TIMEOUT)
    """longest time in which a client takes nothing of a response; then it is cut"""
    min_response_rate: int = size(500, _TIMEOUT, minimum=0)
    """bytes a second that a client must take of a response, on average, once the server has waited
    --timeout-write for it; else it is cut; 0 is no minimum
    """
    timeout_graceful: float = seconds(30.0, _TIMEOUT, minimum=0)
    """how long a shutdown waits for requests in flight"""
    drain_delay: float = seconds(0.0, _TIMEOUT, minimum=0)
    """how long a shutdown first goes on accepting, while load balancers take note; answers say
    Connection: close
    """

    max_connections: int = count(10_000, _LIMIT)
    """open connections; at the limit the server stops accepting"""
    max_keep_alive_requests: int = count(0, _LIMIT, minimum=0, default_text="no limit")
    """requests on one connection; the last answer says Connection: close; 0 is no limit"""
    limit_request_line: int = size(8190, _LIMIT)
    """longest request line; else 414"""
    limit_request_fields: int = count(100, _LIMIT)
    """number of header fields of a request; else 431"""
    limit_request_field_size: int = size(8190, _LIMIT)
    """longest header field; else 431"""
    limit_request_head: int = size(1 << 16, _LIMIT)
    """longest request head, which is the request line and all fields; else 431"""
    limit_request_body: int = size(1 << 30, _LIMIT, minimum=0)
    """longest request body, also of a chunked one; else 413"""

    http: Http = option("auto", _REQUEST, choices=get_args(Http))
    """library that parses requests; both give the same result; auto is httptools, the faster one,
    if it is installed, else h11
    """
    header_map: HeaderMap = option("drop", _REQUEST, choices=get_args(HeaderMap))
    """what happens to a header field whose name holds an underscore, which looks like the one with
    dashes in the environ: drop it, refuse the request with a 400, or (dangerous) pass it on
    """
    health_path: str = option(
        "", _REQUEST, rule=_objection_to_path, metavar="PATH", default_text="off"
    )
    """path that the event loop itself answers: 200, or 503 once the server is stopping or
    unhealthy; no thread is needed
    """
    access_log: bool = switch(True, _REQUEST)
    """write a line for each request to the logger aiowsgi.access"""

    debug: bool = switch(False, _REQUEST)
    """for development: answer a request whose application has failed with what went wrong, the
    traceback with source code, and the request; only on loopback addresses and Unix sockets
    """

    @property
    def most_spare_threads(self) -> int:
        """The number of ``spare_threads``, also where none is given."""
        if self.spare_threads is not None:
            return self.spare_threads
        # One thread means one call at a time.
        return 64 if self.threads > 1 else 0

    def check_together(self) -> None:
        """Raise ConfigError where two options contradict each other."""
        super().check_together()
        if 0 < self.body_spool < self.body_prefetch:
            prefetch = self.origin("body_spool").spelling("body_prefetch")
            raise ConfigError(
                f"{self.spelling('body_spool')} must be 0 or at least {prefetch} "
                f"({self.body_prefetch}), not {self.body_spool}: what is shorter is kept in memory"
            )
