"""Who is believed: how header sections are read, by the peer of their connection."""

import logging
from collections.abc import Callable
from typing import Protocol

from ..config.trust import Trust
from ..exchange.info import ConnectionInfo
from ..http.forwarded.policies import Dropping, ForwardedPolicy, Noticing
from ..http.sections import FieldSections

_log = logging.getLogger("aiowsgi.error")

# Makes what reads sections, with what happens to the fields of proxies in them.
MakeSections = Callable[[ForwardedPolicy | None], FieldSections]
# Makes what happens to the fields of trusted proxies, on connections of a scheme.
MakePolicy = Callable[[str], ForwardedPolicy]


class Sections(Protocol):
    """Knows how the header sections of connections are read. On the loop thread."""

    def of(self, info: ConnectionInfo) -> FieldSections:
        """Return what reads the sections of a new connection."""


class SectionsOfAll:
    """Trusts nobody: the fields of proxies are as any other. See ``Sections``.

    The first of them from this machine is told of in the log, because people expect more of it.
    """

    def __init__(self, make: MakeSections) -> None:
        self._make = make
        self._ordinary = make(None)
        # What reads the sections of peers on this machine, by what they are called in the option.
        # None once all is said.
        self._local: dict[str, FieldSections] | None = {}

    def of(self, info: ConnectionInfo) -> FieldSections:
        """See ``Sections``."""
        host = info.client[0]
        if self._local is None or not (name := _local_name(host)):
            return self._ordinary
        if (sections := self._local.get(name)) is None:
            sections = self._make(Noticing(lambda field: self._tell(name, field)))
            self._local[name] = sections
        return sections

    def _tell(self, name: str, field: bytes) -> None:
        if self._local is None:
            return
        self._local = None
        _log.info(
            "%s is sent from this machine, and passed on without a meaning: REMOTE_ADDR and "
            "wsgi.url_scheme are those of the connection. If that is a proxy of yours, which sets "
            "this field for every client, --forwarded-allow-ips %s has it believed; or let the "
            "application interpret it",
            field.decode("ascii").title(),
            name,
        )


class SectionsByTrust:
    """Trusts some peers, and drops the fields of proxies that others send. See ``Sections``.

    Arguments: who is trusted, what makes the readers of sections, what makes the policy of
    connections that are trusted, whether others keep their fields, and where it is written who is
    trusted, for messages.
    """

    def __init__(
        self,
        trust: Trust,
        make: MakeSections,
        believing: MakePolicy,
        *,
        keep: bool,
        written_in: str,
    ) -> None:
        self._trust = trust
        self._make = make
        self._believing = believing
        self._written_in = written_in
        # What reads the sections of trusted peers, by the scheme of their connections.
        self._trusted: dict[str, FieldSections] = {}
        self._others = make(None if keep else Dropping(self._tell))
        self._is_told = False

    def of(self, info: ConnectionInfo) -> FieldSections:
        """See ``Sections``."""
        host, _ = info.client
        if info.peer is None:
            trusted = self._trust.trusts_peer(host)
        else:
            # Whom a PROXY header tells has not connected, so that being trusted takes a name. Where
            # it tells nobody, the client is the proxy to all others, but these fields are not its.
            trusted = info.client != info.peer.client and self._trust.trusts(host)
        if not trusted:
            return self._others
        if (sections := self._trusted.get(info.scheme)) is None:
            sections = self._make(self._believing(info.scheme))
            self._trusted[info.scheme] = sections
        return sections

    def _tell(self, field: bytes) -> None:
        if self._is_told:
            return
        self._is_told = True
        _log.info(
            "%s is dropped, now and later: it came from a peer that %s does not name. If that is "
            "a proxy of yours, add its address; the access log shows it",
            field.decode("ascii").title(),
            self._written_in,
        )


def _local_name(host: str) -> str:
    """Return what the option calls a peer on this machine; empty for others."""
    if not host:
        return "unix"
    if host.startswith(("127.", "::ffff:127.")):
        return "127.0.0.1"
    return "::1" if host == "::1" else ""
