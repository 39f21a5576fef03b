"""aiowsgi: serve a WSGI application, from the shell or inside an asyncio program."""

from .process import import_path

import_path.remove_current_directory()

from .answers.coroutines import run_coroutine
from .bridge.pool.thread_pool import ThreadPool
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
from .process.run import run
from .server.server import Server
from .server.serving import serve

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
