"""Loads the application in a worker that is watched."""

from collections.abc import Sequence
from wsgiref.types import WSGIApplication

from ...config import Config
from ...config.fields.origin import Origin
from ...errors import ConfigError
from ...net.bind.listening import ListeningSocket
from ...net.bind.places import is_on_this_machine
from ..run import load
from .failure_page import FailurePage


def load_or_explain(
    path: str, config: Config, sockets: Sequence[ListeningSocket]
) -> tuple[WSGIApplication, str, Config, ConfigError | None]:
    """Return an application, its name, the options to serve it with, and what is wrong with it.

    What cannot be loaded is replaced by a page that explains it, if all clients on these sockets
    are on this machine.
    """
    try:
        return (*load(path, config), config, None)
    except ConfigError as error:
        page = FailurePage(error, is_local=all(is_on_this_machine(s.socket) for s in sockets))
        # It answers each request with an error, also those that prove an application.
        asks_nothing = {"warm_up": (), "ready_path": ""}
        return page, path, config.with_values({Origin.CODE: asks_nothing}), error
