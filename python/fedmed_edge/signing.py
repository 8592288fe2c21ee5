"""Keys, fingerprints and signatures (Ed25519): who handed something over, and that nobody changed it.

Every signature is over a domain and a SHA-256, so that a signature of one kind of thing is worthless for
another. Keys are PEM files; fingerprints are written as OpenSSH writes them.
Source: RFC 8032 (Ed25519), RFC 5958 (PKCS #8), RFC 7468 (PEM).
"""

import base64
import binascii
import hashlib
import json
import logging
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmed_edge.atomic import read_regular, write_atomic, write_together
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.kinds import mistaken

__all__ = [
    "FILE_DOMAIN",
    "PrivateKey",
    "PublicKey",
    "detached_signature",
    "fingerprint",
    "generate_key",
    "parse_public_key",
    "public_pem",
    "read_private_key",
    "read_public_key",
    "sign_digest",
    "signature_path",
    "verify_detached",
    "verify_digest",
    "verify_file",
    "verify_trusted",
    "write_key",
    "write_public_key",
    "write_signed",
]

FILE_CAP = 1 << 32
"""Largest file that is signed or verified, in bytes."""

log = logging.getLogger(__name__)

PrivateKey = Ed25519PrivateKey
PublicKey = Ed25519PublicKey

FILE_DOMAIN: Final = "fedmed file v1"
_KEY_CAP = 1 << 14
_SIGNATURE_CAP = 1 << 12


def generate_key() -> PrivateKey:
    """A fresh private key.

    Example:
        >>> fingerprint(generate_key().public_key())[:7]
        'SHA256:'
    """
    return Ed25519PrivateKey.generate()


def fingerprint(key: PublicKey) -> str:
    """`SHA256:` and the unpadded base64 of the SHA-256 of the 32 raw bytes of a public key; 50 characters."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


def public_pem(key: PublicKey) -> bytes:
    """PEM bytes of a public key."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write_key(path: Path, key: PrivateKey) -> None:
    """Write a private key as PEM (PKCS #8, not encrypted) that only its owner can read (mode 0600).

    Raises:
        InputError: A file is there already (a key is never written over), or it cannot be written.
    """
    if path.exists():
        raise InputError(f"{path}: is there already, a key is never written over")
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomic(path, pem, mode=0o600)


def write_public_key(path: Path, key: PublicKey) -> None:
    """Write a public key as PEM.

    Raises:
        InputError: It cannot be written.
    """
    write_atomic(path, public_pem(key))


def read_private_key(path: Path) -> PrivateKey:
    """Read a private Ed25519 key from a PEM file.

    Raises:
        InputError: The file is missing, no such key, or another one than the public key beside it, of the
            same name with the ending `.pub`.
    """
    content = _read(path, _KEY_CAP)
    if path.stat().st_mode & 0o077:
        log.warning("%s can be read by others than its owner; chmod 600 it", path)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if said := mistaken(content, "private key"):
            raise InputError(f"{path}: {said}") from None
        raise InputError(f"{path}: not a private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: has another kind of key, expected Ed25519")
    _refuse_exchanged(path, key)
    return key


def _refuse_exchanged(path: Path, key: PrivateKey) -> None:
    """One of a pair was replaced: what the key signs from now on, nobody trusts who was given the other."""
    beside = path.with_suffix(".pub")
    if not beside.is_file():
        return
    try:
        given = read_public_key(beside)
    except InputError:  # it is needed for nothing else
        return
    if fingerprint(given) != fingerprint(key.public_key()):
        raise InputError(
            f"{path}: is of {fingerprint(key.public_key())}, expected {fingerprint(given)} as {beside.name}",
            hint="put back the one that was replaced; others trust the key that they were given",
        )


def read_public_key(path: Path) -> PublicKey:
    """Read a public Ed25519 key from a PEM file.

    Raises:
        InputError: The file is missing, or no such key.
    """
    return parse_public_key(_read(path, _KEY_CAP), str(path))


def parse_public_key(content: bytes, where: str) -> PublicKey:
    """Parse the PEM bytes of a public Ed25519 key; `where` names them in messages.

    Raises:
        InputError: The content is no such key.
    """
    if b"PRIVATE KEY" in content:
        raise InputError(
            f"{where}: is a private key, expected a public one", hint="private keys never travel"
        )
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        if said := mistaken(content, "public key"):
            raise InputError(f"{where}: {said}") from None
        raise InputError(f"{where}: not a public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{where}: has another kind of key, expected Ed25519")
    return key


def sign_digest(domain: str, digest: bytes, key: PrivateKey) -> bytes:
    """Signature (64 bytes) over a domain and a SHA-256 digest (32 bytes)."""
    return key.sign(_message(domain, digest))


def verify_digest(domain: str, digest: bytes, signature: bytes, key: PublicKey, where: str) -> None:
    """Check a signature that `sign_digest` made; `where` names the thing in the message.

    Raises:
        TrustError: The signature is not of this key over this digest.
    """
    try:
        key.verify(signature, _message(domain, digest))
    except InvalidSignature:
        raise TrustError(
            f"{where}: wrong signature: changed after it was signed, or not signed by {fingerprint(key)}"
        ) from None


def _message(domain: str, digest: bytes) -> bytes:
    return domain.encode() + b"\0" + digest


def signature_path(path: Path) -> Path:
    """Where the detached signature of a file lies: its name with `.sig` behind it."""
    return path.with_name(path.name + ".sig")


def write_signed(path: Path, content: bytes, key: PrivateKey) -> Path:
    """Write a file and its detached signature in one step.

    Both are on the disk before either is renamed. A process that is killed between the two renames leaves
    the older file under the newer signature, which nobody trusts: write it again.

    Returns:
        Path of the signature.

    Raises:
        InputError: One of them cannot be written; an older pair then stays as it was.
    """
    beside = signature_path(path)
    write_together({beside: detached_signature(hashlib.sha256(content).digest(), key), path: content})
    return beside


def detached_signature(digest: bytes, key: PrivateKey) -> bytes:
    """Content of the signature file of a file whose SHA-256 (32 bytes) is `digest`."""
    fields = {
        "format_version": 1,
        "signer": fingerprint(key.public_key()),
        "signature": base64.b64encode(sign_digest(FILE_DOMAIN, digest, key)).decode(),
    }
    return (json.dumps(fields) + "\n").encode()


def verify_detached(signature: bytes, digest: bytes, key: PublicKey, where: str) -> None:
    """Check the content of a signature file against the SHA-256 of the file, which need not be here yet.

    Raises:
        TrustError: It is no signature file, by another key, or wrong.

    Example:
        >>> key, digest = generate_key(), hashlib.sha256(b"content").digest()
        >>> verify_detached(detached_signature(digest, key), digest, key.public_key(), "file")
    """
    signer, signed = _parse_signature(signature, where)
    if signer != fingerprint(key):
        raise TrustError(f"{where}: signed by {signer}, expected {fingerprint(key)}")
    verify_digest(FILE_DOMAIN, digest, signed, key, where)


def verify_file(path: Path, key: PublicKey) -> bytes:
    """Check a file's detached signature against a trusted key.

    Returns:
        The file's content: the very bytes that were checked, so use these and do not read the file again.

    Raises:
        InputError: The file cannot be read.
        TrustError: The signature is missing, unreadable, by another key, or wrong.
    """
    content = _read(path)
    signer, signature = _read_signature(signature_path(path))
    if signer != fingerprint(key):
        raise TrustError(f"{path}: signed by {signer}, expected {fingerprint(key)}")
    verify_digest(FILE_DOMAIN, hashlib.sha256(content).digest(), signature, key, str(path))
    return content


def verify_trusted(path: Path, trust: Path | None) -> bytes:
    """As `verify_file`, by the key file that a site trusts; None, no such file named, trusts nothing.

    Raises:
        InputError: The file or the key cannot be read.
        TrustError: No key is named, or as `verify_file`.

    Example:
        >>> verify_trusted(Path("lesion.generation"), None)
        Traceback (most recent call last):
        ...
        fedmed_edge.errors.TrustError: lesion.generation: no key to check its signature against
    """
    if trust is None:
        raise TrustError(
            f"{path}: no key to check its signature against",
            hint="name the server's public key as `server_key` in fedmed.toml",
        )
    return verify_file(path, read_public_key(trust))


def _read_signature(path: Path) -> tuple[str, bytes]:
    try:
        content = _read(path, _SIGNATURE_CAP)
    except InputError as error:
        raise TrustError(str(error), hint="a file without its signature is not trusted") from None
    return _parse_signature(content, str(path))


def _parse_signature(content: bytes, where: str) -> tuple[str, bytes]:
    try:
        fields = json.loads(content)
        version, signer = fields["format_version"], fields["signer"]
        signature = base64.b64decode(fields["signature"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise TrustError(f"{where}: not a signature file, or cut off") from None
    if version != 1 or not isinstance(signer, str):
        raise TrustError(f"{where}: not a signature file of format 1")
    return signer[:50], signature


def _read(path: Path, cap: int | None = None) -> bytes:
    return read_regular(path, cap or FILE_CAP)
