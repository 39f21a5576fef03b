"""A host and a port, as calls and the command line give them, as the address of a ``Config``."""

import re

from ...config import Config, Origin
from ...errors import ConfigError
from .places import address_of

# What some write into the host: unix:PATH, fd:N, systemd:NAME, HOST:PORT or [IPV6]:PORT, and with a
# protocol.
_WHOLE_ADDRESS = re.compile(
    r"(?:unix|fd|systemd|(?:http|tls|uwsgi)(?!://)):.*|[^:]*:[0-9]*|\[.*\]:[0-9]*", re.DOTALL
)
# Of these, HOST with a protocol or an empty port. The groups are the protocol and the host.
_WITHOUT_PORT = re.compile(r"((?:http|tls|uwsgi):)?(?!unix:|fd:|systemd:)([^:\[]*|\[.*\]):?")


def with_address(
    config: Config | None, host: str | None, port: int | None, *, origin: Origin = Origin.CODE
) -> Config:
    """Return the configuration with ``host`` and ``port`` as its one address, if one is given.

    ``origin`` is where they come from.

    Raises TypeError and ConfigError where they are no such.
    """
    config = Config() if config is None else config
    if not isinstance(config, Config):
        raise TypeError(
            f"config must be an aiowsgi.Config, not {type(config).__name__}; "
            "write config=aiowsgi.Config(threads=4)"
        )
    if isinstance(host, int) or isinstance(port, str):
        raise TypeError(
            "the host is a str and the port an int, in this order: "
            f"not {host!r} and {port!r}, but such as '127.0.0.1', 8000"
        )
    if host is None and port is None:
        return config
    host, port = "127.0.0.1" if host is None else host, 8000 if port is None else port
    if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"the host must be a str and the port an int, not {host!r} and {port!r}")
    if not 0 <= port <= 65535:
        raise ConfigError(f"{port} is not a port; a port is a number from 0 to 65535")
    _check_host(host, port, origin)
    return config.with_values({origin: {"bind": (address_of(host, port),)}})


def _check_host(host: str, port: int, origin: Origin) -> None:
    """Raise ConfigError where the host is more than a host, with what to write instead."""
    scheme, is_url, rest = host.partition("://")
    if is_url:
        what, rest = "a URL", rest.partition("/")[0] or "127.0.0.1"
        bare = rest[1:-1] if rest[:1] == "[" and rest[-1:] == "]" else rest
        if scheme != "uwsgi" and not _WHOLE_ADDRESS.fullmatch(bare):
            write = f"host={bare!r}" if origin is Origin.CODE else f"--host {bare}"
            raise ConfigError(f"{host!r} is {what}, not a host; write {write}")
        prefix = {"uwsgi": "uwsgi:", "https": "tls:"}.get(scheme, "")
        address = prefix + rest
    elif _WHOLE_ADDRESS.fullmatch(host):
        what, address = "a whole address", host
    else:
        return
    if (match := _WITHOUT_PORT.fullmatch(address)) is not None:
        address = (match[1] or "") + address_of(match[2] or "127.0.0.1", port)
    raise ConfigError(
        f"{host!r} is {what}, not a host; write --bind {address}, "
        f"or config=aiowsgi.Config(bind=({address!r},))"
    )
