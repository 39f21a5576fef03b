"""Header fields as an environ has them: protocol-specific meta-variables (RFC 3875 §4.1.18)."""

from functools import lru_cache

from .request import MetaVariable

_MAX_KNOWN_NAME_SIZE = 64


def _key(name: bytes) -> str:
    key = name.decode("ascii").upper().replace("-", "_")
    # Content_Type, if ``header_map`` lets it in, is another field than Content-Type.
    return key if name in (b"content-type", b"content-length") else f"HTTP_{key}"


_known_key = lru_cache(maxsize=1024)(_key)


def meta_variable(name: bytes, value: bytes) -> MetaVariable:
    """Return a field; its name is in lower case."""
    # Long names are not cached. Clients choose the names, and so all of them take 64 KiB at most.
    key = _known_key(name) if len(name) <= _MAX_KNOWN_NAME_SIZE else _key(name)
    return key, value.decode("latin-1")
