"""The application that answers while that of the user cannot be loaded: a 500 that says why.

With ``--reload`` only. It runs on pool threads, and is never changed once it is made.
"""

from collections.abc import Iterable
from types import TracebackType
from wsgiref.types import StartResponse, WSGIEnvironment

from ...answers.debug import html_page, plain_text
from ...answers.debug.local_host import asks_for_this_machine
from ...answers.debug.report import accepts_html
from ...answers.debug.traces import shown_errors
from ...answers.debug.view import View
from ...errors import ConfigError
from ...wsgi.headers import Fields

_SENTENCE = b"The application cannot be loaded. The log of the server says why.\n"
_REASON = "reload is on, and until a change of a file mends it"
# Modules whose calls only lead to those of the application.
_LOADERS = frozenset({"importlib", __name__.partition(".")[0]})


class FailurePage:
    """Answers every request with the failure.

    Arguments: what loading the application has raised; and whether clients may see more of it than
    a sentence, because all of them are on this machine.
    """

    def __init__(self, error: ConfigError, *, is_local: bool) -> None:
        self._is_local = is_local
        cause = error.__cause__
        if cause is not None:
            cause = cause.with_traceback(_own_part(cause.__traceback__))
        view = View(
            summary=f"The application cannot be loaded: {error}",
            advice="",
            broke_the_rules=False,
            errors=() if cause is None else tuple(shown_errors(cause, None)),
            reason=_REASON,
        )
        self._html = html_page.render(view)
        self._text = plain_text.render(view)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        fields, body = self._answer(environ)
        start_response("500 Internal Server Error", [*fields, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: WSGIEnvironment) -> tuple[Fields, bytes]:
        # A proxy that is believed has told another one.
        sent_host = environ.get("aiowsgi.peer", {}).get("HTTP_HOST")
        hosts = environ.get("HTTP_HOST"), sent_host
        if not self._is_local or not asks_for_this_machine(environ["REMOTE_ADDR"], *hosts):
            return plain_text.FIELDS, _SENTENCE
        if accepts_html([(b"accept", environ.get("HTTP_ACCEPT", "").encode("latin-1"))]):
            return html_page.FIELDS, self._html
        return plain_text.FIELDS, self._text


def _own_part(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without its first calls, as far as they only led to the application."""
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__"))
        if name.partition(".")[0] not in _LOADERS:
            return trace
        trace = trace.tb_next
    return None
