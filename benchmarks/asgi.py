"""The applications of `apps` behind a2wsgi's adapter, for the ASGI peers.

Imported only by an ASGI server's process, in the benchmark's virtual environment. The number of
threads comes from the environment because an ASGI server has no option to pass it through.
"""

import os
from importlib import import_module

from benchmarks import apps

# Imported by name: a2wsgi exists only in the benchmark's virtual environment, and a static import
# would make the type check depend on where it runs.
_adapter = import_module("a2wsgi").WSGIMiddleware
_threads = int(os.environ["BENCHMARK_THREADS"])

hello = _adapter(apps.hello, workers=_threads)
stream = _adapter(apps.stream, workers=_threads)
upload = _adapter(apps.upload, workers=_threads)
cpu = _adapter(apps.cpu, workers=_threads)
