"""A server inside an asyncio program: how it starts, what it serves, and what it leaves behind."""

import asyncio
import contextlib
import dataclasses
import errno
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx
import pytest
from raw_client import be_patient, eventually, transports_of_the_loop

import aiowsgi
from aiowsgi import BindError, ConfigError
from aiowsgi.config import ProcessOptions
from aiowsgi.server import serving

# Long enough for a busy machine; a test that passes never waits for it.
PATIENCE = 30.0

Drive = Callable[[], Awaitable[None]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


class Gated:
    """An application that says when it is called, and answers when the test lets it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._entered = asyncio.Event()
        self.release = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self._loop.call_soon_threadsafe(self._entered.set)
        assert self.release.wait(PATIENCE)
        return hello(environ, start_response)

    async def wait_entered(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._entered.wait()


class Client:
    """A connection of a test: raw bytes, every wait bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def send(self) -> None:
        self.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")

    async def receive(self) -> bytes:
        """Return the body of a response that has a Content-Length."""
        async with asyncio.timeout(PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            size = next(
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            return await self._reader.readexactly(size)

    async def get(self) -> bytes:
        self.send()
        return await self.receive()

    async def ended(self) -> bytes:
        """Wait for the server's end; return what came before it."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connect(server: aiowsgi.Server | tuple[str, int]) -> AsyncIterator[Client]:
    address = server if isinstance(server, tuple) else server.sockets[0].getsockname()
    async with asyncio.timeout(PATIENCE):
        client = Client(*await asyncio.open_connection(*address))
    try:
        yield client
    finally:
        await client.close()


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        return await client.get(url)


def open_descriptors() -> set[str]:
    """Return the open descriptors of this process, named with what they lead to."""
    folder = "/proc/self/fd"
    found = set()
    for number in os.listdir(folder):
        with contextlib.suppress(OSError):  # That of the listing itself.
            found.add(f"{number} {os.readlink(f'{folder}/{number}')}")
    return found


def _uvloop() -> LoopFactory:
    uvloop = pytest.importorskip("uvloop")
    factory: LoopFactory = uvloop.new_event_loop
    return factory


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    return asyncio.new_event_loop if request.param == "asyncio" else _uvloop()


@pytest.fixture
def run(loop_factory: LoopFactory) -> Callable[[Drive], None]:
    """Return ``run(drive)``: runs a coroutine function on a fresh loop of each kind, in debug mode.

    Warnings are errors here, those of objects that were not closed too: they surface when the
    objects are collected.
    """

    def run_in_debug_mode(drive: Drive) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await drive()
            gc.collect()

        with asyncio.Runner(loop_factory=loop_factory, debug=True) as runner:
            runner.run(bounded())
        gc.collect()

    return run_in_debug_mode


@pytest.fixture
def leftovers() -> Iterator[None]:
    """Check that no thread and no descriptor is left at the end of the test."""
    # The first loop of libuv opens a pipe for signals, which serves all loops of the process.
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()
    gc.collect()
    threads = set(threading.enumerate())
    descriptors = open_descriptors() if sys.platform == "linux" else set()
    yield
    gc.collect()
    assert set(threading.enumerate()) == threads
    if sys.platform == "linux":
        assert open_descriptors() - descriptors == set()


# What leaving the block leaves behind: nothing.


def test_block_serves_and_leaves_nothing_behind(
    run: Callable[[Drive], None], leftovers: None
) -> None:
    async def drive() -> None:
        threads = set(threading.enumerate())
        async with aiowsgi.serve(hello, "127.0.0.1", 0) as server, connect(server) as client:
            assert await client.get() == b"hello"
            assert set(threading.enumerate()) > threads
        # Before the loop ends, which would clean up itself.
        assert set(threading.enumerate()) == threads
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(drive)


def test_leaving_the_block_finishes_a_request_in_flight(
    run: Callable[[Drive], None], leftovers: None
) -> None:
    async def drive() -> None:
        app = Gated()
        threads = set(threading.enumerate())
        async with contextlib.AsyncExitStack() as stack:
            async with aiowsgi.serve(app, "127.0.0.1", 0) as server:
                idle = await stack.enter_async_context(connect(server))
                busy = await stack.enter_async_context(connect(server))
                busy.send()
                await app.wait_entered()
                # Runs behind the beginning of the shutdown, which is the block's next step.
                asyncio.get_running_loop().call_soon(app.release.set)
            assert set(threading.enumerate()) == threads
            assert await idle.ended() == b""
            assert await busy.receive() == b"hello"
            assert await busy.ended() == b""
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(drive)


def test_connection_that_arrives_while_the_server_closes_is_not_leaked(
    run: Callable[[Drive], None], leftovers: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def drive() -> None:
        for passes in range(6):
            server = await aiowsgi.serve(hello, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            server.close()
            # The loop finds the connection at every step of the shutdown in turn.
            for _ in range(passes):
                await asyncio.sleep(0)
            with socket.socket() as client, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                client.settimeout(PATIENCE)
                with contextlib.suppress(ConnectionRefusedError):
                    client.connect(address)
                await server.wait_closed()
                # A socket that nobody closed warns as it is collected.
                gc.collect()
            assert [str(warning.message) for warning in caught] == []

    run(drive)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_connections_that_wait_as_the_server_closes_are_ended(
    run: Callable[[Drive], None], leftovers: None
) -> None:
    async def drive() -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        address = listening.getsockname()
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(address)) for _ in range(80)]
            server = await aiowsgi.serve(hello, sock=listening)
            # One pass of the loop: some are accepted, some are being set up, some wait.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            server.close()
            await server.wait_closed()
            for client in clients:
                assert await client.ended() == b""
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(drive)


def test_several_servers_in_one_loop(run: Callable[[Drive], None], leftovers: None) -> None:
    def second(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        hello(environ, start_response)
        return [b"other"]

    async def drive() -> None:
        async with (
            aiowsgi.serve(hello, "127.0.0.1", 0) as one,
            aiowsgi.serve(second, "127.0.0.1", 0) as two,
        ):
            assert one.url != two.url
            async with connect(one) as client, connect(two) as other:
                assert await client.get() == b"hello"
                assert await other.get() == b"other"
                one.close()
                await one.wait_closed()
                assert await client.ended() == b""
                # One that stops does not disturb another.
                assert await other.get() == b"other"

    run(drive)


def test_unix_socket_and_its_file(run: Callable[[Drive], None], leftovers: None) -> None:
    async def drive() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/s"
            config = aiowsgi.Config(bind=(f"unix:{path}",))
            async with aiowsgi.serve(hello, config=config) as server:
                assert server.url == f"unix:{path}"
                client = Client(*await asyncio.open_unix_connection(path))
                assert await client.get() == b"hello"
                await client.close()
            assert os.listdir(folder) == []

    run(drive)


def test_program_is_untouched(run: Callable[[Drive], None]) -> None:
    def state() -> list[Any]:
        loggers = [logging.getLogger(name) for name in (None, "aiowsgi", "asyncio")]
        loggers += [logging.getLogger(f"aiowsgi.{name}") for name in ("error", "access")]
        return [
            [signal.getsignal(number) for number in signal.valid_signals()],
            signal.set_wakeup_fd(-1),
            [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers],
            sys.getswitchinterval(),
            (sys.excepthook, threading.excepthook, sys.unraisablehook),
            threading.stack_size(),
            socket.getdefaulttimeout(),
            os.getcwd(),
            sys.path[:],
        ]

    def loop_state() -> list[Any]:
        loop = asyncio.get_running_loop()
        return [loop.get_exception_handler(), loop.get_debug(), loop.get_task_factory()]

    async def drive() -> None:
        # A loop has a wake-up descriptor of its own: only what is there before it is compared.
        before = [state()[0], *state()[2:]], loop_state()
        async with aiowsgi.serve(hello, "127.0.0.1", 0) as server, connect(server) as client:
            await client.get()
            assert ([state()[0], *state()[2:]], loop_state()) == before
        assert ([state()[0], *state()[2:]], loop_state()) == before

    run(drive)


# Starting.


async def test_server_that_is_awaited_serves_until_it_is_closed() -> None:
    server = await aiowsgi.serve(hello, "127.0.0.1", 0)
    assert server.is_serving()
    (sock,) = server.sockets
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert server.url == f"http://127.0.0.1:{sock.getsockname()[1]}"
    assert server.urls == (server.url,)
    assert (await get(server.url)).text == "hello"
    server.close()
    assert not server.is_serving()
    assert server.sockets == ()
    assert server.urls == ()
    with pytest.raises(RuntimeError, match="the server is closed"):
        _ = server.url
    await server.wait_closed()
    assert sock.fileno() == -1


async def test_server_that_is_awaited_can_be_entered() -> None:
    server = await aiowsgi.serve(hello, "127.0.0.1", 0)
    async with server as entered:
        assert entered is server
        assert (await get(server.url)).text == "hello"
    assert not server.is_serving()


async def test_server_that_is_closed_cannot_be_entered() -> None:
    async with await aiowsgi.serve(hello, "127.0.0.1", 0) as server:
        pass
    with pytest.raises(RuntimeError, match=r"closed, and cannot .* another one with 'async with"):
        await server.__aenter__()


@pytest.mark.parametrize("enter", [False, True])
async def test_what_serve_returns_starts_one_server(enter: bool) -> None:
    serving = aiowsgi.serve(hello, "127.0.0.1", 0)
    async with serving as server:
        with pytest.raises(RuntimeError, match=r"awaited or entered once; call serve\(\) again"):
            await (serving.__aenter__() if enter else serving)
        assert (await get(server.url)).text == "hello"
    with pytest.raises(RuntimeError, match="awaited or entered once"):
        await serving


async def test_start_that_failed_may_be_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serving = aiowsgi.serve(hello, *taken.getsockname())
        with pytest.raises(BindError):
            await serving
    async with serving as server:
        assert (await get(server.url)).text == "hello"


async def test_every_address_is_served() -> None:
    config = aiowsgi.Config(bind=("127.0.0.1:0", "localhost:0"))
    async with aiowsgi.serve(hello, config=config) as server:
        assert len(server.urls) >= 2
        for url in server.urls:
            assert (await get(url)).text == "hello"


async def test_host_and_port_replace_the_addresses_of_the_configuration() -> None:
    config = aiowsgi.Config(bind=("192.0.2.1:1",))
    async with aiowsgi.serve(hello, "127.0.0.1", 0, config=config) as server:
        assert server.url.startswith("http://127.0.0.1:")
    async with aiowsgi.serve(hello, port=0, config=config) as server:
        assert server.url.startswith("http://127.0.0.1:")


async def test_listening_socket_of_the_program_is_served_and_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with aiowsgi.serve(hello, sock=listening) as server:
            assert server.sockets == (listening,)
            assert (await get(server.url)).text == "hello"
        assert listening.fileno() == -1


async def test_burst_of_connections_is_accepted_whole() -> None:
    # More than are accepted before other work of the loop has its turn.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        address = listening.getsockname()
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connect(address)) for _ in range(100)]
            async with aiowsgi.serve(hello, sock=listening):
                for client in clients:
                    client.send()
                for client in clients:
                    assert await client.receive() == b"hello"


async def test_used_port_is_a_bind_error() -> None:
    async with aiowsgi.serve(hello, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BindError, match="another program listens there") as caught:
            async with aiowsgi.serve(hello, "127.0.0.1", port):
                pytest.fail("two servers on one port")
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value, aiowsgi.ConfigError)
        assert caught.value.errno == errno.EADDRINUSE


async def test_used_second_address_closes_the_first(leftovers: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = ("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(BindError):
            await aiowsgi.serve(hello, config=aiowsgi.Config(bind=bind))


@pytest.mark.parametrize("app", [None, "app:application", hello({}, lambda *_: lambda _: None)])
async def test_what_cannot_be_called_is_refused(app: Any) -> None:
    with pytest.raises(ConfigError, match="is not callable"):
        aiowsgi.serve(app, "127.0.0.1", 0)


# Mistakes.


def test_server_that_is_neither_awaited_nor_entered_is_told() -> None:
    serving = [aiowsgi.serve(hello)]
    with pytest.warns(RuntimeWarning, match="neither awaited nor entered, and serves nothing") as w:
        serving.clear()
    assert f"serve({__name__}:hello)" in str(w[0].message)


@pytest.mark.parametrize("enter", [False, True])
async def test_server_that_could_not_start_was_not_forgotten(enter: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serving = aiowsgi.serve(hello, *taken.getsockname())
        with pytest.raises(BindError):
            await (serving.__aenter__() if enter else serving)
    # A warning would be an error here.
    del serving
    gc.collect()


@pytest.mark.parametrize("name", ["url", "urls", "sockets", "close", "wait_closed", "threads"])
async def test_attribute_of_the_server_before_there_is_one_is_told(name: str) -> None:
    serving = aiowsgi.serve(hello, "127.0.0.1", 0)
    with pytest.raises(AttributeError, match=rf"before it is awaited .* then server\.{name}$"):
        getattr(serving, name)
    async with serving:
        pass


async def test_attribute_that_nobody_has_is_an_ordinary_error() -> None:
    serving = aiowsgi.serve(hello, "127.0.0.1", 0)
    with pytest.raises(AttributeError, match=r"^'Serving' object has no attribute 'nothing'$"):
        _ = serving.nothing  # type: ignore[attr-defined]
    async with serving:
        pass


Function = Callable[..., Any]
both = pytest.mark.parametrize("function", [aiowsgi.serve, aiowsgi.run])


@both
def test_name_of_an_application_is_no_application(function: Function) -> None:
    with pytest.raises(ConfigError, match="'a:b' is not callable; import it, and pass the object"):
        function("a:b")


@both
def test_asgi_application_is_refused_before_it_is_served(function: Function) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ConfigError, match="is not a WSGI application: it is an async def"):
        function(app)


@both
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8000, "127.0.0.1"), r"in this order: not 8000 and '127\.0\.0\.1', but such as '127"),
        ((8000,), "in this order: not 8000 and None"),
        (("127.0.0.1", "8000"), "in this order: not '127.0.0.1' and '8000'"),
        ((b"127.0.0.1", 80), "the host must be a str and the port an int, not b'127"),
        (("127.0.0.1", True), "the host must be a str and the port an int, not '127.0.0.1' and T"),
        (("127.0.0.1", 80.0), "the host must be a str and the port an int, not '127.0.0.1' and 80"),
    ],
)
def test_host_and_port_of_other_types_are_told(
    function: Function, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        function(hello, *arguments)


@both
@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("unix:/run/x", "unix:/run/x"),
        ("fd:3", "fd:3"),
        ("systemd:web", "systemd:web"),
        ("127.0.0.1:8131", "127.0.0.1:8131"),
        ("[::1]:8131", "[::1]:8131"),
        ("a:", "a:80"),
        ("[::1]:", "[::1]:80"),
        ("uwsgi:127.0.0.1", "uwsgi:127.0.0.1:80"),
        ("uwsgi:127.0.0.1:", "uwsgi:127.0.0.1:80"),
        ("uwsgi:[::1]", "uwsgi:[::1]:80"),
        ("uwsgi:", "uwsgi:127.0.0.1:80"),
        ("uwsgi:127.0.0.1:3031", "uwsgi:127.0.0.1:3031"),
        ("uwsgi:unix:/run/x", "uwsgi:unix:/run/x"),
        ("http:fd:3", "http:fd:3"),
    ],
)
def test_whole_address_as_host_is_told(function: Function, host: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        function(hello, host, 80)
    assert str(caught.value) == (
        f"{host!r} is a whole address, not a host; write --bind {meant}, "
        f"or config=aiowsgi.Config(bind=({meant!r},))"
    )


@both
@pytest.mark.parametrize(
    ("host", "advice"),
    [
        ("http://127.0.0.1", "host='127.0.0.1'"),
        ("https://h/", "host='h'"),
        ("http://[::1]/", "host='::1'"),
        ("http://", "host='127.0.0.1'"),
        ("http://h:1/", "--bind h:1, or config=aiowsgi.Config(bind=('h:1',))"),
        ("uwsgi://h", "--bind uwsgi:h:80, or config=aiowsgi.Config(bind=('uwsgi:h:80',))"),
        (
            "uwsgi://[::1]:1",
            "--bind uwsgi:[::1]:1, or config=aiowsgi.Config(bind=('uwsgi:[::1]:1',))",
        ),
    ],
)
def test_url_as_host_is_told(function: Function, host: str, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        function(hello, host, 80)
    assert str(caught.value) == f"{host!r} is a URL, not a host; write {advice}"


@both
@pytest.mark.parametrize("port", [-1, 65536])
def test_number_that_is_no_port_is_told(function: Function, port: int) -> None:
    with pytest.raises(ConfigError, match=f"^{port} is not a port; a port is a number from 0 to"):
        function(hello, "127.0.0.1", port)


@pytest.mark.parametrize("sock", [5, "127.0.0.1:80", object()])
def test_what_is_no_socket_is_told_at_the_call(sock: Any) -> None:
    with pytest.raises(TypeError, match=f"^sock must be .*, not {type(sock).__name__}; "):
        aiowsgi.serve(hello, sock=sock)


@both
def test_dict_as_configuration_is_told(function: Function) -> None:
    with pytest.raises(TypeError, match=r"must be an aiowsgi\.Config, not dict; write config=aio"):
        function(hello, config={"threads": 4})


@both
def test_option_as_keyword_is_told(function: Function) -> None:
    name = function.__name__
    with pytest.raises(TypeError) as caught:
        function(hello, "127.0.0.1", 0, threads=4)
    assert str(caught.value) == (
        f"{name}() got an unexpected keyword argument 'threads'; "
        "write config=aiowsgi.Config(threads=4)"
    )
    with pytest.raises(TypeError, match=r"; write config=aiowsgi\.Config\(bind=\('x:0',\)\)$"):
        function(hello, bind="x:0")
    with pytest.raises(TypeError) as caught:
        function(hello, qqq=4)
    assert str(caught.value) == f"{name}() got an unexpected keyword argument 'qqq'"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("loop", "asyncio", "choose it there, such as asyncio.Runner(loop_factory="),
        ("chdir", "/tmp", "it may call os.chdir() before"),
        ("pid_file", "/run/app.pid", "your program may write its number to a file"),
        ("workers", 1, "a server is in one process, that of your program"),
        ("warm_up", ("/",), "may call the application before it serves"),
        ("ready_path", "/", "may call the application before it serves"),
        ("log_level", "info", "set the level of the logger aiowsgi.error"),
    ],
)
def test_an_option_of_a_process_is_refused_with_what_to_do_instead(
    name: str, value: Any, advice: str
) -> None:
    # Also where it is the default: it would do nothing, and somebody has written it.
    config = aiowsgi.Config(**{name: value})
    with pytest.raises(ConfigError) as caught:
        aiowsgi.serve(hello, config=config)
    told = "is an option of a process, for aiowsgi.run and the command line, and serve() takes none"
    assert str(caught.value).startswith(f"{name} {told} such; leave it out: ")
    assert advice in str(caught.value)
    with pytest.raises(TypeError) as misplaced:
        aiowsgi.serve(hello, **{name: value})
    assert str(misplaced.value).startswith(
        f"serve() got an unexpected keyword argument {name!r}; it {told}"
    )
    assert advice in str(misplaced.value)


def test_every_option_of_a_process_is_refused() -> None:
    for field in dataclasses.fields(ProcessOptions):
        config = aiowsgi.Config(**{field.name: getattr(aiowsgi.Config(), field.name)})
        with pytest.raises(ConfigError, match=f"^{field.name} is an option of a process"):
            aiowsgi.serve(hello, config=config)


async def test_a_config_with_replaced_values_is_taken() -> None:
    config = dataclasses.replace(aiowsgi.Config(threads=2), threads=3)
    async with aiowsgi.serve(hello, "127.0.0.1", 0, config=config) as server:
        assert server.threads == 3


def test_factory_and_asgi_application_are_told() -> None:
    def create_app() -> Any: ...

    async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ConfigError, match=r"create_app is not a WSGI .* write .*create_app\(\)$"):
        aiowsgi.serve(create_app)
    with pytest.raises(ConfigError, match=r"asgi is not a WSGI application: it is an async def"):
        aiowsgi.serve(asgi)  # type: ignore[arg-type]


def test_start_without_a_loop_is_told_and_binds_nothing(
    leftovers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As under trio: a coroutine runs, and asyncio knows of no loop.
    monkeypatch.setattr(serving, "bind_all", lambda *_, **__: pytest.fail("it was bound before"))
    steps = aiowsgi.serve(hello, "127.0.0.1", 0).__await__()
    with pytest.raises(
        RuntimeError, match=r"a running asyncio event loop, and there is none \(trio"
    ):
        next(steps)


async def test_coroutine_on_the_loop_is_to_be_awaited() -> None:
    # Of the two things that are wrong, the one that helps: no request is needed to await it.
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="would block the event loop; await the coroutine inst"):
        aiowsgi.run_coroutine(coroutine)
    # It was closed, so that it does not warn.
    assert coroutine.cr_frame is None


@pytest.mark.parametrize(
    ("module", "function", "name", "patch"),
    [
        ("gevent.monkey", "is_module_patched", "threading", "gevent.monkey.patch_all"),
        ("eventlet.patcher", "is_monkey_patched", "thread", "eventlet.monkey_patch"),
    ],
)
@pytest.mark.parametrize("patched", [False, True])
async def test_threads_that_are_none_are_told(
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    function: str,
    name: str,
    patch: str,
    patched: bool,
) -> None:
    # Both are tried for real by hand: what they do to a process cannot be taken back.
    asked = SimpleNamespace(**{function: lambda what: patched and what == name})
    monkeypatch.setitem(sys.modules, module, asked)  # type: ignore[arg-type]
    if not patched:
        async with aiowsgi.serve(hello, "127.0.0.1", 0) as server:
            assert (await get(server.url)).text == "hello"
        return
    with pytest.raises(ConfigError) as caught:
        await aiowsgi.serve(hello, "127.0.0.1", 0)
    assert str(caught.value) == (
        f"{patch}() has replaced threads and locks in this process, and the server needs real ones "
        f"beside its event loop; leave it out, or write {patch}(thread=False)"
    )


@pytest.mark.parametrize("given", [False, True])
async def test_start_that_fails_closes_what_it_had_bound(
    leftovers: None, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    loop = asyncio.get_running_loop()
    real, calls = loop.add_reader, 0

    def add_reader(*args: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == (1 if given else 2):
            raise OSError(errno.ENOSPC, "no space")
        real(*args, **named)

    config = aiowsgi.Config(bind=("127.0.0.1:0", "127.0.0.1:0"))
    with monkeypatch.context() as patched, socket.create_server(("127.0.0.1", 0)) as sock:
        patched.setattr(loop, "add_reader", add_reader)
        with pytest.raises(OSError, match="no space"):
            await aiowsgi.serve(hello, config=config, sock=sock if given else None)
        # A socket of the program's stays its own.
        assert sock.fileno() != -1


async def test_server_says_what_it_serves_where_and_in_which_state() -> None:
    app = Gated()
    server = await aiowsgi.serve(app, "127.0.0.1", 0)
    prefix = f"<aiowsgi.Server of {__name__}:Gated instance at {server.url}, "
    assert repr(server) == f"{prefix}serving>"
    async with connect(server) as client:
        client.send()
        await app.wait_entered()
        server.close()
        assert repr(server) == f"{prefix}closing>"
        app.release.set()
        assert await client.receive() == b"hello"
    await server.wait_closed()
    assert repr(server) == f"{prefix}closed>"


# Stopping.


async def test_closing_twice_is_closing_once() -> None:
    async with aiowsgi.serve(hello, "127.0.0.1", 0) as server:
        server.close()
        server.close()
        await server.wait_closed()
        server.close()
        server.abort()
        await server.wait_closed()


async def test_wait_closed_waits_for_somebody_to_close() -> None:
    async with aiowsgi.serve(hello, "127.0.0.1", 0) as server:
        waiting = asyncio.ensure_future(server.wait_closed())
        assert (await get(server.url)).text == "hello"
        assert not waiting.done()
        server.close()
        async with asyncio.timeout(PATIENCE):
            await waiting


async def test_shutdown_goes_on_when_nobody_waits_for_it_any_more() -> None:
    app = Gated()
    async with aiowsgi.serve(app, "127.0.0.1", 0) as server, connect(server) as client:
        client.send()
        await app.wait_entered()
        server.close()
        waiting = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        app.release.set()
        assert await client.receive() == b"hello"
        async with asyncio.timeout(PATIENCE):
            await server.wait_closed()


async def test_serve_forever_returns_when_the_server_is_closed() -> None:
    server = await aiowsgi.serve(hello, "127.0.0.1", 0)
    forever = asyncio.ensure_future(server.serve_forever())
    assert (await get(server.url)).text == "hello"
    assert not forever.done()
    server.close()
    async with asyncio.timeout(PATIENCE):
        await forever


async def test_cancelling_serve_forever_drains_and_closes() -> None:
    app = Gated()
    server = await aiowsgi.serve(app, "127.0.0.1", 0)
    forever = asyncio.ensure_future(server.serve_forever())
    async with connect(server) as client:
        client.send()
        await app.wait_entered()
        forever.cancel()
        # Two passes: the cancellation arrives, and the shutdown begins.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not server.is_serving()
        assert not forever.done()
        app.release.set()
        assert await client.receive() == b"hello"
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(PATIENCE):
                await forever


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_error_in_the_block_closes_the_server_and_goes_on(
    error: type[BaseException], leftovers: None
) -> None:
    with pytest.raises(error):
        async with aiowsgi.serve(hello, "127.0.0.1", 0) as server:
            raise error
    assert not server.is_serving()


async def test_new_connections_are_refused_while_requests_are_finished() -> None:
    app = Gated()
    async with aiowsgi.serve(app, "127.0.0.1", 0) as server, connect(server) as busy:
        address = server.sockets[0].getsockname()
        async with connect(server) as idle:
            busy.send()
            await app.wait_entered()
            server.close()
            # Idle connections are closed after the listeners.
            assert await idle.ended() == b""
        with pytest.raises(ConnectionRefusedError):
            async with connect(address):
                pytest.fail("the server does not listen any more")
        app.release.set()
        assert await busy.receive() == b"hello"


async def test_half_a_request_is_finished_too() -> None:
    async with (
        aiowsgi.serve(hello, "127.0.0.1", 0) as server,
        connect(server) as client,
        connect(server) as idle,
    ):
        client.write(b"GET / HTTP/1.1\r\n")
        # The bytes have arrived once a request behind them has been answered.
        assert await idle.get() == b"hello"
        server.close()
        # Behind the step of the shutdown that closes idle connections.
        assert await idle.ended() == b""
        client.write(b"Host: test\r\n\r\n")
        assert await client.receive() == b"hello"
        assert await client.ended() == b""


async def test_graceful_timeout_cuts_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    app = Gated()
    config = aiowsgi.Config(timeout_graceful=0.05)
    async with (
        aiowsgi.serve(app, "127.0.0.1", 0, config=config) as server,
        connect(server) as client,
    ):
        client.send()
        await app.wait_entered()
        server.close()
        # Cut, not answered: the application has not returned.
        assert await client.ended() == b""
        app.release.set()
        await server.wait_closed()
    assert "did not end in time" in caplog.text


@pytest.mark.parametrize("closed_before", [False, True])
async def test_abort_cuts_requests_in_flight_at_once(closed_before: bool) -> None:
    app = Gated()
    async with aiowsgi.serve(app, "127.0.0.1", 0) as server, connect(server) as client:
        client.send()
        await app.wait_entered()
        if closed_before:
            async with connect(server) as idle:
                server.close()
                assert await idle.ended() == b""
        server.abort()
        assert await client.ended() == b""
        app.release.set()
        async with asyncio.timeout(PATIENCE):
            await server.wait_closed()


async def test_thread_that_is_stuck_in_the_application_is_named_and_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Gated()
    before = set(threading.enumerate())
    config = aiowsgi.Config(timeout_graceful=0.0)
    async with (
        asyncio.timeout(PATIENCE),
        aiowsgi.serve(app, "127.0.0.1", 0, config=config) as server,
        connect(server) as client,
    ):
        client.send()
        await app.wait_entered()
        server.close()
        await server.wait_closed()
    (stuck,) = set(threading.enumerate()) - before
    (record,) = [record for record in caplog.records if "does not return" in record.message]
    assert stuck.name in record.message
    assert record.levelno == logging.WARNING
    app.release.set()
    await asyncio.to_thread(stuck.join, PATIENCE)
    assert not stuck.is_alive()


def test_stuck_thread_may_return_after_the_loop_is_gone(
    run: Callable[[Drive], None], leftovers: None
) -> None:
    apps: list[Gated] = []
    before = set(threading.enumerate())

    async def drive() -> None:
        config = aiowsgi.Config(timeout_graceful=0.0)
        app = Gated()
        apps.append(app)
        async with (
            aiowsgi.serve(app, "127.0.0.1", 0, config=config) as server,
            connect(server) as client,
        ):
            client.send()
            await app.wait_entered()
            server.close()
            await server.wait_closed()

    run(drive)
    (stuck,) = set(threading.enumerate()) - before
    # Its word to the loop that is gone goes nowhere, and harms nobody.
    apps[0].release.set()
    # An exception in the thread would be an error of the test.
    stuck.join(PATIENCE)


async def test_program_that_closed_the_listening_socket_itself_can_still_stop() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    before = set(threading.enumerate())
    async with aiowsgi.serve(hello, sock=listening) as server, connect(server) as client:
        assert await client.get() == b"hello"
        listening.close()
        server.close()
        async with asyncio.timeout(PATIENCE):
            await server.wait_closed()
        assert await client.ended() == b""
    assert set(threading.enumerate()) == before


async def test_file_of_an_inherited_unix_socket_stays() -> None:
    # It belongs to whoever made it, such as systemd, and will be served again.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as given:
        given.bind(f"{folder}/s")
        given.listen()
        config = aiowsgi.Config(bind=(f"fd:{os.dup(given.fileno())}",))
        async with aiowsgi.serve(hello, config=config):
            pass
        assert os.listdir(folder) == ["s"]


# Pools.


async def test_shared_pool_serves_several_servers_and_stays() -> None:
    with aiowsgi.ThreadPool(2) as pool:
        async with (
            aiowsgi.serve(hello, "127.0.0.1", 0, executor=pool) as one,
            aiowsgi.serve(hello, "127.0.0.1", 0, executor=pool) as two,
        ):
            assert one.threads == two.threads == 2
            assert (await get(one.url)).text == "hello"
            assert (await get(two.url)).text == "hello"
            # And the work of the program around them.
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(pool, lambda: 6 * 7) == 42
        assert pool.submit(lambda: 6 * 7).result(PATIENCE) == 42


async def test_foreign_executor_runs_the_application_and_stays() -> None:
    names: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        names.append(threading.current_thread().name)
        return hello(environ, start_response)

    with ThreadPoolExecutor(3, thread_name_prefix="theirs") as executor:
        async with aiowsgi.serve(app, "127.0.0.1", 0, executor=executor) as server:
            assert server.threads == 3
            assert (await get(server.url)).text == "hello"
        assert executor.submit(lambda: 6 * 7).result(PATIENCE) == 42
    assert names[0].startswith("theirs")


async def test_executor_that_tells_nothing_of_its_size_is_taken_for_several_threads() -> None:
    class Plain(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return inner.submit(fn, *args, **kwargs)

    seen: list[bool] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        seen.append(environ["wsgi.multithread"])
        return hello(environ, start_response)

    with ThreadPoolExecutor(1) as inner:
        async with aiowsgi.serve(app, "127.0.0.1", 0, executor=Plain()) as server:
            assert (await get(server.url)).text == "hello"
    assert seen == [True]


async def test_pool_that_the_program_shut_down_is_a_503(caplog: pytest.LogCaptureFixture) -> None:
    pool = aiowsgi.ThreadPool(1)
    async with aiowsgi.serve(hello, "127.0.0.1", 0, executor=pool) as server:
        pool.shutdown()
        assert (await get(server.url)).status_code == 503
    assert "The thread pool takes no more work" in caplog.text


# Accepting.


async def test_accepting_pauses_at_the_limit_and_drops_nobody() -> None:
    config = aiowsgi.Config(max_connections=2)
    async with (
        aiowsgi.serve(hello, "127.0.0.1", 0, config=config) as server,
        connect(server) as first,
        connect(server) as second,
        connect(server) as third,
    ):
        third.send()
        assert await first.get() == b"hello"
        assert await second.get() == b"hello"
        waiting = asyncio.ensure_future(third.receive())
        # Two further answers: the third one's request was there before them.
        assert await first.get() == b"hello"
        assert await second.get() == b"hello"
        assert not waiting.done()
        await first.close()
        assert await waiting == b"hello"


async def test_limit_of_connections_counts_all_listeners_together() -> None:
    config = aiowsgi.Config(bind=("127.0.0.1:0", "127.0.0.1:0"), max_connections=1)
    async with aiowsgi.serve(hello, config=config) as server:
        addresses = [sock.getsockname() for sock in server.sockets]
        # A first connection through each: then both listeners wait for a second one.
        for address in addresses:
            async with connect(address) as client:
                assert await client.get() == b"hello"
                client.write(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                await client.ended()
        async with connect(addresses[0]) as first:
            assert await first.get() == b"hello"
            async with connect(addresses[1]) as second:
                second.send()
                waiting = asyncio.ensure_future(second.receive())
                for _ in range(5):
                    assert await first.get() == b"hello"
                assert not waiting.done()
                await first.close()
                assert await waiting == b"hello"


async def test_server_at_its_limit_can_be_closed() -> None:
    config = aiowsgi.Config(max_connections=1)
    async with (
        aiowsgi.serve(hello, "127.0.0.1", 0, config=config) as server,
        connect(server) as first,
        connect(server) as second,
    ):
        assert await first.get() == b"hello"
        server.close()
        async with asyncio.timeout(PATIENCE):
            await server.wait_closed()
        assert await first.ended() == b""
        assert await second.ended() == b""


def _fail_once(monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException) -> asyncio.Event:
    """Let the loop's next call of ``method`` fail; return the event of that failure."""
    loop = asyncio.get_running_loop()
    real = getattr(loop, method)
    failed = asyncio.Event()

    async def fail(*args: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise error
        return await real(*args)

    monkeypatch.setattr(loop, method, fail)
    return failed


class FailingSocket(socket.socket):
    """A socket that a program has bound, and on which nothing can be accepted at first."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.bind(("127.0.0.1", 0))
        self._error = error
        self.failed = asyncio.Event()

    def _accept(self) -> tuple[int, object]:
        if not self.failed.is_set():
            self.failed.set()
            raise self._error
        return super()._accept()  # type: ignore[misc]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_accepting_goes_on_after_descriptors_were_exhausted(
    caplog: pytest.LogCaptureFixture, number: int
) -> None:
    sock = FailingSocket(OSError(number, os.strerror(number)))
    async with aiowsgi.serve(hello, sock=sock) as server:
        assert (await get(server.url)).text == "hello"
    assert sock.failed.is_set()
    (record,) = [record for record in caplog.records if "Cannot accept" in record.message]
    assert os.strerror(number) in record.message


async def test_client_that_left_before_it_was_accepted_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sock = FailingSocket(ConnectionAbortedError(errno.ECONNABORTED, ""))
    async with aiowsgi.serve(hello, sock=sock) as server:
        assert (await get(server.url)).text == "hello"
    assert sock.failed.is_set()
    assert [record for record in caplog.records if record.name == "aiowsgi.error"] == []


async def test_connection_that_cannot_be_set_up_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = _fail_once(monkeypatch, "connect_accepted_socket", OSError(errno.EINVAL, "gone"))
    config = aiowsgi.Config(max_connections=1)
    with transports_of_the_loop():
        server = await aiowsgi.serve(hello, "127.0.0.1", 0, config=config)
    async with server:
        async with connect(server) as lost:
            assert await lost.ended() == b""
        assert failed.is_set()
        assert (await get(server.url)).text == "hello"


async def test_listening_socket_that_is_lost_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sock = FailingSocket(OSError(errno.EBADF, "Bad file descriptor"))
    async with (
        aiowsgi.serve(hello, sock=sock) as server,
        connect(server),
        asyncio.timeout(PATIENCE),
    ):
        await sock.failed.wait()
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "Cannot accept connections any more" in record.message


async def test_request_leaves_no_circle_for_the_garbage_collector() -> None:
    # What is in a circle lives on: a body that was prefetched, the application's objects.
    async with aiowsgi.serve(hello, "127.0.0.1", 0) as server, connect(server) as client:
        assert await client.get() == b"hello"
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            assert await client.get() == b"hello"
            gc.collect()
            ours = [item for item in gc.garbage if type(item).__module__.startswith("aiowsgi.")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert ours == []


async def test_one_thread_is_told_to_the_application() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr(environ["wsgi.multithread"]).encode()]

    for threads, told in ((1, "False"), (2, "True")):
        config = aiowsgi.Config(threads=threads)
        async with aiowsgi.serve(app, "127.0.0.1", 0, config=config) as server:
            assert (await get(server.url)).text == told


@pytest.mark.parametrize(("kind", "told"), [("address", "False"), ("sock", "True"), ("fd", "True")])
async def test_sockets_that_another_process_may_have_are_told_to_the_application_and_kept(
    kind: str, told: str
) -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr(environ["wsgi.multiprocess"]).encode()]

    given: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
    if kind != "address":
        sock = socket.create_server(("127.0.0.1", 0))
        sock.set_inheritable(True)
        given = {"sock": sock}
    if kind == "fd":
        given = {"config": aiowsgi.Config(bind=(f"fd:{sock.detach()}",))}
    async with aiowsgi.serve(app, **given) as server:
        assert (await get(server.url)).text == told
        # No program that the application starts gets it in passing.
        assert not server.sockets[0].get_inheritable()


@pytest.mark.parametrize(
    ("option", "request_head", "status"),
    [
        ("limit_request_line", b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * 50), 414),
        ("limit_request_fields", b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % (b"A: b\r\n" * 50), 431),
        ("limit_request_field_size", b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % (b"h" * 50), 431),
        ("limit_request_head", b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % (b"A: b\r\n" * 9), 431),
        ("limit_request_body", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n", 413),
    ],
)
async def test_every_limit_is_held(option: str, request_head: bytes, status: int) -> None:
    config = aiowsgi.Config(**{option: 40})
    async with aiowsgi.serve(hello, "127.0.0.1", 0, config=config) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(request_head)
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_executor_that_cannot_run_anything_gives_a_503() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    executor = ThreadPoolExecutor(1, initializer=broken)
    async with (
        aiowsgi.serve(hello, "127.0.0.1", 0, executor=executor) as server,
        asyncio.timeout(PATIENCE),
    ):
        assert (await get(server.url)).status_code == 503
    executor.shutdown()


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, aiowsgi.ThreadPool])
async def test_request_that_the_executor_drops_gets_a_503_at_once(
    kind: Callable[[int], ThreadPoolExecutor | aiowsgi.ThreadPool],
) -> None:
    release = threading.Event()
    calls: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        calls.append(environ["PATH_INFO"])
        assert release.wait(PATIENCE)
        return hello(environ, start_response)

    executor = kind(1)
    config = aiowsgi.Config(queue_timeout=10 * PATIENCE)
    async with (
        aiowsgi.serve(app, "127.0.0.1", 0, config=config, executor=executor) as server,
        asyncio.timeout(PATIENCE),
    ):
        first = asyncio.create_task(get(f"{server.url}/first"))
        await eventually(lambda: calls)
        second = asyncio.create_task(get(f"{server.url}/second"))
        await eventually(lambda: server.inspect().queued == 1)
        executor.shutdown(wait=False, cancel_futures=True)
        assert (await second).status_code == 503
        assert server.inspect().queued == 0
        release.set()
        assert (await first).text == "hello"
    assert calls == ["/first"]


async def test_executor_of_other_processes_is_refused() -> None:
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(aiowsgi.ConfigError, match=r"a ProcessPoolExecutor .* other processes"),
    ):
        aiowsgi.serve(hello, "127.0.0.1", 0, executor=executor)


def test_what_is_no_executor_is_told_at_the_call() -> None:
    with pytest.raises(TypeError, match="not a concurrent"):
        aiowsgi.serve(hello, "127.0.0.1", 0, executor=5)  # type: ignore[arg-type]


async def test_address_and_socket_are_one_too_many() -> None:
    with socket.socket() as sock, pytest.raises(aiowsgi.ConfigError, match="or sock"):
        aiowsgi.serve(hello, "127.0.0.1", 0, sock=sock)


async def test_shutdown_waits_for_requests_in_the_executor_of_the_program() -> None:
    entered, closed = threading.Event(), threading.Event()

    class Result(list[bytes]):
        def close(self) -> None:
            entered.set()
            aiowsgi.run_coroutine(asyncio.sleep(0))
            closed.set()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return Result([b"hello"])

    with aiowsgi.ThreadPool(2) as pool:
        server = await aiowsgi.serve(app, "127.0.0.1", 0, executor=pool)
        # It stays connected: a client that has gone would cancel the coroutine.
        async with connect(server) as client:
            assert await client.get() == b"hello"
            server.close()
            await server.wait_closed()
        assert closed.is_set()


async def test_coroutine_behind_the_answer_is_cancelled_when_the_time_is_over() -> None:
    errors: list[BaseException] = []

    class Result(list[bytes]):
        def close(self) -> None:
            try:
                aiowsgi.run_coroutine(asyncio.Event().wait())
            except BaseException as error:
                errors.append(error)
                raise

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return Result([b"hello"])

    config = aiowsgi.Config(timeout_graceful=0.05)
    server = be_patient(await aiowsgi.serve(app, "127.0.0.1", 0, config=config))
    async with connect(server) as client:
        assert await client.get() == b"hello"
        server.close()
        await server.wait_closed()
    assert [type(error) for error in errors] == [aiowsgi.ServerStopped]


async def test_run_inside_a_loop_says_what_to_await() -> None:
    with pytest.raises(RuntimeError, match=r"await aiowsgi\.serve"):
        aiowsgi.run(hello)
