"""What each listener leads to: the protocol that is spoken there, and who is believed.

Made once, when a server starts. On the loop thread.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..config import Config, ListenerConfig, ListenerProtocol
from ..connection.shared import Shared
from ..exchange.interfaces import Codec
from ..fronts.http1 import Http1
from ..fronts.peers import MakeSections, Sections, SectionsByTrust, SectionsOfAll
from ..http.forwarded.policies import ForwardedPolicy
from ..http.readers.reader import Reader
from ..http.request import Limits
from ..http.response import ResponseHeads
from ..http.sections import FieldSections
from ..net.bind.listening import ListeningSocket
from ..net.bind.places import is_on_all_interfaces
from ..net.entrance import Entrance, ProxyStep, TlsStep
from ..observe.refusals import DroppedFields
from .assembly import PRODUCT

if TYPE_CHECKING:
    # Loaded only where TLS is spoken.
    from ssl import SSLContext

    from ..net.tls.certificates.served import CertificateSource

_log = logging.getLogger("aiowsgi.error")

# Whom a listener trusts; None where it leaves that to the option.
Trusted = tuple[str, ...] | None


def entrances(
    shared: Shared,
    config: Config,
    reader: Reader,
    sockets: Sequence[ListeningSocket],
    *,
    context: "SSLContext | None",
    certificates: "CertificateSource | None",
    loop: asyncio.AbstractEventLoop,
) -> list[Entrance]:
    """Return an entrance for each socket, in the same order.

    TLS has the certificates, or else the context of the host; with neither none is spoken. Warns
    where a web server is believed, and others can connect.
    """
    spoken = codecs(config, reader, (sock.listener for sock in sockets))
    tls = _tls_step(shared, context, certificates, loop)
    found = []
    for sock in sockets:
        listener = sock.listener
        if listener.protocol == "uwsgi" and is_on_all_interfaces(sock.socket):
            _log.warning(
                "Whoever can connect to %s (on all interfaces) says who a client is and who "
                "has logged in, and is believed; listen on a Unix socket or on a loopback "
                "address, unless only web servers of yours can reach this one",
                sock.url,
            )
        codec = spoken[listener.protocol, listener.trust]
        proxy = _proxy_step(shared, listener)
        found.append(Entrance(shared, codec, loop, tls if listener.tls else None, proxy))
    return found


def _tls_step(
    shared: Shared,
    context: "SSLContext | None",
    certificates: "CertificateSource | None",
    loop: asyncio.AbstractEventLoop,
) -> TlsStep | None:
    """Return what makes the step of TLS; None where no connection speaks it.

    It has the certificates, or else the context of the host.
    """
    if certificates is not None:
        context_for = certificates.context
    elif context is not None:
        context_for = partial(_same, context)
    else:
        return None
    from ..net.tls.handshake import TlsTerms

    return TlsTerms(shared, context_for, loop).step


def _same(context: "SSLContext", server_name: str | None) -> "SSLContext":
    return context


def _proxy_step(shared: Shared, listener: ListenerConfig) -> ProxyStep | None:
    """Return what makes the step of the PROXY protocol; None where the listener has it not."""
    if not listener.proxy:
        return None
    from ..config.trust import Trust
    from ..net.proxy_protocol.arrival import ProxyProtocol

    trust = Trust(shared.resources.config.trusted(listener.trust))
    return ProxyProtocol(shared, trust.trusts_peer).step


def codecs(
    config: Config, reader: Reader, listeners: Iterable[ListenerConfig]
) -> dict[tuple[ListenerProtocol, Trusted], Codec]:
    """Return a codec for each protocol and each trust of the listeners of a server."""
    made: dict[tuple[ListenerProtocol, Trusted], Codec] = {}
    for protocol, trusted in {(each.protocol, each.trust) for each in listeners}:
        match protocol:
            case "http":
                made[protocol, trusted] = _http_codec(config, reader, trusted)
            case "uwsgi":
                # Here, because most servers do not need it.
                from ..fronts.uwsgi import Uwsgi

                made[protocol, trusted] = Uwsgi(_limits(config), _response_heads())
    return made


def _http_codec(config: Config, reader: Reader, trusted: Trusted) -> Http1:
    """Return the codec of listeners that trust whom ``trusted`` names, None as the option does."""
    limits, on_dropped = _limits(config), DroppedFields().note

    def make(policy: ForwardedPolicy | None) -> FieldSections:
        return FieldSections(
            limits,
            reader,
            header_map=config.header_map,
            on_dropped=on_dropped,
            forwarded=policy,
        )

    sections: Sections
    if config.trusted(trusted):
        sections = _sections_by_trust(config, trusted, make)
    else:
        sections = SectionsOfAll(make)
    return Http1(sections, _response_heads())


def _sections_by_trust(config: Config, trusted: Trusted, make: MakeSections) -> Sections:
    # Here, because most servers do not need them.
    from ..config.trust import Trust
    from ..http.forwarded.believing import Believing

    trust = Trust(config.trusted(trusted))
    chosen = frozenset(name.encode() for name in config.forwarded_fields)
    # Where a web server has cut the prefix, what it tells of that is all of it.
    script_name = "" if config.script_name_strip else config.script_name

    def believing(scheme: str) -> ForwardedPolicy:
        return Believing(chosen, trust.trusts, scheme=scheme, script_name=script_name)

    return SectionsByTrust(
        trust,
        make,
        believing,
        keep=config.forwarded_keep,
        written_in="--forwarded-allow-ips" if trusted is None else "trust= of this address",
    )


def _limits(config: Config) -> Limits:
    return Limits(
        request_line=config.limit_request_line,
        fields=config.limit_request_fields,
        field_size=config.limit_request_field_size,
        head=config.limit_request_head,
        body=config.limit_request_body,
    )


def _response_heads() -> ResponseHeads:
    return ResponseHeads(f"Server: {PRODUCT}\r\n")
