"""The warnings that requests are refused, or lose a header field. Knows data only."""

import logging
from collections.abc import Callable

from ..errors import IncompleteRequest, Refusal
from .access import escaped

_log = logging.getLogger("aiowsgi.error")

# The same is not said again within so many seconds, and all together not more often than that.
_INTERVAL = 60.0
_MOST_WARNINGS = 30
_MOST_NAMES = 100
# So much is shown of what a client may choose, in characters.
_SHOWN = 200


class Refusals:
    """Warns of refused requests, once a minute for each client and reason, and of few in all.

    The argument is ``clock()`` in seconds. Called on the loop thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # When what was said of whom, the oldest first; only what was said in this minute.
        self._said: dict[tuple[str, str], float] = {}
        # Since the last warning.
        self._untold = 0

    def note(self, client: str, request_line: str, refusal: Refusal) -> None:
        """Take note of a refusal; the request line is empty as far as it is not known."""
        if isinstance(refusal, IncompleteRequest):
            # Somebody closed a browser; nobody has anything to mend.
            _log.debug("Refused a request from %s: %s", client, refusal)
            return
        now = self._clock()
        said = self._said
        while said and now - said[oldest := next(iter(said))] >= _INTERVAL:
            del said[oldest]
        # That the server is busy is no client's fault, and is said once for all.
        key = ("" if refusal.retry_after else client, refusal.reason)
        if key in said or len(said) >= _MOST_WARNINGS:
            self._untold += 1
            return
        said[key] = now
        _log.warning(
            "Refused %s from %s with %d: %s%s",
            f'"{_shown(request_line)}"' if request_line else "a request",
            client or "a Unix socket",
            refusal.status,
            _shown(refusal.reason),
            f" (not shown since the last one: {self._untold})" if self._untold else "",
        )
        self._untold = 0


class DroppedFields:
    """Warns of header fields that are dropped, once a name. Called on the loop thread."""

    def __init__(self) -> None:
        self._names: set[bytes] = set()

    def note(self, name: bytes) -> None:
        """Take note of a field whose name holds an underscore."""
        name = name[:_SHOWN]
        if name in self._names or len(self._names) >= _MOST_NAMES:
            return
        self._names.add(name)
        shown = name.decode("latin-1")
        _log.warning(
            "The header field %s is dropped, now and later: its name holds an underscore, and to "
            "the application it would look like %s. Have it sent with dashes, or see "
            "--header-map%s",
            escaped(shown),
            escaped(shown.replace("_", "-")),
            "; further names are not reported" if len(self._names) == _MOST_NAMES else "",
        )


def _shown(text: str) -> str:
    return escaped(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
