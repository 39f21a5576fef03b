"""What the application would see of a request that proxies have passed on. In memory."""

from io import BytesIO
from typing import Any

from aiowsgi.config import Config, ListenerConfig
from aiowsgi.exchange.info import ConnectionInfo
from aiowsgi.http.readers.choice import find_reader
from aiowsgi.http.request import RequestHead
from aiowsgi.server.entrances import codecs
from aiowsgi.wsgi.environ import base_environ, build_environ

# Two networks of proxies, and what is nobody's proxy.
TRUST = ("10.0.0.0/8", "2001:db8:ffff::/48", "unix")
PROXY = "10.0.0.1"
SERVER = ("10.9.9.9", "8000")


class Site:
    """A server's way from bytes to the environ; ``options`` are fields of ``Config``."""

    def __init__(self, http: str = "h11", bind: str = "", **options: Any) -> None:
        config = Config(**({"forwarded_allow_ips": TRUST} | options))
        listener = ListenerConfig.parse(bind)
        reader = find_reader(http)
        (self._codec,) = codecs(config, reader, [listener]).values()
        script_name = config.script_name if config.script_name_strip else ""
        self._base = base_environ(
            software="x", multithread=True, multiprocess=False, script_name=script_name
        )

    def head(
        self, *lines: str, peer: str = PROXY, scheme: str = "http", line: str = "GET /a HTTP/1.1"
    ) -> RequestHead:
        """Return the head of a request. Raises Refusal."""
        host = () if any(text.lower().startswith("host:") for text in lines) else ("Host: h",)
        info = ConnectionInfo(SERVER, (peer, "5000" if peer else ""), scheme, None, 0.0)
        parser = self._codec.parser(info)
        parser.feed("".join(f"{text}\r\n" for text in (line, *host, *lines, "")).encode("latin-1"))
        head = parser.next_event()
        assert isinstance(head, RequestHead)
        return head

    def environ(
        self, *lines: str, peer: str = PROXY, scheme: str = "http", line: str = "GET /a HTTP/1.1"
    ) -> dict[str, Any]:
        """Return the environ of a request. Raises Refusal."""
        return build_environ(
            self._base,
            self.head(*lines, peer=peer, scheme=scheme, line=line),
            BytesIO(),
            scheme=scheme,
            server=SERVER,
            client=(peer, "5000" if peer else ""),
        )
