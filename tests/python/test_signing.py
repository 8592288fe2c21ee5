"""Keys, fingerprints and detached signatures."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.signing import (
    FILE_DOMAIN,
    fingerprint,
    generate_key,
    parse_public_key,
    public_pem,
    read_private_key,
    read_public_key,
    sign_digest,
    signature_path,
    verify_digest,
    verify_file,
    verify_trusted,
    write_key,
    write_public_key,
    write_signed,
)

# RFC 8032, 7.1, test 1
RFC_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Ed25519PublicKey]:
    file, key = tmp_path / "model.onnx", generate_key()
    assert write_signed(file, b"model", key) == tmp_path / "model.onnx.sig"
    return file, key.public_key()


def test_keys_come_back_from_their_files(tmp_path: Path) -> None:
    key = generate_key()
    write_key(tmp_path / "site.key", key)
    write_public_key(tmp_path / "site.pub", key.public_key())
    assert (tmp_path / "site.key").stat().st_mode & 0o777 == 0o600
    assert read_private_key(tmp_path / "site.key").private_bytes_raw() == key.private_bytes_raw()
    assert public_pem(read_public_key(tmp_path / "site.pub")) == public_pem(key.public_key())
    assert {path.name for path in tmp_path.iterdir()} == {"site.key", "site.pub"}


def test_a_fingerprint_is_the_hash_of_the_raw_key() -> None:
    key = Ed25519PublicKey.from_public_bytes(RFC_PUBLIC)
    wanted = base64.b64encode(hashlib.sha256(RFC_PUBLIC).digest()).decode().rstrip("=")
    assert fingerprint(key) == f"SHA256:{wanted}"
    assert len(fingerprint(key)) == 50


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    write_key(tmp_path / "site.key", generate_key())
    with pytest.raises(InputError, match=r"site\.key: is there already, a key is never written over"):
        write_key(tmp_path / "site.key", generate_key())


def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_key(tmp_path / "site.key", generate_key())
    (tmp_path / "site.key").chmod(0o644)
    read_private_key(tmp_path / "site.key")
    assert "can be read by others than its owner; chmod 600 it" in caplog.text


def test_a_signed_file_gives_the_bytes_that_were_checked(signed: tuple[Path, Ed25519PublicKey]) -> None:
    assert verify_file(*signed) == b"model"


def test_a_changed_file_is_not_trusted(signed: tuple[Path, Ed25519PublicKey]) -> None:
    file, key = signed
    file.write_bytes(b"other")
    with pytest.raises(
        TrustError, match=r"model\.onnx: wrong signature: changed after it was signed"
    ) as refusal:
        verify_file(file, key)
    assert refusal.value.exit_code == 5


def test_a_file_of_another_signer_is_not_trusted(signed: tuple[Path, Ed25519PublicKey]) -> None:
    other = generate_key().public_key()
    message = rf"model\.onnx: signed by SHA256:\S+, expected {fingerprint(other).replace('+', '.')}"
    with pytest.raises(TrustError, match=message):
        verify_file(signed[0], other)


def test_a_file_without_signature_is_not_trusted(signed: tuple[Path, Ed25519PublicKey]) -> None:
    signature_path(signed[0]).unlink()
    with pytest.raises(TrustError, match=r"model\.onnx\.sig: no such file") as refusal:
        verify_file(*signed)
    assert refusal.value.hint == "a file without its signature is not trusted"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b'{"format_version": 1, "signer": "x", "signature": "#"}',
        b"[" * 4000,
        b'{"format_version": 1, "signer": "x", "signature": 7}',
    ],
)
def test_a_signature_that_is_none_is_not_trusted(
    signed: tuple[Path, Ed25519PublicKey], content: bytes
) -> None:
    signature_path(signed[0]).write_bytes(content)
    with pytest.raises(TrustError, match=r"model\.onnx\.sig: not a signature file"):
        verify_file(*signed)


def test_a_signature_of_another_format_or_size_is_not_trusted(
    signed: tuple[Path, Ed25519PublicKey],
) -> None:
    beside = signature_path(signed[0])
    fields = json.loads(beside.read_text())
    beside.write_text(json.dumps(fields | {"format_version": 2}))
    with pytest.raises(TrustError, match="not a signature file of format 1"):
        verify_file(*signed)
    beside.write_text(json.dumps(fields | {"note": "x" * 5000}))
    with pytest.raises(TrustError, match=r"has \d+ bytes, expected at most 4096"):
        verify_file(*signed)
    beside.write_text(json.dumps(fields | {"signature": "AAAA"}))
    with pytest.raises(TrustError, match="wrong signature"):
        verify_file(*signed)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such file"):
        verify_file(tmp_path / "none", generate_key().public_key())


def test_a_signature_of_one_kind_of_thing_is_worthless_for_another() -> None:
    key, digest = generate_key(), hashlib.sha256(b"x").digest()
    signature = sign_digest("fedmed contribution v1", digest, key)
    verify_digest("fedmed contribution v1", digest, signature, key.public_key(), "x")
    with pytest.raises(TrustError, match="x: wrong signature"):
        verify_digest(FILE_DOMAIN, digest, signature, key.public_key(), "x")


def test_a_key_that_is_not_that_of_the_public_one_beside_it_is_refused(tmp_path: Path) -> None:
    key, other = generate_key(), generate_key()
    write_key(tmp_path / "server.key", key)
    write_public_key(tmp_path / "server.pub", other.public_key())
    wanted = fingerprint(other.public_key())
    with pytest.raises(InputError, match=rf"server\.key: is of SHA256:.*, expected {re.escape(wanted)}"):
        read_private_key(tmp_path / "server.key")
    write_public_key(tmp_path / "server.pub", key.public_key())
    read_private_key(tmp_path / "server.key")
    (tmp_path / "server.pub").write_bytes(b"")
    read_private_key(tmp_path / "server.key")


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(InputError, match="key: no such file"):
        read_public_key(file)
    file.write_bytes(b"text")
    with pytest.raises(InputError, match="key: not a public key in PEM form"):
        read_public_key(file)
    with pytest.raises(InputError, match="key: not a private key in PEM form"):
        read_private_key(file)
    file.write_bytes(b"x" * 20_000)
    with pytest.raises(InputError, match="key: has 20000 bytes, expected at most 16384"):
        read_public_key(file)
    other = ec.generate_private_key(ec.SECP256R1())
    pem, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    with pytest.raises(InputError, match="k: has another kind of key, expected Ed25519"):
        parse_public_key(other.public_key().public_bytes(pem, spki), "k")
    file.write_bytes(
        other.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    file.chmod(0o600)
    with pytest.raises(InputError, match="key: has another kind of key, expected Ed25519"):
        read_private_key(file)
    with pytest.raises(InputError, match="key: is a private key, expected a public one") as refusal:
        read_public_key(file)
    assert refusal.value.hint == "private keys never travel"


def test_openssl_reads_our_keys(tmp_path: Path) -> None:
    write_key(tmp_path / "site.key", generate_key())
    try:
        done = subprocess.run(
            ["openssl", "pkey", "-in", str(tmp_path / "site.key"), "-pubout"], capture_output=True, check=True
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.stdout == public_pem(read_private_key(tmp_path / "site.key").public_key())


def test_a_file_is_written_with_its_signature(tmp_path: Path) -> None:
    key, file = generate_key(), tmp_path / "model.onnx"
    assert write_signed(file, b"model", key) == signature_path(file)
    assert verify_file(file, key.public_key()) == b"model"


def test_no_new_file_ever_stands_under_an_old_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at any rename: the old pair, or the old file under a signature that does not hold."""
    key, file = generate_key(), tmp_path / "model.onnx"
    write_signed(file, b"old", key)
    rename = Path.replace
    for last in (0, 1):
        left = last

        def stopping(path: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return rename(path, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", stopping)
            with pytest.raises(KeyboardInterrupt):
                write_signed(file, b"new", key)
        assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2
        if last == 0:
            assert verify_file(file, key.public_key()) == b"old"
        else:
            with pytest.raises(TrustError, match="wrong signature"):
                verify_file(file, key.public_key())
    write_signed(file, b"new", key)
    assert verify_file(file, key.public_key()) == b"new"


def test_a_site_trusts_the_key_that_it_names(tmp_path: Path) -> None:
    key, file, public = generate_key(), tmp_path / "g.generation", tmp_path / "server.pub"
    write_signed(file, b"generation", key)
    write_public_key(public, key.public_key())
    assert verify_trusted(file, public) == b"generation"
    with pytest.raises(TrustError, match=r"g\.generation: no key to check its signature against") as refusal:
        verify_trusted(file, None)
    assert refusal.value.hint == "name the server's public key as `server_key` in fedmed.toml"
    with pytest.raises(InputError, match=r"none: no such file"):
        verify_trusted(file, tmp_path / "none")
