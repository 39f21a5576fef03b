"""The rows of the benchmark: which application, which request, how many connections.

Data only. A new row is one more `Workload` in `WORKLOADS` (and, if it needs one, an application
in `apps` and its adapted twin in `asgi`).
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import apps

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
class Workload:
    """One row: a request that clients repeat, and the answer that proves a server does the work."""

    name: str
    title: str
    application: str
    """Name of the application in `apps` and `asgi`."""
    expected_body: bytes
    connections: int | None = None
    """Open connections; None means the number given by `--connections`."""
    threads: int | None = None
    """Threads of each server; None means the number given by `--threads`."""
    burners: int = 0
    """Connections that keep CPU-bound requests running. Where there are any, requests/s counts
    those, and latencies are those of a trivial request beside them, one at a time: the client is
    `fairness` instead of wrk."""
    headers: tuple[tuple[str, str], ...] = ()
    request_body: bytes = b""
    """The body that `script` sends; the check before the measurement sends it too."""
    script: Path | None = None
    """A Lua script for wrk, where a plain GET is not enough."""
    payload_bytes: int = 0
    """Body bytes moved by one request, where MB/s says more than requests/s; else 0."""


WORKLOADS = (
    Workload(
        name="hello",
        title="14 bytes, bare request headers",
        application="hello",
        expected_body=apps.HELLO_BODY,
    ),
    Workload(
        name="browser",
        title="14 bytes, the 16 request headers of a browser",
        application="hello",
        expected_body=apps.HELLO_BODY,
        headers=BROWSER_HEADERS,
    ),
    Workload(
        name="single",
        title="14 bytes, one request at a time",
        application="hello",
        expected_body=apps.HELLO_BODY,
        connections=1,
    ),
    Workload(
        name="stream",
        title="10 MiB answered in 64 KiB chunks",
        application="stream",
        expected_body=apps.STREAM_CHUNK * apps.STREAM_CHUNKS,
        connections=8,
        payload_bytes=apps.STREAM_BYTES,
    ),
    Workload(
        name="upload",
        title="1 MiB posted and read by the application",
        application="upload",
        expected_body=b"1048576\n",
        connections=8,
        request_body=b"x" * (1024 * 1024),
        script=Path(__file__).with_name("upload.lua"),
        payload_bytes=1024 * 1024,
    ),
    Workload(
        name="cpu",
        title="14 bytes, one request at a time, beside 8 CPU-bound requests",
        application="cpu",
        expected_body=apps.HELLO_BODY,
        connections=9,
        threads=16,
        burners=8,
    ),
)
