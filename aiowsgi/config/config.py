"""All options together, as one flat object."""

from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .fields.origin import Origin
from .listener import MODE, ListenerOptions
from .process import ProcessOptions
from .proxies import ProxyOptions
from .server import ServerOptions
from .tls import TlsOptions


# The fields of the last base come first.
@dataclass(frozen=True, kw_only=True)
class Config(ProcessOptions, ServerOptions, ProxyOptions, TlsOptions, ListenerOptions):
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
        self._check_trust()
        self._check_tls()
        for listener in self.listeners if self.reuse_port else ():
            what = _ONE_SOCKET.get(listener.address.partition(":")[0])
            if what is not None:
                raise ConfigError(
                    f"{self.spelling('reuse_port')} has each worker bind a socket of its own, and "
                    f"{listener} is {what}; write HOST:PORT, or leave "
                    f"{self.spelling('reuse_port')} out"
                )

    def _check_trust(self) -> None:
        if not self.forwarded_allow_ips and not any(each.trust for each in self.listeners):
            for name in "forwarded_headers", "forwarded_keep":
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    allowed = self.origin(name).spelling("forwarded_allow_ips")
                    raise ConfigError(
                        f"{self.spelling(name)} is about the fields of proxies, and nobody is "
                        f"trusted; give {allowed} too, or trust= with an address"
                    )
        for listener in self.listeners:
            if listener.proxy and not self.trusted(listener.trust):
                origin = self.origin("bind")
                # A shell takes "&" for the end of the command, and so nobody may be named.
                quotes = ", with quotes around it" if origin is Origin.COMMAND_LINE else ""
                raise ConfigError(
                    f"{listener} has proxy=on, and nobody is trusted to say who the client is; "
                    f"name your proxy: '{listener}&trust=ADDRESS'{quotes}, or &trust=unix where "
                    f"it connects to a Unix socket, or {origin.spelling('forwarded_allow_ips')}"
                )

    def _check_tls(self) -> None:
        speakers = [listener for listener in self.listeners if listener.tls]
        if speakers and not self.has_certificate:
            certfile = self.origin("bind").spelling("certfile")
            with_ssl = ""
            if self.origin("bind") is Origin.CODE:
                with_ssl = " (with ssl=, addresses without a protocol speak TLS)"
            raise ConfigError(
                f"{speakers[0]} speaks TLS, and there is no certificate; give {certfile}, or leave "
                f"tls: out{with_ssl}"
            )
        if self.has_certificate and not speakers:
            raise ConfigError(
                f"{self.spelling('certfile')} is given, and no address speaks TLS; write "
                "tls: before one, or leave http: out"
            )


# Addresses of which there is one socket only.
_ONE_SOCKET = {
    "unix": "a Unix socket, of which there is one only",
    "fd": "a socket that another program has bound, such as systemd",
    "systemd": "a socket that systemd has bound",
}
