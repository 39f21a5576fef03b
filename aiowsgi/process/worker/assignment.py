"""What a worker is given by its supervisor when it is forked. Data only."""

import socket
from dataclasses import dataclass
from typing import NamedTuple
from wsgiref.types import WSGIApplication

from ...config import Config
from ...net.bind.listening import ListeningSocket
from ...observe.scoreboard import Row, Scoreboard


class Loaded(NamedTuple):
    """An application that is loaded and warm."""

    app: WSGIApplication
    name: str
    """what a person finds it by"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What a worker serves, and how it is connected with its supervisor."""

    path: str
    """what names the application"""
    config: Config
    supervisor: int
    """its process"""
    row: Row | None
    """where it says how it is, for the supervisor and for other workers"""
    directory: str
    """where the supervisor was started"""
    sockets: tuple[ListeningSocket, ...]
    """what all workers accept on"""
    channel: socket.socket
    """where it says what it does: see ``messages``"""
    lifeline: int
    """a descriptor that is at its end once the supervisor is gone"""
    stacks: int
    """a descriptor that the supervisor reads, for the stacks of threads"""
    mask: frozenset[int]
    """the signals that it blocks once it has handlers; until then it blocks all of them"""
    board: Scoreboard | None = None
    """the rows of the workers that a mold forks; None for a worker"""
    loaded: Loaded | None = None
    """what the mold has loaded that this process was forked from; None if there was none"""
    is_watcher: bool = False
    """whether it is no worker, but tells when files change"""
