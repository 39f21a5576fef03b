"""Every known way to smuggle a request past a server, as data.

Each ``Technique`` is what an attacker sends on one connection: a request for ``/outer`` that holds
a second one, ``SMUGGLED``, which some servers take for a part of the first and others for a request
of its own. An entry states the one way in which this server reads the bytes. It says nothing of
proxies: they may refuse or change what they get, but what they forward has to be read alike.

In the names "a.b" reads as in the literature: the front goes by a, the back by b. CL is
Content-Length, TE is Transfer-Encoding, 0 is a body that is overlooked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
# Whoever believes in a chunked body sees it end before the embedded request.
_LURE = b"0\r\n\r\n" + SMUGGLED
# Whoever does not, may see the embedded request behind the first line.
_SIZE = b"23\r\n"
_CHUNKED = _SIZE + SMUGGLED + b"\r\n0\r\n\r\n"

Request = tuple[str, bytes]
OUTER: Request = ("POST /outer", b"")
CARRIER: Request = ("POST /outer", SMUGGLED)
# A request of its own by the rules of HTTP: pipelined, not smuggled.
PIPELINED: Request = ("GET /smuggled", b"")

# What comes behind the last of the requests: a refusal with this status and the end of the
# connection; the next request; only the end; or the server waits for the rest of a request.
End = int | Literal["open", "closed", "waits"]

# A name, where it is known from, the bytes that vary within a family, and what comes of them.
Rows = tuple[tuple[str, str, bytes, End], ...]


@dataclass(frozen=True, slots=True)
class Technique:
    name: str
    # Who described it, or who fell for it.
    known: str
    data: bytes
    end: End
    # What reaches the application, in order: method and target, and the body.
    requests: tuple[Request, ...] = ()


_CL = b"Content-Length: 35"
_TE = b"Transfer-Encoding: chunked"


def _head(fields: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"POST /outer HTTP/" + version, b"Host: h", *([fields] if fields else [])]
    return b"\r\n".join([*lines, b"", b""])


# Field lines, and what they mean where no Content-Length is beside them: "chunked", "nothing", or
# a refusal. Beside one they are refused unless they mean nothing.
_CODINGS: tuple[tuple[str, str, bytes, int | Literal["chunked", "nothing"]], ...] = (
    ("plain", "Linhart 2005; CVE-2020-10109 Twisted", _TE, "chunked"),
    ("upper-case", "Kettle 2019", _TE.upper(), "chunked"),
    ("no-space", "defparam 2020", b"Transfer-Encoding:chunked", "chunked"),
    ("tab", "Kettle 2019", b"Transfer-Encoding:\tchunked", "chunked"),
    ("tab-behind", "defparam 2020", _TE + b" \t", "chunked"),
    ("hop-by-hop", "Davison 2019", b"Connection: Transfer-Encoding\r\n" + _TE, "chunked"),
    ("xchunked", "Kettle 2019", b"Transfer-Encoding: xchunked", 400),
    ("unknown", "CVE-2019-16786 waitress; CVE-2024-6827 gunicorn", b"Transfer-Encoding: x", 400),
    ("identity", "RFC 2616, gone since RFC 7230", b"Transfer-Encoding: identity", 400),
    ("identity-first", "Kettle 2019", b"Transfer-Encoding: identity, chunked", 501),
    ("identity-last", "CVE-2022-32213 Node.js", _TE + b", identity", 400),
    ("two-fields", "Kettle 2019", _TE + b"\r\nTransfer-Encoding: x", 400),
    ("empty-field", "RFC 9110 §5.6.1", b"Transfer-Encoding:\r\n" + _TE, "chunked"),
    ("two-fields-last", "CVE-2024-1135 gunicorn", b"Transfer-Encoding: x\r\n" + _TE, 501),
    ("twice", "RFC 9112 §6.1", _TE + b", chunked", 400),
    ("comma-first", "defparam 2020", b"Transfer-Encoding: ,chunked", "chunked"),
    ("comma-last", "defparam 2020", _TE + b",", "chunked"),
    ("empty", "defparam 2020", b"Transfer-Encoding:", 400),
    ("quoted", "Kettle 2019", b'Transfer-Encoding: "chunked"', 400),
    ("parameter", "RFC 9112 §7.1", _TE + b";q=1", 400),
    ("two-words", "defparam 2020", b"Transfer-Encoding: x chunked", 400),
    ("run-together", "CVE-2022-32213 Node.js", _TE + b"chunked", 400),
    ("vertical-tab", "CVE-2019-16789 waitress", b"Transfer-Encoding:\x0bchunked", 400),
    ("form-feed", "defparam 2020", b"Transfer-Encoding:\x0cchunked", 400),
    ("control-character", "defparam 2020", _TE + b"\x01", 400),
    ("nul", "Regilero 2019", _TE + b"\x00", 400),
    ("no-break-space", "str.strip() strips it", b"Transfer-Encoding: \xa0chunked", 400),
    ("next-line", "str.splitlines() splits there", b"X: x\x85" + _TE, "nothing"),
    ("kelvin-sign", "str.lower() makes it a k", b"Transfer-Encoding: chun\xe2\x84\xaaed", 400),
    ("space-before-colon", "CVE-2019-16869 Netty", b"Transfer-Encoding : chunked", 400),
    ("tab-before-colon", "defparam 2020", b"Transfer-Encoding\t: chunked", 400),
    ("nul-in-name", "Regilero 2019", b"Transfer-Encoding\x00: chunked", 400),
    ("space-in-name", "defparam 2020", b"Transfer Encoding: chunked", 400),
    ("no-colon", "CVE-2019-20444 Netty", b"Transfer-Encoding chunked", 400),
    ("leading-space", "CVE-2020-7238 Netty", b" " + _TE, 400),
    ("folded", "CVE-2022-32215 Node.js", b"Transfer-Encoding:\r\n chunked", 400),
    ("folded-behind", "CVE-2022-32215 Node.js", _TE + b"\r\n , identity", 400),
    ("in-a-fold", "Regilero 2015", b"X: x\r\n\t" + _TE, 400),
    ("colon-in-a-fold", "defparam 2020", b"Transfer-Encoding\r\n : chunked", 400),
    ("behind-lf", "Kettle 2019; CVE-2019-16785 waitress", b"X: x\n" + _TE, 400),
    ("behind-cr", "Regilero 2015", b"X: x\r" + _TE, 400),
    ("cr-first", "CVE-2025-23167 Node.js", b"\r" + _TE, 400),
    ("underscore", "servers that know CGI names only", b"Transfer_Encoding: chunked", "nothing"),
    ("other-name", "defparam 2020", b"X-Transfer-Encoding: chunked", "nothing"),
    ("content-encoding", "defparam 2020", b"Content-Encoding: chunked", "nothing"),
    ("te", "RFC 9110 §10.1.4", b"TE: chunked\r\nConnection: TE", "nothing"),
)

# Lines that do not end in CRLF, everywhere where lines end.
_LINE_ENDS = {"lf": b"\n", "cr": b"\r", "lf-cr": b"\n\r", "cr-cr-lf": b"\r\r\n", "nul": b"\0\r\n"}
_PLACES = {
    "request-line": b"POST /outer HTTP/1.1%bHost: h\r\n" + _CL + b"\r\n\r\n" + SMUGGLED,
    "field": b"POST /outer HTTP/1.1\r\nHost: h\r\nX: x%b" + _CL + b"\r\n\r\n" + SMUGGLED,
    "head": b"POST /outer HTTP/1.1\r\nHost: h\r\n" + _CL + b"\r\n%b" + SMUGGLED,
    "chunk-line": _head(_TE) + b"23%b" + SMUGGLED + b"\r\n0\r\n\r\n",
    "chunk-extension": _head(_TE) + b"2;x%bxx\r\n28\r\n" + _LURE + b"\r\n0\r\n\r\n",
    "chunk": _head(_TE) + _SIZE + SMUGGLED + b"%b0\r\n\r\n",
    "last-chunk": _head(_TE) + b"0%b\r\n" + SMUGGLED,
    "trailer": _head(_TE) + b"0\r\nX: x%b\r\n" + SMUGGLED,
    "trailer-section": _head(_TE) + b"0\r\n%b" + SMUGGLED,
}
_LINE_ENDS_KNOWN = "CVE-2023-30589 Node.js, CVE-2025-22871 Go, CVE-2025-55315 Kestrel; Weikop 2025"

# Fields that announce the length of the body behind them, which is the embedded request.
_LENGTHS: Rows = (
    ("leading-zeros", "RFC 9110 §8.6", b"Content-Length: 00035", "open"),
    ("upper-case", "RFC 9110 §5.1", _CL.upper(), "open"),
    ("hop-by-hop", "Davison 2019", b"Connection: Content-Length\r\n" + _CL, "open"),
    ("behind-long-name", "CVE-2021-40346 HAProxy", _CL[:14] + b"0" * 256 + b":\r\n" + _CL, "open"),
    ("repeated", "RFC 9112 §6.3", _CL + b"\r\n" + _CL, 400),
    ("conflict", "Linhart 2005", _CL + b"\r\nContent-Length: 0", 400),
    ("conflict-last", "CVE-2020-10108 Twisted", b"Content-Length: 0\r\n" + _CL, 400),
    ("list", "RFC 9112 §6.3", b"Content-Length: 35, 35", 400),
    ("list-conflict", "CVE-2019-16792 waitress", b"Content-Length: 0, 35", 400),
    ("plus", "CVE-2021-32715 hyper; CVE-2022-24761 waitress", b"Content-Length: +35", 400),
    ("minus", "CVE-2023-47627 aiohttp", b"Content-Length: -35", 400),
    ("hexadecimal", "Grenfeldt 2021", b"Content-Length: 0x23", 400),
    ("underscore", "CVE-2023-47627 aiohttp", b"Content-Length: 3_5", 400),
    ("fraction", "Jabiyev 2021", b"Content-Length: 35.0", 400),
    ("words", "Jabiyev 2021", b"Content-Length: 35 0", 400),
    ("suffix", "Grenfeldt 2021", b"Content-Length: 35abc", 400),
    ("quoted", "Jabiyev 2021", b'Content-Length: "35"', 400),
    ("other-digits", "CVE-2025-69225 aiohttp", b"Content-Length: \xd9\xa3\xd9\xa5", 400),
    ("superscript", "str.isdigit() takes it", b"Content-Length: \xb3\xb2", 400),
    ("empty", "CVE-2023-40225 HAProxy", b"Content-Length:", 400),
    ("empty-and-valid", "CVE-2023-40225 HAProxy", b"Content-Length:\r\n" + _CL, 400),
    ("overflow", "2**64 + 35", b"Content-Length: 18446744073709551651", 413),
    ("overflow-32-bits", "2**32 + 35", b"Content-Length: 4294967331", 413),
    ("huge", "int() takes long for it", b"Content-Length: " + b"9" * 5000, 413),
    ("vertical-tab", "CVE-2019-16789 waitress", b"Content-Length:\x0b35", 400),
    ("nul", "Regilero 2019", b"Content-Length: 35\x000", 400),
    ("space-before-colon", "CVE-2018-8004 Traffic Server", b"Content-Length : 35", 400),
    ("leading-space", "CVE-2024-27982 Node.js", b" " + _CL, 400),
    ("folded", "RFC 9112 §5.2", b"Content-Length: 3\r\n 5", 400),
    ("in-a-fold", "Regilero 2015", b"X: x\r\n " + _CL, 400),
    ("behind-empty-name", "CVE-2023-25725 HAProxy", b": x\r\n" + _CL, 400),
    ("behind-many-fields", "servers that cut a head off", b"X: x\r\n" * 101 + _CL, 431),
    ("behind-long-field", "servers that cut a head off", b"X: %b\r\n" % (b"x" * 9000) + _CL, 431),
)

# Size lines of a chunk that is the embedded request.
_SIZES: Rows = (
    ("leading-zeros", "RFC 9112 §7.1", b"0000000000000023", "open"),
    ("extension", "RFC 9112 §7.1.1", b"23;a=b", "open"),
    ("extension-like-chunk", "Weikop 2025", b"23;\t0;0", "open"),
    ("many-zeros", "RFC 9112 §7.1", b"00000000000000023", "open"),
    ("hex-prefix", "CVE-2022-24801 Twisted", b"0x23", 400),
    ("plus", "CVE-2022-24761 waitress", b"+23", 400),
    ("minus", "CVE-2022-24761 waitress", b"-23", 400),
    ("underscore", "int() takes it", b"2_3", 400),
    ("space-first", "CVE-2022-24801 Twisted", b" 23", 400),
    ("space-behind", "Jabiyev 2021", b"23 ", 400),
    ("space-before-extension", "RFC 9112 §7.1.1", b"23 ;a", "open"),
    ("vertical-tab", "int() strips it", b"\x0b23", 400),
    ("letters-behind", "Grenfeldt 2021", b"23xyz", 400),
    ("comma", "Jabiyev 2021", b"23,0", 400),
    ("empty", "Jabiyev 2021", b"", 400),
    ("only-extension", "Jabiyev 2021", b";23", 400),
    ("other-digits", "CVE-2025-69225 aiohttp", b"\xd9\xa2\xd9\xa3", 400),
    ("overflow", "CVE-2017-7657 Jetty, CVE-2021-32714 hyper", b"10000000000000023", 413),
    ("overflow-63-bits", "CVE-2013-2028 nginx", b"8000000000000023", 413),
    ("overflow-32-bits", "2**32 + 35", b"100000023", 413),
    ("quoted-crlf", "Weikop 2025", b'23;a="\r\n"', 400),
    ("one-short", "CVE-2025-43859 h11", b"22", 400),
    ("one-long", "CVE-2025-43859 h11", b"24", 400),
    ("long-extension", "CVE-2023-39326 Go", b"23;" + b"x" * 300, 400),
)

# What stands between the last chunk and the embedded request.
_TRAILERS: Rows = (
    ("none", "RFC 9112 §7.1", b"\r\n", "open"),
    ("ordinary", "RFC 9112 §7.1.2", b"X: x\r\n\r\n", "open"),
    ("content-length", "RFC 9110 §6.5.1", _CL + b"\r\n\r\n", 400),
    ("transfer-encoding", "RFC 9110 §6.5.1", _TE + b"\r\n\r\n", 400),
    ("host", "RFC 9110 §6.5.1", b"Host: x\r\n\r\n", 400),
    ("missing", "CVE-2025-53643 aiohttp, CVE-2025-58068 eventlet", b"", 400),
    ("folded", "RFC 9112 §5.2", b"X: x\r\n x\r\n\r\n", 400),
    ("space-before-colon", "RFC 9112 §5.1", b"X : x\r\n\r\n", 400),
    ("no-colon", "CVE-2025-58068 eventlet", b"x\r\n\r\n", 400),
)

# Request lines, or what stands in their place; Content-Length and its body are behind each.
_STARTS: Rows = (
    ("get", "Linhart 2005", b"GET /outer HTTP/1.1", "open"),
    ("head", "Kettle 2022", b"HEAD /outer HTTP/1.1", "open"),
    ("options", "sw33tLie, bsysop and Medusa 2024", b"OPTIONS /outer HTTP/1.1", "open"),
    ("trace", "RFC 9110 §9.3.8", b"TRACE /outer HTTP/1.1", "open"),
    ("lower-case-method", "RFC 9110 §9.1", b"post /outer HTTP/1.1", "open"),
    ("unknown-method", "RFC 9110 §9.1", b"SMUGGLE /outer HTTP/1.1", "open"),
    ("absolute-form", "RFC 9112 §3.2.2", b"POST http://other/outer HTTP/1.1", "open"),
    ("percent-crlf", "CWE-93", b"POST /outer%20HTTP/1.1%0D%0AX:%20x HTTP/1.1", "open"),
    ("empty-line-first", "RFC 9112 §2.2", b"\r\nPOST /outer HTTP/1.1", "open"),
    ("1.0", "Regilero 2015", b"POST /outer HTTP/1.0", "closed"),
    ("empty-lines-first", "RFC 9112 §2.2", b"\r\n\r\nPOST /outer HTTP/1.1", 400),
    ("0.9", "CVE-2017-7656 Jetty", b"POST /outer", 400),
    ("1.2", "RFC 9110 §2.5", b"POST /outer HTTP/1.2", "open"),
    ("1.10", "Regilero 2019", b"POST /outer HTTP/1.10", 400),
    ("2.0", "Lerner 2021", b"POST /outer HTTP/2.0", 505),
    ("http2-preface", "Miller 2020", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nPOST /outer HTTP/1.1", 505),
    ("version-twice", "Jabiyev 2021", b"POST /outer HTTP/1.1 HTTP/1.1", 400),
    ("no-method", "Jabiyev 2021", b"/outer HTTP/1.1", 400),
    ("nul-in-method", "Jabiyev 2021", b"POST\0 /outer HTTP/1.1", 400),
    ("nul-in-target", "Regilero 2019", b"POST /outer\0 HTTP/1.1", 400),
    ("tab-before-target", "RFC 9112 §3", b"POST\t/outer HTTP/1.1", 400),
    ("two-spaces", "RFC 9112 §3", b"POST /outer  HTTP/1.1", 400),
    ("space-first", "Jabiyev 2021", b" POST /outer HTTP/1.1", 400),
    ("space-last", "Jabiyev 2021", b"POST /outer HTTP/1.1 ", 400),
    ("space-in-target", "RFC 9112 §3.2", b"POST /outer x HTTP/1.1", 400),
    ("fragment", "CVE-2023-45539 HAProxy", b"POST /outer#x HTTP/1.1", 400),
    ("userinfo", "CVE-2026-54282 Starlette", b"POST http://x@other/outer HTTP/1.1", 400),
    ("no-path", "CVE-2026-54282 Starlette", b"POST @other/outer HTTP/1.1", 400),
    ("https", "RFC 9110 §7.4", b"POST https://other/outer HTTP/1.1", 421),
    ("connect", "RFC 9110 §9.3.6", b"CONNECT h:80 HTTP/1.1", 501),
    ("byte-order-mark", "Jabiyev 2021", b"\xef\xbb\xbfPOST /outer HTTP/1.1", 400),
    (
        "proxy-protocol",
        "an attacker who reaches the back",
        b"PROXY UNKNOWN\r\nPOST /outer HTTP/1.1",
        400,
    ),
    ("response", "response queues: Kettle 2021", b"HTTP/1.1 200 OK", 400),
)

_H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
_EXPECT = b"Expect: 100-continue"
_WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 9"

# Field lines beside Content-Length and its body.
_FIELDS: Rows = (
    ("method-override", "Kettle 2019", b"X-HTTP-Method-Override: HEAD", "open"),
    ("expect", "RFC 9110 §10.1.1", _EXPECT, "open"),
    ("h2c", "Miller 2020", _H2C, "open"),
    ("websocket", "Egorov 2019", _WEBSOCKET, "open"),
    ("byteranges", "RFC 2616 §4.4", b"Content-Type: multipart/byteranges; boundary=b", "open"),
    ("close", "RFC 9112 §9.6", b"Connection: x, close", "closed"),
    ("expect-obfuscated", "Kettle 2025", b"Expect: y 100-continue", 417),
    ("expect-list", "Kettle 2025", _EXPECT + b", 100-continue", "open"),
    ("expect-repeated", "Kettle 2025", _EXPECT + b"\r\n" + _EXPECT, "open"),
    ("expect-folded", "Kettle 2025", b"Expect:\r\n 100-continue", 400),
    ("content-type-twice", "RFC 9110 §8.3", b"Content-Type: a/b\r\nContent-Type: c/d", 400),
    ("second-host", "RFC 9112 §3.2", b"Host: other", 400),
    ("host-behind-space", "Kettle 2025", b" Host: other", 400),
    ("host-before-colon", "Kettle 2025", b"Host : other", 400),
)

# Without Content-Length, or less than it announces.
_SINGLE = (
    Technique("0.0", "Kettle 2022", _head(b"") + SMUGGLED, "open", (OUTER, PIPELINED)),
    Technique("0.cl", "Kettle 2025", _head(b"Content-Length: 99") + SMUGGLED, "waits"),
    Technique("0.te", "Kettle 2025", _head(_TE) + b"63\r\n" + SMUGGLED, "waits"),
    Technique("no-host", "RFC 9112 §3.2", _head(b"").replace(b"Host", b"X") + SMUGGLED, 400),
    Technique("h2c", "Miller 2020", _head(_H2C) + SMUGGLED, "open", (OUTER, PIPELINED)),
    Technique("websocket", "Egorov 2019", _head(_WEBSOCKET) + SMUGGLED, "open", (OUTER, PIPELINED)),
    Technique("expect", "Kettle 2025", _head(_EXPECT) + SMUGGLED, "open", (OUTER, PIPELINED)),
    Technique("close", "RFC 9112", _head(b"Connection: close") + SMUGGLED, "closed", (OUTER,)),
    Technique("1.0", "Regilero 2015", _head(b"", b"1.0") + SMUGGLED, "closed", (OUTER,)),
    Technique("1.0-chunked", "RFC 9112 §6.1", _head(_TE, b"1.0") + _CHUNKED, 400),
)


def _codings() -> Iterator[Technique]:
    for name, known, fields, meaning in _CODINGS:
        by_length = _head(fields + b"\r\nContent-Length: 40") + _LURE
        by_size = _head(fields + b"\r\nContent-Length: 4") + _CHUNKED
        alone = _head(fields) + _CHUNKED
        if meaning == "nothing":
            # Behind the second and the third is what ends a chunked body, or begins one.
            read = (("POST /outer", _SIZE), PIPELINED)
            yield Technique(f"cl.te-{name}", known, by_length, "open", (("POST /outer", _LURE),))
            yield Technique(f"te.cl-{name}", known, by_size, 400, read)
            yield Technique(f"te.0-{name}", known, alone, 400, (OUTER,))
        else:
            yield Technique(f"cl.te-{name}", known, by_length, 400)
            yield Technique(f"te.cl-{name}", known, by_size, 400)
            if meaning == "chunked":
                yield Technique(f"te.0-{name}", known, alone, "open", (CARRIER,))
            else:
                yield Technique(f"te.0-{name}", known, alone, meaning)


def _families() -> Iterator[Technique]:
    for place, data in _PLACES.items():
        for name, line_end in _LINE_ENDS.items():
            yield Technique(f"{name}-ends-{place}", _LINE_ENDS_KNOWN, data % line_end, 400)
    for family, template, rows in (
        ("start", b"%b\r\nHost: h\r\n" + _CL + b"\r\n\r\n" + SMUGGLED, _STARTS),
        ("field", _head(_CL + b"\r\n%b") + SMUGGLED, _FIELDS),
        ("length", _head(b"%b") + SMUGGLED, _LENGTHS),
        ("size", _head(_TE) + b"%b\r\n" + SMUGGLED + b"\r\n0\r\n\r\n", _SIZES),
        ("trailer", _head(_TE) + b"0\r\n%b" + SMUGGLED, _TRAILERS),
    ):
        for name, known, varied, end in rows:
            read: tuple[Request, ...] = ()
            if family == "trailer" and end == "open":
                read = (OUTER, PIPELINED)
            elif family == "start" and isinstance(end, str):
                read = ((varied.strip().rpartition(b" ")[0].decode(), SMUGGLED),)
            elif isinstance(end, str):
                read = (CARRIER,)
            yield Technique(f"{family}-{name}", known, template % varied, end, read)


TECHNIQUES = (*_codings(), *_families(), *_SINGLE)
