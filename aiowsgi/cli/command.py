"""What the command does: load the application, serve it, and end with an exit code."""

import os
import sys
from collections.abc import Callable, Sequence
from wsgiref.types import WSGIApplication

from ..config import Config
from ..errors import BindError, ConfigError, LoadError, PidFileError, WarmUpError
from ..process import import_path, logs, standard_streams
from ..process.ending import end_within, exit_on_signal
from ..process.identity.pid_file import PidFile
from ..process.importer import load_application
from ..process.run import prepare, serve_until_signal
from ..process.signals import Signals
from ..process.systemd.activation import with_passed_sockets
from .arguments import parse_arguments
from .messages import FAILURE, INTERRUPTED, USAGE, print_cause, print_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Without ``arguments`` it is the process itself: its signals are handled from the beginning, and
    its end has a limit.
    """
    standard_streams.open_missing()
    if arguments is not None:
        signals = Signals()
        try:
            return _run(arguments, signals, lambda exit_code, seconds: None)
        finally:
            signals.restore()
    signals = Signals(without_server=exit_on_signal)
    signals.unblock()
    signals.install()
    for name, file in import_path.shadowing_files():
        print_error(
            f"{file} has the name of a module of the standard library, {name}, and stands in its "
            "place; rename it, or start aiowsgi, or python -P -m aiowsgi"
        )
        return USAGE
    return _run(sys.argv[1:], signals, end_within)


def _run(
    arguments: Sequence[str], signals: Signals, on_stopped: Callable[[int, float | None], None]
) -> int:
    path, config = parse_arguments(arguments)
    try:
        config = with_passed_sockets(config, os.environ)
        if config.chdir:
            _change_directory(config.chdir)
        pid_file = PidFile(config.pid_file)
        pid_file.check()
        app, name = load(path, config)
        code = serve_until_signal(
            app, config, name=name, signals=signals, pid_file=pid_file, on_stopped=on_stopped
        )
        if not standard_streams.flush(logs.AT_EXIT):
            os._exit(code)
        return code
    except LoadError as error:
        with import_path.OutsideApplication():
            print_cause(error)
        code = FAILURE
        message = str(error)
    except KeyboardInterrupt:  # While the application was being imported.
        return INTERRUPTED
    except (BindError, PidFileError, WarmUpError) as error:
        code = FAILURE
        message = str(error)
    except ConfigError as error:
        code = USAGE
        message = str(error)
    print_error(message)
    # The application may have started threads before it failed.
    on_stopped(code, config.timeout_graceful)
    return code


def load(path: str, config: Config) -> tuple[WSGIApplication, str]:
    """Return the application that ``path`` names, and its name in full.

    It is imported from the current directory. Raises ConfigError, and LoadError where the
    application's own code fails.
    """
    prepare(config)
    import_path.add_folder(_current_directory())
    return load_application(path)


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
