"""The command line: options to ``Config``, exit codes, and messages for people.

Every option comes from a field of ``Config``; only ``--host`` and ``--port``, the short form of one
``--bind``, are added here.
"""

import argparse
import dataclasses
import importlib
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from types import MappingProxyType
from typing import Any, NoReturn

from . import __version__
from .config import Config, Option, help_texts, parse_port
from .errors import BindError, ConfigError, LoadError
from .process import logs, paths, streams
from .process.ending import end_within, exit_on_signal
from .process.importer import load_application
from .process.run import prepare, serve_until_signal
from .process.signals import Signals
from .server.serving import with_address

# Exit codes. A wrong command is told from a right one that failed.
_FAILURE = 1
_USAGE = 2
_INTERRUPTED = 130

_DESCRIPTION = "Serve a WSGI application (PEP 3333) from an asyncio event loop and a thread pool."
_EPILOG = """\
examples:
  aiowsgi app:application
  aiowsgi "shop.web:create_app()" --bind 0.0.0.0:8000 --threads 16
  aiowsgi mysite.wsgi --bind unix:/run/mysite.sock --no-access-log
  aiowsgi src/app.py

Without --bind, --host and --port, the variable PORT is the port, on all interfaces.
Durations are seconds, or 500ms, 30s, 2m, 1h. Sizes are bytes, or 64K, 1M, 2G."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors name the remedy."""

    # What is being parsed.
    _typed: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Note the arguments, for errors."""
        self._typed = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Explain an error in one line, and exit. An option of another server goes first.

        Whatever else is wrong is likely to come from it: its value is taken for the application.
        """
        # Here, as below, because a server whose arguments are right need not keep it in memory.
        from .foreign_options import HINTS

        for typed in takewhile(lambda typed: typed != "--", self._typed):
            # "--name=value", and "-kvalue" behind a short one.
            option = typed.partition("=")[0] if typed.startswith("--") else typed[:2]
            if option in HINTS:
                self._exit(f"{option}: {HINTS[option]}")
        if message.startswith("argument --http:"):
            # What uWSGI calls so is an address.
            message += "; it chooses the parser, and an address is written --bind HOST:PORT"
        unknown = message.removeprefix("unrecognized arguments: ")
        self._exit(message if unknown == message else self._unknown(unknown.split()[0]))

    def _unknown(self, argument: str) -> str:
        """Say what is wrong with an argument that has no meaning."""
        import difflib

        option = argument.partition("=")[0]
        known = [string for action in self._actions for string in action.option_strings]
        if not option.startswith("-"):
            return f"one application is served, and {option!r} is a second argument"
        if close := difflib.get_close_matches(option, known, n=1, cutoff=0.8):
            return f"there is no option {option}; did you mean {close[0]}?"
        return f"there is no option {option}"

    def _exit(self, message: str) -> NoReturn:
        self.exit(_USAGE, f"aiowsgi: error: {message}\ntry: python -m aiowsgi --help\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help whose lines do not break inside the name of an option."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


class _ShowHelp(argparse.Action):
    """The option that prints the help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        build_parser(help_texts()).print_help()
        parser.exit()


class _ShowVersion(argparse.Action):
    """The option that prints the version."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        # Here, because they take 1.3 MiB, of every server that shows no version.
        import platform
        from importlib.metadata import version

        interpreter = f"{platform.python_implementation()} {platform.python_version()}"
        print(f"aiowsgi {__version__} (h11 {version('h11')}, {interpreter})")
        parser.exit()


def _converter(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def default_text(option: Option, default: Any) -> str:
    """Return the default of an option as a person reads it."""
    if option.default_text is not None:
        return option.default_text
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ", ".join(default)
    if option.metavar == "BYTES":
        for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
            if default and default % size == 0:
                return f"{default // size}{unit}"
    if isinstance(default, float):
        return f"{default:g}"
    return str(default)


def build_parser(texts: Mapping[str, str] = MappingProxyType({})) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    ``texts`` is the help of the options by their names, which only ``--help`` needs.
    """
    parser = _Parser(
        prog="python -m aiowsgi",
        usage="python -m aiowsgi [options] module:callable",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=_Help,
        allow_abbrev=False,
        add_help=False,
    )
    # In a group, because to check an argument of its own, a parser makes a formatter of help, which
    # loads shutil and takes 500 KiB of memory.
    parser.add_argument_group("application").add_argument(
        "application",
        metavar="module:callable",
        help='the application, such as app:application or "app:create_app()"; a module or a '
        "file alone stands for the application or app in it",
    )
    groups: dict[str, Any] = {}
    defaults = Config()
    for field in dataclasses.fields(Config):
        option: Option = field.metadata["option"]
        group = groups.get(option.group)
        if group is None:
            group = groups[option.group] = parser.add_argument_group(option.group)
        default = getattr(defaults, field.name)
        names = [f"--{field.name.replace('_', '-')}"]
        if option.short is not None:
            names.insert(0, option.short)
        text = f"{texts.get(field.name, '')} (default: {default_text(option, default)})"
        more: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
        if isinstance(default, bool):
            group.add_argument(*names, action=argparse.BooleanOptionalAction, help=text, **more)
        elif option.choices is not None:
            group.add_argument(*names, choices=option.choices, help=text, **more)
        else:
            if isinstance(default, tuple):
                more["action"] = "append"
            group.add_argument(
                *names, type=_converter(option.parse), metavar=option.metavar, help=text, **more
            )
        if field.name == "bind":
            group.add_argument("--host", metavar="HOST", help="short form of --bind HOST:8000")
            group.add_argument(
                "--port",
                metavar="PORT",
                type=_converter(parse_port),
                help="short form of --bind 127.0.0.1:PORT",
            )
    other = parser.add_argument_group("other")
    more = {"nargs": 0, "default": argparse.SUPPRESS}
    other.add_argument("-h", "--help", action=_ShowHelp, help="show this help and exit", **more)
    other.add_argument("--version", action=_ShowVersion, help="show the version and exit", **more)
    return parser


def parse_arguments(arguments: Sequence[str] | None) -> tuple[str, Config]:
    """Return the application's path and the configuration. Exits where they are wrong."""
    parser = build_parser()
    values = vars(parser.parse_args(arguments))
    application: str = values.pop("application")
    host, port = values.pop("host"), values.pop("port")
    if "bind" in values:
        if host is not None or port is not None:
            parser.error(
                "--host and --port are the short form of one --bind; give one or the other"
            )
        values["bind"] = tuple(values["bind"])
    elif port is None and (variable := os.environ.get("PORT")):
        # Platforms set it, and reach the process from outside of its machine.
        host = "0.0.0.0" if host is None else host
        port = _port_of_environment(parser, variable)
    try:
        return application, with_address(Config(**values), host, port)
    except ConfigError as error:
        parser.error(_as_option(str(error)))


def _port_of_environment(parser: argparse.ArgumentParser, text: str) -> int:
    try:
        return parse_port(text)
    except ConfigError as error:
        parser.error(f"PORT in the environment: {error}; or choose another with --port or --bind")


def _as_option(message: str) -> str:
    """Return the message of a Config with the field's name as the option that was typed."""
    name, space, rest = message.partition(" ")
    if name in {field.name for field in dataclasses.fields(Config)}:
        return f"--{name.replace('_', '-')}{space}{rest}"
    return message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Without ``arguments`` it is the process itself: its signals are handled from the beginning, and
    its end has a limit.
    """
    streams.open_missing()
    if arguments is not None:
        signals = Signals()
        try:
            return _run(arguments, signals, lambda exit_code, seconds: None)
        finally:
            signals.restore()
    signals = Signals(without_server=exit_on_signal)
    signals.unblock()
    signals.install()
    for name, file in paths.shadows():
        print(
            f"aiowsgi: error: {file} has the name of a module of the standard library, {name}, and "
            "stands in its place; rename it, or start aiowsgi, or python -P -m aiowsgi",
            file=sys.stderr,
        )
        return _USAGE
    return _run(sys.argv[1:], signals, end_within)


def _run(
    arguments: Sequence[str], signals: Signals, on_stopped: Callable[[int, float | None], None]
) -> int:
    path, config = parse_arguments(arguments)
    try:
        if config.chdir:
            _change_directory(config.chdir)
        prepare(config)
        paths.put_in(_current_directory())
        app, name = load_application(path)
        code = serve_until_signal(app, config, name=name, signals=signals, on_stopped=on_stopped)
        if not streams.flush(logs.AT_EXIT):
            os._exit(code)
        return code
    except LoadError as error:
        with paths.Elsewhere():
            _print_cause(error)
        code = _FAILURE
        message = str(error)
    except KeyboardInterrupt:  # While the application was being imported.
        return _INTERRUPTED
    except BindError as error:
        code = _FAILURE
        message = str(error)
    except ConfigError as error:
        code = _USAGE
        message = str(error)
    print(f"aiowsgi: error: {message}", file=sys.stderr)
    # The application may have started threads before it failed.
    on_stopped(code, config.timeout_graceful)
    return code


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise ConfigError(f"cannot change to the directory {path!r}: {error.strerror}") from error


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise ConfigError(
            f"there is no current directory ({error.strerror}); has it been deleted? "
            "go to another one, or name one with --chdir"
        ) from error


def _print_cause(error: LoadError) -> None:
    """Print the traceback of the user's own code, without the frames that led to it."""
    cause = error.__cause__
    assert cause is not None  # A LoadError says what it was raised from.
    frames = cause.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    traceback.print_exception(type(cause), cause, frames)


def _is_ours(filename: str) -> bool:
    folders = (os.path.dirname(os.path.abspath(__file__)), os.path.dirname(importlib.__file__))
    return filename.startswith(("<frozen importlib", *(folder + os.sep for folder in folders)))
