"""The warnings that requests are refused, or that header fields are dropped."""

import logging
from collections.abc import Callable

from ..errors import IncompleteRequest, Refusal
from .access import escaped
from .repeats import Repeats

_log = logging.getLogger("aiowsgi.error")

_MAX_NAMES = 100
# Text that a client chooses is cut to so many characters.
_SHOWN = 200


class Refusals:
    """Warns of refused requests: once a minute for each client and reason, and a few in all.

    The argument is ``clock()`` in seconds. Called on the loop thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._repeats = Repeats(clock)

    def note(self, client: str, request_line: str, refusal: Refusal) -> None:
        """Take note of a refusal. ``request_line`` is what is known of it, and may be empty."""
        if isinstance(refusal, IncompleteRequest):
            # A browser was closed, for example. There is nothing to repair.
            _log.debug("Refused a request from %s: %s", client, refusal)
            return
        # If the server is busy, that is no client's fault. So one warning is for all clients.
        rest = self._repeats.note(("" if refusal.retry_after else client, refusal.reason))
        if rest is None:
            return
        _log.warning(
            "Refused %s from %s with %d: %s%s",
            f'"{_shown(request_line)}"' if request_line else "a request",
            client or "a Unix socket",
            refusal.status,
            _shown(refusal.reason),
            rest,
        )


class DroppedFields:
    """Warns of header fields that are dropped, once a name. Called on the loop thread."""

    def __init__(self) -> None:
        self._names: set[bytes] = set()

    def note(self, name: bytes) -> None:
        """Take note of a field whose name holds an underscore."""
        name = name[:_SHOWN]
        if name in self._names or len(self._names) >= _MAX_NAMES:
            return
        self._names.add(name)
        shown = name.decode("latin-1")
        _log.warning(
            "The header field %s is dropped, now and later: its name holds an underscore, and to "
            "the application it would look like %s. Have it sent with dashes, or see "
            "--header-map%s",
            escaped(shown),
            escaped(shown.replace("_", "-")),
            "; further names are not reported" if len(self._names) == _MAX_NAMES else "",
        )


def _shown(text: str) -> str:
    return escaped(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
