"""The hooks of one process: those that have been called at its beginning have a counterpart."""

import logging
from typing import TYPE_CHECKING

from ...config import Config
from ...errors import HookError

if TYPE_CHECKING:
    from .hook import Hook

_log = logging.getLogger("aiowsgi.error")

# Hooks have this many seconds at the end, even if no time for the shutdown is left.
LEAST_SECONDS = 1.0


class Hooks:
    """Calls the hooks that a configuration names. On the main thread, outside of the event loop.

    What is called at the end is loaded at the beginning: so a mistake in its name is found then,
    and its module is there, whatever has happened to the files since.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        # What is to be called at the end.
        self._due: list[Hook] = []

    @property
    def are_due(self) -> bool:
        """Whether any is called by ``end``."""
        return bool(self._due)

    def begin_process(self) -> None:
        """Call those of ``on_start``, and have those of ``on_stop`` called at the end.

        If one fails, none is called at the end. Raises ConfigError, and HookError where one fails.
        """
        self._begin("on_start", "on_stop")

    def begin_worker(self) -> None:
        """The same for ``on_worker_start`` and ``on_worker_stop``."""
        self._begin("on_worker_start", "on_worker_stop")

    def __enter__(self) -> "Hooks":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def end(self) -> None:
        """Call what is due: those of a worker before those of its process. Idempotent.

        What they raise is logged, and the next one is called.
        """
        while self._due:
            hook = self._due.pop(0)
            try:
                hook.call()
            except HookError as error:
                _log.error("Stopping goes on, although %s", error, exc_info=error.__cause__)

    def _begin(self, at_start: str, at_end: str) -> None:
        starting, ending = self._load(at_start), self._load(at_end)
        for hook in starting:
            hook.call()
        self._due[:0] = ending

    def _load(self, name: str) -> "list[Hook]":
        paths: tuple[str, ...] = getattr(self._config, name)
        if not paths:
            return []
        # Here, because most processes have none.
        from .hook import load_hook

        return [load_hook(path, self._config.spelling(name)) for path in paths]
