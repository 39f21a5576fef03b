"""Clients that leave: everything is released at once, and nobody makes a fuss about it."""

import asyncio
import contextlib
import contextvars
import gc
import itertools
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from descriptors import open_descriptors
from log_records import loud
from raw_client import (
    TIMEOUT,
    RawClient,
    StartServer,
    clients_of,
    connect,
    eventually,
    in_thread,
    on_each_wire,
    parts_of,
)

import aiowsgi
from aiowsgi.exchange.stream import Stream

PLAIN = [("Content-Type", "text/plain")]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"

Leave = Callable[[RawClient], None]
LEAVE = [pytest.param(RawClient.close, id="fin"), pytest.param(RawClient.reset, id="rst")]

# A client that has gone is noticed at once, not when some timeout has passed.
AT_ONCE = 8.0


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A client that goes away is not an error: nothing is logged above INFO.

    That it sent what is refused is another matter.
    """
    caplog.set_level(logging.DEBUG)
    yield
    for phase in ("setup", "call"):
        messages = [record.getMessage() for record in loud(caplog, phase)]
        assert all(message.startswith("Refused ") for message in messages), messages


class App:
    """An application that can be stopped in each of its calls, and notes what became of it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.closed = threading.Event()
        self.calls = 0
        self.closes = 0
        self.errors: list[BaseException] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/ping":
            start_response("200 OK", [*PLAIN])
            return [b"pong"]
        self.calls += 1
        return self.answer(environ, start_response)

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.wait()
        start_response("200 OK", [*PLAIN])
        return _Closing(self, iter([b"one", b"two"]))

    def wait(self) -> None:
        self.begun.set()
        assert self.go_on.wait(TIMEOUT)


class _Closing:
    """An iterable that counts how often it is closed."""

    def __init__(self, app: App, chunks: Iterator[bytes]) -> None:
        self._app = app
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._app.closes += 1
        self._app.closed.set()


async def nothing_is_left(server: aiowsgi.Server) -> None:
    """Check that no connection is left, and that the thread that there is does its work."""
    await eventually(lambda: not clients_of(server))
    async with await connect(server) as client:
        assert (await client.request(PING)).body == b"pong"
    await eventually(lambda: not clients_of(server))
    assert server.inspect().connections == 0


# --- before the application ----------------------------------------------------------------------


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHo", UPLOAD, UPLOAD + b"xxx", b"\x00"],
    ids=["nothing", "request line", "field", "no body", "body", "refused"],
)
async def test_client_that_leaves_before_its_request_is_whole(
    start_server: StartServer, sent: bytes, leave: Leave
) -> None:
    app = App()
    server = await start_server(app, threads=1)
    client = await connect(server)
    await client.send(sent)
    await eventually(lambda: clients_of(server))
    leave(client)
    await nothing_is_left(server)
    assert app.calls == 0


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_between_requests(start_server: StartServer, leave: Leave) -> None:
    server = await start_server(App(), threads=1)
    client = await connect(server)
    assert (await client.request(PING)).body == b"pong"
    leave(client)
    await nothing_is_left(server)


@on_each_wire
async def test_request_of_a_client_that_has_gone_is_taken_out_of_the_queue(
    start_server: StartServer,
) -> None:
    app = App()
    server = await start_server(app, threads=1)
    async with await connect(server) as first:
        await first.send(GET)
        await in_thread(app.begun.wait, TIMEOUT)
        waiting = [await connect(server) for _ in range(5)]
        for client in waiting:
            await client.send(GET)
        await eventually(lambda: sum(one.stream is not None for one in clients_of(server)) == 6)
        for client in waiting:
            client.reset()
        await eventually(lambda: len(clients_of(server)) == 1)
        app.go_on.set()
        assert (await first.receive()).body == b"onetwo"
    await nothing_is_left(server)
    assert app.calls == 1


# --- while the application runs ------------------------------------------------------------------


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_before_the_head(start_server: StartServer, leave: Leave) -> None:
    app = App()
    server = await start_server(app, threads=1)
    client = await connect(server)
    await client.send(GET)
    await in_thread(app.begun.wait, TIMEOUT)
    leave(client)
    if leave is RawClient.reset:
        # The connection does not wait for the application.
        await eventually(lambda: not clients_of(server))
    app.go_on.set()
    await in_thread(app.closed.wait, AT_ONCE)
    await nothing_is_left(server)
    assert app.closes == 1


class Endless(App):
    """Writes for ever, with a pause before the chunk of the number given."""

    def __init__(self, *, pause_before: int = -1) -> None:
        super().__init__()
        self._pause_before = pause_before
        self._chunk = b"x" * 50_000

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [*PLAIN])
        return _Closing(self, self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        for number in itertools.count():
            if number == self._pause_before:
                self.wait()
            yield self._chunk


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_while_the_application_is_blocked_in_a_write(
    start_server: StartServer, leave: Leave
) -> None:
    app = Endless()
    server = await start_server(app, threads=1)
    client = await connect(server, receive_buffer=1 << 14)
    await client.send(GET)
    await eventually(lambda: any(one.blocks_thread for one in clients_of(server)))
    assert not app.closed.is_set()
    leave(client)
    await in_thread(app.closed.wait, AT_ONCE)
    assert app.closed.is_set()
    await nothing_is_left(server)
    assert app.closes == 1


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_between_two_chunks(
    start_server: StartServer, leave: Leave
) -> None:
    app = Endless(pause_before=3)
    server = await start_server(app, threads=1)
    client = await connect(server)
    await client.send(GET)
    await in_thread(app.begun.wait, TIMEOUT)
    leave(client)
    app.go_on.set()
    await in_thread(app.closed.wait, AT_ONCE)
    assert app.closed.is_set()
    await nothing_is_left(server)
    assert app.closes == 1


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_while_the_application_uses_write(
    start_server: StartServer, leave: Leave
) -> None:
    """PEP 3333's write() raises, so that the application stops."""

    class Writer(App):
        def answer(
            self, environ: WSGIEnvironment, start_response: StartResponse
        ) -> Iterable[bytes]:
            write = start_response("200 OK", [*PLAIN])
            try:
                while True:
                    write(b"x" * 50_000)
            except ConnectionError as error:
                self.errors.append(error)
                self.closed.set()
                raise

    app = Writer()
    server = await start_server(app, threads=1)
    client = await connect(server, receive_buffer=1 << 14)
    await client.send(GET)
    await eventually(lambda: any(one.blocks_thread for one in clients_of(server)))
    leave(client)
    await in_thread(app.closed.wait, AT_ONCE)
    await nothing_is_left(server)
    (error,) = app.errors
    assert type(error) is aiowsgi.ClientDisconnected
    assert str(error) == "the client closed the connection"


class Reader(App):
    """Reads its input, and notes why that failed."""

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.begun.set()
        try:
            environ["wsgi.input"].read(-1)
        except ConnectionError as error:
            self.errors.append(error)
            self.closed.set()
            raise
        raise AssertionError("a body that was cut looks complete")


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_in_the_middle_of_an_upload(
    start_server: StartServer, leave: Leave
) -> None:
    app = Reader()
    server = await start_server(app, threads=1, body_prefetch=1000)
    client = await connect(server)
    await client.send(UPLOAD + b"x" * 50_000)
    await in_thread(app.begun.wait, TIMEOUT)
    leave(client)
    await in_thread(app.closed.wait, AT_ONCE)
    await nothing_is_left(server)
    (error,) = app.errors
    assert isinstance(error, aiowsgi.RequestBodyError)
    assert isinstance(error, aiowsgi.ClientDisconnected)
    assert "client" in str(error)
    assert app.calls == 1


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_while_its_unread_body_is_dropped(
    start_server: StartServer, leave: Leave
) -> None:
    app = App()
    app.go_on.set()
    server = await start_server(app, threads=1, body_prefetch=1000)
    client = await connect(server)
    await client.send(UPLOAD + b"x" * 5000)
    assert (await client.receive()).body == b"onetwo"
    leave(client)
    await nothing_is_left(server)


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_while_the_connection_is_closing(
    start_server: StartServer, leave: Leave
) -> None:
    server = await start_server(App(), threads=1)
    client = await connect(server)
    assert (await client.request(b"GET / HTTP/3.7\r\n\r\n")).status == 505
    assert await client.read_until_eof() == b""
    assert clients_of(server)
    leave(client)
    await nothing_is_left(server)


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_client_that_leaves_with_pipelined_requests_behind(
    start_server: StartServer, leave: Leave
) -> None:
    app = App()
    server = await start_server(app, threads=1)
    client = await connect(server)
    await client.send(GET * 20)
    await in_thread(app.begun.wait, TIMEOUT)
    leave(client)
    if leave is RawClient.reset:
        await eventually(lambda: not clients_of(server))  # The loop has heard of it.
    app.go_on.set()
    await in_thread(app.closed.wait, AT_ONCE)
    await nothing_is_left(server)
    assert app.closes == app.calls
    if leave is RawClient.reset:
        assert app.calls == 1


@on_each_wire
async def test_aborted_request_gets_its_line_in_the_access_log(
    start_server: StartServer,
) -> None:
    """rapidpro/ureport#1397: those that end early are the ones that somebody will look for."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Lines()
    log = logging.getLogger("aiowsgi.access")
    log.addHandler(handler)
    try:
        app = App()
        server = await start_server(app, threads=1)
        client = await connect(server)
        await client.send(b"GET /gone HTTP/1.1\r\nHost: h\r\n\r\n")
        await in_thread(app.begun.wait, TIMEOUT)
        client.reset()
        await eventually(lambda: lines)
        app.go_on.set()
    finally:
        log.removeHandler(handler)
    assert len(lines) == 1
    assert '"GET /gone HTTP/1.1" 499 0 ' in lines[0]


@on_each_wire
async def test_storm_of_clients_that_connect_and_reset(start_server: StartServer) -> None:
    """CVE-2024-49769: a client that is gone before it is asked for its name kept waitress busy."""
    server = await start_server(App(), threads=1)
    # The first connection opens descriptors that stay, such as those of the loop itself.
    await nothing_is_left(server)
    before = open_descriptors()
    for _ in range(20):
        for client in [await connect(server) for _ in range(20)]:
            client.reset()
    await nothing_is_left(server)
    assert open_descriptors() <= before


@on_each_wire
async def test_storm_of_clients_that_are_gone_before_they_are_accepted(
    start_server: StartServer,
) -> None:
    """As above, but the resets wait in the kernel before the server has its first look."""
    server = await start_server(App(), threads=1)
    address = server.sockets[0].getsockname()

    def storm() -> None:
        for _ in range(300):
            with socket.create_connection(address, TIMEOUT) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # The loop is blocked meanwhile: the kernel's backlog takes them all.
    storm()
    await nothing_is_left(server)


# --- the input behind the end of the response ----------------------------------------------------


class LateReader(App):
    """Reads its input when its response is complete, or given up."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        length = "6" if self._where == "close of a broken response" else "3"
        start_response("200 OK", [*PLAIN, ("Content-Length", length)])
        return _LateAnswer(self, environ, self._where)

    def read(self, environ: WSGIEnvironment) -> None:
        try:
            environ["wsgi.input"].read(-1)
        except ConnectionError as error:
            self.errors.append(error)
        self.closed.set()


class _LateAnswer:
    def __init__(self, app: LateReader, environ: WSGIEnvironment, where: str) -> None:
        self._app = app
        self._environ = environ
        self._where = where

    def __iter__(self) -> Iterator[bytes]:
        yield b"one"
        self._app.wait()
        if self._where == "behind the length":
            self._app.read(self._environ)
        elif self._where == "close of a broken response":
            # It looks like a disconnect, so that nobody logs a traceback.
            raise aiowsgi.ClientDisconnected("on purpose")

    def close(self) -> None:
        if self._where != "behind the length":
            self._app.read(self._environ)


@on_each_wire
@pytest.mark.parametrize("where", ["behind the length", "close", "close of a broken response"])
async def test_input_that_is_read_behind_the_end_of_the_response_is_no_wait_for_ever(
    start_server: StartServer, where: str
) -> None:
    """Nobody feeds it any more: the rest of the body is dropped, and the client may be gone."""
    app = LateReader(where)
    server = await start_server(app, threads=1, body_prefetch=1000)
    client = await connect(server)
    await client.send(UPLOAD + b"x" * 2000)
    await client.read_until(b"one")
    await in_thread(app.begun.wait, TIMEOUT)
    app.go_on.set()
    await in_thread(app.closed.wait, AT_ONCE)
    assert app.closed.is_set()
    client.reset()
    await nothing_is_left(server)
    assert isinstance(app.errors[0], aiowsgi.RequestBodyError)


# --- coroutines ----------------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Caller(App):
    """Runs a coroutine on the server's loop and answers with its result, or notes its error."""

    def __init__(self, coroutine: Callable[[], object]) -> None:
        super().__init__()
        self._coroutine = coroutine

    def answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        variable.set("of the request")
        try:
            result = aiowsgi.run_coroutine(self._coroutine())  # type: ignore[arg-type]
        except BaseException as error:
            self.errors.append(error)
            self.closed.set()
            raise
        start_response("200 OK", [*PLAIN])
        return [repr(result).encode()]


@on_each_wire
async def test_coroutine_gives_its_result_and_sees_the_request_s_context(
    start_server: StartServer,
) -> None:
    loop = asyncio.get_running_loop()

    async def coroutine() -> tuple[bool, str]:
        await asyncio.sleep(0)
        return asyncio.get_running_loop() is loop, variable.get()

    server = await start_server(Caller(coroutine))
    async with await connect(server) as client:
        for _ in range(2):
            assert (await client.request(GET)).body == b"(True, 'of the request')"
    assert variable.get() == "unset"
    assert not parts_of(server).coroutine_runner.running


@on_each_wire
async def test_coroutine_s_exception_comes_out_of_the_call(start_server: StartServer) -> None:
    async def coroutine() -> None:
        await asyncio.sleep(0)
        # A disconnect of its own making: any other would be logged as the application's error.
        raise aiowsgi.ClientDisconnected("on purpose")

    app = Caller(coroutine)
    server = await start_server(app)
    async with await connect(server) as client:
        assert (await client.request(GET)).status == 500
    (error,) = app.errors
    assert str(error) == "on purpose"


@on_each_wire
async def test_context_that_a_coroutine_leaves_behind_does_not_keep_the_request(
    start_server: StartServer,
) -> None:
    contexts = []

    def streams() -> list[object]:
        gc.collect()
        return [item for item in gc.get_objects() if type(item) is Stream]

    # What another test has kept, such as the traceback of an error.
    kept = streams()

    async def coroutine() -> str:
        # As a timer does that is cancelled: asyncio keeps it, and its context, until it is due.
        contexts.append(contextvars.copy_context())
        return "done"

    server = await start_server(Caller(coroutine))
    async with await connect(server) as client:
        assert (await client.request(GET)).body == b"'done'"
    await nothing_is_left(server)
    assert contexts[0][variable] == "of the request"

    await eventually(lambda: len(streams()) <= len(kept))


@on_each_wire
async def test_environ_that_the_application_keeps_does_not_keep_the_request(
    start_server: StartServer,
) -> None:
    kept = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        kept.append(environ)
        start_response("200 OK", [*PLAIN])
        return [b"pong"]

    def streams() -> list[object]:
        gc.collect()
        return [item for item in gc.get_objects() if type(item) is Stream]

    others = streams()
    server = await start_server(app, validate=False)
    async with await connect(server) as client:
        assert (await client.request(GET)).body == b"pong"
    await eventually(lambda: not clients_of(server))
    await eventually(lambda: len(streams()) <= len(others))
    # What can be asked is still answered.
    (environ,) = kept
    assert environ["aiowsgi.disconnected"]() is False
    assert environ["aiowsgi.stopping"]() is False
    assert environ["aiowsgi.deadline"]() == float("inf")


class Waiting:
    """A coroutine that waits for ever, and tells when it begins and when it is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@on_each_wire
@pytest.mark.parametrize("leave", LEAVE)
async def test_coroutine_is_cancelled_when_the_client_leaves(
    start_server: StartServer, leave: Leave
) -> None:
    waiting = Waiting()
    app = Caller(waiting)
    server = await start_server(app, threads=1)
    client = await connect(server)
    await client.send(GET)
    async with asyncio.timeout(TIMEOUT):
        await waiting.begun.wait()
    leave(client)
    async with asyncio.timeout(AT_ONCE):
        await waiting.cancelled.wait()
    await in_thread(app.closed.wait, AT_ONCE)
    await nothing_is_left(server)
    (error,) = app.errors
    assert type(error) is aiowsgi.ClientDisconnected
    assert not parts_of(server).coroutine_runner.running


@on_each_wire
async def test_coroutine_is_not_begun_when_the_client_has_left(start_server: StartServer) -> None:
    waiting = Waiting()

    class Late(Caller):
        def answer(
            self, environ: WSGIEnvironment, start_response: StartResponse
        ) -> Iterable[bytes]:
            self.wait()
            return super().answer(environ, start_response)

    app = Late(waiting)
    server = await start_server(app, threads=1)
    client = await connect(server)
    await client.send(GET)
    await in_thread(app.begun.wait, TIMEOUT)
    client.reset()
    await eventually(lambda: not clients_of(server))
    app.go_on.set()
    await in_thread(app.closed.wait, AT_ONCE)
    await nothing_is_left(server)
    assert isinstance(app.errors[0], aiowsgi.ClientDisconnected)
    assert not waiting.begun.is_set()


@on_each_wire
async def test_coroutine_is_cancelled_when_the_server_stops(start_server: StartServer) -> None:
    waiting = Waiting()
    app = Caller(waiting)
    server = await start_server(app, threads=1)
    async with await connect(server) as client:
        await client.send(GET)
        async with asyncio.timeout(TIMEOUT):
            await waiting.begun.wait()
            # That the server cuts a connection is worth a warning; that is no client that left.
            with silent_log():
                server.abort()
                await server.wait_closed()
    assert waiting.cancelled.is_set()
    await in_thread(app.closed.wait, AT_ONCE)
    (error,) = app.errors
    assert type(error) is aiowsgi.ServerStopped


@contextlib.contextmanager
def silent_log() -> Iterator[None]:
    """Let the error log be silent for a while."""
    log = logging.getLogger("aiowsgi.error")
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = False


async def _never() -> None:
    raise AssertionError("it must not run")


def test_coroutine_outside_of_a_request_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="inside a call of a WSGI application"):
        aiowsgi.run_coroutine(_never())


@on_each_wire
async def test_coroutine_on_the_loop_s_own_thread_is_an_error(start_server: StartServer) -> None:
    async def coroutine() -> str:
        try:
            aiowsgi.run_coroutine(_never())
        except RuntimeError as error:
            return str(error)
        return "it ran"

    server = await start_server(Caller(coroutine))
    async with await connect(server) as client:
        assert b"would block the event loop" in (await client.request(GET)).body


async def test_what_is_no_coroutine_is_an_error_and_no_hang(start_server: StartServer) -> None:
    class Wrong(App):
        def answer(
            self, environ: WSGIEnvironment, start_response: StartResponse
        ) -> Iterable[bytes]:
            try:
                aiowsgi.run_coroutine(asyncio.sleep)  # type: ignore[arg-type]
            except TypeError as error:
                self.errors.append(error)
            start_response("200 OK", [*PLAIN])
            return [b"answer"]

    app = Wrong()
    server = await start_server(app, threads=1)
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    async with await connect(server) as client:
        await client.send(GET)
        await eventually(lambda: app.errors or problems)
        assert not problems
        assert (await client.receive()).body == b"answer"


@on_each_wire
@pytest.mark.parametrize("declared", [False, True], ids=["chunked", "whole length sent"])
async def test_generator_that_yields_only_empty_chunks_is_released(
    start_server: StartServer, declared: bool
) -> None:
    """PEP 3333 lets middleware yield b"" while it waits; a client that has gone must end that."""
    closed = threading.Event()
    tick = threading.Event()  # Never set: what the application waits for.

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [*PLAIN, *([("Content-Length", "5")] if declared else [])])
        try:
            yield b"hello"
            while True:
                tick.wait(0.01)
                yield b""
        finally:
            closed.set()

    server = await start_server(app, threads=1)
    client = await connect(server)
    await client.send(GET)
    assert b"hello" in await client.read_until(b"hello")
    client.reset()
    await in_thread(closed.wait, AT_ONCE)
    assert closed.is_set()


@on_each_wire
async def test_coroutine_that_is_slow_to_end_does_not_keep_the_thread(
    start_server: StartServer,
) -> None:
    begun, released, go_on = threading.Event(), threading.Event(), asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await go_on.wait()
            raise

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        try:
            aiowsgi.run_coroutine(stubborn())
        finally:
            released.set()
        raise AssertionError

    server = await start_server(app, threads=1)
    client = await connect(server)
    await client.send(GET)
    await in_thread(begun.wait, TIMEOUT)
    client.close()
    await in_thread(released.wait, AT_ONCE)
    assert released.is_set()
    assert parts_of(server).coroutine_runner.running
    go_on.set()
    await eventually(lambda: not parts_of(server).coroutine_runner.running)


@on_each_wire
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_coroutine_that_wants_to_end_the_program_ends_its_request(
    start_server: StartServer, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        raise kind

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        with pytest.raises(kind):
            aiowsgi.run_coroutine(leave())
        start_response("200 OK", PLAIN)
        return [b"still here"]

    server = await start_server(app, threads=1)
    async with await connect(server) as client:
        assert (await client.request(GET)).body == b"still here"


# --- Memory ---------------------------------------------------------------------------------------


REQUEST_WITH_BODY = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"


@on_each_wire
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (REQUEST_WITH_BODY, 200),
        (REQUEST_WITH_BODY[:-1], 0),
        (b"GET /refused HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nx", 0),
    ],
    ids=["whole", "cut-short", "refused", "broken-chunk"],
)
async def test_connections_that_are_gone_leave_nothing_to_the_garbage_collector(
    start_server: StartServer, request_bytes: bytes, status: int
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        body: bytes = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    server = await start_server(app, validate=False)
    gc.collect()
    gc.disable()
    # By another test, such as with the traceback of an error.
    kept = _of_connections(gc.get_objects())
    try:
        for end in (RawClient.close, RawClient.reset, RawClient.half_close):
            async with await connect(server) as client:
                if status:
                    response = await client.request(request_bytes, "POST")
                    assert response.status == status
                else:
                    await client.send(request_bytes)
                end(client)
                await eventually(lambda: not clients_of(server))
        # The thread sends the answer itself, and has yet to come back from there.
        await eventually(lambda: _of_connections(gc.get_objects()) == kept)
    finally:
        gc.enable()


@on_each_wire
async def test_request_that_never_had_a_thread_leaves_nothing_to_the_garbage_collector(
    start_server: StartServer,
) -> None:
    go_on = threading.Event()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        go_on.wait(TIMEOUT)
        start_response("200 OK", [*PLAIN])
        return [b"pong"]

    server = await start_server(app, validate=False, threads=1)
    async with await connect(server) as busy:
        await busy.send(GET)
        await eventually(lambda: server.busy_threads == 1)
        gc.collect()
        gc.disable()
        kept = _of_connections(gc.get_objects())
        try:
            async with await connect(server) as client:
                await client.send(GET)
                await eventually(lambda: server.queued == 1)
                client.reset()
                await eventually(lambda: len(clients_of(server)) == 1)
            await eventually(lambda: _of_connections(gc.get_objects()) == kept)
        finally:
            gc.enable()
            go_on.set()


def _of_connections(objects: list[object]) -> list[str]:
    names = ("SocketWire", "Connection", "Receiver", "Sender", "Watchdog")
    names += ("Deadline", "Parser", "Stream", "WsgiCall", "Pace")
    return [
        type(item).__name__
        for item in objects
        if type(item).__name__ in names and type(item).__module__.startswith("aiowsgi.")
    ]
