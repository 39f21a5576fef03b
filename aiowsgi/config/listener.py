"""What a listener has: an address, a protocol, a queue in the kernel."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .option import count, option
from .subject import Subject

_GROUP = "where to listen"

ListenerProtocol = Literal["http", "uwsgi"]


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """One address that is listened on, and what is spoken there. Made from an entry of ``bind``."""

    address: str
    """HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, fd:N or systemd:NAME; not checked before it is
    bound
    """
    protocol: ListenerProtocol = "http"
    """what clients speak there: HTTP, or what nginx calls uwsgi_pass"""
    backlog: int = field(kw_only=True)
    """connections that the kernel holds until they are accepted"""

    @classmethod
    def parse(cls, text: str, *, backlog: int) -> "ListenerConfig":
        """Return the listener of an address with or without its protocol: uwsgi:HOST:PORT.

        Without one it is HTTP. A URL such as http://HOST:PORT is left as it is: it is no address,
        and whoever binds it says so.
        """
        name, _, address = text.partition(":")
        for protocol in get_args(ListenerProtocol):
            if name == protocol and address and not address.startswith("//"):
                return cls(address, protocol, backlog=backlog)
        return cls(text, backlog=backlog)

    @property
    def prefix(self) -> str:
        """What stands before the address in ``bind``: nothing for HTTP, else such as "uwsgi:"."""
        return "" if self.protocol == "http" else f"{self.protocol}:"

    def __str__(self) -> str:
        """Return the listener as it is written in ``bind``."""
        return self.prefix + self.address


def _objection_to_bind(value: Any) -> str | None:
    if isinstance(value, str):
        return f"is a tuple of addresses; write bind=({value!r},)"
    what = "is a tuple of addresses such as '127.0.0.1:8000'"
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        return f"{what}, not {value!r}"
    if not value:
        return f"{what}, at least one"
    wrong = [text for text in value if not isinstance(text, str)]
    return f"{what}, and {wrong[0]!r} is no str" if wrong else None


@dataclass(frozen=True, kw_only=True)
class ListenerOptions(Subject):
    """The options of listeners."""

    bind: tuple[str, ...] = option(
        ("127.0.0.1:8000",),
        _GROUP,
        rule=_objection_to_bind,
        metavar="ADDRESS",
        short="-b",
        default_text="the sockets that systemd passes, else 127.0.0.1:8000",
    )
    """address to listen on: HOST:PORT, [IPV6]:PORT, unix:PATH, fd:N, or systemd:NAME for a socket
    of systemd (systemd for all), with uwsgi: before it for uwsgi_pass of nginx; may be repeated"""
    backlog: int = count(2048, _GROUP)
    """connections that the kernel holds until they are accepted"""

    @property
    def listeners(self) -> tuple[ListenerConfig, ...]:
        """What ``bind`` says, one listener an entry."""
        return tuple(ListenerConfig.parse(text, backlog=self.backlog) for text in self.bind)
