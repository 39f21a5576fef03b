"""How a supervisor starts: what it takes over from its user before it is one."""

import importlib
import os
from collections.abc import Callable

from ...config import Config
from ...errors import ConfigError
from ...net.bind.bind import bind_all
from ...observe.loggers import FORM_OF_SEVERAL
from ..identity.directory import change_directory
from ..identity.pid_file import PidFile
from ..identity.user import find_user, set_umask
from ..systemd.notification import Notifier
from ..systemd.service import with_passed_sockets
from ..upgrade.inheritance import inheritance_of
from ..upgrade.predecessor import Predecessor
from ..worker.assignment import Assignment
from . import log
from .generations import check
from .supervisor import Supervisor
from .wakeups import Wakeups


def supervise(
    path: str,
    config: Config,
    read_again: Callable[[], tuple[str, Config]],
    begin: Callable[[], None] = lambda: None,
) -> int | Assignment:
    """Supervise workers that serve the application that ``path`` names, until a signal.

    ``read_again()`` returns path and options anew, for a reload; ``begin()`` calls hooks. Returns
    the exit code of the process; or, in a forked child, what that has to do as a worker. Raises
    ConfigError before anything is started.
    """
    wakeups = Wakeups()
    wakeups.install()
    log.configure(config.log_level, FORM_OF_SEVERAL)
    # First, so that no hook and no worker speaks for this process.
    notifier = Notifier.of_process(os.environ)
    directory = _start_directory()
    inherited = inheritance_of(os.environ)
    if inherited is None:
        config = with_passed_sockets(config, os.environ)
    check(config)
    change_directory(config.chdir)
    set_umask(config)
    user = find_user(config)
    pid_file = PidFile(config.pid_file, None if inherited is None else inherited.predecessor)
    pid_file.check()
    if config.reload:
        _load_machinery(config)
    begin()
    # A hook may have taken them: an event loop with handlers of its own leaves none behind.
    wakeups.install()
    if inherited is None:
        sockets = bind_all(config.listeners, reserve=config.reuse_port)
    else:
        sockets = list(inherited.sockets)
    if user is not None and inherited is None:
        # The workers become that user. This process stays who it is, to remove what it has made.
        try:
            for sock in sockets:
                sock.give_to(user.uid, user.gid)
        except ConfigError:
            for sock in sockets:
                sock.close()
            raise
    supervisor = Supervisor(
        path,
        config,
        directory,
        sockets,
        wakeups,
        pid_file,
        notifier,
        read_again,
        Predecessor(None if inherited is None else inherited.channel),
    )
    outcome = supervisor.run()
    if isinstance(outcome, int):
        notifier.close()
        pid_file.remove()
    else:
        log.reset()
    return outcome


def _load_machinery(config: Config) -> None:
    """Import what workers need, so that each of them has it. Raises ConfigError.

    Somebody waits for each of them, and there will be many. No event loop is made here.
    """
    from ..run import prepare

    prepare(config)
    for name in ("worker.worker", "watch.loading"):
        importlib.import_module(f"{__package__.rpartition('.')[0]}.{name}")


def _start_directory() -> str:
    """Return the current directory, as the user has named it.

    Links on the way stay links. A new version of an application is often what such a link leads to
    from then on.
    """
    named = os.environ.get("PWD", "")
    try:
        return named if named and os.path.samefile(named, os.curdir) else os.getcwd()
    except OSError:
        return ""
