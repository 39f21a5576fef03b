"""HTTP/1.1 and HTTP/1.0 (RFC 9112), one request after the other."""

from ..exchange.info import ConnectionInfo
from ..exchange.interfaces import Codec
from ..http.parser import Parser
from ..http.request import RequestHead, RequestParser
from ..http.response import CONTINUE, ResponseEncoder, ResponseHeads
from .peers import Sections


class Http1(Codec):
    """The codec of HTTP/1.1.

    Arguments: how the header sections of each peer are read, and the heads of responses. Both are
    remembered.
    """

    __slots__ = ("_heads", "_sections", "continue_response")

    def __init__(self, sections: Sections, heads: ResponseHeads) -> None:
        self._sections = sections
        self._heads = heads
        self.continue_response = CONTINUE

    def parser(self, info: ConnectionInfo) -> RequestParser:
        """Return a parser for a new connection."""
        return Parser(self._sections.of(info), info.tls is not None)

    def encoder(self, head: RequestHead) -> ResponseEncoder:
        """Return an encoder for the response to one request."""
        section = head.section
        return ResponseEncoder(self._heads, head.method, section.version, section.keep_alive)
