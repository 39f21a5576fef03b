"""The command in several processes: a supervisor and its workers."""

from collections.abc import Callable

from ..config import Config
from ..errors import BindError, ConfigError, PidFileError
from ..process import import_path
from ..process.supervisor.supervisor import supervise
from .messages import FAILURE, USAGE, explanation, print_error


def serve_together(path: str, config: Config, read_again: Callable[[], tuple[str, Config]]) -> int:
    """Have workers serve the application that ``path`` names; return the exit code of the process.

    ``read_again()`` returns both anew, for a reload. This also returns in each worker.
    """
    try:
        outcome = supervise(path, config, read_again)
    except (BindError, PidFileError) as error:
        print_error(str(error))
        return FAILURE
    except ConfigError as error:
        print_error(str(error))
        return USAGE
    if isinstance(outcome, int):
        return outcome
    # Here, because it loads the event loop, which a supervisor does without.
    from ..process.worker.worker import work

    if outcome.board is None:
        return work(outcome, _explain)
    from ..process.mold.mold import cast

    cast_from = cast(outcome, _explain)
    return cast_from if isinstance(cast_from, int) else work(cast_from, _explain)


def _explain(error: ConfigError) -> str:
    with import_path.OutsideApplication():
        return explanation(error)
