"""Why a TLS handshake failed, in words for who runs the server."""

import ssl

# By the reason that OpenSSL gives. Those with ALERT are what the client has said.
_WORDS = {
    "UNSUPPORTED_PROTOCOL": "it speaks an older version of TLS than --tls-min allows",
    "VERSION_TOO_LOW": "it speaks an older version of TLS than --tls-min allows",
    "WRONG_SSL_VERSION": "it speaks an older version of TLS than --tls-min allows",
    "NO_SHARED_CIPHER": "it knows none of the ciphers that the server has; see --ciphers",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "it cannot check signatures of the kind of --certfile",
    "NO_SUITABLE_KEY_SHARE": "it knows none of the key exchanges that the server has",
    "NO_SHARED_GROUPS": "it knows none of the key exchanges that the server has",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it has shown no certificate, which --client-certs wants",
    "TLSV1_ALERT_UNKNOWN_CA": (
        "it does not know the CA of the server's certificate; does --certfile have the "
        "certificates up to the CA?"
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept the server's certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept the server's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that the server's certificate has expired",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it cannot use certificates like the server's",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak the version of TLS that the server does",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it found nothing that both ends can do",
    "TLSV1_ALERT_DECRYPT_ERROR": "it could not check the server's signature",
    "TLSV1_ALERT_INTERNAL_ERROR": "it says that it has had an error inside",
    "TLSV1_ALERT_USER_CANCELLED": "it has given up",
}


def reason_of(error: ssl.SSLError) -> str:
    """Return why the handshake failed, as the rest of a sentence about the client."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    reason = error.reason or ""
    if reason in _WORDS:
        return _WORDS[reason]
    words = reason.replace("_", " ").lower() or "unknown reason"
    if "ALERT" in reason:
        return f"it has ended the handshake ({words})"
    return f"what it sends cannot be understood ({words})"
