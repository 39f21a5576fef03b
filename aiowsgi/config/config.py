"""All options together, as one flat object."""

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .listener import MODE, ListenerOptions
from .process import ProcessOptions
from .proxies import ProxyOptions
from .server import ServerOptions


# The fields of the last base come first.
@dataclass(frozen=True, kw_only=True)
class Config(ProcessOptions, ServerOptions, ProxyOptions, ListenerOptions):
    """All options: of listeners, of a server, of a process. Durations are seconds, sizes are bytes.

    The options of a process are for ``aiowsgi.run`` and the command line: ``aiowsgi.serve`` refuses
    them. Raises ConfigError where a value is out of its range.
    """

    def listener_defaults(self) -> dict[str, Any]:
        """Return what other options say of all listeners."""
        defaults = super().listener_defaults()
        if self.umask is not None:
            defaults["mode"] = MODE & ~self.umask
        return defaults

    def check_together(self) -> None:
        """Raise ConfigError where options contradict each other."""
        super().check_together()
        for listener in self.listeners if self.reuse_port else ():
            what = _ONE_SOCKET.get(listener.address.partition(":")[0])
            if what is not None:
                raise ConfigError(
                    f"{self.spelling('reuse_port')} has each worker bind a socket of its own, and "
                    f"{listener} is {what}; write HOST:PORT, or leave "
                    f"{self.spelling('reuse_port')} out"
                )


# Addresses of which there is one socket only.
_ONE_SOCKET = {
    "unix": "a Unix socket, of which there is one only",
    "fd": "a socket that another program has bound, such as systemd",
    "systemd": "a socket that systemd has bound",
}
