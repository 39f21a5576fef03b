"""What a server needs to speak TLS itself: certificates, keys, and what is demanded of clients."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConfigError
from .fields.option import option, seconds, texts
from .fields.subject import Subject

_GROUP = "TLS"

ClientCertificates = Literal["none", "optional", "required"]
TlsVersion = Literal["1.2", "1.3"]


def _objection_to_text(value: object) -> str | None:
    # Without the value: it may be a password.
    return None if isinstance(value, str) else "must be a str"


@dataclass(frozen=True, kw_only=True)
class TlsOptions(Subject):
    """The options of TLS. Files are read when a server starts, and again when they have changed."""

    certfile: tuple[str, ...] = option(
        (),
        _GROUP,
        rule=texts("certfile", "paths", "/etc/ssl/site.pem"),
        metavar="PATH",
        default_text="none",
    )
    """file with the certificate of the server and those up to its CA, in this order (PEM); with it,
    addresses speak HTTPS, or only those with tls: before them, if there are such; read again once
    it has changed; may be repeated, and a client gets the one for the host that it wants, else the
    first
    """
    keyfile: tuple[str, ...] = option(
        (),
        _GROUP,
        rule=texts("keyfile", "paths", "/etc/ssl/site.key"),
        metavar="PATH",
        default_text="the file of the certificate",
    )
    """file with the private key of the certificate (PEM); as often as --certfile, in the same order
    """
    keyfile_password: str = option(
        "", _GROUP, rule=_objection_to_text, metavar="TEXT", default_text="none", secret=True
    )
    """password of the private keys: env:NAME reads it from the environment, file:PATH from a file;
    anything else is the password itself, which other users of the machine can see
    """
    ca_certs: str = option("", _GROUP, rule=_objection_to_text, metavar="PATH", default_text="none")
    """file with the CAs whose clients are accepted (PEM); see --client-certs"""
    client_certs: ClientCertificates = option("none", _GROUP, choices=get_args(ClientCertificates))
    """whether clients show a certificate: optional asks for one, required accepts no connection
    without; one that --ca-certs does not vouch for is refused
    """
    tls_min: TlsVersion = option("1.2", _GROUP, choices=get_args(TlsVersion))
    """oldest version of TLS that clients may speak"""
    ciphers: str = option(
        "", _GROUP, rule=_objection_to_text, metavar="LIST", default_text="ECDHE with an AEAD"
    )
    """ciphers of TLS 1.2, as OpenSSL writes them; those of TLS 1.3 are always good ones"""
    timeout_handshake: float = seconds(10.0, _GROUP)
    """time from accepting a connection to the end of its TLS handshake; then it is closed"""

    @property
    def has_certificate(self) -> bool:
        """Whether the options name a certificate of the server."""
        return bool(self.certfile)

    def check_together(self) -> None:
        """Raise ConfigError where options contradict each other."""
        super().check_together()
        if self.certfile:
            self._check_certificates()
        else:
            self._check_without_certificate()
        if self.client_certs != "none" and not self.ca_certs:
            ca_certs = self.origin("client_certs").spelling("ca_certs")
            raise ConfigError(
                f"{self.spelling('client_certs')} asks clients for certificates, and without "
                f"{ca_certs} no CA vouches for any; give both"
            )
        if self.ca_certs and self.client_certs == "none":
            client_certs = self.origin("ca_certs").spelling("client_certs")
            raise ConfigError(
                f"{self.spelling('ca_certs')} is for the certificates of clients, which "
                f"{client_certs} asks for; give both"
            )
        if self.ciphers and self.tls_min == "1.3":
            tls_min = self.origin("ciphers").spelling("tls_min")
            raise ConfigError(
                f"{self.spelling('ciphers')} are of TLS 1.2, which {tls_min} 1.3 excludes; leave "
                "one of them out"
            )

    def _check_certificates(self) -> None:
        if self.keyfile and len(self.keyfile) != len(self.certfile):
            raise ConfigError(
                f"{self.spelling('keyfile')} is given {_times(self.keyfile)}, and "
                f"{self.spelling('certfile')} {_times(self.certfile)}; give one for each "
                "certificate, in the same order, or none where the file of the certificate has the "
                "key, too"
            )

    def _check_without_certificate(self) -> None:
        for name in ("keyfile", "keyfile_password", "client_certs", "tls_min", "ciphers"):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                certfile = self.origin(name).spelling("certfile")
                raise ConfigError(
                    f"{self.spelling(name)} is for TLS, which needs a certificate; give {certfile}"
                )


def _times(values: tuple[str, ...]) -> str:
    return "once" if len(values) == 1 else f"{len(values)} times"
