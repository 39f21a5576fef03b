"""Header sections: read once, then taken from a cache while clients send the same bytes.

A client sends nearly the same fields with each request of a connection, and clients of one kind
send the same ones. What a section means depends only on the bytes from the version number to the
empty line. So these bytes are the key of the cache, and what was decided from them is the value.
"""

from collections.abc import Callable, Mapping
from typing import cast

from ..cache import Cache
from ..errors import Refusal
from .forwarded.names import ALL_NAMES
from .forwarded.policies import ForwardedPolicy
from .framing import decide_framing, without_repetitions
from .lines import match_ordinary_section
from .readers.reader import Reader
from .request import Field, FieldSection, Limits

# The limits of the cache: how many sections, and how many bytes and fields each. Sections as
# browsers send them take 6 MB in all; a hostile client can make it 25. It can also drive out the
# sections of others, which costs no more than to read them again. Keys are compared byte by byte,
# and hashed with a secret of the interpreter. So an attacker can neither make keys collide, nor
# find out what others have sent. Secrets in sections (cookies, tokens) stay in memory until other
# sections take their place, or the server is gone.
_MAX_SECTIONS = 1024
_MAX_SECTION_SIZE = 4096
_MAX_FIELDS = 40
_MAX_LINES = 1024
_MAX_LINE_SIZE = 200
# As a number: to look for a number in bytes is twenty times as fast as to look for bytes.
_UNDERSCORE = ord("_")
# How many bytes of a field name a refusal shows.
_MAX_NAME_SHOWN = 100


class FieldSections:
    """Reads the header sections of one server, and caches them. Used on the loop thread only.

    Arguments: the limits of requests; the library that reads fields; ``header_map``, what happens
    to a field whose name holds an underscore: "drop" drops it and calls ``on_dropped(name)``,
    "refuse" refuses the request, and "dangerous" passes the field on as it was sent; and what
    happens to the fields of proxies, None if they are as any other. ``known`` holds the cached
    sections by their bytes. All of them have passed every check.
    """

    __slots__ = (
        "_cache",
        "_forwarded",
        "_header_map",
        "_lines",
        "_on_dropped",
        "known",
        "limits",
        "max_unmeasured",
        "reader",
    )

    def __init__(
        self,
        limits: Limits,
        reader: Reader,
        *,
        header_map: str,
        on_dropped: Callable[[bytes], None] | None = None,
        forwarded: ForwardedPolicy | None = None,
    ) -> None:
        self.limits = limits
        self.reader = reader
        self._header_map = header_map
        self._on_dropped = on_dropped
        self._forwarded = forwarded
        # A head of up to so many bytes, without its last two line ends, cannot exceed any limit on
        # bytes. So its lines need not be measured.
        self.max_unmeasured = min(limits.request_line, limits.field_size, limits.head) - 4
        # Many sections are sent once only, because proxies or clients number their requests.
        self._cache = Cache[bytes, FieldSection](_MAX_SECTIONS, _MAX_SECTION_SIZE)
        self.known = self._cache.known
        # Single lines, for sections that differ in a few lines only: 0.5 MB at most.
        self._lines: dict[bytes, Field] = {}

    def read_ordinary(self, raw: bytes) -> FieldSection | None:
        """Return a section; None if a ``HeadScanner`` has to check the head line by line.

        ``raw`` are the bytes between "HTTP/" and the empty line of a head that is not longer than
        ``max_unmeasured``. Raises Refusal with 400, 413, 417 or 501.
        """
        if raw.count(b"\r\n") > self.limits.fields or match_ordinary_section(raw) is None:
            return None
        return self.read(raw)

    def read(self, raw: bytes) -> FieldSection:
        """Return the section of a head whose lines are checked. Raises like ``read_ordinary``."""
        version = "HTTP/1.0" if raw.startswith(b"1.0") else "HTTP/1.1"
        fields = self._fields(raw)
        # The last value of each name.
        values = dict(fields)
        policy = self._forwarded
        try:
            section = decide_framing(version, fields, values, self.limits)
            if len(values) < len(fields):
                section.fields = without_repetitions(fields)
            if policy is not None and not ALL_NAMES.isdisjoint(values):
                policy.apply(section)
        except Refusal as refusal:
            if policy is not None:
                refusal.told_client = policy.client(fields)
            raise
        if len(section.fields) <= _MAX_FIELDS:
            self._cache.offer(raw, section, len(raw))
        return section

    def variables_for(self, section: FieldSection, host: str) -> Mapping[str, str] | None:
        """Return the variables of a request whose target names another host than its section."""
        policy = self._forwarded
        return None if policy is None else policy.variables(section, host)

    def _mapped(self, fields: list[Field], ambiguous: list[bytes]) -> list[Field]:
        """Return the fields that the application may see. ``ambiguous`` names hold an underscore.

        In the environ, X_Forwarded_For has the same key as X-Forwarded-For. So a client could get
        it past a proxy that removes or sets the field with dashes.
        """
        if self._header_map == "dangerous":
            return fields
        if self._header_map == "refuse":
            shown = ambiguous[0][:_MAX_NAME_SHOWN].decode("ascii")
            refusal = Refusal(400, f"the name of the header field {shown} holds an underscore")
            if self._forwarded is not None:
                refusal.told_client = self._forwarded.client(fields)
            raise refusal
        if self._on_dropped is not None:
            for name in ambiguous:
                self._on_dropped(name)
        return [field for field in fields if _UNDERSCORE not in field[0]]

    def _fields(self, raw: bytes) -> list[Field]:
        """Return the fields of a section. Only lines that are not cached are read."""
        lines = raw.split(b"\r\n")[1:]
        known = self._lines
        fields = list(map(known.get, lines))
        unknown = [place for place, field in enumerate(fields) if field is None]
        if not unknown:
            return cast(list[Field], fields)
        # A line means the same in every version of HTTP/1.
        read = self.reader.fields(b"\r\n".join([b"1.1", *[lines[place] for place in unknown]]))
        if len(known) + len(read) > _MAX_LINES:
            known.clear()
        ambiguous: list[bytes] = []
        for place, field in zip(unknown, read, strict=True):
            fields[place] = field
            line = lines[place]
            name, _, value = line.partition(b":")
            assert field == (name.lower(), value.strip(b" \t"))  # The library agrees with us.
            if _UNDERSCORE in name:
                ambiguous.append(field[0])  # Not cached, so that each request reports it.
            elif len(line) <= _MAX_LINE_SIZE:
                known[line] = field
        whole = cast(list[Field], fields)
        return self._mapped(whole, ambiguous) if ambiguous else whole
