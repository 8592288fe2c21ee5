"""Recipes, settings, start-up kits, keys and exported models made by somebody who means harm."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kits import load

from fedmed_edge.commands.contents import tell
from fedmed_edge.config import ServerConfig, SiteConfig, read_config
from fedmed_edge.errors import InputError, TrustError
from fedmed_edge.federation.engine.enrolment import make_tls_key, read_answer, read_request
from fedmed_edge.inference.predict import load_models
from fedmed_edge.protobuf import field
from fedmed_edge.recipe import read_recipe
from fedmed_edge.signing import read_private_key, read_public_key
from fedmed_edge.store.encryption import read_store_key

Refused = Callable[..., None]
FORMATS = Path(__file__).parents[1] / "formats"

# --- TOML --------------------------------------------------------------------------------------------------

GOOD = 'name = "lesion"\nkind = "classification"\nclasses = ["benign", "malignant"]\n'
TOMLS: dict[str, tuple[bytes, str]] = {
    "megabytes": (b"#" * (1 << 20), "has 1048576 bytes, expected at most 65536"),
    "lists in lists": (b"a = " + b"[" * 60_000, "not a readable TOML file: a line is nested too deeply"),
    "lists in lists, line by line": (b"a = " + b"[\n" * 30_000, "not a readable TOML file"),
    "tables in tables": (
        b"a = " + b"{a = " * 10_000,
        "not a readable TOML file: a line is nested too deeply",
    ),
    "a key of many dots": (
        b"a." * 30_000 + b"b = 1",
        "not a readable TOML file: a line is nested too deeply",
    ),
    "a title of many dots": (b"[" + b"a." * 30_000 + b"b]", "a line is nested too deeply"),
    "a long number": (b"a = " + b"9" * 60_000, "not a readable TOML file"),
    "a long exponent": (GOOD.encode() + b"size = [1e400, 4]", "`size"),
    "NaN": (GOOD.encode() + b"size = [nan, nan]", "`size"),
    "giant sides": (GOOD.encode() + b"size = [1073741824, 1073741824]", "size"),
    "a class that is a path": (GOOD.replace('"lesion"', '"../../lesion"').encode(), "`name`"),
    "what a terminal acts on": (GOOD.encode() + b'"\\u001b[2J" = 3', r"unknown key `\?\[2J`"),
    "a key twice": (GOOD.encode() + GOOD.encode(), "not a readable TOML file: Cannot overwrite"),
    "no text": (b"\xff\xfe\x00", "not a readable TOML file"),
    "zeros": (bytes(1000), "not a readable TOML file"),
}


@pytest.mark.parametrize("read", [read_recipe, lambda path: read_config(SiteConfig, path, environment={})])
@pytest.mark.parametrize("case", TOMLS)
def test_toml(tmp_path: Path, refused: Refused, read: Callable[[Path], object], case: str) -> None:
    content, message = TOMLS[case]
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    if read is not read_recipe and content.startswith(GOOD.encode()[:10]):
        message = "unknown key|not a readable TOML file"
    refused(read, path, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data = 3", "`data`"),
        ('listen = "x"', "`listen`"),
        ("listen = [1]", "`listen`"),
        ("[listen]\ndicomweb = 7", "`listen.dicomweb`"),
        ("policy = 3", "`policy`"),
        ('server_key = ["a"]', "`server_key`"),
    ],
)
def test_a_setting_of_another_type(tmp_path: Path, refused: Refused, content: str, message: str) -> None:
    path = tmp_path / "fedmed.toml"
    path.write_text(f'site = "a"\n{content}\n')
    environment = {"FEDMED_LISTEN_AET": "NODE", "FEDMED_POLICY_MIN_COHORT": "3"}
    for given in ({}, environment):
        refused(lambda file, given=given: read_config(SiteConfig, file, environment=given), path, message)
    path.write_text("store = 3\nindex = []\n")
    refused(lambda file: read_config(ServerConfig, file, environment={}), path, "`store`")


# --- start-up kits -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A request, its answer and the fingerprint that it is trusted by."""
    folder = tmp_path_factory.mktemp("kit")
    load("attacks/enrolling.py").enrol(folder)
    return folder


def answered(kit: Path) -> Callable[[Path], object]:
    return lambda path: read_answer(path, (kit / "trusted").read_text(), make_tls_key(kit / "tls.key"))


BOTH: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a site that is a path": (
        lambda said: said.update(site="../../etc"),
        "`site` has '../../etc', expected a plain",
    ),
    "a site of two lines": (
        lambda said: said.update(site="a\nb"),
        r"`site` has 'a\\nb', expected a plain name",
    ),
    "a site that is a list": (
        lambda said: said.update(site=["a"]),
        r"`site` has \['a'\], expected a plain name",
    ),
    "a long site": (lambda said: said.update(site="a" * 300), "`site` has 'aaa"),
    "a key more": (lambda said: said.update(extra=1), "not a "),
    "a key less": (lambda said: said.pop("signature"), "not a "),
    "no signature": (lambda said: said.update(signature="!"), "`signature` is none"),
    "another signature": (lambda said: said.update(signature="A" * 86 + "=="), "wrong signature"),
    "another version": (lambda said: said.update(format_version=2), "not a "),
}
OF_ANSWERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a host with a command": (
        lambda said: said.update(host="a;rm -rf /"),
        "`host` has 'a;rm -rf /', expected",
    ),
    "a name that is a path": (
        lambda said: said.update(name="../x"),
        r"`name` has '../x', expected a plain name",
    ),
    "no port": (lambda said: said.update(port=0), "`port` has 0, expected 1 to 65535"),
    "a giant port": (lambda said: said.update(port=10**30), "`port` has 1000.* expected 1 to 65535"),
    "a port that is true": (lambda said: said.update(port=True), "`port` has True, expected 1 to 65535"),
    "another server's key": (
        lambda said: said.update(server_key=(FORMATS / "contribution_1.pub").read_text()),
        "signed by SHA256:.*, expected SHA256:",
    ),
    "another certificate": (lambda said: said.update(certificate="none"), "wrong signature"),
}


@pytest.mark.parametrize("case", [*BOTH, *OF_ANSWERS])
def test_the_answer_of_a_server(kit: Path, tmp_path: Path, refused: Refused, case: str) -> None:
    change, message = (BOTH | OF_ANSWERS)[case]
    said = json.loads((kit / "a.signed").read_text())
    change(said)
    (tmp_path / "a.signed").write_text(json.dumps(said))
    refused(answered(kit), tmp_path / "a.signed", message)


@pytest.mark.parametrize("case", BOTH)
def test_the_request_of_a_site(kit: Path, tmp_path: Path, refused: Refused, case: str) -> None:
    change, message = BOTH[case]
    said = json.loads((kit / "a.request").read_text())
    change(said)
    (tmp_path / "a.request").write_text(json.dumps(said))
    refused(read_request, tmp_path / "a.request", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{" * 60_000, "header is no JSON, or nested too deep"),
        (b"[" * 60_000, "header is no JSON, or nested too deep"),
        (b'{"site": "a", "site": "b"}', "has the key `site` twice"),
        (b'{"a": ' + b"9" * 60_000 + b"}", "header is no JSON"),
        (b" " * (1 << 20), "has 1048576 bytes, expected at most 65536"),
        (b"PK\x03\x04" + bytes(1000), "header is no JSON"),
    ],
)
def test_a_kit_that_is_none(
    kit: Path, tmp_path: Path, refused: Refused, content: bytes, message: str
) -> None:
    (tmp_path / "a").write_bytes(content)
    refused(answered(kit), tmp_path / "a", message)
    refused(read_request, tmp_path / "a", message)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 10_000, b"\xff" * 100])
def test_a_key_that_is_none(tmp_path: Path, refused: Refused, content: bytes) -> None:
    path = tmp_path / "a.key"
    path.write_bytes(content)
    path.chmod(0o600)
    refused(read_private_key, path, "not a private key in PEM form")
    refused(read_public_key, path, "not a public key in PEM form|is a private key, expected a public one")
    with pytest.raises(InputError, match=r"^`store_key`: .*(not a store key|bytes, expected at most)"):
        read_store_key(path)


# --- exported models ---------------------------------------------------------------------------------------


START = b"\x08\x0a" + field(2, b"some program")


def changed_models() -> dict[str, tuple[bytes, str]]:
    content = (FORMATS / "exported_model_1.onnx").read_bytes()
    varint = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"
    deep = b""
    for _ in range(2000):
        deep = field(7, deep)
    return {
        "cut off": (content[:-1], "not an ONNX file, or cut off"),
        "an element of exabytes": (content + b"\x3a" + varint, "not an ONNX file, or cut off"),
        "a number without an end": (content + b"\x08" + b"\xff" * 5000, "not an ONNX file, or cut off"),
        "no manifest": (START, "has no manifest, expected a model made by"),
        "messages in messages": (START + deep, "has no manifest, expected a model made by"),
        "a manifest that is none": (
            START + field(14, field(1, b"fedmed") + field(2, b"{" * 100_000)),
            "manifest|nested too deep|no JSON",
        ),
        "a text that is none": (
            START + field(14, field(1, b"fedmed") + field(2, b"\xff")),
            "not an ONNX file",
        ),
        "a group of another age": (START + b"\x0b\x0c", "not an ONNX file, or cut off"),
    }


@pytest.mark.parametrize("case", changed_models())
def test_a_model_that_nobody_signed(tmp_path: Path, refused: Refused, case: str) -> None:
    content, message = changed_models()[case]
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    refused(tell, path, message)  # as `inspect` does, which asks for no signature
    shutil.copyfile(FORMATS / "exported_model_1.onnx.sig", tmp_path / "a.onnx.sig")
    trust = FORMATS / "exported_model_1.pub"
    refused(lambda file: load_models(file, trust=trust), path, "wrong signature: changed after it was signed")


def test_a_model_without_a_signature_or_of_another_signer_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    shutil.copyfile(FORMATS / "exported_model_1.onnx", path)
    with pytest.raises(TrustError, match=r"a\.onnx\.sig: no such file"):
        load_models(path, trust=FORMATS / "exported_model_1.pub")
    for content in (b"{}", b"[" * 4000, b'{"format_version": 1, "signer": "x", "signature": "!"}'):
        (tmp_path / "a.onnx.sig").write_bytes(content)
        with pytest.raises(TrustError, match=r"not a signature file, or cut off|signed by"):
            load_models(path, trust=FORMATS / "exported_model_1.pub")


def test_a_model_that_claims_to_be_larger_than_is_taken(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.write(START)
        file.truncate(1 << 34)
    refused(tell, path, "has 17179869184 bytes, expected at most")
