"""What a server needs of a pool of threads, and of a job that it gave to one."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

# A thread that waits for a client longer than this, in seconds, leaves its place to another one.
# Most waits are for the loop thread, and over sooner than a thread is started.
SHORT_WAIT = 0.05


class Started(NamedTuple):
    """The thread that runs a job."""

    thread: str
    ident: int
    # When it began, by ``time.monotonic``.
    at: float
    # Of the thread, as the system counts them.
    native_id: int = 0
    # What it runs, where that was asked for; None once that is over.
    run: Callable[[], None] | None = None


class Job(Protocol):
    """A job in the queue of a pool, or on one of its threads. Called on any thread."""

    def cancel(self) -> bool:
        """Take the job out of the queue. Return False if it runs, or has run."""

    def started(self) -> Started | None:
        """Return which thread runs it, or has run it; None while it waits."""

    def write_off(self) -> bool:
        """Stop counting the job as one that runs: another thread may take its place.

        Return False if it does not run. The thread goes on; when it comes back, it counts again.
        """


class Places(Protocol):
    """Counts who works. A thread that waits for a client leaves its place to another one."""

    def leave(self) -> None:
        """Stop counting the calling thread as one that works: it will wait for a client."""

    def rejoin(self) -> None:
        """Count the calling thread again."""


class Scheduling(Protocol):
    """What a process that only serves does when threads compete for the interpreter.

    It says how late the kernel may wake a thread. An embedded server has none, because threads and
    processes of the host would inherit what it sets. See ``process.scheduling``.
    """

    # Whether several jobs compute, as of the last look, so that threads wait for the interpreter.
    contended: bool

    def is_look_due(self, now: float) -> bool:
        """Return whether ``look`` should be called. ``now`` is by ``time.monotonic``."""

    def look(self, running: Iterable[Started], now: float) -> None:
        """Find out whether several of the running jobs compute. One thread at a time calls this."""

    def lengthen_slack(self) -> None:
        """Let the kernel wake the calling thread late."""

    def restore_slack(self) -> None:
        """Have the kernel wake the calling thread like all others of the process."""


class JobQueue(Places, Protocol):
    """What a server needs of a pool."""

    @property
    def threads(self) -> int:
        """How many jobs may run at the same time."""

    @property
    def concurrent(self) -> bool:
        """Whether several jobs may run at the same time, on whatever threads."""

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""

    @property
    def lost(self) -> int:
        """How many jobs were written off and still run."""

    @property
    def starved(self) -> bool:
        """Whether jobs wait because of threads that wait for clients."""

    def start(self, run: Callable[[], None], failed: Callable[[], None], *, wake: bool) -> Job:
        """Queue ``run``, which raises nothing. Raises QueueFull.

        Should it not be run to its end all the same, because an exception was raised in its thread
        from elsewhere or memory is short, then ``failed()`` is called there.

        Without ``wake`` the job may stay in the queue until ``wake`` is called: a caller that
        queues several jobs in a row does that once.
        """

    def wake(self) -> None:
        """See to it that queued jobs are run."""

    def stop(self, on_stopped: Callable[[], None], *, cancel: bool) -> None:
        """Take no more jobs; ``on_stopped()`` is called, on any thread, when none runs any more.

        With ``cancel`` the jobs that have not started are dropped. Does not block.
        """

    def join(self) -> None:
        """Wait for threads that are about to end, behind ``on_stopped``."""

    def abandon(self) -> None:
        """Take nothing any more: this is a forked child. See ``forks``."""

    def running(self) -> list[Started]:
        """Return the threads that run jobs of this queue, and what they run."""
