"""The command in one process: load the application, serve it, and end with an exit code."""

import os
from collections.abc import Callable

from ..config import Config
from ..errors import (
    BindError,
    ConfigError,
    HookError,
    LoadError,
    NotReadyError,
    PidFileError,
    WarmUpError,
)
from ..process import import_path, logs, standard_streams
from ..process.beginning import begun
from ..process.ending import end_within, exit_on_signal
from ..process.hooks.hooks import Hooks
from ..process.identity.directory import change_directory
from ..process.importer import load_application
from ..process.run import make_importable, serve_until_signal
from ..process.signals import Signals
from ..process.systemd.service import with_passed_sockets
from .messages import (
    FAILURE,
    HOOK_FAILED,
    INTERRUPTED,
    USAGE,
    describe_cause,
    print_error,
    print_text,
)


def serve(path: str, config: Config, *, is_process: bool) -> int:
    """Serve the application that ``path`` names until a signal; return the exit code.

    ``is_process`` says whether the process does nothing else. Then its signals are handled from
    here on, also those that its parent had blocked, and its end has a limit.
    """
    if is_process:
        signals = Signals(without_server=exit_on_signal)
        signals.unblock()
        signals.install()
        return _serve(path, config, signals, end_within)
    signals = Signals()
    try:
        return _serve(path, config, signals, lambda exit_code, seconds: None)
    finally:
        signals.restore()


def _serve(
    path: str,
    config: Config,
    signals: Signals,
    on_stopped: Callable[[int, float | None], None],
) -> int:
    hooks = Hooks(config)
    try:
        config = with_passed_sockets(config, os.environ)
        change_directory(config.chdir)
        with begun(config) as beginning:
            make_importable(config)
            hooks.begin_process()
            app, name = load_application(path)
            code = serve_until_signal(
                app,
                config,
                name=name,
                signals=signals,
                beginning=beginning,
                hooks=hooks,
                on_stopped=on_stopped,
            )
        if not standard_streams.flush(logs.AT_EXIT):
            os._exit(code)
        return code
    except LoadError as error:
        with import_path.OutsideApplication():
            print_text(describe_cause(error))
        code = HOOK_FAILED if isinstance(error, HookError) else FAILURE
        message = str(error)
    except KeyboardInterrupt:  # While the application was being imported.
        hooks.end()
        return INTERRUPTED
    except (BindError, NotReadyError, PidFileError, WarmUpError) as error:
        code = FAILURE
        message = str(error)
    except ConfigError as error:
        code = USAGE
        message = str(error)
    print_error(message)
    # The application may have started threads before it failed.
    on_stopped(code, config.timeout_graceful)
    hooks.end()
    return code
