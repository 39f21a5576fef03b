"""How many processors a process may use: what ``--workers auto`` stands for."""

import contextlib
import math
import os

_V2 = "/sys/fs/cgroup"
_V1 = "/sys/fs/cgroup/cpu"


def usable_cores() -> int:
    """Return how many processors this process may use, at least 1.

    Its affinity counts, and so does the limit of its container, or of its service, as a whole
    number that is not less. Most machines have more processors than a container may use.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Not Linux.
        cores = os.cpu_count() or 1
    return max(math.ceil(min(cores, _quota(_folders()))), 1)


def _folders() -> list[str]:
    """Return the folders of the cgroup of this process and of those around it."""
    found = [_V2, _V1]
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            controllers, _, path = line.strip().partition(":")[2].partition(":")
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = _V1 if controllers else _V2
            # In a container the path may be that outside of it; then there is no such folder.
            while path.strip("/"):
                found.append(root + path)
                path = path.rpartition("/")[0]
    return found


def _quota(folders: list[str]) -> float:
    """Return the least number of processors that one of the cgroups allows."""
    least = math.inf
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            least = min(least, _of_v2(folder))
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            least = min(least, _of_v1(folder))
    return least


def _of_v2(folder: str) -> float:
    quota, period = _read(folder, "cpu.max").split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _of_v1(folder: str) -> float:
    quota = int(_read(folder, "cpu.cfs_quota_us"))
    return math.inf if quota <= 0 else quota / int(_read(folder, "cpu.cfs_period_us"))


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="ascii") as file:
        return file.read()
