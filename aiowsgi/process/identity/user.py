"""Who a process becomes before it loads the application: ``--user``, ``--group``, ``--umask``."""

import os
import re
from typing import NamedTuple

from ...config import Config
from ...errors import ConfigError
from ...observe.loggers import error_log
from .directory import current_directory

_NUMBER = re.compile("[0-9]{1,10}", re.ASCII)
# The last one means none to the system.
_MOST = (1 << 32) - 2
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class User(NamedTuple):
    """A user, and the group that it works in."""

    uid: int
    gid: int
    # As in the database of users; both are empty for a number that is not in there.
    name: str
    home: str

    def __str__(self) -> str:
        return repr(self.name) if self.name else str(self.uid)


def set_umask(config: Config) -> None:
    """Have new files get the permissions that ``umask`` leaves, if it is given."""
    if config.umask is not None:
        os.umask(config.umask)


def find_user(config: Config) -> User | None:
    """Return who the process is to become; None if it stays who it is. Raises ConfigError."""
    if not config.user and not config.group:
        return None
    uid, gid, name, home = _user(config) if config.user else _account(os.geteuid())
    if config.group:
        gid = _group(config)
    elif gid is None:
        raise ConfigError(
            f"{config.spelling('user')}: the system knows no user {config.user}, and so no group "
            "of it; name one as well (--group)"
        )
    return User(uid, os.getegid() if gid is None else gid, name, home)


def warn_of_root(config: Config) -> None:
    """Warn where the application is going to run as root, unless somebody has asked for that."""
    if not config.user and os.geteuid() == 0:
        error_log.warning(
            "The application runs as root: give it a user of its own (--user NAME), or write "
            "--user root if that is meant"
        )


def become_configured(config: Config) -> None:
    """Take the umask and become the user that the options name, if any. Raises ConfigError."""
    set_umask(config)
    if (user := find_user(config)) is not None:
        become(user, config)


def become(user: User, config: Config) -> None:
    """Become a user for good, with the groups that it is in, and with its home.

    Called while the process has one thread. Raises ConfigError where it may not, and where that
    user could not read what it is going to import.
    """
    if {os.getuid(), os.geteuid()} == {user.uid} and {os.getgid(), os.getegid()} == {user.gid}:
        return
    try:
        if user.name:
            os.initgroups(user.name, user.gid)
        else:
            os.setgroups([user.gid])
        os.setgid(user.gid)
        os.setuid(user.uid)
    except OSError as error:
        option = config.spelling("user" if config.user else "group")
        if isinstance(error, PermissionError) and os.geteuid():
            reason = f"only root can do that, and this process is of user {os.geteuid()}"
        else:
            reason = f"the system does not let this process: {error.strerror}"
        raise ConfigError(
            f"{option}: cannot become user {user} with group {user.gid}: {reason}; "
            "start it as that user, and leave the option out"
        ) from error
    if user.name:
        # Many programs look for files of their own there, and fail where they may not.
        os.environ.update(HOME=user.home, USER=user.name, LOGNAME=user.name)
    _check_folders(user)


def _check_folders(user: User) -> None:
    """Raise ConfigError where modules could not be found: Python takes the folder for empty."""
    for folder, what, remedy in (
        (current_directory(), "the current directory", "name another one with --chdir"),
        (_PACKAGE, "where aiowsgi is installed", "install it somewhere else"),
        (os.path.dirname(os.__file__), "where Python is installed", "use another Python"),
    ):
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ConfigError(
                f"the user {user} may not read {folder}, {what}; let that user read it, or {remedy}"
            )


def _account(uid: int) -> tuple[int, int | None, str, str]:
    """Return what the database says about the number of a user, as far as it does."""
    import pwd

    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return uid, None, "", ""
    return uid, found.pw_gid, found.pw_name, found.pw_dir


def _user(config: Config) -> tuple[int, int | None, str, str]:
    import pwd

    try:
        found = pwd.getpwnam(config.user)
    except KeyError:
        return _account(_number(config, "user"))
    return found.pw_uid, found.pw_gid, found.pw_name, found.pw_dir


def _group(config: Config) -> int:
    import grp

    try:
        return grp.getgrnam(config.group).gr_gid
    except KeyError:
        return _number(config, "group")


def _number(config: Config, option: str) -> int:
    """Return the number that an option gives in place of a name."""
    text: str = getattr(config, option)
    if not _NUMBER.fullmatch(text) or int(text) > _MOST:
        raise ConfigError(
            f"{config.spelling(option)}: there is no {option} {text!r} on this machine; "
            f"write the name or the number of one that there is"
        )
    return int(text)
