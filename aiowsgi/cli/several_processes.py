"""The command in several processes: a supervisor and its workers."""

from collections.abc import Callable

from ..config import Config
from ..errors import BindError, ConfigError, HookError, PidFileError
from ..process import import_path
from ..process.supervisor.start import supervise
from ..process.worker.assignment import Assignment
from .messages import FAILURE, HOOK_FAILED, USAGE, explanation, print_error, print_text


def serve_together(path: str, config: Config, read_again: Callable[[], tuple[str, Config]]) -> int:
    """Have workers serve the application that ``path`` names; return the exit code of the process.

    ``read_again()`` returns both anew, for a reload. This also returns in each worker.
    """
    if not config.on_start and not config.on_stop:
        outcome = _supervise(path, config, read_again)
    else:
        # Here, because a supervisor without hooks does without what looks for them.
        from ..process.hooks.supervised import SupervisorHooks

        hooks = SupervisorHooks(path, config)
        outcome = _supervise(path, config, read_again, hooks.begin)
        if isinstance(outcome, int):
            hooks.end(outcome)
    if isinstance(outcome, int):
        return outcome
    if outcome.is_watcher:
        # Here, because it comes with --reload only.
        from ..process.watch.watcher import watch

        return watch(outcome)
    # Here, because it loads the event loop, which a supervisor does without.
    from ..process.worker.worker import work

    if outcome.board is None:
        return work(outcome, _explain)
    from ..process.mold.mold import cast

    cast_from = cast(outcome, _explain)
    return cast_from if isinstance(cast_from, int) else work(cast_from, _explain)


def _supervise(
    path: str,
    config: Config,
    read_again: Callable[[], tuple[str, Config]],
    begin: Callable[[], None] = lambda: None,
) -> int | Assignment:
    """See ``supervise``. What is wrong before anything is started is told here."""
    try:
        return supervise(path, config, read_again, begin)
    except HookError as error:
        print_text(_explain(error))
        return HOOK_FAILED
    except (BindError, PidFileError) as error:
        print_error(str(error))
        return FAILURE
    except ConfigError as error:
        print_error(str(error))
        return USAGE


def _explain(error: ConfigError) -> str:
    with import_path.OutsideApplication():
        return explanation(error)
