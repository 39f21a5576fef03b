"""A host that closes its event loop, and not the server: everything is cut, and nothing astray.

Each runs in a process of its own, whose descriptors are counted and used again.
"""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import pytest

from aiowsgi.server.loop_end import LoopEnd

# Fail-safe, in seconds.
TIMEOUT = 40

HOST = """
    import asyncio
    import json
    import os
    import socket
    import sys
    import threading

    import aiowsgi

    LOOP, ENDING, FOLDER = sys.argv[1:]
    TIMEOUT = 20
    called = threading.Semaphore(0)
    loop_is_closed = threading.Event()
    outcomes = {}
    ended = threading.Semaphore(0)

    def writes(environ, write):
        assert loop_is_closed.wait(TIMEOUT)
        write(b"secret")

    def writes_much(environ, write):
        assert loop_is_closed.wait(TIMEOUT)
        write(b"secret" * 100_000)

    def goes_on(environ, write):
        write(b"begun")
        writes(environ, write)

    def is_written_off(environ, write):
        # Its client takes nothing: it waits for the loop.
        while True:
            write(b"secret" * 10_000)

    def reads(environ, write):
        environ["wsgi.input"].read()

    def awaits(environ, write):
        aiowsgi.run_coroutine(asyncio.sleep(TIMEOUT))

    WORK = {work.__name__: work for work in
            (writes, writes_much, goes_on, is_written_off, reads, awaits)}

    def application(environ, start_response):
        name = environ["PATH_INFO"].strip("/")
        called.release()
        outcome = "went on"
        try:
            WORK[name](environ, start_response("200 OK", []))
        except aiowsgi.ServerStopped as error:
            outcome = f"stopped: {error}"
        except BaseException as error:
            outcome = repr(error)
        finally:
            outcomes[name] = outcome
            ended.release()
        return []

    def make_loop():
        if LOOP == "asyncio":
            return asyncio.new_event_loop()
        import uvloop
        return uvloop.new_event_loop()

    def connect(port, name):
        client = socket.socket()
        client.settimeout(TIMEOUT)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        # The end of what goes on to the end of its connection must not look like one.
        version = "1.0" if name == "goes_on" else "1.1"
        fields = "Content-Length: 9000000\\r\\n" if name == "reads" else ""
        client.sendall(f"POST /{name} HTTP/{version}\\r\\nHost: h\\r\\n{fields}\\r\\n".encode())
        if name == "reads":
            client.sendall(b"x" * 2_000_000)
        return client

    async def main():
        config = aiowsgi.Config(threads=len(WORK), response_buffer=1 << 16)
        server = await aiowsgi.serve(application, "127.0.0.1", 0, config=config)
        port = server.sockets[0].getsockname()[1]
        clients = {}
        for name in WORK:
            clients[name] = await asyncio.to_thread(connect, port, name)
            assert await asyncio.to_thread(called.acquire, timeout=TIMEOUT)
        idle = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port), TIMEOUT)
        clients["idle"] = idle
        # The one that begins has, and the one that waits does.
        data = b""
        while not data.endswith(b"begun"):
            data += await asyncio.to_thread(clients["goes_on"].recv, 1000)
        while not {"blocked"} <= {r.phase for r in server.inspect().requests if "off" in r.target}:
            await asyncio.sleep(0.01)
        return server, port, clients

    if ENDING == "runner":
        with asyncio.Runner(loop_factory=make_loop) as runner:
            server, port, clients = runner.run(main())
    else:
        loop = make_loop()
        asyncio.set_event_loop(loop)
        server, port, clients = loop.run_until_complete(main())
        loop.close()

    # Descriptors that were closed are used again.
    files = [open(os.path.join(FOLDER, str(number)), "wb") for number in range(40)]
    loop_is_closed.set()
    for _ in WORK:
        assert ended.acquire(timeout=TIMEOUT)

    ends = {}
    for name, client in clients.items():
        try:
            while data := client.recv(65536):
                pass
            ends[name] = "end"
        except ConnectionResetError:
            ends[name] = "reset"
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT)
    except ConnectionRefusedError:
        ends["another"] = "refused"
    # What is abandoned is no error, and waits for nobody.
    server.close()
    server.abort()
    for thread in threading.enumerate():
        if thread.name.startswith("aiowsgi"):
            thread.join(TIMEOUT)
    print(json.dumps({
        "outcomes": outcomes,
        "ends": ends,
        "astray": sum(os.path.getsize(file.name) for file in files),
        "serving": server.is_serving(),
        "threads": [thread.name for thread in threading.enumerate() if "aiowsgi" in thread.name],
    }))
"""

Ended = dict[str, Any]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=["runner", "close"])
def ended(
    loop: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Ended:
    """Return what such a host saw, and what is on its standard error."""
    folder = str(tmp_path_factory.mktemp("files"))
    host = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", dedent(HOST), loop, request.param, folder],
        capture_output=True,
        timeout=TIMEOUT,
        text=True,
    )
    assert host.returncode == 0, host.stderr
    found: Ended = json.loads(host.stdout)
    return found | {"said": host.stderr}


def test_no_response_goes_into_a_file_that_has_the_descriptor_now(ended: Ended) -> None:
    assert ended["astray"] == 0


def test_every_thread_is_told(ended: Ended) -> None:
    stopped = "stopped: the event loop was closed"
    outcomes = ended["outcomes"]
    # asyncio.Runner cancels it before it closes the loop.
    awaited = outcomes.pop("awaits")
    assert awaited == stopped or "Cancelled" in awaited
    assert set(outcomes.values()) == {stopped}, outcomes


def test_threads_end(ended: Ended) -> None:
    assert ended["threads"] == []


def test_clients_see_the_end_and_nobody_listens(ended: Ended) -> None:
    ends = ended["ends"]
    assert ends.pop("goes_on") == "reset"
    # Bytes of it were not read, so that the kernel may reset it.
    assert ends.pop("reads") in ("end", "reset")
    assert ends.pop("another") == "refused"
    assert set(ends.values()) == {"end"}, ends
    assert not ended["serving"]


def test_nothing_is_said_about_it(ended: Ended) -> None:
    # But for asyncio's word on a coroutine that its loop left in the midst of something.
    lines = [line for line in ended["said"].splitlines() if "task: <Task" not in line]
    assert not [line for line in lines if "aiowsgi" in line or "Traceback" in line], ended["said"]


# --- the watch -----------------------------------------------------------------------------------


def _make_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


Watch = Callable[[asyncio.AbstractEventLoop, Callable[[], None]], LoopEnd]


def test_end_is_known_once_and_before_any_descriptor_is_closed(loop: str) -> None:
    own = _make_loop(loop)
    ours, theirs = socket.socketpair()
    open_then: list[bool] = []
    with ours, theirs:
        ours.setblocking(False)
        own.add_reader(ours, lambda: None)
        end = LoopEnd(own, lambda: open_then.append(ours.fileno() >= 0))
        own.run_until_complete(asyncio.sleep(0))
        assert not open_then
        own.close()
        assert open_then == [True]
        end.cancel()
    assert open_then == [True]


def test_end_of_a_loop_that_is_watched_no_more_tells_nobody(loop: str) -> None:
    own = _make_loop(loop)
    told: list[str] = []
    end = LoopEnd(own, lambda: told.append("ended"))
    end.cancel()
    own.close()
    assert not told
