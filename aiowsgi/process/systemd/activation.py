"""Socket activation: which addresses of the options are sockets that systemd has opened.

The rules are those of sd_listen_fds(3): the sockets are the descriptors from 3 on, and variables
say how many there are, what they are called, and which process they are for.
"""

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import NamedTuple

from ...config import Config, ListenerConfig, Origin
from ...errors import ConfigError
from ...observe.loggers import error_log

# The number of the first descriptor.
_FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_ALL = "systemd"
_ONE = "systemd:"
_DESCRIPTOR = re.compile(r"fd:(?://)?([0-9]{1,9})")
_KINDS = {
    socket.SOCK_DGRAM: "for datagrams (ListenDatagram=)",
    socket.SOCK_SEQPACKET: "for packets (ListenSequentialPacket=)",
}


class _Passed(NamedTuple):
    """A descriptor, and its FileDescriptorName=."""

    number: int
    name: str


def with_passed_sockets(config: Config, environment: MutableMapping[str, str]) -> Config:
    """Return the options with ``fd:N`` in place of the addresses that name sockets of systemd.

    ``systemd:NAME`` is every socket of that name, and ``systemd`` every one that no other address
    names. Where sockets were passed and no address is given, that is ``systemd``.

    Removes the variables from ``environment``, and has other programs not inherit the sockets. So
    it is called once, before the application is imported. Raises ConfigError where an address names
    what was not passed, or what no connection can be accepted on.
    """
    variables = {name: environment.pop(name, "") for name in _VARIABLES}
    listeners = config.listeners
    passed, objection = _passed(variables)
    if not passed:
        for listener in filter(_is_of_systemd, listeners):
            raise ConfigError(f"cannot bind {listener}: {objection}")
        return config
    for number, _ in passed:
        # One that is not open is told of where it is to be listened on.
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
    origin = config.origin("bind")
    if origin is Origin.DEFAULT:
        origin, listeners = (
            Origin.ENVIRONMENT,
            (ListenerConfig(_ALL, **config.listener_defaults()),),
        )
    owners = _owners(listeners, passed)
    if unused := [sock for sock in passed if sock.number not in owners]:
        error_log.warning(
            "systemd has passed %s, and no address names it: its clients would wait for ever; "
            "write --bind systemd:NAME as well, or leave it out of the socket unit",
            _listed(unused),
        )
    bind: list[str] = []
    for listener in listeners:
        if _is_of_systemd(listener):
            numbers = [number for number, owner in owners.items() if owner is listener]
            bind += [str(listener.at(f"fd:{number}")) for number in numbers]
        else:
            bind.append(str(listener))
    return config.with_values({origin: {"bind": tuple(bind)}})


def _is_of_systemd(listener: ListenerConfig) -> bool:
    return listener.address == _ALL or listener.address.startswith(_ONE)


def _passed(variables: Mapping[str, str]) -> tuple[list[_Passed], str]:
    """Return what was passed to this process; and if nothing was, why not.

    Raises ConfigError where the variables contradict each other.
    """
    pid, count = variables["LISTEN_PID"], variables["LISTEN_FDS"]
    if not pid or count in ("", "0"):
        return [], (
            "systemd has passed no sockets to this process; start it through a socket unit, "
            "or try it out with: systemd-socket-activate -l 8000 COMMAND"
        )
    if pid != str(os.getpid()):
        return [], (
            f"the sockets that systemd has passed are for the process {pid} (LISTEN_PID), and this "
            f"is the process {os.getpid()}; have ExecStart= start it directly, or write exec "
            "before the command in the script that does"
        )
    if not re.fullmatch("[0-9]{1,6}", count, re.ASCII):
        raise ConfigError(f"LISTEN_FDS in the environment is {count!r}, and should be a number")
    names = variables["LISTEN_FDNAMES"]
    each = names.split(":") if names else ["unknown"] * int(count)
    if len(each) != int(count):
        raise ConfigError(
            f"LISTEN_FDNAMES in the environment is {names!r}, and should have one name for each "
            f"of the {count} descriptors of LISTEN_FDS"
        )
    return [_Passed(_FIRST + index, name) for index, name in enumerate(each)], ""


def _owners(
    listeners: Sequence[ListenerConfig], passed: Sequence[_Passed]
) -> Mapping[int, ListenerConfig]:
    """Return the listener of each descriptor that has one, in the order of the descriptors.

    Raises ConfigError.
    """
    owners: dict[int, ListenerConfig] = {}
    for listener in listeners:
        if match := _DESCRIPTOR.fullmatch(listener.address):
            owners[int(match[1])] = listener
    # Those with a name come first: the other one gets what they leave.
    for listener in sorted(filter(_is_of_systemd, listeners), key=lambda it: it.address == _ALL):
        for sock in _named(listener, passed, owners):
            if (owner := owners.get(sock.number)) is not None:
                raise ConfigError(
                    f"cannot bind {listener}: its socket is bound as {owner} already; leave one out"
                )
            _check(listener, sock)
            owners[sock.number] = listener
    return dict(sorted(owners.items()))


def _named(
    listener: ListenerConfig, passed: Sequence[_Passed], taken: Mapping[int, ListenerConfig]
) -> list[_Passed]:
    if listener.address == _ALL:
        found = [sock for sock in passed if sock.number not in taken]
        objection = "every socket that systemd has passed is bound by another address already"
    else:
        name = listener.address.removeprefix(_ONE)
        found = [sock for sock in passed if sock.name == name]
        objection = (
            f"systemd has passed no socket of that name, but {_listed(passed)} "
            "(see FileDescriptorName= in the socket unit)"
        )
    if not found:
        raise ConfigError(f"cannot bind {listener}: {objection}")
    return found


def _check(listener: ListenerConfig, passed: _Passed) -> None:
    """Raise ConfigError for what is no stream socket that connections can be accepted on."""
    what = f"cannot bind {listener}: {_listed([passed])}, which systemd has passed,"
    try:
        is_socket = stat.S_ISSOCK(os.fstat(passed.number).st_mode)
    except OSError as error:
        raise ConfigError(f"{what} is not open ({error.strerror})") from error
    if not is_socket:
        raise ConfigError(f"{what} is no socket; a socket unit has it with ListenStream=")
    with contextlib.closing(socket.socket(fileno=os.dup(passed.number))) as sock:
        if sock.type != socket.SOCK_STREAM:
            kind = _KINDS.get(sock.type, "of another kind")
            raise ConfigError(f"{what} is a socket {kind}; write ListenStream= in the socket unit")
        if sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
            raise ConfigError(f"{what} is neither a TCP socket nor a Unix socket")
        if _is_connected(sock):
            raise ConfigError(
                f"{what} is a single connection; leave Accept=yes out of the socket unit"
            )


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _listed(passed: Iterable[_Passed]) -> str:
    return ", ".join(f"descriptor {number} ({name or 'without a name'})" for number, name in passed)
