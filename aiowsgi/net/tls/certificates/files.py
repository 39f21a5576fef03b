"""From the options to certificates, and to the files that have to be looked at."""

import os
from typing import Any

from ....config import Origin, TlsOptions
from ..context import server_context
from .served import CertificateSource, KeyPair, load


def certificates_of(options: TlsOptions) -> CertificateSource:
    """Return the certificates that the options name. Reads their files. Raises ConfigError."""
    options = _with_absolute_paths(options)
    pairs = [
        KeyPair(*pair)
        for pair in zip(options.certfile, options.keyfile or options.certfile, strict=True)
    ]
    paths = [path for pair in pairs for path in pair]
    kind, _, path = options.keyfile_password.partition(":")
    paths += [path] if kind == "file" else []
    paths += [options.ca_certs] if options.ca_certs else []
    return CertificateSource(
        # Each once.
        tuple(dict.fromkeys(paths)),
        lambda: load(pairs, lambda some: server_context(options, some)),
    )


def _with_absolute_paths(options: TlsOptions) -> TlsOptions:
    """Return the options for when the files are read again: the application may change the folder.

    Each has the origin that it had.
    """
    password = options.keyfile_password
    kind, _, path = password.partition(":")
    if kind == "file" and path:
        password = f"file:{_absolute(path)}"
    found = {
        "certfile": tuple(map(_absolute, options.certfile)),
        "keyfile": tuple(map(_absolute, options.keyfile)),
        "keyfile_password": password,
        "ca_certs": options.ca_certs and _absolute(options.ca_certs),
    }
    values: dict[Origin, dict[str, Any]] = {}
    for name, value in found.items():
        if value != getattr(options, name):
            values.setdefault(options.origin(name), {})[name] = value
    return options.with_values(values)


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except (OSError, ValueError):  # The folder is gone, or the path is none: reading it says so.
        return path
