"""A tiny task of three sites on disk: squares brighter or darker than their ground, whose level differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from fedmed_edge.images.dataset import Task
from fedmed_edge.recipe import Backbone, Intensity, Lift, Recipe

SITES = ("alpha", "beta", "gamma")


def _write_site(folder: Path, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = ["image,label,mask,patient,split"]
    (folder / "images").mkdir(parents=True)
    for index in range(14):
        pixels = random.normal(90 + 20 * seed, 12, (32, 32))
        mask = np.zeros((32, 32), np.uint8)
        top, left = random.integers(2, 14, 2)
        mask[top : top + 14, left : left + 14] = 1
        bright = index % 2 == 0 or kind == "segmentation"
        pixels[mask == 1] += 70 if bright else -60
        Picture.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"images/{index}.png")
        Picture.fromarray(mask).save(folder / f"images/{index}-mask.png")
        label, shown = (
            ("", f"images/{index}-mask.png") if kind == "segmentation" else (("dark", "light")[bright], "")
        )
        rows.append(f"images/{index}.png,{label},{shown},p{index},{'test' if index >= 10 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows))


def _write_task(folder: Path, kind: Any) -> Task:
    segmented = kind == "segmentation"
    recipe = Recipe(
        name=kind,
        kind=kind,
        classes=("background", "square") if segmented else ("dark", "light"),
        size=(32, 32),
        intensity=Intensity(rule="range", low=0, high=255),
        backbone=Backbone(network="unet" if segmented else "residual_encoder", widths=(8, 16)),
        lift=Lift(lift_dim=24, feature_dim=32),
    )
    for number, site in enumerate(SITES):
        _write_site(folder / site, kind, number)
    return Task(kind, folder, recipe, {site: folder / site for site in SITES}, {})


@pytest.fixture(scope="session")
def write_task() -> Callable[[Path, str], Task]:
    """Write the task of a kind into a folder: 10 training and 4 test images a site, one patient each."""
    return _write_task
