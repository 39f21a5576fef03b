"""What happens to the fields of proxies in a header section: one way for each kind of peer.

Those of peers that are trusted are in ``believing``, which few servers import.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from ..request import Field, FieldSection
from .names import NAMES


class ForwardedPolicy(ABC):
    """What is done with a section that has such fields. On the loop thread."""

    @abstractmethod
    def apply(self, section: FieldSection) -> None:
        """Change a new section. Raises Refusal with 400."""

    def client(self, fields: list[Field]) -> str:
        """Return whom the fields of a section name as the client; empty for nobody."""
        return ""

    def variables(self, section: FieldSection, host: str | None) -> Mapping[str, str] | None:
        """Return the variables of a request that has another host than its section says."""
        return section.variables


class Noticing(ForwardedPolicy):
    """Leaves a section as it is, and calls ``on_field(name)``."""

    def __init__(self, on_field: Callable[[bytes], None]) -> None:
        self._on_field = on_field

    def apply(self, section: FieldSection) -> None:
        """See ``ForwardedPolicy``."""
        self._on_field(next(name for name, _ in section.fields if name in NAMES))


class Dropping(ForwardedPolicy):
    """Drops the fields, and calls ``on_field(name)``: of peers that are not trusted."""

    def __init__(self, on_field: Callable[[bytes], None]) -> None:
        self._on_field = on_field

    def apply(self, section: FieldSection) -> None:
        """See ``ForwardedPolicy``."""
        self._on_field(next(name for name, _ in section.fields if name in NAMES))
        section.fields = [field for field in section.fields if field[0] not in NAMES]
