"""Fields of a response that are for nginx, ``X-Accel-…``: they pass through, and nginx obeys."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from http.client import HTTPResponse
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from extent import representative
from proxies import (
    KINDS,
    NGINX_FOLDERS,
    NGINX_MAIN,
    TIMEOUT,
    UWSGI_PARAMS,
    Front,
    configured_front,
    front,
    open_folder,
    upstream,
)

CONTENT = b"the file that nginx sends" * 1000
_NGINX = (
    NGINX_MAIN
    + "events {{}} http {{ access_log log;"
    + NGINX_FOLDERS
    + """    {how}_cache_path cache keys_zone=cache:1m;
    server {{
        listen unix:front;
        location / {{
            {how}_cache cache;
            {how}_cache_key $request_uri;
            {pass}
        }}
        location /files/ {{
            internal;
            alias {folder}/files/;
        }}
    }}
}}
"""
)
WAYS = {
    "proxy_pass": ("127.0.0.1:0", "proxy", "proxy_pass http://{server};"),
    "proxy_pass-unix": ("unix:{folder}/s", "proxy", "proxy_pass http://{server}:;"),
    "uwsgi_pass": ("uwsgi:127.0.0.1:0", "uwsgi", UWSGI_PARAMS + "uwsgi_pass {server};"),
}


class Application:
    """Answers each path with the fields that it is about."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.go_on = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.calls[path] += 1
        fields = {
            "/file": [("X-Accel-Redirect", "/files/content"), ("Content-Type", "text/x-shop")],
            "/kept": [("X-Accel-Expires", "60")],
            "/stream": [("X-Accel-Buffering", "no")],
        }
        start_response("200 OK", fields.get(path, []))
        return self._stream() if path == "/stream" else [path.encode()]

    def _stream(self) -> Iterator[bytes]:
        yield b"first"
        assert self.go_on.wait(TIMEOUT)
        yield b"second"


@contextlib.contextmanager
def accelerated(way: str) -> Iterator[tuple[Application, Front]]:
    bind, how, passed = WAYS[way]
    app = Application()
    with open_folder() as folder:
        (folder / "files").mkdir()
        (folder / "files" / "content").write_bytes(CONTENT)
        with upstream(app, bind.format(folder=folder)) as server:
            text = _NGINX.format(how=how, folder=folder, **{"pass": passed.format(server=server)})
            with configured_front(KINDS["nginx"], folder, text) as proxy:
                yield app, proxy
                assert not proxy.complaints()


def fetch(proxy: Front, path: str) -> tuple[HTTPResponse, bytes]:
    with proxy.client() as client:
        client.request("GET", path)
        response = client.getresponse()
        return response, response.read()


@pytest.mark.parametrize("way", representative(WAYS, "uwsgi_pass"))
def test_nginx_does_what_an_application_says(way: str) -> None:
    with accelerated(way) as (app, proxy):
        # Another file than the body of the response, and without the field.
        response, body = fetch(proxy, "/file")
        assert (response.status, body) == (200, CONTENT)
        assert response.headers["Content-Type"] == "text/x-shop"
        assert response.headers["X-Accel-Redirect"] is None
        # A response that is kept for a while, and one that is not.
        for path in ("/kept", "/kept", "/other", "/other"):
            assert fetch(proxy, path)[1] == path.encode()
        assert (app.calls["/kept"], app.calls["/other"]) == (1, 2)
        # A response that is not collected.
        with proxy.client() as client:
            client.request("GET", "/stream")
            response = client.getresponse()
            assert response.read(5) == b"first"
            app.go_on.set()
            assert response.read() == b"second"


@pytest.mark.parametrize("kind", representative(["haproxy", "caddy"], "haproxy"))
def test_they_mean_nothing_to_the_server_and_reach_whoever_asks(kind: str) -> None:
    app = Application()
    way = KINDS[kind]
    with open_folder() as folder, upstream(app) as server, front(way, folder, server) as proxy:
        response, body = fetch(proxy, "/file")
    assert body == b"/file"
    assert response.headers["X-Accel-Redirect"] == "/files/content"
