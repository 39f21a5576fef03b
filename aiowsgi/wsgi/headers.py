"""Checks what an application passes to ``start_response`` by PEP 3333 and RFC 9110."""

import logging
import re
from functools import cache, lru_cache
from typing import Any
from wsgiref.util import is_hop_by_hop

from ..cache import Cache
from ..errors import ApplicationError

Fields = tuple[tuple[str, str], ...]
_Start = tuple[str, Fields]

_log = logging.getLogger("aiowsgi.error")

_STATUS = re.compile(r"[1-9][0-9]{2} [\t\x20-\x7e\x80-\xff]*")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_LENGTH = re.compile(r"[0-9]{1,18}")
_MAX_NAME_SIZE = 64
# The limits of the cache: how many heads, and how many bytes each. That is 2 MB at most. A field
# takes _FIELD_SIZE bytes of memory besides its characters.
_MAX_HEADS = 512
_MAX_HEAD_SIZE = 4096
_FIELD_SIZE = 160


def check_status(status: Any) -> str:
    """Return the status as a plain str. Raises ApplicationError if it is malformed."""
    if isinstance(status, bytes):
        raise ApplicationError(
            f"start_response got the status as bytes ({status!r}); decode it: .decode('latin-1')"
        )
    if not isinstance(status, str):
        raise ApplicationError(
            f"start_response got {status!r} as status; write a str such as '200 OK'"
        )
    # A subclass of str may format itself as another text. So the characters that are checked are
    # the ones that are sent.
    text: str = str.__str__(status)
    if _STATUS.fullmatch(text) is None:
        raise ApplicationError(
            f"start_response got the status {text!r}; "
            "write three digits, a space and a reason, such as '200 OK'"
        )
    return text


# Fields about the connection, which belongs to the server (RFC 9110 §7.6.1). The response means the
# same without them, so they are left out. Some proxies, and examples for event streams, set them.
_LEFT_TO_SERVER = frozenset({"connection", "keep-alive", "proxy-connection", "trailer"})


# If two threads call it at the same time, the warning is logged twice, which does no harm.
@cache
def warn_of_ignored(name: str) -> None:
    """Warn, once in a process, that a field of the application is left out."""
    _log.warning(
        "The application sets the header %s, which is the server's and is left out; of such "
        "headers only 'Connection: close' has an effect. Remove it; this is said once",
        name.title(),
    )


def _asks_for_close(value: str) -> bool:
    """Return whether a Connection field asks for the end of the connection."""
    options = {option.strip(" \t").lower() for option in value.split(",")}
    if "upgrade" in options:
        raise ApplicationError(
            "the header 'Connection' announces an upgrade, which this server does not do; remove it"
        )
    return "close" in options


def _check_name(name: str) -> str:
    """Return a field name in lower case. Raises ApplicationError if it is not allowed."""
    if _NAME.fullmatch(name) is None:
        raise ApplicationError(f"the header name {name!r} is not a token (RFC 9110 §5.1)")
    lower = name.lower()
    if is_hop_by_hop(name) and lower not in _LEFT_TO_SERVER:
        raise ApplicationError(
            f"the header {name!r} is hop-by-hop: it belongs to the server (PEP 3333); remove it"
        )
    return lower


# An application uses few names, and each is checked once. All servers may share this cache, because
# names are no secrets.
_known_name = lru_cache(maxsize=1024)(_check_name)


def check_fields(headers: Any) -> Fields:
    """Return a copy of the header fields. Raises ApplicationError if one is malformed."""
    if not isinstance(headers, (list, tuple)):
        raise ApplicationError(
            f"start_response got the headers as {type(headers).__name__}; "
            "write a list of (name, value) tuples"
        )
    return _check_each(tuple(headers))


def _check_each(headers: tuple[Any, ...]) -> Fields:
    fields: list[tuple[str, str]] = []
    lengths = 0
    for item in headers:
        if not isinstance(item, tuple) or len(item) != 2:
            raise ApplicationError(f"the header {item!r} is not a (name, value) tuple")
        name, value = item
        if not (isinstance(name, str) and isinstance(value, str)):
            raise ApplicationError(_not_text(item))
        # As in ``check_status``.
        name, value = str.__str__(name), str.__str__(value)
        lower = _known_name(name) if len(name) <= _MAX_NAME_SIZE else _check_name(name)
        # Most values are printable ASCII, and these two tests are faster than the search.
        if not (value.isascii() and value.isprintable()) and _NOT_IN_VALUE.search(value):
            raise ApplicationError(
                f"the header {name!r} has the value {value!r}, which holds a line break, another "
                "control character or a character outside latin-1; remove or encode it"
            )
        if lower in _LEFT_TO_SERVER:
            if lower != "connection" or not _asks_for_close(value):
                warn_of_ignored(lower)
                continue
            # The one spelling that the rest of the server looks for.
            value = "close"
        elif lower == "content-length":
            lengths += 1
            if lengths > 1 or _LENGTH.fullmatch(value) is None:
                raise ApplicationError(
                    f"Content-Length is {value!r}; give it once, as a decimal number of bytes"
                )
        fields.append((name, value))
    return tuple(fields)


class HeaderChecks:
    """Calls ``check_status`` and ``check_fields`` for one server, and caches what has passed.

    Most applications answer with the same few heads again and again. Used on any thread.
    """

    __slots__ = ("_cache", "_known")

    def __init__(self) -> None:
        self._cache = Cache[_Start, _Start](_MAX_HEADS, _MAX_HEAD_SIZE)
        self._known = self._cache.known

    def check(self, status: Any, headers: Any) -> _Start:
        """Return status and fields as they are sent. Raises ApplicationError for malformed ones."""
        if type(headers) is not list:
            return check_status(status), check_fields(headers)
        given = tuple(headers)
        try:
            known = self._known.get((status, given))
        except TypeError:  # Something in it cannot be hashed, so it is not a tuple of str.
            known = None
        if known is not None:
            return known
        # The cache keeps plain str only. An object of a subclass may hold more memory than its
        # text.
        text, fields = sound = check_status(status), _check_each(given)
        size = sum(len(name) + len(value) + _FIELD_SIZE for name, value in fields)
        self._cache.offer(sound, sound, len(text) + size)
        return sound


def _not_text(item: tuple[Any, Any]) -> str:
    """Return what is wrong with a header that is not a pair of str."""
    if any(isinstance(part, bytes) for part in item):
        return f"the header {item!r} holds bytes; decode it: .decode()"
    culprit = next(part for part in item if not isinstance(part, str))
    return f"the header {item!r} holds {type(culprit).__name__}; convert it: str(...)"
