"""What the log says of TLS handshakes that fail. On the loop thread."""

import logging
from collections.abc import Callable

from .repeats import Repeats

_log = logging.getLogger("aiowsgi.error")


class HandshakeFailures:
    """Logs why handshakes fail: once a minute for each client and reason, and a few in all.

    The argument is ``clock()`` in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._repeats = Repeats(clock)

    def note(self, client: str, reason: str) -> None:
        """Take note of a failure; the reason is in the server's own words."""
        if (
            _log.isEnabledFor(logging.INFO)
            and (rest := self._repeats.note((client, reason))) is not None
        ):
            _log.info("No TLS with %s: %s%s", client or "a client", reason, rest)

    def note_silence(self, client: str) -> None:
        """Take note that a client has left, or has been too slow, and nothing can be mended."""
        _log.debug("%s left before it had completed the TLS handshake", client or "A client")
