"""What several processes have that serve together: how many there are, and how one is replaced.

Without ``workers`` there is one process, which nothing replaces.
"""

from dataclasses import dataclass, fields
from typing import Literal

from ..errors import ConfigError
from .fields.option import count, option, seconds, size, switch, texts
from .fields.subject import Subject, default_of
from .fields.values import parse_workers

_GROUP = "worker processes"
_NOT_REPLACED = "a server is in your program's process, which nothing replaces"


_NOT_RESTARTED = "your program may start itself again when its files change"


def _objection_to_workers(value: object) -> str | None:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return None
    return f"must be at least 1, or 'auto', not {value!r}"


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Subject):
    """The options of a supervisor and its workers."""

    workers: int | Literal["auto"] | None = option(
        None,
        _GROUP,
        parse=parse_workers,
        rule=_objection_to_workers,
        metavar="N",
        short="-w",
        default_text="one process without a supervisor",
        embedded="a server is in one process, that of your program",
    )
    """processes that serve, below a supervisor, which replaces each that dies; auto is one for each
    processor that it may use
    """
    preload: bool = switch(
        False,
        _GROUP,
        embedded="a server is in one process, which has the application already",
    )
    """load the application once, in a process from which the workers are forked: they share its
    memory, and a new one is there at once; needs --workers and Linux
    """
    reuse_port: bool = switch(
        False,
        _GROUP,
        embedded="your program may pass a socket that has SO_REUSEPORT as sock",
    )
    """each worker listens on sockets of its own, and the kernel spreads connections by chance, not
    to where a thread is free; when a worker is replaced or dies, connections that wait for it may
    be lost, and none is without this option; needs --workers and Linux
    """

    max_requests: int = count(0, _GROUP, minimum=0, default_text="no limit", embedded=_NOT_REPLACED)
    """requests after which a worker is replaced; 0 is no limit"""
    max_requests_jitter: int = count(0, _GROUP, minimum=0, embedded=_NOT_REPLACED)
    """each worker may answer up to so many requests more, by chance, so that not all are replaced
    at the same time
    """
    max_rss: int = size(0, _GROUP, minimum=0, default_text="no limit", embedded=_NOT_REPLACED)
    """resident memory above which a worker is replaced (Linux); 0 is no limit"""
    max_age: float = seconds(
        0.0, _GROUP, minimum=0, default_text="no limit", embedded=_NOT_REPLACED
    )
    """time after which a worker is replaced; 0 is no limit"""
    timeout_worker: float = seconds(60.0, _GROUP, minimum=0, embedded=_NOT_REPLACED)
    """a worker whose event loop does not run for so long is killed and replaced, and the log gets
    the stacks of its threads; 0 is no limit
    """

    reload: bool = switch(False, _GROUP, embedded=_NOT_RESTARTED)
    """for development: restart the workers when a file of the application has changed; one worker,
    unless --workers says more; what cannot be loaded is answered with the reason until it is mended
    """
    reload_include: tuple[str, ...] = option(
        (),
        _GROUP,
        rule=texts("reload_include", "patterns", "*.html"),
        metavar="PATTERN",
        default_text="none",
        embedded=_NOT_RESTARTED,
    )
    """further files that --reload watches: *.html for names anywhere, conf/*.toml for paths,
    templates for all in a folder; may be repeated
    """

    @property
    def processes(self) -> int | Literal["auto"] | None:
        """How many workers there are below a supervisor; None if there is no supervisor."""
        return 1 if self.workers is None and self.reload else self.workers

    def check_together(self) -> None:
        """Raise ConfigError where an option has no effect without another one."""
        super().check_together()
        if self.reload_include and not self.reload:
            reload = self.origin("reload_include").spelling("reload")
            raise ConfigError(
                f"{self.spelling('reload_include')} names files that {reload} watches; give both"
            )
        if self.max_requests_jitter and not self.max_requests:
            requests = self.origin("max_requests_jitter").spelling("max_requests")
            raise ConfigError(
                f"{self.spelling('max_requests_jitter')} is added to {requests}; give both"
            )
        if self.preload and self.reload:
            raise ConfigError(
                f"{self.spelling('preload')} keeps what it has loaded, and "
                f"{self.spelling('reload')} loads it anew; give one of them"
            )
        if self.reuse_port and self.reload:
            raise ConfigError(
                f"{self.spelling('reuse_port')} has the port closed while no worker is there, and "
                f"{self.spelling('reload')} keeps it open meanwhile; give one of them"
            )
        if self.processes is not None:
            return
        for item in fields(WorkerOptions):
            if getattr(self, item.name) != default_of(item):
                workers = self.origin(item.name).spelling("workers")
                raise ConfigError(
                    f"{self.spelling(item.name)} is for several processes, or for one that can be "
                    f"replaced; give {workers} 1 or more, too"
                )
