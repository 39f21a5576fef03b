"""An application that forks, in every way that applications do. For ``test_fork``.

It answers with the exit code of the child, or with its number. As a program it is a host that
embeds the server: ``python forking_app.py LOOP``.
"""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import aiowsgi

_processes = multiprocessing.get_context("fork")
_pool = aiowsgi.ThreadPool(2)
_process_pool: ProcessPoolExecutor | None = None
_servers: list[aiowsgi.Server] = []


def _wait_for_signal() -> None:
    while True:
        signal.pause()


def exit_code(pid: int) -> bytes:
    """Wait for a child; return its exit code, negative if it is that of a signal."""
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode()


# How a child may leave the application.


def exits(*_: object) -> Iterable[bytes]:
    sys.exit(7)


def exits_with_text(*_: object) -> Iterable[bytes]:
    sys.exit("what went wrong")


def exits_without_code(*_: object) -> Iterable[bytes]:
    sys.exit()


def raises(*_: object) -> Iterable[bytes]:
    raise ValueError("the child fails")


def interrupts(*_: object) -> Iterable[bytes]:
    raise KeyboardInterrupt


def answers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"child"]


def answers_badly(*_: object) -> Iterable[bytes]:
    return [b"child"]


def iterates(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])

    def body() -> Iterator[bytes]:
        os._exit(99)  # Not to be reached: nobody takes it.
        yield b"child"

    return body()


def writes(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "5")])(b"child")
    return []


def reads(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.input"].read()
    return []


def sends_a_file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    body: Iterable[bytes] = environ["wsgi.file_wrapper"](open(__file__, "rb"))  # noqa: SIM115
    return body


def asks_the_loop(*_: object) -> Iterable[bytes]:
    aiowsgi.run_coroutine(asyncio.sleep(0))
    return []


def asks_who_is_there(environ: WSGIEnvironment, *_: object) -> Iterable[bytes]:
    sys.exit(3 if environ["aiowsgi.disconnected"]() else 0)


def uses_the_pool(*_: object) -> Iterable[bytes]:
    _pool.shutdown()
    try:
        _pool.submit(print)
    except RuntimeError as error:
        sys.exit(4 if "forked child" in str(error) else 5)
    return []


def stops_the_server(*_: object) -> Iterable[bytes]:
    for server in _servers:
        server.close()
        server.abort()
        if server.is_serving() or server.sockets or server.inspect().requests:
            sys.exit(5)
        asyncio.run(server.wait_closed())
    sys.exit(6)


def serves(*_: object) -> Iterable[bytes]:
    """Run a server of its own, and ask it."""

    def ask(address: Any) -> bytes:
        with socket.create_connection(address, timeout=30) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while data := client.recv(1000):
                answer += data
        return answer

    async def main() -> bytes:
        async with aiowsgi.serve(answers, "127.0.0.1", 0) as server:
            return await asyncio.to_thread(ask, server.sockets[0].getsockname())

    sys.exit(8 if asyncio.run(main()).endswith(b"child") else 9)


CHILDREN: dict[str, Callable[..., Iterable[bytes]]] = {
    child.__name__: child
    for child in (
        exits,
        exits_with_text,
        exits_without_code,
        raises,
        interrupts,
        answers,
        answers_badly,
        iterates,
        writes,
        reads,
        sends_a_file,
        asks_the_loop,
        asks_who_is_there,
        uses_the_pool,
        stops_the_server,
        serves,
    )
}


# Where it forks.


def in_the_call(query: str, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    if pid := os.fork():
        return [exit_code(pid)]
    return CHILDREN[query](environ, start_response)


def reads_in_both(environ: WSGIEnvironment) -> list[bytes]:
    pid = os.fork()
    if not pid:
        environ["wsgi.input"].read()
        os._exit(99)
    return [exit_code(pid), b",%d" % len(environ["wsgi.input"].read())]


def in_the_body(query: str, *_: object) -> Iterator[bytes]:
    yield b"begun,"
    pid = os.fork()
    if not pid:
        if query == "ends":
            return
        if query == "goes on":
            yield b"child"
            os._exit(99)
        CHILDREN[query]()
    yield exit_code(pid)


class InClose:
    """Forks when it is closed, behind the response."""

    codes: list[bytes] = []  # noqa: RUF012 - one for all

    def __init__(self, query: str, *_: object) -> None:
        self._query = query

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"closing"])

    def close(self) -> None:
        pid = os.fork()
        if not pid:
            if self._query != "returns":
                CHILDREN[self._query]()
            return
        self.codes.append(exit_code(pid))


def on_the_loop(query: str, *_: object) -> list[bytes]:
    async def forks() -> bytes:
        pid = os.fork()
        if not pid:
            if query == "waits":
                await asyncio.sleep(0)
            elif query != "returns":
                CHILDREN[query]()
            return b"child"
        return exit_code(pid)

    return [aiowsgi.run_coroutine(forks())]


def on_a_pool_thread(query: str, *_: object) -> list[bytes]:
    def forks() -> bytes:
        pid = os.fork()
        if not pid:
            if query != "returns":
                CHILDREN[query]()
            return b"child"
        return exit_code(pid)

    future: Future[bytes] = _pool.submit(forks)
    return [future.result(30)]


def as_process(query: str, *_: object) -> list[bytes]:
    process = _processes.Process(target=_wait_for_signal, daemon=True)
    process.start()
    return [str(process.pid).encode()]


def terminates(query: str, *_: object) -> list[bytes]:
    for process in multiprocessing.active_children():
        if str(process.pid) == query:
            process.terminate()
            process.join(30)
            return [str(process.exitcode).encode()]
    return [b"gone"]


def in_a_process_pool(query: str, *_: object) -> list[bytes]:
    """Let another process compute something."""
    global _process_pool
    if _process_pool is None:
        _process_pool = ProcessPoolExecutor(2, mp_context=_processes)
    return [str(_process_pool.submit(pow, 2, int(query)).result(30)).encode()]


def behind_pythons_back(query: str, *_: object) -> list[bytes]:
    """Fork as a library may that is written in C. The child keeps what it has."""
    libc = ctypes.PyDLL(None)
    pid: int = libc.fork()
    if not pid:
        libc.pause()
        libc._exit(0)
    return [str(pid).encode()]


def another_program(query: str, *_: object) -> list[bytes]:
    """Answer what descriptors a program has that is started and keeps all it may."""
    ls = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE, check=True
    )
    return [ls.stdout]


def waits(query: str, *_: object) -> list[bytes]:
    """Answer when the test says so."""
    with socket.create_connection(("127.0.0.1", int(query)), timeout=30) as gate:
        gate.recv(1)
    return [b"waited"]


def breaks_off(query: str, *_: object) -> Iterator[bytes]:
    """Break off a response whose end is that of the connection, for HTTP/1.0."""
    yield b"begun"
    raise ValueError("as it should")


def endless(query: str, *_: object) -> Iterator[bytes]:
    while True:
        yield b"x" * (1 << 16)


PLACES: dict[str, Callable[..., Any]] = {
    place.__name__: place
    for place in (
        in_the_call,
        in_the_body,
        InClose,
        on_the_loop,
        on_a_pool_thread,
        as_process,
        terminates,
        in_a_process_pool,
        behind_pythons_back,
        another_program,
        waits,
        breaks_off,
        endless,
    )
}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path, query = environ["PATH_INFO"].strip("/"), environ["QUERY_STRING"].replace("+", " ")
    if path == "hello":
        body: Any = [b"hello"]
    elif path == "codes":
        body = list(InClose.codes)
    elif path == "in_the_call":
        # Calls start_response itself in the child.
        body = in_the_call(query, environ, start_response)
    elif path == "reads_in_both":
        body = reads_in_both(environ)
    else:
        body = PLACES[path](query)
    start_response("200 OK", [("Content-Type", "text/plain")])
    answer: Iterable[bytes] = body
    return answer


async def _host() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.set_inheritable(True)
    async with aiowsgi.serve(application, sock=sock) as server:
        _servers.append(server)
        print(f"Serving at {server.url} with", file=sys.stderr, flush=True)
        await stop.wait()
    print("stopped", threading.active_count(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    factory: Any = None
    if sys.argv[1] == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_host())
