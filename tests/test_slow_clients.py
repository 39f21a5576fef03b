"""Slow and hostile clients, in numbers, cost buffers and never threads: others are served.

Each crowd does to a server process what its test says. All the while a probe says hello, which is
answered at once; and when the crowd has left, nothing of it is left behind. Over TLS, too.
"""

import contextlib
import functools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from certificates import Certificates
from extent import exhaustive, representative
from slow_clients import (
    CUT,
    FILE_SIZE,
    FREED_WITHIN,
    KIB,
    LOOPS,
    MIB,
    TINY_BUFFER,
    Crowd,
    ServerProcess,
    get,
    is_readable,
    many_descriptors,
    post,
    read_response,
    under_attack,
)
from tls_nonsense import client_hello
from waiting import eventually

# An idle connection is closed to make room once it is a second old; the server looks for room every
# half second. The rest is for a busy machine.
ROOM_WITHIN = 10.0

Serve = Callable[..., ServerProcess]


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> Iterator[None]:
    with many_descriptors():
        yield


@pytest.fixture(scope="module", params=representative(LOOPS, LOOPS[-1]))
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def serve_tls(loop: str, certificates: Certificates) -> Serve:
    """Return what starts a server that speaks TLS, with some options."""
    context = certificates.client_context()
    # With TLS 1.3 the server has something to send before it is asked: tickets.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return functools.partial(ServerProcess, loop, certificate=certificates.site, context=context)


@pytest.fixture(scope="module", params=representative(["plain", "tls"], "plain"))
def serve(request: pytest.FixtureRequest, loop: str, serve_tls: Serve) -> Serve:
    """Return what starts a server with some options."""
    return serve_tls if request.param == "tls" else functools.partial(ServerProcess, loop)


@pytest.fixture(scope="module")
def server(serve: Serve) -> Iterator[ServerProcess]:
    """Return a server with the default options; the tests follow on one another."""
    with serve() as process:
        yield process


# --- clients that do not read --------------------------------------------------------------------


@exhaustive
def test_200_clients_that_never_read_a_finished_answer(server: ServerProcess) -> None:
    size, count = 512 * KIB, 200
    with (
        # Of a part of it the transport has a copy.
        under_attack(server, memory=count * 2 * size) as probe,
        Crowd(server, count, receive_buffer=TINY_BUFFER) as crowd,
    ):
        crowd.send(get(f"/bytes/{size}"))
        crowd.wait_for_bytes()
        probe.more(20)
        # It is all there for those who change their minds.
        assert crowd.responses(20) == {(200, b"x" * size): 20}


@exhaustive
def test_100_clients_that_never_read_a_file(server: ServerProcess) -> None:
    # Over TLS it is read and encrypted, a little at a time.
    memory = 16 * MIB if server.context is None else 100 * 512 * KIB
    with (
        under_attack(server, memory=memory) as probe,
        Crowd(server, 100, receive_buffer=TINY_BUFFER) as crowd,
    ):
        crowd.send(get("/file"))
        crowd.wait_for_bytes()
        probe.more(20)
        assert crowd.responses(1) == {(200, bytes(FILE_SIZE)): 1}


def test_100_clients_that_pipeline_requests_and_never_read(server: ServerProcess) -> None:
    """A mebibyte of requests each: those for small answers are some thousands."""
    answer = 256 * KIB
    large = get(f"/bytes/{answer}", "X: " + "x" * 4000)
    with (
        under_attack(server, memory=50 * 2 * answer + 100 * 256 * KIB) as probe,
        Crowd(server, 50, receive_buffer=TINY_BUFFER) as for_small,
        Crowd(server, 50, receive_buffer=TINY_BUFFER) as for_large,
    ):
        for_small.send(get("/hello") * (MIB // len(get("/hello"))))
        for_large.send(large * (MIB // len(large)))
        for_small.wait_for_bytes()
        for_large.wait_for_bytes()
        probe.more(20)


def test_60_clients_that_never_read_a_stream(server: ServerProcess) -> None:
    """As many as there are spare threads, or less: nobody is cut, and nobody refused."""
    with (
        under_attack(server, spare=64, memory=60 * 3 * MIB) as probe,
        Crowd(server, 60, receive_buffer=TINY_BUFFER) as crowd,
    ):
        crowd.send(get("/stream/0"))
        crowd.wait_for_bytes()
        probe.more(20)


def test_40_clients_that_never_read_a_stream_and_16_spare_threads(
    serve: Serve,
) -> None:
    """More than there are threads of any kind: some are cut, in favour of those that wait."""
    with (
        serve("--spare-threads", "16") as server,
        under_attack(server, spare=16, memory=100 * MIB, slowest=FREED_WITHIN, says=CUT) as probe,
        Crowd(server, 20, receive_buffer=TINY_BUFFER) as endless,
        Crowd(server, 20, receive_buffer=TINY_BUFFER) as large,
    ):
        endless.send(get("/stream/0"))
        large.send(get(f"/stream/{50 * MIB}"))
        endless.wait_for_bytes()
        large.wait_for_bytes()
        probe.more(40)


@exhaustive
def test_100_clients_that_never_read_a_stream(server: ServerProcess) -> None:
    with (
        under_attack(
            server, spare=64, memory=100 * 3 * MIB, slowest=FREED_WITHIN, says=CUT
        ) as probe,
        Crowd(server, 100, receive_buffer=TINY_BUFFER) as crowd,
    ):
        crowd.send(get("/stream/0"))
        crowd.wait_for_bytes()
        probe.more(40)


# --- clients that do not send --------------------------------------------------------------------


@exhaustive
def test_500_clients_slow_in_the_head_and_500_in_the_body(server: ServerProcess) -> None:
    with under_attack(server) as probe, Crowd(server, 500) as heads, Crowd(server, 500) as bodies:
        heads.send(b"GET /hello HTTP/1.1\r\nHost: test\r\nX: ")
        bodies.send(post(100))
        for _ in range(5):
            heads.send(b"x")
            bodies.send(b"x")
            probe.more(4)
        # Slow is not wrong: they are served in the end.
        assert heads.ask(b"\r\n\r\n") == {(200, b"hello"): 500}
        assert bodies.ask(b"x" * 95) == {(200, b"100"): 500}


def test_50_clients_that_upload_at_a_trickle(server: ServerProcess) -> None:
    """The application has begun to read: each has a thread, and it is a spare one."""
    with (
        under_attack(server, spare=50, memory=150 * MIB) as probe,
        Crowd(server, 50) as crowd,
    ):
        crowd.send(post(5 * MIB) + b"x" * MIB)
        for _ in range(5):
            crowd.send(b"x" * 100)
            probe.more(4)
        assert crowd.ask(b"x" * (4 * MIB - 500)) == {(200, b"%d" % (5 * MIB)): 50}


def test_100_clients_that_send_nothing_behind_the_100_that_they_asked_for(
    server: ServerProcess,
) -> None:
    with (
        under_attack(server, spare=64, slowest=FREED_WITHIN, says=CUT) as probe,
        Crowd(server, 100) as crowd,
    ):
        crowd.send(post(2 * MIB, "Expect: 100-continue"))
        crowd.wait_for_bytes()
        probe.more(40)


def test_20_clients_that_drip_a_byte_before_anybody_takes_them_for_slow(
    server: ServerProcess,
) -> None:
    """Each byte ends a wait of the application's, and the next wait begins at once.

    They are fewer than there are spare threads.
    """
    stop = threading.Event()

    def drip(crowd: Crowd) -> None:
        while not stop.wait(0.03):
            crowd.send(b"x")

    with (
        under_attack(server, spare=20) as probe,
        Crowd(server, 20) as crowd,
        ThreadPoolExecutor(1) as threads,
    ):
        crowd.send(post(2 * MIB, "Expect: 100-continue"))
        crowd.wait_for_bytes()
        dripping = threads.submit(drip, crowd)
        try:
            probe.more(20)
        finally:
            stop.set()
        dripping.result()


# --- clients that do nothing ---------------------------------------------------------------------


@exhaustive
def test_2000_idle_connections(serve: Serve) -> None:
    with (
        # A busy machine needs some seconds for so many handshakes before the first one is asked.
        serve("--timeout-header", "10m") as server,
        under_attack(server) as probe,
        Crowd(server, 2000) as crowd,
    ):
        assert crowd.ask(get("/hello")) == {(200, b"hello"): 2000}
        probe.more(20)
        assert not any(crowd.closed())


def test_idle_connections_make_room_at_the_limit(serve: Serve) -> None:
    with (
        serve("--max-connections", "200") as server,
        under_attack(server, slowest=ROOM_WITHIN) as probe,
        Crowd(server, 190) as idle,
    ):
        assert idle.ask(get("/hello")) == {(200, b"hello"): 190}
        probe.more(20)
        with Crowd(server, 50) as newcomers:
            assert newcomers.ask(get("/hello")) == {(200, b"hello"): 50}
            probe.more(20)
            assert not any(newcomers.closed())
        # Those that were idle for the longest time had to go, and no more than a few too many.
        closed = idle.closed()
        assert closed == sorted(closed, reverse=True)
        assert 40 <= sum(closed) < 80


@exhaustive
def test_readers_that_take_some_20_kb_a_second_do_not_keep_every_connection() -> None:
    stop = threading.Event()

    def read_slowly(readers: Crowd) -> None:
        while not stop.wait(0.05):
            for sock in readers.sockets:
                if is_readable(sock):
                    with contextlib.suppress(ConnectionError):  # It was cut.
                        sock.recv(1000)

    with (
        ServerProcess(LOOPS[0], "--max-connections", "10") as server,
        Crowd(server, 10, receive_buffer=TINY_BUFFER) as readers,
    ):
        readers.send(get("/stream/0"))
        readers.wait_for_bytes()
        thread = threading.Thread(target=read_slowly, args=(readers,))
        thread.start()
        try:
            with Crowd(server, 3) as newcomers:
                assert newcomers.ask(get("/hello")) == {(200, b"hello"): 3}
        finally:
            stop.set()
            thread.join()


# --- clients that do not shake hands -------------------------------------------------------------


@exhaustive
def test_300_clients_that_send_half_a_handshake(serve_tls: Serve) -> None:
    """They cost no thread, and end when their time is over."""
    with (
        serve_tls("--timeout-handshake", "3") as server,
        under_attack(server) as probe,
        Crowd(server, 300, plain=True) as crowd,
    ):
        crowd.send(client_hello()[:200])
        probe.more(20)
        eventually(lambda: all(crowd.closed()), lambda: f"{crowd.closed().count(False)} are left")


@exhaustive
def test_half_handshakes_are_the_first_to_go_where_connections_run_short(serve_tls: Serve) -> None:
    """They go before connections that have been idle for longer, but have made a request."""
    with (
        serve_tls("--max-connections", "200", "--timeout-handshake", "600") as server,
        under_attack(server, slowest=ROOM_WITHIN) as probe,
        Crowd(server, 90) as idle,
    ):
        assert idle.ask(get("/hello")) == {(200, b"hello"): 90}
        with Crowd(server, 100, plain=True) as halves:
            halves.send(client_hello()[:200])
            # Nobody has to go before the first second is over.
            begin = time.monotonic()
            while time.monotonic() < begin + 1.5:
                probe.more(1)
            with Crowd(server, 50) as newcomers:
                assert newcomers.ask(get("/hello")) == {(200, b"hello"): 50}
                probe.more(20)
            assert 40 <= sum(halves.closed()) < 80
            assert not any(idle.closed())


# --- limits --------------------------------------------------------------------------------------


@exhaustive
def test_memory_is_bounded_while_400_clients_never_read(
    serve: Serve,
) -> None:
    """Without the limit they would have 400 MiB. Beyond it, threads wait with what they have."""
    spare = 64
    with (
        serve("--max-buffered", "64M") as server,
        under_attack(
            server,
            spare=spare,
            # Twice, because an allocator keeps some of what was given back to it.
            memory=2 * (64 + 8 + spare) * MIB,
            slowest=FREED_WITHIN,
            says=CUT,
        ) as probe,
        Crowd(server, 400, receive_buffer=TINY_BUFFER) as crowd,
    ):
        crowd.send(get(f"/bytes/{MIB}"))
        crowd.wait_for_bytes()
        probe.more(40)


def _trickle(sock: socket.socket, head: bytes, body: Iterable[bytes]) -> tuple[int, float]:
    """Send a piece of a body every tenth of a second until there is an answer.

    Return how many bytes and how many seconds that took.
    """
    sock.sendall(head)
    begin = time.monotonic()
    sent = 0
    for number, piece in enumerate(body, 1):
        sock.sendall(piece)
        sent += len(piece)
        if is_readable(sock, max(begin + number / 10 - time.monotonic(), 0)):
            break
    return sent, time.monotonic() - begin


def test_body_needs_a_rate_and_not_an_end_within_the_timeout(
    serve: Serve,
) -> None:
    timeout, rate = 1.0, 500
    options = ["--timeout-body", f"{timeout}", "--min-body-rate", f"{rate}"]
    with (
        serve(*options, "--body-prefetch", "200") as server,
        Crowd(server, 3) as crowd,
        ThreadPoolExecutor(3) as threads,
    ):
        too_slow = [b"x" * 10] * 100
        *slow, good = threads.map(
            _trickle,
            crowd.sockets,
            [post(199), post(1000), post(20_000)],
            [too_slow, [b"x" * 200, *too_slow], [b"x" * 1000] * 20],
        )
        prefetched, streamed, accepted = map(read_response, crowd.sockets)
        assert prefetched[0] == streamed[0] == 408
        # The time of a streamed body begins anew behind what a thread was not taken without.
        for (sent, seconds), before in zip(slow, [0, 200], strict=True):
            allowed = timeout + (sent - before) / rate
            assert allowed - 0.1 < seconds < allowed + 1.0
        assert accepted == (200, b"20000")
        assert good[1] > 1.5 * timeout
