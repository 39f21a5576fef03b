"""The thread pool as an ``Executor``, which a program and its servers may share."""

import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from functools import partial
from typing import Any, ParamSpec, TypeVar

from .job_pool import JobPool
from .threads import JobOwner

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ThreadPool(JobPool, Executor):
    """A ``concurrent.futures.Executor`` with a bounded queue and daemon threads.

    Arguments: ``max_threads``, how many threads run jobs at the same time, each started when it is
    first needed; ``queue_size``, how many jobs may wait while all threads are busy. ``JobPool`` has
    more arguments, for a server's own pool.

    One pool may serve several servers and the work of the program around them.
    """

    def submit(
        self,
        fn: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Queue a call, as every Executor does. Raises as ``enqueue`` does."""
        future: Future[Result] = Future()
        call = Call(self, partial(fn, *args, **kwargs), future)
        job = self.enqueue(call, call.fail, future=future)
        # A future that is cancelled takes its job out of the queue.
        future.add_done_callback(lambda _: job.cancel())
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, and end each thread when it is idle. Idempotent.

        ``wait`` blocks until every thread has ended. ``cancel_futures`` drops the jobs that have
        not started.
        """
        self.stop(lambda: None, cancel=cancel_futures)
        if wait:
            self.join()


class Call:
    """A call whose result or exception goes to a future."""

    __slots__ = ("_call", "_future", "_owner")

    def __init__(self, owner: JobOwner, call: Callable[[], Any], future: Future[Any]) -> None:
        self._owner = owner
        self._call = call
        self._future = future

    def __call__(self) -> None:
        """Make the call."""
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = self._call()
        except BaseException as error:
            if self._owner.abandoned:
                raise
            # Every kind of exception goes to the caller, through the future.
            self._future.set_exception(error)
            # The future refers to the traceback, which refers to this frame: not also the other
            # way.
            del self
        else:
            self._future.set_result(result)

    def fail(self) -> None:
        """Give the future the exception being handled, which was raised outside of the call."""
        error = sys.exception()
        assert error is not None
        with contextlib.suppress(InvalidStateError):  # The future has its result already.
            self._future.set_exception(error)
