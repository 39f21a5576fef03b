"""The uwsgi protocol: what nginx speaks behind ``uwsgi_pass``, and Apache behind mod_proxy_uwsgi.

A request is one packet of variables, as in CGI, and the body behind it. The answer is an ordinary
HTTP response. There is one request on a connection. The protocol is described at
https://uwsgi-docs.readthedocs.io/en/latest/Protocol.html; what nginx sends, its module
``ngx_http_uwsgi_module`` decides.

The client here is a web server, and it is trusted: it says who its own client is. But the header
fields, the target and the body are that client's, and they are checked as strictly as over HTTP.
"""

import re
from collections.abc import Iterator

from ..errors import IncompleteRequest, Refusal
from ..exchange.info import ConnectionInfo
from ..exchange.interfaces import Codec
from ..http.framing import decide_framing, without_repetitions
from ..http.grammar import TOKEN
from ..http.request import (
    END_OF_MESSAGE,
    MAX_SHOWN_LINE,
    BodyData,
    Event,
    Field,
    Limits,
    RequestHead,
    RequestParser,
)
from ..http.response import ResponseEncoder, ResponseHeads
from ..http.target import split_target
from ..wording import counted

# modifier1 (one byte), the size of the variables (two, the lower first), modifier2 (one byte).
_HEADER_SIZE = 4
# So many characters of a name are shown where its request is refused.
_SHOWN_NAME = 100
# How a record of a TLS handshake begins (RFC 8446 §5.1).
_TLS_HANDSHAKE = 0x16
# How a header of the PROXY protocol, version 2, begins.
_PROXY_HEADER = 0x0D
# The modifier1 for uWSGI to take SCRIPT_NAME out of PATH_INFO.
_MANAGED_BELOW_PATH = 30

# A variable of the web server, whose administrator names it: no dot, so that nothing of "wsgi." is
# ever set. And a header field, which any client names; the web server has made it upper case, with
# underscores for dashes.
_VARIABLE_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_-]*+")
_FIELD_NAME = re.compile(rb"HTTP_[!#$%&'*+.^_`|~0-9A-Z]++")
_METHOD = re.compile(TOKEN.encode())
_PROTOCOL = re.compile(rb"HTTP/[0-9](?:\.[0-9])?")
_NOT_IN_TARGET = re.compile(rb"[^\x21-\x7e]")
_NOT_IN_FIELD = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")
# A decoded path may hold any byte, and so may whatever is made of it: but not this one.
_NOT_IN_VARIABLE = re.compile(rb"\0")

# Variables that are as plain as header fields, because they are told on, to logs for example.
_PLAIN = frozenset(
    b"CONTENT_LENGTH CONTENT_TYPE HTTPS QUERY_STRING REMOTE_ADDR REMOTE_PORT REMOTE_USER "
    b"REQUEST_SCHEME SERVER_NAME SERVER_PORT UWSGI_SCHEME".split()
)
# The web server has told these two without HTTP_, and has taken the body out of the last.
_TOLD_OTHERWISE = frozenset(
    (b"HTTP_CONTENT_LENGTH", b"HTTP_CONTENT_TYPE", b"HTTP_TRANSFER_ENCODING")
)
_TRUE = frozenset((b"on", b"1", b"true"))


class Uwsgi(Codec):
    """The codec of the protocol.

    Arguments: the limits of requests, and the response heads of the server.
    """

    __slots__ = ("_heads", "_limits", "continue_response")

    def __init__(self, limits: Limits, heads: ResponseHeads) -> None:
        # Web servers send a body without being asked for it.
        self.continue_response = b""
        self._limits = limits
        self._heads = heads

    def parser(self, info: ConnectionInfo) -> RequestParser:
        """Return a parser for a new connection."""
        return UwsgiParser(self._limits)

    def encoder(self, head: RequestHead) -> ResponseEncoder:
        """Return an encoder for the response to a request.

        The end of the connection ends a response whose length is not known, because web servers
        know no transfer coding here.
        """
        return ResponseEncoder(
            self._heads, method=head.method, version="HTTP/1.0", keep_alive=False
        )


class UwsgiParser(RequestParser):
    """Reads the one request of a connection. What comes behind it is dropped."""

    __slots__ = (
        "_buffer",
        "_client",
        "_eof",
        "_finished",
        "_in_body",
        "_limits",
        "_line",
        "_refusal",
        "_remaining",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffer: bytes | bytearray = b""
        self._eof = False
        self._in_body = False
        self._remaining = 0  # Bytes of the body to come.
        self._finished = False  # Whether the request is complete: another one never comes.
        self._line = ""
        self._client = ""
        self._refusal: Refusal | None = None

    @property
    def buffered(self) -> int:
        """See ``RequestParser``."""
        return len(self._buffer)

    @property
    def has_begun(self) -> bool:
        """See ``RequestParser``."""
        return len(self._buffer) > 0

    @property
    def request_line(self) -> str:
        """Empty without a whole packet, or where its method is none. See ``RequestParser``."""
        return self._line

    @property
    def told_client(self) -> str:
        """See ``RequestParser``."""
        return self._client

    def feed(self, data: bytes) -> None:
        """See ``RequestParser``."""
        if self._finished or self._refusal is not None:
            return
        buffer = self._buffer
        if not buffer:
            self._buffer = data
            return
        if not isinstance(buffer, bytearray):
            self._buffer = buffer = bytearray(buffer)
        buffer.extend(data)

    def feed_eof(self) -> None:
        """See ``RequestParser``."""
        self._eof = True

    def drop(self) -> None:
        """See ``RequestParser``."""
        self._buffer = b""

    def next_event(self) -> Event | None:
        """See ``RequestParser``."""
        if self._refusal is not None:
            raise self._refusal
        if self._finished:
            return None
        try:
            if not self._in_body:
                event: Event | None = self._next_head()
            elif self._remaining:
                event = self._next_data()
            else:
                self._finish()
                return END_OF_MESSAGE
            if event is None and self._eof and (self._in_body or self.has_begun):
                raise IncompleteRequest(
                    400, "the client ended the connection in the middle of a request"
                )
        except Refusal as refusal:
            self._refusal = refusal
            self.drop()
            raise
        return event

    def _next_head(self) -> RequestHead | None:
        buffer = self._buffer
        if buffer and buffer[0] != 0:
            raise _foreign(buffer[0])
        if len(buffer) < _HEADER_SIZE:
            return None
        if buffer[3] != 0:
            raise Refusal(400, f"the uwsgi packet has the modifier2 {buffer[3]}; only 0 is known")
        end = _HEADER_SIZE + (buffer[1] | buffer[2] << 8)
        if len(buffer) < end:
            return None
        block = bytes(buffer[_HEADER_SIZE:end])
        self._buffer = bytes(buffer[end:])
        head = self._read(block)
        if head.section.content_length:
            self._remaining = head.section.content_length
            self._in_body = True
        else:
            self._finish()
        return head

    def _finish(self) -> None:
        self._finished = True
        self.drop()

    def _next_data(self) -> BodyData | None:
        data = bytes(self._buffer[: self._remaining])
        if not data:
            return None
        # What is left is behind the body, and dropped at its end.
        self._buffer = bytes(self._buffer[len(data) :])
        self._remaining -= len(data)
        return BodyData(data)

    def _read(self, block: bytes) -> RequestHead:
        """Return the head that the variables of a packet make."""
        fields: list[Field] = []
        variables: dict[bytes, bytes] = {}
        for name, value in _variables(block):
            if name == b"REMOTE_ADDR":  # At once, because the next one may be refused.
                self._client = value.decode("latin-1")
            if name.startswith(b"HTTP_"):
                _check_field(name, value)
                if name in _TOLD_OTHERWISE:
                    continue
                # nginx before 1.23 tells a field that was sent twice in two variables.
                if name != b"HTTP_HOST":
                    fields.append((name[5:].lower().replace(b"_", b"-"), value.strip(b" \t")))
                    continue
            else:
                _check_variable(name, value)
            # Of one name the last counts, as in uWSGI: nginx sends both what the file
            # uwsgi_params says and what an administrator sets instead.
            variables[name] = value
        for name, of in (b"HTTP_HOST", b"host"), (b"CONTENT_TYPE", b"content-type"):
            if value := variables.pop(name, b""):
                fields.append((of, value.strip(b" \t")))
        # Empty where the client has sent none.
        if length := variables.pop(b"CONTENT_LENGTH", b""):
            fields.append((b"content-length", length))
        method, target, version = self._request_line(variables)
        self._check_size(len(method) + len(target) + len(version) + 2, fields)
        path, query, authority = split_target(method, target)
        # As in HTTP/1.0, for the rest is between the web server and its client.
        values = dict(fields)
        section = decide_framing("HTTP/1.0", fields, values, self._limits)
        if len(values) < len(fields):
            section.fields = without_repetitions(fields)
        section.version = version
        section.keep_alive = False
        if b"QUERY_STRING" in variables:
            query = variables.pop(b"QUERY_STRING").decode("latin-1")
        host = section.host if authority is None else authority
        told = _told(variables)
        return RequestHead(method, target, path, query, host, section, told)

    def _request_line(self, variables: dict[bytes, bytes]) -> tuple[str, str, str]:
        """Take method, target and version out of the variables, and check them."""
        method = variables.pop(b"REQUEST_METHOD", b"")
        target = variables.pop(b"REQUEST_URI", b"")
        # HTTP/0.9 has none.
        version = variables.pop(b"SERVER_PROTOCOL", b"") or b"HTTP/1.0"
        line = b" ".join((method, target, version))
        if not method or _METHOD.fullmatch(method):
            self._line = line[:MAX_SHOWN_LINE].decode("latin-1")
        if not method:
            raise _missing("REQUEST_METHOD")
        if not target:
            raise _missing("REQUEST_URI")
        if len(line) > (limit := self._limits.request_line):
            raise Refusal(414, f"the request line is longer than {counted(limit, 'byte')}")
        if _METHOD.fullmatch(method) is None:
            raise Refusal(400, "REQUEST_METHOD is not a method")
        if _PROTOCOL.fullmatch(version) is None:
            raise Refusal(400, "SERVER_PROTOCOL is not a version such as HTTP/1.1")
        _check_bytes(b"REQUEST_URI", target, _NOT_IN_TARGET)
        return method.decode("ascii"), target.decode("ascii"), version.decode("ascii")

    def _check_size(self, line: int, fields: list[Field]) -> None:
        """Hold a request to its limits over HTTP; ``line`` is the length of the request line."""
        limits = self._limits
        if len(fields) > limits.fields:
            raise Refusal(431, f"more than {counted(limits.fields, 'header field')}")
        head = line + 2
        for name, value in fields:
            size = len(name) + 1 + len(value)
            if size > limits.field_size:
                longest = counted(limits.field_size, "byte")
                raise Refusal(431, f"a header field is longer than {longest}")
            head += size + 2
        if head > limits.head:
            raise Refusal(431, f"the request head is longer than {counted(limits.head, 'byte')}")


def _foreign(byte: int) -> Refusal:
    """Return the refusal of what begins with this byte, which is no WSGI request."""
    if byte == _TLS_HANDSHAKE:
        return Refusal(400, "the client speaks TLS, and this listener the uwsgi protocol")
    if byte == _PROXY_HEADER:
        return Refusal(
            400,
            "the client speaks the PROXY protocol, it seems, and this listener the uwsgi protocol, "
            "which says itself who the client is; have the proxy send no header",
        )
    if chr(byte).isalpha() and chr(byte).isascii():
        return Refusal(
            400,
            "the client speaks HTTP, it seems, and this listener the uwsgi protocol; use "
            "uwsgi_pass, or --bind without uwsgi:",
        )
    hint = "; remove uwsgi_modifier1 from the web server's configuration"
    if byte == _MANAGED_BELOW_PATH:
        hint += ", and set SCRIPT_NAME and PATH_INFO"
    return Refusal(400, f"the uwsgi packet has the modifier1 {byte}; only 0 is known, WSGI{hint}")


def _missing(variable: str) -> Refusal:
    hint = "is `include uwsgi_params;` missing in nginx?"
    return Refusal(400, f"the uwsgi packet has no {variable}; {hint}")


def _variables(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and values: of each its length in two bytes, the lower first, and itself."""
    position = 0
    while position < len(block):
        name, position = _string(block, position)
        value, position = _string(block, position)
        yield name, value


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """Return the string at a position, and the position behind it."""
    start = position + 2
    if start <= len(block):
        end = start + (block[position] | block[position + 1] << 8)
        if end <= len(block):
            return block[start:end], end
    raise Refusal(400, "a variable of the uwsgi packet does not end within it")


def _check_field(name: bytes, value: bytes) -> None:
    if _FIELD_NAME.fullmatch(name) is None:
        raise _bad_name(name)
    _check_bytes(name, value, _NOT_IN_FIELD)


def _check_variable(name: bytes, value: bytes) -> None:
    if _VARIABLE_NAME.fullmatch(name) is None:
        raise _bad_name(name)
    _check_bytes(name, value, _NOT_IN_FIELD if name in _PLAIN else _NOT_IN_VARIABLE)


def _bad_name(name: bytes) -> Refusal:
    if not name:
        return Refusal(400, "a variable of the uwsgi packet has no name")
    shown = name[:_SHOWN_NAME].decode("latin-1")
    return Refusal(400, f"a variable of the uwsgi packet may not be called {shown!r}")


def _check_bytes(name: bytes, value: bytes, forbidden: re.Pattern[bytes]) -> None:
    if (match := forbidden.search(value)) is not None:
        shown = name[:_SHOWN_NAME].decode("ascii")
        raise Refusal(
            400, f"{shown} holds the byte 0x{match[0][0]:02x}, which is not allowed there"
        )


def _told(variables: dict[bytes, bytes]) -> dict[str, str]:
    """Return what the web server says of the environ, beyond what makes a request head."""
    for name in b"PATH_INFO", b"SCRIPT_NAME":
        if variables.get(name, b"")[:1] not in (b"", b"/"):
            raise Refusal(400, f"{name.decode()} does not begin with a slash")
    told = {name.decode("ascii"): value.decode("latin-1") for name, value in variables.items()}
    # nginx leaves them empty where it has none; PEP 3333 wants something. An empty SCRIPT_NAME says
    # no more than none does.
    for key in "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME":
        if not told.get(key, "x"):
            del told[key]
    if (scheme := _scheme(variables)) is not None:
        told["wsgi.url_scheme"] = scheme
    return told


def _scheme(variables: dict[bytes, bytes]) -> str | None:
    """Return the scheme that the web server's client has used, as far as it is told."""
    scheme = variables.get(b"UWSGI_SCHEME", b"").lower()
    if scheme not in (b"http", b"https"):
        is_secure = variables.get(b"HTTPS", b"").lower() in _TRUE
        scheme = b"https" if is_secure else variables.get(b"REQUEST_SCHEME", b"").lower()
    return scheme.decode() if scheme in (b"http", b"https") else None
