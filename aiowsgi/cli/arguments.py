"""What the command is given: every option of ``Config`` as an argument, and back to a ``Config``.

Every option comes from a field of ``Config``; only ``--host`` and ``--port``, the short form of one
``--bind``, are added here.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from .. import __version__
from ..config import Config, ListenerConfig, Option, Origin, help_texts
from ..config.fields.values import parse_port, parse_workers
from ..config.listener import PARAMETERS
from ..errors import ConfigError
from ..net.bind.address import with_address
from .parser import HelpFormatter, Parser

_T = TypeVar("_T")

_DESCRIPTION = "Serve a WSGI application (PEP 3333) from an asyncio event loop and a thread pool."
_EPILOG = """\
parameters of an address (in quotes: --bind "ADDRESS?NAME=VALUE&NAME=VALUE"):
{parameters}

examples:
  aiowsgi app:application
  aiowsgi "shop.web:create_app()" --bind 0.0.0.0:8000 --threads 16
  aiowsgi mysite.wsgi --bind unix:/run/mysite.sock --no-access-log
  aiowsgi src/app.py --workers auto
  aiowsgi app:application --port 8443 --certfile site.pem --keyfile site.key

Without --bind, --host and --port, the variable PORT is the port, on all interfaces.
Durations are seconds, or 500ms, 30s, 2m, 1h. Sizes are bytes, or 64K, 1M, 2G.

{signals}"""

# Where argparse has the help of options begin.
_HELP_COLUMN = 24


class _ShowHelp(argparse.Action):
    """The option that prints the help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        # Here, because they are a supervisor's, and only the help shows them in one process.
        from ..process.supervisor.wakeups import SIGNALS

        complete = build_parser(help_texts())
        complete.epilog = _EPILOG.format(parameters=_help_of_parameters(), signals=SIGNALS)
        complete.print_help()
        parser.exit()


def _help_of_parameters() -> str:
    """Return the help of the parameters of addresses, in the shape of that of options."""
    import shutil
    import textwrap

    texts = help_texts(ListenerConfig)
    width = max(shutil.get_terminal_size().columns - 2, 60)
    lines = []
    for name, field in PARAMETERS.items():
        option: Option = field.metadata["option"]
        lines += textwrap.wrap(
            f"{texts[name]} (default: {default_text(option, field.default)})",
            width,
            initial_indent=f"  {name}={option.metavar}".ljust(_HELP_COLUMN),
            subsequent_indent=" " * _HELP_COLUMN,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


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


def build_parser(texts: Mapping[str, str] = MappingProxyType({})) -> Parser:
    """Return the parser of the command line.

    ``texts`` is the help of the options by their names, which only ``--help`` needs.
    """
    parser = Parser(
        prog="python -m aiowsgi",
        usage="python -m aiowsgi [options] module:callable",
        description=_DESCRIPTION,
        formatter_class=HelpFormatter,
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


def parse_arguments(
    arguments: Sequence[str] | None, environment: Mapping[str, str] = os.environ
) -> tuple[str, Config]:
    """Return the application's path and the configuration. Exits where they are wrong.

    ``arguments`` are those of the process where none are given.
    """
    parser = build_parser()
    values = vars(parser.parse_args(arguments))
    application: str = values.pop("application")
    host, port = values.pop("host"), values.pop("port")
    values = {name: _frozen(value) for name, value in values.items()}
    origin_of_address = Origin.COMMAND_LINE
    if "bind" in values:
        if host is not None or port is not None:
            parser.error(
                "--host and --port are the short form of one --bind; give one or the other"
            )
    elif port is None and (variable := environment.get("PORT")):
        # Platforms set it, and reach the process from outside of its machine.
        host = "0.0.0.0" if host is None else host
        port = _of_environment(parser, "PORT", variable, parse_port, "--port or --bind")
        origin_of_address = Origin.ENVIRONMENT
    from_environment: dict[str, Any] = {}
    if "workers" not in values and (variable := environment.get("WEB_CONCURRENCY")):
        from_environment["workers"] = _of_environment(
            parser, "WEB_CONCURRENCY", variable, parse_workers, "--workers"
        )
    try:
        config = Config().with_values(
            {Origin.ENVIRONMENT: from_environment, Origin.COMMAND_LINE: values}
        )
        return application, with_address(config, host, port, origin=origin_of_address)
    except ConfigError as error:
        parser.error(str(error))


def _frozen(value: Any) -> Any:
    """Return a value as ``Config`` holds it: the arguments of a repeated option are a list."""
    return tuple(value) if isinstance(value, list) else value


def _of_environment(
    parser: Parser, variable: str, text: str, parse: Callable[[str], _T], options: str
) -> _T:
    """Return the value of a variable. ``options`` are what a person may write in its place."""
    try:
        return parse(text)
    except ConfigError as error:
        parser.error(f"{variable} in the environment: {error}; or choose another with {options}")
