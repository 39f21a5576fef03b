"""The application that is asked for, behind a2wsgi's adapter, for the ASGI peers.

Imported only by an ASGI server's process, in the benchmark's virtual environment. The number of
threads comes from the environment because an ASGI server has no option to pass it through.
"""

import os
from importlib import import_module

from benchmarks.application import THREADS_VARIABLE, load

# By name: a2wsgi exists only in the benchmark's virtual environment, and a static import would make
# the type check depend on where it runs.
application = import_module("a2wsgi").WSGIMiddleware(
    load(), workers=int(os.environ[THREADS_VARIABLE])
)
