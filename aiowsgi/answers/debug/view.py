"""What both forms of the answer show. Data only."""

import re
from dataclasses import dataclass

from .traces import ShownError

# Control characters, but for tabs and line ends: some would be obeyed by a terminal. And halves of
# characters, which have no bytes.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One failure, and the request in which it happened, if there is one."""

    # The sentence that the log has, with what is wrong and how to mend it.
    summary: str
    # That part of it; empty where the exception says it all.
    advice: str
    # Whether the application has broken PEP 3333, and so raised nothing itself.
    broke_the_rules: bool
    # None where no exception was raised: the summary says it all.
    errors: tuple[ShownError, ...]
    # Empty where it happened in no request.
    request_line: str = ""
    # In the order in which they were sent; what is hidden says so.
    fields: tuple[tuple[str, str], ...] = ()
    # Why this is shown, as the rest of a sentence.
    reason: str = "debug is on"


def visible(text: str) -> str:
    """Return a text with escapes in place of what a person cannot see and a terminal may obey."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
