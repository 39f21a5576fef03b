"""The request that proves a process ready to serve: ``--ready-path``."""

import logging
import threading
import time
from collections.abc import Callable
from wsgiref.types import WSGIApplication

from ...config import Config
from ...errors import NotReadyError
from ...observe.inspection import stacks_of
from .request import Answer, OwnRequest

_log = logging.getLogger("aiowsgi.error")

# Seconds that the application has to answer, where timeout_request sets no limit.
DEFAULT_LIMIT = 30.0


def prove_ready(app: WSGIApplication, config: Config, *, multiprocess: bool) -> None:
    """Ask the application for ``config.ready_path``. Blocks, for a limited time.

    ``multiprocess`` says whether other processes run the application, too.

    The application is called on a thread of its own, because it may never return. Raises
    NotReadyError where it answers anything but 2xx or 3xx, or not in time: what it has raised, or
    where it is, is in the error log. Raises ConfigError where the path cannot be one of a request.
    """
    if not config.ready_path:
        return
    request = OwnRequest.of_option("ready_path", config.ready_path, config, "ready")
    limit = config.timeout_request or DEFAULT_LIMIT
    deadline = time.monotonic() + limit
    answer = _answer_within(
        limit,
        lambda: request.ask(app, config, multiprocess=multiprocess, deadline=deadline),
        request,
    )
    option = f"{config.spelling('ready_path')} {request.text}"
    if answer is None:
        raise NotReadyError(
            f"{option}: the application has not answered within {limit:g} s; see the log above"
        )
    if not answer.is_whole:
        raise NotReadyError(f"{option}: the application broke its answer off; see the log above")
    if answer.status[0] not in "23":
        raise NotReadyError(
            f"{option}: the application answered {answer.status!r}, and is ready once it answers "
            f"2xx or 3xx{request.hint(answer.status)}"
        )
    _log.debug("Ready: GET %s was answered %r", request.text, answer.status)


def _answer_within(seconds: float, ask: Callable[[], Answer], request: OwnRequest) -> Answer | None:
    """Return what a function returns; None where that takes longer, and log where it is."""
    answers: list[Answer] = []
    thread = threading.Thread(
        target=lambda: answers.append(ask()), name="aiowsgi-ready", daemon=True
    )
    thread.start()
    thread.join(seconds)
    if not thread.is_alive():
        # Without an answer, an exception has ended the thread from outside.
        return answers[0] if answers else Answer()
    assert thread.ident is not None  # It has begun.
    stacks = stacks_of([thread.ident])
    _log.error(
        "The application has not answered GET %s (--ready-path) within %g s; it is at:\n%s",
        request.text,
        seconds,
        stacks.get(thread.ident, ""),
    )
    return None
