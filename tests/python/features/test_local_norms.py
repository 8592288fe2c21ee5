"""Norm layers that stay at their site."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedmed_edge.features.backbones import build_backbone, set_state, state_of  # noqa: E402
from fedmed_edge.features.local_norms import keep_norms, kept_norms, norm_names  # noqa: E402
from fedmed_edge.recipe import Recipe  # noqa: E402


def backbone_of(recipe: Recipe, seed: int = 0) -> Any:
    return build_backbone(recipe.backbone, kind=recipe.kind, channels=1, size=recipe.size, seed=seed)


def test_norm_layers_are_kept_and_nothing_else(tmp_path: Path) -> None:
    recipe = Recipe(name="r", kind="classification", classes=("a", "b"), size=(32, 32))
    path, backbone = tmp_path / "norms.backbone", backbone_of(recipe)
    assert kept_norms(path, backbone, "a") == {}
    own = {name: np.full_like(value, 3) for name, value in state_of(backbone).items()}
    set_state(backbone, own)
    keep_norms(path, backbone, recipe, "a")
    names = norm_names(backbone)
    kept = kept_norms(path, backbone_of(recipe, seed=1), "a")
    assert set(kept) == names and 0 < len(names) < len(own)
    assert all((value == 3).all() for value in kept.values())


def test_norm_layers_of_another_backbone_are_not_taken(tmp_path: Path) -> None:
    recipe = Recipe(name="r", kind="classification", classes=("a", "b"), size=(32, 32))
    path = tmp_path / "norms.backbone"
    keep_norms(path, backbone_of(recipe), recipe, "a")
    assert kept_norms(path, backbone_of(recipe), "a") and not kept_norms(path, backbone_of(recipe), "b")
    wide = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"widths": (8, 16)})})
    assert kept_norms(path, backbone_of(wide), "a") == {}
