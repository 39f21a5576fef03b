"""What is believed of a proxy in front, and where below its paths the application is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from .fields.option import option, seconds, switch
from .fields.subject import Subject
from .trust import objection_to_trust

_GROUP = "behind a proxy"

# The fields by what the option calls them.
_X_FORWARDED = tuple(f"x-forwarded-{what}" for what in ("for", "proto", "host", "port", "prefix"))
_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "x-forwarded": _X_FORWARDED,
    "forwarded": ("forwarded",),
}

# What a segment of a path may hold beside percent-encoding (RFC 3986 §3.3).
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9\-._~!$&'()*+,;=:@]+)*")


def _objection_to_headers(value: object) -> str | None:
    known = (*_FAMILIES, *_X_FORWARDED)
    what = f"must be x-forwarded, forwarded, or some of {', '.join(_X_FORWARDED)}"
    if not isinstance(value, str):
        return f"{what}, not {value!r}"
    names = _names(value)
    if unknown := [name for name in names if name not in known]:
        return f"{what}, not {unknown[0]!r}"
    if "forwarded" in names and len(names) > 1:
        return "is either forwarded or fields of x-forwarded: one request may not mix them"
    return None


def _names(value: str) -> list[str]:
    return [name.strip().lower() for name in value.split(",")]


def _objection_to_script_name(value: object) -> str | None:
    what = "must be empty or a path such as '/shop'"
    if not isinstance(value, str):
        return f"{what}, not {value!r}"
    if value and not value.startswith("/"):
        return f"must begin with '/': write {'/' + value!r}"
    if value.endswith("/"):
        return f"must not end with '/': write {value.rstrip('/')!r}"
    if _PREFIX.fullmatch(value) is None:
        return f"{what}, without percent-encoding and without empty or dotted parts, not {value!r}"
    return None


@dataclass(frozen=True, kw_only=True)
class ProxyOptions(Subject):
    """The options of a server behind a proxy, which is a web server or a load balancer."""

    forwarded_allow_ips: tuple[str, ...] = option(
        (),
        _GROUP,
        rule=objection_to_trust,
        metavar="ADDRESS",
        default_text="nobody",
    )
    """whose X-Forwarded-* or Forwarded fields say who the client is: addresses, networks
    (10.0.0.0/8), unix for Unix sockets, or * for whoever connects, with commas between them; from
    others, these fields are dropped; may be repeated
    """
    forwarded_headers: str = option(
        "x-forwarded", _GROUP, rule=_objection_to_headers, metavar="FIELDS"
    )
    """which fields those are: x-forwarded for X-Forwarded-For, -Proto, -Host, -Port and -Prefix, or
    only some of these by their names, with commas between them, or forwarded (RFC 7239)
    """
    forwarded_keep: bool = switch(False, _GROUP)
    """let the application see the fields of peers that are not trusted, too; nothing follows from
    them
    """
    script_name: str = option(
        "", _GROUP, rule=_objection_to_script_name, metavar="PREFIX", default_text="none"
    )
    """path below which the application is: SCRIPT_NAME, which is cut from PATH_INFO; other paths
    get a 404
    """
    script_name_strip: bool = switch(False, _GROUP)
    """a web server in front has cut --script-name from the path, so that all paths are below it"""
    timeout_proxy: float = seconds(5.0, _GROUP)
    """time in which the header of the PROXY protocol must arrive, from the beginning of the
    connection, where an address has proxy=on; else it is closed
    """

    @property
    def forwarded_fields(self) -> frozenset[str]:
        """The names of the fields that ``forwarded_headers`` means, in lower case."""
        names = _names(self.forwarded_headers)
        return frozenset(field for name in names for field in _FAMILIES.get(name, (name,)))

    def trusted(self, own: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return whom a listener trusts; ``own`` is what its address says, None if it does not."""
        return self.forwarded_allow_ips if own is None else own

    def check_together(self) -> None:
        """Raise ConfigError where an option has no effect without another one."""
        super().check_together()
        if self.script_name_strip and not self.script_name:
            name = self.origin("script_name_strip").spelling("script_name")
            raise ConfigError(f"{self.spelling('script_name_strip')} is about {name}; give both")
