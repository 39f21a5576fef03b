"""From the options to certificates: which files are read, with which password."""

import fcntl
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from made_certificates import Issuer

import aiowsgi
from aiowsgi.config import Origin
from aiowsgi.errors import ConfigError
from aiowsgi.net.tls.certificates.files import certificates_of

PATIENCE = 60.0


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def site(issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a certificate whose key has a password; it is the current one, too."""
    issuer.issue("localhost", password="sécret").write(tmp_path, "site")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(password: str) -> aiowsgi.Config:
    return aiowsgi.Config(certfile=("site.pem",), keyfile=("site.key",), keyfile_password=password)


@pytest.mark.parametrize(
    ("password", "content"),
    [
        ("sécret", ""),
        ("env:SITE_PASSWORD", ""),
        ("file:password", "sécret"),
        ("file:password", "sécret\n"),
        ("file:password", "sécret\r\n"),
    ],
)
def test_a_password_is_taken_from_where_it_is(
    site: Path, monkeypatch: pytest.MonkeyPatch, password: str, content: str
) -> None:
    monkeypatch.setenv("SITE_PASSWORD", "sécret")
    (site / "password").write_text(content, newline="")
    source = certificates_of(options(password))
    assert source.served.leaves[0].names == {"localhost"}


@pytest.mark.parametrize(
    ("password", "message"),
    [
        ("", "is encrypted; give keyfile_password"),
        ("wrong", "cannot be decrypted"),
        ("file:password", "cannot be decrypted"),  # Two line ends: one is its own.
        ("env:NOT_THERE", "variable NOT_THERE, which the environment does not have"),
        ("file:not-there", "not-there, which cannot be read: No such file"),
        ("file:.", "which cannot be read: Is a directory"),
        ("file:binary", "which cannot be read: it is no text"),
        ("x" * 2000, "cannot be used: password cannot be longer"),
    ],
)
def test_a_password_that_is_none_is_refused_without_its_value(
    site: Path, password: str, message: str
) -> None:
    (site / "password").write_text("sécret\n\n")
    (site / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=message) as caught:
        certificates_of(options(password))
    assert "wrong" not in str(caught.value)
    assert "sécret" not in str(caught.value)
    assert "xxx" not in str(caught.value)


def test_nobody_is_asked_for_a_password_on_the_terminal(site: Path) -> None:
    (site / "app.py").write_text("def application(environ, start_response): ...\n")
    leader, follower = pty.openpty()

    def have_terminal() -> None:
        os.setsid()
        fcntl.ioctl(follower, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-m", "aiowsgi", "app:application", "--bind", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, "--certfile", "site.pem", "--keyfile", "site.key"],
        stdin=follower,
        stdout=follower,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=have_terminal,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    assert "is encrypted; give --keyfile-password" in done.stderr
    os.set_blocking(leader, False)
    with pytest.raises(BlockingIOError):  # Nothing was written there.
        os.read(leader, 100)
    os.close(leader)
    os.close(follower)


def test_all_files_that_are_read_are_looked_at_wherever_the_application_goes(
    issuer: Issuer, site: Path
) -> None:
    (site / "ca.pem").write_bytes(issuer.pem)
    (site / "password").write_text("sécret")
    both = issuer.issue("b.example", password="sécret")
    (site / "both.pem").write_bytes(both.certificate + both.key)
    source = certificates_of(
        aiowsgi.Config(
            certfile=("both.pem",),
            keyfile_password="file:password",
            client_certs="optional",
            ca_certs="ca.pem",
        )
    )
    assert source.paths == tuple(str(site / each) for each in ("both.pem", "password", "ca.pem"))
    source = certificates_of(options("sécret"))
    assert source.paths == tuple(str(site / each) for each in ("site.pem", "site.key"))


def test_a_mistake_is_told_in_the_words_of_who_gave_the_option(site: Path) -> None:
    config = aiowsgi.Config().with_values(
        {Origin.COMMAND_LINE: {"certfile": ("site.pem",), "keyfile": ("not-there",)}}
    )
    with pytest.raises(ConfigError, match=f"^--keyfile {site}/not-there cannot be read: No such"):
        certificates_of(config)
