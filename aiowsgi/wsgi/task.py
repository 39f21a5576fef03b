"""One request as a pool thread runs it, by the rules of PEP 3333.

The task calls the application, iterates over the result and closes it. It gives the bytes to a
``Responder``, and does not know where that sends them.
"""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ..compiling import mypyc_attr
from ..errors import ApplicationError, ClientDisconnected
from .application import ASYNC, describe
from .environ import Environ
from .failure import FailureReport, comes_from_disconnect, failure_of
from .file_wrapper import FilePart, FileWrapper
from .headers import Fields, HeaderChecks

_log = logging.getLogger("aiowsgi.error")
# Iterables of numbers or letters, where PEP 3333 asks for an iterable of bytes objects.
_NOT_CHUNKS = (str, bytes, bytearray, memoryview)
# Chunks of a response that are there from the beginning are joined up to this size, in bytes.
# Beyond it, the copy would be as dear as the response itself.
_JOINED: Final = 1 << 20
# What a client is told of an application that has failed.
_FAILURE: tuple[Fields, bytes] = (
    (("Content-Type", "text/plain"),),
    b"500 Internal Server Error\n",
)


@mypyc_attr(allow_interpreted_subclasses=True)
class Responder(ABC):
    """Where a task sends the response. All methods are called on the task's thread."""

    # An abstract class, not a ``typing.Protocol``: compiled code finds its methods much faster.
    __slots__ = ()

    @property
    @abstractmethod
    def abandoned(self) -> bool:
        """Whether this is a forked child, so that the request is the parent's and not answered."""

    @abstractmethod
    def start(self, status: str, fields: Fields, length: int | None) -> None:
        """Take the head. It is sent with the first bytes of the body, or with the end.

        ``length`` is that of the whole body in bytes, if it is known.
        """

    @abstractmethod
    def send(self, data: bytes) -> bool:
        """Take a piece of the body. May block. Raises ClientDisconnected.

        Return whether more of the body is wanted. It is not in a response to HEAD, or beyond the
        Content-Length.
        """

    @abstractmethod
    def check(self) -> bool:
        """Return whether more of the body is wanted. Does not block. Raises ClientDisconnected."""

    @abstractmethod
    def finish(self, data: bytes) -> None:
        """Take the last piece of the body, perhaps empty. May block. Raises ClientDisconnected."""

    @abstractmethod
    def finish_with(self, part: FilePart) -> None:
        """Take a file as the whole body, and own it. Raises ClientDisconnected."""

    @abstractmethod
    def abort(self) -> None:
        """Give up the response, so that the client cannot take what was sent for all of it."""

    @abstractmethod
    def describe(self) -> str:
        """Return the request as the error log names it: "GET /path [id]"."""


class Task:
    """Runs the application for one request.

    Arguments: the application; its environ; the responder, which sends the response; ``checks`` for
    its status and header fields; and what explains a failure to the client, if anything does.
    """

    __slots__ = (
        "_app",
        "_checks",
        "_committed",
        "_environ",
        "_fields",
        "_report",
        "_responder",
        "_status",
    )

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        environ: Environ,
        responder: Responder,
        checks: HeaderChecks,
        report: FailureReport | None = None,
    ) -> None:
        self._app = app
        self._environ = environ
        self._responder = responder
        self._checks = checks
        self._report = report
        self._status: str | None = None
        self._fields: Fields = ()
        # Whether the responder has the head. From then on it cannot be replaced.
        self._committed = False

    def run(self) -> None:
        """Call the application and send its response.

        Raises nothing, except in a forked child: there it raises whatever the application raises.
        """
        result: Any = None
        try:
            result = self._app(self._environ, self._start_response)
            self._send_all(result)
        except BaseException as error:
            if self._responder.abandoned:
                # Only the parent closes the result, which may share, for example, a connection to a
                # database with this process.
                result = None
                raise
            self._fail(error)  # Even SystemExit ends this request only.
        finally:
            # Most results are lists, which have no ``close``.
            if type(result) is not list:
                self._close(result)

    def _send_all(self, result: Any) -> None:
        # The fast way, for exactly these types. A class derived from them may iterate over other
        # items than it contains: then the items that are checked here would not be those that are
        # joined.
        if type(result) in (list, tuple) and not self._committed:
            for chunk in result:
                if not isinstance(chunk, bytes):
                    raise ApplicationError(_wrong_chunk(chunk, "yielded"))
            if len(result) == 1:
                body = result[0]
            elif (size := sum(map(len, result))) <= _JOINED:
                body = b"".join(result)
            else:
                self._send_long(result, size)
                return
            self._commit(len(body), len(body))
            self._responder.finish(body)
            return
        # Not for a subclass: it may override the methods that iteration uses.
        if type(result) is FileWrapper and self._send_file(result):
            return
        iterable = hasattr(result, "__iter__") or hasattr(result, "__getitem__")
        if not iterable or isinstance(result, _NOT_CHUNKS):
            raise ApplicationError(_wrong_result(result))
        responder = self._responder
        if responder.abandoned:
            raise ClientDisconnected("a forked child answers nothing")
        for chunk in result:
            if not isinstance(chunk, bytes):
                raise ApplicationError(_wrong_chunk(chunk, "yielded"))
            # An empty chunk says that the application is not ready yet (PEP 3333, "Middleware
            # Handling of Block Boundaries"). So the head is not sent yet either.
            if not chunk:
                wanted = responder.check()
            else:
                if not self._committed:
                    self._commit(None, len(chunk))
                wanted = responder.send(chunk)
            if not wanted:
                break
        if not self._committed:
            # Nothing was sent, so the body is empty and its length known.
            self._commit(0, 0)
        responder.finish(b"")

    def _send_long(self, chunks: Sequence[bytes], size: int) -> None:
        """Send chunks that are ``size`` bytes together, one after the other."""
        self._commit(size, size)
        for chunk in chunks:
            if chunk and not self._responder.send(chunk):
                break
        self._responder.finish(b"")

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Hand the file to the responder. Return False if it has to be read instead."""
        if self._committed or (part := wrapper.part()) is None:
            return False
        try:
            # No part of it is there: of a file, no more is sent than was declared.
            self._commit(part.size, 0)
        except BaseException:
            part.close()
            raise
        self._responder.finish_with(part)
        return True

    # The arguments are annotated with Any: an application may pass anything, and compiled code
    # checks annotations, and would raise a TypeError without our explanation.

    def _start_response(
        self, status: Any, headers: Any, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        """Take status and header fields: the ``start_response`` of PEP 3333."""
        if exc_info is not None and (not isinstance(exc_info, tuple) or len(exc_info) != 3):
            raise ApplicationError(
                f"start_response got {_short(exc_info)} as exc_info; pass sys.exc_info()"
            )
        if exc_info is not None and exc_info[1] is not None:
            try:
                if self._committed:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # The traceback refers to this frame: not also the other way.
        elif self._status is not None:
            raise ApplicationError(
                "it called start_response twice; only an error handler may, with exc_info"
            )
        self._status, self._fields = self._checks.check(status, headers)
        return self._write

    def _write(self, data: Any) -> None:
        """Send a piece of the body: the ``write`` callable of PEP 3333."""
        if not isinstance(data, bytes):
            raise ApplicationError(_wrong_chunk(data, "wrote"))
        if data:
            self._commit(None, len(data))
            self._responder.send(data)

    def _commit(self, length: int | None, size: int) -> None:
        """Give the head to the responder, unless that was done before.

        ``length`` is that of the whole body, if it is known; ``size`` bytes of it are there.
        """
        if self._committed:
            return
        if self._status is None:
            raise ApplicationError(
                "it did not call start_response before its first bytes; "
                "call start_response('200 OK', headers) first"
            )
        if self._report is not None:
            # While it can still be told.
            wrong = self._report.objection_to_length(self._status, self._fields, length, size)
            if wrong is not None:
                raise ApplicationError(wrong)
        self._committed = True
        self._responder.start(self._status, self._fields, length)

    def _fail(self, error: BaseException) -> None:
        """Log an error of the application, and answer with a 500 if the head was not sent."""
        if comes_from_disconnect(error):
            _log.debug("The client went away during %s: %s", self._responder.describe(), error)
            self._responder.abort()
            return
        failure = failure_of(self._app, error)
        _log.error(
            "%s",
            failure.summary(self._responder.describe()),
            exc_info=None if failure.broke_the_rules else error,
        )
        if self._committed:
            self._responder.abort()
            return
        self._committed = True
        report = None if self._report is None else self._report.make(failure)
        fields, body = report or _FAILURE
        try:
            self._responder.start("500 Internal Server Error", fields, len(body))
            self._responder.finish(body)
        except ClientDisconnected:
            self._responder.abort()

    def _close(self, result: Any) -> None:
        """Close the iterable, also after an error (PEP 3333, "Specification Details")."""
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            if self._responder.abandoned:
                raise
            # The response was sent already, so the error can only be logged.
            if comes_from_disconnect(error):
                _log.debug("The client went away during %s: %s", self._responder.describe(), error)
                return
            _log.error(
                "The close() of what %s returned failed in %s",
                describe(self._app),
                self._responder.describe(),
                exc_info=error,
            )


def _wrong_chunk(chunk: Any, verb: str) -> str:
    """Return what is wrong with a piece of a response that is not bytes."""
    if isinstance(chunk, str):
        fix = "encode it: .encode()"
    elif isinstance(chunk, bytearray | memoryview):
        fix = "convert it: bytes(...)"
    else:
        fix = "every piece of a response is bytes"
    return f"it {verb} {type(chunk).__name__} ({_short(chunk)}); {fix}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _wrong_result(result: object) -> str:
    """Return what is wrong with a result that is no iterable of bytes, and how to mend it."""
    if isinstance(result, str):
        return f"it returned str ({_short(result)}); encode it: return [text.encode()]"
    if isinstance(result, bytearray | memoryview):
        return f"it returned {type(result).__name__}; write: return [bytes(body)]"
    if isinstance(result, bytes):
        return f"it returned bytes ({_short(result)}), not a list of bytes; write: return [body]"
    if result is None:
        return "it returned None; return an iterable of bytes, such as [b'...'] or []"
    if inspect.iscoroutine(result) or inspect.isasyncgen(result):
        return f"it returned {type(result).__name__}: {ASYNC}, or write def"
    if callable(result):
        return (
            f"it returned {type(result).__name__}, which can be called; if that is the "
            "application, name the call of what makes it: module:create_app()"
        )
    return f"it returned {type(result).__name__}; return an iterable of bytes, such as [b'...']"
