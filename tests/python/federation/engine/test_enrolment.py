"""Request and answer: whoever changes or swaps anything in them is found out."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedmed_edge.errors import InputError, StoreError, TrustError
from fedmed_edge.federation.engine.certificates import expiry, names_of
from fedmed_edge.federation.engine.enrolment import (
    Answer,
    make_tls_key,
    read_answer,
    read_request,
    read_unchecked_answer,
    write_answer,
    write_request,
)
from fedmed_edge.federation.engine.identities import Identities, Identity, certificate_name
from fedmed_edge.federation.engine.site_kit import install, installed_name, server_address, set_server
from fedmed_edge.kinds import file_kind
from fedmed_edge.signing import fingerprint, generate_key

pytest.importorskip("nvflare")

from fedmed_edge.federation.engine.authority import Authority


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "a.request"
    write_request(path, "a", generate_key(), make_tls_key(tmp_path / "client.key"))
    return path


def answered(folder: Path, request: Path, **changes: Any) -> tuple[Path, str]:
    """The server's answer to a request, and the fingerprint of its key."""
    key, read = generate_key(), read_request(request)
    authority = Authority.create(folder / "authority")
    name = certificate_name(read.site, read.tls_key)
    values = {
        "site": read.site,
        "name": name,
        "host": "federation.example.org",
        "port": 8002,
        "server_name": "fedmed-server",
        "certificate": authority.sign(name, read.tls_request),
        "authority": authority.certificate,
        "server_key": key.public_key(),
    }
    write_answer(folder / "a.signed", Answer(**(values | changes)), key)
    return folder / "a.signed", fingerprint(key.public_key())


def changed(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return path


def test_a_request_holds_public_keys_alone(request_file: Path, tmp_path: Path) -> None:
    read = read_request(request_file)
    assert read.site == "a"
    text = request_file.read_text()
    assert "PRIVATE" not in text and text.count("PUBLIC KEY") == 2
    private = serialization.load_pem_private_key((tmp_path / "client.key").read_bytes(), None)
    der, spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    assert read.tls_key == private.public_key().public_bytes(der, spki)
    assert (tmp_path / "client.key").stat().st_mode & 0o077 == 0


def test_the_signing_key_vouches_for_the_tls_key(request_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.request"
    write_request(other, "a", generate_key(), make_tls_key(tmp_path / "other.key"))
    stolen = json.loads(other.read_text())["tls_request"]
    with pytest.raises(TrustError, match="wrong signature"):
        read_request(changed(request_file, tls_request=stolen))


def test_a_request_for_another_name_is_found_out(request_file: Path) -> None:
    with pytest.raises(TrustError, match="wrong signature"):
        read_request(changed(request_file, site="b"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "something else"}, "not a request of a site"),
        ({"format_version": 2}, "not a request of a site"),
        ({"more": 1}, "not a request of a site"),
        ({"site": 5}, "`site` has 5, expected a plain name"),
        ({"signing_key": "none"}, "not a public key in PEM form"),
        ({"signing_key": 5}, "`signing_key` has int, expected text"),
    ],
)
def test_what_is_no_request(request_file: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_request(changed(request_file, **fields))


def test_a_file_without_json_is_no_request(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="a: not a request of a site: header is no JSON"):
        read_request(tmp_path / "a")


def test_an_answer_is_looked_at_before_it_is_trusted(request_file: Path, tmp_path: Path) -> None:
    path, trusted = answered(tmp_path, request_file)
    assert file_kind(path) == "server's answer" and file_kind(request_file) == "request"
    told = read_unchecked_answer(path)
    assert told["fingerprint"] == trusted and told["site"] == "a"


def test_an_answer_becomes_a_kit(request_file: Path, tmp_path: Path) -> None:
    path, trusted = answered(tmp_path, request_file)
    answer = read_answer(path, trusted, make_tls_key(tmp_path / "client.key"))
    assert "PRIVATE" not in path.read_text()
    install(tmp_path / "site", answer)
    assert (
        installed_name(tmp_path / "site")
        == answer.name
        == certificate_name("a", read_request(request_file).tls_key)
    )
    assert server_address(tmp_path / "site") == ("federation.example.org", 8002)
    set_server(tmp_path / "site", "other.example.org:9")
    assert server_address(tmp_path / "site") == ("other.example.org", 9)
    certificate = x509.load_pem_x509_certificate(answer.certificate)
    assert certificate.subject.rfc4514_string() == f"O=fedmed,CN={answer.name}"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert (expiry(answer.certificate) - certificate.not_valid_before_utc).days == 1096
    with pytest.raises(InputError, match="has no kit to connect with"):
        server_address(tmp_path)


def test_an_answer_by_somebody_else_is_refused(request_file: Path, tmp_path: Path) -> None:
    path, trusted = answered(tmp_path, request_file)
    key = make_tls_key(tmp_path / "client.key")
    with pytest.raises(TrustError, match=r"signed by SHA256:.*, expected SHA256:x"):
        read_answer(path, "SHA256:x", key)
    with pytest.raises(TrustError, match="wrong signature"):
        read_answer(changed(path, host="evil.example.org"), trusted, key)
    path, trusted = answered(tmp_path, request_file)
    with pytest.raises(TrustError, match="certificate is of another site's key"):
        read_answer(path, trusted, make_tls_key(tmp_path / "other.key"))


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    made = make_tls_key(tmp_path / "key")
    again = make_tls_key(tmp_path / "key")
    assert made.private_numbers() == again.private_numbers()
    (tmp_path / "key").write_text("no key")
    with pytest.raises(InputError, match="not a private key in PEM form"):
        make_tls_key(tmp_path / "key")


def test_an_authority_is_taken_up_and_kept_to_itself(tmp_path: Path) -> None:
    made = Authority.create(tmp_path)
    assert Authority.create(tmp_path).certificate == made.certificate
    assert (tmp_path / "rootCA.key").stat().st_mode & 0o077 == 0
    pair = made.issue("server", host="federation.example.org")
    assert names_of(pair.certificate) == ["federation.example.org", "localhost"]
    (tmp_path / "rootCA.key").chmod(0o644)
    with pytest.raises(InputError, match="can be read by others"):
        Authority.create(tmp_path)


# --- identities ------------------------------------------------------------------------------------------


def entry(name: str, site: str = "a") -> Identity:
    return Identity(name, site, "2030-01-01")


def test_a_revoked_certificate_never_comes_back(tmp_path: Path) -> None:
    identities = Identities(tmp_path / "sites")
    identities.check(entry("a-1"))
    identities.add(entry("a-1"))
    identities.check(entry("a-1"))
    with pytest.raises(StoreError, match="has a certificate for another key already"):
        identities.check(entry("a-2"))
    assert identities.revoke("a") == ["a-1"] and identities.of("a") == []
    with pytest.raises(StoreError, match="its TLS key was revoked, expected a new one"):
        identities.check(entry("a-1"))
    identities.check(entry("a-2"))
    identities.add(entry("a-2"))
    assert [one.name for one in identities.of("a")] == ["a-2"]
    assert [one.revoked for one in identities.all()] == [True, False]
    assert Identities(tmp_path / "sites").find("a-1") == Identity("a-1", "a", "2030-01-01", revoked=True)


def test_names_in_certificates_are_ones_that_the_engine_takes() -> None:
    long = certificate_name("x" * 64, b"key")
    assert len(long) <= 64 and certificate_name("st.mary_1", b"key").startswith("st-mary-1-")
    assert certificate_name("a", b"1") != certificate_name("a", b"2")
    # names that differ in what the engine does not take have keys that differ
    assert certificate_name("a.b", b"1")[:-12] == certificate_name("a-b", b"2")[:-12]
