"""Run `waitress-serve` without its warning for every request that has to queue.

With more connections than threads waitress logs such a line for about every fifth request, and
has no option against it; its documentation says to raise the level of this logger. The other
servers write nothing for a request, so neither may this one. Takes waitress-serve's arguments.
"""

import logging
from importlib import import_module

if __name__ == "__main__":
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # By name, because waitress exists only in the benchmark's virtual environment.
    import_module("waitress.runner").run()
