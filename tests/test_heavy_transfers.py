"""A hundred megabytes each way through real proxies, and the memory that a server takes meanwhile.

Nothing is collected on the way where a proxy can be told so: the client's pace is the server's.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import pytest
from extent import exhaustive
from proxies import KINDS, PROXY_KINDS, TLS_KINDS, UWSGI_KINDS, Front, certified, front, open_folder
from served_process import served

FRONTS = {**KINDS, **TLS_KINDS, **PROXY_KINDS, **UWSGI_KINDS}
MEBIBYTE = bytes(range(256)) * 4096
COUNT = 100
DIGEST = hashlib.sha256(MEBIBYTE * COUNT).hexdigest()
# What a server may take beyond what it takes to begin with: buffers of some clients, and no body.
ALLOWED = 24 << 20

APPLICATION = f"""
import hashlib

PIECE = bytes(range(256)) * 4096

def application(environ, start_response):
    path, body = environ["PATH_INFO"], environ["wsgi.input"]
    start_response("200 OK", [])
    if path == "/upload":
        digest = hashlib.sha256()
        while data := body.read(1 << 16):
            digest.update(data)
        return [digest.hexdigest().encode()]
    if path == "/file":
        return environ["wsgi.file_wrapper"](open("content", "rb"))
    return [PIECE] * {COUNT} if path == "/pieces" else [b"small"]
"""


class Place(NamedTuple):
    """A server behind a proxy."""

    proxy: Front
    pid: int

    def memory(self) -> int:
        """Return the most that the server has taken so far, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) << 10

    def check(self) -> None:
        """Make small requests, each on a connection of its own."""
        for _ in range(10):
            with self.proxy.client() as client:
                client.request("GET", "/")
                assert client.getresponse().read() == b"small"


@contextlib.contextmanager
def heavy(way: str) -> Iterator[Place]:
    kind = FRONTS[way]
    with open_folder() as folder:
        with (folder / "content").open("wb") as file:
            for _ in range(COUNT):
                file.write(MEBIBYTE)
        bind = kind.bind.format(folder=folder)
        options = [
            text
            for path in certified(kind, folder).get("certfile", ())
            for text in ("--certfile", path)
        ]
        with served(folder, APPLICATION, *options, bind=("--bind", bind)) as process:
            place = process.said(r" Serving .* at (?:https?://|uwsgi://|uwsgi:|tls:)?(\S+) with ")
            with front(kind, folder, place[1]) as proxy:
                yield Place(proxy, process.pid)
                proxy.stop()
                assert not proxy.complaints()
            assert process.stop() == 0


def taken(client: HTTPConnection, path: str, place: Place) -> str:
    """Take a response in two parts, between which others are served; return its digest."""
    client.request("GET", path)
    response, digest = client.getresponse(), hashlib.sha256()
    digest.update(response.read(len(MEBIBYTE)))
    place.check()
    while data := response.read(1 << 16):
        digest.update(data)
    return digest.hexdigest()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the memory")
@pytest.mark.parametrize("way", FRONTS)
@exhaustive
def test_a_hundred_megabytes_go_each_way_and_take_no_memory(way: str) -> None:
    with heavy(way) as place:
        place.check()
        before = place.memory()
        with place.proxy.client() as client:
            client.request("POST", "/upload", iter([MEBIBYTE] * COUNT), encode_chunked=True)
            assert client.getresponse().read().decode() == DIGEST
            client.request(
                "POST", "/upload", iter([MEBIBYTE] * COUNT), {"Content-Length": str(COUNT << 20)}
            )
            assert client.getresponse().read().decode() == DIGEST
            for path in "/pieces", "/file":
                assert taken(client, path, place) == DIGEST
        assert place.memory() < before + ALLOWED
