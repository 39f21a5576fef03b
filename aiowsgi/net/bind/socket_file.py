"""The file of a Unix socket: made where nobody listens, removed by the process that owns it."""

import contextlib
import os
import re
import socket
import stat

from ...config import ListenerConfig
from ...errors import BindError, ConfigError
from ...folder_lock import locked

# Seconds that a program has to take a connection, which only shows that it listens.
_PROBE_TIMEOUT = 1.0
_NUMBER = re.compile("[0-9]{1,9}", re.ASCII)
# To the system: whose it is stays as it is.
_KEEP = -1


class SocketFile:
    """The file of a listening Unix socket. It is of the process that has made this object.

    Forked processes share the socket, and may end while others still accept on it. So ``remove``
    does nothing in them.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = _identity(path)
        self._owner = os.getpid()

    @classmethod
    def of_other(cls, path: str, device: int, inode: int) -> "SocketFile":
        """Return a file that another process has made and described: it is that process's."""
        found = cls.__new__(cls)
        found._path, found._identity, found._owner = path, (device, inode), 0
        return found

    def describe(self) -> tuple[str, int, int]:
        """Return the arguments of ``of_other``."""
        return self._path, *self._identity

    def own(self) -> None:
        """Take it over from a process that has disowned it."""
        self._owner = os.getpid()

    def disown(self) -> None:
        """Leave it to another process."""
        self._owner = 0

    def give_to(self, uid: int, gid: int) -> None:
        """Make it that of a user and a group, so that these may connect. Raises ConfigError."""
        try:
            os.chown(self._path, uid, gid, follow_symlinks=False)
        except OSError as error:
            raise ConfigError(
                f"cannot give the socket {self._path} to {_named(uid, gid)}: {error.strerror}; "
                "only root may give it to any user, and others to a group that they are in"
            ) from error

    def remove(self) -> None:
        """Remove the file, once, unless it is that of another socket by now."""
        owner, self._owner = self._owner, 0
        if owner == os.getpid():
            # A process that has changed its user may not be able to. The next one replaces it.
            with contextlib.suppress(OSError):
                if _identity(self._path) == self._identity:
                    os.unlink(self._path)


def _named(uid: int, gid: int) -> str:
    parts = ((uid, "user"), (gid, "group"))
    return " and ".join(f"{what} {number}" for number, what in parts if number != _KEEP)


def bind_file(sock: socket.socket, path: str, listener: ListenerConfig) -> SocketFile:
    """Have a Unix socket listen at ``path``, an absolute one; return its file.

    A file that is left over from a process that has died is replaced. Raises ConfigError with its
    whole message, and OSError.
    """
    uid, gid = _owner(listener), _group(listener)
    # Else another server could replace what this one has just made.
    with locked(os.path.dirname(path)):
        _remove_stale(path, str(listener))
        sock.bind(path)
        file = SocketFile(path)
        try:
            # Nobody can connect before it listens, so that no one has slipped in by then.
            if (uid, gid) != (_KEEP, _KEEP):
                file.give_to(uid, gid)
            os.chmod(path, listener.mode)
            sock.listen(listener.backlog)
        except BaseException:
            file.remove()
            raise
        return file


def _owner(listener: ListenerConfig) -> int:
    if not listener.owner or _NUMBER.fullmatch(listener.owner):
        return int(listener.owner or _KEEP)
    import pwd

    try:
        return pwd.getpwnam(listener.owner).pw_uid
    except KeyError:
        raise _unknown(listener, "user", listener.owner) from None


def _group(listener: ListenerConfig) -> int:
    if not listener.group or _NUMBER.fullmatch(listener.group):
        return int(listener.group or _KEEP)
    import grp

    try:
        return grp.getgrnam(listener.group).gr_gid
    except KeyError:
        raise _unknown(listener, "group", listener.group) from None


def _unknown(listener: ListenerConfig, what: str, name: str) -> ConfigError:
    return ConfigError(f"cannot bind {listener}: the system knows no {what} {name!r}")


def _remove_stale(path: str, name: str) -> None:
    """Remove the socket at ``path`` if no process listens on it."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(
            f"cannot bind {name}: the file exists and is no socket; choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except PermissionError as error:
            refusal = BindError(
                f"cannot bind {name}: the socket there is of another user, and you may not find "
                "out whether a program listens on it; choose another path, or remove it if none "
                "does"
            )
            refusal.errno = error.errno
            raise refusal from error
        except OSError:
            # Somebody listens who is busy, or expects something else. To bind it fails.
            pass


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
