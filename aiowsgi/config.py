"""Every option, once: its name, default, unit, help and check. Data only.

The command line and the table in docs/options.md are made from the fields of ``Config``; nothing
else repeats them. A field ``timeout_header`` is the option ``--timeout-header``, and the docstring
below it, which editors show, is the help of that option.
"""

import ast
import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal, get_args

from .errors import ConfigError

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_SIZE = re.compile(r"(?P<number>\d{1,18})(?P<unit>[KMG])?(?:i?B)?", re.ASCII | re.IGNORECASE)
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_duration(text: str) -> float:
    """Return the seconds in "30", "1.5", "500ms", "2m" or "1h". Raise ConfigError."""
    if (match := _DURATION.fullmatch(text)) is None:
        raise ConfigError(f"{text!r} is not a duration; write seconds, or 500ms, 30s, 2m, 1h")
    return float(match["number"]) * _SECONDS[match["unit"] or "s"]


def parse_size(text: str) -> int:
    """Return the bytes in "4096", "64K", "1M" or "2G" (powers of 1024). Raise ConfigError."""
    if (match := _SIZE.fullmatch(text)) is None:
        raise ConfigError(f"{text!r} is not a size; write bytes, or 64K, 1M, 2G")
    return int(match["number"]) * (_BYTES[match["unit"].upper()] if match["unit"] else 1)


def parse_count(text: str) -> int:
    """Return a whole number. Raise ConfigError."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise ConfigError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def parse_port(text: str) -> int:
    """Return a port. Raise ConfigError."""
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
        raise ConfigError(f"{text!r} is not a port; a port is a number from 0 to 65535")
    return int(text)


def default_threads() -> int:
    """Return ``min(32, cpu + 4)``: enough to overlap waiting, few enough for the interpreter."""
    return min(32, (os.cpu_count() or 1) + 4)


@dataclass(frozen=True, slots=True)
class Option:
    """What a field of ``Config`` tells the command line and the documentation."""

    group: str
    parse: Callable[[str], Any] = str
    metavar: str = "TEXT"
    choices: tuple[str, ...] | None = None
    minimum: float | None = None
    short: str | None = None
    # How the default reads in the help, where the value itself would mislead.
    default_text: str | None = None


def _option(default: Any, group: str, **more: Any) -> Any:
    metadata = {"option": Option(group=group, **more)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _seconds(default: float, group: str, minimum: float = 0.001, **more: Any) -> Any:
    return _option(default, group, parse=parse_duration, metavar="SECONDS", minimum=minimum, **more)


def _bytes(default: int, group: str, minimum: int = 1, **more: Any) -> Any:
    return _option(default, group, parse=parse_size, metavar="BYTES", minimum=minimum, **more)


def _count(default: Any, group: str, minimum: int = 1, **more: Any) -> Any:
    return _option(default, group, parse=parse_count, metavar="N", minimum=minimum, **more)


_SERVE = "what is served, and where"
_THREADS = "threads and the queue before them"
_TIMEOUT = "timeouts"
_LIMIT = "limits"
_LOG = "logging"

Loop = Literal["auto", "uvloop", "asyncio"]
Http = Literal["auto", "h11", "httptools"]
HeaderMap = Literal["drop", "refuse", "dangerous"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All options of one server. Durations are seconds, sizes are bytes.

    The docstring below a field is its help. Raises ConfigError where a value is out of its range.
    """

    bind: tuple[str, ...] = _option(("127.0.0.1:8000",), _SERVE, metavar="ADDRESS", short="-b")
    """address to listen on: HOST:PORT, [IPV6]:PORT, unix:PATH or fd:N; may be repeated"""
    backlog: int = _count(2048, _SERVE)
    """connections that the kernel holds until they are accepted"""
    workers: int = _count(1, _SERVE, short="-w")
    """worker processes; only 1 for now"""
    loop: Loop = _option("auto", _SERVE, choices=get_args(Loop))
    """event loop; auto is uvloop if it is installed, else asyncio"""
    http: Http = _option("auto", _SERVE, choices=get_args(Http))
    """library that parses requests; both give the same result; auto is httptools, the faster one,
    if it is installed, else h11
    """
    chdir: str = _option("", _SERVE, metavar="PATH", default_text="the current directory")
    """change to this directory first; your application is imported from it"""

    threads: int = _count(default_threads, _THREADS, default_text="min(32, cpu + 4)")
    """threads that run the application"""
    queue_size: int = _count(1024, _THREADS, minimum=0)
    """requests that may wait for a thread; further ones get a 503"""
    queue_timeout: float = _seconds(30.0, _THREADS)
    """longest wait for a thread; then the request gets a 503"""
    queue_target: float = _seconds(1.0, _THREADS)
    """once a request has waited longer than this, the newest are served first"""
    body_prefetch: int = _bytes(1 << 20, _THREADS)
    """bytes of a request body that are buffered before a thread is taken; a longer body is
    streamed
    """
    body_spool: int = _bytes(0, _THREADS, minimum=0, default_text="off")
    """bytes that temporary files may hold, for all clients together: they keep request bodies that
    are longer than --body-prefetch until a thread is taken; 0 streams such bodies
    """
    response_buffer: int = _bytes(1 << 20, _THREADS)
    """bytes of a response that may wait for a slow client; a finished response of that size frees
    its thread, a longer one keeps it until no more than this is left
    """
    max_buffered: int = _bytes(256 << 20, _THREADS)
    """bytes of all requests and responses that are buffered, for all clients together; above it
    the slowest clients are cut
    """
    spare_threads: int | None = _count(
        None, _THREADS, minimum=0, default_text="64; 0 with one thread"
    )
    """further threads, used while others wait for slow clients to send or take bytes"""

    timeout_keep_alive: float = _seconds(65.0, _TIMEOUT)
    """how long an idle connection stays open; longer than the usual 60 s of load balancers"""
    timeout_header: float = _seconds(10.0, _TIMEOUT)
    """time in which a request head must arrive, from its first byte; else 408"""
    timeout_body: float = _seconds(30.0, _TIMEOUT)
    """longest silence of the client inside a request body; else 408"""
    min_body_rate: int = _bytes(500, _TIMEOUT)
    """bytes a second that a client must send of a request body, on average, once --timeout-body
    is over; else 408
    """
    timeout_request: float = _seconds(0.0, _TIMEOUT, minimum=0, default_text="no limit")
    """longest time from the call of the application to the head of its response; else 504; 0
    is no limit
    """
    max_lost_threads: int = _count(8, _TIMEOUT, minimum=0)
    """threads that --timeout-request may give up and replace; then the server is unhealthy"""
    timeout_write: float = _seconds(60.0, _TIMEOUT)
    """longest time in which a client takes nothing of a response; then it is cut"""
    min_response_rate: int = _bytes(500, _TIMEOUT, minimum=0)
    """bytes a second that a client must take of a response, on average, once the server has waited
    --timeout-write for it; else it is cut; 0 is no minimum
    """
    timeout_graceful: float = _seconds(30.0, _TIMEOUT, minimum=0)
    """how long a shutdown waits for requests in flight"""
    drain_delay: float = _seconds(0.0, _TIMEOUT, minimum=0)
    """how long a shutdown first goes on accepting, while load balancers take note; answers say
    Connection: close
    """

    max_connections: int = _count(10_000, _LIMIT)
    """open connections; at the limit the server stops accepting"""
    max_keep_alive_requests: int = _count(0, _LIMIT, minimum=0, default_text="no limit")
    """requests on one connection; the last answer says Connection: close; 0 is no limit"""
    limit_request_line: int = _bytes(8190, _LIMIT)
    """longest request line; else 414"""
    limit_request_fields: int = _count(100, _LIMIT)
    """number of header fields of a request; else 431"""
    limit_request_field_size: int = _bytes(8190, _LIMIT)
    """longest header field; else 431"""
    limit_request_head: int = _bytes(1 << 16, _LIMIT)
    """longest request head, which is the request line and all fields; else 431"""
    limit_request_body: int = _bytes(1 << 30, _LIMIT, minimum=0)
    """longest request body, also of a chunked one; else 413"""

    header_map: HeaderMap = _option("drop", _LIMIT, choices=get_args(HeaderMap))
    """what happens to a header field whose name holds an underscore, which looks like the one with
    dashes in the environ: drop it, refuse the request with a 400, or (dangerous) pass it on
    """

    access_log: bool = _option(True, _LOG)
    """write a line for each request to the logger aiowsgi.access"""
    log_level: LogLevel = _option("info", _LOG, choices=get_args(LogLevel))
    """least severe messages that are shown"""

    def __post_init__(self) -> None:
        for item in fields(self):
            option: Option = item.metadata["option"]
            value = getattr(self, item.name)
            if value is None and item.default is None:
                continue  # It follows from others.
            if option.choices is not None and value not in option.choices:
                raise ConfigError(
                    f"{item.name} must be one of {', '.join(option.choices)}, not {value!r}"
                )
            if option.minimum is not None:
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ConfigError(f"{item.name} must be a number, not {value!r}")
                if option.parse is not parse_duration and not isinstance(value, int):
                    raise ConfigError(f"{item.name} must be a whole number, not {value!r}")
                if not value >= option.minimum:
                    raise ConfigError(
                        f"{item.name} must be at least {option.minimum:g}, not {value!r}"
                    )
        if isinstance(self.bind, str):
            raise ConfigError(f"bind is a tuple of addresses; write bind=({self.bind!r},)")
        if not self.bind or not all(isinstance(address, str) for address in self.bind):
            raise ConfigError("bind is a tuple of addresses such as '127.0.0.1:8000', at least one")
        if 0 < self.body_spool < self.body_prefetch:
            raise ConfigError(
                f"body_spool must be 0 or at least body_prefetch ({self.body_prefetch}), "
                f"not {self.body_spool}: what is shorter is kept in memory"
            )
        if self.workers != 1:
            raise ConfigError(
                f"workers must be 1 in this version, not {self.workers}; "
                "for several cores, run several behind a load balancer"
            )

    @property
    def most_spare_threads(self) -> int:
        """The number of ``spare_threads``, also where none is given."""
        if self.spare_threads is not None:
            return self.spare_threads
        # One thread means one call at a time.
        return 64 if self.threads > 1 else 0


def help_texts() -> Mapping[str, str]:
    """Return the help of every option by its name: what stands below its field.

    It is read from the source, because Python keeps no docstrings of fields. A program that was
    frozen without its sources has no help to show.
    """
    try:
        (definition,) = ast.parse(inspect.getsource(Config)).body
    except OSError:
        return {}
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for option, below in pairwise(definition.body):
        match option, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(value=str(text))):
                texts[name] = " ".join(text.split())
    return texts
