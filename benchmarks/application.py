"""The application that the environment names, for servers that cannot be told on a command line.

Imported by server processes only.
"""

import os
from importlib import import_module
from typing import cast
from wsgiref.types import WSGIApplication

VARIABLE = "BENCHMARK_APPLICATION"
"""Environment variable with `MODULE:NAME`."""
THREADS_VARIABLE = "BENCHMARK_THREADS"
"""Environment variable with the number of threads, for the same servers."""


def load() -> WSGIApplication:
    """Return the application that the harness has asked for."""
    module, _, name = os.environ[VARIABLE].partition(":")
    return cast(WSGIApplication, getattr(import_module(module), name))
