"""What all streams of one server share.

Answerers and pool threads use it, too. What only connections need is in ``connection.shared``.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..bridge.budget import Budget
from ..bridge.mailbox import Mailbox
from ..bridge.pool.jobs import JobQueue
from ..bridge.response import WriterTerms
from ..bridge.spool import Spooler
from ..config import Config
from ..errors import ClientDisconnected
from .transitions import IllegalEvent, log_defect

# Once everything is cut, threads have this many seconds to come back from the application. A
# process ends within a second then.
ABORT_TIMEOUT = 0.25


@dataclass(slots=True, kw_only=True)
class Resources:
    """What every stream of a server is given. Changed on the loop thread only."""

    config: Config
    pool: JobQueue
    # What is buffered for all clients together.
    budget: Budget
    # Takes streams of which a thread has written something, or wants to read, to the loop thread.
    mailbox: Mailbox[Any]
    # Where long request bodies wait for a thread; None where they are streamed.
    spooler: Spooler | None = None
    # Seconds, for time stamps and deadlines.
    clock: Callable[[], float] = time.monotonic
    # Called with a defect of the server.
    on_defect: Callable[[IllegalEvent], None] = log_defect
    # Requests are still answered, with Connection: close. Set once, when the server begins to stop.
    # Pool threads read this and the next one without a lock: to see a change late does no harm.
    is_draining: bool = False
    # Other processes go on in place of this one, on the same addresses.
    is_replaced: bool = False
    # Seconds in which clients of a server that is replaced may send one more request.
    last_requests: float = 5.0
    # A listening socket cannot be accepted on any more.
    has_broken_listener: bool = False
    # When what is still in flight is cut, by ``clock``; never, unless the server stops. Moved to an
    # earlier time when the stop is to be quicker.
    cut_at: float = math.inf
    # How many seconds threads are waited for after that.
    abort_timeout: float = ABORT_TIMEOUT
    # This is a forked child: everything is the parent's. See ``bridge.forks``.
    abandoned: bool = False
    # Makes the ids of requests unique among processes and restarts.
    id_prefix: str = field(default_factory=lambda: f"{os.urandom(4).hex()}-")
    # How many requests have come, also those whose head could not be read. The loop thread counts.
    requests: int = 0
    # How responses are buffered.
    writer_terms: WriterTerms = field(init=False)
    # An option. Each request asks for it here, because compiled code finds it faster.
    max_keep_alive_requests: int = field(init=False)

    def __post_init__(self) -> None:
        self.writer_terms = WriterTerms(
            self.mailbox, self.config.response_buffer, self.budget, self.pool
        )
        self.max_keep_alive_requests = self.config.max_keep_alive_requests

    def report_illegal(
        self, error: IllegalEvent, abort: Callable[[ClientDisconnected], None]
    ) -> None:
        """Report that something has happened which cannot happen, and cut its connection."""
        self.on_defect(error)
        abort(ClientDisconnected("the server could not go on"))

    @property
    def is_healthy(self) -> bool:
        """Whether the threads that ``timeout_request`` has given up could be replaced so far."""
        return not self.pool.lost or self.pool.lost < self.config.max_lost_threads

    @property
    def time_left(self) -> float:
        """Seconds until a shutdown cuts what is in flight; infinity while there is none."""
        return self.cut_at - self.clock()
