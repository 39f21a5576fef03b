"""A pool that reports what its threads do, for a server that others look at from outside."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from .job_pool import JobPool
from .jobs import Job, LoadReport, Scheduling
from .threads import PoolThread, QueuedJob


class ReportingPool(JobPool):
    """A ``JobPool`` that reports each change of its load, and each job that begins or ends.

    Arguments: those of ``JobPool``; the report; and ``describe(run)``, which returns what is
    reported of a job that runs ``run``. A class of its own, so that a pool without a report takes
    no step more.
    """

    def __init__(
        self,
        max_threads: int,
        *,
        queue_size: int,
        spare_threads: int,
        max_lost_threads: int,
        queue_target: float,
        scheduling: Scheduling | None,
        report: LoadReport,
        describe: Callable[[Callable[[], None]], str],
    ) -> None:
        super().__init__(
            max_threads,
            queue_size=queue_size,
            spare_threads=spare_threads,
            max_lost_threads=max_lost_threads,
            queue_target=queue_target,
            scheduling=scheduling,
        )
        self._report = report
        self._describe = describe
        # The jobs whose beginning was reported, each at the number of its slot. Protected by the
        # lock of the pool.
        self._reported: list[QueuedJob | None] = []
        self._note_load()

    def enqueue(
        self,
        run: Callable[[], None],
        failed: Callable[[], None] = lambda: None,
        *,
        wake: bool = True,
        future: Future[Any] | None = None,
    ) -> Job:
        """See ``JobPool``."""
        job = super().enqueue(run, failed, wake=wake, future=future)
        self._note_load()
        return job

    def release_slot(self) -> None:
        """See ``ThreadSlots``."""
        super().release_slot()
        self._note_load()

    def reclaim_slot(self) -> None:
        """See ``ThreadSlots``."""
        super().reclaim_slot()
        self._note_load()

    def cancel_job(self, job: QueuedJob) -> bool:
        """See ``Job.cancel``."""
        cancelled = super().cancel_job(job)
        self._note_load()
        return cancelled

    def write_off_job(self, job: QueuedJob) -> bool:
        """See ``Job.write_off``."""
        written_off = super().write_off_job(job)
        self._note_load()
        return written_off

    def _next_job(self, thread: PoolThread) -> QueuedJob | None:
        job = super()._next_job(thread)
        if job is not None:
            # If the thread ends in here, ``_clean_up`` finds the job, and this is undone.
            if None not in self._reported:
                self._reported.append(None)
            slot = self._reported.index(None)
            self._reported[slot] = job
            assert job.run is not None  # It was taken out of the queue just now.
            self._report.begin_request(slot, int(job.taken_at * 1e9), self._describe(job.run))
        self._note_load()
        return job

    def _note_end(self, job: QueuedJob, thread: PoolThread) -> None:
        # Before the pool forgets the job, so that a thread that ends in here is cleaned up after.
        if job in self._reported:
            slot = self._reported.index(job)
            self._report.end_request(slot)
            self._reported[slot] = None
        super()._note_end(job, thread)

    def _clean_up(self, thread: PoolThread, on_stopped: list[Callable[[], None]]) -> None:
        super()._clean_up(thread, on_stopped)
        self._note_load()

    def _note_load(self) -> None:
        # Under the lock, so that no older numbers follow newer ones.
        with self._lock:
            if not self.abandoned:  # Else they would be taken for those of the parent.
                running = len(self._running)
                self._report.note_load(
                    threads=running + self._free_slots(),
                    busy=running,
                    queued=len(self._jobs),
                    queued_since=int(self._jobs[0].queued_at * 1e9) if self._jobs else 0,
                    lost=len(self._lost),
                )
