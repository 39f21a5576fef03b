"""aiowsgi: serve a WSGI application, from the shell or inside an asyncio program."""

from .process import import_path

import_path.remove_current_directory()

from typing import TYPE_CHECKING, Any

from .config import Config
from .errors import (
    AiowsgiError,
    ApplicationError,
    BindError,
    ClientDisconnected,
    ConfigError,
    QueueFull,
    RequestBodyError,
    RequestTimeout,
    ServerStopped,
)

if TYPE_CHECKING:
    from .answers.coroutines import run_coroutine
    from .bridge.pool.thread_pool import ThreadPool
    from .process.run import run
    from .server.server import Server
    from .server.serving import serve
else:
    # What needs an event loop, with the module that has it. A supervisor needs none, and would keep
    # 10 MiB for it.
    _WHERE = {
        "Server": "server.server",
        "ThreadPool": "bridge.pool.thread_pool",
        "run": "process.run",
        "run_coroutine": "answers.coroutines",
        "serve": "server.serving",
    }

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f".{_WHERE[name]}", __name__), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__version__ = "0.1.0"

__all__ = [
    "AiowsgiError",
    "ApplicationError",
    "BindError",
    "ClientDisconnected",
    "Config",
    "ConfigError",
    "QueueFull",
    "RequestBodyError",
    "RequestTimeout",
    "Server",
    "ServerStopped",
    "ThreadPool",
    "run",
    "run_coroutine",
    "serve",
]
