"""The rows of the benchmark: which application, which request, how many connections, what counts.

Data only. A new row is one more `Row` in `ROWS` (and, if it needs one, an application).
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import apps
from benchmarks.figures import (
    BURNED,
    CLIENT_DELAY,
    CPU_PER_REQUEST,
    KEPT,
    MEMORY,
    P50,
    P99,
    P999,
    PER_CONNECTION,
    RATE,
    RATE_OF_ONE,
    RATE_OF_TWO,
    SCALING,
    SLEEP_SHARE,
    THROUGHPUT,
    Figure,
)

# What Chromium sends with a navigation inside a site, minus Host (wrk adds that one): with it the
# request has sixteen header fields.
BROWSER_HEADERS = (
    ("Connection", "keep-alive"),
    ("Cache-Control", "max-age=0"),
    ("sec-ch-ua", '"Chromium";v="142", "Not_A Brand";v="99"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/142.0.0.0 Safari/537.36",
    ),
    (
        "Accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,"
        "image/apng,*/*;q=0.8",
    ),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Referer", "http://127.0.0.1/account/orders"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
    ("Cookie", "sessionid=8c1f0e6b9a5d4c7f8e2b3a1d0f9c6e5b; csrftoken=Zk3vQ9xLr2Wn8TgYb5Hd"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a request that clients repeat, and the answer that proves a server does the work."""

    name: str
    title: str
    headlines: tuple[Figure, ...] = (RATE,)
    """What servers are compared by; the first is drawn."""
    figures: tuple[Figure, ...] = (P50, P99, MEMORY)
    """What the table shows besides."""
    application: str = "benchmarks.apps:hello"
    requirements: tuple[str, ...] = ()
    """What pip installs for the application."""
    expected_body: bytes = apps.HELLO_BODY
    expected_times: int = 1
    """The answer is the body repeated so many times."""
    connections: int | None = None
    """Open connections; None means the number given by `--connections`."""
    threads: int | None = None
    """Threads of each server; None means the number given by `--threads`."""
    workers: int = 1
    """Processes of each server. With more than one, each server is measured with one as well."""
    burners: int = 0
    """Connections that keep CPU-bound requests running: the client is `fairness` instead of wrk."""
    offered: bool = False
    """Requests come at the rate given by `--rate`: the client is `offered` instead of wrk."""
    tls: bool = False
    """Clients speak TLS, and the servers have a certificate with a P-256 key."""
    handshakes: bool = False
    """Each request makes a full handshake: the client is `handshakes` instead of wrk, which resumes
    the session of the connection before."""
    idle: int = 0
    """Connections that are opened, used once and left idle, when the load of wrk has ended."""
    headers: tuple[tuple[str, str], ...] = ()
    request_body: bytes = b""
    """The body that `script` sends; the check before the measurement sends it too."""
    script: Path | None = None
    """A Lua script for wrk, where a plain GET is not enough."""


_FOLDER = Path(__file__).parent

ROWS = (
    Row(name="hello", title="14 bytes, bare request headers"),
    Row(
        name="browser",
        title="14 bytes, the 16 request headers of a browser",
        headers=BROWSER_HEADERS,
    ),
    Row(
        name="varied",
        title="14 bytes, 17 request headers, another path, cookie and request id each time",
        headers=BROWSER_HEADERS,
        script=_FOLDER / "varied.lua",
    ),
    Row(
        name="flask",
        title="Flask, a view that answers JSON",
        application="benchmarks.flask_app:application",
        requirements=("flask",),
        expected_body=apps.JSON_BODY,
    ),
    Row(
        name="django",
        title="Django, a view behind the middleware of a new project",
        application="benchmarks.django_app:application",
        requirements=("django",),
    ),
    Row(
        name="sleep",
        title="the application sleeps 10 ms",
        headlines=(SLEEP_SHARE, P99),
        figures=(RATE, P50, MEMORY),
        application="benchmarks.apps:sleep",
        connections=64,
    ),
    Row(
        name="stream",
        title="10 MiB answered in 64 KiB chunks",
        headlines=(THROUGHPUT,),
        application="benchmarks.apps:stream",
        expected_body=apps.CHUNK,
        expected_times=apps.STREAM_CHUNKS,
        connections=8,
    ),
    Row(
        name="file",
        title="100 MiB answered by wsgi.file_wrapper",
        headlines=(THROUGHPUT,),
        application="benchmarks.apps:file",
        expected_body=apps.CHUNK,
        expected_times=apps.FILE_CHUNKS,
        connections=8,
    ),
    Row(
        name="upload",
        title="1 MiB posted and read by the application",
        application="benchmarks.apps:upload",
        expected_body=b"%d\n" % apps.UPLOAD_BYTES,
        connections=8,
        request_body=b"x" * apps.UPLOAD_BYTES,
        script=_FOLDER / "upload.lua",
    ),
    Row(
        name="single",
        title="14 bytes, one request at a time",
        headlines=(P50, P99),
        figures=(RATE, MEMORY),
        connections=1,
    ),
    Row(
        name="latency",
        title="14 bytes, requests at a fixed rate, timed from when each was due",
        headlines=(P99,),
        figures=(P50, P999, RATE, CLIENT_DELAY, MEMORY),
        offered=True,
    ),
    Row(
        name="close",
        title="14 bytes, a new connection for each request",
        headers=(("Connection", "close"),),
    ),
    Row(
        name="tls",
        title="14 bytes over TLS 1.3",
        figures=(CPU_PER_REQUEST, P50, P99, MEMORY),
        tls=True,
    ),
    Row(
        name="tls-handshakes",
        title="14 bytes over TLS 1.3, a new connection with a full handshake for each request",
        headlines=(CPU_PER_REQUEST,),
        figures=(RATE, P50, P99, MEMORY),
        connections=8,
        headers=(("Connection", "close"),),
        tls=True,
        handshakes=True,
    ),
    Row(
        name="tls-resumed",
        title="14 bytes over TLS 1.3, a new connection for each request that resumes the last one",
        headlines=(CPU_PER_REQUEST,),
        figures=(RATE, P50, P99, MEMORY),
        connections=8,
        headers=(("Connection", "close"),),
        tls=True,
    ),
    Row(
        name="workers",
        title="Flask, 2 processes : 1 process, on 2 cores that the client shares",
        headlines=(SCALING,),
        figures=(RATE_OF_TWO, RATE_OF_ONE),
        application="benchmarks.flask_app:application",
        requirements=("flask",),
        expected_body=apps.JSON_BODY,
        workers=2,
    ),
    Row(
        name="idle",
        title="resident memory for each of 10,000 idle connections that have made a request",
        headlines=(PER_CONNECTION,),
        figures=(KEPT, MEMORY),
        idle=10_000,
    ),
    Row(
        name="tls-idle",
        title="resident memory for each of 2,000 idle TLS connections that have made a request",
        headlines=(PER_CONNECTION,),
        figures=(KEPT, MEMORY),
        tls=True,
        idle=2_000,
    ),
    Row(
        name="memory",
        title="resident memory after serving 14 bytes",
        headlines=(MEMORY,),
        figures=(RATE,),
    ),
    Row(
        name="cpu",
        title="14 bytes, one request at a time, beside 8 CPU-bound requests",
        headlines=(P50, BURNED),
        figures=(P99, MEMORY),
        application="benchmarks.apps:cpu",
        connections=9,
        threads=16,
        burners=8,
    ),
)
