"""`fedmed-edge inspect`: every kind of file is named and shown, and no secret with it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedmed_edge.kinds import content_kind
from fedmed_edge.model.global_model import GlobalModel
from fedmed_edge.model.posterior import Posterior
from fedmed_edge.recipe import read_recipe
from fedmed_edge.signing import fingerprint, read_private_key, read_public_key

EDGE = "fedmed-edge"


def stored_model(f: Any, folder: Path) -> Path:
    even = Posterior(np.eye(2), np.zeros(2), 1.0, np.full(2, 0.5))
    model = GlobalModel(read_recipe(f.recipe), "0" * 64, np.ones((3, 2)), 1e-2, even, sites=("a", "b"))
    (folder / "a.model").write_bytes(model.content)
    return folder / "a.model"


# Kind: the file, words of the lines for people, keys of the document beside `kind`.
KINDS: dict[str, tuple[Callable[[Any, Path], Path], list[str], set[str]]] = {
    "contribution": (
        lambda f, _: f.root / "a.contribution",
        ["contribution, signed by SHA256:", "site a, task tiny"],
        {"id", "header", "tensors", "signer"},
    ),
    "generation": (
        lambda f, _: f.root / "tiny.generation",
        ["generation ", "backbone residual_encoder", "trained by: nobody"],
        {"digest", "draft", "header", "tensors"},
    ),
    "backbone": (
        lambda f, _: f.root / "a.backbone",
        ["backbone residual_encoder, classification, of 20 images"],
        {"header", "tensors"},
    ),
    "model": (stored_model, ["model of the store, not exported", "sites: ('a', 'b')"], {"digest", "sites"}),
    "exported model": (
        lambda f, _: f.root / "tiny.onnx",
        ["exported model (signature not checked here)", "sites: 2", "recipe.name: tiny"],
        {"recipe", "model", "sites", "contributions"},
    ),
    "recipe": (
        lambda f, _: f.recipe,
        ["recipe tiny", "recipe.classes: ['dark', 'bright']", "digest: "],
        {"digest", "recipe"},
    ),
    "settings file": (
        lambda f, _: f.root / "a" / "fedmed.toml",
        ["settings of site a", "policy.min_cohort: 2"],
        {"settings"},
    ),
    "public key": (lambda f, _: f.trust, ["public key SHA256:"], {"fingerprint"}),
    "private key": (
        lambda f, _: f.root / "a" / "site.key",
        ["private key of SHA256:", "must not be sent"],
        {"fingerprint"},
    ),
    "signature": (
        lambda f, _: f.root / "tiny.onnx.sig",
        ["signature by SHA256:", "tiny.onnx"],
        {"signer", "of"},
    ),
    "request": (
        lambda f, _: f.root / "a" / "a.request",
        ["request of site a, SHA256:"],
        {"site", "fingerprint"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_named_and_shown(
    kind: str, world: Any, kit: ModuleType, tmp_path: Path
) -> None:
    choose, words, keys = KINDS[kind]
    path = choose(world, tmp_path)
    document = kit.run(EDGE, "inspect", path, "--json").json
    assert document["kind"] == kind and keys <= set(document)
    out = kit.run(EDGE, "inspect", path).out
    assert out.startswith(f"{path}: ") and not [word for word in words if word not in out], out


def test_what_only_holds_a_public_key_is_none(tmp_path: Path) -> None:
    pem = b"-----BEGIN PUBLIC KEY-----\n"
    assert content_kind(b"\n" + pem) == "public key" and content_kind(b"SQLite format 3\0" + pem) is None
    assert content_kind(b'{"kind": "fedmed site answer v1", "server_key": "' + pem) == "server's answer"


def test_a_private_key_is_named_by_its_fingerprint_alone(world: Any, kit: ModuleType) -> None:
    key = world.root / "a" / "site.key"
    said = [kit.run(EDGE, "inspect", key), kit.run(EDGE, "inspect", key, "--json", "-v")]
    mark = fingerprint(read_public_key(world.root / "a" / "a.pub"))
    assert fingerprint(read_private_key(key).public_key()) == mark and said[1].json["fingerprint"] == mark
    for secret in key.read_text().splitlines()[1:-1]:
        for one in said:
            assert not any(secret[at : at + 12] in one.out + one.err for at in range(0, len(secret) - 12))


def test_settings_of_a_server(world: Any, kit: ModuleType) -> None:
    document = kit.run(EDGE, "inspect", world.server / "fedmed.toml", "--json").json
    assert document["settings"]["store"].endswith("server/store")


def test_a_signature_without_its_file_says_so(world: Any, kit: ModuleType, tmp_path: Path) -> None:
    shutil.copyfile(world.root / "tiny.onnx.sig", tmp_path / "x.onnx.sig")
    assert "x.onnx, which is not beside it" in kit.run(EDGE, "inspect", tmp_path / "x.onnx.sig").out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", "is none of this product's files: a contribution, generation"),
        (b"", "is none of this product's files"),
        (b'{"signer": 7, "signature": ""', "not a signature file, or cut off"),
        (b'{"signer": "\\u001b[31m", "signature": ""}', "not a signature file, or cut off"),
        (b"-----BEGIN PRIVATE KEY-----\nx", "not a private key in PEM form"),
        (b"-----BEGIN PUBLIC KEY-----\nx", "not a public key in PEM form"),
        (b"\x08\x08\x12\x00:2\n\x0b", "not an ONNX file, or cut off"),
        (b'site = "a"\nthreats = 3\n', "unknown key `threats`"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    content: bytes, message: str, kit: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    said = kit.run(EDGE, "inspect", path)
    assert (said.code, said.out) == (1, "") and f"error: {path}: " in said.err and message in said.err
    said = kit.run(EDGE, "inspect", tmp_path / "gone")
    assert said.code == 1 and said.err == f"error: {tmp_path / 'gone'}: no such file\n"


# --- which series a model would answer -------------------------------------------------------------------

VOLUMES = """
name = "t"
kind = "segmentation"
classes = ["a", "b"]
modality = ["MR"]
size = [16, 16, 16]
spacing_mm = [1, 1, 1]
[series]
slices = [3, 100]
"""


@pytest.fixture
def scan(write_series: Any, write_dicom: Any, tmp_path: Path) -> Path:
    """A folder with a stack that lacks a slice, a localizer and a note; beside it a recipe."""
    (tmp_path / "t.toml").write_text(VOLUMES)
    positions = np.array([[0, 0, z] for z in (0.0, 1, 2, 4)])
    folder: Path = write_series(np.zeros((4, 6, 5), np.int16), positions, Modality="MR", PatientName="Smith")
    write_dicom(
        "series/loc.dcm", np.zeros((6, 5), np.int16), Modality="MR", ImageType=["A", "B", "LOCALIZER"]
    )
    (folder / "notes.txt").write_text("a note")
    return folder


def test_every_series_says_rule_by_rule_why_it_is_taken_or_not(
    scan: Path, kit: ModuleType, tmp_path: Path
) -> None:
    said = kit.run(EDGE, "inspect", scan, "--model", tmp_path / "t.toml")
    assert said.code == 0 and "Smith" not in said.out + said.err
    missing = "slices 3 and 4 along the normal are 2.000 mm apart, expected 1.000 mm; 1 missing"
    assert said.out.splitlines() == [
        f"faulty     {scan} (axial 6x5)",
        f"           4 axial slices of 6x5, 1.000 mm apart; {missing}",
        "           keeps  `modality` has MR, expected MR",
        "           keeps  `localizer` has an image, expected an image",
        "           keeps  `place` has a stack of slices, expected a stack of slices",
        "           keeps  `colour` has grey, expected grey",
        "           keeps  `slices` has 4, expected 3 to 100",
        f"not taken  {scan / 'loc.dcm'} (6x5)",
        "           1 image of 6x5",
        "           keeps  `modality` has MR, expected MR",
        "           breaks `localizer` has a localizer, expected an image",
        "           breaks `place` has images without a common place in the patient, "
        "expected a stack of slices",
        "           keeps  `colour` has grey, expected grey",
        "           breaks `slices` has 1, expected 3 to 100",
        f"other      {scan / 'notes.txt'}: not a PNG, JPEG, NIfTI or DICOM file",
    ]
    document = kit.run(EDGE, "inspect", scan, "--model", tmp_path / "t.toml", "--json").json
    first, second = document["series"]
    assert (first["taken"], first["regular"], first["reason"]) == (True, False, missing)
    assert not second["taken"] and {"name", "holds", "found", "expected"} == set(second["rules"][0])


def test_nothing_taken_is_exit_4_and_a_missing_path_1(scan: Path, kit: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(VOLUMES.replace("MR", "CT"))
    assert kit.run(EDGE, "inspect", scan, "--model", tmp_path / "t.toml").code == 4
    (tmp_path / "empty").mkdir()
    assert kit.run(EDGE, "inspect", tmp_path / "empty", "--model", tmp_path / "t.toml").code == 4
    said = kit.run(EDGE, "inspect", scan, tmp_path / "gone", "--model", tmp_path / "t.toml")
    assert (said.code, said.err) == (1, f"error: {tmp_path / 'gone'}: no such file or folder\n")
    assert kit.run(EDGE, "inspect", scan, scan).code == 2
