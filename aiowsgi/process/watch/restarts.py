"""What a supervisor does about the watcher: starts it, listens to it, restarts the workers."""

import time

from ...net.bind.listening import ListeningSocket
from ...net.bind.places import is_on_this_machine
from ...observe.loggers import error_log
from ..supervisor.decisions.plan import Plan
from ..supervisor.reports import describe_status
from ..worker.messages import CHANGED, NOTICE, WARNING, Message

# Seconds: a watcher that ends earlier would do so again.
_SOON = 2.0


class Restarts:
    """Restarts all workers when the watcher tells of a change. Argument: the plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # Whether a watcher is to be started.
        self.is_due = False
        # Whether a watcher has not looked yet. What changes before, and after a worker has loaded
        # it, would not be noticed.
        self.is_beginning = False
        # By the monotonic clock: when the watcher was started, and when the workers were to be.
        self._watching_since = 0.0
        self._began = 0.0
        # What workers could not load, since the last change.
        self._broken = ""

    def enable(self, sockets: tuple[ListeningSocket, ...]) -> None:
        """Have a watcher started."""
        self.is_due = True
        for sock in sockets:
            if not is_on_this_machine(sock.socket):
                error_log.warning(
                    "--reload is for development, and other machines can connect to %s",
                    sock.place,
                )

    def watched(self) -> None:
        """Take note that a watcher is being started."""
        self.is_due = False
        self.is_beginning = True
        self._watching_since = time.monotonic()

    def failed(self, reason: str | None) -> None:
        """Take note that no watcher could be started."""
        self.is_beginning = False
        error_log.error("Cannot watch files: %s; changes are not noticed", reason)

    def hear(self, message: Message) -> None:
        """Take note of what the watcher says."""
        self.is_beginning = False
        match message:
            case Message(word, (text,)) if word == CHANGED:
                self._restart(text)
            case Message(word, (text,)) if word == NOTICE:
                error_log.info("%s", text)
            case Message(word, (text,)) if word == WARNING:
                error_log.warning("%s", text)

    def ended(self, status: int) -> None:
        """Replace the watcher, which has ended, unless it cannot even begin."""
        self.is_beginning = False
        if self._plan.is_ending:
            return
        how = describe_status(status)
        if time.monotonic() - self._watching_since < _SOON:
            error_log.error("The watcher %s: changes of files are not noticed any more", how)
            return
        self.is_due = True
        # What has changed meanwhile, nobody has seen.
        self._restart(f"the watcher {how}, and is replaced")

    def _restart(self, reason: str) -> None:
        if self._plan.is_ending:
            return
        error_log.info("Restarting: %s", reason)
        self._began = time.monotonic()
        self._broken = ""
        self._plan.restart(self._began)

    def is_broken(self, text: str) -> None:
        """Take note that a worker answers with the reason why it cannot load the application."""
        # All of them say the same.
        if text != self._broken:
            self._broken = text
            error_log.error(
                "The application cannot be loaded, and requests are answered with the reason until "
                "a file changes:\n%s",
                text.rstrip(),
            )

    def restarted(self) -> None:
        """Take note that all workers serve again."""
        if not self._broken:
            error_log.info("Restarted in %.2f s", time.monotonic() - self._began)
