"""What is served by each generation of workers: an application and a configuration."""

import time
from collections.abc import Callable, Collection

from ...config import Config
from ...errors import ConfigError
from ...net.accept.descriptors import raise_limit_by
from ...observe.loggers import error_log
from ...wording import counted
from ..mold.parentage import check_preload
from ..worker.own_sockets import check_reuse_port
from .cores import usable_cores
from .decisions.plan import Plan, Terms

# Seconds that a worker has beyond its own limits.
_MARGIN = 5.0
# Those that a supervisor has for each worker, and for itself.
_DESCRIPTORS = 2
_OWN_DESCRIPTORS = 16


class Generations:
    """Paths of applications and configurations, by the numbers of their generations.

    Arguments: path and options of the first one; ``read_again()``, which returns them anew.
    """

    def __init__(
        self, path: str, config: Config, read_again: Callable[[], tuple[str, Config]]
    ) -> None:
        self._read_again = read_again
        self._served: dict[int, tuple[str, Config]] = {1: (path, config)}
        # When the latest one was asked for, by the monotonic clock.
        self.began = 0.0

    def __getitem__(self, generation: int) -> tuple[str, Config]:
        return self._served[generation]

    def reload(self, plan: Plan) -> bool:
        """Read path and options again, and have the plan replace all workers by such ones.

        Return False if these are wrong, which is logged.
        """
        try:
            path, config = self._read_again()
            check(config)
        except SystemExit:
            error_log.error("Not reloaded: the options are wrong, see above")
            return False
        except ConfigError as error:
            error_log.error("Not reloaded: %s", error)
            return False
        self.began = time.monotonic()
        self._served[plan.reload(terms(config))] = path, config
        return True

    def keep(self, generations: Collection[int]) -> None:
        """Forget all but these."""
        self._served = {number: self._served[number] for number in generations}


def check(config: Config) -> None:
    """Raise ConfigError where this process cannot have such workers."""
    check_preload(config)
    check_reuse_port(config)
    count = terms(config).workers
    # A reload has twice as many for a while.
    least = 2 * _DESCRIPTORS * count + _OWN_DESCRIPTORS
    raise_limit_by(least, least, f"the supervisor of {counted(count, 'worker')}")


def terms(config: Config) -> Terms:
    """Return what of a configuration matters to a plan."""
    workers = usable_cores() if config.processes == "auto" else config.processes
    assert workers is not None  # There would be no supervisor.
    return Terms(
        workers=workers,
        stop_limit=config.drain_delay + config.timeout_graceful + _MARGIN,
        drain_delay=config.drain_delay,
    )
