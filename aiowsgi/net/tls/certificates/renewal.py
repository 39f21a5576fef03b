"""Certificates that are renewed while a server runs: by looking at their files now and then.

The loop thread has a timer. A look, and whatever comes of it, is on a thread of its own, since a
file system may not answer: stat(2) on NFS has no limit. Such a thread is left behind in the end,
and meanwhile there is no second one.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from contextvars import Context

from ....errors import ConfigError
from ....observe.loggers import error_log
from .changes import Changes, look_at
from .expiry import ExpiryWarnings
from .served import Certificates, CertificateSource

# In seconds. A change counts when two looks have found the same, so it takes two of them.
INTERVAL = 2.5
_THREAD = "aiowsgi-certificates"
# After how many seconds a look is said to hang.
_PATIENCE = 60.0


class Renewal:
    """Renews the certificates of a server until it is closed. On the loop thread.

    Arguments: where they come from; the loop, and the context of its callbacks; the clock for what
    is valid until when, in seconds since 1970; what starts a thread; and ``speaks()``, whether it
    is this process that warns, of several that have the same certificates.
    """

    def __init__(
        self,
        source: CertificateSource,
        *,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        clock: Callable[[], float] = time.time,
        start_thread: Callable[[Callable[[], None]], None] | None = None,
        speaks: Callable[[], bool] = lambda: True,
    ) -> None:
        self._source = source
        self._loop = loop
        self._context = context
        self._start_thread = start_thread or _start_thread
        self._speaks = speaks
        # Used by the thread that looks. There is one at a time, and each begins after the loop
        # thread has heard of the end of the one before.
        self._changes = Changes(source.first_look)
        self._expiry = ExpiryWarnings(clock)
        # When the look that is on its way has begun, by the loop's clock; None if there is none.
        self._began_at: float | None = None
        # Whether it was said that it takes long.
        self._has_complained = False
        # Whether the last reading has failed.
        self._has_failed = False
        # Who has asked for a reading that has not begun, such as a signal; empty if nobody has.
        self._asked = ""
        self._is_closed = False
        self._warn_of_doubts()
        self._warn_of_expiry()
        self._timer = loop.call_later(INTERVAL, self._tick, context=context)

    @property
    def expires_at(self) -> float:
        """See ``Certificates``."""
        return self._source.served.expires_at

    def read_now(self, asked_by: str) -> None:
        """Read all files anew, whether they have changed or not; ``asked_by`` says who wants it."""
        self._asked = asked_by
        self._begin()

    def close(self) -> None:
        """Do nothing any more. A thread that has not come back is left behind. Idempotent."""
        self._is_closed = True
        self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(INTERVAL, self._tick, context=self._context)
        self._warn_of_expiry()
        self._begin()

    def _warn_of_doubts(self) -> None:
        if self._speaks():
            _warn(self._source.served.doubts)

    def _warn_of_expiry(self) -> None:
        if self._speaks():
            _warn(self._expiry.due(self._source.served.leaves))

    def _begin(self) -> None:
        """Begin a look, if none is on its way."""
        if self._is_closed:
            return
        if self._began_at is None:
            self._began_at = self._loop.time()
            asked, self._asked = self._asked, ""
            try:
                self._start_thread(lambda: self._look(asked))
            except RuntimeError:  # No thread can be had now; the next look may have one.
                self._began_at = None
                self._asked = asked
        elif not self._has_complained and self._loop.time() - self._began_at > _PATIENCE:
            self._has_complained = True
            error_log.warning(
                "Looking at the certificate files takes more than %d s; those that were read "
                "before are served meanwhile",
                _PATIENCE,
            )

    def _look(self, asked: str) -> None:
        """Look at the files, and read what is new. On a thread, which may not come back."""
        found = self._found(is_asked=bool(asked))
        # The loop may be over.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._take, found, asked, context=self._context)

    def _found(self, *, is_asked: bool) -> Certificates | str | None:
        """Return new certificates, the reason why they cannot be used, or None: nothing is new."""
        paths = self._source.paths
        before = look_at(paths)
        if not self._changes.are_complete(before) and not is_asked:
            return None
        found: Certificates | str
        try:
            found = self._source.load()
        except ConfigError as error:
            found = str(error)
        except Exception as error:  # noqa: BLE001 - what is served must not suffer from a defect
            found = f"{type(error).__name__}: {error}"
        if look_at(paths) == before:
            self._changes.note(before)
        elif not is_asked:
            return None  # What was read may be from before and after a change.
        return found

    def _take(self, found: Certificates | str | None, asked: str) -> None:
        """Serve new certificates, or say why not."""
        self._began_at = None
        self._has_complained = False
        if self._is_closed:
            return
        if isinstance(found, str):
            self._has_failed = True
            error_log.error(
                "The new certificates cannot be used, and the ones before are still served: %s",
                found,
            )
        elif found is not None:
            self._source.served = found
            self._report(found, asked)
        if self._asked:
            self._begin()

    def _report(self, new: Certificates, asked: str) -> None:
        files = ", ".join(leaf.file for leaf in new.leaves)
        if self._has_failed:
            self._has_failed = False
            error_log.warning("The certificates can be read again, and are served now: %s", files)
        else:
            why = f"Asked by {asked}" if asked else "Files have changed"
            error_log.info("%s: certificates were read again, and are served now: %s", why, files)
        self._warn_of_doubts()
        self._warn_of_expiry()


def _warn(texts: Iterable[str]) -> None:
    for text in texts:
        error_log.warning("%s", text)


def _start_thread(run: Callable[[], None]) -> None:
    """Run something on a thread that nobody waits for, not even the end of the process.

    Raises RuntimeError if no thread can be had.
    """
    try:
        threading.Thread(target=run, name=_THREAD, daemon=True).start()
    except RuntimeError:
        # Interpreters beside the first one may have no such threads. The end of one that is no
        # daemon is waited for there.
        threading.Thread(target=run, name=_THREAD).start()
