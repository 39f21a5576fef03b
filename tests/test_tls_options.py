"""The options of TLS: what contradicts what, which addresses speak it, and mistakes in files."""

import errno
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from certificates import Certificates
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from served_process import ANSWER, PATIENCE, served
from tools import tool

import aiowsgi
from aiowsgi import Config, ConfigError
from aiowsgi.config import Origin
from aiowsgi.net.tls.context import server_context

SECRET = "hunter2"


# What contradicts what.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keyfile": ("k.pem",)}, "keyfile is for TLS, which needs a certificate; give certfile"),
        ({"keyfile_password": SECRET}, "keyfile_password is for TLS, which needs a certificate"),
        ({"tls_min": "1.3"}, "tls_min is for TLS, which needs a certificate; give certfile"),
        ({"ciphers": "ALL"}, "ciphers is for TLS, which needs a certificate; give certfile"),
        (
            {"certfile": ("a.pem", "b.pem"), "keyfile": ("k.pem",)},
            "keyfile is given once, and certfile 2 times; give one for each certificate",
        ),
        (
            {"certfile": ("a.pem",), "client_certs": "required"},
            "client_certs asks clients for certificates, and without ca_certs no CA vouches for",
        ),
        (
            {"certfile": ("a.pem",), "ca_certs": "ca.pem"},
            "ca_certs is for the certificates of clients, which client_certs asks for; give both",
        ),
        (
            {"certfile": ("a.pem",), "ciphers": "ALL", "tls_min": "1.3"},
            "ciphers are of TLS 1.2, which tls_min 1.3 excludes; leave one of them out",
        ),
        (
            {"bind": ("tls:127.0.0.1:0",)},
            "tls:127.0.0.1:0 speaks TLS, and there is no certificate; give certfile, or leave tls: "
            "out (with ssl=, addresses without a protocol speak TLS)",
        ),
        (
            {"bind": ("http:127.0.0.1:0", "uwsgi:127.0.0.1:0"), "certfile": ("a.pem",)},
            "certfile is given, and no address speaks TLS; write tls: before one, or leave http:",
        ),
    ],
)
def test_contradictions_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**options)
    assert str(caught.value).startswith(message)
    assert SECRET not in str(caught.value)


def test_options_are_spelled_as_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"--keyfile is for TLS, .*; give --certfile$"):
        Config().with_values({Origin.COMMAND_LINE: {"keyfile": ("k.pem",)}})
    with pytest.raises(ConfigError, match=r"; give --certfile, or leave tls: out$"):
        Config().with_values({Origin.COMMAND_LINE: {"bind": ("tls:127.0.0.1:0",)}})


def test_password_is_not_shown() -> None:
    config = Config(certfile=("a.pem",), keyfile_password=SECRET)
    assert SECRET not in repr(config)
    assert "a.pem" in repr(config)
    with pytest.raises(ConfigError) as caught:
        Config(keyfile_password=SECRET.encode())  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)
    with pytest.raises(TypeError) as wrong:
        aiowsgi.serve(lambda *_: [], keyfile_password=SECRET)  # type: ignore[arg-type]
    assert "keyfile_password" in str(wrong.value)
    assert SECRET not in str(wrong.value)


# Which addresses speak TLS.


@pytest.mark.parametrize(
    ("bind", "speaks"),
    [
        (("a:1",), [True]),
        (("a:1", "b:2", "unix:/s"), [True, True, True]),
        (("a:1", "http:b:2", "uwsgi:c:3"), [True, False, False]),
        (("a:1", "tls:b:2", "http:c:3"), [False, True, False]),
        (("tls:unix:/s", "tls:fd:3", "tls:systemd:web", "fd:4"), [True, True, True, False]),
    ],
)
def test_addresses_speak_tls_as_their_protocols_say(
    bind: tuple[str, ...], speaks: list[bool]
) -> None:
    config = Config(bind=bind, certfile=("a.pem",))
    assert [listener.tls for listener in config.listeners] == speaks
    # As text they mean the same, for who gets it that way: see ``with_passed_sockets``.
    again = Config(bind=tuple(map(str, config.listeners)), certfile=("a.pem",))
    assert again.listeners == config.listeners
    assert {listener.protocol for listener in config.listeners} <= {"http", "uwsgi"}


def test_without_a_certificate_nothing_speaks_tls() -> None:
    assert [item.tls for item in Config(bind=("a:1", "http:b:2")).listeners] == [False, False]


# Mistakes in files.


@pytest.fixture
def encrypted(certificates: Certificates) -> str:
    """Return the path of a key that has a password."""
    key = load_pem_private_key(certificates.local.private_key_pem.bytes(), None)
    return certificates.write(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(SECRET.encode())
        )
    )


def made(config: Config) -> ssl.SSLContext:
    pairs = zip(config.certfile, config.keyfile or config.certfile, strict=True)
    return server_context(config, pairs)


def mistake(**options: Any) -> str:
    """Return what is said of options whose files have a mistake."""
    with pytest.raises(ConfigError) as caught:
        made(Config(**options))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


Options = Callable[[Certificates], dict[str, Any]]


def fifo(certificates: Certificates) -> str:
    """Return the path of a FIFO into which nobody writes."""
    path = certificates.write(b"")
    os.unlink(path)
    os.mkfifo(path)
    return path


def endless(certificates: Certificates) -> str:
    """Return the path of a file that is larger than the memory of most machines."""
    path = certificates.write(Path(certificates.site).read_bytes())
    os.truncate(path, 1 << 40)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            lambda made: {"certfile": ("/nowhere.pem",)},
            "certfile /nowhere.pem cannot be read: No such file or directory",
        ),
        (
            lambda made: {"certfile": ("/nowhere.pem,b.pem",)},
            "certfile /nowhere.pem,b.pem cannot be read: No such file or directory; for several "
            "files, repeat the option",
        ),
        (
            lambda made: {"certfile": ("/tmp",)},
            "certfile /tmp cannot be read: Is a directory",
        ),
        (
            lambda made: {"certfile": (fifo(made),)},
            "cannot be read: it is not a regular file",
        ),
        (
            lambda made: {"certfile": ("/dev/zero",)},
            "certfile /dev/zero cannot be read: it is not a regular file",
        ),
        (
            lambda made: {"certfile": (endless(made),)},
            "cannot be read: it has more than 16 MiB",
        ),
        (
            lambda made: {"certfile": (made.site,), "keyfile": (fifo(made),)},
            "cannot be read: it is not a regular file",
        ),
        (
            lambda made: {"certfile": (made.site,), "keyfile_password": f"file:{fifo(made)}"},
            "which cannot be read: it is not a regular file",
        ),
        (
            lambda made: {
                "certfile": (made.site,),
                "ca_certs": fifo(made),
                "client_certs": "required",
            },
            "cannot be read: it is not a regular file",
        ),
        (
            lambda made: {"certfile": ("a\0b",)},
            "certfile a\0b cannot be read: embedded null byte",
        ),
        (
            lambda made: {"certfile": (made.chain(made.local),), "keyfile": ("/nowhere.key",)},
            "keyfile /nowhere.key cannot be read: No such file or directory",
        ),
        (
            lambda made: {"certfile": (made.write(b"\x30\x82\x01\x02"),)},
            "holds no certificate in PEM (-----BEGIN CERTIFICATE-----); 'openssl x509 -inform der'",
        ),
        (
            lambda made: {"certfile": (made.chain(made.local),)},
            "has the certificate and no private key in PEM (-----BEGIN PRIVATE KEY-----); give "
            "keyfile",
        ),
        (
            lambda made: {
                "certfile": (made.chain(made.local),),
                "keyfile": (made.chain(made.local),),
            },
            "holds no private key in PEM (-----BEGIN PRIVATE KEY-----); 'openssl pkey -inform der'",
        ),
        (
            lambda made: {
                "certfile": (made.chain(made.local),),
                "keyfile": (made.key(made.issue("other.example")),),
            },
            "is not that of the first certificate in certfile",
        ),
        (
            lambda made: {"certfile": (made.write(Path(made.site).read_bytes()[:-200]),)},
            "is one of them cut off?",
        ),
        (
            lambda made: {"certfile": (made.site,), "ciphers": "NOTHING"},
            "ciphers 'NOTHING' names no cipher that OpenSSL has; 'openssl ciphers -v LIST'",
        ),
        (
            lambda made: {
                "certfile": (made.site,),
                "ca_certs": made.key(made.local),
                "client_certs": "optional",
            },
            "holds no certificate in PEM (-----BEGIN CERTIFICATE-----)",
        ),
        (
            lambda made: {
                "certfile": (made.site,),
                "ca_certs": made.write(Path(made.ca_file).read_bytes()[:200]),
                "client_certs": "required",
            },
            "is it cut off?",
        ),
    ],
)
def test_mistake_in_a_file_is_told_with_what_to_do(
    certificates: Certificates, options: Options, message: str
) -> None:
    assert message in mistake(**options(certificates))


def test_file_that_may_not_be_read_names_the_user_who_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    # The tests may run as root, who may read everything.
    monkeypatch.setattr("aiowsgi.net.tls.context.open", refuse, raising=False)
    assert "Permission denied; who runs the server (see --user) must be able to" in mistake(
        certfile=(str(tmp_path / "site.pem"),)
    )


def test_password_opens_the_key(
    certificates: Certificates, encrypted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    monkeypatch.setenv("TLS_PASSWORD", SECRET)
    for password in (SECRET, "env:TLS_PASSWORD", f"file:{tmp_path}/password"):
        made(
            Config(
                certfile=(certificates.chain(certificates.local),),
                keyfile=(encrypted,),
                keyfile_password=password,
            )
        )


def test_wrong_passwords_are_told(certificates: Certificates, encrypted: str) -> None:
    options: dict[str, Any] = {
        "certfile": (certificates.chain(certificates.local),),
        "keyfile": (encrypted,),
    }
    assert mistake(**options) == (
        f"the private key in keyfile {encrypted} is encrypted; give keyfile_password"
    )
    wrong = mistake(**options, keyfile_password=f"{SECRET}x")
    assert wrong.endswith("cannot be decrypted; is keyfile_password its password?")
    assert mistake(**options, keyfile_password="env:NOT_THERE") == (
        "keyfile_password is in the variable NOT_THERE, which the environment does not have"
    )
    assert mistake(**options, keyfile_password="file:/nowhere").startswith(
        "keyfile_password is in the file /nowhere, which cannot be read: No such file"
    )


# Whole processes.


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run a server that cannot start. It has no terminal to ask anybody."""
    (folder / "app.py").write_text(ANSWER)
    return subprocess.run(
        [sys.executable, "-m", "aiowsgi", "app:application", "--bind", "127.0.0.1:0", *options],
        cwd=folder,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        start_new_session=True,
    )


def curl(*arguments: str) -> str:
    """Return what curl gets."""
    done = subprocess.run(
        [tool("curl", package="curl"), "-sS", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("workers", [(), ("--workers", "1"), ("--workers", "1", "--preload")])
def test_mistake_ends_the_start_with_its_message(
    certificates: Certificates, encrypted: str, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    chain = certificates.chain(certificates.local)
    done = run(tmp_path, "--certfile", chain, "--keyfile", encrypted, *workers)
    assert done.returncode != 0
    assert f"the private key in --keyfile {encrypted} is encrypted; give --keyfile-p" in done.stderr
    assert "Traceback" not in done.stderr
    assert " Serving " not in done.stderr


@pytest.mark.parametrize(
    "options", [(), ("--workers", "2"), ("--workers", "1", "--preload"), ("--reload",)]
)
def test_processes_of_all_kinds_speak_tls(
    certificates: Certificates, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with served(tmp_path, ANSWER, "--certfile", certificates.site, *options) as process:
        port = int(process.said(r" Serving .* at https://127\.0\.0\.1:(\d+) ")[1])
        assert curl("--cacert", certificates.ca_file, f"https://localhost:{port}/") == "hello"
        assert process.stop() == 0


def test_plain_server_imports_nothing_of_tls(tmp_path: Path) -> None:
    source = """
    import sys

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [" ".join(name for name in sys.modules if "aiowsgi.net.tls" in name).encode()]
    """
    with served(tmp_path, source) as process:
        port = process.port()
        assert curl(f"http://127.0.0.1:{port}/") == ""
        assert process.stop() == 0


def test_aiowsgi_run_takes_a_context(certificates: Certificates, tmp_path: Path) -> None:
    source = f"""
    import ssl

    import aiowsgi

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return [b"hello"]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain({certificates.site!r})
    aiowsgi.run(application, "127.0.0.1", 0, ssl=context)
    """
    with served(tmp_path, source, command=(sys.executable, "app.py"), bind=()) as process:
        port = int(process.said(r" Serving .* at https://127\.0\.0\.1:(\d+) ")[1])
        assert curl("--cacert", certificates.ca_file, f"https://localhost:{port}/") == "hello"
        assert process.stop() == 0
