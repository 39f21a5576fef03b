"""Unix sockets, with a file or abstract."""

import os
import socket
import sys

from ...config import ListenerConfig
from ...errors import ConfigError
from .failures import explained
from .listening import ListeningSocket
from .socket_file import bind_file


def unix_socket(listener: ListenerConfig, path: str) -> ListeningSocket:
    """Return the listening socket of a path, or of @NAME. Raises ConfigError."""
    if path in ("", "@"):
        raise ConfigError(f"cannot bind {listener}: write {listener.prefix}unix:PATH")
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"cannot bind {listener}: this system has no Unix sockets")
    is_abstract = path[0] == "@"
    if is_abstract and sys.platform != "linux":
        raise ConfigError(
            f"cannot bind {listener}: only Linux has abstract Unix sockets; "
            f"write {listener.prefix}unix:PATH, "
            f"or {listener.prefix}unix:./{path} for a file of that name"
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file = None
    try:
        if is_abstract:
            sock.bind(f"\0{path[1:]}")
            sock.listen(listener.backlog)
        else:
            # Absolute, so that it is found again wherever the process has gone.
            path = os.path.abspath(path)
            file = bind_file(sock, path, listener)
    except ConfigError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise explained(listener, error) from error
    return ListeningSocket(sock, file, listener=listener)
