"""Serve with nginx, one worker: `[CERTIFICATE KEY] PORT`.

Without a certificate it serves the file of the row `file`, and with one the answer of `hello`. The
configuration and what nginx writes lie beside that file, in the folder of the run.
"""

import os
import sys
from pathlib import Path

from benchmarks.apps import FILE_VARIABLE, HELLO_BODY
from benchmarks.machine import program

CONFIGURATION = """
worker_processes 1;
daemon off;
pid {file.parent}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {connections}; }}
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
        {server}
    }}
}}
"""
PLAIN = """
        listen 127.0.0.1:{port};
        location = / {{ root {file.parent}; rewrite ^ /{file.name} break; }}
"""
TLS = """
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        default_type text/plain;
        location = / {{ return 200 "{text}"; }}
"""

if __name__ == "__main__":
    _file = Path(os.environ[FILE_VARIABLE])
    # Started by root, the worker of nginx is somebody else, who has to find the file.
    _file.parent.chmod(0o755)
    _configuration = _file.with_name("nginx.conf")
    *_paths, _port = sys.argv[1:]
    if _paths:
        _text = HELLO_BODY.decode().replace("\n", "\\n")
        _server = TLS.format(port=_port, certificate=_paths[0], key=_paths[1], text=_text)
    else:
        _server = PLAIN.format(port=_port, file=_file)
    _configuration.write_text(
        CONFIGURATION.format(file=_file, server=_server, connections=4096 if _paths else 1024)
    )
    _nginx = program("nginx")
    assert _nginx is not None, "the harness starts only what it has found"
    os.execv(_nginx, [_nginx, "-c", str(_configuration), "-p", str(_file.parent), "-e", "stderr"])
