"""The path below which an application is: a prefix of all paths, which is its SCRIPT_NAME."""

from collections.abc import Mapping

from ..exchange.interfaces import Answerer
from ..exchange.stream import Stream
from ..http.request import RequestHead

_FIELDS = (("Content-Type", "text/plain; charset=utf-8"),)


class PrefixAnswerer(Answerer):
    """Cuts the prefix from paths, and answers others with a 404.

    Arguments: the prefix, which begins with a slash and does not end with one; and what answers the
    paths below it, whose environ has the prefix as SCRIPT_NAME.
    """

    def __init__(self, prefix: str, otherwise: Answerer) -> None:
        self._prefix = prefix
        self._otherwise = otherwise
        self._not_found = (
            f"404 Not Found: all paths of this server begin with {prefix}/ (--script-name). If a "
            "web server in front has removed that, see --script-name-strip.\n"
        ).encode()

    def answer(self, stream: Stream) -> None:
        """Answer 404 where the path does not begin with the prefix."""
        if self._cut(stream):
            self._otherwise.answer(stream)
        else:
            stream.respond(404, _FIELDS, self._not_found)

    def _cut(self, stream: Stream) -> bool:
        """Cut the prefix from the path. Return False where the path does not begin with it."""
        head = stream.head
        variables = head.variables
        if variables is None or head.section.variables is not None:
            # Nobody else than the request says what its path is.
            rest = self._below(head.path)
            if rest is not None:
                self._replace(stream, rest, variables)
            return rest is not None
        # A web server tells variables. It may know better where the application is.
        if variables.get("SCRIPT_NAME"):
            return True
        rest = self._below(variables.get("PATH_INFO", head.path))
        if rest is None:
            return False
        told = {**variables, "PATH_INFO": rest, "SCRIPT_NAME": self._prefix}
        self._replace(stream, head.path, told)
        return True

    def _replace(self, stream: Stream, path: str, variables: Mapping[str, str] | None) -> None:
        """Give the stream a head of its own: other requests may share the one that it has."""
        head = stream.head
        stream.head = RequestHead(
            head.method, head.target, path, head.query, head.host, head.section, variables
        )

    def _below(self, path: str) -> str | None:
        """Return what follows the prefix; None where a path is not the prefix, or below it."""
        prefix = self._prefix
        if path.startswith(prefix):
            rest = path[len(prefix) :]
            if not rest or rest[0] == "/":
                return rest
        return None
