"""What happens to the fields of proxies that are trusted: the environ says what they tell."""

from collections.abc import Mapping

from ...errors import Refusal
from ..request import Field, FieldSection
from .names import FORWARDED, NAMES
from .origin import environ_of
from .policies import ForwardedPolicy
from .told import Told, Trusts, read_forwarded, read_x_forwarded


class Believing(ForwardedPolicy):
    """Has the environ say what the fields tell: of peers that are trusted.

    Arguments: the names of the fields that are looked at, all others are dropped;
    ``trusts(host)``, whether a host in a chain is a proxy that is trusted; the scheme of the
    connections; and what comes behind a prefix that is told.
    """

    def __init__(
        self, chosen: frozenset[bytes], trusts: Trusts, *, scheme: str, script_name: str
    ) -> None:
        self._chosen = chosen
        self._dropped = NAMES.keys() - chosen
        self._trusts = trusts
        self._scheme = scheme
        self._script_name = script_name

    def apply(self, section: FieldSection) -> None:
        """See ``ForwardedPolicy``."""
        kept = [field for field in section.fields if field[0] not in self._dropped]
        if len(kept) < len(section.fields):
            section.fields = kept
        # None where nothing is told: then everything is as it would be otherwise.
        section.variables = self.variables(section, section.host)

    def client(self, fields: list[Field]) -> str:
        """See ``ForwardedPolicy``."""
        try:
            client = self._told(fields).client
        except Refusal:
            return ""
        return "" if client is None else client.host

    def variables(self, section: FieldSection, host: str | None) -> Mapping[str, str] | None:
        """See ``ForwardedPolicy``."""
        told = self._told(section.fields)
        return environ_of(told, host, scheme=self._scheme, script_name=self._script_name) or None

    def _told(self, fields: list[Field]) -> Told:
        if FORWARDED in self._chosen:
            return read_forwarded(fields, self._trusts)
        return read_x_forwarded(fields, self._chosen, self._trusts)
