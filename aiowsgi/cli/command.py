"""What the command does: read the arguments, and serve in one process or in several."""

import sys
from collections.abc import Sequence

from ..process import import_path, standard_streams
from .arguments import parse_arguments
from .messages import USAGE, print_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Without ``arguments`` it is the process itself: its signals are handled, and its end has a
    limit.
    """
    standard_streams.open_missing()
    if arguments is None:
        for name, file in import_path.shadowing_files():
            print_error(
                f"{file} has the name of a module of the standard library, {name}, and stands in "
                "its place; rename it, or start aiowsgi, or python -P -m aiowsgi"
            )
            return USAGE
    path, config = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    # Here, because each loads what the other does without.
    if config.processes is None:
        from .one_process import serve

        return serve(path, config, is_process=arguments is None)
    from .several_processes import serve_together

    return serve_together(path, config, lambda: parse_arguments(arguments))
