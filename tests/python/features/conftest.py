"""Tiny tasks on disk, and generations made of untrained networks."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Raster

from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset, read_dataset
from fedmed_edge.recipe import Backbone, Intensity, Lift, Recipe


def recipe(kind: Any = "classification", size: tuple[int, ...] = (32, 32), **fields: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny",
        "kind": kind,
        "classes": ("dark", "bright"),
        "size": size,
        "intensity": Intensity(rule="range", low=0, high=255),
        "backbone": Backbone(
            network="residual_encoder" if kind == "classification" else "unet", widths=(8, 12)
        ),
        "lift": Lift(lift_dim=24, feature_dim=64),
        "spacing_mm": (1.0, 1.0, 1.0) if len(size) == 3 else None,
    }
    return Recipe(**(values | fields))


def classification(folder: Path, recipe: Recipe, images: int = 24, labelled: int | None = None) -> Dataset:
    """Bright and dark images of noise, one patient each; those after `labelled` have no label."""
    folder.mkdir(parents=True, exist_ok=True)
    random, lines = np.random.default_rng(len(folder.name)), ["image,label,mask,patient,split"]
    for index in range(images):
        level = 60 + 110 * (index % 2)
        pixels = np.clip(random.normal(level, 25, (40, 36)), 0, 255).astype(np.uint8)
        Raster.fromarray(pixels).save(folder / f"{index}.png")
        label = recipe.classes[index % 2] if labelled is None or index < labelled else ""
        lines.append(f"{index}.png,{label},,p{index},train")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_dataset(folder, recipe)


def segmentation(folder: Path, recipe: Recipe, images: int = 6, masked: int | None = None) -> Dataset:
    """A bright square on a dark ground in every image; those after `masked` have no mask."""
    folder.mkdir(parents=True, exist_ok=True)
    random, lines = np.random.default_rng(3), ["image,label,mask,patient,split"]
    for index in range(images):
        mask = np.zeros((40, 44), np.uint8)
        top, left = random.integers(4, 20, 2)
        mask[top : top + 14, left : left + 14] = 1
        pixels = np.clip(60 + 110 * mask + random.normal(0, 15, mask.shape), 0, 255).astype(np.uint8)
        Raster.fromarray(pixels).save(folder / f"{index}.png")
        Raster.fromarray(mask).save(folder / f"{index}_mask.png")
        with_mask = f"{index}_mask.png" if masked is None or index < masked else ""
        lines.append(f"{index}.png,,{with_mask},p{index},train")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_dataset(folder, recipe)


def volumes(folder: Path, recipe: Recipe, shapes: Sequence[tuple[int, int, int]]) -> Dataset:
    """A bright box in every volume, as NIfTI with 1 mm voxels."""
    import nibabel

    folder.mkdir(parents=True, exist_ok=True)
    random, lines = np.random.default_rng(4), ["image,label,mask,patient,split"]
    for index, shape in enumerate(shapes):
        mask = np.zeros(shape, np.uint8)
        mask[tuple(slice(side // 4, side // 2) for side in shape)] = 1
        pixels = (60 + 110 * mask + random.normal(0, 10, shape)).astype(np.float32)
        label = "" if recipe.kind == "segmentation" else recipe.classes[index % 2]
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), folder / f"{index}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / f"{index}_mask.nii.gz")
        lines.append(f"{index}.nii.gz,{label},{index}_mask.nii.gz,p{index},train")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return read_dataset(folder, recipe)


def draft_of(recipe: Recipe, seed: int = 0) -> Generation:
    from fedmed_edge.features.backbones import build_backbone, state_of
    from fedmed_edge.features.publish import draft_generation

    backbone = build_backbone(
        recipe.backbone, kind=recipe.kind, channels=recipe.channels, size=recipe.size, seed=seed
    )
    return draft_generation(recipe, state_of(backbone), trained_by=("b", "a"), seed=seed)


def completed(recipe: Recipe, dataset: Dataset) -> Generation:
    from fedmed_edge.features.extract import extract
    from fedmed_edge.features.publish import complete_generation

    draft = draft_of(recipe)
    return complete_generation(draft, recipe, {"a": extract(draft, dataset, min_cohort=1)})


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers of this file."""
    return SimpleNamespace(
        recipe=recipe,
        classification=classification,
        segmentation=segmentation,
        volumes=volumes,
        draft=draft_of,
        completed=completed,
    )


@pytest.fixture(scope="session")
def pixels_task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Dataset, Generation]:
    """A segmentation: recipe, data set, completed generation."""
    made = recipe("segmentation")
    dataset = segmentation(tmp_path_factory.mktemp("pixels"), made)
    return made, dataset, completed(made, dataset)


@pytest.fixture(scope="session")
def images_task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Dataset, Generation]:
    """A classification: recipe, data set, completed generation."""
    made = recipe()
    dataset = classification(tmp_path_factory.mktemp("images"), made)
    return made, dataset, completed(made, dataset)
