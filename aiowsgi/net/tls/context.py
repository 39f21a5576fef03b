"""From the options to an ``ssl.SSLContext``, and what is wrong where there can be none."""

import errno
import os
import re
import ssl
import stat
from collections.abc import Callable, Iterable

from ...config import TlsOptions
from ...errors import ConfigError
from .client_hello import APPLICATION_PROTOCOLS

# With forward secrecy and authenticated encryption (RFC 9325 §4.2).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_DEMANDS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")
_ENCRYPTED_KEY = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")
# What a file may hold, in bytes. All CAs of the world take less than 1 MiB.
_LARGEST_FILE = 1 << 24


class _NoPassword(Exception):
    """A key is encrypted, and there is no password."""


def server_context(options: TlsOptions, pairs: Iterable[tuple[str, str]]) -> ssl.SSLContext:
    """Return a context with some of the certificates, and else as the options ask for.

    ``pairs`` are the paths of each certificate and its key. Reads all files, on any thread. Raises
    ConfigError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[options.tls_min]
    # PROTOCOL_TLS_SERVER leaves compression out already (CVE-2012-4929). A client that renegotiates
    # again and again has the server do most of the work.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(APPLICATION_PROTOCOLS)
    try:
        context.set_ciphers(options.ciphers or _CIPHERS)
    except ssl.SSLError:
        raise ConfigError(
            f"{options.spelling('ciphers')} {options.ciphers!r} names no cipher that OpenSSL has; "
            "'openssl ciphers -v LIST' shows what a list stands for"
        ) from None
    password = _password(options)
    for certfile, keyfile in pairs:
        load_certificate(context, options, certfile, keyfile, password)
    if options.client_certs != "none":
        _load_authorities(context, options)
        context.verify_mode = _DEMANDS[options.client_certs]
    return context


def load_certificate(
    context: ssl.SSLContext,
    options: TlsOptions,
    certfile: str,
    keyfile: str,
    password: str | None,
) -> None:
    """Load a certificate and its key. Raises ConfigError that names the file."""
    certificates = _read(options, "certfile", certfile)
    if _CERTIFICATE.search(certificates) is None:
        raise ConfigError(
            f"{options.spelling('certfile')} {certfile} holds no certificate in PEM "
            "(-----BEGIN CERTIFICATE-----); 'openssl x509 -inform der' converts one from DER"
        )
    if keyfile == certfile:
        name, keys, has_key = "certfile", certificates, "has the certificate and no private key"
    else:
        name, keys, has_key = "keyfile", _read(options, "keyfile", keyfile), "holds no private key"
    found = f"{options.spelling(name)} {keyfile}"
    if _KEY.search(keys) is None:
        raise ConfigError(
            f"{found} {has_key} in PEM (-----BEGIN PRIVATE KEY-----); "
            + (
                f"give {options.origin('certfile').spelling('keyfile')}"
                if keyfile == certfile
                else "'openssl pkey -inform der' converts one from DER"
            )
        )
    try:
        # Without a function, OpenSSL would ask for the password on the terminal.
        context.load_cert_chain(certfile, keyfile, _password_source(password))
    except _NoPassword:
        raise ConfigError(
            f"the private key in {found} is encrypted; give "
            f"{options.origin(name).spelling('keyfile_password')}"
        ) from None
    except ssl.SSLError as error:
        raise ConfigError(_explain(error, options, certfile, found, keys)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{found} cannot be used: {error}") from None


def _explain(
    error: ssl.SSLError, options: TlsOptions, certfile: str, found: str, keys: bytes
) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            f"the private key in {found} is not that of the first certificate in "
            f"{options.spelling('certfile')} {certfile}; the certificate of the server comes "
            "first, and then those up to its CA"
        )
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        return (
            f"OpenSSL takes {options.spelling('certfile')} {certfile} for too weak "
            f"({error.reason.replace('_', ' ').lower()}); have one made with a longer key"
        )
    if _ENCRYPTED_KEY.search(keys) is not None:
        return (
            f"the private key in {found} cannot be decrypted; is "
            f"{options.spelling('keyfile_password')} its password?"
        )
    return (
        f"OpenSSL cannot read {options.spelling('certfile')} {certfile} with its private key in "
        f"{found} ({error.reason or error}); is one of them cut off?"
    )


def _load_authorities(context: ssl.SSLContext, options: TlsOptions) -> None:
    found = f"{options.spelling('ca_certs')} {options.ca_certs}"
    if _CERTIFICATE.search(_read(options, "ca_certs", options.ca_certs)) is None:
        raise ConfigError(f"{found} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
    try:
        context.load_verify_locations(options.ca_certs)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{found} cannot be read: {error}; is it cut off?") from None


def _read(options: TlsOptions, name: str, path: str) -> bytes:
    """Return what a file holds that an option names. Raises ConfigError."""
    try:
        return _contents(path)
    except PermissionError as error:
        raise ConfigError(
            f"{options.spelling(name)} {path} cannot be read: {error.strerror}; who runs the "
            "server (see --user) must be able to"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        hint = "; for several files, repeat the option" if "," in path else ""
        raise ConfigError(
            f"{options.spelling(name)} {path} cannot be read: {reason}{hint}"
        ) from None


def _contents(path: str) -> bytes:
    """Return what a regular file holds. Raises OSError, and ValueError for what is no path.

    Others might never come to an end (/dev/zero), or be waited for (a FIFO).
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        contents = file.read(_LARGEST_FILE + 1)
    if len(contents) > _LARGEST_FILE:
        raise OSError(errno.EFBIG, f"it has more than {_LARGEST_FILE >> 20} MiB")
    return contents


def _password_source(password: str | None) -> str | Callable[[], str]:
    if password is not None:
        return password

    def refuse() -> str:
        raise _NoPassword

    return refuse


def _password(options: TlsOptions) -> str | None:
    """Return the password of the keys, if there is one. Raises ConfigError, without its value."""
    kind, _, rest = options.keyfile_password.partition(":")
    if kind == "env" and rest:
        if (value := os.environ.get(rest)) is None:
            raise ConfigError(
                f"{options.spelling('keyfile_password')} is in the variable {rest}, which the "
                "environment does not have"
            )
        return value
    if kind == "file" and rest:
        try:
            return _contents(rest).decode().removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(
                f"{options.spelling('keyfile_password')} is in the file {rest}, which cannot be "
                f"read: {reason}"
            ) from None
    return options.keyfile_password or None


def check_context(context: object) -> ssl.SSLContext:
    """Return a context that the host has made. Raises TypeError and ConfigError."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl must be an ssl.SSLContext, not {type(context).__name__}")
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ConfigError(
            "the SSLContext is for clients; make one with ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) "
            "or ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), and load_cert_chain()"
        )
    return context
