"""What fields tell of a client: read from the right, as far as whoever has told it is trusted.

Each proxy adds whom it has as a client at the right. So what is left of the client has come from
the client itself, or from whom it trusts, and is not looked at.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ...errors import Refusal
from ..grammar import QUOTED_STRING, TOKEN
from ..request import Field
from .names import FOR, FORWARDED, HOST, PORT, PREFIX, PROTO
from .nodes import UNIX, UNKNOWN, Node, parse_node

# Whether a host is that of a proxy that is trusted; empty for a Unix socket.
Trusts = Callable[[str], bool]

# More proxies in a row than anybody has. A client may name as many as fit into a field.
_MOST_HOPS = 100
_SHOWN = 60

# The elements of a field line (RFC 7239 §4): between commas, but not those in a quoted string. One
# begins behind "=" only and ends its pair, so that what a client has left open cannot swallow
# what a proxy has added and close with a quotation mark of that.
_ELEMENTS = re.compile(rf'(?:[^",]++|(?<==){QUOTED_STRING}(?=[ \t]*(?:[;,]|\Z))|,)*', re.DOTALL)
_ELEMENT = re.compile(rf'(?:[^",]++|(?<==){QUOTED_STRING})+', re.DOTALL)
# A pair. A token has no brackets and no colon, but some write addresses without quotation marks.
_PAIR = rf"[ \t]*+({TOKEN})=((?:[!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]++)|{QUOTED_STRING})[ \t]*+"
_BLANK = r"[ \t]*+"
_PAIRS = re.compile(rf"(?:{_PAIR}|{_BLANK})(?:;(?:{_PAIR}|{_BLANK}))*")
_EACH_PAIR = re.compile(_PAIR)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Told(NamedTuple):
    """What is told, as it is written; None where nothing is."""

    client: Node | None
    scheme: str | None
    host: str | None
    port: str | None
    prefix: str | None


def read_x_forwarded(fields: Sequence[Field], chosen: frozenset[bytes], trusts: Trusts) -> Told:
    """Return what the X-Forwarded fields tell, as far as their names are ``chosen``.

    Of a list of k elements or more, where the client is the k-th from the right, that element
    counts; of a shorter one, the left-most. Raises Refusal with 400.
    """
    lists = _lists(fields, chosen)
    # Without a client, what the nearest proxy has added counts.
    hops = 1
    client: Node | None = None
    for hops, text in enumerate(reversed(lists.get(FOR, [])), 1):
        client = parse_node(_unquoted(text))
        if client is None:
            raise _malformed("X-Forwarded-For", text)
        if not _is_proxy(client, trusts, hops):
            break

    def told(name: bytes) -> str | None:
        values = lists.get(name)
        return values[-min(hops, len(values))] if values else None

    return Told(client, told(PROTO), told(HOST), told(PORT), told(PREFIX))


def read_forwarded(fields: Sequence[Field], trusts: Trusts) -> Told:
    """Return what the Forwarded fields tell: what the element says whose ``for`` is the client.

    Raises Refusal with 400.
    """
    client: Node | None = None
    pairs: dict[str, str] = {}
    for hops, element in enumerate(_forwarded_elements(fields), 1):
        pairs = _pairs(element)
        text = pairs.get("for", UNKNOWN)
        client = parse_node(text)
        if client is None:
            raise _malformed("Forwarded", text)
        if not _is_proxy(client, trusts, hops):
            break
    return Told(client, pairs.get("proto") or None, pairs.get("host") or None, None, None)


def _is_proxy(node: Node, trusts: Trusts, hops: int) -> bool:
    """Return whether what a node has told is believed; it is the one that many hops away."""
    if not trusts("" if node.host == UNIX else node.host):
        return False
    if hops == _MOST_HOPS:
        raise Refusal(400, f"the fields of proxies name more than {_MOST_HOPS} that are trusted")
    return True


def _lists(fields: Iterable[Field], chosen: frozenset[bytes]) -> dict[bytes, list[str]]:
    """Return the elements of lists (RFC 9110 §5.6.1), without empty ones, by their names."""
    lists: dict[bytes, list[str]] = {}
    for name, value in fields:
        if name in chosen:
            texts = (text.strip(" \t") for text in value.decode("latin-1").split(","))
            lists.setdefault(name, []).extend(text for text in texts if text)
    return lists


def _unquoted(text: str) -> str:
    """Return a text without quotation marks around it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _forwarded_elements(fields: Sequence[Field]) -> Iterator[str]:
    """Yield the elements of all lines from the right. A line is read when it is their turn."""
    for name, value in reversed(fields):
        if name != FORWARDED:
            continue
        line = value.decode("latin-1")
        if _ELEMENTS.fullmatch(line) is None:
            raise Refusal(
                400, "the Forwarded field has quotation marks that do not enclose a value"
            )
        for element in reversed(_ELEMENT.findall(line)):
            if element.strip(" \t"):
                yield element


def _pairs(element: str) -> dict[str, str]:
    """Return the pairs of an element, their names in lower case."""
    if _PAIRS.fullmatch(element) is None:
        raise _malformed("Forwarded", element.strip(" \t"))
    pairs: dict[str, str] = {}
    for match in _EACH_PAIR.finditer(element):
        name, value = match[1].lower(), match[2]
        if name in pairs:  # RFC 7239 §4: each occurs once only.
            raise _malformed("Forwarded", element.strip(" \t"))
        pairs[name] = _ESCAPED.sub(r"\1", value[1:-1]) if value[0] == '"' else value
    return pairs


def _malformed(field: str, text: str) -> Refusal:
    return Refusal(400, f"the {field} field does not tell the client: {text[:_SHOWN]!r}")
