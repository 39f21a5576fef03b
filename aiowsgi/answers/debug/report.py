"""What is told of one request whose application has failed, and in which of two forms."""

import logging
from collections.abc import Callable, Iterable

from ...http.request import RequestHead
from ...http.response import LENGTH, response_framing
from ...wsgi.failure import Failure, wrong_length
from ...wsgi.headers import Fields
from . import html_page, plain_text
from .local_host import asks_for_this_machine
from .traces import shown_errors
from .view import View

_log = logging.getLogger("aiowsgi.error")

# Whoever has the value of one of these can act in the name of the client.
_HIDDEN = frozenset({b"authorization", b"cookie"})
# For other machines, for which a proxy has asked, and for whoever has given this machine a name of
# their own.
_NOT_SHOWN = (
    b"500 Internal Server Error\n"
    b"The log of the server says why. debug shows it on this machine, and under names such as "
    b"localhost only.\n"
)
_HTML = frozenset({"text/html", "application/xhtml+xml"})


class DebugReport:
    """Explains a failure to the client of one request. Implements ``wsgi.failure.FailureReport``.

    Arguments: the head of the request; the address of its client, empty on a Unix socket, and that
    which a proxy has told where one is believed; and
    ``request()``, its description for the error log.
    """

    def __init__(self, head: RequestHead, client: str, request: Callable[[], str]) -> None:
        self._head = head
        self._client = client
        self._request = request

    def objection_to_length(
        self, status: str, fields: Fields, length: int | None, size: int
    ) -> str | None:
        """Return what is wrong with a Content-Length. See ``FailureReport``."""
        declared = [int(value) for name, value in fields if name.lower() == "content-length"]
        if not declared or LENGTH is not response_framing(
            head_request=self._head.method == "HEAD",
            http_11=True,
            status_code=int(status[:3]),
            length=declared[0],
        ):
            return None
        excess = max(0, size - declared[0])
        missing = 0 if length is None else max(0, declared[0] - length)
        if not excess and not missing:
            return None
        return (
            f"its response {wrong_length(excess, missing)} ({declared[0]}); give the number of "
            "bytes, which may be more than that of characters, or leave it to the server"
        )

    def make(self, failure: Failure) -> tuple[Fields, bytes] | None:
        """Return the header fields and the body of the answer. See ``FailureReport``."""
        head = self._head
        told_host = None if head.variables is None else head.variables.get("HTTP_HOST")
        if not asks_for_this_machine(self._client, head.host, told_host):
            return plain_text.FIELDS, _NOT_SHOWN
        try:
            view = View(
                summary=failure.summary(self._request()),
                advice=failure.advice,
                broke_the_rules=failure.broke_the_rules,
                errors=tuple(shown_errors(failure.error, failure.place)),
                request_line=f"{head.method} {head.target} {head.section.version}",
                fields=tuple(_shown_fields(head.section.fields)),
            )
            if accepts_html(head.section.fields):
                return html_page.FIELDS, html_page.render(view)
            return plain_text.FIELDS, plain_text.render(view)
        except Exception:  # noqa: BLE001 - an exception of the application may be of any kind
            _log.exception("The page of debug cannot be made for %s", self._request())
            return None


def _shown_fields(fields: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, str]]:
    for name, value in fields:
        text = value.decode("latin-1")
        if name in _HIDDEN:
            text = f"(not shown: {len(value)} bytes)"
        yield name.decode("latin-1").title(), text


def accepts_html(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a client asks for HTML, and not for plain text rather.

    Programs that take anything (``*/*``) are not asking for it: a person reads what curl prints.
    """
    wanted = ",".join(value.decode("latin-1") for name, value in fields if name == b"accept")
    html = plain = 0.0
    for item in wanted.lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if media_type in _HTML:
            html = max(html, quality)
        elif media_type == "text/plain":
            plain = quality
    return html > 0 and html >= plain
