"""Header sections: read once, remembered while clients go on sending them.

A client sends nearly the same fields with each request of a connection, and clients of one kind
send the same ones. What they say is decided by the bytes from the version number to the empty line,
and by nothing else: so these bytes are the key, and the decisions are the value.
"""

import re
from collections.abc import Callable

from ..errors import Refusal
from ..remembered import Remembered
from .framing import request_framing, without_repetitions
from .lines import ordinary_section
from .reader import Reader
from .request import Field, FieldSection, Limits

# The fields that decide about the message, found in a section whose lines are known to be sound.
_DECIDING_FIELD = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|connection|expect):[ \t]*([^\r]*)", re.IGNORECASE
)

# How much is remembered: so many sections of so many bytes and fields. As browsers send them they
# take 6 MB in all; a hostile client can make it 25. It can also make the sections of others be
# forgotten, which costs them no more than being read again. Keys are compared as a whole and hashed
# with Python's secret: neither collisions nor guesses at what others have sent lead anywhere.
# Secrets (cookies, tokens) stay until other sections take their place, and go with the server.
_MOST_SECTIONS = 1024
_LONGEST_SECTION = 4096
_MOST_FIELDS = 40
_MOST_LINES = 1024
_LONGEST_LINE = 200
# A number: bytes look for bytes in bytes twenty times as long.
_UNDERSCORE = ord("_")
# Of a name that a refusal tells.
_LONGEST_NAME_SHOWN = 100


class FieldSections:
    """The header sections of one server. On the loop thread only.

    Arguments: the limits of requests, the library that reads them, and what happens to a field
    whose name holds an underscore: "drop", which tells ``on_dropped(name)``, "refuse", or
    "dangerous", which hands it on as it was sent. ``known`` holds what is remembered, by the bytes
    of the section: only such as passed every check, under these limits.
    """

    __slots__ = (
        "_header_map",
        "_lines",
        "_on_dropped",
        "_remembered",
        "known",
        "limits",
        "reader",
        "unmeasured",
    )

    def __init__(
        self,
        limits: Limits,
        reader: Reader,
        *,
        header_map: str = "dangerous",
        on_dropped: Callable[[bytes], None] | None = None,
    ) -> None:
        self.limits = limits
        self.reader = reader
        self._header_map = header_map
        self._on_dropped = on_dropped
        # A head of up to so many bytes, without its last two line ends, has no line or section that
        # is longer than any limit, so that nothing has to be measured.
        self.unmeasured = min(limits.request_line, limits.field_size, limits.head) - 4
        # Many sections come once only, where proxies or clients number their requests.
        self._remembered = Remembered[bytes, FieldSection](_MOST_SECTIONS, _LONGEST_SECTION)
        self.known = self._remembered.known
        # Single lines, for sections that differ in a few: 0.5 MB at most.
        self._lines: dict[bytes, Field] = {}

    def read_ordinary(self, raw: bytes) -> FieldSection | None:
        """Return a section; None where a ``HeadScanner`` has to look at its head.

        ``raw`` is what stands between "HTTP/" and the empty line of a head that is not longer than
        ``unmeasured``. Raises Refusal with 400, 413, 417 or 501.
        """
        if raw.count(b"\r\n") > self.limits.fields or ordinary_section(raw) is None:
            return None
        return self.read(raw)

    def read(self, raw: bytes) -> FieldSection:
        """Return the section of a head whose lines are known to be sound. Raises the same."""
        version = "HTTP/1.0" if raw.startswith(b"1.0") else "HTTP/1.1"
        framing = request_framing(version, _DECIDING_FIELD.findall(raw), self.limits)
        fields = without_repetitions(self._fields(raw))
        if ambiguous := [name for name, _ in fields if _UNDERSCORE in name]:
            fields = self._mapped(fields, ambiguous)
        section = FieldSection(version, fields, *framing)
        if len(section.fields) <= _MOST_FIELDS:
            self._remembered.note(raw, section, len(raw))
        return section

    def _mapped(self, fields: list[Field], ambiguous: list[bytes]) -> list[Field]:
        """Return the fields that the application may see.

        In the environ X_Forwarded_For is the same key as X-Forwarded-For, and would come past any
        proxy that removes or sets the latter.
        """
        if self._header_map == "dangerous":
            return fields
        if self._header_map == "refuse":
            shown = ambiguous[0][:_LONGEST_NAME_SHOWN].decode("ascii")
            raise Refusal(400, f"the name of the header field {shown} holds an underscore")
        if self._on_dropped is not None:
            for name in ambiguous:
                self._on_dropped(name)
        return [field for field in fields if _UNDERSCORE not in field[0]]

    def _fields(self, raw: bytes) -> list[Field]:
        """Return the fields of a section; only lines that are not remembered are read."""
        lines = raw.split(b"\r\n")[1:]
        known = self._lines
        unknown = [line for line in lines if line not in known]
        if not unknown:
            return [known[line] for line in lines]
        # Lines mean the same in any version.
        read = self.reader.fields(b"\r\n".join([b"1.1", *unknown]))
        new = dict(zip(unknown, read, strict=True))
        fields = [new[line] if line in new else known[line] for line in lines]
        if len(known) + len(new) > _MOST_LINES:
            known.clear()
        known.update((line, field) for line, field in new.items() if len(line) <= _LONGEST_LINE)
        return fields
