"""What a worker or a mold has from its supervisor, and what the application forks must not have."""

import contextlib
from collections.abc import Iterator

from ...bridge import forks
from ...server.forked_child import leave_descriptors
from .assignment import Assignment


@contextlib.contextmanager
def kept_from_children(assignment: Assignment) -> Iterator[None]:
    """Have what is forked meanwhile by the application lose what the assignment has opened.

    A child may outlive the server. With a listening socket it would keep the port: the next server
    could not bind it, and clients would wait for a child that never accepts. A server takes care of
    its sockets itself, but the application and its hooks may fork before there is one.
    """
    belongings = _Belongings(assignment)
    forks.register(belongings)
    try:
        yield
    finally:
        belongings.are_kept = False


class _Belongings:
    """Implements ``forks.ForkAware``."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self.are_kept = True

    def abandon(self) -> None:
        """See ``forks.ForkAware``."""
        if self.are_kept:
            assignment = self._assignment
            sockets = [assignment.channel, *(sock.socket for sock in assignment.sockets)]
            # What is closed by now has no number, which may be that of a file.
            opened = [sock.fileno() for sock in sockets]
            leave_descriptors([*opened, assignment.lifeline, assignment.stacks])
