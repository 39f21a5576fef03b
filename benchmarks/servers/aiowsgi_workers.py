"""Run aiowsgi in several processes on one listening socket: `PORT WORKERS` and its arguments.

Stands in for a `--workers` option, which aiowsgi has not.
"""

import signal
import socket
import subprocess
import sys

if __name__ == "__main__":
    _port, _workers = map(int, sys.argv[1:3])
    with socket.create_server(("127.0.0.1", _port), backlog=2048) as _listening:
        _descriptor = _listening.fileno()
        _command = [sys.executable, "-m", "aiowsgi", "--bind", f"fd:{_descriptor}", *sys.argv[3:]]
        _processes = [subprocess.Popen(_command, pass_fds=[_descriptor]) for _ in range(_workers)]

    def _stop(*_: object) -> None:
        for process in _processes:
            process.terminate()

    signal.signal(signal.SIGTERM, _stop)
    for _process in _processes:
        _process.wait()
