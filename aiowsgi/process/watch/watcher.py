"""The watcher's process: looks at files, and tells the supervisor what has changed.

It ends when the supervisor has closed its end of the channel. It has one thread; with watchfiles,
that library has one more.
"""

import contextlib
import faulthandler
import importlib.util
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ...wording import counted
from ..identity.title import Title
from ..worker.assignment import Assignment
from ..worker.messages import CHANGED, NOTICE, WARNING, Channel
from .changes import Changes
from .selection import Root, code_folders, find_roots, folder_of
from .tree import MAX_ENTRIES, Snapshot, Tree
from .waiters import Notifications, Poller, Waiter

# Those who send these to all processes mean the supervisor, which ends this one.
_IGNORED = (
    "SIGTERM",
    "SIGINT",
    "SIGQUIT",
    "SIGHUP",
    "SIGUSR1",
    "SIGUSR2",
    "SIGTTIN",
    "SIGTTOU",
)


def watch(assignment: Assignment) -> int:
    """Do what the supervisor has forked this process for; return its exit code."""
    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, assignment.mask)
    faulthandler.enable(assignment.stacks)
    Title(f"watcher {assignment.path}").show("watching")
    for sock in assignment.sockets:
        # Not the file of a Unix socket with it. Else a client could connect when nobody listens.
        sock.socket.close()
    end = assignment.channel.fileno()
    folder = folder_of(assignment.path)
    roots = find_roots(folder, assignment.config.reload_include, code_folders(sys.path))
    Watcher(Channel(assignment.channel), end, roots, find_notifier()).run()
    return 0


class Watcher:
    """Looks, and tells.

    Arguments: the channel to the supervisor, and its descriptor, which is at its end when that is
    gone; what to look at, the folder of the application first; the function ``watch`` of
    watchfiles, or None to poll; and how many entries the folders may have.
    """

    def __init__(
        self,
        channel: Channel,
        end: int,
        roots: Sequence[Root],
        notifier: Callable[..., Any] | None,
        *,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._channel = channel
        self._roots = roots
        self._folder = roots[0].folder
        self._max_entries = max_entries
        self._tree = Tree(roots, max_entries)
        self._snapshot = Snapshot()
        self._has_warned = False
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._waiter: Waiter = Poller(self._pause)
        self._machinery = "polling"
        if notifier is not None:
            self._waiter = Notifications(notifier, self._counts, self._pause, self._on_failed)
            self._machinery = "watchfiles"

    def run(self) -> None:
        """Look, and tell, until there is nobody to tell."""
        with contextlib.suppress(ConnectionError):
            changes = Changes(self._look, self._wait, pause=self._pause)
            files = counted(len(self._snapshot.files), "file")
            folders = ", ".join(dict.fromkeys(root.folder for root in self._roots))
            self._tell(NOTICE, f"Watching {files} in {folders} ({self._machinery})")
            while True:
                changed = changes.next()
                for path in changed:
                    _forget_bytecode(path)
                text = self._in_words(changed)
                if changes.is_frequent:
                    text += "; files change all the time, so the next restart will be later"
                self._tell(CHANGED, text)

    def _look(self) -> Snapshot:
        self._snapshot = self._tree.look()
        if self._tree.left_out and not self._has_warned:
            self._has_warned = True
            self._tell(
                WARNING,
                f"Not watched: {counted(len(self._tree.left_out), 'folder')}, because there are "
                f"more than {self._max_entries} files and folders; start in the folder of the "
                "project, or see --chdir",
            )
        return self._snapshot

    def _wait(self, cost: float) -> None:
        self._waiter.wait(cost, self._snapshot.folders)

    def _pause(self, seconds: float) -> None:
        """Wait for so many seconds. Raises ConnectionError if the supervisor is gone."""
        if self._poll.poll(seconds * 1000):
            raise ConnectionResetError("the supervisor is gone, or needs no watcher any more")

    def _counts(self, path: str) -> bool:
        return any(root.has(path) for root in self._roots)

    def _on_failed(self, reason: str) -> None:
        self._tell(WARNING, f"The system gives no notifications of changes ({reason}): polling")

    def _tell(self, word: str, text: str) -> None:
        """Send a message. Raises ConnectionError if nobody will read it."""
        if not self._channel.say(word, text):
            raise ConnectionResetError("the supervisor is gone, or is stuck")

    def _in_words(self, changed: set[str]) -> str:
        first, *others = sorted(changed)
        if first.startswith(os.path.join(self._folder, "")):
            first = os.path.relpath(first, self._folder)
        if not others:
            return f"{first} has changed"
        return f"{first} and {counted(len(others), 'other file')} have changed"


def find_notifier() -> Callable[..., Any] | None:
    """Return the function ``watch`` of watchfiles, if that is installed."""
    try:
        from watchfiles import watch as notifier
    except ImportError:
        return None
    return notifier


def _forget_bytecode(path: str) -> None:
    """Remove what Python has compiled of a file that has changed.

    Python takes it for that of the new file if both are equally long, and were written in the same
    second.
    """
    if path.endswith(".py"):
        with contextlib.suppress(OSError, NotImplementedError):
            os.unlink(importlib.util.cache_from_source(path))
