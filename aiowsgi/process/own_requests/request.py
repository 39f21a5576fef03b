"""A request that a process makes to its own application.

The application is called directly, on the calling thread; no socket and no event loop takes part.
"""

import contextvars
import re
import time
from io import BytesIO
from typing import NamedTuple
from wsgiref.types import WSGIApplication

from ...config import Config
from ...errors import ConfigError, Refusal
from ...http.parser import Parser
from ...http.readers.choice import find_reader
from ...http.request import Limits, RequestHead
from ...http.sections import FieldSections
from ...server.assembly import PRODUCT
from ...wsgi.environ import base_environ, build_environ
from ...wsgi.file_wrapper import FilePart
from ...wsgi.headers import Fields, HeaderChecks
from ...wsgi.task import Responder, Task

# A path with or without a query, perhaps behind the scheme and the host that the application sees.
_TARGET = re.compile(r"(?:(?P<scheme>https?)://(?P<host>[^/?#\s]+))?(?P<target>/[^\s]*)")
_HOST = "localhost"
_PORTS = {"http": "80", "https": "443"}
_LOOPBACK = "127.0.0.1"


class Answer(Responder):
    """Takes the response, and keeps of it what is told about it.

    ``request`` is how the error log names what is answered.
    """

    abandoned = False

    def __init__(self, request: str = "") -> None:
        self._request = request
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

    def describe(self) -> str:
        return self._request

    @property
    def is_whole(self) -> bool:
        """Whether there is an answer, up to its end."""
        return bool(self.status) and not self.is_broken


class OwnRequest(NamedTuple):
    """One request as an option says it."""

    text: str
    purpose: str
    """what it is for, as the log and the application see it: "warm-up" """
    scheme: str
    head: RequestHead

    @classmethod
    def of_option(cls, name: str, text: str, config: Config, purpose: str) -> "OwnRequest":
        """Return the request that an option asks for with a path or a URL.

        It passes all checks that one of a client passes. Raises ConfigError.
        """
        option = config.spelling(name)
        if (match := _TARGET.fullmatch(text)) is None:
            raise ConfigError(
                f"{option}: {text!r} is neither a path that starts with '/' nor a URL"
            )
        sections = FieldSections(Limits(), find_reader(config.http), header_map=config.header_map)
        parser = Parser(sections)
        lines = (
            f"GET {match['target']} HTTP/1.1",
            f"Host: {match['host'] or _HOST}",
            f"User-Agent: {PRODUCT} ({purpose})",
            "Accept: */*",
        )
        parser.feed("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        try:
            head = parser.next_event()
        except Refusal as refusal:
            raise ConfigError(
                f"{option}: no client can ask for {text!r}: {refusal.reason}"
            ) from None
        assert isinstance(head, RequestHead)  # It is complete.
        return cls(text, purpose, match["scheme"] or "http", head)

    def ask(
        self,
        app: WSGIApplication,
        config: Config,
        *,
        multiprocess: bool,
        deadline: float = float("inf"),
    ) -> Answer:
        """Call the application; return its answer. Blocks.

        What it raises is in the error log. ``multiprocess`` says whether other processes run it,
        too; ``deadline``, when by the monotonic clock nobody waits any more.
        """
        environ = build_environ(
            base_environ(
                software=PRODUCT, multithread=config.threads > 1, multiprocess=multiprocess
            ),
            self.head,
            BytesIO(),
            scheme=self.scheme,
            server=(_LOOPBACK, _PORTS[self.scheme]),
            client=(_LOOPBACK, "0"),
        )
        # What an application may rely on. There is no server that stops, and no client that leaves.
        environ["aiowsgi.request_id"] = self.purpose
        environ["aiowsgi.queue_wait"] = 0.0
        environ["aiowsgi.disconnected"] = lambda: False
        environ["aiowsgi.deadline"] = lambda: deadline - time.monotonic()
        environ["aiowsgi.stopping"] = lambda: False
        answer = Answer(f"the {self.purpose} request GET {self.text}")
        task = Task(app, environ, answer, HeaderChecks())
        # As on a thread of the pool: what the application puts into its context is gone afterwards.
        contextvars.copy_context().run(task.run)
        return answer

    def hint(self, status: str) -> str:
        """Return what to do about an answer where that is known, as the rest of a sentence."""
        if status.startswith("400") and "://" not in self.text:
            return f"; if it asks for a host, write http://HOST{self.text}"
        return ""
