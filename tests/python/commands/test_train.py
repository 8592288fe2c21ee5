"""`fedmed-edge train`, a training by hand."""

from types import ModuleType
from typing import Any

from fedmed_edge.local_training import NORMS


def test_a_training_by_hand_is_no_round(copied: Any) -> None:
    recipe, norms = copied.root / "a" / "recipe.toml", copied.root / "a" / NORMS
    recipe.write_text(recipe.read_text().replace("[training]", "[training]\nlocal_norms = true"))
    norms.write_bytes(b"of a round that the server asked")
    made = [copied.root / "first.backbone", copied.root / "second.backbone"]
    given = ("--generation", copied.generation, "--epochs", 0.1, "--device", "cpu", "--seed", 3)
    for path in made:
        copied.site("a", "train", *given, "--out", path)
    assert norms.read_bytes() == b"of a round that the server asked"
    assert made[0].read_bytes() == made[1].read_bytes()


def test_a_file_of_another_kind_is_told_before_its_signature_is_looked_for(
    copied: Any, kit: ModuleType
) -> None:
    given = ("--generation", copied.root / "a.contribution", "--out", copied.root / "x.backbone")
    said = kit.run("fedmed-edge", "train", "-C", copied.root / "a", *given)
    assert said.code == 1 and "a.contribution: is a contribution, expected a generation" in said.err
