"""Header sections: read once, remembered while clients go on sending them.

A client sends nearly the same fields with each request of a connection, and clients of one kind
send the same ones. What they say is decided by the bytes from the version number to the empty line,
and by nothing else: so these bytes are the key, and the decisions are the value.
"""

from collections.abc import Callable
from typing import cast

from ..errors import Refusal
from ..remembered import Remembered
from .framing import framed, without_repetitions
from .lines import ordinary_section
from .readers.reader import Reader
from .request import Field, FieldSection, Limits

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
        header_map: str,
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
        fields = self._fields(raw)
        # One of each name.
        values = dict(fields)
        section = framed(version, fields, values, self.limits)
        if len(values) < len(fields):
            section.fields = without_repetitions(fields)
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
        fields = list(map(known.get, lines))
        unknown = [place for place, field in enumerate(fields) if field is None]
        if not unknown:
            return cast(list[Field], fields)
        # Lines mean the same in any version.
        read = self.reader.fields(b"\r\n".join([b"1.1", *[lines[place] for place in unknown]]))
        if len(known) + len(read) > _MOST_LINES:
            known.clear()
        ambiguous: list[bytes] = []
        for place, field in zip(unknown, read, strict=True):
            fields[place] = field
            line = lines[place]
            name, _, value = line.partition(b":")
            assert field == (name.lower(), value.strip(b" \t"))  # Two readers of one line agree.
            if _UNDERSCORE in name:
                ambiguous.append(field[0])  # Not remembered, so that it is always found.
            elif len(line) <= _LONGEST_LINE:
                known[line] = field
        whole = cast(list[Field], fields)
        return self._mapped(whole, ambiguous) if ambiguous else whole
