"""Why an address cannot be bound, in words."""

import errno

from ...config import ListenerConfig
from ...errors import BindError


def explained(listener: ListenerConfig, error: OSError) -> BindError:
    """Return the error to raise where the system refuses an address, with what to do."""
    match error.errno:
        case errno.EADDRINUSE:
            hint = "another program listens there; stop it, or choose another address"
        case errno.EACCES | errno.EPERM:
            hint = "permission denied; ports below 1024 need privileges, choose one above"
            if listener.address.startswith("unix:"):
                hint = "permission denied; choose a folder that you may write to"
        case errno.ENOENT:
            hint = "the folder does not exist; make it, or choose another"
        case errno.EADDRNOTAVAIL:
            hint = "this machine does not have that address"
        case _:
            hint = error.strerror or str(error)
    return bind_error(listener, hint, error)


def bind_error(listener: ListenerConfig, hint: str, error: OSError) -> BindError:
    """Return the error with a reason in words, and the number that the system has given."""
    found = BindError(f"cannot bind {listener}: {hint}")
    found.errno = error.errno
    return found
