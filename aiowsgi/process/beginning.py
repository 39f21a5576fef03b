"""What a process does before its application is loaded, and in which order.

Ports below 1024 and the files of sockets may need root. The application must not be root, not even
while it is imported.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..config import Config
from ..net.bind.bind import bind_all
from ..net.bind.listening import ListeningSocket
from .identity.pid_file import PidFile
from .identity.user import become, find_user, set_umask
from .systemd.service import notifier_of

if TYPE_CHECKING:
    from ssl import SSLContext

    from .systemd.notification import Notifier


class Beginning(NamedTuple):
    """What is there before the application is."""

    pid_file: PidFile
    # None where they are bound when the application is there, so that no client waits for it.
    sockets: tuple[ListeningSocket, ...] | None
    # None where nobody listens.
    notifier: "Notifier | None"
    # What the host has given; None where the options say whether TLS is spoken.
    ssl: "SSLContext | None" = None


@contextlib.contextmanager
def begun(config: Config, ssl: "SSLContext | None" = None) -> Iterator[Beginning]:
    """Become who the process is to be, and give what it has got before. Raises ConfigError.

    ``ssl`` is what its server speaks TLS with, where the options do not say that.
    At the end, the sockets are closed, if nobody has done so.
    """
    notifier = notifier_of(os.environ)
    set_umask(config)
    user = find_user(config)
    listeners = config.listeners_with(certificate=ssl is not None or config.has_certificate)
    sockets = None if user is None else tuple(bind_all(listeners))
    try:
        if user is not None:
            for sock in sockets or ():
                sock.give_to(user.uid, user.gid)
            become(user, config)
        pid_file = PidFile(config.pid_file)
        pid_file.check()
        yield Beginning(pid_file, sockets, notifier, ssl)
    finally:
        for sock in sockets or ():
            sock.close()
        if notifier is not None:
            notifier.close()
