"""A subject: some options that belong together, as a frozen dataclass of fields that are options.

It checks its values, and knows of each where it came from.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...errors import ConfigError
from .option import Option
from .origin import Origin


class Subject:
    """What all subjects derive from, as ``@dataclass(frozen=True, kw_only=True)``.

    Raises ConfigError where a value is out of its range.
    """

    if TYPE_CHECKING:
        # Of every dataclass.
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    _origins: dict[str, Origin]

    def __new__(cls, *args: object, **given: object) -> Self:
        """Note which values are given: those are from code, even where they equal the default."""
        if len(given) == len(options := fields(cls)):
            # dataclasses.replace names all of them, and hardly anybody else does. Those that equal
            # their default are taken for untouched.
            given = {
                item.name: given[item.name]
                for item in options
                if item.name in given and given[item.name] != default_of(item)
            }
        return cls._with_origins(dict.fromkeys(given, Origin.CODE))

    @classmethod
    def _with_origins(cls, origins: dict[str, Origin]) -> Self:
        """Return an object whose values are still to be set."""
        made = object.__new__(cls)
        vars(made)["_origins"] = origins
        return made

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and item.default is None:
                continue  # It follows from others.
            option: Option = item.metadata["option"]
            if (objection := option.objection(value)) is not None:
                raise ConfigError(f"{self.spelling(item.name)} {objection}")
        self.check_together()

    def check_together(self) -> None:
        """Raise ConfigError where values that are right alone contradict each other."""

    def origin(self, name: str) -> Origin:
        """Return where the value of the option ``name`` came from. Raises AttributeError."""
        if name not in type(self).__dataclass_fields__:
            raise AttributeError(
                f"{type(self).__name__} has no option {name!r}", name=name, obj=self
            )
        return self._origins.get(name, Origin.DEFAULT)

    def spelling(self, name: str) -> str:
        """Return how the option ``name`` is written where its value came from, for messages."""
        return self.origin(name).spelling(name)

    def with_values(self, values: Mapping[Origin, Mapping[str, Any]]) -> Self:
        """Return a copy with the values that each origin gives; a later one overrides an earlier.

        All else keeps its value and its origin. Only the result is checked. Raises ConfigError.
        """
        merged = {item.name: getattr(self, item.name) for item in fields(self)}
        origins = dict(self._origins)
        for origin, given in values.items():
            merged |= given
            origins |= dict.fromkeys(given, origin)
        made = self._with_origins(origins)
        type(made).__init__(made, **merged)
        return made


def default_of(item: "Field[Any]") -> Any:
    """Return the default of a field."""
    return item.default if item.default_factory is MISSING else item.default_factory()
