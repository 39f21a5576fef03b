"""Serve one application with bjoern, which has no command line of its own.

Run as `python -m benchmarks.bjoern_server PORT APPLICATION`, APPLICATION being a name in `apps`.
bjoern has no threads: one request runs at a time, whatever `--threads` says.
"""

import sys
from importlib import import_module

from benchmarks import apps

if __name__ == "__main__":
    # By name, because bjoern exists only in the benchmark's virtual environment.
    import_module("bjoern").run(getattr(apps, sys.argv[2]), "127.0.0.1", int(sys.argv[1]))
