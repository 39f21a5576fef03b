"""Requests that make an application warm: ``--warm-up``.

So the first clients do not wait for what an application does once only, such as compiling its
templates.
"""

import logging
import time
from wsgiref.types import WSGIApplication

from ...config import Config
from ...errors import WarmUpError
from ...wording import counted
from .request import Answer, OwnRequest

_log = logging.getLogger("aiowsgi.error")


def warm_up(app: WSGIApplication, config: Config, *, multiprocess: bool) -> None:
    """Call the application for each path of ``config.warm_up``, one after the other. Blocks.

    ``multiprocess`` says whether other processes run the application, too.

    An answer of 4xx is a warning in the error log: the application works, and the path is likely to
    be wrong. Raises WarmUpError where the application raises, breaks PEP 3333 or answers 5xx: it
    would do the same for clients. What it has raised is in the error log. Raises ConfigError where
    a path cannot be one of a request.
    """
    requests = [OwnRequest.of_option("warm_up", text, config, "warm-up") for text in config.warm_up]
    for request in requests:
        before = time.monotonic()
        answer = request.ask(app, config, multiprocess=multiprocess)
        _report(request, answer, time.monotonic() - before, config)


def _report(request: OwnRequest, answer: Answer, seconds: float, config: Config) -> None:
    """Log how it went. Raises WarmUpError where the application has failed."""
    option = f"{config.spelling('warm_up')} {request.text}"
    if not answer.is_whole:
        raise WarmUpError(f"{option}: the application broke its answer off; see the log above")
    if answer.status.startswith("5"):
        raise WarmUpError(
            f"{option}: the application answered {answer.status!r}; see the log above"
        )
    if answer.status.startswith("4"):
        hint = request.hint(answer.status)
        _log.warning("Warm-up: GET %s was answered %r%s", request.text, answer.status, hint)
        return
    _log.info(
        "Warm-up: GET %s was answered %r, %s, in %.0f ms",
        request.text,
        answer.status,
        counted(answer.size, "byte"),
        seconds * 1000,
    )
