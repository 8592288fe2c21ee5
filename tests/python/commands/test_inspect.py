"""`fedmed-edge inspect`: every kind of file is named and shown, and no secret with it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fedmed_edge.model.global_model import GlobalModel, write_model
from fedmed_edge.model.posterior import Posterior
from fedmed_edge.recipe import read_recipe
from fedmed_edge.signing import fingerprint, read_private_key, read_public_key

EDGE = "fedmed-edge"


def stored_model(f: Any, folder: Path) -> Path:
    even = Posterior(np.eye(2), np.zeros(2), 1.0, np.full(2, 0.5))
    model = GlobalModel(read_recipe(f.recipe), "0" * 64, np.ones((3, 2)), 1e-2, even, sites=("a", "b"))
    write_model(folder / "a.model", model)
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
        (b"\x08\x08\x12\x00:2\n\x0b", "not a model that can be loaded"),
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
