"""The title of a process: how ``ps``, ``top`` and systemd show it, where setproctitle is there."""

from collections.abc import Callable

try:
    from setproctitle import setproctitle
except ImportError:
    # The extra ``titles`` is not installed: processes are shown as they were started.
    _set: Callable[[str], object] | None = None
else:
    _set = setproctitle


class Title:
    """Says in the title of this process what it is and does.

    ``role`` is what the process is, such as "worker app:application".
    """

    def __init__(self, role: str) -> None:
        self._role = role
        self._shown = ""

    def show(self, state: str) -> None:
        """Show what the process does, if that is not what it shows already. Costs little then."""
        if _set is not None and state != self._shown:
            self._shown = state
            _set(f"aiowsgi: {self._role}, {state}")
