"""What a supervisor passes on to its successor: a variable that names the descriptors."""

import json
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from ...config import ListenerConfig
from ...errors import ConfigError
from ...net.bind.listening import ListeningSocket
from ...net.bind.socket_file import SocketFile

VARIABLE = "AIOWSGI_UPGRADE"


class Inheritance(NamedTuple):
    """What a supervisor has got from the one whose place it is to take."""

    predecessor: int
    """the process"""
    channel: socket.socket
    sockets: tuple[ListeningSocket, ...]


def describe(sockets: Sequence[ListeningSocket], channel: int, predecessor: int) -> str:
    """Return the value of the variable, for the successor: this process, once it is a program."""
    return json.dumps(
        {
            "heir": os.getpid(),
            "predecessor": predecessor,
            "channel": channel,
            "sockets": [
                {
                    "descriptor": sock.socket.fileno(),
                    "listener": str(sock.listener),
                    "backlog": sock.listener.backlog,
                    "inherited": sock.inherited,
                    "reuses_port": sock.reuses_port,
                    "file": None if sock.file is None else sock.file.describe(),
                }
                for sock in sockets
            ],
        }
    )


def inheritance_of(environment: MutableMapping[str, str]) -> Inheritance | None:
    """Return what this process has inherited; None if nothing. Removes the variable.

    The files of Unix sockets are still those of the predecessor: see ``ListeningSocket.own_file``.
    Raises ConfigError where what was passed on is not there.
    """
    text = environment.pop(VARIABLE, "")
    # Other processes may have the variable, such as children of this one's parent.
    if not text or (given := json.loads(text))["heir"] != os.getpid():
        return None
    try:
        return _open(given)
    except OSError as error:
        raise ConfigError(
            f"cannot take over the sockets of process {given['predecessor']}: they are not open "
            f"here ({error.strerror}); has a program closed them that starts this one?"
        ) from error


def _open(given: Mapping[str, Any]) -> Inheritance:
    channel = socket.socket(fileno=given["channel"])
    channel.set_inheritable(False)
    return Inheritance(
        given["predecessor"],
        channel,
        tuple(
            ListeningSocket(
                socket.socket(fileno=item["descriptor"]),
                None if item["file"] is None else SocketFile.of_other(*item["file"]),
                # As text: the successor may be another release, in which a listener has more.
                listener=ListenerConfig.parse(item["listener"], backlog=item["backlog"]),
                inherited=item["inherited"],
                reuses_port=item["reuses_port"],
            )
            for item in given["sockets"]
        ),
    )
