"""One request as a pool thread runs it, against a responder in memory."""

import functools
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.errors import ClientDisconnected, RequestBodyError
from aiowsgi.wsgi.application import describe
from aiowsgi.wsgi.file_wrapper import FilePart
from aiowsgi.wsgi.headers import HeaderChecks
from aiowsgi.wsgi.task import Responder, Task

REQUEST = "GET /path [id-1]"
THIS_FILE = re.escape(__file__)


@dataclass(slots=True)
class Recorder(Responder):
    """A responder in memory. It checks the order of the calls, and fails as the test asks."""

    # After so many pieces, send() returns that no more is wanted.
    wanted: int = sys.maxsize
    fails: dict[str, BaseException] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    status: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    length: int | None = None
    pieces: list[bytes] = field(default_factory=list)
    abandoned: bool = False

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if (error := self.fails.get(name)) is not None:
            raise error

    def start(self, status: str, fields: tuple[tuple[str, str], ...], length: int | None) -> None:
        assert not self.calls, "a second head, or a head behind the end"
        self.status, self.fields, self.length = status, list(fields), length
        self._called("start")

    def send(self, data: bytes) -> bool:
        assert self.calls[0] == "start", "a body without a head"
        assert not {"finish", "abort"} & set(self.calls), "a body behind its end"
        assert type(data) is bytes
        assert data, "an empty piece costs a hand-over and says nothing"
        self.pieces.append(data)
        self._called("send")
        return len(self.pieces) < self.wanted

    def check(self) -> bool:
        assert not {"finish", "abort"} & set(self.calls), "a body behind its end"
        return len(self.pieces) < self.wanted

    def finish(self, data: bytes) -> None:
        assert self.calls[0] == "start", "an end without a head"
        assert not {"finish", "abort"} & set(self.calls), "a second end"
        if data:
            self.pieces.append(data)
        self._called("finish")

    def finish_with(self, part: FilePart) -> None:
        assert self.calls == ["start"], "a file is the whole body"
        self.pieces.append(os.pread(part.descriptor, part.size, part.offset))
        part.close()
        self._called("finish_with")

    def describe(self) -> str:
        return REQUEST

    def abort(self) -> None:
        assert "abort" not in self.calls, "a second end"
        self._called("abort")

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def is_500(self) -> bool:
        """Whether the only answer is a whole one that says 500."""
        return self.calls == ["start", "finish"] and (self.status, self.length) == (
            "500 Internal Server Error",
            len(self.body),
        )


def run(app: Callable[..., Any], recorder: Recorder | None = None) -> Recorder:
    recorder = recorder or Recorder()
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    Task(app, environ, recorder, HeaderChecks()).run()
    return recorder


def answering(result: Any, *, start: bool = True) -> Callable[..., Any]:
    """Return an application that returns ``result``."""

    def app(environ: Any, start_response: Any) -> Any:
        if start:
            start_response("200 OK", [("X-App", "yes")])
        return result

    return app


class Closing:
    """An iterable over ``chunks`` that counts how often it is closed. An exception is raised."""

    def __init__(self, *chunks: Any, on_close: BaseException | None = None) -> None:
        self.chunks = chunks
        self.on_close = on_close
        self.closed = 0
        self.taken = 0

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.chunks:
            self.taken += 1
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed += 1
        if self.on_close is not None:
            raise self.on_close


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aiowsgi.error")


# What is sent.


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_long_list_is_not_copied_into_one_piece_and_its_length_is_known(kind: type) -> None:
    chunk = bytes(1 << 18)
    recorder = run(answering(kind([chunk, b"", chunk, chunk, chunk, b"end"])))
    assert recorder.length == (1 << 20) + 3
    assert [piece is chunk for piece in recorder.pieces] == [True] * 4 + [False]
    assert recorder.body == bytes(1 << 20) + b"end"
    assert recorder.calls == ["start", *["send"] * 5, "finish"]


def test_a_long_list_ends_where_no_more_is_wanted() -> None:
    recorder = run(answering([bytes(1 << 20), b"more", b"end"]), Recorder(wanted=1))
    assert recorder.calls == ["start", "send", "finish"]
    assert recorder.length == (1 << 20) + 7


@pytest.mark.parametrize(
    ("result", "body"),
    [
        ([b"one"], b"one"),
        ((b"one",), b"one"),
        ([b"one", b"", b"two"], b"onetwo"),
        ((b"one", b"two"), b"onetwo"),
        ([], b""),
        ((), b""),
        ([b""], b""),
        ([b"", b""], b""),
    ],
)
def test_the_length_of_a_list_is_known_and_it_goes_in_one_piece(result: Any, body: bytes) -> None:
    recorder = run(answering(result))
    assert recorder.calls == ["start", "finish"]
    assert (recorder.status, recorder.fields) == ("200 OK", [("X-App", "yes")])
    assert (recorder.length, recorder.body) == (len(body), body)


@pytest.mark.parametrize("make", [iter, set, lambda chunks: (chunk for chunk in chunks)])
def test_other_iterables_stream_with_unknown_length(make: Callable[[Any], Any]) -> None:
    recorder = run(answering(make([b"one"])))
    assert recorder.calls == ["start", "send", "finish"]
    assert (recorder.length, recorder.pieces) == (None, [b"one"])


@pytest.mark.parametrize("chunks", [[], [b""], [b"", b"", b""]])
def test_a_stream_without_a_byte_has_length_zero(chunks: list[bytes]) -> None:
    recorder = run(answering(iter(chunks)))
    assert recorder.calls == ["start", "finish"]
    assert (recorder.length, recorder.pieces) == (0, [])


def test_the_head_waits_for_the_first_chunk_that_is_not_empty() -> None:
    recorder = Recorder()
    seen = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for chunk in (b"", b"", b"one", b"", b"two"):
            yield chunk
            seen.append((chunk, list(recorder.calls)))

    run(app, recorder)
    assert seen == [
        (b"", []),
        (b"", []),
        (b"one", ["start", "send"]),
        (b"", ["start", "send"]),
        (b"two", ["start", "send", "send"]),
    ]


def test_start_response_may_come_with_the_first_iteration() -> None:
    # PEP 3333: "must not assume that start_response has been called before the first iteration".
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield b""
        start_response("201 Created", [("X-Late", "yes")])
        yield b"one"

    recorder = run(app)
    assert (recorder.status, recorder.fields) == ("201 Created", [("X-Late", "yes")])
    assert recorder.body == b"one"


def test_start_response_may_come_when_an_empty_stream_ends() -> None:
    class Late:
        def __init__(self, environ: Any, start_response: Any) -> None:
            self.start_response = start_response

        def __iter__(self) -> Iterator[bytes]:
            self.start_response("204 No Content", [])
            return iter(())

    recorder = run(Late)
    assert (recorder.status, recorder.calls) == ("204 No Content", ["start", "finish"])


def test_the_application_is_told_apart_from_its_iterable() -> None:
    """Classes, instances, partial objects and bound methods are applications too."""

    class App:
        def __init__(self, *args: Any) -> None:
            self.args = args

        def __iter__(self) -> Iterator[bytes]:
            self.args[1]("200 OK", [])
            yield b"class"

        def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [b"instance"]

    assert run(App).body == b"class"
    assert run(App()).body == b"instance"
    assert run(App().__call__).body == b"instance"
    assert run(functools.partial(App())).body == b"instance"


def test_a_type_error_inside_iter_is_the_applications_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class App:
        def __init__(self, environ: Any, start_response: Any) -> None:
            start_response("200 OK", [])

        def __iter__(self) -> Iterator[bytes]:
            raise TypeError("a mistake of its own")

    assert run(App).is_500
    assert "in __iter__" in caplog.text
    assert "a mistake of its own" in caplog.text


def test_an_old_sequence_is_iterable() -> None:
    class Sequence:
        def __getitem__(self, index: int) -> bytes:
            return [b"one", b"two"][index]

    assert run(answering(Sequence())).pieces == [b"one", b"two"]


def test_write_goes_out_before_the_iterable() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"written")
        write(b"")
        write(b"again")
        return [b"returned"]

    recorder = run(app)
    assert recorder.calls == ["start", "send", "send", "send", "finish"]
    # The list is not the whole body, so that its length is not the body's.
    assert (recorder.length, recorder.pieces) == (None, [b"written", b"again", b"returned"])


def test_nothing_written_leaves_the_length_of_a_list_known() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"")
        return [b"returned"]

    assert run(app).length == len(b"returned")


def test_write_during_the_iteration_keeps_the_order() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [])
        write(b"1")
        yield b"2"
        write(b"3")
        yield b"4"
        write(b"5")

    assert run(app).pieces == [b"1", b"2", b"3", b"4", b"5"]


chunk_lists = st.lists(st.sampled_from([b"", b"a", b"\r\n", b"0123456789"]), max_size=6)


@given(
    chunks=chunk_lists,
    written=chunk_lists,
    make=st.sampled_from([list, tuple, iter, lambda c: (x for x in c), lambda c: Closing(*c)]),
)
def test_the_body_is_that_of_wsgiref(
    chunks: list[bytes], written: list[bytes], make: Callable[[Any], Any]
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        for chunk in written:
            write(chunk)
        return make(chunks)

    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    out = io.BytesIO()
    SimpleHandler(io.BytesIO(), out, io.StringIO(), environ).run(app)
    head, _, body = out.getvalue().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    recorder = run(app)
    assert (recorder.status, recorder.body) == ("200 OK", body)
    assert recorder.length in (None, len(body))


def test_the_iteration_stops_when_no_more_is_wanted() -> None:
    result = Closing(b"1", b"2", b"3", b"4")
    recorder = run(answering(result), Recorder(wanted=2))
    assert recorder.calls == ["start", "send", "send", "finish"]
    assert (recorder.pieces, result.taken, result.closed) == ([b"1", b"2"], 2, 1)


# close(), exactly once on every path.


@pytest.mark.parametrize(
    ("result", "recorder", "end"),
    [
        (Closing(b"a", b"b"), Recorder(), "finish"),
        (Closing(), Recorder(), "finish"),
        (Closing(b"a"), Recorder(wanted=1), "finish"),
        (Closing(ValueError("at once")), Recorder(), "finish"),
        (Closing(b"a", ValueError("late")), Recorder(), "abort"),
        (Closing(SystemExit(1)), Recorder(), "finish"),
        (Closing("str"), Recorder(), "finish"),
        (Closing(b"a", "str"), Recorder(), "abort"),
        (Closing(b"a", on_close=ValueError("close")), Recorder(), "finish"),
        (Closing(b"a", on_close=SystemExit(1)), Recorder(), "finish"),
        (Closing(b"a", KeyError("late"), on_close=ValueError("close")), Recorder(), "abort"),
        (Closing(b"a"), Recorder(fails={"send": ClientDisconnected("gone")}), "abort"),
        (Closing(b"a"), Recorder(fails={"finish": ClientDisconnected("gone")}), "abort"),
        (Closing(), Recorder(fails={"finish": ClientDisconnected("gone")}), "abort"),
        (Closing(b"a"), Recorder(fails={"send": RuntimeError("a defect")}), "abort"),
        (Closing(RequestBodyError("gone")), Recorder(), "abort"),
    ],
)
def test_close_is_called_exactly_once(result: Closing, recorder: Recorder, end: str) -> None:
    run(answering(result), recorder)
    assert result.closed == 1
    assert recorder.calls[-1] == end


def test_close_is_called_where_start_response_was_forgotten() -> None:
    result = Closing(b"a")
    assert run(answering(result, start=False)).is_500
    assert result.closed == 1


def test_close_is_called_where_the_result_is_no_iterable() -> None:
    class File:
        closed = 0

        def close(self) -> None:
            self.closed += 1

    result = File()
    assert run(answering(result)).is_500
    assert result.closed == 1


def test_close_follows_the_last_byte() -> None:
    recorder = Recorder()

    class Result(Closing):
        def close(self) -> None:
            super().close()
            assert recorder.calls == ["start", "send", "finish"]

    result = Result(b"a")
    run(answering(result), recorder)
    assert result.closed == 1


def test_a_generator_is_closed_when_the_client_leaves() -> None:
    steps = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"a"
            steps.append("went on")
        finally:
            steps.append("cleaned up")

    run(app, Recorder(fails={"send": ClientDisconnected("gone")}))
    assert steps == ["cleaned up"]


def test_close_that_is_none_is_not_called(caplog: pytest.LogCaptureFixture) -> None:
    class Result:
        close = None

        def __iter__(self) -> Iterator[bytes]:
            yield b"a"

    assert run(answering(Result())).body == b"a"
    assert caplog.records == []


def test_a_failing_close_is_logged_and_changes_no_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = OSError("the file is gone")
    recorder = run(answering(Closing(b"a", on_close=error)))
    assert (recorder.status, recorder.body) == ("200 OK", b"a")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "close()" in record.getMessage()
    assert REQUEST in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


# Exceptions.


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("place", ["call", "first iteration", "after an empty chunk"])
def test_an_exception_before_the_head_is_a_500(
    error: BaseException, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        if place == "call":
            start_response("200 OK", [("X-Secret", "of the good case")])
            raise error
        start_response("200 OK", [])
        return Closing(*[b""] * (place == "after an empty chunk"), error)

    recorder = run(app)
    assert recorder.is_500
    assert recorder.fields == [("Content-Type", "text/plain")]
    assert b"Traceback" not in recorder.body
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert REQUEST in record.getMessage()
    assert f"{__name__}:test_an_exception_before_the_head_is_a_500" in record.getMessage()
    # The traceback leads into the application.
    assert "in app" in caplog.text or "in __iter__" in caplog.text


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_after_the_head_cuts_the_response(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = run(answering(Closing(b"a", error)))
    assert recorder.calls == ["start", "send", "abort"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_an_exception_after_write_cuts_the_response() -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])(b"a")
        raise ValueError("x")

    assert run(app).calls == ["start", "send", "abort"]


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect of ours"), ClientDisconnected("gone")], ids=ascii
)
def test_a_responder_that_fails_at_the_end_is_not_asked_for_a_500(error: Exception) -> None:
    recorder = run(answering([b"a"]), Recorder(fails={"finish": error}))
    assert recorder.calls == ["start", "finish", "abort"]


@pytest.mark.parametrize("kind", [list, tuple])
def test_class_derived_from_a_list_is_what_it_iterates_over(kind: type) -> None:
    class Derived(kind):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"iterated", b" over"])

    recorder = run(answering(Derived([b"held"])))
    assert b"".join(recorder.pieces) == b"iterated over"
    # And what is checked is what is sent.
    assert run(answering(Derived(["held"]))).pieces == [b"iterated", b" over"]


# The client that went away.


def _raise(error: BaseException) -> Any:
    raise error


def _wraps_cause(error: BaseException) -> Any:
    raise ValueError("the upload failed") from error


def _wraps_context(error: BaseException) -> Any:
    try:
        raise error
    except ConnectionError:
        raise ValueError("the upload failed")  # noqa: B904 - as applications do


def _misspells(error: BaseException) -> Any:
    try:
        raise error
    except OSError:
        logg.warning("the upload failed")  # type: ignore[name-defined]  # noqa: F821


def _wraps_none(error: BaseException) -> Any:
    try:
        raise error
    except OSError:
        raise ValueError("the upload failed") from None


def _causes_again(error: BaseException) -> Any:
    try:
        _wraps_context(error)
    except ValueError as again:
        raise SystemExit(1) from again


def _wraps_twice(error: BaseException) -> Any:
    try:
        _wraps_cause(error)
    except ValueError as again:
        raise SystemExit(1) from again


@pytest.mark.parametrize("gone", [ClientDisconnected("gone"), RequestBodyError("gone")])
@pytest.mark.parametrize("fail", [_misspells, _wraps_context, _wraps_none, _causes_again])
def test_mistake_of_an_application_whose_client_left_is_an_error(
    gone: Exception, fail: Callable[[BaseException], Any], caplog: pytest.LogCaptureFixture
) -> None:
    run(lambda environ, start_response: fail(gone))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


@pytest.mark.parametrize("gone", [ClientDisconnected("gone"), RequestBodyError("gone")])
@pytest.mark.parametrize("fail", [_raise, _wraps_cause, _wraps_twice])
def test_a_client_that_left_is_no_error(
    gone: Exception, fail: Callable[[BaseException], Any], caplog: pytest.LogCaptureFixture
) -> None:
    recorder = run(lambda environ, start_response: fail(gone))
    assert recorder.calls == ["abort"]
    (record,) = caplog.records
    assert record.levelno <= logging.INFO
    assert REQUEST in record.getMessage()


@pytest.mark.parametrize("name", ["send", "finish"])
def test_a_client_that_leaves_during_the_response_is_no_error(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = run(answering(Closing(b"a")), Recorder(fails={name: ClientDisconnected("gone")}))
    assert recorder.calls[-2:] == [name, "abort"]
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("name", ["start", "finish"])
def test_a_client_that_leaves_during_the_500_ends_it(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = run(
        answering(Closing(ValueError("x"))), Recorder(fails={name: ClientDisconnected("gone")})
    )
    assert recorder.calls[-2:] == [name, "abort"]
    # The application's own error is still worth its line.
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_an_ordinary_connection_error_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    # The application's database went away, not its client.
    assert run(answering(Closing(ConnectionResetError("database")))).is_500
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_close_that_fails_because_the_client_left_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Such as a generator whose "finally" reads the rest of the input.
    result = Closing(b"a", on_close=RequestBodyError("gone"))
    run(answering(result), Recorder(fails={"send": ClientDisconnected("gone")}))
    assert result.closed == 1
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_an_exception_that_is_its_own_cause_ends(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        raise first

    assert run(app).is_500
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_an_application_that_fails_on_unknown_attributes_is_described() -> None:
    # As the proxies of frameworks do outside of their context.
    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"no context for {name}")

        def __call__(self, environ: Any, start_response: Any) -> Any:
            raise ValueError("x")

    assert run(Proxy()).is_500


# Messages for the classic mistakes.


async def _coroutine_app(environ: Any, start_response: Any) -> list[bytes]:
    return []


async def _async_generator_app(environ: Any, start_response: Any) -> Any:
    yield b""


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("text", "it returned str ('text'); encode it: return [text.encode()]"),
        ("", "it returned str (''); encode it: return [text.encode()]"),
        ("x" * 100, f"it returned str ('{'x' * 59}…); encode it: return [text.encode()]"),
        (b"text", "it returned bytes (b'text'), not a list of bytes; write: return [body]"),
        (None, "it returned None; return an iterable of bytes, such as [b'...'] or []"),
        (bytearray(b"text"), "it returned bytearray; write: return [bytes(body)]"),
        (7, "it returned int; return an iterable of bytes, such as [b'...']"),
        (object(), "it returned object; return an iterable of bytes, such as [b'...']"),
        (["text"], "it yielded str ('text'); encode it: .encode()"),
        ([b"a", "text"], "it yielded str ('text'); encode it: .encode()"),
        (iter(["text"]), "it yielded str ('text'); encode it: .encode()"),
        ([""], "it yielded str (''); encode it: .encode()"),
        ([bytearray(b"a")], "it yielded bytearray (bytearray(b'a')); convert it: bytes(...)"),
        (iter([memoryview(b"a")]), "it yielded memoryview (<memory at"),
        ([None], "it yielded NoneType (None); every piece of a response is bytes"),
        ({"key": 1}, "it yielded str ('key'); encode it: .encode()"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_wrong_result_is_named_with_its_fix(
    result: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = answering(result)
    assert run(app).is_500
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    # The application's mistake, not the server's: a traceback would show only our own lines.
    assert record.exc_info is None
    text = record.getMessage()
    assert f"The application {describe(app)} broke PEP 3333 in {REQUEST}: {message}" in text


@pytest.mark.parametrize(
    ("app", "name"), [(_coroutine_app, "coroutine"), (_async_generator_app, "async_generator")]
)
def test_an_async_application_is_recognised(
    app: Callable[..., Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The coroutine is closed, so that there is no "never awaited" behind the message.
    assert run(app).is_500
    assert f"it returned {name}: it is an async def" in caplog.text
    assert "ASGI" in caplog.text


def test_a_factory_that_is_called_as_the_application_is_recognised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def create_app(*args: Any) -> Any:
        return answering([])

    assert run(create_app).is_500
    assert "it returned function, which can be called; if that is the application" in caplog.text
    assert "name the call of what makes it: module:create_app()" in caplog.text


def test_a_decorated_factory_is_recognised(caplog: pytest.LogCaptureFixture) -> None:
    def create_app() -> Any: ...

    @functools.wraps(create_app)
    def decorated(*args: Any) -> Any:
        return create_app(*args)

    assert run(decorated).is_500
    (record,) = caplog.records
    assert f"raised an exception in {REQUEST}: it takes nothing, and" in record.getMessage()
    assert record.exc_info is not None


@pytest.mark.parametrize("result", [[b"a"], iter([b"a"]), [], iter([])])
def test_a_forgotten_start_response_is_named(result: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert run(answering(result, start=False)).is_500
    assert "it did not call start_response" in caplog.text
    assert "call start_response('200 OK', headers) first" in caplog.text


def test_a_wrong_chunk_behind_the_head_is_named_and_cuts_the_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert run(answering(iter([b"a", "text"]))).calls == ["start", "send", "abort"]
    assert "it yielded str ('text'); encode it: .encode()" in caplog.text


def test_write_takes_bytes_only(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])("text")
        return []

    assert run(app).is_500
    assert "str ('text'); encode it: .encode()" in caplog.text
    line = app.__code__.co_firstlineno + 1
    assert f'(File "{__file__}", line {line})' in caplog.text


def test_the_line_that_called_start_response_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def inner(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X", "a\nb")])
        return []

    def middleware(environ: Any, start_response: Any) -> list[bytes]:
        return inner(environ, start_response)

    assert run(middleware).is_500
    line = inner.__code__.co_firstlineno + 1
    assert re.search(rf'\(File "{THIS_FILE}", line {line}\)$', caplog.records[0].getMessage())


def test_the_application_is_named_so_that_a_person_finds_it() -> None:
    class App:
        def __call__(self) -> None: ...

    prefix = f"{__name__}:test_the_application_is_named_so_that_a_person_finds_it.<locals>.App"
    assert describe(run) == f"{__name__}:run"
    assert describe(App) == prefix
    assert describe(App()) == f"{prefix} instance"
    assert describe(App().__call__) == f"{prefix}.__call__"
    assert describe(functools.partial(run)) == "functools:partial instance"


def test_subclass_of_list_is_closed() -> None:
    """A list itself has nothing to close."""

    class Closing(list[bytes]):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    result = Closing([b"hello"])

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return result

    assert run(app).pieces == [b"hello"]
    assert result.closed == 1
