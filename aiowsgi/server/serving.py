"""How a server starts: what ``serve`` takes, and what of it is a mistake."""

import asyncio
import contextlib
import dataclasses
import logging
import socket
import sys
import warnings
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never
from wsgiref.types import WSGIApplication

from ..config import Config, Option, Origin, ProcessOptions
from ..errors import ConfigError
from ..http.readers.choice import find_reader
from ..net.bind.address import with_address
from ..net.bind.bind import adopt, bind_all
from ..net.bind.listening import ListeningSocket
from ..net.bind.places import address_of, is_on_this_machine
from ..wsgi.application import describe, objection
from .server import Server
from .surroundings import EMBEDDED, Surroundings

if TYPE_CHECKING:
    # Loaded only where TLS is spoken.
    from ssl import SSLContext

    from ..net.tls.certificates.served import CertificateSource

_log = logging.getLogger("aiowsgi.error")

_OPTIONS = frozenset(field.name for field in dataclasses.fields(Config))
# Those whose values are shown nowhere.
_SECRET = frozenset(
    field.name for field in dataclasses.fields(Config) if field.metadata["option"].secret
)
# The options that a server inside of another program does not have.
_PROCESS_OPTIONS: Mapping[str, Option] = {
    field.name: field.metadata["option"] for field in dataclasses.fields(ProcessOptions)
}

# Modules of executors that run nothing where the server is.
_ELSEWHERE = {
    "concurrent.futures.process": "processes",
    "concurrent.futures.interpreter": "interpreters",
}


class Serving:
    """What ``serve`` returns: await it, or enter it with ``async with``, to get the server."""

    # Where there is nothing that could be forgotten: it is not there yet, or in use.
    _forgotten = False

    def __init__(
        self,
        app: WSGIApplication,
        config: Config,
        sock: socket.socket | None,
        executor: Executor | None,
        surroundings: Surroundings = EMBEDDED,
        context: "SSLContext | None" = None,
    ) -> None:
        self._app = app
        self._config = config
        self._sock = sock
        self._executor = executor
        self._surroundings = surroundings
        self._context = context
        self._server: Server | None = None
        self._is_started = False
        self._forgotten = True

    def __await__(self) -> Generator[None, None, Server]:
        return self._start().__await__()

    async def __aenter__(self) -> Server:
        self._server = await self._start()
        return self._server

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._server is not None  # It was entered.
        await self._server.__aexit__(exc_type, exc, tb)

    def __del__(self) -> None:
        if self._forgotten:
            warnings.warn(
                f"serve({describe(self._app)}) was neither awaited nor entered, and serves "
                "nothing; write 'async with aiowsgi.serve(...) as server:' or "
                "'server = await aiowsgi.serve(...)'",
                RuntimeWarning,
                stacklevel=1,
                source=self,
            )

    if not TYPE_CHECKING:  # A type checker knows without it what there is.

        def __getattr__(self, name: str) -> Never:
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            if hasattr(Server, name):
                text = (
                    f"what serve() returns has no {name!r} before it is awaited or entered; write "
                    "'server = await aiowsgi.serve(...)' or 'async with aiowsgi.serve(...) as "
                    f"server:', and then server.{name}"
                )
            raise AttributeError(text, name=name, obj=self)

    async def _start(self) -> Server:
        self._forgotten = False
        if self._is_started:
            raise RuntimeError(
                "what serve() returns is awaited or entered once; call serve() again for another "
                "server, or use the one that is there"
            )
        self._is_started = True
        try:
            return self._make_server()
        except BaseException:
            self._is_started = False  # Nothing is left of it, so it may be tried again.
            raise

    def _make_server(self) -> Server:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "serve() needs a running asyncio event loop, and there is none (trio's is another "
                "kind); begin with asyncio.run(main()), or call aiowsgi.run(app)"
            ) from None
        _check_threads()
        reader = find_reader(self._config.http)
        # Before anything is bound, for the mistakes in files.
        source = _certificates_of(self._config) if self._context is None else None
        has_certificate = source is not None or self._context is not None
        if self._surroundings.sockets is not None:
            sockets = list(self._surroundings.sockets)
        elif self._sock is not None:
            sockets = [adopt(self._sock, backlog=self._config.backlog, tls=has_certificate)]
        else:
            sockets = bind_all(self._config.listeners_with(certificate=has_certificate))
        try:
            _check_tls(sockets, has_certificate=has_certificate)
            if self._config.debug:
                _check_debug(self._config, sockets)
            for listening in sockets:
                listening.listen()
            return Server(
                self._app,
                self._config,
                sockets,
                self._executor,
                reader,
                self._surroundings,
                self._context,
                source,
            )
        except BaseException:
            for sock in sockets:
                # Some may be accepted on by now.
                with contextlib.suppress(NotImplementedError):
                    loop.remove_reader(sock.socket)
                if sock.socket is not self._sock:  # That of the caller stays the caller's.
                    sock.close()
            raise


def serve(
    app: WSGIApplication,
    host: str | None = None,
    port: int | None = None,
    *,
    config: Config | None = None,
    sock: socket.socket | None = None,
    executor: Executor | None = None,
    ssl: "SSLContext | None" = None,
    **options: Never,
) -> Serving:
    """Serve a WSGI application in the running event loop.

    Use it as ``async with serve(app, "127.0.0.1", 8000) as server:``, which drains and stops the
    server at the end of the block, or as ``server = await serve(app)``.

    Arguments:
        app: the WSGI application (PEP 3333).
        host, port: where to listen, instead of ``config.bind``; port 0 lets the kernel choose.
        config: all other options, but those of a process, such as ``loop`` and ``workers``: these
            are for ``aiowsgi.run`` and the command line.
        sock: a bound stream socket to listen on instead; the server closes it.
        executor: runs the application instead of a pool of the server's own, and is left running
            when the server stops. A ``ThreadPool`` may be shared between servers.
        ssl: the context of a TLS server, instead of ``config.certfile``; with it, addresses without
            a protocol speak HTTPS.

    Raises ConfigError where the application cannot be one, or an option of a process is given, and,
    once it is awaited, BindError where an address cannot be listened on. A start that fails leaves
    nothing bound. Raises TypeError for arguments of other types, and RuntimeError where it is
    awaited outside of an asyncio event loop.

    It installs no signal handlers, configures no logging, and changes no global state.
    """
    check_options("serve", options)
    check_application(app)
    config = with_address(config, host, port)
    check_process_options(config)
    if sock is not None and not isinstance(sock, socket.socket):
        raise TypeError(
            f"sock must be a socket.socket, not {type(sock).__name__}; for the number of a "
            "descriptor write config=aiowsgi.Config(bind=('fd:3',))"
        )
    if sock is not None and (host is not None or port is not None):
        raise ConfigError("give either host and port, or sock")
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(f"the executor {executor!r} is not a concurrent.futures.Executor")
    _check_executor(executor)
    check_ssl(ssl, config, is_bound=sock is not None)
    return Serving(app, config, sock, executor, context=ssl)


def check_ssl(context: "SSLContext | None", config: Config, *, is_bound: bool = False) -> None:
    """Raise TypeError and ConfigError where a server cannot speak TLS with a context.

    ``is_bound`` says that the socket is the host's own, which speaks TLS then.
    """
    if context is None:
        return
    from ..net.tls.context import check_context

    check_context(context)
    if config.has_certificate:
        raise ConfigError("give either ssl or certfile; a context has its own certificates")
    listeners = config.listeners_with(certificate=True)
    if not is_bound and not any(listener.tls for listener in listeners):
        raise ConfigError("ssl is given, and no address speaks TLS; leave http: out before one")


def _check_tls(sockets: Sequence[ListeningSocket], *, has_certificate: bool) -> None:
    """Raise ConfigError where a socket that was bound before is to speak TLS, and nothing can."""
    for listening in sockets:
        if listening.listener.tls and not has_certificate:
            raise ConfigError(
                f"{listening.listener} speaks TLS, and there is no certificate any more; restart "
                "the server instead of reloading it"
            )


def _certificates_of(config: Config) -> "CertificateSource | None":
    """Return the certificates of the options; None without any. Raises ConfigError."""
    if not config.has_certificate:
        return None
    from ..net.tls.certificates.files import certificates_of

    return certificates_of(config)


def _check_threads() -> None:
    """Raise ConfigError where threads are none: with gevent or eventlet nothing would ever stop."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        patch = "gevent.monkey.patch_all"
    elif eventlet is not None and eventlet.is_monkey_patched("thread"):
        patch = "eventlet.monkey_patch"
    else:
        return
    raise ConfigError(
        f"{patch}() has replaced threads and locks in this process, and the server needs real ones "
        f"beside its event loop; leave it out, or write {patch}(thread=False)"
    )


def _check_debug(config: Config, sockets: Sequence[ListeningSocket]) -> None:
    """Raise ConfigError where others than this machine would be shown what ``debug`` shows."""
    for listening in sockets:
        if not is_on_this_machine(listening.socket):
            host, port = listening.socket.getsockname()[:2]
            raise ConfigError(
                f"{config.spelling('debug')} shows source code and requests to whoever can "
                f"connect, and other machines can connect to {address_of(host, port)}; "
                f"listen on 127.0.0.1:{port}, [::1]:{port} or unix:PATH, or leave it out"
            )
    _log.warning(
        "Failed requests are answered with source code and what was requested, because debug is "
        "on; it is for development only"
    )


def _check_executor(executor: Executor | None) -> None:
    """Raise ConfigError for an executor whose threads have none of the objects of this process."""
    # By their names, because most programs have not imported these modules.
    for base in type(executor).__mro__:
        if (where := _ELSEWHERE.get(base.__module__)) is not None:
            raise ConfigError(
                f"a {type(executor).__name__} makes its calls in other {where}, and neither the "
                "application nor a connection can go there; pass a ThreadPoolExecutor or an "
                "aiowsgi.ThreadPool, or leave the executor out"
            )


def check_application(app: object) -> None:
    """Raise ConfigError for what cannot be a WSGI application."""
    if not callable(app):
        hint = "; import it, and pass the object" if isinstance(app, str) else ""
        raise ConfigError(f"the application {app!r} is not callable{hint}")
    if (wrong := objection(app, f"{describe(app)}()")) is not None:
        raise ConfigError(f"{describe(app)} is not a WSGI application: {wrong}")


def check_process_options(config: Config) -> None:
    """Raise ConfigError where one of the options is given that only a process has."""
    for name in _PROCESS_OPTIONS:
        if config.origin(name) is not Origin.DEFAULT:
            raise ConfigError(f"{config.spelling(name)} {_of_a_process(name)}")


def _of_a_process(name: str) -> str:
    return (
        "is an option of a process, for aiowsgi.run and the command line, and serve() takes none "
        f"such; leave it out: {_PROCESS_OPTIONS[name].embedded}"
    )


def check_options(function: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError where a function was given options that it does not take.

    Those of ``Config`` are taken for such everywhere.
    """
    for name, value in options.items():
        hint = ""
        if function == "serve" and name in _PROCESS_OPTIONS:
            hint = f"; it {_of_a_process(name)}"
        elif name in _OPTIONS:
            if name == "bind" and isinstance(value, str):
                value = (value,)
            shown = "..." if name in _SECRET else repr(value)
            hint = f"; write config=aiowsgi.Config({name}={shown})"
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
