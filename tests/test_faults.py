"""Every state of a connection, and everything that can go wrong in it, over real sockets.

``STATES`` brings a connection to a real server process into each state; ``FAULTS`` does something
bad to it; ``EXPECTED`` says what comes of it. A cell is a script, played word by word:

    gone      the server lets go of the connection
    idle      the application has returned from the request
    read      the server has read what was sent
    quiet     for longer than any timeout the server says nothing and does nothing
    resume    the client sends what is missing, if it can, and the application goes on
    200       a whole response with that status arrives
    open      the connection serves another request
    close     it ends between two responses; "cut" within one; "reset" with RST

Whatever the cell says, afterwards the server greets a new client, no request is in progress, its
threads and descriptors are what they were, and its log has no complaint.
"""

import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest
from extent import representative
from fault_harness import GRACEFUL, THREADS, Scene, Server
from waiting import eventually

# The timeouts of an impatient server, in seconds: longer than a busy machine keeps a test waiting.
SHORT = 0.75
# What a server buffers of a request body before the application is called.
PREFETCH = 1 << 20
# A client with this buffer is full soon.
NARROW = 1 << 14


def chunk(size: int) -> bytes:
    """Return a chunk of a body."""
    return b"%x\r\n%b\r\n" % (size, bytes(size))


def get(path: str, name: str) -> bytes:
    """Return a request without a body."""
    return f"GET {path}?{name} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def post(path: str, name: str) -> bytes:
    """Return the head of a request with a chunked body."""
    return b"POST" + get(path, name)[3:-2] + b"Transfer-Encoding: chunked\r\n\r\n"


# How a client gets into each state.


def silent(scene: Scene) -> None:
    scene.connect()
    scene.until_read()


def in_request_line(scene: Scene) -> None:
    scene.connect()
    whole = get("/hello", scene.name)
    scene.client.send(whole[:8])
    scene.rest = whole[8:]
    scene.until_read()


def in_header(scene: Scene) -> None:
    scene.connect()
    scene.client.send(get("/hello", scene.name)[:-2] + b"X-Half: va")
    scene.rest = b"lue\r\n\r\n"
    scene.until_read()


def before_body(scene: Scene) -> None:
    scene.connect()
    scene.client.send(post("/read", scene.name))
    scene.rest = chunk(5) + chunk(0)
    scene.until_read()


def in_body(scene: Scene) -> None:
    scene.connect()
    scene.client.send(post("/read", scene.name) + chunk(5))
    scene.rest = chunk(0)
    scene.until_read()
    assert not scene.server.calls(scene.name).called


def in_streamed_body(scene: Scene) -> None:
    scene.connect()
    scene.client.send(post("/read", scene.name) + chunk(PREFETCH + NARROW))
    scene.rest = chunk(0)
    scene.until_called()
    scene.until_read()


def in_unread_body(scene: Scene) -> None:
    scene.connect()
    scene.client.send(post("/read-late", scene.name) + chunk(PREFETCH))
    scene.until_called()
    scene.until_read()
    # The server's buffer is full: this stays in the kernel.
    scene.client.send(chunk(NARROW))
    scene.rest = chunk(0)
    scene.until(scene.client.is_delivered, "the kernel has the rest")
    queues = scene.server.queues(scene.client)
    assert queues is not None
    assert queues.unread > NARROW


def expecting_continue(scene: Scene) -> None:
    scene.connect()
    head = post("/read", scene.name)
    scene.client.send(head[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert scene.client.receive() == 100
    scene.rest = chunk(5) + chunk(0)


def queued(scene: Scene) -> None:
    scene.connect()
    for _ in range(THREADS):
        scene.add("/wait")
    scene.client.send(get("/hello", scene.name))
    scene.waiting = [scene.name]
    scene.until_read()


def running(scene: Scene) -> None:
    scene.connect()
    scene.client.send(get("/wait", scene.name))
    scene.until_called()


def in_coroutine(scene: Scene) -> None:
    scene.connect()
    scene.client.send(get("/coroutine", scene.name))
    scene.until_called()


def responding(scene: Scene) -> None:
    scene.connect()
    scene.client.send(get("/chunks", scene.name))
    scene.until(lambda: any(scene.client.heard()), "the response begins")


def fill(scene: Scene, path: str) -> None:
    """Make a request and read nothing of the response, which is larger than any buffer."""

    def look() -> tuple[object, ...]:
        server, client = scene.server, scene.client
        return server.queues(client), client.heard(), server.calls(scene.name)

    def is_stuck() -> bool:
        before = look()
        # Between the two looks the loop has its turn: it serves another client.
        return scene.client.heard() > (0, False) and scene.server.greets() and look() == before

    scene.connect(receive_buffer=NARROW)
    scene.client.send(get(path, scene.name))
    scene.until(is_stuck, "no byte moves any more")


def blocked(scene: Scene) -> None:
    fill(scene, "/large")


def endless(scene: Scene) -> None:
    fill(scene, "/endless")


def until_ended(scene: Scene) -> None:
    """Wait until the call is over: its thread may have handed all over and not come back yet."""
    scene.until(lambda: not scene.server.calls(scene.name).active, "the application has ended")


def flushing(scene: Scene) -> None:
    fill(scene, "/half-mebibyte")
    until_ended(scene)


def sending_file(scene: Scene) -> None:
    fill(scene, "/file")
    until_ended(scene)


def draining(scene: Scene) -> None:
    scene.connect()
    scene.client.send(post("/ignore", scene.name) + chunk(PREFETCH))
    assert scene.client.receive() == 200


def lingering(scene: Scene) -> None:
    scene.connect()
    scene.client.send(b"NONSENSE\r\n\r\n")
    assert scene.client.receive() == 400
    assert scene.client.end() == "close"


def keep_alive(scene: Scene) -> None:
    scene.connect()
    scene.client.send(get("/hello", scene.name))
    assert scene.client.receive() == 200


def pipelined(scene: Scene) -> None:
    scene.connect()
    second = f"{scene.name}-second"
    scene.client.send(get("/wait", scene.name) + get("/hello", second))
    scene.waiting = [second]
    scene.until_called()
    scene.until_read()


# What is garbage everywhere, and what is too large, in place of what is due.
GARBAGE = random.Random(5).randbytes(256)
LINE = FIELD = b"a" * 9000
CHUNK = b"fffffff\r\n"
BODY = get("/read", "too-large")[:-2] + b"Content-Length: 999999999\r\n\r\n"
FLOOD = bytes(1 << 20)

STATES: dict[str, tuple[Callable[[Scene], None], bytes]] = {
    "silent": (silent, LINE),
    "request-line": (in_request_line, LINE),
    "header": (in_header, FIELD),
    "before-body": (before_body, CHUNK),
    "body": (in_body, CHUNK),
    "streamed-body": (in_streamed_body, CHUNK),
    "unread-body": (in_unread_body, CHUNK),
    "expecting": (expecting_continue, CHUNK),
    "queued": (queued, LINE),
    "running": (running, LINE),
    "coroutine": (in_coroutine, LINE),
    "responding": (responding, LINE),
    "blocked": (blocked, LINE),
    "flushing": (flushing, LINE),
    "file": (sending_file, LINE),
    "draining": (draining, CHUNK),
    "lingering": (lingering, FLOOD),
    "keep-alive": (keep_alive, BODY),
    "pipelined": (pipelined, LINE),
}


# What may happen then, in place of what the client has still to send.
FAULTS: dict[str, Callable[[Scene, bytes], None]] = {
    "disconnect": lambda scene, _: scene.client.close(),
    "reset": lambda scene, _: scene.client.reset(),
    "half-close": lambda scene, _: scene.client.half_close(),
    "stall": lambda scene, _: None,
    "garbage": lambda scene, _: scene.client.send(GARBAGE),
    "oversized": lambda scene, too_large: scene.client.send(too_large),
}

_EXPECTED = (
    """
              | disconnect  | reset       | half-close             | stall
silent        | gone        | gone        | close                  | close
request-line  | gone        | gone        | 400 close              | 408 close
header        | gone        | gone        | 400 close              | 408 close
before-body   | gone        | gone        | 400 close              | 408 close
body          | gone        | gone        | 400 close              | 408 close
streamed-body | gone idle   | gone idle   | 400 close              | 408 close
unread-body   | resume gone | resume gone | resume 400 close       | quiet resume 200 open
expecting     | gone idle   | gone idle   | 400 close              | 408 close
queued        | resume gone | gone        | resume 200 close       | 503 close
running       | resume gone | gone        | quiet resume 200 close | quiet resume 200 open
coroutine     | gone idle   | gone idle   | 500 close              | quiet resume 200 open
responding    | resume gone | gone        | quiet resume 200 close | quiet resume 200 open
blocked       | gone idle   | gone idle   | 200 close              | gone idle reset
flushing      | gone        | gone        | 200 close              | gone reset
file          | gone        | gone        | 200 close              | gone reset
draining      | gone        | gone        | close                  | close
lingering     | gone        | gone        | gone                   | gone
keep-alive    | gone        | gone        | close                  | close
pipelined     | resume gone | gone        | resume 200 200 close   | quiet resume 200 200 open
""",
    """
              | garbage                  | oversized                | sigterm
silent        | 400 close                | 414 close                | close
request-line  | 400 close                | 414 close                | resume 200 close
header        | 400 close                | 431 close                | resume 200 close
before-body   | 400 close                | 413 close                | resume 200 close
body          | 400 close                | 413 close                | resume 200 close
streamed-body | 400 close                | 413 close                | resume 200 close
unread-body   | resume 400 close         | resume 413 close         | resume 200 close
expecting     | 400 close                | 413 close                | resume 200 close
queued        | resume 200 400 close     | resume 200 414 close     | resume 200 close
running       | resume 200 400 close     | resume 200 414 close     | resume 200 close
coroutine     | resume 200 400 close     | resume 200 414 close     | resume 200 close
responding    | resume 200 400 close     | resume 200 414 close     | resume 200 close
blocked       | 200 400 close            | 200 414 close            | 200 close
flushing      | 200 400 close            | 200 414 close            | 200 close
file          | 200 400 close            | 200 414 close            | 200 close
draining      | close                    | close                    | close
lingering     | read                     | read                     | read
keep-alive    | 400 close                | 413 close                | close
pipelined     | resume 200 200 400 close | resume 200 200 414 close | resume 200 200 close
""",
)


def cells(tables: tuple[str, ...]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ``(state, fault), script`` for every cell."""
    for table in tables:
        lines = table.strip("\n").split("\n")
        (_, *faults), *rows = ([cell.strip() for cell in line.split("|")] for line in lines)
        for state, *scripts in rows:
            for fault, script in zip(faults, scripts, strict=True):
                yield (state, fault), script


EXPECTED = dict(cells(_EXPECTED))


def play(scene: Scene, script: str) -> None:
    """See that what follows is what the script says."""
    server, client = scene.server, scene.client
    for word in script.split():
        match word:
            case "gone":
                eventually(lambda: not server.holds(client), "the connection is let go of")
            case "idle":
                eventually(lambda: not server.calls(scene.name).active, "the call has ended")
            case "read":
                eventually(lambda: server.has_read_all(client), "all is read")
            case "quiet":
                scene.let_time_pass()
            case "resume":
                scene.resume()
            case "open":
                client.send(get("/hello", scene.name))
                assert client.receive() == 200
            case _:
                assert client.end() == word


class House:
    """The processes of one event loop: two that clients cannot end, and two more to be stopped."""

    def __init__(self, start: Callable[..., Server]) -> None:
        self._start = start
        self._patient = start()
        self._impatient = start(impatient=SHORT)
        self._spares = deque([start(), start()])

    def server(self, script: str = "", fault: str = "") -> Server:
        """Return the server for a script behind a fault."""
        by_time = fault == "stall" or "quiet" in script
        return (self._impatient if by_time else self._patient).ready()

    def spare(self) -> Server:
        """Return a server that may be stopped. Another one starts meanwhile."""
        self._spares.append(self._start())
        return self._spares.popleft().ready()


@pytest.fixture(scope="module", params=representative(["asyncio", "uvloop"], "uvloop"))
def start(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """Return ``start(**options)``, which starts a process. Each ends with the last test."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            Server(tmp_path_factory.mktemp("server"), request.param, **options)
        )


@pytest.fixture(scope="module")
def house(start: Callable[..., Server]) -> House:
    """Return the servers that tests share."""
    return House(start)


def see_at_rest(server: Server) -> None:
    """See that nothing is left of all that happened to a server."""
    # Not only once: to an impatient server, a client on a busy machine may look slow.
    eventually(server.greets, "the server greets a new client")
    eventually(server.is_at_rest, "the server is at rest")


@pytest.mark.parametrize("fault", representative(FAULTS, "reset", "stall", "garbage"))
@pytest.mark.parametrize("state", STATES)
def test_server_goes_on(house: House, state: str, fault: str) -> None:
    script = EXPECTED[state, fault]
    server = house.server(script, fault)
    complaints = server.complaints()
    enter, too_large = STATES[state]
    with Scene(server) as scene:
        enter(scene)
        FAULTS[fault](scene, too_large)
        if fault != "stall":
            scene.rest = b""
        play(scene, script)
    see_at_rest(server)
    if fault == "reset":
        # What waited for its turn knew that nobody waits for it.
        assert not any(server.calls(name).called for name in scene.waiting)
    assert server.complaints() == complaints, server.log()


# Those in which most is held for a client: buffers, a place in the queue, a thread, a file.
@pytest.mark.parametrize("fault", ["disconnect", "reset"])
@pytest.mark.parametrize("state", ["streamed-body", "queued", "coroutine", "endless", "file"])
def test_clients_that_leave_leave_nothing_behind(house: House, state: str, fault: str) -> None:
    server = house.server()
    enter = endless if state == "endless" else STATES[state][0]

    def repeat(times: int) -> None:
        for _ in range(times):
            with Scene(server) as scene:
                enter(scene)
                FAULTS[fault](scene, b"")
        see_at_rest(server)

    repeat(10)
    resident, objects = server.resident(), server.objects()
    repeat(40)
    eventually(lambda: server.objects() <= objects, "no object of the server is left")
    assert server.resident() - resident < 40 * PREFETCH / 4


@pytest.mark.parametrize("fault", ["disconnect", "reset"])
def test_client_leaves_unseen_while_its_answer_is_ready(house: House, fault: str) -> None:
    server = house.server()
    complaints = server.complaints()
    with Scene(server) as scene:
        scene.connect()
        # The application does not want the body, so that the server closes behind its answer.
        scene.client.send(post("/wait", scene.name)[:-2] + b"Expect: 100-continue\r\n\r\n")
        scene.until_called()
        name = scene.add("/seize")
        eventually(lambda: server.calls(name).blocks, "the loop does nothing else")
        FAULTS[fault](scene, b"")
        server.open_gate(scene.name)
        eventually(lambda: not server.calls(scene.name).active, "the call has ended")
    see_at_rest(server)
    assert server.complaints() == complaints, server.log()


def test_failure_in_mid_response_ends_it_short(house: House) -> None:
    server = house.server()
    complaints = server.complaints()
    with Scene(server) as scene:
        scene.connect()
        scene.client.send(get("/failing", scene.name))
        assert scene.client.end() == "cut"
    see_at_rest(server)
    # The server writes its log on a thread of its own.
    eventually(lambda: len(server.complaints()) >= len(complaints) + 2, "it is in the log")
    error, traceback = server.complaints()[len(complaints) :]
    assert " ERROR " in error
    assert traceback.startswith("Traceback")


@pytest.mark.parametrize("state", STATES)
def test_server_stops(house: House, state: str) -> None:
    server = house.spare()
    enter, _ = STATES[state]
    with Scene(server) as scene:
        enter(scene)
        begun = time.monotonic()
        server.begin_to_stop()
        eventually(lambda: server.has_ended() or server.refuses(), "nobody can connect any more")
        play(scene, EXPECTED[state, "sigterm"])
    assert server.wait_ended() == 0
    assert time.monotonic() - begun < GRACEFUL
    assert not server.complaints(), server.log()


def test_server_cuts_those_who_outstay_the_graceful_time(start: Callable[..., Server]) -> None:
    server = start(graceful=SHORT).ready()
    scenes = [Scene(server) for _ in range(5)]
    with contextlib.ExitStack() as stack:
        # The last two occupy the threads.
        enters = (in_header, in_body, flushing, endless, in_streamed_body)
        for scene, enter in zip(scenes, enters, strict=True):
            enter(stack.enter_context(scene))
        server.begin_to_stop()
        assert server.wait_ended() == 0
        # No answer that could be taken for a whole one.
        assert all(scene.client.end() in ("close", "cut", "reset") for scene in scenes)
    (warning,) = server.complaints()
    assert "Cutting the connections that did not end in time: 5" in warning
