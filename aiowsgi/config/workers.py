"""What several processes have that serve together: how many there are, and how one is replaced.

Without ``workers`` there is one process, which nothing replaces.
"""

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from .option import option, switch
from .subject import Subject
from .values import parse_workers

_GROUP = "worker processes"


def _objection_to_workers(value: object) -> str | None:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return None
    return f"must be at least 1, or 'auto', not {value!r}"


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Subject):
    """The options of a supervisor and its workers."""

    workers: int | Literal["auto"] | None = option(
        None,
        _GROUP,
        parse=parse_workers,
        rule=_objection_to_workers,
        metavar="N",
        short="-w",
        default_text="one process without a supervisor",
        embedded="a server is in one process, that of your program",
    )
    """processes that serve, below a supervisor, which replaces each that dies; auto is one for each
    processor that it may use
    """
    preload: bool = switch(
        False,
        _GROUP,
        embedded="a server is in one process, which has the application already",
    )
    """load the application once, in a process from which the workers are forked: they share its
    memory, and a new one is there at once; needs --workers and Linux
    """

    def check_together(self) -> None:
        """Raise ConfigError where an option has no effect without workers."""
        super().check_together()
        if self.preload and self.workers is None:
            workers = self.origin("preload").spelling("workers")
            raise ConfigError(
                f"{self.spelling('preload')} is for several processes; give {workers}, too"
            )
