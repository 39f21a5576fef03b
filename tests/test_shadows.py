"""Files of an application that have the names of modules of the standard library."""

import functools
import keyword
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
from extent import representative
from served_process import PATIENCE, ServedProcess, served

from aiowsgi import cli
from aiowsgi.process import import_path

SCRIPT = shutil.which("aiowsgi", path=os.path.dirname(sys.executable)) or "aiowsgi"
COMMANDS = {"module": (sys.executable, "-m", "aiowsgi"), "script": (SCRIPT,)}

# Imports nothing that is not there already.
APPLICATION = """
    import sys

    import aiowsgi

    async def answer():
        return b"answer"

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/a b":
            print("error", file=environ["wsgi.errors"])
        if path == "/error":
            return (1 / 0 if path else
                    path)
        if path == "/wrong":
            return "text"
        environ["wsgi.input"].read()
        body = aiowsgi.run_coroutine(answer())
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
        return [body]
"""

REQUESTS = [
    (b"GET /a%20b HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 200),
    (b"GET http://[::1]/ HTTP/1.1\r\nHost: [::1]\r\n\r\n", 200),
    (b"GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 200),
    (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", 100),
    (b"GET /error HTTP/1.1\r\nHost: h\r\nReferer: \xe9\r\n\r\n", 500),
    (b"GET /wrong HTTP/1.1\r\nHost: h\r\n\r\n", 500),
]


def decoys(folder: Path, *, but: set[str]) -> Path:
    """Make a file for each module of the standard library that says when it is imported."""
    said = folder / "imported.txt"
    said.touch()
    for name in sys.stdlib_module_names - but:
        (folder / f"{name}.py").write_text(
            f"open({str(said)!r}, 'a').write({name!r} + chr(10))\nraise ImportError('decoy')\n"
        )
    return said


@functools.cache
def loaded_by_python() -> set[str]:
    """Return the modules that Python itself loads before it comes to a package."""
    code = "import runpy, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def go_through_everything(process: ServedProcess) -> None:
    port = process.port()
    for request, status in REQUESTS:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            client.sendall(request)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 %d " % status), request
    for name in ("SIGURG", "SIGHUP"):
        process.signal(getattr(signal, name))
        process.said(name)


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("loop", representative(["asyncio", "uvloop"], "asyncio"))
@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_of_the_application_stands_for_what_serving_needs(
    tmp_path: Path, command: str, loop: str, http: str
) -> None:
    pytest.importorskip(loop)
    said = decoys(tmp_path, but=loaded_by_python() if command == "module" else set())
    with served(
        tmp_path,
        APPLICATION,
        *("--loop", loop, "--http", http, "--body-prefetch", "1", "--body-spool", "1K"),
        command=(*COMMANDS[command], "app:application"),
    ) as process:
        go_through_everything(process)
        assert process.stop() == 0
        assert said.read_text().split() == []


# What is said where a start fails, and the exit code.
FAILURES = {
    "attribute": (["app:aplication"], 2, "did you mean 'app:application'?"),
    "module": (["ap:application"], 2, "did you mean 'app'?"),
    "file": (["ap.py"], 2, "there is no file 'ap.py'; did you mean 'app.py'?"),
    "import": (["broken:application"], 1, "ZeroDivisionError: division by zero"),
    "syntax": (["wrong:application"], 1, "SyntaxError"),
    "option": (["app:application", "--thread", "4"], 2, "did you mean --threads?"),
    "version": (["--version"], 0, "aiowsgi "),
    "help": (["--help"], 0, "usage: "),
    "host": (["app:application", "--host", "\xfc.invalid"], 1, "the host is not known"),
}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("command", representative(COMMANDS, "module"))
def test_no_file_of_the_application_stands_for_what_a_message_needs(
    tmp_path: Path, command: str, kind: str
) -> None:
    arguments, code, message = FAILURES[kind]
    said = decoys(tmp_path, but=loaded_by_python() if command == "module" else set())
    (tmp_path / "app.py").write_text(dedent(APPLICATION))
    (tmp_path / "broken.py").write_text("(1 /\n 0)")
    (tmp_path / "wrong.py").write_text("def f(:")
    done = subprocess.run(
        [*COMMANDS[command], *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert message in done.stdout + done.stderr
    assert done.returncode == code
    assert said.read_text().split() == []


def test_application_that_the_standard_library_hides_is_told(tmp_path: Path) -> None:
    (tmp_path / "token.py").write_text(dedent(APPLICATION))
    done = subprocess.run(
        [*COMMANDS["module"], "token:application"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stderr == (
        "aiowsgi: error: the module 'token' cannot be imported from token.py: a module of the "
        "standard library has that name; rename the file\n"
    )
    assert done.returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_file_that_python_itself_has_imported_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "app.py").write_text(dedent(APPLICATION))
    file = tmp_path / "keyword.py"
    shutil.copy(keyword.__file__, file)
    done = subprocess.run(
        [*COMMANDS[command], "app:application", "--bind", "127.0.0.1:0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.stderr == (
        f"aiowsgi: error: {file} has the name of a module of the standard library, keyword, and "
        "stands in its place; rename it, or start aiowsgi, or python -P -m aiowsgi\n"
    )
    assert done.returncode == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_folder_is_imported_from_although_pythonpath_names_it(tmp_path: Path, command: str) -> None:
    said = decoys(tmp_path, but=set(sys.stdlib_module_names) - {"http", "logging", "ipaddress"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "beside.py").write_text("name = 'beside'\n")
    source = "from beside import name\nimport calendar\n" + dedent(APPLICATION)
    (tmp_path / "calendar.py").write_text("")
    with served(
        tmp_path,
        source,
        command=(*COMMANDS[command], "app:application"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(tmp_path / "other")])},
    ) as process:
        go_through_everything(process)
        assert process.stop() == 0
    assert said.read_text().split() == []


# In this process.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current directory, which is the first place where Python looks for modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/elsewhere", ""])
    monkeypatch.setattr(import_path, "_with_current_directory", [])
    monkeypatch.setattr(import_path, "_outside_application", [])
    return tmp_path


@pytest.mark.parametrize(
    ("argv0", "command", "ours"),
    [
        ("-m", ["python", "-m", "aiowsgi", "app"], True),
        ("-m", ["python", "-X", "dev", "-um", "aiowsgi", "app"], True),
        ("-m", ["python", "-m", "other", "-m", "aiowsgi"], False),
        ("-m", ["python", "-mother"], False),
        ("/venv/bin/aiowsgi", ["python", "/venv/bin/aiowsgi", "app"], True),
        ("program.py", ["python", "program.py"], False),
        ("", ["python"], False),
    ],
)
def test_current_directory_is_taken_out_for_the_command_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, argv0: str, command: list[str], ours: bool
) -> None:
    before = sys.path[:]
    monkeypatch.setattr(sys, "argv", [argv0])
    monkeypatch.setattr(sys, "orig_argv", command)
    import_path.remove_current_directory()
    assert sys.path == (["/elsewhere"] if ours else before)
    import_path.add_folder(str(folder))
    assert sys.path == before


def test_folder_that_has_the_package_itself_is_not_taken_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind ``pip install --target .``: what it depends on is there, too."""
    monkeypatch.setattr(import_path, "ROOT", str(folder))
    monkeypatch.setattr(sys, "argv", ["/venv/bin/aiowsgi"])
    before = sys.path[:]
    import_path.remove_current_directory()
    assert sys.path == before


def test_folder_is_put_first_and_left_out_where_a_start_fails(folder: Path) -> None:
    sys.path[:] = ["/elsewhere"]
    import_path.add_folder(str(folder))
    assert sys.path == [str(folder), "/elsewhere"]
    sys.path.insert(0, "/of/a/file")
    with import_path.OutsideApplication():
        assert sys.path == ["/elsewhere"]
    assert sys.path == ["/of/a/file", str(folder), "/elsewhere"]


def test_current_directory_that_is_gone_is_none_of_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os.path, "realpath", fail)
    with import_path.OutsideApplication():
        assert sys.path == [str(folder), "/elsewhere"]


def test_hidden_files_and_shadows_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert import_path.hidden_file("token") is None
    assert import_path.shadowing_files() == []
    (folder / "token.py").write_text("")
    (folder / "logging").mkdir()
    (folder / "logging" / "__init__.py").write_text("")
    (folder / "shop.py").write_text("")
    assert import_path.hidden_file("token") == "token.py"
    assert import_path.hidden_file("logging") == os.path.join("logging", "__init__.py")
    assert import_path.hidden_file("shop") is None
    shadow = ModuleType("token")
    shadow.__file__ = str(folder / "token.py")
    monkeypatch.setitem(sys.modules, "token", shadow)
    assert import_path.hidden_file("token") is None
    assert import_path.shadowing_files() == [("token", shadow.__file__)]
    monkeypatch.chdir(os.path.dirname(os.__file__))
    assert import_path.shadowing_files() == []


def test_command_tells_of_a_shadow(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    monkeypatch.setattr(import_path, "shadowing_files", lambda: [("token", "/x/token.py")])
    monkeypatch.setattr(sys, "argv", ["aiowsgi", "app:application"])
    try:
        assert cli.main() == 2
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
    assert capsys.readouterr().err.startswith(
        "aiowsgi: error: /x/token.py has the name of a module of the standard library, token, "
    )
