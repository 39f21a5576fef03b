"""Where values come from: the sources of a configuration, each a member."""

import enum


class Origin(enum.Enum):
    """Who has given a value."""

    DEFAULT = "default"
    """Nobody."""
    CODE = "code"
    """A program that makes a ``Config``, or passes a host and a port."""
    ENVIRONMENT = "environment"
    """A variable of the environment."""
    COMMAND_LINE = "command line"
    """An argument of the command."""

    def spelling(self, name: str) -> str:
        """Return how the option ``name`` is written there, for messages."""
        return f"--{name.replace('_', '-')}" if self is Origin.COMMAND_LINE else name
