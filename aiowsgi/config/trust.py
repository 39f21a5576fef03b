"""Whom an option trusts: addresses, networks, the peers of Unix sockets, or whoever connects."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Network

_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
# An address of IPv4, as a socket has it.
IPV4 = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}")
# All that an address or a network is made of. No zone: it means something on one machine only.
_NETWORK = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")
_EVERYONE = ("*", "all")
_UNIX = "unix"
_FORMS = "write addresses (10.0.0.7), networks (10.0.0.0/8), unix for Unix sockets, or *"


class Trust:
    """Says whether a peer is trusted. Immutable.

    ``texts`` are entries as an option has them, each perhaps several with commas between them.
    Raises ConfigError.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._everyone = False
        self._unix = False
        # Of each version of IP the masks of networks, and what remains of an address behind them.
        self._networks: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for text in texts:
            for entry in map(str.strip, text.split(",")):
                if entry in _EVERYONE:
                    self._everyone = True
                elif entry == _UNIX:
                    self._unix = True
                else:
                    network = _network(entry)
                    self._networks[network.version].append(
                        (int(network.netmask), int(network.network_address))
                    )

    def trusts_peer(self, host: str) -> bool:
        """Return whether whoever connects from ``host`` is trusted; empty for a Unix socket."""
        return self._everyone or self.trusts(host)

    def trusts(self, host: str) -> bool:
        """Return whether the host is named, alone or in a network; empty for a Unix socket.

        ``*`` names none: it is about who connects, not about whom others tell of.
        """
        if not host:
            return self._unix
        if (found := _number(host)) is None:
            return False
        version, number = found
        return any(number & mask == base for mask, base in self._networks[version])


def _number(host: str) -> tuple[int, int] | None:
    """Return the version of IP and the number of an address; None where it is none.

    An address of IPv4 that is mapped into IPv6 is that of IPv4.
    """
    if IPV4.fullmatch(host) is not None:  # Most are, and need nothing dearer.
        first, second, third, fourth = host.split(".")
        return 4, int(first) << 24 | int(second) << 16 | int(third) << 8 | int(fourth)
    # Here, as everywhere: it takes 300 KiB, and without the option nothing needs it.
    from ipaddress import IPv6Address

    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped
    return (6, int(address)) if mapped is None else (4, int(mapped))


def _network(entry: str) -> "IPv4Network | IPv6Network":
    """Return the network of an entry; that of an address has it alone. Raises ConfigError."""
    from ipaddress import IPv6Network, ip_network

    if _NETWORK.fullmatch(entry) is None:
        if re.fullmatch(r"(?!unix:)[A-Za-z0-9-]*[A-Za-z][A-Za-z0-9.-]*", entry):
            raise ConfigError(
                f"{entry!r} is a name, and names are not looked up; write its addresses"
            )
        raise ConfigError(f"{entry!r} is no address; {_FORMS}")
    try:
        network = ip_network(entry, strict=False)
    except ValueError:
        raise ConfigError(f"{entry!r} is no address and no network; {_FORMS}") from None
    address, slash, length = entry.partition("/")
    host = ip_network(address)
    if isinstance(network, IPv6Network) and (mapped := _mapped(host)) is not None:
        # As an address of IPv4 looks on a socket of IPv6.
        if network.prefixlen < 96:  # ::ffff:10.0.0.0/8 would be the network ::/8.
            raise ConfigError(f"{entry!r} is no network of IPv4; write {mapped}/{length} for it")
        host = ip_network(mapped)
        network = ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    if slash and host.network_address != network.network_address:
        raise ConfigError(
            f"{entry!r} is an address in a network; write {network} for the network, or {address}"
        )
    return network


def _mapped(host: "IPv4Network | IPv6Network") -> "IPv4Address | None":
    """Return the address of IPv4 that is mapped into one of IPv6; None if none is."""
    return getattr(host.network_address, "ipv4_mapped", None)


def objection_to_trust(value: Any) -> str | None:
    """Return what is wrong with the value of an option, as the rest of a sentence."""
    what = "is a tuple of addresses such as '10.0.0.7'"
    if isinstance(value, str):
        return f"{what}; write ({value!r},)"
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        return f"{what}, not {value!r}"
    wrong = [text for text in value if not isinstance(text, str)]
    if wrong:
        return f"{what}, not {wrong[0]!r}"
    try:
        Trust(value)
    except ConfigError as error:
        return f"has a mistake: {error}"
    return None
