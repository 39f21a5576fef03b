"""When a worker had better be replaced: after so many requests, so much time, so much memory."""

import os
import random
import time

from ...config import Config
from ...server.server import Server
from ...wording import counted


class Wear:
    """Looks whether a worker is worn. Arguments: its server and the options."""

    def __init__(self, server: Server, config: Config) -> None:
        self._server = server
        self._config = config
        self._began_at = time.monotonic()
        # By chance, so that workers which began together are not replaced together.
        self._most_requests = config.max_requests + random.randint(0, config.max_requests_jitter)

    def reason(self) -> str:
        """Return why the worker should be replaced, as the rest of a sentence; empty if not."""
        server, config = self._server, self._config
        if not server.healthy:
            return "too many threads are lost to requests that do not end (--max-lost-threads)"
        if config.max_requests and server.requests >= self._most_requests:
            return f"it has had {counted(server.requests, 'request')} (--max-requests)"
        if config.max_age and time.monotonic() - self._began_at >= config.max_age:
            return f"it has served for {config.max_age:g} s (--max-age)"
        if config.max_rss and (size := _resident_memory()) > config.max_rss:
            return f"it takes {size >> 20} MiB of memory (--max-rss)"
        return ""


def _resident_memory() -> int:
    """Return the bytes of memory that this process takes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
