"""What a process has. Only ``aiowsgi.run`` and the command line take these options.

A server inside of another program has none of them: that program has chosen its event loop, its
directory, its processes and its logging.
"""

from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, get_args

from ..errors import ConfigError
from .fields.option import option, texts
from .fields.values import parse_umask
from .workers import WorkerOptions

_GROUP = "the process"
_HOOKS = "hooks"

Loop = Literal["auto", "uvloop", "asyncio"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


def _objection_to_path(value: object) -> str | None:
    return None if isinstance(value, str | PathLike) else f"must be a path, not {value!r}"


def _objection_to_target(value: object) -> str | None:
    if isinstance(value, str):
        return None
    return f"must be a path such as '/health' as str, not {value!r}"


def _objection_to_account(value: object) -> str | None:
    return None if isinstance(value, str) else f"must be a name or a number as str, not {value!r}"


def _objection_to_umask(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return None
    return f"must be a number from 0 to 0o777, not {value!r}"


def _hook(name: str) -> Any:
    """Return the field of a hook."""
    return option(
        (),
        _HOOKS,
        rule=texts(name, "functions by name", "hooks:connect"),
        metavar="MODULE:FUNCTION",
        default_text="none",
        embedded="your program may call what it likes before it serves, and afterwards",
    )


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(WorkerOptions):
    """The options of a process."""

    loop: Loop = option(
        "auto",
        _GROUP,
        choices=get_args(Loop),
        embedded="the server is on the loop that your program runs; choose it there, such as "
        "asyncio.Runner(loop_factory=uvloop.new_event_loop)",
    )
    """event loop; auto is uvloop if it is installed, else asyncio"""
    chdir: str = option(
        "",
        _GROUP,
        rule=_objection_to_path,
        metavar="PATH",
        default_text="the current directory",
        embedded="your program imports the application; it may call os.chdir() before",
    )
    """change to this directory first; your application is imported from it"""
    warm_up: tuple[str, ...] = option(
        (),
        _GROUP,
        rule=texts("warm_up", "paths", "/"),
        metavar="PATH",
        default_text="none",
        embedded="your program may call the application before it serves",
    )
    """path that the application is called for before it serves, or the URL, where the application
    asks for a host; may be repeated"""
    ready_path: str = option(
        "",
        _GROUP,
        rule=_objection_to_target,
        metavar="PATH",
        default_text="none",
        embedded="your program may call the application before it serves",
    )
    """path, or URL, that the application must answer with 2xx or 3xx before a process serves, also
    one that replaces another; within --timeout-request, or 30 s if that has no limit"""
    user: str = option(
        "",
        _GROUP,
        rule=_objection_to_account,
        metavar="USER",
        short="-u",
        default_text="who starts it",
        embedded="your program may call os.initgroups(), os.setgid() and os.setuid()",
    )
    """become this user, a name or a number, once the addresses are bound and before your
    application is loaded"""
    group: str = option(
        "",
        _GROUP,
        rule=_objection_to_account,
        metavar="GROUP",
        short="-g",
        default_text="that of the user",
        embedded="your program may call os.setgid()",
    )
    """group to work in, a name or a number; the user stays in its other groups"""
    umask: int | None = option(
        None,
        _GROUP,
        parse=parse_umask,
        rule=_objection_to_umask,
        metavar="MODE",
        short="-m",
        default_text="that of who starts it",
        embedded="your program may call os.umask()",
    )
    """permissions that new files do not get, in octal; also those of Unix sockets"""
    pid_file: str = option(
        "",
        _GROUP,
        rule=_objection_to_path,
        metavar="PATH",
        default_text="none",
        embedded="your program may write its number to a file once it serves",
    )
    """file that holds the number of the process while it serves"""
    log_level: LogLevel = option(
        "info",
        _GROUP,
        choices=get_args(LogLevel),
        embedded="your program configures logging; set the level of the logger aiowsgi.error",
    )
    """least severe messages that are shown"""

    on_start: tuple[str, ...] = _hook("on_start")
    """function that is called once, without arguments, before the application is loaded; if it
    fails, nothing is served; may be repeated, as all of these"""
    on_stop: tuple[str, ...] = _hook("on_stop")
    """function that is called once at the end, within what is left of --timeout-graceful, and at
    least a second"""
    on_worker_start: tuple[str, ...] = _hook("on_worker_start")
    """function that is called in each process that serves once it has the application, before it
    accepts"""
    on_worker_stop: tuple[str, ...] = _hook("on_worker_stop")
    """function that is called in each process that serves when all requests have ended"""

    def check_together(self) -> None:
        """Raise ConfigError where options contradict each other."""
        super().check_together()
        if self.reuse_port and self.preload and self.user:
            raise ConfigError(
                f"{self.spelling('reuse_port')} has each worker bind its sockets as the user who "
                f"starts the server, and with {self.spelling('preload')} and "
                f"{self.spelling('user')} a worker is another user from its start; leave one out"
            )
