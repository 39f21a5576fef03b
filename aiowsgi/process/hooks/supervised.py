"""The hooks of a supervisor, which runs no other code of the user. Imported only where it has any.

They are called in the supervisor itself, which forks all workers afterwards: what they leave behind
there is in all of these, too. So the folder of the application is only in ``sys.path`` while they
run, and a warning says what a worker cannot make right again.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from ...config import Config
from ...observe.loggers import error_log
from ...wording import counted
from ..ending import end_within
from ..identity.directory import current_directory
from ..import_path import FolderAdded
from .hooks import LEAST_SECONDS, Hooks

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# So many modules are named in a warning.
_MOST_NAMED = 5


class SupervisorHooks:
    """``on_start`` and ``on_stop`` in a supervisor. While one of them runs, a signal ends it."""

    def __init__(self, path: str, config: Config) -> None:
        self._config = config
        self._hooks = Hooks(config)
        # Where the modules stay that ``on_stop`` may import.
        self._folder = ""
        # What workers load, too.
        workers = (path, *config.on_worker_start, *config.on_worker_stop)
        self._loaded_by_workers = set(map(_module_of, workers))

    def begin(self) -> None:
        """Call those of ``on_start``. Called in the folder of the application.

        Raises ConfigError, and HookError where one fails.
        """
        self._folder = current_directory()
        before = set(sys.modules)
        with _signals_end_the_process(), FolderAdded(self._folder):
            self._hooks.begin_process()
        self._warn_of_modules(set(sys.modules) - before)
        if others := [t.name for t in threading.enumerate() if t is not threading.main_thread()]:
            error_log.warning(
                "The hooks have left %s in the supervisor (%s): no worker has them, and what they "
                "hold stays locked there; begin them with on_worker_start",
                counted(len(others), "thread"),
                ", ".join(others),
            )

    def end(self, exit_code: int) -> None:
        """Call those of ``on_stop``, in the time that they have. Workers have ended by then."""
        if not self._hooks.are_due:
            return
        seconds = self._config.timeout_graceful if exit_code == 0 else 0.0
        end_within(exit_code, max(seconds, LEAST_SECONDS))
        with _signals_end_the_process(), FolderAdded(self._folder):
            self._hooks.end()

    def _warn_of_modules(self, names: set[str]) -> None:
        """Warn of modules that a reload ought to load anew."""
        hooks = (*self._config.on_start, *self._config.on_stop)
        own = set(map(_module_of, hooks)) - self._loaded_by_workers
        stale = sorted(name for name in names - own if self._is_ones_own(name))
        if stale:
            more = f" and {len(stale) - _MOST_NAMED} more" if len(stale) > _MOST_NAMED else ""
            error_log.warning(
                "The hooks have imported modules of the application in the supervisor, and no "
                "reload loads these anew: %s%s; keep such hooks in a module that imports none",
                ", ".join(stale[:_MOST_NAMED]),
                more,
            )

    def _is_ones_own(self, name: str) -> bool:
        """Return whether a module is in the folder of the application, and no installed library."""
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        return file.startswith(os.path.join(self._folder, "")) and "site-packages" not in file


def _module_of(path: str) -> str:
    """Return the module that the path of a hook or an application names."""
    return os.path.basename(path.partition(":")[0]).removesuffix(".py")


@contextlib.contextmanager
def _signals_end_the_process() -> Iterator[None]:
    """Have a signal to stop end the process at once, whatever a hook waits for.

    Otherwise a supervisor only takes note of it, and acts when it waits itself.
    """

    def exit_now(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    before = {number: signal.signal(number, exit_now) for number in _STOP}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
