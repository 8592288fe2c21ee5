"""What a file is, by its first bytes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from safetensors.numpy import save

from fedmed_edge.errors import InputError
from fedmed_edge.features.weights import read_backbone
from fedmed_edge.generation import read_generation
from fedmed_edge.inference.survey import recipes_of
from fedmed_edge.kinds import FileKind, file_kind
from fedmed_edge.model.global_model import read_model
from fedmed_edge.recipe import read_recipe
from fedmed_edge.signing import (
    generate_key,
    read_private_key,
    read_public_key,
    write_key,
    write_public_key,
    write_signed,
)
from fedmed_edge.statistics.contribution import read_contribution

SAFETENSORS = ("contribution", "generation", "backbone", "model")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file of every kind that can be told without a federation."""
    key, found = generate_key(), {}
    for kind in SAFETENSORS:
        found[kind] = tmp_path / kind
        metadata = {f"fedmed_{kind}": "{}" + " " * (100_000 if kind == "model" else 0)}
        found[kind].write_bytes(save({"w": np.zeros(3)}, metadata=metadata))
    for kind, text in {
        "recipe": 'name = "a"\nkind = "classification"\nclasses = ["a", "b"]\n',
        "settings file": 'site = "alpha"\n',
        "exported model": "\x08\x08\x12\x00:" + "\0" * 40,
        "request": '{"kind": "fedmed site request v1"}',
        "server's answer": '{"kind": "fedmed site answer v1"}',
    }.items():
        found[kind] = tmp_path / kind
        found[kind].write_text(text)
    found |= {"public key": tmp_path / "a.pub", "private key": tmp_path / "a.key"}
    write_public_key(found["public key"], key.public_key())
    write_key(found["private key"], key)
    found["signature"] = write_signed(found["exported model"], found["exported model"].read_bytes(), key)
    return found


@pytest.mark.parametrize("kind", get_args(FileKind))
def test_every_kind_is_told(kind: str, files: dict[str, Path]) -> None:
    assert file_kind(files[kind]) == kind


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02",
        b"a = 1\n",
        b"[" * 5000,
        b"\xff\xfe\x00",
        b"{}",
        b"\x89PNG\r\n\x1a\n",
        b"\x10" + bytes(40),
    ],
)
def test_other_files_are_none_of_ours(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert file_kind(path) is None


def test_tensors_of_others_are_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for metadata in (None, {"format": "pt"}, {"fedmed_other": "{}"}):
        path.write_bytes(save({"fedmed_model": np.zeros(3)}, metadata=metadata))
        assert file_kind(path) is None


def test_what_cannot_be_read_is_none_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert file_kind(tmp_path / "pipe") is file_kind(tmp_path / "gone") is file_kind(tmp_path) is None


READERS: dict[str, Callable[[Path], object]] = {
    "generation": read_generation,
    "backbone": read_backbone,
    "model": read_model,
    "contribution": read_contribution,
    "exported model": recipes_of,
    "public key": read_public_key,
    "private key": read_private_key,
    "recipe": read_recipe,
}


@pytest.mark.parametrize("wanted", READERS)
@pytest.mark.parametrize("given", ["contribution", "generation", "exported model", "public key"])
def test_a_reader_says_what_a_file_of_another_kind_is(
    given: str, wanted: str, files: dict[str, Path]
) -> None:
    if given == wanted:
        return
    article = {True: "an", False: "a"}
    expected = "TOML file" if wanted == "recipe" else wanted
    said = f"is {article[given[0] == 'e']} {given}, expected {article[expected[0] == 'e']} {expected}"
    with pytest.raises(InputError) as refusal:
        READERS[wanted](files[given])
    assert str(refusal.value) == f"{files[given]}: {said}"


def test_a_large_file_of_another_kind_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "lesion.onnx"
    path.write_bytes(b"\x08\x08\x12\x00:" + bytes(1 << 17))
    for read in (read_recipe, read_public_key):
        with pytest.raises(InputError, match=r"lesion.onnx: has 131077 bytes, expected at most") as refusal:
            read(path)
        assert refusal.value.hint == "it is an exported model"
