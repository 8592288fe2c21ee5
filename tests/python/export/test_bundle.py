"""A bundle is read and run by MONAI itself, and answers as `fedmed-edge infer` does."""

import csv
import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Raster

from fedmed_edge import signing
from fedmed_edge.errors import InputError
from fedmed_edge.export.bundle import MODEL_FILE, inference, metadata, write_bundle
from fedmed_edge.export.onnx_model import export_onnx, manifest_of
from fedmed_edge.inference.predict import load_model, predict
from fedmed_edge.recipe import Intensity

pytest.importorskip("monai")


def write(made: SimpleNamespace, folder: Path, kind: str, size: tuple[int, ...], rule: Intensity) -> Path:
    """A signed bundle; its trusted key beside it."""
    generation = made.generation(kind, size)
    model = made.model(generation)
    recipe = model.recipe.model_copy(update={"intensity": rule})
    model = made.model(generation, recipe=recipe)
    key, bundle = signing.generate_key(), folder / "bundle"
    write_bundle(bundle, manifest_of(model, generation))
    signing.write_signed(bundle / MODEL_FILE, export_onnx(model, generation), key)
    signing.write_public_key(folder / "server.pub", key.public_key())
    return bundle


def run(bundle: Path, images: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI and torch
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "inference.json"))
        parser["bundle_root"], parser["dataset_dir"] = str(bundle), str(images)
        parser.get_parsed_content("run")


RULES = [
    Intensity(rule="range", low=20, high=200),
    Intensity(rule="percentile", low=1, high=99),
    Intensity(rule="zscore"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
def test_monai_classifies_as_infer_does(made: SimpleNamespace, tmp_path: Path, rule: Intensity) -> None:
    bundle, images = write(made, tmp_path, "classification", (16, 24), rule), tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        pixels = random.integers(0, 256, (40 + number, 56), np.uint8)
        Raster.fromarray(pixels).save(images / f"{number}.png")
    run(bundle, images)
    model = load_model(bundle / MODEL_FILE, trust=tmp_path / "server.pub", device="cpu")
    rows = list(csv.reader((bundle / "eval" / "probabilities.csv").read_text().splitlines()))
    assert len(rows) == 3
    for name, *shares in rows:
        wanted = list(predict(model, name).probabilities.values())
        np.testing.assert_allclose(np.array(shares, float), wanted, atol=2e-4)


def test_monai_segments_pictures_as_infer_does(made: SimpleNamespace, tmp_path: Path) -> None:
    bundle, images = write(made, tmp_path, "segmentation", (16, 24), RULES[0]), tmp_path / "images"
    images.mkdir()
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8), np.uint8), np.ones((6, 6), np.uint8))
    Raster.fromarray(pixels).save(images / "a.png")
    run(bundle, images)
    model = load_model(bundle / MODEL_FILE, trust=tmp_path / "server.pub", device="cpu")
    (file,) = (bundle / "eval").rglob("*.png")
    got, mask = np.array(Raster.open(file)), predict(model, images / "a.png").mask
    assert mask is not None and len(np.unique(mask)) > 1 and got.shape[:2] == mask.shape
    assert np.mean(got.reshape(*mask.shape, -1)[..., 0] == mask) >= 0.99


def test_monai_segments_volumes_as_infer_does(made: SimpleNamespace, tmp_path: Path) -> None:
    import nibabel

    bundle, images = write(made, tmp_path, "segmentation", (16, 8, 24), RULES[0]), tmp_path / "images"
    images.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (5, 4, 6))
    voxels = np.kron(coarse, np.ones((4, 4, 5))).astype(np.int16)
    affine = np.diag([-1.5, 1.0, 0.8, 1.0])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), images / "a.nii.gz")
    run(bundle, images)
    model = load_model(bundle / MODEL_FILE, trust=tmp_path / "server.pub", device="cpu")
    (file,) = (bundle / "eval").rglob("*.nii.gz")
    answer, mask = nibabel.load(file), predict(model, images / "a.nii.gz").mask
    assert mask is not None and len(np.unique(mask)) > 1
    np.testing.assert_allclose(answer.affine, affine, atol=1e-5)
    assert np.mean(np.asarray(answer.dataobj).reshape(mask.shape) == mask) >= 0.97


def test_the_metadata_fits_the_schema(made: SimpleNamespace, tmp_path: Path) -> None:
    """With MONAI's own check where its schema, which it would download, is named in MONAI_META_SCHEMA."""
    bundle = write(made, tmp_path, "segmentation", (16, 24), RULES[0])
    values: dict[str, Any] = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert values["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 24]
    assert values["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "c0",
        "1": "c1",
        "2": "c2",
    }
    assert values["task"] == "segmentation of c0, c1, c2" and "2 site(s)" in values["authors"]
    assert "alpha" not in json.dumps(values)
    assert (bundle / "docs" / "README.md").read_text().startswith("# r\n")
    schema = os.environ.get("MONAI_META_SCHEMA")
    if schema:
        from monai.bundle import verify_metadata

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it wants the schema's hash
            verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=schema)


def test_volumes_are_not_classified_by_a_bundle(made: SimpleNamespace, tmp_path: Path) -> None:
    generation = made.generation("classification", (16, 8, 24))
    with pytest.raises(InputError, match="bundle: volumes are classified window by window"):
        write_bundle(tmp_path, manifest_of(made.model(generation), generation))
    assert not list(tmp_path.iterdir())


def test_a_bundle_calls_nobody() -> None:
    from fedmed_edge.recipe import Recipe

    recipe = Recipe(name="r", kind="classification", classes=("a", "b"))
    assert "ORT_DISABLE_TELEMETRY" in inference(recipe)["imports"][0]
    assert metadata.__doc__
