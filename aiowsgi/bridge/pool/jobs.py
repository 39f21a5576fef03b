"""The interfaces of a pool of threads: what a server knows of it, and of a job in it."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ...compiling import mypyc_attr
from ..locks import Lock

# A thread that waits for a client longer than this, in seconds, releases its slot. Most waits are
# shorter: they end when the loop thread has its turn, sooner than another thread could be started.
SHORT_WAIT = 0.05


class JobThread(NamedTuple):
    """The thread that runs a job."""

    thread: str
    ident: int
    # When the job began, by ``time.monotonic``.
    at: float
    # The number that the system knows the thread by.
    native_id: int = 0
    # What the job runs. Only ``JobQueue.running`` tells; None when the job has just ended.
    run: Callable[[], None] | None = None


class Job(Protocol):
    """A job in the queue of a pool, or on one of its threads. Called on any thread."""

    def cancel(self) -> bool:
        """Take the job out of the queue. Return False if it is running or has run."""

    def started(self) -> JobThread | None:
        """Return the thread that runs or has run the job; None while it is in the queue."""

    def write_off(self) -> bool:
        """Count the job as lost, so that another thread may run in place of its thread.

        Return False if the job is not running. Its thread goes on, and serves the pool again when
        the job ends after all.
        """


class ThreadSlots(Protocol):
    """Limits how many threads work. A thread that waits for a client needs no slot."""

    def make_condition(self, lock: Lock) -> threading.Condition:
        """Return a condition on which threads wait for a client."""

    def release_slot(self) -> None:
        """Let another thread work: the calling thread is about to wait for a client."""

    def reclaim_slot(self) -> None:
        """Count the calling thread as one that works again. Does not wait for a free slot."""


class Scheduling(Protocol):
    """What a process that only serves does when threads compete for the interpreter.

    It says how late the kernel may wake a thread, and how long a thread may keep the interpreter.
    An embedded server has none, because threads and processes of the host would inherit the one,
    and the other is theirs as well. See ``process.scheduling``.
    """

    # Whether several jobs compute, as of the last look, so that threads wait for the interpreter.
    contended: bool

    def is_look_due(self, now: float) -> bool:
        """Return whether ``look`` should be called. ``now`` is by ``time.monotonic``."""

    def look(self, running: Iterable[JobThread], now: float) -> None:
        """Find out whether several of the running jobs compute. One thread at a time calls this.

        While ``contended`` it is called again and again, even if no request comes: what it does to
        all threads of the process has to end with the jobs.
        """

    def lengthen_slack(self) -> None:
        """Let the kernel wake the calling thread late."""

    def restore_slack(self) -> None:
        """Have the kernel wake the calling thread like all others of the process."""


class LoadReport(Protocol):
    """Where a pool reports its load. Its methods are called under the lock of the pool.

    Each takes a moment, and raises nothing.
    """

    def note_threads(self, threads: int, *, lost: int) -> None:
        """Take note how many jobs may run at the same time, and how many are lost."""

    def note_jobs(self, jobs: int) -> None:
        """Take note how many jobs run or wait."""

    def begin_request(self, slot: int, began: int, queued_at: int, jobs: int, text: str) -> None:
        """Take note of a job that begins, when it was queued, and how many jobs run or wait.

        Times are in nanoseconds of ``time.monotonic``. ``slot`` is a number, from 0, that no other
        running job has, and a low one.
        """

    def end_request(self, slot: int) -> None:
        """Take note of its end."""


@mypyc_attr(allow_interpreted_subclasses=True)
class JobQueue(ABC):
    """What a server needs of a pool. It is a ``ThreadSlots``, too."""

    # An abstract class, not a ``typing.Protocol``: compiled code finds its methods much faster.
    __slots__ = ()

    @property
    @abstractmethod
    def threads(self) -> int:
        """How many threads may work at the same time."""

    @property
    @abstractmethod
    def is_concurrent(self) -> bool:
        """Whether several jobs may run at the same time, those that wait for clients included."""

    @property
    @abstractmethod
    def queued(self) -> int:
        """How many jobs are in the queue."""

    @property
    @abstractmethod
    def lost(self) -> int:
        """How many jobs were written off and are still running."""

    @property
    @abstractmethod
    def is_starved(self) -> bool:
        """Whether jobs are in the queue because too many threads wait for clients."""

    @abstractmethod
    def enqueue(self, run: Callable[[], None], failed: Callable[[], None], *, wake: bool) -> Job:
        """Queue ``run``, which raises nothing. Raises QueueFull.

        ``failed()`` is called on the thread if ``run`` does not get to its end all the same,
        because an exception was raised in the thread from outside, or memory is short. It is called
        on any thread if ``run`` will never begin, because whoever owns the threads dropped the job.

        Without ``wake`` the job may stay in the queue until the method ``wake`` is called. So a
        caller that queues several jobs in a row wakes the pool once.
        """

    @abstractmethod
    def wake(self) -> None:
        """Have queued jobs run."""

    @abstractmethod
    def stop(self, on_stopped: Callable[[], None], *, cancel: bool) -> None:
        """Take no more jobs; ``on_stopped()`` is called, on any thread, when the last has ended.

        With ``cancel`` the jobs that have not started are dropped. Does not block.
        """

    @abstractmethod
    def join(self) -> None:
        """Wait until the threads have ended. Called after ``on_stopped``."""

    @abstractmethod
    def abandon(self) -> None:
        """Take no more jobs: this is a forked child. See ``forks``."""

    @abstractmethod
    def running(self) -> list[JobThread]:
        """Return the threads that are running jobs of this queue, and what they run."""

    @abstractmethod
    def make_condition(self, lock: Lock) -> threading.Condition:
        """Return a condition on which threads wait for a client. See ``ThreadSlots``."""

    @abstractmethod
    def release_slot(self) -> None:
        """Let another thread work in place of the calling one. See ``ThreadSlots``."""

    @abstractmethod
    def reclaim_slot(self) -> None:
        """Count the calling thread as working again. See ``ThreadSlots``."""
