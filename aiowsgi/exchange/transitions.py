"""Transition tables: which events may happen in which state, and which state follows.

The code runs on them. An event for which the row of a state has no entry cannot happen: it is a
defect of the server.
"""

import enum
import logging
from collections.abc import Mapping
from typing import TypeVar

_log = logging.getLogger("aiowsgi.error")

State = TypeVar("State", bound=enum.IntEnum)
Event = TypeVar("Event", bound=enum.IntEnum)


class IllegalEvent(AssertionError):
    """Something has happened that cannot happen in this state: a defect of the server."""


def compiled(
    states: type[State], events: type[Event], rows: Mapping[State, Mapping[Event, State]]
) -> tuple[tuple[State | None, ...], ...]:
    """Return a table that is indexed by state and event; None is an illegal event."""
    return tuple(tuple(rows[state].get(event) for event in events) for state in states)


def table(events: type[Event], rows: Mapping[State, Mapping[Event, State]]) -> str:
    """Return transitions as Markdown: a row a state, a column an event."""
    lines = [
        f"| in state | {' | '.join(event.name for event in events)} |",
        f"|---|{'---|' * len(events)}",
    ]
    for state, row in rows.items():
        cells = (row[event].name if event in row else "" for event in events)
        lines.append(f"| {state.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def meanings(texts: Mapping[Event, str]) -> str:
    """Return what states, or events, mean as Markdown."""
    return "\n".join(f"- {name.name}: {meaning}" for name, meaning in texts.items())


def log_defect(error: IllegalEvent) -> None:
    """Report an illegal event, and let the server go on. In tests it is raised instead."""
    _log.critical("A defect of the server: %s; its connection is cut", error, stack_info=True)
