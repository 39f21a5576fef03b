"""Serve the application with FastWSGI, whose command line has no workers: `PORT WORKERS`.

FastWSGI has no threads: one request runs at a time in each process. As it comes it leaves Nagle's
algorithm on, and an answer waits 40 ms for the client's delayed acknowledgement of its head; the
other servers turn it off, so it is off here too.
"""

import sys
from importlib import import_module

from benchmarks.application import load

if __name__ == "__main__":
    _port, _workers = map(int, sys.argv[1:])
    # By name, because FastWSGI exists only in the benchmark's virtual environment.
    _fastwsgi = import_module("fastwsgi")
    _fastwsgi.server.tcp_nodelay = 1
    _fastwsgi.run(load(), "127.0.0.1", _port, workers=_workers)
