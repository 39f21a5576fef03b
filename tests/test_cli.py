"""The command line: options to a ``Config``, exit codes, and one clear message for each mistake."""

import dataclasses
import errno
import logging
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from grouped import in_one_test

import aiowsgi
from aiowsgi.cli import main, one_process
from aiowsgi.cli.arguments import build_parser, parse_arguments
from aiowsgi.cli.foreign_options import HINTS
from aiowsgi.config import Config, ListenerConfig, Option, Origin, help_texts
from aiowsgi.config.listener import PARAMETERS
from aiowsgi.net.bind.places import address_of
from aiowsgi.process import import_path
from aiowsgi.process.run import load

Write = Callable[[str, str], None]
Fail = Callable[..., tuple[int, str]]

APPLICATION = """
    def application(environ, start_response):
        start_response("200 OK", [])
        return [b"hello"]

    def create_app():
        return application

    def broken_factory():
        raise ValueError("boom in the factory")

    text = "not an application"
"""


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what the command changes in its process, which is its own elsewhere."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("_with_current_directory", "_outside_application"):
        monkeypatch.setattr(import_path, name, [])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("PORT", raising=False)
    loggers = [logging.getLogger(f"aiowsgi.{name}") for name in ("error", "access")]
    handlers_of_signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for number, handler in handlers_of_signals.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Return ``write(path, source)``: makes a file of a project in the current directory."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)

    def make(path: str, source: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source))

    yield make
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Fail:
    """Return ``fail(*arguments)`` -> (exit code, standard error) of a command that fails."""

    def run(*arguments: str) -> tuple[int, str]:
        try:
            code = main(arguments)
        except SystemExit as stopped:  # Raised by the parser of the options.
            code = int(stopped.code or 0)
        out, err = capsys.readouterr()
        assert out == ""
        assert code != 0
        return code, err

    return run


def _config(*arguments: str) -> Config:
    path, config = parse_arguments([*arguments, "app:application"])
    assert path == "app:application"
    return config


# Options.


def test_no_option_gives_the_defaults() -> None:
    assert _config() == Config()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--bind", "0.0.0.0:80"], {"bind": ("0.0.0.0:80",)}),
        (["-b", ":1", "--bind", "unix:/run/x"], {"bind": (":1", "unix:/run/x")}),
        (["--host", "0.0.0.0"], {"bind": ("0.0.0.0:8000",)}),
        (["--host", "::1", "--port", "80"], {"bind": ("[::1]:80",)}),
        (["--port", "0"], {"bind": ("127.0.0.1:0",)}),
        (["--bind", "uwsgi:unix:/run/x"], {"bind": ("uwsgi:unix:/run/x",)}),
        (["--threads", "3"], {"threads": 3}),
        (["--threads=3"], {"threads": 3}),
        (["-w", "1"], {"workers": 1}),
        (["--workers", "auto"], {"workers": "auto"}),
        (["--queue-size", "0"], {"queue_size": 0}),
        (["--queue-timeout", "500ms"], {"queue_timeout": 0.5}),
        (["--timeout-keep-alive", "2m"], {"timeout_keep_alive": 120.0}),
        (["--timeout-header", "1.5"], {"timeout_header": 1.5}),
        (["--timeout-graceful", "0"], {"timeout_graceful": 0.0}),
        (["--timeout-write", "1h"], {"timeout_write": 3600.0}),
        (["--body-prefetch", "64K"], {"body_prefetch": 1 << 16}),
        (["--limit-request-body", "2G"], {"limit_request_body": 1 << 31}),
        (["--limit-request-line", "4096"], {"limit_request_line": 4096}),
        (["--no-access-log"], {"access_log": False}),
        (["--access-log"], {"access_log": True}),
        (["--log-level", "debug"], {"log_level": "debug"}),
        (["--loop", "asyncio"], {"loop": "asyncio"}),
        (["--health-path", "/healthz"], {"health_path": "/healthz"}),
        (["--health-path", ""], {"health_path": ""}),
        (["--http", "h11"], {"http": "h11"}),
    ],
)
def test_option_sets_its_field(arguments: list[str], expected: dict[str, Any]) -> None:
    assert _config(*arguments) == Config(**expected)


@pytest.mark.parametrize(
    ("arguments", "bind", "origin"),
    [
        ([], "0.0.0.0:5000", Origin.ENVIRONMENT),
        (["--host", "127.0.0.1"], "127.0.0.1:5000", Origin.ENVIRONMENT),
        (["--host", "::1"], "[::1]:5000", Origin.ENVIRONMENT),
        (["--port", "80"], "127.0.0.1:80", Origin.COMMAND_LINE),
        (["--bind", "unix:/run/x"], "unix:/run/x", Origin.COMMAND_LINE),
    ],
)
def test_port_of_the_environment_counts_where_none_is_given(
    arguments: list[str], bind: str, origin: Origin
) -> None:
    _, config = parse_arguments([*arguments, "app:application"], {"PORT": "5000"})
    assert config.bind == (bind,)
    assert config.origin("bind") is origin


@pytest.mark.parametrize("environment", [{}, {"PORT": ""}])
def test_empty_port_of_the_environment_is_none(environment: dict[str, str]) -> None:
    _, config = parse_arguments(["app:application"], environment)
    assert config == Config()
    assert config.origin("bind") is Origin.DEFAULT


@pytest.mark.parametrize("value", ["http", "65536", "-1", "tcp://10.0.0.1:80"])
def test_wrong_port_of_the_environment_names_the_variable(
    capsys: pytest.CaptureFixture[str], value: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["a:b"], {"PORT": value})
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"aiowsgi: error: PORT in the environment: {value!r} is not a port; a port is a number "
        "from 0 to 65535; or choose another with --port or --bind\n"
        "try: python -m aiowsgi --help\n"
    )
    # It is not looked at where it does not count.
    _, config = parse_arguments(["a:b", "--port", "80"], {"PORT": value})
    assert config.bind == ("127.0.0.1:80",)


@pytest.mark.parametrize(
    ("arguments", "workers", "origin"),
    [
        ([], 3, Origin.ENVIRONMENT),
        (["--workers", "2"], 2, Origin.COMMAND_LINE),
        (["--workers", "auto"], "auto", Origin.COMMAND_LINE),
    ],
)
def test_workers_of_the_environment_count_where_none_are_given(
    arguments: list[str], workers: int | str, origin: Origin
) -> None:
    _, config = parse_arguments([*arguments, "app:application"], {"WEB_CONCURRENCY": "3"})
    assert config.workers == workers
    assert config.origin("workers") is origin


def test_empty_workers_of_the_environment_are_none() -> None:
    _, config = parse_arguments(["app:application"], {"WEB_CONCURRENCY": ""})
    assert config.workers is None


@pytest.mark.parametrize("value", ["0", "many", "-1", "1.5"])
def test_wrong_workers_of_the_environment_name_the_variable(
    capsys: pytest.CaptureFixture[str], value: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["a:b"], {"WEB_CONCURRENCY": value})
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"aiowsgi: error: WEB_CONCURRENCY in the environment: {value!r} is neither a whole number "
        "from 1 up nor 'auto'; or choose another with --workers\n"
        "try: python -m aiowsgi --help\n"
    )


def test_values_know_that_they_come_from_the_command_line() -> None:
    # Also where they equal the default.
    config = _config("--http", "auto", "--port", "8000")
    assert config == Config()
    assert config.origin("http") is config.origin("bind") is Origin.COMMAND_LINE
    assert config.origin("loop") is Origin.DEFAULT


def test_application_may_stand_before_the_options() -> None:
    assert parse_arguments(["app:x", "--port", "1"])[0] == "app:x"


# The help.


def _help(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("columns", [80, 100])
def test_help_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert max(map(len, _help(capsys).splitlines())) <= max(columns, 90)


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_help_lists_every_option_under_its_group(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    texts = help_texts()
    groups: dict[str, str] = {}
    for block in _help(capsys).split("\n\n"):
        title, _, body = block.partition(":\n")
        groups[title] = body
    for field in dataclasses.fields(Config):
        option: Option = field.metadata["option"]
        flag = f"--{field.name.replace('_', '-')}"
        assert re.search(rf"^  .*{flag}\b", groups[option.group], re.MULTILINE), flag
        words = " ".join(groups[option.group].split())
        assert texts[field.name] in words, flag


def test_help_lists_the_parameters_of_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(_help(capsys).split())
    texts = help_texts(ListenerConfig)
    for name, field in PARAMETERS.items():
        assert f" {name}={field.metadata['option'].metavar} {texts[name]} (default: " in words
    assert "unix:PATH?mode=660&group=www-data" in words
    assert "(default: --backlog)" in words
    assert "(default: )" not in words


def test_help_tells_defaults_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(_help(capsys).split())
    assert "(default: the sockets that systemd passes, else 127.0.0.1:8000)" in words
    assert "(default: min(32, cpu + 4))" in words
    assert "streamed (default: 1M)" in words
    assert "(default: 1G)" in words
    assert "(default: 8190)" in words
    assert "load balancers (default: 65)" in words


def test_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["-h"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m aiowsgi [options] module:callable")


def test_version_names_what_an_issue_should(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert re.fullmatch(
        rf"aiowsgi {re.escape(aiowsgi.__version__)} \(h11 \d+\.\d+\S*, \w+ 3\.\d+\S*\)\n", out
    )


# Wrong commands: exit code 2.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "module:callable"),
        (["a:b", "c:d"], "one application is served, and 'c:d' is a second argument"),
        (["a:b", "--thread", "4"], "there is no option --thread; did you mean --threads?"),
        (["--thread=4", "a:b"], "there is no option --thread; did you mean --threads?"),
        (["a:b", "--worker", "4"], "there is no option --worker; did you mean --workers?"),
        (["a:b", "--qqqq"], "there is no option --qqqq"),
        # No abbreviations: a later option could make one ambiguous.
        (["a:b", "--timeout-k", "1"], "there is no option --timeout-k"),
        (["a:b", "--factory"], "module:factory()"),
        (["a:b", "--threads", "many"], "--threads: 'many' is not a whole number"),
        (["a:b", "--threads", "1.5"], "--threads: '1.5' is not a whole number"),
        (["a:b", "--threads", "٣"], "--threads: '٣' is not a whole number"),
        (["a:b", "--threads", "0"], "--threads must be at least 1, not 0"),
        (["a:b", "--timeout-header", "0"], "--timeout-header must be at least 0.001, not 0"),
        (["a:b", "--timeout-body", "5x"], "write seconds, or 500ms, 30s, 2m, 1h"),
        (["a:b", "--timeout-body", "nan"], "'nan' is not a duration"),
        (["a:b", "--timeout-body", "inf"], "'inf' is not a duration"),
        (["a:b", "--limit-request-body", "5x"], "write bytes, or 64K, 1M, 2G"),
        (["a:b", "--limit-request-body", "1.5M"], "'1.5M' is not a size"),
        (["a:b", "--log-level", "loud"], "--log-level: invalid choice: 'loud'"),
        (["a:b", "--loop", "trio"], "--loop: invalid choice: 'trio'"),
        (["a:b", "--http", "llhttp"], "--http: invalid choice: 'llhttp'"),
        (["a:b", "--http", ":9090"], "an address is written --bind HOST:PORT"),
        (["a:b", "--port", "65536"], "'65536' is not a port; a port is a number from 0 to 65535"),
        (["a:b", "-t30"], "which one is meant?"),
        (["a:b", "--graceful-timeout", "3"], "it is called --timeout-graceful here"),
        (["a:b", "--py-autoreload", "1"], "it is called --reload here"),
        (["a:b", "--reload-extra-file", "a.yaml"], "write --reload --reload-include PATTERN"),
        (["a:b", "--reload-dir", "src"], "write --reload --reload-include PATTERN"),
        (
            ["a:b", "--port", "http"],
            "--port: 'http' is not a port; a port is a number from 0 to 65535",
        ),
        (["a:b", "-w", "0"], "-w/--workers: '0' is neither a whole number from 1 up nor 'auto'"),
        (["a:b", "--workers", "two"], "'two' is neither a whole number from 1 up nor 'auto'"),
        (["a:b", "--bind", ":1", "--port", "2"], "--host and --port are the short form of one"),
        (["a:b", "--bind", ":1", "--host", "::"], "--host and --port are the short form of one"),
        (["a:b", "--health-path", "up"], "--health-path must be empty or begin with '/', such as"),
        (["a:b", "--bind"], "argument -b/--bind: expected one argument"),
        (["a:b", "--host", "unix:/run/x"], "is a whole address, not a host; write --bind unix:/"),
        (["a:b", "--host", "uwsgi:unix:/s"], "is a whole address, not a host; write --bind uwsgi:"),
        (["a:b", "--host", "uwsgi:h", "--port", "81"], "not a host; write --bind uwsgi:h:81, or"),
        (
            ["a:b", "--host", "http://127.0.0.1"],
            "'http://127.0.0.1' is a URL, not a host; write --host 127.0.0.1",
        ),
        (["a:b", "--host", "0.0.0.0:80"], "is a whole address, not a host; write --bind 0.0.0.0"),
    ],
)
def test_wrong_option_is_told_in_one_line_with_the_remedy(
    fail: Fail, arguments: list[str], message: str
) -> None:
    code, err = fail(*arguments)
    assert code == 2
    first, second = err.splitlines()
    assert first.startswith("aiowsgi: error: ")
    assert message in first
    assert second == "try: python -m aiowsgi --help"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # A value behind a short name, behind a space, behind "=", none; before and after the
        # application, and without one.
        (["-k", "gevent", "a:b"], "-k: leave it out"),
        (["a:b", "-kgevent"], "-k: leave it out"),
        (["a:b", "--worker-class=gevent"], "--worker-class: leave it out"),
        (["--lazy-apps", "a:b"], "--lazy-apps: leave it out"),
        (["--wsgi-file", "app.py"], "--wsgi-file: name the file as the argument"),
        (["--wsgi-file=app.py"], "--wsgi-file: name the file as the argument"),
        (["-c", "conf.py"], "-c: not yet: "),
        (["a:b", "-w", "4", "--ssl-certfile", "x"], "--ssl-certfile: it is called --certfile here"),
        (["a:b", "--threads", "many", "--config", "9"], "--config: not yet: "),
        (["a:b", "-p", "8000"], "-p: which one is meant? --port or --pid-file"),
    ],
)
def test_option_of_another_server_is_told_what_to_do_instead(
    fail: Fail, arguments: list[str], message: str
) -> None:
    code, err = fail(*arguments)
    assert code == 2
    first, second = err.splitlines()
    assert first.startswith(f"aiowsgi: error: {message}")
    assert second == "try: python -m aiowsgi --help"


def _options() -> set[str]:
    return {string for action in build_parser()._actions for string in action.option_strings}


def test_hints_are_many_and_shadow_no_option() -> None:
    assert len(HINTS) >= 60
    assert not set(HINTS) & _options()
    assert all(re.fullmatch(r"--[a-z][a-z0-9_-]+|-[A-Za-z]", option) for option in HINTS)


@in_one_test("option", HINTS)
def test_hint_names_what_exists(option: str) -> None:
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", HINTS[option]))
    # Those of other programs that a hint calls for.
    assert named - {"-URG", "-m"} <= _options()
    assert HINTS[option][0].islower() or HINTS[option].startswith("WSGI")
    assert not HINTS[option].endswith(".")


@pytest.mark.parametrize("option", ["--timeout", "-t"])
def test_timeout_asks_which_one_is_meant(fail: Fail, option: str) -> None:
    code, err = fail(option, "30", "a:b")
    assert code == 2
    assert f"{option}: which one is meant?" in err
    timeouts = {
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(Config)
        if field.name.startswith("timeout_")
    }
    assert timeouts <= set(re.findall(r"--timeout-[a-z-]+", err))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("ap:application", "there is no module 'ap'; did you mean 'app'?"),
        ("app:aplication", "'app' has no attribute 'aplication'; did you mean 'app:application'?"),
        ("app:", "'app:' does not name an application; write MODULE:CALLABLE, such as"),
        ("ap.py:application", "there is no file 'ap.py'; did you mean 'app.py'?"),
        ("app:create_app", "'app:create_app' is not a WSGI application: it takes nothing"),
        ("app:text", "'app:text' is not an application: str cannot be called"),
        ("app:text()", "'app:text' is not a factory: it cannot be called"),
    ],
)
def test_wrong_application_is_told_in_one_line(
    write: Write, fail: Fail, path: str, message: str
) -> None:
    write("app.py", APPLICATION)
    code, err = fail(path)
    assert code == 2
    assert err.startswith(f"aiowsgi: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bind", "nonsense"], "cannot bind 'nonsense': write HOST:PORT"),
        (["--bind", "unix:"], "cannot bind unix:: write unix:PATH"),
        (["--bind", "fd:x"], "cannot bind fd:x: write fd:N"),
        (["--bind", "unix:@"], "cannot bind unix:@: write unix:PATH"),
        (["--bind", "uwsgi:unix:"], "cannot bind uwsgi:unix:: write uwsgi:unix:PATH"),
    ],
)
def test_text_that_is_no_address_is_a_wrong_command(
    write: Write, fail: Fail, arguments: list[str], message: str
) -> None:
    write("app.py", APPLICATION)
    code, err = fail("app:application", *arguments)
    assert code == 2
    assert err.startswith(f"aiowsgi: error: {message}")
    assert err.count("\n") == 1


def test_missing_uvloop_is_told(write: Write, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    write("app.py", APPLICATION)
    assert fail("app:application", "--loop", "uvloop") == (
        2,
        "aiowsgi: error: uvloop is not installed; leave --loop out to use asyncio\n",
    )


def test_missing_httptools_is_told(
    write: Write, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "aiowsgi.http.readers.httptools_reader", raising=False)
    monkeypatch.setitem(sys.modules, "httptools", None)
    write("app.py", APPLICATION)
    assert fail("app:application", "--http", "httptools") == (
        2,
        "aiowsgi: error: httptools is not installed; pip install '.[speed]' in a checkout of "
        "aiowsgi (or 'aiowsgi-server[speed]', once that is published), or leave --http out to use "
        "h11\n",
    )


def test_directory_that_is_not_there(fail: Fail) -> None:
    code, err = fail("a:b", "--chdir", "/nonexistent/folder")
    assert code == 2
    assert err == (
        "aiowsgi: error: cannot change to the directory '/nonexistent/folder': "
        "No such file or directory\n"
    )


def test_current_directory_that_is_gone(
    fail: Fail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    code, err = fail("a:b")
    assert code == 2
    assert err == (
        "aiowsgi: error: there is no current directory (No such file or directory); "
        "has it been deleted? go to another one, or name one with --chdir\n"
    )


# Right commands that fail: exit code 1.


def test_port_in_use(write: Write, fail: Fail) -> None:
    write("app.py", APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, err = fail("app:application", "--port", str(port))
    assert code == 1
    assert err == (
        f"aiowsgi: error: cannot bind 127.0.0.1:{port}: another program listens there; "
        "stop it, or choose another address\n"
    )


def test_second_address_in_use_frees_the_first(write: Write, fail: Fail) -> None:
    write("app.py", APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        first, second = (address_of(*sock.getsockname()) for sock in (free, taken))
        free.close()
        code, _ = fail("app:application", "-b", first, "-b", second)
    assert code == 1
    host, _, port = first.rpartition(":")
    socket.create_server((host, int(port))).close()


def test_permission_denied(write: Write, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, whom the kernel forbids nothing.
    class Forbidden(socket.socket):
        def bind(self, address: Any, /) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    write("app.py", APPLICATION)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", Forbidden)
        code, err = fail("app:application", "--port", "80", "--loop", "asyncio")
    assert code == 1
    assert err == (
        "aiowsgi: error: cannot bind 127.0.0.1:80: permission denied; "
        "ports below 1024 need privileges, choose one above\n"
    )


def test_error_in_the_module_shows_the_frames_of_its_author_only(write: Write, fail: Fail) -> None:
    write("app.py", "import shelf\n")
    write("shelf.py", "def stock():\n    return 1 / 0\n\nstock()\n")
    code, err = fail("app:application")
    assert code == 1
    assert re.findall(r'File ".*?([^/"]+)", line (\d+)', err) == [
        ("app.py", "1"),
        ("shelf.py", "4"),
        ("shelf.py", "2"),
    ]
    lines = err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "ZeroDivisionError: division by zero"
    assert lines[-1] == "aiowsgi: error: importing the module 'app' failed"


def test_frames_are_shown_wherever_the_project_lies(
    write: Write, fail: Fail, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A folder whose name begins like this package's folder, or contains "importlib".
    write("importlib_shop/app.py", "1 / 0\n")
    monkeypatch.chdir(tmp_path / "importlib_shop")
    _, err = fail("app:application")
    assert "app.py" in err


def test_missing_import_of_the_module_shows_where(write: Write, fail: Fail) -> None:
    write("app.py", "import os\nimport qqqqqq\n")
    code, err = fail("app:application")
    assert code == 1
    assert re.findall(r'File ".*?([^/"]+)", line (\d+)', err) == [("app.py", "2")]
    assert "ModuleNotFoundError: No module named 'qqqqqq'\n" in err


def test_syntax_error_shows_the_line_and_no_frames(write: Write, fail: Fail) -> None:
    write("app.py", "x = 1\ndef f(:\n")
    code, err = fail("app:application")
    assert code == 1
    assert re.findall(r'File ".*?([^/"]+)", line (\d+)', err) == [("app.py", "2")]
    assert "Traceback" not in err
    assert "SyntaxError: " in err


def test_failing_factory_shows_its_frames(write: Write, fail: Fail) -> None:
    write("app.py", APPLICATION)
    code, err = fail("app:broken_factory()")
    assert code == 1
    assert re.findall(r'File ".*?([^/"]+)", line \d+, in (\w+)', err) == [
        ("app.py", "broken_factory")
    ]
    assert err.endswith(
        "ValueError: boom in the factory\naiowsgi: error: the factory 'app:broken_factory' failed\n"
    )


# Right commands.


def test_application_is_loaded_from_the_current_directory(write: Write, tmp_path: Path) -> None:
    write("app.py", APPLICATION)
    app, name = load("app:create_app()", Config())
    assert app is sys.modules["app"].application
    assert name == "app:create_app()"
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize("path", ["app", "app.py", "./app.py"])
def test_module_or_file_alone_is_told_in_full(write: Write, path: str) -> None:
    write("app.py", APPLICATION)
    app, name = load(path, Config())
    assert app is sys.modules["app"].application
    assert name == f"{path}:application"


def test_current_directory_is_not_added_twice(write: Write, tmp_path: Path) -> None:
    write("app.py", APPLICATION)
    sys.path.append(str(tmp_path))
    load("app:application", Config())
    assert sys.path.count(str(tmp_path)) == 1


def test_chdir_changes_where_the_application_is_found(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("project/app.py", APPLICATION)
    monkeypatch.setattr(one_process, "serve_until_signal", lambda app, config, **_: 0)
    assert main(["--chdir", "project", "app:application"]) == 0
    assert Path.cwd() == tmp_path / "project"
    assert sys.modules["app"].__file__ == str(tmp_path / "project" / "app.py")


def test_exit_code_is_that_of_the_server(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("app.py", APPLICATION)
    monkeypatch.setattr(one_process, "serve_until_signal", lambda app, config, **_: 143)
    assert main(["app:application"]) == 143


def test_arguments_come_from_the_command_line_if_none_are_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["aiowsgi", "--nothing", "app:application"])
    with pytest.raises(SystemExit):
        main()
    assert "there is no option --nothing" in capsys.readouterr().err
