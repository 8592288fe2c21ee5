"""The example recipes are recipes, and are what the defaults would be."""

from pathlib import Path

import pytest

from fedmed_edge.images.dataset import default_recipe
from fedmed_edge.recipe import read_recipe

MODELS = Path(__file__).parents[3] / "models"


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.toml")), ids=lambda path: path.stem)
def test_an_example_is_what_the_defaults_are(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe == default_recipe(
        recipe.name, recipe.kind, recipe.classes, recipe.modality, recipe.channels, recipe.dimensions
    )


def test_the_readme_names_every_example() -> None:
    text = (MODELS / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in MODELS.glob("*.toml")}
    assert len(names) == 3 and all(f"`{name}`" in text for name in names)
