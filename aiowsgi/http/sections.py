"""Header sections: read once, then taken from a cache while clients send the same bytes.

A client sends nearly the same fields with each request of a connection, and clients of one kind
send the same ones. What a section means depends only on the bytes from the version number to the
empty line. So these bytes are the key of the cache, and what was decided from them is the value.

Sections that hold something of one request differ from others in a few lines. If these decide
nothing, what was decided of another section is a precedent. And what a single line says depends on
nothing else, so lines are cached as well.

Heads that come as a whole again and again, as from programs that ask for the same thing every
second, are cached as a whole.
"""

from collections.abc import Callable, Mapping
from operator import eq
from typing import cast

from ..cache import Cache
from ..errors import Refusal
from .forwarded.names import ALL_NAMES
from .forwarded.policies import ForwardedPolicy
from .framing import DECIDING, decide_framing, without_repetitions
from .lines import match_field_line, match_simple_line
from .meta_variables import meta_variable
from .readers.reader import Reader
from .request import Field, FieldSection, Limits, MetaVariable, RequestHead

# The limits of the cache: how many sections, and how many bytes and fields each. Sections as
# browsers send them take 6 MB in all; a hostile client can make it 28. It can also drive out the
# sections of others, which costs no more than to read them again. Keys are compared byte by byte,
# and hashed with a secret of the interpreter. So an attacker can neither make keys collide, nor
# find out what others have sent. Secrets in sections (cookies, tokens) stay in memory until other
# sections take their place, or the server is gone. All this is true of lines, too: those of
# browsers take 0.6 MB, a hostile client can make it 1.3. And of each number of lines that a cached
# section may have, there is one precedent, whatever it holds. The same goes for whole heads, whose
# request lines may hold secrets as well: those of browsers take 1 MB, a hostile client can make it
# 9, because each keeps its section, too.
_MAX_SECTIONS = 1024
_MAX_SECTION_SIZE = 4096
_MAX_FIELDS = 40
_MAX_LINES = 1024
_MAX_LINE_SIZE = 200
_MAX_HEADS = 256
_MAX_HEAD_SIZE = 4096
_ORDINARY_VERSIONS = (b"1.1\r\n", b"1.0\r\n")
# As a number: to look for a number in bytes is twenty times as fast as to look for bytes.
_UNDERSCORE = ord("_")
# How many bytes of a field name a refusal shows.
_MAX_NAME_SHOWN = 100

# The names of all fields whose values decide anything.
_DECIDING = DECIDING | ALL_NAMES


# What a field line says: the field, and the same as an environ has it.
_Line = tuple[Field, MetaVariable]


def _line(name: bytes, value: bytes) -> _Line:
    return (name, value), meta_variable(name, value)


def _parts(lines: list[_Line]) -> tuple[list[Field], list[MetaVariable]]:
    """Return the fields of some lines, and the same as an environ has them."""
    if not lines:
        return [], []
    # Two loops would take twice as long.
    fields, variables = zip(*lines)  # noqa: B905
    return list(fields), list(variables)


class _Precedent:
    """A section whose decisions hold for all that are like it, and the lines that it was sent in.

    Like it are those that differ in nothing but values that decide nothing.
    """

    __slots__ = ("_section", "_sent", "_variables")

    def __init__(
        self, sent: list[bytes], section: FieldSection, variables: list[MetaVariable]
    ) -> None:
        self._sent = sent
        self._section = section
        self._variables = variables

    def applied_to(self, sent: list[bytes]) -> FieldSection | None:
        """Return the section that was sent in as many lines; None if it is not like this one."""
        same = list(map(eq, sent, self._sent))
        fields, variables = self._section.fields.copy(), self._variables.copy()
        place = -1
        for _ in range(same.count(False)):
            place = same.index(False, place + 1)
            if (match := match_simple_line(sent[place])) is None:
                return None  # This may also be the first line, which is the version.
            name, value = match[1].lower(), match[2].rstrip(b" ")
            own_name, _ = fields[place - 1]
            key, _ = variables[place - 1]
            if name != own_name or name in _DECIDING:
                return None
            fields[place - 1] = (name, value)
            variables[place - 1] = (key, value.decode("ascii"))
        return self._section.with_fields(fields, variables)


class FieldSections:
    """Reads the header sections of one server, and caches them. Used on the loop thread only.

    Arguments: the limits of requests; the library that reads fields; ``header_map``, what happens
    to a field whose name holds an underscore: "drop" drops it and calls ``on_dropped(name)``,
    "refuse" refuses the request, and "dangerous" passes the field on as it was sent; and what
    happens to the fields of proxies, None if they are as any other. ``known`` holds the cached
    sections by their bytes, and ``known_heads`` whole heads, with the empty line, of requests
    without a body. All of them have passed every check.
    """

    __slots__ = (
        "_cache",
        "_forwarded",
        "_header_map",
        "_heads",
        "_lines",
        "_on_dropped",
        "_precedents",
        "known",
        "known_heads",
        "last_size",
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
        self._heads = Cache[bytes, RequestHead](_MAX_HEADS, _MAX_HEAD_SIZE)
        self.known_heads = self._heads.known
        # The size of the last head that may be one of those, for new connections.
        self.last_size = 0
        # Only lines that are well formed, whatever section they were in.
        self._lines = Cache[bytes, _Line](_MAX_LINES, _MAX_LINE_SIZE)
        # By their number of lines, the last sections that were not like the one before.
        self._precedents: dict[int, _Precedent] = {}

    def read_ordinary(self, raw: bytes) -> FieldSection | None:
        """Return a section; None if a ``HeadScanner`` has to check the head line by line.

        ``raw`` are the bytes between "HTTP/" and the empty line of a head that is not longer than
        ``max_unmeasured``. Raises Refusal with 400, 413, 417 or 501.
        """
        return self.read(raw) if raw[:5] in _ORDINARY_VERSIONS else None

    def read(self, raw: bytes) -> FieldSection | None:
        """Return the section of a version that is served; None for what a ``HeadScanner`` refuses.

        Raises like ``read_ordinary``.
        """
        sent = raw.split(b"\r\n")
        precedent = self._precedents.get(len(sent))
        if precedent is not None and (section := precedent.applied_to(sent)) is not None:
            self._cache.offer(raw, section, len(raw))
            return section
        lines = self._lines_of(sent[1:])
        if lines is None:
            return None
        fields, variables = _parts(lines)
        # The last value of each name.
        values = dict(fields)
        version = "HTTP/1.0" if sent[0] == b"1.0" else "HTTP/1.1"
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
        if len(section.fields) == len(fields):  # Else some were dropped.
            section.meta_variables = variables
        if len(section.fields) <= _MAX_FIELDS:
            self._cache.offer(raw, section, len(raw))
            # No field was dropped, not even because it was repeated.
            if len(section.fields) == len(sent) - 1 and len(raw) <= _MAX_SECTION_SIZE:
                self._precedents[len(sent)] = _Precedent(sent, section, variables)
        return section

    def offer_head(self, sent: bytes, head: RequestHead) -> None:
        """Keep a head that has no body, if the same bytes were sent before."""
        self._heads.offer(sent, head, len(sent))
        head.is_kept = sent in self.known_heads

    def variables_for(self, section: FieldSection, host: str) -> Mapping[str, str] | None:
        """Return the variables of a request whose target names another host than its section."""
        policy = self._forwarded
        return None if policy is None else policy.variables(section, host)

    def _mapped(self, lines: list[_Line], ambiguous: list[bytes]) -> list[_Line]:
        """Return the fields that the application may see. ``ambiguous`` names hold an underscore.

        In the environ, X_Forwarded_For has the same key as X-Forwarded-For. So a client could get
        it past a proxy that removes or sets the field with dashes.
        """
        if self._header_map == "dangerous":
            return lines
        if self._header_map == "refuse":
            shown = ambiguous[0][:_MAX_NAME_SHOWN].decode("ascii")
            refusal = Refusal(400, f"the name of the header field {shown} holds an underscore")
            if self._forwarded is not None:
                refusal.told_client = self._forwarded.client([field for field, _ in lines])
            raise refusal
        if self._on_dropped is not None:
            for name in ambiguous:
                self._on_dropped(name)
        return [line for line in lines if _UNDERSCORE not in line[0][0]]

    def _lines_of(self, sent: list[bytes]) -> list[_Line] | None:
        """Return what lines say; None if there are too many, or one is malformed."""
        if len(sent) > self.limits.fields:
            return None
        found: list[_Line | None] = list(map(self._lines.known.get, sent))
        # None for those that are new. A compiled module would not let a list of lines hold that.
        new = [place for place, line in enumerate(found) if line is None]
        unusual: list[int] = []
        for place in new:
            if (match := match_simple_line(sent[place])) is not None:
                found[place] = _line(match[1].lower(), match[2].rstrip(b" "))
            elif match_field_line(sent[place]) is not None:
                unusual.append(place)
            else:
                return None
        if unusual:
            # All at once: what a library does once for a section takes longer than any line.
            fields = self._read([sent[place] for place in unusual])
            for place, (name, value) in zip(unusual, fields, strict=True):
                found[place] = _line(name, value)
        lines = cast(list[_Line], found)
        ambiguous: list[bytes] = []
        for place in new:
            name, _ = lines[place][0]
            if _UNDERSCORE in name:
                ambiguous.append(name)  # Not cached, so that each request reports it.
            else:
                self._lines.offer(sent[place], lines[place], len(sent[place]))
        return self._mapped(lines, ambiguous) if ambiguous else lines

    def _read(self, lines: list[bytes]) -> list[Field]:
        """Return what the library makes of some lines."""
        # A line means the same in every version of HTTP/1.
        fields = self.reader.fields(b"\r\n".join([b"1.1", *lines]))
        for line, field in zip(lines, fields, strict=True):
            name, _, value = line.partition(b":")
            assert field == (name.lower(), value.strip(b" \t"))  # The library agrees with us.
        return fields
