"""How a process has ended, in words: its exit code, a signal, a lack of memory."""

import os
import signal

_MEMORY_V1 = "/sys/fs/cgroup/memory"


def describe_status(status: int) -> str:
    """Return how a process has ended, from its status by waitpid(2)."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # A real-time signal.
        name = f"signal {-code}"
    core = ", and has left a core dump" if os.WCOREDUMP(status) else ""
    return f"was killed by {name}{core}"


def was_killed(status: int) -> bool:
    """Return whether a process was ended by SIGKILL, as the kernel does where memory is short."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


class OutOfMemory:
    """How often the kernel has killed a process of this cgroup because memory was short."""

    def __init__(self) -> None:
        self._file = _events_file()
        self._killed = self._read()

    def has_struck(self) -> bool:
        """Return whether that has happened since the last call."""
        before, self._killed = self._killed, self._read()
        return self._killed > before

    def _read(self) -> int:
        """Return the number; 0 where nothing tells it."""
        if self._file:
            try:
                with open(self._file, "rb") as file:
                    for line in file:
                        name, _, number = line.partition(b" ")
                        if name == b"oom_kill":
                            return int(number)
            except (OSError, ValueError):
                pass
        return 0


def _events_file() -> str:
    """Return the file that counts for the cgroup of this process; empty where there is none."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            folders, name = [f"/sys/fs/cgroup{path}", "/sys/fs/cgroup"], "memory.events"
        elif "memory" in controllers.split(","):
            folders, name = [_MEMORY_V1 + path, _MEMORY_V1], "memory.oom_control"
        else:
            continue
        # In a container, the path may be that outside of it.
        for folder in folders:
            if os.path.isfile(found := os.path.join(folder, name)):
                return found
    return ""
