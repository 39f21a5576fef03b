"""Request targets and authorities (RFC 9112 §3.2, RFC 9110 §4.2, RFC 3986 §3.2)."""

import re

from ..errors import Refusal

_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=]*+"
_AUTHORITY = re.compile(
    rf"(?:\[([^\]]*)\]|{_NAME}(?:%[0-9A-Fa-f]{{2}}{_NAME})*)"
    r"(?::[0-9]*+)?"
)
_FUTURE_LITERAL = re.compile(r"v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+")
_ABSOLUTE_FORM = re.compile(r"http(s?)://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE)


def is_authority(text: str) -> bool:
    """Return whether ``text`` is ``host[:port]``, without a user name. The host may be empty."""
    if (match := _AUTHORITY.fullmatch(text)) is None:
        return False
    literal = match[1]  # An IPv6 address in brackets, or None.
    if literal is None or _FUTURE_LITERAL.fullmatch(literal):
        return True
    # Imported here: it takes 300 KiB of memory, and few clients send an IPv6 address.
    from ipaddress import AddressValueError, IPv6Address

    try:
        IPv6Address(literal)
    except AddressValueError:
        return False
    # A zone means something on one machine only, and must not be sent (RFC 6874 §4).
    return "%" not in literal


def split_target(
    method: str, target: str, *, is_secured: bool = False
) -> tuple[str, str, str | None]:
    """Return path, query and authority of a request target.

    The authority is None unless the target is in absolute-form; the path is empty for
    ``OPTIONS *``. ``is_secured`` says whether the request has come over TLS. Raises Refusal with
    400, with 421 for https without TLS, or with 501 for CONNECT.
    """
    if method == "CONNECT":
        raise Refusal(501, "this server is not a proxy: CONNECT is not supported")
    if "#" in target:
        raise Refusal(400, "the request target holds a fragment")
    if target[0] == "/":
        path, _, query = target.partition("?")
        return path, query, None
    if target == "*" and method == "OPTIONS":
        return "", "", None
    if (match := _ABSOLUTE_FORM.fullmatch(target)) is not None:
        secure, authority, path, query = match[1], match[2], match[3] or "/", match[4] or ""
        # An empty host makes an http URI invalid (RFC 9110 §4.2.1).
        if authority and authority[0] != ":" and is_authority(authority):
            if secure and not is_secured:
                # RFC 9110 §7.4: the connection of this request is not secured.
                raise Refusal(421, "an https URL is not served over a cleartext connection")
            return path, query, authority
    raise Refusal(400, "the request target is neither a path that starts with '/' nor a URL")
