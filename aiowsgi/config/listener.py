"""What a listener has: an address, a protocol, a queue in the kernel."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from ..errors import ConfigError
from .fields.option import Option, count, option, switch
from .fields.subject import Subject
from .fields.values import parse_mode, parse_switch
from .trust import objection_to_trust

_GROUP = "where to listen"

# Of the file of a Unix socket: a web server of another user can connect.
MODE = 0o666

ListenerProtocol = Literal["http", "uwsgi"]

_TLS = "tls"
# What may stand before an address, with a colon.
PREFIXES = (*get_args(ListenerProtocol), _TLS)


def _split_prefix(text: str) -> tuple[str, str]:
    """Return what stands before an address, empty where nothing does, and the address."""
    prefix, _, address = text.partition(":")
    if prefix in PREFIXES and address and not address.startswith("//"):
        return prefix, address
    return "", text


def _objection_to_mode(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return None
    return f"must be a number from 0 to 0o777, not {value!r}"


def _objection_to_account(value: object) -> str | None:
    return None if isinstance(value, str) else f"must be a name or a number as str, not {value!r}"


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """One address that is listened on, and what is done there. Made from an entry of ``bind``.

    The fields that have an ``Option`` are parameters of the entry: ADDRESS?NAME=VALUE&NAME=VALUE.
    Each is defined here and nowhere else.
    """

    address: str
    """HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME, fd:N or systemd:NAME; not checked before it is
    bound
    """
    protocol: ListenerProtocol = "http"
    """what clients speak there: HTTP, or what nginx calls uwsgi_pass"""
    tls: bool = False
    """whether clients speak it over TLS"""
    backlog: int = count(2048, _GROUP, default_text="--backlog")
    """connections that the kernel holds until they are accepted"""
    mode: int = option(
        MODE,
        _GROUP,
        parse=parse_mode,
        rule=_objection_to_mode,
        metavar="MODE",
        default_text="666, less --umask",
    )
    """permissions of the file of a Unix socket, in octal; whoever may write to it may connect"""
    owner: str = option(
        "",
        _GROUP,
        rule=_objection_to_account,
        metavar="USER",
        default_text="that of the process",
    )
    """user whose file of a Unix socket it is, a name or a number"""
    group: str = option(
        "",
        _GROUP,
        rule=_objection_to_account,
        metavar="GROUP",
        default_text="that of the process",
    )
    """group whose file of a Unix socket it is, a name or a number"""
    trust: tuple[str, ...] | None = option(
        None,
        _GROUP,
        parse=lambda text: tuple(text.split(",")),
        rule=objection_to_trust,
        metavar="ADDRESS",
        default_text="--forwarded-allow-ips",
    )
    """whose fields say who the client is, as in --forwarded-allow-ips, and all for whoever
    connects
    """
    proxy: bool = switch(False, _GROUP, parse=parse_switch, metavar="on", default_text="off")
    """whether each connection begins with a header of the PROXY protocol, version 1 or 2, by which
    a proxy says for whom it connects; it has to be one that is trusted
    """
    parameters: str = field(default="", compare=False)
    """the parameters as they are written, with the question mark"""

    @classmethod
    def parse(cls, text: str, **defaults: Any) -> "ListenerConfig":
        """Return the listener of an address with or without its protocol: uwsgi:HOST:PORT.

        tls: is HTTP over TLS, http: is HTTP without, and so is an address with none of these, but
        for the ``tls`` in ``defaults``. A URL such as http://HOST:PORT is left as it is: it is no
        address, and whoever binds it says so. ``defaults`` count where the address and its
        parameters do not say otherwise. Raises ConfigError for parameters that are none.
        """
        text, mark, written = text.partition("?")
        values = defaults | _parameters(text, written) if mark else defaults
        prefix, address = _split_prefix(text)
        if prefix:
            values["tls"] = prefix == _TLS
            values["protocol"] = "http" if prefix == _TLS else prefix
        return cls(address, **values, parameters=mark + written)

    def at(self, address: str) -> "ListenerConfig":
        """Return the same at another address."""
        return replace(self, address=address)

    @property
    def prefix(self) -> str:
        """What stands before the address in ``bind``: nothing for HTTP, else such as "uwsgi:"."""
        if self.tls:
            return f"{_TLS}:"
        return "" if self.protocol == "http" else f"{self.protocol}:"

    def __str__(self) -> str:
        """Return the listener as it is written in ``bind``."""
        return self.prefix + self.address + self.parameters


PARAMETERS: Mapping[str, "Field[Any]"] = {
    item.name: item for item in fields(ListenerConfig) if "option" in item.metadata
}
# Those that only the file of a Unix socket has.
_OF_FILES = ("mode", "owner", "group")


def _parameters(address: str, text: str) -> dict[str, Any]:
    """Return the values of what stands behind the question mark. Raises ConfigError."""
    values: dict[str, Any] = {}
    for part in text.split("&"):
        name, equals, value = part.partition("=")
        known = PARAMETERS.get(name)
        if known is None or not equals:
            raise ConfigError(f"the address {address} has {_objection_to_name(part)}")
        if name in values:
            raise ConfigError(
                f"the address {address} has the parameter {name} twice; leave one out"
            )
        kind: Option = known.metadata["option"]
        try:
            values[name] = kind.parse(value)
        except ConfigError as error:
            raise ConfigError(f"the address {address} has {part}: {error}") from None
        if (objection := kind.objection(values[name])) is not None:
            raise ConfigError(f"the address {address} has {part}, and {name} {objection}")
    if values.get("proxy") and address.startswith("uwsgi:"):
        raise ConfigError(
            f"the address {address} has proxy=on, and web servers that speak uwsgi send no PROXY "
            "header before it: uwsgi itself says who the client is; leave it out"
        )
    if "trust" in values and address.startswith("uwsgi:"):
        raise ConfigError(
            f"the address {address} has the parameter trust, and with the uwsgi protocol whoever "
            "connects is trusted; leave it out"
        )
    for name in _OF_FILES:
        if name in values and (objection := _objection_to_file_of(address)):
            raise ConfigError(
                f"the address {address} has the parameter {name}, which is for the files of Unix "
                f"sockets (unix:PATH); {objection}"
            )
    return values


_BEFORE_IT = "write tls: before the address; certificates are options of all addresses"
# What else such a parameter is called, and what to write instead.
_ELSEWHERE = {
    **dict.fromkeys(("tls", "ssl", "https", "certfile", "keyfile"), _BEFORE_IT),
    "forwarded-allow-ips": "it is called trust= here",
    "proxy-protocol": "it is called proxy=on here",
    "user": "it is called owner= here",
}


def _objection_to_name(part: str) -> str:
    import difflib  # Here, because few mistake a name.

    names = [f"{each}=" for each in PARAMETERS]
    name, _, value = part.partition("=")
    what = f"the parameter {part!r}, which is not known"
    if hint := _ELSEWHERE.get(name.lower().replace("_", "-")):
        return f"{what}; {hint}"
    if close := difflib.get_close_matches(f"{name.lower()}=", names, n=1, cutoff=0.7):
        # One that is known lacks its value.
        return f"{what}; did you mean {close[0]}{value or '...'}?"
    return f"{what}; behind the question mark write {', '.join(names)} with & between them"


_IS_FILE = re.compile(r"(?:\w+:)?unix:(?!@)", re.ASCII)
# Where a file has other rules, or there is none: how an address begins, and what to do.
_NO_FILES = (
    (r"/|\./|[^:]*/[^:]*\Z", "write unix: before the path"),
    (r"unix:@", "leave it out: an abstract socket has none, and every user may connect"),
    (r"systemd", "write SocketMode=, SocketUser= or SocketGroup= in the socket unit"),
    (r"", "leave it out"),
)


def _objection_to_file_of(address: str) -> str:
    """Return why an address cannot say whose a file is, empty where it can."""
    if _IS_FILE.match(address):
        return ""
    bare = re.sub(r"\A(?:http|uwsgi):", "", address)
    return next(hint for pattern, hint in _NO_FILES if re.match(pattern, bare))


def _objection_to_bind(value: Any) -> str | None:
    if isinstance(value, str):
        return f"is a tuple of addresses; write bind=({value!r},)"
    what = "is a tuple of addresses such as '127.0.0.1:8000'"
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        return f"{what}, not {value!r}"
    if not value:
        return f"{what}, at least one"
    wrong = [text for text in value if not isinstance(text, str)]
    return f"{what}, and {wrong[0]!r} is no str" if wrong else _objection_to_parameters(value)


def _objection_to_parameters(addresses: Sequence[str]) -> str | None:
    try:
        for text in addresses:
            ListenerConfig.parse(text)
    except ConfigError as error:
        return f"has a mistake: {error}"
    return None


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
    of systemd (systemd for all), with uwsgi: before it for uwsgi_pass of nginx, tls: for HTTPS or
    http: for HTTP, and parameters of this address behind a question mark, such as
    unix:PATH?mode=660&group=www-data; may be repeated
    """
    backlog: int = count(2048, _GROUP)
    """connections that the kernel holds until they are accepted"""

    @property
    def has_certificate(self) -> bool:
        """Whether the options name a certificate of the server."""
        return False

    @property
    def listeners(self) -> tuple[ListenerConfig, ...]:
        """What ``bind`` says, one listener an entry."""
        return self.listeners_with(certificate=self.has_certificate)

    def listeners_with(self, *, certificate: bool) -> tuple[ListenerConfig, ...]:
        """Return what ``bind`` says if the server has a certificate, or if it has none.

        With one, the addresses that tls: stands before speak TLS; where none does, those that no
        protocol stands before.
        """
        chosen = any(_split_prefix(text)[0] == _TLS for text in self.bind)
        defaults = {"tls": certificate and not chosen, **self.listener_defaults()}
        return tuple(ListenerConfig.parse(text, **defaults) for text in self.bind)

    def listener_defaults(self) -> dict[str, Any]:
        """Return what other options say of all listeners."""
        return {"backlog": self.backlog}
