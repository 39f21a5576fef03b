"""How an application has failed: in words, for the log and for whoever else explains it."""

import traceback
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Protocol

from ..errors import ApplicationError, ClientDisconnected
from ..wording import counted
from .application import describe, objection_to_call
from .headers import Fields

_OWN_MODULES = f"{__name__.rpartition('.')[0]}."


@dataclass(frozen=True, slots=True)
class Failure:
    """An application that has failed in one request. Made by ``failure_of``."""

    # What it has raised, or ApplicationError where it has broken PEP 3333.
    error: BaseException
    # The name of the application: "module:qualified.name".
    app: str
    # What is wrong and how to mend it; empty where the error itself has to be enough.
    advice: str
    # The file and the line of the application that broke PEP 3333, if they are known.
    place: tuple[str, int] | None = None

    @property
    def broke_the_rules(self) -> bool:
        """Whether it has broken PEP 3333, and so raised nothing itself."""
        return isinstance(self.error, ApplicationError)

    def summary(self, request: str) -> str:
        """Return the whole of it as one sentence. ``request`` is the description of the request."""
        what = "broke PEP 3333" if self.broke_the_rules else "raised an exception"
        advice = f": {self.advice}" if self.advice else ""
        where = f' (File "{self.place[0]}", line {self.place[1]})' if self.place else ""
        return f"The application {self.app} {what} in {request}{advice}{where}"


class FailureReport(Protocol):
    """Tells a client more of a failure than that there was one: with ``--debug`` only."""

    def objection_to_length(
        self, status: str, fields: Fields, length: int | None, size: int
    ) -> str | None:
        """Return what is wrong with a body that is not as long as the application has declared.

        Asked before anything of the response is sent. ``length`` is that of the whole body, if it
        is known; ``size`` bytes of it are there.
        """

    def make(self, failure: Failure) -> tuple[Fields, bytes] | None:
        """Return the header fields and the body of the answer; None where it cannot be made."""


def failure_of(app: object, error: BaseException) -> Failure:
    """Return how ``app`` has failed, which has raised ``error``, or broken PEP 3333."""
    if isinstance(error, ApplicationError):
        return Failure(error, describe(app), str(error), _place(app, error))
    return Failure(error, describe(app), objection_to_call(app, error) or "")


def comes_from_disconnect(error: BaseException) -> bool:
    """Return whether the application failed because its client had gone.

    That is so if the error is a ClientDisconnected, or was raised from one. An error that was
    raised while the application handled a ClientDisconnected (``__context__``) is a mistake in the
    handler.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:  # The causes may form a circle.
        if isinstance(cause, ClientDisconnected):
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False


def wrong_length(excess: int, missing: int) -> str:
    """Return what is wrong with a body: one of both is the bytes by which it is not as declared."""
    difference = f"{counted(excess, 'byte')} more" if excess else f"{counted(missing, 'byte')} less"
    return f"has {difference} than its Content-Length"


def _place(app: Any, error: BaseException) -> tuple[str, int] | None:
    """Return the line of the application that led to an error, or where its function begins."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if not str(frame.f_globals.get("__name__")).startswith(_OWN_MODULES):
            return frame.f_code.co_filename, line
    if isinstance(app, FunctionType):
        return app.__code__.co_filename, app.__code__.co_firstlineno
    return None
