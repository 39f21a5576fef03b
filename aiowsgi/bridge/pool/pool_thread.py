"""A thread of a pool as the interpreter sees it. What the pool notes of it is in ``threads``."""

import threading


class PoolThread(threading.Thread):
    """A thread of a pool. The interpreter does not wait for it when the process ends.

    But it waits for threads that a job starts, unless the job says otherwise. By default, such a
    thread takes ``daemon`` from the thread that starts it, and a daemon thread is ended without
    notice. So this thread is a daemon only as long as it runs no jobs.
    """

    _is_running_jobs = False

    @property
    def daemon(self) -> bool:  # type: ignore[override]
        """Whether the interpreter ends without waiting for the thread.

        Asked when the thread is started, and by each thread that it starts.
        """
        return not self._is_running_jobs

    def run(self) -> None:
        """Run jobs until the pool has no use for the thread."""
        # Whether the interpreter waits for this thread was decided when it was started.
        self._is_running_jobs = True
        # Lets go of the target at its end, which knows this thread: else both would be left to the
        # garbage collector.
        super().run()
