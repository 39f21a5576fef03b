"""Whether this process is a service of systemd, as its environment and its options say.

All else is imported only where it is one: most processes are none.
"""

from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from ...config import Config

if TYPE_CHECKING:
    from .notification import Notifier

_SOCKETS = "LISTEN_"
_NOTIFICATIONS = ("NOTIFY_SOCKET", "WATCHDOG_")
_ADDRESS = "systemd"


def with_passed_sockets(config: Config, environment: MutableMapping[str, str]) -> Config:
    """Return the options with the sockets that systemd has passed, if any. See ``activation``."""
    named = any(listener.address.startswith(_ADDRESS) for listener in config.listeners)
    if not named and not _has_any(environment, _SOCKETS):
        return config
    from . import activation

    return activation.with_passed_sockets(config, environment)


def notifier_of(environment: MutableMapping[str, str]) -> "Notifier | None":
    """Return what tells systemd about this process; None where it has not asked for that.

    Removes from the environment what asks for it. See ``Notifier.of_process``.
    """
    if not _has_any(environment, *_NOTIFICATIONS):
        return None
    from .notification import Notifier

    return Notifier.of_process(environment)


def _has_any(environment: MutableMapping[str, str], *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in environment)
