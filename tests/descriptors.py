"""The descriptors of the test's own process."""

import contextlib
import gc
import os
import resource
from collections.abc import Iterator


def open_descriptors() -> int:
    """Return how many descriptors this process has open; 0 where that is not to be known."""
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.exists(folder) else 0


@contextlib.contextmanager
def descriptors_used_up() -> Iterator[None]:
    """Let this process open no further file or socket, but in the place of one that it closes."""
    gc.collect()  # It closes what others have forgotten.
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
