"""What an option is: a field of one of the subjects, and what it tells about itself.

The builders make the fields. Nothing about an option is said anywhere else: the command line and
the table in docs/options.md are made from these fields, and the docstring below a field is its
help.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .values import parse_count, parse_duration, parse_size


@dataclass(frozen=True, slots=True)
class Option:
    """What a field tells the command line, the documentation, and the check of its value."""

    group: str
    parse: Callable[[str], Any] = str
    metavar: str = "TEXT"
    choices: tuple[str, ...] | None = None
    minimum: float | None = None
    # What else a value must be: returns what is wrong with it, as the rest of a sentence.
    rule: Callable[[Any], str | None] | None = None
    short: str | None = None
    # How the default reads in the help, where the value itself would mislead.
    default_text: str | None = None
    # Of an option of a process: what a program does that has a server inside.
    embedded: str | None = None
    # Whether the value is shown nowhere.
    secret: bool = False

    def objection(self, value: object) -> str | None:
        """Return what is wrong with a value, as the rest of a sentence; None if nothing is."""
        if self.choices is not None and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}, not {value!r}"
        if self.minimum is not None:
            if isinstance(value, bool) or not isinstance(value, int | float):
                return f"must be a number, not {value!r}"
            if self.parse is not parse_duration and not isinstance(value, int):
                return f"must be a whole number, not {value!r}"
            if not value >= self.minimum:
                return f"must be at least {self.minimum:g}, not {value!r}"
        return None if self.rule is None else self.rule(value)


def option(default: Any, group: str, **more: Any) -> Any:
    """Return a field. ``default`` may be a function that returns it; ``more`` is of ``Option``."""
    metadata = {"option": Option(group=group, **more)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata, repr=not metadata["option"].secret)


def switch(default: bool, group: str, **more: Any) -> Any:
    """Return a field that is on or off."""
    return option(default, group, rule=_objection_to_switch, **more)


def _objection_to_switch(value: object) -> str | None:
    # Not what counts as true: "no" would be on.
    return None if isinstance(value, bool) else f"must be True or False, not {value!r}"


def texts(name: str, what: str, example: str) -> Callable[[Any], str | None]:
    """Return the rule of an option that may be repeated: a tuple of ``what``."""

    def objection(value: Any) -> str | None:
        if isinstance(value, str):
            return f"is a tuple of {what}; write {name}=({value!r},)"
        texts = value if isinstance(value, Sequence) and not isinstance(value, bytes) else [value]
        wrong = [text for text in texts if not isinstance(text, str)]
        return f"is a tuple of {what} such as {example!r}, not {wrong[0]!r}" if wrong else None

    return objection


def seconds(default: float, group: str, minimum: float = 0.001, **more: Any) -> Any:
    """Return a field that holds a duration."""
    return option(default, group, parse=parse_duration, metavar="SECONDS", minimum=minimum, **more)


def size(default: int, group: str, minimum: int = 1, **more: Any) -> Any:
    """Return a field that holds a number of bytes."""
    return option(default, group, parse=parse_size, metavar="BYTES", minimum=minimum, **more)


def count(default: Any, group: str, minimum: int = 1, **more: Any) -> Any:
    """Return a field that holds a whole number."""
    return option(default, group, parse=parse_count, metavar="N", minimum=minimum, **more)
