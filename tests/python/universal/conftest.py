"""A pool of drawn shapes, a small encoder, and local models that never saw the pool."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Raster

from fedmed_edge.features.backbones import backbone_of, state_of
from fedmed_edge.recipe import Backbone, Intensity, Recipe
from fedmed_edge.universal.local_models import LocalModel
from fedmed_edge.universal.pool import Pool, pool_recipe, read_pool

RECIPE = Recipe(
    name="shapes",
    kind="classification",
    classes=("disc", "bar"),
    size=(32, 32),
    intensity=Intensity(rule="range", low=0, high=255),
    backbone=Backbone(widths=(8, 12)),
)


def draw(folder: Path, images: int, *, seed: int = 0, colour: bool = False) -> Path:
    """Discs, bars and waves of any place and brightness."""
    folder.mkdir(parents=True, exist_ok=True)
    random, (rows, columns) = np.random.default_rng(seed), np.mgrid[:40, :44]
    for index in range(images):
        place, tilt, level = random.uniform(10, 30, 2), random.uniform(-0.6, 0.6, 2), random.uniform(60, 120)
        disc = (rows - place[0]) ** 2 + (columns - place[1]) ** 2 < random.uniform(30, 150)
        pixels = level + 40 * np.sin(tilt[0] * rows + tilt[1] * columns) + 90 * disc
        pixels = np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        shown = np.stack([pixels, pixels // 2, 255 - pixels], axis=2) if colour else pixels
        Raster.fromarray(shown).save(folder / f"{index}.png")
    return folder


def local_model(site: str, seed: int, recipe: Recipe = RECIPE, task: str = "shapes") -> LocalModel:
    """Random weights: as good a teacher as any for whether its features are learned."""
    weights = state_of(backbone_of(recipe, seed=seed))
    return LocalModel(site, task, f"{seed:064x}", "0" * 64, weights, images=10)


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The makers of this file."""
    return SimpleNamespace(recipe=RECIPE, draw=draw, local_model=local_model)


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """48 grey images."""
    return read_pool(draw(tmp_path_factory.mktemp("pool"), 48), pool_recipe([RECIPE]))
