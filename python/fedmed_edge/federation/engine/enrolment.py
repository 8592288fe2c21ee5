"""What a hospital asks to be let in with, and the server's signed answer; both are small JSON files.

A request holds two public keys: that of signatures, and that of TLS in a certificate signing request (PKCS
#10). The first signs the second, so one fingerprint, read out over the telephone, vouches for both. The
answer holds the certificate and where the server is; it is signed by the key that models are signed with.
Source: RFC 2986 (PKCS #10), RFC 5280 (X.509).
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fedmed_edge.atomic import read_regular, write_atomic
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.signing import (
    PrivateKey,
    PublicKey,
    fingerprint,
    parse_public_key,
    public_pem,
    sign_digest,
    verify_digest,
)
from fedmed_edge.tensorfile import strict_json

__all__ = [
    "Answer",
    "SiteRequest",
    "make_tls_key",
    "read_answer",
    "read_request",
    "read_unchecked_answer",
    "write_answer",
    "write_request",
]

FILE_CAP: Final = 1 << 16
TLS_KEY_BITS: Final = 2048
"""What the engine's own tools make; its proofs of identity need RSA."""

_REQUEST, _ANSWER = "fedmed site request v1", "fedmed site answer v1"
_REQUEST_KEYS = {"format_version", "kind", "site", "signing_key", "tls_request", "signature"}
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
_ANSWER_KEYS = {
    *("format_version", "kind", "site", "name", "host", "port", "server_name", "certificate", "authority"),
    *("server_key", "signature"),
}


@dataclass(frozen=True)
class SiteRequest:
    """A request whose signatures hold: whoever made it has both private keys.

    Attributes:
        tls_request: Certificate signing request, PEM.
    """

    site: str
    signing_key: PublicKey
    tls_request: bytes

    @property
    def tls_key(self) -> bytes:
        """The public key of TLS, DER."""
        return _key_bytes(x509.load_pem_x509_csr(self.tls_request))


@dataclass(frozen=True)
class Answer:
    """What the server gives a hospital that it lets in.

    Attributes:
        name: The site's name in the certificate.
        server_name: Name in the server's certificate.
        certificate: PEM, as is `authority`, the certificate that all others are signed with.
        server_key: Signs models, generations and this.
    """

    site: str
    name: str
    host: str
    port: int
    server_name: str
    certificate: bytes
    authority: bytes
    server_key: PublicKey


def make_tls_key(path: Path) -> rsa.RSAPrivateKey:
    """A fresh private key of TLS, mode 0600; the one that is there already where an `init` was cut off.

    Raises:
        InputError: It cannot be written, or what is there is no RSA key.
    """
    if not path.exists():
        key = rsa.generate_private_key(public_exponent=65537, key_size=TLS_KEY_BITS)
        write_atomic(path, _private_pem(key), mode=0o600)
        return key
    try:
        found = serialization.load_pem_private_key(read_regular(path, FILE_CAP), password=None)
    except (ValueError, TypeError):
        raise InputError(f"{path}: not a private key in PEM form") from None
    if not isinstance(found, rsa.RSAPrivateKey):
        raise InputError(f"{path}: has another kind of key, expected RSA")
    return found


def _private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_request(path: Path, site: str, key: PrivateKey, tls_key: rsa.RSAPrivateKey) -> None:
    """Write a site's request, which holds public keys alone.

    Raises:
        InputError: It cannot be written.
    """
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, site)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(tls_key, hashes.SHA256())
    fields = {
        "format_version": 1,
        "kind": _REQUEST,
        "site": site,
        "signing_key": public_pem(key.public_key()).decode(),
        "tls_request": request.public_bytes(serialization.Encoding.PEM).decode(),
    }
    write_atomic(path, _signed(fields, _REQUEST, key))


def read_request(path: Path) -> SiteRequest:
    """Read a site's request and check that its maker has both private keys.

    Raises:
        InputError: The file is no request.
        TrustError: One of its signatures does not hold.
    """
    fields = _read(path, _REQUEST, _REQUEST_KEYS, "request of a site")
    key = parse_public_key(_pem(fields, "signing_key", path), str(path))
    _verify(fields, _REQUEST, key, path)
    pem = _pem(fields, "tls_request", path)
    try:
        request = x509.load_pem_x509_csr(pem)
        sound = request.is_signature_valid and isinstance(request.public_key(), rsa.RSAPublicKey)
    except (ValueError, InvalidSignature):
        sound = False
    if not sound:
        raise TrustError(f"{path}: `tls_request` is no signed certificate request of an RSA key")
    return SiteRequest(str(fields["site"]), key, pem)


def write_answer(path: Path, answer: Answer, key: PrivateKey) -> None:
    """Write the server's answer, signed.

    Raises:
        InputError: It cannot be written.
    """
    fields = {
        "format_version": 1,
        "kind": _ANSWER,
        "site": answer.site,
        "name": answer.name,
        "host": answer.host,
        "port": answer.port,
        "server_name": answer.server_name,
        "certificate": answer.certificate.decode(),
        "authority": answer.authority.decode(),
        "server_key": public_pem(answer.server_key).decode(),
    }
    write_atomic(path, _signed(fields, _ANSWER, key))


def read_answer(path: Path, trusted: str, tls_key: rsa.RSAPrivateKey) -> Answer:
    """Read the server's answer.

    Args:
        trusted: Fingerprint of the server's key, as its admin read it out.
        tls_key: The site's own key, which the certificate must be of.

    Raises:
        InputError: The file is no answer.
        TrustError: It is signed by another key than the trusted one, changed, or for another site's key.
    """
    fields = _read(path, _ANSWER, _ANSWER_KEYS, "server's answer")
    key = parse_public_key(_pem(fields, "server_key", path), str(path))
    if fingerprint(key) != trusted:
        raise TrustError(
            f"{path}: signed by {fingerprint(key)}, expected {trusted}",
            hint="ask the server's admin for the fingerprint by another way than the file came",
        )
    _verify(fields, _ANSWER, key, path)
    certificate = _pem(fields, "certificate", path)
    if _key_bytes(_certificate(certificate, path)) != _key_bytes(tls_key):
        raise TrustError(f"{path}: its certificate is of another site's key, expected this site's")
    return Answer(
        site=str(fields["site"]),
        name=str(fields["name"]),
        host=str(fields["host"]),
        port=int(fields["port"]),
        server_name=str(fields["server_name"]),
        certificate=certificate,
        authority=_pem(fields, "authority", path),
        server_key=key,
    )


def read_unchecked_answer(path: Path) -> dict[str, Any]:
    """Site, host, port and fingerprint that an answer claims, to be looked at: no signature is checked.

    Raises:
        InputError: The file is no answer.
    """
    fields = _read(path, _ANSWER, _ANSWER_KEYS, "server's answer")
    key = parse_public_key(_pem(fields, "server_key", path), str(path))
    return {**{name: fields[name] for name in ("site", "host", "port")}, "fingerprint": fingerprint(key)}


def _certificate(pem: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise InputError(f"{path}: `certificate` is no certificate in PEM form") from None


def _key_bytes(holder: x509.Certificate | x509.CertificateSigningRequest | rsa.RSAPrivateKey) -> bytes:
    return holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _digest(fields: Mapping[str, Any]) -> bytes:
    unsigned = {name: value for name, value in fields.items() if name != "signature"}
    return hashlib.sha256(json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode()).digest()


def _signed(fields: Mapping[str, Any], domain: str, key: PrivateKey) -> bytes:
    signature = base64.b64encode(sign_digest(domain, _digest(fields), key)).decode()
    return (json.dumps({**fields, "signature": signature}, indent=1) + "\n").encode()


def _verify(fields: Mapping[str, Any], domain: str, key: PublicKey, path: Path) -> None:
    try:
        signature = base64.b64decode(str(fields["signature"]), validate=True)
    except (ValueError, binascii.Error):
        raise TrustError(f"{path}: `signature` is none") from None
    verify_digest(domain, _digest(fields), signature, key, str(path))


def _read(path: Path, kind: str, keys: set[str], what: str) -> dict[str, Any]:
    content = read_regular(path, FILE_CAP)
    try:
        fields = strict_json(content, str(path))
    except InputError as error:
        raise InputError(f"{path}: not a {what}: {str(error).removeprefix(f'{path}: ')}") from None
    if set(fields) != keys or fields["kind"] != kind or fields["format_version"] != 1:
        raise InputError(f"{path}: not a {what}")
    for name in ("site", "name", "host", "server_name"):  # in settings, certificates and names of files
        if name in keys and not (isinstance(fields[name], str) and _PLAIN.fullmatch(fields[name])):
            raise InputError(f"{path}: `{name}` has {ascii(fields[name])[:40]}, expected a plain name")
    port = fields.get("port", 1)
    if type(port) is not int or not 1 <= port <= 65535:
        raise InputError(f"{path}: `port` has {ascii(port)[:40]}, expected 1 to 65535")
    return fields


def _pem(fields: Mapping[str, Any], name: str, path: Path) -> bytes:
    value = fields[name]
    if not isinstance(value, str):
        raise InputError(f"{path}: `{name}` has {type(value).__name__}, expected text")
    return value.encode()
