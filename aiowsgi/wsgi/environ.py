"""The environ (PEP 3333, "environ Variables"; RFC 3875 §4.1)."""

from collections.abc import Mapping
from typing import Any, BinaryIO

from ..http.meta_variables import meta_variable
from ..http.request import FieldSection, MetaVariable, RequestHead
from .error_stream import ErrorStream
from .file_wrapper import FileWrapper

Environ = dict[str, Any]

# The keys that ``build_environ`` sets for each request. They are in the base environ already,
# because a dict that grows after it was copied costs twice as much.
_PER_REQUEST_KEYS = (
    "REQUEST_METHOD",
    "PATH_INFO",
    "QUERY_STRING",
    "REQUEST_URI",
    "RAW_URI",
    "SERVER_NAME",
    "SERVER_PORT",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "wsgi.url_scheme",
    "wsgi.input",
)


# What a proxy in front can tell better than the server knows it.
_TOLD_KEYS = (
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "wsgi.url_scheme",
    "HTTP_HOST",
    "SERVER_NAME",
    "SERVER_PORT",
    "SCRIPT_NAME",
)


def base_environ(
    *, software: str, multithread: bool, multiprocess: bool, script_name: str = ""
) -> Environ:
    """Return the part of the environ that is the same for all requests of a server.

    ``multithread`` and ``multiprocess`` say whether the application may be called by another
    thread, or another process, at the same time; ``script_name`` is where it is.
    """
    return {
        "SCRIPT_NAME": script_name,
        "SERVER_SOFTWARE": software,
        "wsgi.version": (1, 0),
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        # The end of the input is the end of the body, also where CONTENT_LENGTH is missing.
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.errors": ErrorStream(),
        **dict.fromkeys(_PER_REQUEST_KEYS),
    }


def _joined(variables: list[MetaVariable]) -> Environ:
    """Return the fields of a section in which some names come more than once."""
    values: dict[str, list[str]] = {}
    for key, value in variables:
        values.setdefault(key, []).append(value)
    # Joined in one step, so that many fields with one name take linear time (CVE-2025-14550).
    # RFC 9110 §5.3 joins with commas; a cookie-string knows only "; " (RFC 6265 §4.2.1).
    return {
        key: ("; " if key == "HTTP_COOKIE" else ",").join(several)
        for key, several in values.items()
    }


def _section_environ(base: Environ, section: FieldSection) -> Environ:
    """Return what the environs of all requests with this header section have in common."""
    environ = base.copy()
    environ["SERVER_PROTOCOL"] = section.version
    variables = section.meta_variables
    if variables is None:
        variables = [meta_variable(name, value) for name, value in section.fields]
    size = len(environ) + len(variables)
    environ.update(variables)
    if len(environ) < size:  # Some came more than once.
        environ.update(_joined(variables))
    if section.content_length is not None:
        # Without leading zeros: int() refuses a number of very many digits.
        environ["CONTENT_LENGTH"] = str(section.content_length)
    # The body is decoded already. An application that sees the field might decode it again.
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    # Proxy is not for the application: HTTP clients take HTTP_PROXY for a setting (CVE-2016-5385).
    environ.pop("HTTP_PROXY", None)
    return environ


def build_environ(
    base: Environ,
    head: RequestHead,
    body: BinaryIO,
    scheme: str,
    server: tuple[str, str],
    client: tuple[str, str],
    tls: Mapping[str, str] | None = None,
    peer: tuple[tuple[str, str], tuple[str, str], str] | None = None,
) -> Environ:
    """Return the environ of one request: a new dict.

    Arguments: the base environ, the request head, the input; "http" or "https"; host and port of
    the server's and of the client's end of the connection; what TLS adds; and server, client and
    scheme as the connection itself has them, where a proxy has told others. The head's
    ``variables`` replace any of that. All requests whose heads are remembered together have the
    same base environ.
    """
    section = head.section
    # Several threads may make these two dicts at the same time. Each makes an equal one, and stores
    # it when it is complete. After that it is never changed.
    common = head.environ
    if common is not None:
        environ = common.copy()
    else:
        common = section.environ
        if common is None:
            common = section.environ = _section_environ(base, section)
        environ = common.copy()
        environ["REQUEST_METHOD"] = head.method
        path = head.path
        if "%" in path:
            # Imported here: it takes 370 KiB with its own imports, and many servers get no such
            # path.
            from urllib.parse import unquote_to_bytes

            path = unquote_to_bytes(path).decode("latin-1")
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = head.query
        environ["REQUEST_URI"] = environ["RAW_URI"] = head.target
        if head.host is not section.host:  # It is from the target.
            environ["HTTP_HOST"] = head.host
        if head.is_kept:
            head.environ = environ.copy()
    environ["SERVER_NAME"], environ["SERVER_PORT"] = server
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client
    environ["wsgi.url_scheme"] = scheme
    environ["wsgi.input"] = body
    if tls is not None:
        environ.update(tls)
    if (variables := head.variables) is not None:
        if section.variables is not None:
            # Not with the protocol of a web server, which is its own source of all of these.
            environ["aiowsgi.peer"] = {key: environ.get(key) for key in _TOLD_KEYS}
        environ.update(variables)
    if peer is not None:
        told = environ.setdefault("aiowsgi.peer", {key: environ.get(key) for key in _TOLD_KEYS})
        own_server, own_client, told["wsgi.url_scheme"] = peer
        told["SERVER_NAME"], told["SERVER_PORT"] = own_server
        told["REMOTE_ADDR"], told["REMOTE_PORT"] = own_client
    return environ
