"""Recipes that nobody could use are refused when they are read."""

import re
from pathlib import Path
from typing import Any

import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.recipe import TRAINING, Recipe, parse_settings, read_recipe, read_toml, write_recipe

PLAIN = 'name = "r"\nkind = "classification"\nclasses = ["a", "b"]\n'


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            '[intensity]\nrule = "range"\nlow = 5\nhigh = 5',
            "`intensity.low` has 5.0, expected less than high, 5.0",
        ),
        ('[intensity]\nrule = "range"\nlow = nan\nhigh = 5', "`intensity.low`"),
        ('[intensity]\nrule = "percentile"\nlow = -1\nhigh = 99', "expected 0 to 100"),
        ("size = [1024, 1024, 1024]\nspacing_mm = [1, 1, 1]", "`size` has 1073741824 elements"),
        ("pixel_strde = 2", "unknown key `pixel_strde`"),
        ("pixel_stride = 2.5", "`pixel_stride` has 2.5, expected a whole number"),
        ('priors = ["even"]', "`priors` has ['even'], expected uniform, counted or dice"),
        ('priors = "dice"', "`priors` has dice, expected uniform or counted for a classification"),
        ('spacing_mm = [1, "\\u001b[2J", 1]', r"`spacing_mm.1` has '\x1b[2J', expected a number"),
        ('modality = "CT"', "`modality` has CT, expected a list"),
        ("intensity = 1", "`intensity` has 1, expected a table"),
        ('[codes]\na = { value = "", meaning = "a" }', "`codes.a.value` has '', expected 1 to 16 letters"),
        ("[lift]\nlift_dim = 2000", "`lift.lift_dim` has 2000, expected at most 1024"),
        (f'[series]\ndescription = "{"x" * 300}"', f"has {'x' * 63}…, expected at most 200 characters"),
    ],
)
def test_a_recipe_that_nobody_could_use_is_refused(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(PLAIN + table)
    with pytest.raises(InputError) as failure:
        read_recipe(path)
    assert message in str(failure.value)
    assert str(path) in str(failure.value)


def test_a_value_that_is_nearly_one_names_it(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(PLAIN + '[intensity]\nrule = "rnage"\n')
    with pytest.raises(InputError) as failure:
        read_recipe(path)
    assert str(failure.value) == f"{path}: `intensity.rule` has rnage, expected range, percentile or zscore"
    assert failure.value.hint == "did you mean `range`?"


def test_a_control_character_in_a_class_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(PLAIN.replace('"b"', '"b\\u001b[2J"'))
    with pytest.raises(InputError, match="classes: a name has a control character"):
        read_recipe(path)


@pytest.mark.parametrize(
    "content",
    ["a=" + "[" * 9000, ".".join(["a"] * 9000) + "=1", "a = " + "9" * 9000, "a = 1\na = 2", "\x00"],
    ids=["nested", "dotted", "long number", "twice", "no text"],
)
def test_hostile_toml_is_one_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"r\.toml: not a readable TOML file"):
        read_toml(path)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"#" * (1 << 17))
    with pytest.raises(InputError, match="has 131072 bytes, expected at most 65536"):
        read_toml(path)


def test_codes_are_of_classes_and_no_codes_change_no_digest() -> None:
    plain = Recipe(name="a", kind="classification", classes=("liver", "spleen"))
    code = {"value": "10200004", "meaning": "Liver", "category": "anatomy", "colour": "#e69f00"}
    coded = Recipe(name="a", kind="classification", classes=("liver", "spleen"), codes={"liver": code})
    assert "codes" not in plain.model_dump() and plain.digest != coded.digest
    assert Recipe.model_validate(coded.model_dump(mode="json")) == coded
    for wrong, message in (
        ({"kidney": code}, "`codes` has kidney, expected one of liver, spleen"),
        ({"liver": {**code, "colour": "red"}}, "codes.liver.colour"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            parse_settings(Recipe, {**plain.model_dump(), "codes": wrong}, "a.toml")


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_training_as_by_default_changes_no_digest_and_any_other_does(tmp_path: Path, kind: Any) -> None:
    plain = Recipe(name="a", kind=kind, classes=("liver", "spleen"))
    stated = Recipe(name="a", kind=kind, classes=("liver", "spleen"), training=TRAINING[kind])
    assert plain.training == TRAINING[kind] and "training" not in plain.model_dump()
    assert stated == plain and stated.digest == plain.digest
    for name, value in (("maps", 0.25), ("episodic", True), ("proximal", 0.1), ("local_norms", True)):
        # What is left out is as by default, also where a part is stated.
        other = Recipe.model_validate({**plain.model_dump(), "training": {name: value}})
        assert other.training == TRAINING[kind].model_copy(update={name: value})
        assert other.digest != plain.digest
        write_recipe(tmp_path / "r.toml", other)
        assert read_recipe(tmp_path / "r.toml") == other
    path = tmp_path / "r.toml"
    for line, message in (
        ("maps = 1.5", "`training.maps`"),
        ("consistency = -1", "`training.consistency`"),
        ("mapps = 1", "unknown key `training.mapps`"),
    ):
        path.write_text(f"{PLAIN}[training]\n{line}\n")
        with pytest.raises(InputError, match=re.escape(message)):
            read_recipe(path)
