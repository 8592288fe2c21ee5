"""Certificates: the federation's own authority, and those that it signs.

Made by the engine's library, so that they hold what the engine looks for.
"""

import datetime
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from nvflare.lighter.utils import (
    Identity,
    generate_cert,
    generate_keys,
    load_crt,
    load_private_key_file,
    serialize_cert,
    serialize_pri_key,
)

from fedmed_edge.atomic import write_atomic
from fedmed_edge.errors import InputError

__all__ = ["CERTIFICATE_DAYS", "Authority", "Pair"]

CERTIFICATE_DAYS: Final = 1095
AUTHORITY_DAYS: Final = 3650
_CLOCK_SLACK = datetime.timedelta(days=1)
"""A certificate is valid from a day before it was made, for sites whose clocks are behind."""

_ORGANISATION: Final = "fedmed"
_CERTIFICATE, _KEY = "rootCA.pem", "rootCA.key"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """The key that signs every certificate of a federation; it stays in one folder, mode 0600."""

    def __init__(self, folder: Path) -> None:
        self._certificate: x509.Certificate = load_crt(folder / _CERTIFICATE)
        self._key: Any = load_private_key_file(folder / _KEY)

    @classmethod
    def create(cls, folder: Path) -> "Authority":
        """Make an authority, or take up the one that is there.

        Raises:
            InputError: It cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _CERTIFICATE).exists():
            key, public = generate_keys()
            name = Identity(f"{_ORGANISATION} {os.urandom(4).hex()}")
            made = generate_cert(name, name, key, public, ca=True, **_validity(AUTHORITY_DAYS))
            write_atomic(folder / _KEY, serialize_pri_key(key), mode=0o600)
            write_atomic(folder / _CERTIFICATE, serialize_cert(made))
        if stat.S_IMODE((folder / _KEY).stat().st_mode) & 0o077:
            raise InputError(f"{folder / _KEY}: can be read by others than its owner", hint="chmod 600 it")
        return cls(folder)

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return bytes(serialize_cert(self._certificate))

    def issue(self, name: str, *, host: str | None = None, role: str | None = None) -> Pair:
        """A key and its certificate: of the server where `host` is given, of an admin where `role` is."""
        key, public = generate_keys()
        return Pair(self._sign(name, public, CERTIFICATE_DAYS, host, role), serialize_pri_key(key))

    def sign(self, name: str, tls_request: bytes, *, days: int = CERTIFICATE_DAYS) -> bytes:
        """Certificate (PEM) for the key of a request; of the request nothing but its key is taken over."""
        return self._sign(name, x509.load_pem_x509_csr(tls_request).public_key(), days, None, None)

    def _sign(self, name: str, public: Any, days: int, host: str | None, role: str | None) -> bytes:
        issuer = self._certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if host is not None:
            usage.append(ExtendedKeyUsageOID.SERVER_AUTH)
        made = generate_cert(
            subject=Identity(name, _ORGANISATION, role),
            issuer=Identity(issuer),
            signing_pri_key=self._key,
            subject_pub_key=public,
            server_default_host=host,
            # the coordinator connects on the same machine
            server_additional_hosts=["localhost"] if host else None,
            extra_extensions=[
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (_key_usage(), True),
                (x509.ExtendedKeyUsage(usage), False),
            ],
            **_validity(days),
        )
        return bytes(serialize_cert(made))


def _key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        **dict.fromkeys(
            (
                "content_commitment",
                "data_encipherment",
                "key_agreement",
                "key_cert_sign",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            ),
            False,
        ),
    )


def _validity(days: int) -> dict[str, datetime.datetime]:
    now = datetime.datetime.now(datetime.UTC)
    return {"not_valid_before": now - _CLOCK_SLACK, "not_valid_after": now + datetime.timedelta(days=days)}
