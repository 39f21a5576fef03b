"""A stand-in for what systemd takes from a service: starts a program without some system calls.

It reads those options of a unit that systemd keeps by a filter for system calls, and its bounding
set of capabilities, if that is empty. What systemd does by mounting something is left out.
"""

import ctypes
import errno
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tools import library, tool

# Of seccomp.h.
_ALLOW = 0x7FFF0000
_NOT_EQUAL, _EQUAL, _MASKED_EQUAL = 1, 4, 7
# Of linux/shm.h, linux/prctl.h and linux/sched.h.
_SHM_EXEC = 0o100000
_PR_CAPBSET_DROP, _MOST_CAPABILITIES = 24, 64
_CLONE_NAMESPACES = (
    *(0x00020000, 0x02000000, 0x04000000, 0x08000000),
    *(0x10000000, 0x20000000, 0x40000000),
)


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def _refused(number: int) -> int:
    """Return the action of a filter that has a call fail."""
    return 0x00050000 | number


class _Filter:
    """What system calls do, unless a rule says otherwise."""

    def __init__(self, action: int) -> None:
        self._library = library("libseccomp.so.2", package="libseccomp2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(action)))

    def add(self, action: int, name: str, *comparisons: Comparison) -> None:
        """Have a call do something else, where the machine has it."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # Of another machine.
            return
        array = (Comparison * len(comparisons))(*comparisons)
        result = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(comparisons), array
        )
        assert result == 0, (name, result)

    def load(self) -> None:
        """Take these calls from this process, for ever. It gets no new privileges either."""
        result = self._library.seccomp_load(self._context)
        assert result == 0, result


def _masked(argument: int, bits: int) -> Comparison:
    return Comparison(argument, _MASKED_EQUAL, bits, bits)


def _filters(options: Sequence[tuple[str, str]], calls: Sequence[str]) -> Iterator[_Filter]:
    """Yield the filters that these options mean; ``calls`` are those of SystemCallFilter=."""
    given = dict(options)
    others = _Filter(_ALLOW)
    if given.get("MemoryDenyWriteExecute") == "yes":
        others.add(_refused(errno.EPERM), "mmap", _masked(2, mmap.PROT_WRITE | mmap.PROT_EXEC))
        for name in ("mprotect", "pkey_mprotect"):
            others.add(_refused(errno.EPERM), name, _masked(2, mmap.PROT_EXEC))
        others.add(_refused(errno.EPERM), "shmat", _masked(2, _SHM_EXEC))
    if given.get("RestrictNamespaces") == "yes":
        others.add(_refused(errno.EPERM), "setns")
        for name in ("clone", "unshare"):
            for bit in _CLONE_NAMESPACES:
                others.add(_refused(errno.EPERM), name, _masked(0, bit))
        # Its flags are in memory, where a filter cannot look. The C library takes clone then.
        others.add(_refused(errno.ENOSYS), "clone3")
    if given.get("RestrictRealtime") == "yes":
        plain = Comparison(1, _NOT_EQUAL, os.SCHED_OTHER, 0)
        others.add(_refused(errno.EPERM), "sched_setscheduler", plain)
    if given.get("RestrictSUIDSGID") == "yes":
        for bit in (0o4000, 0o2000):
            for name, argument in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mkdir", 1)):
                others.add(_refused(errno.EPERM), name, _masked(argument, bit))
    if given.get("LockPersonality") == "yes":
        others.add(_refused(errno.EPERM), "personality", Comparison(0, _NOT_EQUAL, 0, 0))
    yield others
    if families := given.get("RestrictAddressFamilies"):
        allowed = {getattr(socket, name) for name in families.split()}
        sockets = _Filter(_ALLOW)
        for family in set(range(1, 64)) - allowed:
            unknown = Comparison(0, _EQUAL, family, 0)
            sockets.add(_refused(errno.EAFNOSUPPORT), "socket", unknown)
        yield sockets
    if calls:  # The last one: it also takes the call that loads filters.
        found = _Filter(_refused(errno.EPERM))
        for name in calls:
            found.add(_ALLOW, name)
        yield found


def main(options: list[tuple[str, str]], calls: list[str], program: list[str]) -> None:
    """Become the program, with what the options leave to it."""
    if ("CapabilityBoundingSet", "") in options and os.geteuid() == 0:
        library = ctypes.CDLL(None)
        for number in range(_MOST_CAPABILITIES):
            library.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    for found in list(_filters(options, calls)):
        found.load()
    os.execvp(program[0], program)


def sandboxed(unit: str, command: Sequence[str]) -> list[str]:
    """Return the command that starts a program as the options in ``unit`` say."""
    library("libseccomp.so.2", package="libseccomp2")
    lines = [line.partition("=") for line in unit.splitlines() if line[:1] not in ("", "#", "[")]
    options = [(name, value) for name, _, value in lines]
    calls = _calls([value for name, value in options if name == "SystemCallFilter"])
    script = f"import sandbox, sys; sandbox.main({options!r}, {calls!r}, sys.argv[1:])"
    return [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {script}", *command]


def _calls(values: Sequence[str]) -> list[str]:
    """Return the system calls that remain of an allow list and what is taken from it."""
    groups = _groups()
    found: set[str] = set(_expanded("@default", groups)) if values else set()
    for value in values:
        names = {
            call for name in value.removeprefix("~").split() for call in _expanded(name, groups)
        }
        found = found - names if value.startswith("~") else found | names
    return sorted(found)


def _expanded(name: str, groups: dict[str, list[str]]) -> Iterator[str]:
    if not name.startswith("@"):
        yield name
        return
    for member in groups[name]:
        yield from _expanded(member, groups)


def _groups() -> dict[str, list[str]]:
    """Return the sets of system calls that systemd knows."""
    text = subprocess.run(
        [tool("systemd-analyze", package="systemd"), "syscall-filter", "--no-pager"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in text.splitlines():
        word = line.strip()
        if line.startswith("@"):
            members = groups.setdefault(word, [])
        elif not line.startswith(" "):
            members = []
        elif word and not word.startswith("#"):
            members.append(word)
    return groups
