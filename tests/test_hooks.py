"""Hooks: when they are called, in which process, and what happens where one fails or hangs."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from served_process import PATIENCE, WAITING, ServedProcess, served

import aiowsgi
from aiowsgi.config import Config
from aiowsgi.errors import ConfigError, HookError
from aiowsgi.process import ending, import_path
from aiowsgi.process.hooks.hooks import Hooks

# Writes down what is called, in which process and in which order.
HOOKS = """
    import os

    def note(text):
        with open("calls.txt", "a") as file:
            file.write(f"{text} {os.getpid()}\\n")

    def start(): note("start")
    def second_start(): note("second start")
    def stop(): note("stop")
    def second_stop(): note("second stop")
    def worker_start(): note("worker start")
    def worker_stop(): note("worker stop")

    def fail():
        raise ValueError("no database")

    def leave():
        raise SystemExit(0)

    def wait_for_the_test():
        import app
        import sys
        print("waiting", os.getpid(), file=sys.stderr, flush=True)
        app.wait_for_the_test(int(os.environ["GATE"]))
        note("waited")

    def import_more():
        import more

    def handle_signals_in_a_loop():
        import asyncio
        import signal

        async def handle():
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                loop.add_signal_handler(number, print)

        asyncio.run(handle())

    def leave_a_thread():
        import threading
        threading.Thread(target=threading.Event().wait, name="left", daemon=True).start()

    def hang():
        import sys
        import threading
        print("hanging", file=sys.stderr, flush=True)
        threading.Event().wait()
"""
APPLICATION = f"""
import hooks
hooks.note("load")
{WAITING}
class Noted:
    def __iter__(self):
        yield b"hello"
    def close(self):
        hooks.note("answered")

def waiting(environ, start_response):
    application(environ, start_response)
    return Noted()
"""
COMMAND = (sys.executable, "-m", "aiowsgi", "app:waiting")
NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="it needs Linux")
ALL = (
    *("--on-start", "hooks:start", "--on-start", "hooks:second_start"),
    *("--on-stop", "hooks:stop", "--on-stop", "hooks:second_stop"),
    *("--on-worker-start", "hooks:worker_start", "--on-worker-stop", "hooks:worker_stop"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hooks.py").write_text(dedent(HOOKS))
    return tmp_path


def serve(folder: Path, *options: str, **more: Any) -> Any:
    return served(folder, APPLICATION, *options, command=more.pop("command", COMMAND), **more)


def calls(folder: Path, pid: int) -> list[str]:
    """Return what was called in a process, in this order. Nothing was called in another one."""
    lines = (folder / "calls.txt").read_text().splitlines()
    assert {line.rpartition(" ")[2] for line in lines} <= {str(pid)}
    return [line.rpartition(" ")[0] for line in lines]


def wait_in_a_request(server: ServedProcess) -> tuple[socket.socket, socket.socket]:
    """Send a request that waits; return its connection, and what lets it go on."""
    with socket.create_server(("127.0.0.1", 0)) as gate:
        gate.settimeout(PATIENCE)
        client = socket.create_connection(("127.0.0.1", server.port()), timeout=PATIENCE)
        client.sendall(f"GET /wait?{gate.getsockname()[1]} HTTP/1.0\r\n\r\n".encode())
        return client, gate.accept()[0]


@pytest.mark.parametrize(
    ("hook", "options"),
    [("--on-start", ("--workers", "1")), ("--on-start", ()), ("--on-worker-start", ())],
)
def test_signals_work_behind_a_hook_that_has_handled_them(
    folder: Path, hook: str, options: tuple[str, ...]
) -> None:
    with serve(folder, hook, "hooks:handle_signals_in_a_loop", *options) as server:
        server.port()
        if options:
            server.signal(signal.SIGHUP)
            server.said("Reloaded: 1 worker")
        server.signal(signal.SIGTERM)
        server.said("Stopping on SIGTERM")
        assert server.ended() == 0


def test_every_hook_is_called_once_and_in_order(folder: Path) -> None:
    with serve(folder, *ALL) as server:
        client, gate = wait_in_a_request(server)
        with client, gate:
            server.signal(signal.SIGTERM)
            server.said("Stopping on SIGTERM")
            gate.sendall(b"x")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert server.ended() == 0
    assert b"200 OK" in answer
    started = ["start", "second start", "load", "worker start"]
    assert calls(folder, server.pid) == [
        *(*started, "answered"),
        *("worker stop", "stop", "second stop"),
    ]


def test_a_process_without_hooks_calls_none(folder: Path) -> None:
    with serve(folder) as server:
        server.port()
        assert server.stop() == 0
    assert calls(folder, server.pid) == ["load"]


def test_blocking_form_calls_them_too(folder: Path) -> None:
    source = dedent("""
        import aiowsgi
        from app import waiting

        config = aiowsgi.Config(
            bind=("127.0.0.1:0",),
            on_start=("hooks:start",),
            on_stop=("hooks:stop",),
            on_worker_start=("hooks:worker_start",),
            on_worker_stop=("hooks:worker_stop",),
        )
        aiowsgi.run(waiting, config=config)
    """)
    command = (sys.executable, "-c", source)
    with serve(folder, command=command, bind=()) as server:
        server.port()
        assert server.stop() == 0
    assert calls(folder, server.pid) == ["load", "start", "worker start", "worker stop", "stop"]


# A hook that fails at the start.


@pytest.mark.parametrize(
    ("hook", "option", "called"),
    [
        ("--on-start", "--on-start", []),
        ("--on-worker-start", "--on-worker-start", ["start", "load", "stop"]),
    ],
)
def test_a_hook_that_fails_ends_the_start_with_its_own_traceback(
    folder: Path, hook: str, option: str, called: list[str]
) -> None:
    (folder / "calls.txt").touch()
    before = () if hook == "--on-start" else ("--on-start", "hooks:start")
    options = (*before, "--on-stop", "hooks:stop", "--on-worker-stop", "hooks:worker_stop")
    with serve(folder, *options, hook, "hooks:fail") as server:
        assert server.ended() == 3
    assert server.lines[0] == "Traceback (most recent call last):"
    assert server.lines[1].endswith(", in fail")
    assert server.lines[-2:] == [
        "ValueError: no database",
        f"aiowsgi: error: the hook 'hooks:fail' ({option}) failed",
    ]
    assert not [line for line in server.lines if "aiowsgi/process" in line]
    # What was not begun is not ended.
    assert calls(folder, server.pid) == called


def test_a_hook_that_leaves_ends_the_start(folder: Path) -> None:
    with serve(folder, "--on-start", "hooks:leave") as server:
        assert server.ended() == 3
    assert server.lines[-1].endswith(
        "the hook 'hooks:leave' (--on-start) ended the process (SystemExit: 0)"
    )


def test_a_module_of_a_hook_that_fails_ends_the_start(folder: Path) -> None:
    (folder / "broken.py").write_text("import no_such_library\n")
    with serve(folder, "--on-stop", "broken:stop") as server:
        assert server.ended() == 3
    assert server.lines[-2:] == [
        "ModuleNotFoundError: No module named 'no_such_library'",
        "aiowsgi: error: --on-stop: importing the module 'broken' failed",
    ]


def test_what_was_begun_is_ended_if_the_application_cannot_be_loaded(folder: Path) -> None:
    command = (sys.executable, "-m", "aiowsgi", "nothing:application")
    with serve(folder, *ALL, command=command) as server:
        assert server.ended() == 2
    assert "there is no module 'nothing'" in server.lines[-1]
    assert calls(folder, server.pid) == ["start", "second start", "stop", "second stop"]


def test_what_was_begun_is_ended_if_an_address_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = ("--bind", f"127.0.0.1:{taken.getsockname()[1]}")
        with serve(folder, *ALL, bind=bind) as server:
            assert server.ended() == 1
    assert "another program listens there" in server.lines[-1]
    ended = ["worker stop", "stop", "second stop"]
    assert calls(folder, server.pid)[-4:] == ["worker start", *ended]


# A hook that fails, or hangs, at the end.


def test_a_hook_that_fails_does_not_stop_the_stop(folder: Path) -> None:
    options = ("--on-stop", "hooks:fail", "--on-stop", "hooks:leave", "--on-stop", "hooks:stop")
    with serve(folder, *options, "--on-worker-stop", "hooks:fail") as server:
        server.port()
        assert server.stop() == 0
    assert calls(folder, server.pid) == ["load", "stop"]
    for number, (path, option) in enumerate(
        [("fail", "--on-worker-stop"), ("fail", "--on-stop"), ("leave", "--on-stop")]
    ):
        told = [line for line in server.lines if "Stopping goes on, although" in line]
        assert f"the hook 'hooks:{path}' ({option}) " in told[number]
    assert server.lines.count("ValueError: no database") == 2


def test_a_hook_that_hangs_at_the_end_has_a_second(folder: Path) -> None:
    options = ("--on-worker-stop", "hooks:hang", "--on-stop", "hooks:stop")
    with serve(folder, *options, "--timeout-graceful", "0") as server:
        server.port()
        assert server.stop() == 0
    text = "\n".join(server.lines)
    # Where it is, and not what led to it.
    assert "the thread MainThread of the application is still at work, at:\n  File " in text
    assert 'hooks.py", line ' in text.partition("still at work, at:\n")[2].partition("\n")[0]
    assert calls(folder, server.pid) == ["load"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGQUIT, 131)]
)
@pytest.mark.parametrize("when", ["start", "stop"])
def test_a_signal_ends_a_hook_that_hangs(
    folder: Path, when: str, number: signal.Signals, code: int
) -> None:
    with serve(folder, f"--on-{when}", "hooks:hang") as server:
        if when == "stop":
            server.port()
            server.signal(signal.SIGTERM)
        server.said("^hanging$")
        server.signal(number)
        assert server.ended() == code


def test_hooks_are_called_although_a_request_does_not_end(folder: Path) -> None:
    with serve(folder, *ALL, "--timeout-graceful", "0") as server:
        client, gate = wait_in_a_request(server)
        with client, gate:
            assert server.stop() == 0
    assert "The application does not return" in "\n".join(server.lines)
    assert calls(folder, server.pid)[-3:] == ["worker stop", "stop", "second stop"]


def test_hooks_are_called_when_the_server_stops_now(folder: Path) -> None:
    with serve(folder, *ALL) as server:
        server.port()
        server.signal(signal.SIGQUIT)
        assert server.ended() == 131
    assert calls(folder, server.pid)[-3:] == ["worker stop", "stop", "second stop"]


def test_a_thread_that_is_in_a_hook_is_told_beside_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = threading.main_thread()
    other = threading.Thread(target=lambda: None)
    monkeypatch.setattr(threading, "enumerate", lambda: [main, other])
    stacks = {main.ident: '  File "/app.py", line 1, in work\n'}
    monkeypatch.setattr(ending, "stacks_of", lambda idents: stacks)
    assert ending._blocking_threads() == [other]
    hook = f'  File "{ending._HOOKS}hook.py", line 1, in call\n    self.function()\n'
    stacks[main.ident] = hook
    assert ending._blocking_threads() == [other, main]
    # A function in C has no line of its own.
    assert ending._behind_hooks(hook) == hook


# In several processes.

WORKERS = ("--workers", "2")


def calls_by_process(folder: Path) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for line in (folder / "calls.txt").read_text().splitlines():
        text, _, pid = line.rpartition(" ")
        found.setdefault(int(pid), []).append(text)
    return found


@pytest.mark.parametrize("options", [(), pytest.param(("--preload",), marks=NEEDS_LINUX)])
def test_supervisor_and_workers_call_their_own_hooks(
    folder: Path, options: tuple[str, ...]
) -> None:
    with serve(folder, *ALL, *WORKERS, *options) as server:
        server.port()
        server.signal(signal.SIGHUP)
        server.said("Reloaded: 2 workers")
        assert server.stop() == 0
    found = calls_by_process(folder)
    # Once, although there were two generations of workers.
    assert found.pop(server.pid) == ["start", "second start", "stop", "second stop"]
    loaded = [] if options else ["load"]
    if options:
        molds = [pid for pid, noted in found.items() if noted == ["load"]]
        assert len(molds) == 2
        for pid in molds:
            del found[pid]
    assert list(found.values()) == [[*loaded, "worker start", "worker stop"]] * 4


@pytest.mark.parametrize(
    ("option", "called"),
    [("--on-start", []), ("--on-worker-start", ["start", "stop"])],
)
def test_a_hook_that_fails_ends_the_start_of_several_processes(
    folder: Path, option: str, called: list[str]
) -> None:
    (folder / "calls.txt").touch()
    before = () if option == "--on-start" else ("--on-start", "hooks:start")
    with serve(
        folder, *before, "--on-stop", "hooks:stop", option, "hooks:fail", *WORKERS
    ) as server:
        assert server.ended() == 3
    text = "\n".join(server.lines)
    assert text.count("ValueError: no database") == 1
    assert text.count(f"aiowsgi: error: the hook 'hooks:fail' ({option}) failed") == 1
    assert "aiowsgi/process" not in text
    assert calls_by_process(folder).get(server.pid, []) == called


def test_a_wrong_name_is_told_before_workers_are_started(folder: Path) -> None:
    with serve(folder, "--on-stop", "hooks:stopp", *WORKERS) as server:
        assert server.ended() == 2
    assert server.lines == [
        "aiowsgi: error: --on-stop: 'hooks' has no attribute 'stopp'; did you mean 'hooks:stop'?"
    ]


def test_a_hook_of_the_supervisor_that_hangs_at_the_end_has_a_second(folder: Path) -> None:
    options = ("--on-stop", "hooks:hang", "--timeout-graceful", "0")
    with serve(folder, *options, *WORKERS) as server:
        server.port()
        assert server.stop() == 0
    assert "the thread MainThread of the application is still at work" in "\n".join(server.lines)


@pytest.mark.parametrize("when", ["start", "stop"])
def test_a_signal_ends_a_hook_of_the_supervisor_that_hangs(folder: Path, when: str) -> None:
    with serve(folder, f"--on-{when}", "hooks:hang", *WORKERS) as server:
        if when == "stop":
            server.port()
            server.signal(signal.SIGTERM)
        server.said("^hanging$")
        server.signal(signal.SIGTERM)
        assert server.ended() == 143


def test_a_second_signal_does_not_end_the_last_hook_of_a_worker(folder: Path) -> None:
    # A service manager sends SIGTERM to all processes, and the supervisor sends it again.
    with socket.create_server(("127.0.0.1", 0)) as gate:
        gate.settimeout(PATIENCE)
        environment = {**os.environ, "GATE": str(gate.getsockname()[1])}
        options = ("--on-worker-stop", "hooks:wait_for_the_test", "--workers", "1")
        with serve(folder, *options, env=environment) as server:
            server.port()
            server.signal(signal.SIGTERM)
            worker = int(server.said(r"^waiting (\d+)$")[1])
            os.kill(worker, signal.SIGTERM)
            with gate.accept()[0] as opened:
                opened.sendall(b"x")
            assert server.ended() == 0
    assert calls_by_process(folder)[worker] == ["load", "waited"]


def test_a_supervisor_says_what_hooks_leave_behind(folder: Path) -> None:
    (folder / "more.py").touch()
    hooks = ("--on-start", "hooks.py:import_more", "--on-start", "hooks:leave_a_thread")
    with serve(folder, *hooks, "--workers", "1") as server:
        server.port()
        assert server.stop() == 0
    text = "\n".join(server.lines)
    assert "in the supervisor, and no reload loads these anew: more; keep such hooks in" in text
    assert "The hooks have left 1 thread in the supervisor (left)" in text


def test_a_supervisor_says_nothing_of_hooks_that_leave_nothing_behind(folder: Path) -> None:
    (folder / "other.py").write_text("def start(): ...\n")
    with serve(folder, "--on-start", "other:start", "--workers", "1") as server:
        server.port()
        assert server.stop() == 0
    assert not [line for line in server.lines if "The hooks have" in line]


def test_a_folder_is_added_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    before = import_path._outside_application[:]
    with import_path.FolderAdded(str(tmp_path)):
        assert sys.path == [str(tmp_path), "/elsewhere"]
        assert import_path._outside_application == ["/elsewhere"]
    assert sys.path == ["/elsewhere"]
    assert import_path._outside_application == before


# What is said of a name that is wrong.


@pytest.fixture
def module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the module ``some_hooks`` importable."""
    (folder / "some_hooks.py").write_text(
        dedent("""
            import functools

            calls = []
            def connect(): calls.append("connect")
            def leave(environ, start_response): ...
            def post_fork(server, worker): ...
            async def connect_later(): ...
            number = 7

            class site:
                @staticmethod
                def connect(name="default"): calls.append(name)

            method = calls.clear
            bound = functools.partial(leave, 1, 2)
        """)
    )
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("some_hooks", None)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing_here:connect", "there is no module 'nothing_here' in the current directory"),
        ("some_hook:connect", "there is no module 'some_hook'; did you mean 'some_hooks'?"),
        (
            "some_hooks:conect",
            "'some_hooks' has no attribute 'conect'; did you mean 'some_hooks:connect'?",
        ),
        ("some_hooks:xyz", "'some_hooks' has no attribute 'xyz'"),
        ("some_hooks", "'some_hooks' names no function in the module; write some_hooks:FUNCTION"),
        (":connect", "':connect' does not name a hook; write MODULE:CALLABLE, such as app:connect"),
        ("", "'' does not name a hook; write MODULE:CALLABLE, such as app:connect"),
        (
            "some_hooks:connect()",
            "'some_hooks:connect()' is called when its time has come; leave () out",
        ),
        ("some_hooks:number", "'some_hooks:number' is not a hook: int cannot be called"),
        (
            "some_hooks:leave",
            "'some_hooks:leave' is not a hook: it takes environ, start_response, and a hook is "
            "called without arguments",
        ),
        (
            "some_hooks:post_fork",
            "'some_hooks:post_fork' is not a hook: it takes server, worker, and a hook is called "
            "without arguments, unlike one of gunicorn",
        ),
        (
            "some_hooks:connect_later",
            "'some_hooks:connect_later' is not a hook: it is an async def, and there is no event "
            "loop where it is called; write def, and asyncio.run(...) in it",
        ),
    ],
)
def test_a_name_that_is_no_hook_is_explained(path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Hooks(Config(on_stop=(path,))).begin_process()
    assert not isinstance(caught.value, HookError)
    assert str(caught.value).removesuffix(" or installed") == f"on_stop: {message}"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    "path",
    ["some_hooks:site.connect", "some_hooks:method", "some_hooks:bound", "some_hooks.py:connect"],
)
def test_whatever_can_be_called_without_arguments_is_a_hook(path: str) -> None:
    with Hooks(Config(on_start=(path,), on_stop=(path,))) as hooks:
        hooks.begin_process()
        assert hooks.are_due
    assert not hooks.are_due


@pytest.mark.usefixtures("module")
def test_hooks_are_ended_once() -> None:
    path = "some_hooks:connect"
    hooks = Hooks(Config(on_stop=(path,), on_worker_stop=(path,)))
    hooks.begin_process()
    hooks.begin_worker()
    hooks.end()
    hooks.end()
    assert sys.modules["some_hooks"].calls == ["connect", "connect"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("app:start", r"on_start is a tuple of functions by name; write on_start=\('app:start',\)"),
        ((print,), r"on_start is a tuple of functions by name such as 'hooks:connect', not <built"),
        (None, r"on_start is a tuple of functions by name such as 'hooks:connect', not None"),
    ],
)
def test_hooks_are_given_by_their_names(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(on_start=value)


@pytest.mark.parametrize("name", ["on_start", "on_stop", "on_worker_start", "on_worker_stop"])
def test_a_server_in_another_program_has_no_hooks(name: str) -> None:
    config = Config(**{name: ("hooks:start",)})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"^{name} is an option of a process"):
        aiowsgi.serve(lambda environ, start_response: [], config=config)
