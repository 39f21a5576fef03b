"""A pool that reports what its threads do, for a server that others look at from outside."""

from collections.abc import Callable

from .job_pool import JobPool
from .jobs import LoadReport, Scheduling
from .threads import QueuedJob, ThreadNotes


class ReportingPool(JobPool):
    """A ``JobPool`` that reports how many jobs it has, and each that begins or ends.

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
        # The slot of each thread that has run a job. Protected by the lock of the pool.
        self._slots: dict[ThreadNotes, int] = {}
        # How many jobs were reported.
        self._told = 0
        # Whether threads were reported that are lost, or in place of others. Their jobs may end.
        self._has_others = False
        self._note_threads()

    def release_slot(self) -> None:
        """See ``ThreadSlots``."""
        super().release_slot()
        with self._lock:
            self._note_threads()

    def reclaim_slot(self) -> None:
        """See ``ThreadSlots``."""
        super().reclaim_slot()
        with self._lock:
            self._note_threads()

    def cancel_job(self, job: QueuedJob) -> bool:
        """See ``Job.cancel``."""
        cancelled = super().cancel_job(job)
        with self._lock:
            self._note_jobs()
        return cancelled

    def write_off_job(self, job: QueuedJob) -> bool:
        """See ``Job.write_off``."""
        written_off = super().write_off_job(job)
        with self._lock:
            self._note_threads()
        return written_off

    def _wake_one(self) -> None:
        super()._wake_one()
        # Of a job that does not have to wait, the thread that is on its way tells.
        if len(self._jobs) > (self._waking is not None):
            self._note_jobs()

    def _next_job(self, thread: ThreadNotes) -> QueuedJob | None:
        # The job before has ended by now, if there was one. Its end is told here, because a job
        # that follows at once takes its slot, and the number of jobs is told once for both.
        job = JobPool._next_job(self, thread)
        slot = self._slots.get(thread)
        if job is not None:
            # If the thread ends in here, ``_clean_up`` finds the job, and this is undone.
            if slot is None:
                slot = self._slots[thread] = self._free_slot()
            assert job.run is not None  # It was taken out of the queue just now.
            self._told = jobs = len(self._jobs) + len(self._running)
            # In one call, and by position, because each request comes along. For the same reason,
            # ``super`` is not asked above.
            self._report.begin_request(
                slot, job.taken_at, job.queued_at, jobs, self._describe(job.run)
            )
        else:
            if slot is not None:
                self._report.end_request(slot)
            self._note_jobs()
        if self._has_others:
            self._note_threads()
        return job

    def _clean_up(self, thread: ThreadNotes, on_stopped: list[Callable[[], None]]) -> None:
        super()._clean_up(thread, on_stopped)
        with self._lock:
            slot = self._slots.pop(thread, None)
            if slot is not None:
                self._report.end_request(slot)
            self._note_threads()
            self._note_jobs()

    # The lock is held in these, so that no older numbers follow newer ones. In a forked child they
    # would be taken for those of its parent.

    def _free_slot(self) -> int:
        taken = set(self._slots.values())
        return next(slot for slot in range(len(taken) + 1) if slot not in taken)

    def _note_jobs(self) -> None:
        jobs = len(self._jobs) + len(self._running)
        if jobs != self._told and not self.abandoned:
            self._report.note_jobs(jobs)
            self._told = jobs

    def _note_threads(self) -> None:
        threads, lost = len(self._running) + self._free_slots(), len(self._lost)
        self._has_others = lost > 0 or threads != self._max_threads
        if not self.abandoned:
            self._report.note_threads(threads, lost=lost)
