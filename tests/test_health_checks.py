"""Health checks of HAProxy: a server that stops is taken out in time, and no request is lost.

Two servers share the requests. One of them is stopped, and goes on for its ``drain_delay``, in
which its checks say so.
"""

import contextlib
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from constant_load import ConstantLoad
from extent import exhaustive
from proxies import KINDS, TLS_KINDS, certified, configured_front, open_folder, upstream
from waiting import eventually

_TLS = "ssl verify required ca-file ca.pem sni str(localhost)"
# What each server listens on, and what HAProxy says of it.
WAYS = {
    "tcp": ("127.0.0.1:0", ""),
    "unix": ("unix:{folder}/{name}", ""),
    "tls": ("tls:127.0.0.1:0", _TLS),
    "proxy": ("127.0.0.1:0?proxy=on&trust=127.0.0.1", "send-proxy-v2"),
    "tls-proxy": ("tls:127.0.0.1:0?proxy=on&trust=127.0.0.1", f"send-proxy-v2 {_TLS}"),
}
_HAPROXY = """
global
    nbthread 1
    maxconn 512
    log stdout format raw local0
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend front
    bind unix@front
    log global
    log-format "request x %ST %ts"
    default_backend server
backend server
    balance roundrobin
    http-reuse always
    option httpchk GET /healthz
    # The first pause is also the time in which one has to connect, on a busy machine.
    timeout check 5s
    default-server check inter 1s fastinter 200ms fall 2 rise 1 {parameters}
    server one {one}
    server two {two}
"""


def saying(seen: set[str], name: str) -> WSGIApplication:
    """Return an application that notes its name with each request."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.add(name)
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    return application


@pytest.mark.parametrize("way", WAYS)
@exhaustive
def test_a_server_that_stops_is_taken_out_by_its_checks_and_nothing_is_lost(way: str) -> None:
    bind, parameters = WAYS[way]
    seen = set[str]()
    with open_folder() as folder, contextlib.ExitStack() as first:
        options = certified(TLS_KINDS["haproxy-tls"], folder) if "tls" in way else {}

        def serving(name: str) -> "contextlib.AbstractContextManager[str]":
            return upstream(
                saying(seen, name),
                bind.format(folder=folder, name=name),
                health_path="/healthz",
                drain_delay=6.0,
                **options,
            )

        def said() -> str:
            return (folder / "errors").read_text() + (folder / "log").read_text()

        one = first.enter_context(serving("one"))
        with serving("two") as two:
            text = _HAPROXY.format(
                parameters=parameters,
                one=one.replace("unix:", "unix@"),
                two=two.replace("unix:", "unix@"),
            )
            with (
                configured_front(KINDS["haproxy"], folder, text) as proxy,
                ConstantLoad(proxy.connect) as load,
            ):
                load.wait_for_more()
                eventually(lambda: seen == {"one", "two"}, lambda: f"only {seen} is asked")
                first.close()
                assert "server/one is DOWN, reason: Layer7 wrong status, code: 503" in said()
                assert "server/two is DOWN" not in said()
                seen.clear()
                load.wait_for_more()
                assert seen == {"two"}
            load.assert_nothing_lost()
            assert not proxy.complaints()
