"""The certificates that one listener serves at a time: each with its context, found by name."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .changes import look_at
from .names import NameTable
from .proof import Leaf, prove


class KeyPair(NamedTuple):
    """Where a certificate is, with those that lead to its issuer, and its key."""

    certfile: str
    keyfile: str
    """the same file, where it has both"""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a connection begins with, and keeps, whatever is renewed meanwhile."""

    default: ssl.SSLContext
    """with the first certificate: for clients that ask for no name, or one that nobody has"""
    by_name: NameTable[ssl.SSLContext]
    """those of all certificates"""
    leaves: tuple[Leaf, ...]
    """all certificates, in the order of the options"""
    doubts: tuple[str, ...]
    """warnings about certificates that can be used, and will be of little use"""

    def context(self, server_name: str | None) -> ssl.SSLContext:
        """Return the context for a client that asks for this name, if it does (SNI)."""
        found = None if server_name is None else self.by_name.find(server_name)
        return self.default if found is None else found

    @property
    def expires_at(self) -> float:
        """When the first of them expires, in seconds since 1970; infinity if that is not known."""
        return min(leaf.not_after for leaf in self.leaves)


class CertificateSource:
    """Where the certificates of a listener come from, and which ones are served now.

    Arguments: all files that are read; and ``load()``, which reads them. It may block, is called on
    any thread, and raises ConfigError. So does this, which reads them for the first time.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[], Certificates]) -> None:
        self.paths = tuple(paths)
        self.load = load
        # Before they are read: what changes meanwhile is found to be new later.
        self.first_look = look_at(self.paths)
        # On the loop thread.
        self.served = load()

    def context(self, server_name: str | None) -> ssl.SSLContext:
        """Return the context of a new connection. On the loop thread. See ``Certificates``."""
        return self.served.context(server_name)


def load(
    pairs: Sequence[KeyPair], new_context: Callable[[Sequence[KeyPair]], ssl.SSLContext]
) -> Certificates:
    """Read certificates, prove each, and return them. Blocks; for any thread.

    Arguments: the files, the default first; ``new_context(pairs)``, which makes a context with
    these certificates, of which a client gets the one with the right kind of key. Raises
    ConfigError.
    """
    leaves: list[Leaf] = []
    doubts: list[str] = []
    groups: list[tuple[frozenset[str], dict[bytes, KeyPair], ssl.SSLContext]] = []
    for pair in pairs:
        context = new_context((pair,))
        leaf = prove(context, pair.certfile)
        leaves.append(leaf)
        doubts += _doubts(leaf, leaves[:-1])
        for place, (names, kinds, _) in enumerate(groups):
            if names and names == leaf.names and leaf.key_algorithm not in kinds:
                # Clients differ in what they can check; OpenSSL has a place for each kind of key.
                kinds = {**kinds, leaf.key_algorithm: pair}
                groups[place] = (names, kinds, new_context(tuple(kinds.values())))
                break
        else:
            groups.append((leaf.names, {leaf.key_algorithm: pair}, context))
    contexts: NameTable[ssl.SSLContext] = NameTable()
    for names, _, context in groups:
        contexts.add(names, context)
    return Certificates(groups[0][2], contexts, tuple(leaves), tuple(doubts))


def _doubts(leaf: Leaf, before: Sequence[Leaf]) -> list[str]:
    """Return what is to be said of a certificate that has these before it."""
    if leaf.objection:
        what = "so its names and its end are not known"
        if before:
            what += ", and no client gets it, because it is not the first one"
        return [f"Clients will refuse the certificate {leaf.file} ({leaf.objection}), {what}"]
    if before and not leaf.names:
        return [f"The certificate {leaf.file} is for no host name, and no client gets it"]
    for other in before:
        if (leaf.names, leaf.key_algorithm) == (other.names, other.key_algorithm):
            return [
                f"No client gets the certificate {leaf.file}: {other.file} is for the same names, "
                "has the same kind of key, and comes before it"
            ]
    return []
