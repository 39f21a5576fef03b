"""Reloads one after the other under constant load: every request that is sent is answered.

Several clients keep their connections, others open one for each request, over TCP, over a Unix
socket and through real proxies, which share their own connections to the server.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from constant_load import ConstantLoad
from extent import EXHAUSTIVE, representative
from proxies import KINDS, PROXY_KINDS, TLS_KINDS, UWSGI_KINDS, certified, front, open_folder
from served_process import ANSWER, ServedProcess, served

FRONTS = {**KINDS, **TLS_KINDS, **PROXY_KINDS, **UWSGI_KINDS}
# Directly, and through a web server in front.
DIRECT = ["tcp", "unix"]
WAYS = [*DIRECT, *FRONTS]


def rounds(way: str, most: int) -> int:
    """Return how often something is done under load: ``most`` times where everything is tried.

    Not through each of the web servers: there are many.
    """
    if not EXHAUSTIVE:
        return 4
    return most if way in DIRECT else most // 5


@contextlib.contextmanager
def loaded(
    way: str, folder: Path, *options: str, **more: Any
) -> Iterator[tuple[ServedProcess, ConstantLoad]]:
    """Serve, and ask in one of the ways."""
    kind = FRONTS.get(way)
    with contextlib.ExitStack() as stack:
        sockets = stack.enter_context(open_folder())
        if way == "unix":
            bind = f"unix:{sockets}/server"
        elif kind is None:
            bind = "127.0.0.1:0"
        else:
            bind = kind.bind.format(folder=sockets)
            for path in certified(kind, sockets).get("certfile", ()):
                options = (*options, "--certfile", path)
        process = stack.enter_context(
            served(folder, ANSWER, "--workers", "2", *options, bind=("--bind", bind), **more)
        )
        place = process.said(r" Serving .* at (?:https?://|uwsgi://|uwsgi:|tls:)?(\S+) with ")[1]
        if way == "unix":
            load = ConstantLoad.on_path(f"{sockets}/server")
        elif kind is None:
            load = ConstantLoad.on_port(int(place.rpartition(":")[2]))
        else:
            proxy = stack.enter_context(front(kind, sockets, place))
            load = ConstantLoad(proxy.connect)
        yield process, stack.enter_context(load)


@pytest.mark.parametrize("preload", representative(["--preload", "--no-preload"], "--preload"))
@pytest.mark.parametrize("way", representative(WAYS, "unix", "nginx"))
def test_every_request_is_answered_during_reloads(tmp_path: Path, way: str, preload: str) -> None:
    began, reloads = time.monotonic(), rounds(way, 50)
    with loaded(way, tmp_path, preload) as (process, load):
        for _ in range(reloads):
            process.signal(signal.SIGHUP)
            process.said("Reloaded: 2 workers")
            load.wait_for_more()
    seconds = time.monotonic() - began
    load.assert_nothing_lost()
    print(
        f"{way} {preload}: {reloads} reloads in {seconds:.1f} s, {load.sent} requests, "
        f"longest wait {load.longest * 1000:.0f} ms",
    )
