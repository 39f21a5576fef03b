"""Serve the file of the row `file` with nginx, one worker: `PORT`.

The configuration and what nginx writes lie beside that file, in the folder of the run.
"""

import os
import sys
from pathlib import Path

from benchmarks.apps import FILE_VARIABLE
from benchmarks.machine import program

CONFIGURATION = """
worker_processes 1;
daemon off;
pid {file.parent}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {file.parent}/body;
    proxy_temp_path {file.parent}/proxy;
    fastcgi_temp_path {file.parent}/fastcgi;
    uwsgi_temp_path {file.parent}/uwsgi;
    scgi_temp_path {file.parent}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location = / {{ root {file.parent}; rewrite ^ /{file.name} break; }}
    }}
}}
"""

if __name__ == "__main__":
    _file = Path(os.environ[FILE_VARIABLE])
    # Started by root, the worker of nginx is somebody else, who has to find the file.
    _file.parent.chmod(0o755)
    _configuration = _file.with_name("nginx.conf")
    _configuration.write_text(CONFIGURATION.format(file=_file, port=sys.argv[1]))
    _nginx = program("nginx")
    assert _nginx is not None, "the harness starts only what it has found"
    os.execv(_nginx, [_nginx, "-c", str(_configuration), "-p", str(_file.parent), "-e", "stderr"])
