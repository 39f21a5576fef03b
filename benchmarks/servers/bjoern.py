"""Serve the application with bjoern, which has no command line: `PORT WORKERS`.

bjoern has no threads: one request runs at a time in each process.
"""

import os
import sys
from importlib import import_module

from benchmarks.application import load

if __name__ == "__main__":
    # By name, because bjoern exists only in the benchmark's virtual environment.
    _bjoern = import_module("bjoern")
    _port, _workers = map(int, sys.argv[1:])
    _bjoern.listen(load(), "127.0.0.1", _port)
    for _ in range(_workers - 1):
        if os.fork() == 0:
            break
    _bjoern.run()
