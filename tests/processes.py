"""What the kernel tells of processes, such as the workers of a supervisor."""

from pathlib import Path


def children_of(pid: int) -> set[int]:
    """Return the children of a process; those that nobody has waited for are among them."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def state_of(pid: int) -> str:
    """Return the letter for what a process does, such as "T" where it is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_alive(pid: int) -> bool:
    """Return whether a process has not ended."""
    try:
        return state_of(pid) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
