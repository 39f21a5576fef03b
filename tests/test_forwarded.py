"""What proxies tell of the client, read as a table: from fields to the environ, or a refusal."""

from collections.abc import Mapping
from typing import Any

import pytest
from grouped import in_one_test
from told_requests import PROXY, SERVER, Site

from aiowsgi.errors import Refusal

CHOICES = ("x-forwarded", "forwarded")
SITES = {headers: Site(forwarded_headers=headers) for headers in CHOICES}
SITES |= {
    f"{headers} {http}": Site(http, forwarded_headers=headers)
    for headers in CHOICES
    for http in ("h11", "httptools")
}

# What the environ has where nothing is told.
UNTOLD = {
    "REMOTE_ADDR": PROXY,
    "REMOTE_PORT": "5000",
    "wsgi.url_scheme": "http",
    "HTTP_HOST": "h",
    "SERVER_NAME": SERVER[0],
    "SERVER_PORT": SERVER[1],
    "SCRIPT_NAME": "",
}


def addr(host: str, port: str = "") -> dict[str, str]:
    return {"REMOTE_ADDR": host, "REMOTE_PORT": port}


def origin(scheme: str, host: str, name: str, port: str) -> dict[str, str]:
    return {
        "wsgi.url_scheme": scheme,
        "HTTP_HOST": host,
        "SERVER_NAME": name,
        "SERVER_PORT": port,
    }


# An expectation is what differs from UNTOLD, or words of the refusal.
Expected = Mapping[str, str] | str
Case = tuple[tuple[str, ...], Expected]

FOR = "X-Forwarded-For: "
PROTO = "X-Forwarded-Proto: "
HOST = "X-Forwarded-Host: "
PORT = "X-Forwarded-Port: "
PREFIX = "X-Forwarded-Prefix: "
NO_CLIENT = "field does not tell the client"

X_FORWARDED: dict[str, Case] = {
    # Who the client is.
    "one address": ((FOR + "192.0.2.7",), addr("192.0.2.7")),
    "the client before a proxy": ((FOR + "192.0.2.7, 10.0.0.2",), addr("192.0.2.7")),
    "two proxies": ((FOR + "192.0.2.7, 10.0.0.3, 10.0.0.2",), addr("192.0.2.7")),
    "what the client claims": ((FOR + "127.0.0.1, 192.0.2.7",), addr("192.0.2.7")),
    "a proxy that the client claims": ((FOR + "1.1.1.1, 10.0.0.9, 192.0.2.7",), addr("192.0.2.7")),
    "nonsense of the client": ((FOR + '";,<script>, 192.0.2.7',), addr("192.0.2.7")),
    "nonsense before a proxy": ((FOR + "evil, 192.0.2.7, 10.0.0.2",), addr("192.0.2.7")),
    "all are proxies": ((FOR + "10.0.0.4, 10.0.0.3",), addr("10.0.0.4")),
    "the proxy itself": ((FOR + "10.0.0.1",), addr("10.0.0.1")),
    "two fields": ((FOR + "192.0.2.7", FOR + "10.0.0.2"), addr("192.0.2.7")),
    "two fields, one of the client": ((FOR + "evil", FOR + "192.0.2.7"), addr("192.0.2.7")),
    "without spaces": ((FOR + "1.1.1.1,192.0.2.7",), addr("192.0.2.7")),
    "with many spaces": ((FOR + "\t 1.1.1.1 \t,\t  192.0.2.7 ",), addr("192.0.2.7")),
    "empty elements": ((FOR + ", 192.0.2.7, ,10.0.0.2,,",), addr("192.0.2.7")),
    "an empty field": ((FOR,), {}),
    "an empty field and another": ((FOR + "192.0.2.7", FOR), addr("192.0.2.7")),
    "nothing but commas": ((FOR + ", ,",), {}),
    "a port": ((FOR + "192.0.2.7:4711",), addr("192.0.2.7", "4711")),
    "a port of a proxy": ((FOR + "192.0.2.7:4711, 10.0.0.2:80",), addr("192.0.2.7", "4711")),
    "port 0": ((FOR + "192.0.2.7:0",), addr("192.0.2.7", "0")),
    "a port with zeros": ((FOR + "192.0.2.7:00080",), addr("192.0.2.7", "80")),
    "a port too large": ((FOR + "192.0.2.7:65536",), NO_CLIENT),
    "a port too long": ((FOR + "192.0.2.7:000080",), NO_CLIENT),
    "a port that is none": ((FOR + "192.0.2.7:http",), NO_CLIENT),
    "an empty port": ((FOR + "192.0.2.7:",), NO_CLIENT),
    "a hidden port": ((FOR + "192.0.2.7:_p",), addr("192.0.2.7")),
    "IPv6": ((FOR + "2001:db8::7",), addr("2001:db8::7")),
    "IPv6 in brackets": ((FOR + "[2001:db8::7]",), addr("2001:db8::7")),
    "IPv6 with a port": ((FOR + "[2001:db8::7]:4711",), addr("2001:db8::7", "4711")),
    "IPv6 in another form": ((FOR + "2001:0DB8:0::0007",), addr("2001:db8::7")),
    "IPv6 before a proxy": ((FOR + "2001:db8::7, 2001:db8:ffff::1",), addr("2001:db8::7")),
    "a proxy in brackets": ((FOR + "192.0.2.7, [2001:db8:ffff::1]:99",), addr("192.0.2.7")),
    "IPv6 with IPv4 at its end": ((FOR + "64:ff9b::192.0.2.7",), addr("64:ff9b::c000:207")),
    "IPv4 in IPv6": ((FOR + "::ffff:192.0.2.7",), addr("192.0.2.7")),
    "IPv4 in IPv6 with a port": ((FOR + "[::FFFF:c000:207]:5",), addr("192.0.2.7", "5")),
    "a proxy of IPv4 in IPv6": ((FOR + "192.0.2.7, ::ffff:10.0.0.2",), addr("192.0.2.7")),
    "IPv6 with a zone": ((FOR + "fe80::1%eth0",), addr("fe80::1%eth0")),
    "IPv6 with an empty zone": ((FOR + "fe80::1%",), NO_CLIENT),
    "IPv6 with half a bracket": ((FOR + "[2001:db8::7",), NO_CLIENT),
    "IPv6 with the other half": ((FOR + "2001:db8::7]",), NO_CLIENT),
    "IPv6 with an empty port": ((FOR + "[2001:db8::7]:",), NO_CLIENT),
    "IPv6 with too many parts": ((FOR + "1:2:3:4:5:6:7:8:9",), NO_CLIENT),
    "IPv6 with two gaps": ((FOR + "1::2::3",), NO_CLIENT),
    "empty brackets": ((FOR + "[]",), NO_CLIENT),
    "IPv4 in brackets": ((FOR + "[192.0.2.7]",), addr("192.0.2.7")),
    "quotation marks": ((FOR + '"192.0.2.7"',), addr("192.0.2.7")),
    "quotation marks and a port": ((FOR + '"[2001:db8::7]:1"',), addr("2001:db8::7", "1")),
    "half of the quotation marks": ((FOR + '"192.0.2.7',), NO_CLIENT),
    "one quotation mark": ((FOR + '"',), NO_CLIENT),
    "unknown": ((FOR + "unknown",), addr("unknown")),
    "unknown in capitals": ((FOR + "Unknown",), addr("unknown")),
    "unknown before a proxy": ((FOR + "unknown, 10.0.0.2",), addr("unknown")),
    "unknown to the left": ((FOR + "unknown, 192.0.2.7",), addr("192.0.2.7")),
    "an address behind unknown": ((FOR + "192.0.2.7, unknown",), addr("unknown")),
    "hidden": ((FOR + "_gazonk",), addr("_gazonk")),
    "hidden with other characters": ((FOR + "_a b",), NO_CLIENT),
    "hidden and too long": ((FOR + "_" + "x" * 100,), NO_CLIENT),
    "nothing hidden": ((FOR + "_",), NO_CLIENT),
    "a Unix socket": ((FOR + "192.0.2.7, unix:",), addr("192.0.2.7")),
    "a Unix socket alone": ((FOR + "unix:",), addr("unix:")),
    "a name": ((FOR + "localhost",), NO_CLIENT),
    "a name to the left": ((FOR + "localhost, 192.0.2.7",), addr("192.0.2.7")),
    "too few parts": ((FOR + "192.0.2",), NO_CLIENT),
    "too many parts": ((FOR + "192.0.2.7.1",), NO_CLIENT),
    "a part too large": ((FOR + "192.0.2.256",), NO_CLIENT),
    "leading zeros": ((FOR + "192.0.2.07",), NO_CLIENT),
    "a number": ((FOR + "3221225991",), NO_CLIENT),
    "a network": ((FOR + "192.0.2.0/24",), NO_CLIENT),
    "a pair of Forwarded": ((FOR + "for=192.0.2.7",), NO_CLIENT),
    "bytes of no charset": ((FOR + "\xff\xfe",), NO_CLIENT),
    "digits of another script": ((FOR + "192.0.2.\xb2",), NO_CLIENT),
    "semicolons": ((FOR + "192.0.2.7; 10.0.0.2",), NO_CLIENT),
    # The scheme.
    "https": ((PROTO + "https",), origin("https", "h", "h", "443")),
    "HTTPS": ((PROTO + "HTTPS",), origin("https", "h", "h", "443")),
    "http": ((PROTO + "http",), origin("http", "h", "h", "80")),
    "wss": ((PROTO + "wss",), origin("https", "h", "h", "443")),
    "ws": ((PROTO + "ws",), origin("http", "h", "h", "80")),
    "another scheme": ((PROTO + "ftp",), "the scheme that proxies tell is none: 'ftp'"),
    "a scheme with a colon": ((PROTO + "https:",), "the scheme that proxies tell"),
    "on": ((PROTO + "on",), "the scheme that proxies tell"),
    "an empty scheme": ((PROTO,), {}),
    "two schemes": ((PROTO + "http, https",), origin("https", "h", "h", "443")),
    "schemes in two fields": ((PROTO + "http", PROTO + "https"), origin("https", "h", "h", "443")),
    "nonsense before a scheme": ((PROTO + "evil, https",), origin("https", "h", "h", "443")),
    "a scheme for each hop": (
        (FOR + "192.0.2.7, 10.0.0.2", PROTO + "https, http"),
        addr("192.0.2.7") | origin("https", "h", "h", "443"),
    ),
    "a scheme for each hop, and what the client claims": (
        (FOR + "1.1.1.1, 192.0.2.7, 10.0.0.2", PROTO + "ftp, https, http"),
        addr("192.0.2.7") | origin("https", "h", "h", "443"),
    ),
    "one scheme for two hops": (
        (FOR + "192.0.2.7, 10.0.0.2", PROTO + "https"),
        addr("192.0.2.7") | origin("https", "h", "h", "443"),
    ),
    "more schemes than hops": (
        (FOR + "192.0.2.7", PROTO + "http, https"),
        addr("192.0.2.7") | origin("https", "h", "h", "443"),
    ),
    "Ssl and Scheme mean nothing": (
        ("X-Forwarded-Ssl: on", "X-Forwarded-Scheme: https", "Front-End-Https: on"),
        {},
    ),
    # The host.
    "a host": ((HOST + "shop.example",), origin("http", "shop.example", "shop.example", "80")),
    "a host with a port": (
        (HOST + "shop.example:8080",),
        origin("http", "shop.example:8080", "shop.example", "8080"),
    ),
    "a host and https": (
        (HOST + "shop.example", PROTO + "https"),
        origin("https", "shop.example", "shop.example", "443"),
    ),
    "a host of IPv6": ((HOST + "[2001:db8::1]",), origin("http", *["[2001:db8::1]"] * 2, "80")),
    "a host of IPv6 with a port": (
        (HOST + "[2001:db8::1]:8443", PROTO + "https"),
        origin("https", "[2001:db8::1]:8443", "[2001:db8::1]", "8443"),
    ),
    "a host with an empty port": (
        (HOST + "shop.example:",),
        origin("http", "shop.example:", "shop.example", "80"),
    ),
    "two hosts": (
        (HOST + "evil.example, shop.example",),
        origin("http", *["shop.example"] * 2, "80"),
    ),
    "a host with a user": ((HOST + "user@shop.example",), "the host that proxies tell"),
    "a host with a path": ((HOST + "shop.example/a",), "the host that proxies tell"),
    "a host with a scheme": ((HOST + "https://shop.example",), "the host that proxies tell"),
    "a host with a space": ((HOST + "shop example",), "the host that proxies tell"),
    "a host in quotation marks": ((HOST + '"shop.example"',), "the host that proxies tell"),
    "a host with a tag": ((HOST + "<b>",), "the host that proxies tell"),
    "a host of other bytes": ((HOST + "caf\xe9",), "the host that proxies tell"),
    "a port alone as the host": ((HOST + ":80",), "the host that proxies tell"),
    "bad IPv6 as the host": ((HOST + "[::1",), "the host that proxies tell"),
    "port 0 of a host": ((HOST + "shop.example:0",), "the port of the host that proxies tell"),
    "a port of a host too large": ((HOST + "a:99999",), "the port of the host that proxies tell"),
    "an empty host": ((HOST,), {}),
    # The port.
    "a told port": ((PORT + "8443",), origin("http", "h:8443", "h", "8443")),
    "a told port that is usual": (
        (PORT + "443", PROTO + "https"),
        origin("https", "h", "h", "443"),
    ),
    "a told port of the other scheme": (
        (PORT + "80", PROTO + "https"),
        origin("https", "h:80", "h", "80"),
    ),
    "a told port beside that of the host": (
        (PORT + "8443", PROTO + "https", HOST + "shop.example:8080"),
        origin("https", "shop.example:8443", "shop.example", "8443"),
    ),
    "a told port that is usual beside that of the host": (
        (PORT + "443", PROTO + "https", HOST + "shop.example:8080"),
        origin("https", "shop.example", "shop.example", "443"),
    ),
    "a told port beside that of Host": (
        ("Host: shop.example:8000", PORT + "443", PROTO + "https"),
        origin("https", "shop.example", "shop.example", "443"),
    ),
    "a told port and a host of IPv6": (
        (PORT + "8443", HOST + "[2001:db8::1]:1"),
        origin("http", "[2001:db8::1]:8443", "[2001:db8::1]", "8443"),
    ),
    "the port of Host stays": (
        ("Host: shop.example:8000", PROTO + "https"),
        origin("https", "shop.example:8000", "shop.example", "8000"),
    ),
    "ports for each hop": (
        (FOR + "192.0.2.7, 10.0.0.2", PORT + "8443, 80"),
        addr("192.0.2.7") | origin("http", "h:8443", "h", "8443"),
    ),
    "told port 0": ((PORT + "0",), "the port that proxies tell is none: '0'"),
    "told port 99999": ((PORT + "99999",), "the port that proxies tell"),
    "told port -1": ((PORT + "-1",), "the port that proxies tell"),
    "a told port in words": ((PORT + "https",), "the port that proxies tell"),
    "a told port of very many digits": ((PORT + "9" * 5000,), "the port that proxies tell"),
    "a told port with zeros": ((PORT + "0443", PROTO + "https"), origin("https", "h", "h", "443")),
    "an empty port field": ((PORT,), {}),
    # The prefix.
    "a prefix": ((PREFIX + "/shop",), {"SCRIPT_NAME": "/shop"}),
    "a prefix of two parts": ((PREFIX + "/a/b",), {"SCRIPT_NAME": "/a/b"}),
    "a slash behind a prefix": ((PREFIX + "/shop/",), {"SCRIPT_NAME": "/shop"}),
    "a slash as the prefix": ((PREFIX + "/",), {}),
    "an empty prefix": ((PREFIX,), {}),
    "an encoded prefix": ((PREFIX + "/caf%C3%A9",), {"SCRIPT_NAME": "/caf\xc3\xa9"}),
    "a prefix without a slash": ((PREFIX + "shop",), "the prefix that proxies tell is none"),
    "a prefix with two slashes": ((PREFIX + "//evil.example",), "the prefix that proxies tell"),
    "two slashes behind a prefix": ((PREFIX + "/shop//",), "the prefix that proxies tell"),
    "a prefix upwards": ((PREFIX + "/shop/../admin",), "the prefix that proxies tell"),
    "a prefix that is only upwards": ((PREFIX + "/..",), "the prefix that proxies tell"),
    "a dot in a prefix": ((PREFIX + "/./shop",), "the prefix that proxies tell"),
    "an encoded way upwards": ((PREFIX + "/shop/%2e%2E/x",), "the prefix that proxies tell"),
    "an encoded slash": ((PREFIX + "/shop%2fx",), "the prefix that proxies tell"),
    "an encoded backslash": ((PREFIX + "/shop%5Cx",), "the prefix that proxies tell"),
    "an encoded line end": ((PREFIX + "/shop%0d%0aX: y",), "the prefix that proxies tell"),
    "an encoded NUL": ((PREFIX + "/shop%00",), "the prefix that proxies tell"),
    "a broken escape": ((PREFIX + "/100%",), "the prefix that proxies tell"),
    "a backslash": ((PREFIX + "/\\evil",), "the prefix that proxies tell"),
    "a query in a prefix": ((PREFIX + "/a?b",), "the prefix that proxies tell"),
    "a URL as the prefix": ((PREFIX + "http://evil.example/",), "the prefix that proxies tell"),
    "two prefixes": ((PREFIX + "/evil, /shop",), {"SCRIPT_NAME": "/shop"}),
    "a prefix for each hop": (
        (FOR + "192.0.2.7, 10.0.0.2", PREFIX + "/outer, /inner"),
        addr("192.0.2.7") | {"SCRIPT_NAME": "/outer"},
    ),
    # Together.
    "all of them": (
        (
            FOR + "192.0.2.7:4711",
            PROTO + "https",
            HOST + "shop.example",
            PORT + "8443",
            PREFIX + "/shop",
        ),
        addr("192.0.2.7", "4711")
        | origin("https", "shop.example:8443", "shop.example", "8443")
        | {"SCRIPT_NAME": "/shop"},
    ),
    "without a Host, the server keeps its name": (
        ("Host:", PROTO + "https"),
        {"wsgi.url_scheme": "https", "HTTP_HOST": ""},
    ),
    "without a Host, the port is told": (
        ("Host:", PORT + "81"),
        {"SERVER_PORT": "81", "HTTP_HOST": ""},
    ),
    "Forwarded is not looked at": (
        (FOR + "192.0.2.7", "Forwarded: for=1.1.1.1;proto=https;host=evil"),
        addr("192.0.2.7"),
    ),
    "Forwarded alone is not looked at": (("Forwarded: for=1.1.1.1;proto=https",), {}),
    "a broken Forwarded does no harm": ((FOR + "192.0.2.7", 'Forwarded: "'), addr("192.0.2.7")),
    "underscores": ((FOR + "192.0.2.7", "X_Forwarded_For: 1.1.1.1"), addr("192.0.2.7")),
    "underscores alone": (("X_Forwarded_For: 1.1.1.1", "X_Forwarded-Proto: https"), {}),
    "names in capitals": (("X-FORWARDED-FOR: 192.0.2.7",), addr("192.0.2.7")),
}

FWD = "Forwarded: "
BAD_QUOTES = "quotation marks that do not enclose a value"

FORWARDED: dict[str, Case] = {
    "one address": ((FWD + "for=192.0.2.7",), addr("192.0.2.7")),
    "in quotation marks": ((FWD + 'for="192.0.2.7"',), addr("192.0.2.7")),
    "a port": ((FWD + 'for="192.0.2.7:4711"',), addr("192.0.2.7", "4711")),
    "a port without quotation marks": ((FWD + "for=192.0.2.7:4711",), addr("192.0.2.7", "4711")),
    "a hidden port": ((FWD + 'for="192.0.2.7:_gazonk"',), addr("192.0.2.7")),
    "IPv6": ((FWD + 'for="[2001:db8::7]"',), addr("2001:db8::7")),
    "IPv6 with a port": (
        (FWD + 'For="[2001:db8:cafe::17]:4711"',),
        addr("2001:db8:cafe::17", "4711"),
    ),
    "IPv6 without quotation marks": ((FWD + "for=[2001:db8::7]:1",), addr("2001:db8::7", "1")),
    "escapes in quotation marks": ((FWD + r'for="\1\9\2.0.2.7"',), addr("192.0.2.7")),
    "unknown": ((FWD + "for=unknown",), addr("unknown")),
    "unknown with a port": ((FWD + 'for="unknown:80"',), addr("unknown", "80")),
    "hidden": ((FWD + 'for="_gazonk"',), addr("_gazonk")),
    "hidden without quotation marks": ((FWD + "for=_SEVKISEK",), addr("_SEVKISEK")),
    "no for": ((FWD + "by=203.0.113.43",), addr("unknown")),
    "no for, and what the client claims": ((FWD + "for=1.1.1.1, by=10.0.0.1",), addr("unknown")),
    "a name": ((FWD + "for=localhost",), NO_CLIENT),
    "an empty for": ((FWD + 'for=""',), NO_CLIENT),
    "no value": ((FWD + "for=",), NO_CLIENT),
    "no equals sign": ((FWD + "192.0.2.7",), NO_CLIENT),
    "two of for": ((FWD + "for=192.0.2.7;for=1.1.1.1",), NO_CLIENT),
    "two of for in other letters": ((FWD + "for=192.0.2.7;FOR=1.1.1.1",), NO_CLIENT),
    "two of another": ((FWD + "for=192.0.2.7;proto=http;proto=https",), NO_CLIENT),
    "a space before the equals sign": ((FWD + "for =192.0.2.7",), NO_CLIENT),
    "spaces around semicolons": (
        (FWD + "for=192.0.2.7 ; proto=https",),
        addr("192.0.2.7") | origin("https", "h", "h", "443"),
    ),
    "semicolons alone": ((FWD + ";for=192.0.2.7;;",), addr("192.0.2.7")),
    "the client before a proxy": ((FWD + "for=192.0.2.7, for=10.0.0.2",), addr("192.0.2.7")),
    "two proxies": ((FWD + 'for=192.0.2.7,for="10.0.0.3:1",for=10.0.0.2',), addr("192.0.2.7")),
    "what the client claims": ((FWD + "for=127.0.0.1, for=192.0.2.7",), addr("192.0.2.7")),
    "nonsense of the client": ((FWD + "!!; <script>, for=192.0.2.7",), addr("192.0.2.7")),
    "all are proxies": ((FWD + "for=10.0.0.4, for=10.0.0.3",), addr("10.0.0.4")),
    "two fields": ((FWD + "for=192.0.2.7", FWD + "for=10.0.0.2"), addr("192.0.2.7")),
    "a broken field of the client": ((FWD + 'for="', FWD + "for=192.0.2.7"), addr("192.0.2.7")),
    "a broken field behind a proxy": ((FWD + 'for="', FWD + "for=10.0.0.2"), BAD_QUOTES),
    "empty elements": ((FWD + ", for=192.0.2.7, ,",), addr("192.0.2.7")),
    "an empty field": ((FWD,), {}),
    "a comma in quotation marks": (
        (FWD + 'for=1.1.1.1, for=192.0.2.7;ext="a, for=3.3.3.3"',),
        addr("192.0.2.7"),
    ),
    "a semicolon in quotation marks": (
        (FWD + 'for=192.0.2.7;ext="a;for=3.3.3.3"',),
        addr("192.0.2.7"),
    ),
    "quotation marks in quotation marks": (
        (FWD + r'for=192.0.2.7;ext="\", for=3.3.3.3"',),
        addr("192.0.2.7"),
    ),
    "an open quotation mark": ((FWD + 'for="192.0.2.7',), BAD_QUOTES),
    "an open quotation mark of the client": ((FWD + 'for="x, for=192.0.2.7',), BAD_QUOTES),
    "one that the proxy closes": ((FWD + 'x=", for="[2001:db8::7]"',), BAD_QUOTES),
    "one that the proxy closes, and opens": (
        (FWD + 'x=", for=192.0.2.7;host="h:1"',),
        BAD_QUOTES,
    ),
    "a quotation mark in a token": ((FWD + 'for=192.0.2.7"',), BAD_QUOTES),
    "text behind quotation marks": ((FWD + 'for="192.0.2.7"x',), BAD_QUOTES),
    "an escape that never ends": ((FWD + 'for="192.0.2.7\\"',), BAD_QUOTES),
    "https": (
        (FWD + "proto=https;for=192.0.2.7",),
        addr("192.0.2.7") | origin("https", "h", "h", "443"),
    ),
    "a scheme that is none": ((FWD + "for=192.0.2.7;proto=ftp",), "the scheme that proxies tell"),
    "an empty scheme": ((FWD + 'for=192.0.2.7;proto=""',), addr("192.0.2.7")),
    "a host": (
        (FWD + "for=192.0.2.7;host=shop.example",),
        addr("192.0.2.7") | origin("http", "shop.example", "shop.example", "80"),
    ),
    "a host with a port": (
        (FWD + 'for=192.0.2.7;host="shop.example:8443";proto=https',),
        addr("192.0.2.7") | origin("https", "shop.example:8443", "shop.example", "8443"),
    ),
    "a host that is none": ((FWD + 'for=192.0.2.7;host="a b"',), "the host that proxies tell"),
    "the pairs of the client's element": (
        (FWD + "for=192.0.2.7;proto=https;host=shop.example, for=10.0.0.2;proto=http;host=inner",),
        addr("192.0.2.7") | origin("https", "shop.example", "shop.example", "443"),
    ),
    "no pairs of other elements": (
        (FWD + "for=1.1.1.1;proto=https;host=evil, for=192.0.2.7, for=10.0.0.2;proto=https",),
        addr("192.0.2.7"),
    ),
    "names that are not known": ((FWD + "for=192.0.2.7;secret=x;by=_a",), addr("192.0.2.7")),
    "X-Forwarded is not looked at": (
        (FWD + "for=192.0.2.7", FOR + "1.1.1.1", PROTO + "https", HOST + "evil", PREFIX + "/evil"),
        addr("192.0.2.7"),
    ),
    "X-Forwarded alone is not looked at": ((FOR + "1.1.1.1", PROTO + "evil"), {}),
}

CASES = [
    (f"{headers}-{name}-{http}", headers, http, lines, expected)
    for headers, table in zip(CHOICES, (X_FORWARDED, FORWARDED), strict=True)
    for name, (lines, expected) in table.items()
    for http in ("h11", "httptools")
]


def shown(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an environ that the table is about."""
    return {key: environ[key] for key in UNTOLD}


@in_one_test(
    ("headers", "http", "lines", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_the_environ_says_what_a_trusted_proxy_tells(
    headers: str, http: str, lines: tuple[str, ...], expected: Expected
) -> None:
    site = SITES[f"{headers} {http}"]
    if isinstance(expected, str):
        with pytest.raises(Refusal, match=expected) as refused:
            site.environ(*lines)
        assert refused.value.status == 400
        return
    assert shown(site.environ(*lines)) == UNTOLD | expected
    # The section is in the cache the second time, and what follows from it, too.
    assert shown(site.environ(*lines)) == UNTOLD | expected
    assert shown(site.environ(*lines)) == UNTOLD | expected


@pytest.mark.parametrize("keep", [False, True])
@in_one_test(("headers", "lines"), dict.fromkeys((case[1], case[3]) for case in CASES))
def test_a_peer_that_is_not_trusted_changes_nothing(
    headers: str, lines: tuple[str, ...], keep: bool
) -> None:
    site = Site(forwarded_headers=headers, forwarded_keep=keep)
    environ = site.environ(*lines, peer="192.0.2.99")
    hosts = [line.partition(":")[2].strip() for line in lines if line.startswith("Host:")]
    told = {"REMOTE_ADDR": "192.0.2.99", "HTTP_HOST": (hosts or ["h"])[0]}
    assert shown(environ) == UNTOLD | told
    assert "aiowsgi.peer" not in environ
    seen = {key for key in environ if key.startswith(("HTTP_X_FORWARDED_", "HTTP_FORWARDED"))}
    assert seen - {"HTTP_X_FORWARDED_SSL", "HTTP_X_FORWARDED_SCHEME"} == (
        {
            f"HTTP_{name.upper().replace('-', '_')}"
            for name in (line.partition(":")[0] for line in lines)
            if "_" not in name and "orwarded" in name.lower()
        }
        - {"HTTP_X_FORWARDED_SSL", "HTTP_X_FORWARDED_SCHEME"}
        if keep
        else set()
    )


def test_the_table_is_long_enough() -> None:
    assert len(X_FORWARDED) >= 80
    assert len(FORWARDED) >= 40
