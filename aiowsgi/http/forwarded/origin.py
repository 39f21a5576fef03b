"""From what is told of a client's request to the variables of the environ that follow."""

import re
from collections.abc import Mapping

from ...errors import Refusal
from ..target import is_authority
from .told import Told

# Proxies that pass WebSockets on tell the scheme of these.
_SCHEMES: Mapping[str, str] = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_DEFAULT_PORTS: Mapping[str, str] = {"http": "80", "https": "443"}

# The segments of a path (RFC 3986 §3.3), none of them empty.
_PREFIX = re.compile(r"(?:/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)*")
# What a path may not hold, once it is decoded: segments that lead elsewhere, and what programs
# take for a separator or for the end of a line.
_MISLEADING = re.compile(r"/\.{1,2}(?:/|\Z)|[\x00-\x1f\x7f\\]")
_SHOWN = 60


def environ_of(told: Told, host: str | None, *, scheme: str, script_name: str) -> dict[str, str]:
    """Return the variables that follow from what is told; those of which nothing is told are left.

    Arguments: the Host of the request, or None; the scheme of the connection; and what follows the
    prefix that is told, as ``SCRIPT_NAME``. Raises Refusal with 400.
    """
    variables: dict[str, str] = {}
    if told.client is not None:
        variables["REMOTE_ADDR"], variables["REMOTE_PORT"] = told.client
    if told.scheme is not None:
        told_scheme = variables["wsgi.url_scheme"] = _scheme(told.scheme)
        if told_scheme == "https":
            variables["HTTPS"] = "on"
        elif scheme == "https":  # Of the connection, which has said so.
            variables["HTTPS"] = "off"
        scheme = told_scheme
    if told.scheme is not None or told.host is not None or told.port is not None:
        _add_server(variables, told, host, _DEFAULT_PORTS[scheme])
    if told.prefix is not None:
        variables["SCRIPT_NAME"] = _prefix(told.prefix) + script_name
    return variables


def _add_server(
    variables: dict[str, str], told: Told, sent_host: str | None, default_port: str
) -> None:
    """Add what a client has connected to, as far as it is told or can be concluded."""
    port = None if told.port is None else _port(told.port, "the port")
    host = sent_host
    if told.host is not None:
        host = told.host
        if not is_authority(host) or host[0] == ":":
            raise _malformed("the host", host)
    if not host or host[0] == ":":
        # Nobody has named the server. Its own name is as good as before.
        if port is not None:
            variables["SERVER_PORT"] = port
        return
    name, port_of_host = _split(host)
    if port is None:
        if told.host is not None:
            variables["HTTP_HOST"] = host
        port = _port(port_of_host, "the port of the host") if port_of_host else default_port
    else:
        variables["HTTP_HOST"] = name if port == default_port else f"{name}:{port}"
    variables["SERVER_NAME"], variables["SERVER_PORT"] = name, port


def _split(host: str) -> tuple[str, str]:
    """Return the name and the port of ``host[:port]``; IPv6 keeps its brackets (RFC 3875 §4.1)."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (host, "")


def _port(text: str, what: str) -> str:
    if not re.fullmatch("0{0,9}[0-9]{1,5}", text, re.ASCII) or not 0 < int(text) < 65536:
        raise _malformed(what, text)
    return str(int(text))


def _scheme(text: str) -> str:
    scheme = _SCHEMES.get(text.lower())
    if scheme is None:
        raise _malformed("the scheme", text)
    return scheme


def _prefix(text: str) -> str:
    """Return a prefix as an environ has it: decoded, without a slash at its end."""
    path = text.removesuffix("/")
    if _PREFIX.fullmatch(path) is None:
        raise _malformed("the prefix", text)
    if "%" in path:
        if "%2f" in path.lower():
            raise _malformed("the prefix", text)
        # Here, because it takes 370 KiB, and hardly a prefix is encoded.
        from urllib.parse import unquote_to_bytes

        path = unquote_to_bytes(path).decode("latin-1")
    if _MISLEADING.search(path) is not None:
        raise _malformed("the prefix", text)
    return path


def _malformed(what: str, text: str) -> Refusal:
    return Refusal(400, f"{what} that proxies tell is none: {text[:_SHOWN]!r}")
