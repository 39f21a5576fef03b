"""Requests that a process makes to its own application before it serves: ``--warm-up``.

So the first clients do not wait for what an application does once only, such as compiling its
templates. The application is called directly, on the calling thread; no socket and no event loop
takes part.
"""

import contextvars
import logging
import math
import re
import time
from io import BytesIO
from typing import Any, NamedTuple
from wsgiref.types import WSGIApplication

from ..config import Config
from ..errors import ConfigError, Refusal, WarmUpError
from ..http.parser import Parser
from ..http.readers.choice import find_reader
from ..http.request import Limits, RequestHead
from ..http.sections import FieldSections
from ..server.assembly import PRODUCT
from ..wording import counted
from ..wsgi.environ import base_environ, build_environ
from ..wsgi.file_wrapper import FilePart
from ..wsgi.headers import Fields, HeaderChecks
from ..wsgi.task import Task

_log = logging.getLogger("aiowsgi.error")

# A path with or without a query, perhaps behind the scheme and the host that the application sees.
_TARGET = re.compile(r"(?:(?P<scheme>https?)://(?P<host>[^/?#\s]+))?(?P<target>/[^\s]*)")
_HOST = "localhost"
_PORTS = {"http": "80", "https": "443"}
_LOOPBACK = "127.0.0.1"


class _Request(NamedTuple):
    """One request as the option says it."""

    text: str
    scheme: str
    head: RequestHead

    def describe(self) -> str:
        """Return the request as the error log names it."""
        return f"the warm-up request GET {self.text}"


class _Answer:
    """Takes the response, and keeps of it what is told about it. Implements ``Responder``."""

    abandoned = False

    def __init__(self) -> None:
        self.status = ""
        self.size = 0
        self.is_broken = False

    def start(self, status: str, fields: Fields, length: int | None) -> None:
        self.status = status

    def send(self, data: bytes) -> bool:
        self.size += len(data)
        return True

    def check(self) -> bool:
        return True

    def finish(self, data: bytes) -> None:
        self.size += len(data)

    def finish_with(self, part: FilePart) -> None:
        self.size += part.size
        part.close()

    def abort(self) -> None:
        self.is_broken = True


def warm_up(app: WSGIApplication, config: Config, *, multiprocess: bool) -> None:
    """Call the application for each path of ``config.warm_up``, one after the other. Blocks.

    ``multiprocess`` says whether other processes run the application, too.

    An answer of 4xx is a warning in the error log: the application works, and the path is likely to
    be wrong. Raises WarmUpError where the application raises, breaks PEP 3333 or answers 5xx: it
    would do the same for clients. What it has raised is in the error log. Raises ConfigError where
    a path cannot be one of a request.
    """
    if not config.warm_up:
        return
    base = base_environ(software=PRODUCT, multithread=config.threads > 1, multiprocess=multiprocess)
    requests = [_request(text, config) for text in config.warm_up]
    for request in requests:
        before = time.monotonic()
        answer = _Answer()
        # As on a thread of the pool: what the application puts into its context is gone afterwards.
        contextvars.copy_context().run(_call, app, request, base, answer)
        _report(request, answer, time.monotonic() - before, config)


def _request(text: str, config: Config) -> _Request:
    """Return the request that ``text`` asks for, after all checks that one of a client passes."""
    if (match := _TARGET.fullmatch(text)) is None:
        option = config.spelling("warm_up")
        raise ConfigError(f"{option}: {text!r} is neither a path that starts with '/' nor a URL")
    scheme, host = match["scheme"] or "http", match["host"] or _HOST
    sections = FieldSections(Limits(), find_reader(config.http), header_map=config.header_map)
    parser = Parser(sections)
    lines = (
        f"GET {match['target']} HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: {PRODUCT} (warm-up)",
        "Accept: */*",
    )
    parser.feed("".join(f"{line}\r\n" for line in (*lines, "")).encode())
    try:
        head = parser.next_event()
    except Refusal as refusal:
        raise ConfigError(
            f"{config.spelling('warm_up')}: no client can ask for {text!r}: {refusal.reason}"
        ) from None
    assert isinstance(head, RequestHead)  # It is complete.
    return _Request(text, scheme, head)


def _call(app: WSGIApplication, request: _Request, base: dict[str, Any], answer: _Answer) -> None:
    environ = build_environ(
        base,
        request.head,
        BytesIO(),
        scheme=request.scheme,
        server=(_LOOPBACK, _PORTS[request.scheme]),
        client=(_LOOPBACK, "0"),
    )
    # What an application may rely on. There is no server that stops, and no client that leaves.
    environ["aiowsgi.request_id"] = "warm-up"
    environ["aiowsgi.queue_wait"] = 0.0
    environ["aiowsgi.disconnected"] = lambda: False
    environ["aiowsgi.deadline"] = lambda: math.inf
    environ["aiowsgi.stopping"] = lambda: False
    Task(app, environ, answer, HeaderChecks(), request=request.describe).run()


def _report(request: _Request, answer: _Answer, seconds: float, config: Config) -> None:
    """Log how it went. Raises WarmUpError where the application has failed."""
    option = f"{config.spelling('warm_up')} {request.text}"
    if answer.is_broken or not answer.status:
        raise WarmUpError(f"{option}: the application broke its answer off; see the log above")
    if answer.status.startswith("5"):
        raise WarmUpError(
            f"{option}: the application answered {answer.status!r}; see the log above"
        )
    if answer.status.startswith("4"):
        hint = ""
        if answer.status.startswith("400") and "://" not in request.text:
            hint = f"; if it asks for a host, write http://HOST{request.text}"
        _log.warning("Warm-up: GET %s was answered %r%s", request.text, answer.status, hint)
        return
    _log.info(
        "Warm-up: GET %s was answered %r, %s, in %.0f ms",
        request.text,
        answer.status,
        counted(answer.size, "byte"),
        seconds * 1000,
    )
