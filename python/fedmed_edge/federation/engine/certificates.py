"""What stands in a certificate; needs no engine."""

import datetime

from cryptography import x509

from fedmed_edge.errors import InputError

__all__ = ["expiry", "issuer", "names_of"]


def expiry(certificate: bytes) -> datetime.datetime:
    """When a certificate (PEM) runs out, UTC.

    Raises:
        InputError: It is no certificate.
    """
    return _load(certificate).not_valid_after_utc


def names_of(certificate: bytes) -> list[str]:
    """Hosts that a certificate (PEM) is good for.

    Raises:
        InputError: It is no certificate.
    """
    try:
        names = _load(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def issuer(certificate: bytes) -> str:
    """Who signed a certificate (DER).

    Raises:
        InputError: It is no certificate.
    """
    try:
        return x509.load_der_x509_certificate(certificate).issuer.rfc4514_string()
    except ValueError:
        raise InputError("certificate: not one in DER form") from None


def _load(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate)
    except ValueError:
        raise InputError("certificate: not one in PEM form") from None
