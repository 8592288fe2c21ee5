"""Rules that choose a series, and the ranking of those that fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.images.grouping import group_files
from fedmed_edge.images.selection import judge
from fedmed_edge.recipe import Recipe, SeriesRules, parse_settings

CORONAL = [1, 0, 0, 0, 0, -1]


def recipe(dimensions: int = 3, modality: tuple[str, ...] = ("CT",), **rules: Any) -> Recipe:
    volume = {"size": (16, 16, 16), "spacing_mm": (1, 1, 1)} if dimensions == 3 else {}
    values = {
        "name": "t",
        "kind": "segmentation",
        "classes": ["a", "b"],
        "modality": modality,
        "series": rules,
    }
    return parse_settings(Recipe, values | volume, "here")


@pytest.fixture
def study(write_dicom: Any, tmp_path: Path) -> Any:
    """Write series of one study; a verdict of each, by its SeriesDescription."""

    def write(name: str, heights: list[float], axis: int = 2, **elements: Any) -> None:
        for number, height in enumerate(heights):
            place = [0.0, 0.0, 0.0]
            place[axis] = height
            usual = {
                "PixelSpacing": [1, 1],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "ImagePositionPatient": place,
                "SeriesInstanceUID": f"1.{sum(name.encode())}",
                "SeriesDescription": name,
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
                "SliceThickness": 1,
            }
            write_dicom(f"study/{name}{number}.dcm", np.zeros((4, 5), np.int16), **(usual | elements))

    def verdicts(asked: Recipe, **how: Any) -> dict[str, Any]:
        (found,) = group_files(sorted((tmp_path / "study").iterdir())).studies
        return {verdict.series.description: verdict for verdict in judge(found.series, asked, **how)}

    write.verdicts = verdicts  # type: ignore[attr-defined]
    return write


@pytest.mark.parametrize(
    ("rules", "elements", "reason"),
    [
        ({}, {"Modality": "MR"}, "`modality` has MR, expected CT"),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "`localizer` has a localizer, expected an"),
        ({}, {"ImagePositionPatient": None}, "`place` has images without a common place in the patient"),
        (
            {"orientation": ["axial"]},
            {"ImageOrientationPatient": CORONAL, "axis": 1},
            "`orientation` has coronal, expected axial",
        ),
        (
            {"image_type": ["ORIGINAL", "!MIP"]},
            {"ImageType": ["DERIVED", "SECONDARY", "MIP"]},
            r"`image_type` has DERIVED\SECONDARY\MIP, expected ORIGINAL; "
            r"`image_type` has DERIVED\SECONDARY\MIP, expected no MIP",
        ),
        ({"description": "^THORAX"}, {}, "`description` has no match, expected /^THORAX/"),
        ({"slices": [4, 100]}, {}, "`slices` has 3, expected 4 to 100"),
        ({"distance_mm": [0, 1]}, {}, "`distance_mm` has 2 mm, expected 0 to 1 mm"),
        ({"thickness_mm": [2, 5]}, {}, "`thickness_mm` has 1 mm, expected 2 to 5 mm"),
        ({"thickness_mm": [2, 5]}, {"SliceThickness": None}, "`thickness_mm` has none, expected 2 to 5 mm"),
    ],
)
def test_every_rule_says_what_it_found(
    study: Any, rules: dict[str, Any], elements: dict[str, Any], reason: str
) -> None:
    study("abdomen", [0, 2, 4], **elements)
    verdict = study.verdicts(recipe(**rules))["abdomen"]
    assert not verdict.taken and verdict.reason.startswith(reason)


def test_rules_that_hold_take_a_series(study: Any) -> None:
    study("Abdomen portal", [0, 2, 4])
    asked = recipe(
        orientation=["axial", "coronal"],
        image_type=["ORIGINAL", "!LOCALIZER"],
        description="portal|venous",
        slices=[3, 3],
        distance_mm=[2, 2],
        thickness_mm=[0.5, 1],
    )
    verdict = study.verdicts(asked)["Abdomen portal"]
    assert verdict.taken and verdict.matches and len(verdict.rules) == 11
    assert verdict.geometry == "3 axial slices of 4x5, 2.000 mm apart, regular"


def test_of_several_volumes_the_best_is_taken_and_the_others_say_why_not(study: Any) -> None:
    study("many", [0, 1, 2, 3])
    study("broken", [0, 1, 2, 4, 5])
    study("few", [0, 2], SeriesNumber=7)
    study("derived", [0, 1, 2, 3], ImageType=["DERIVED", "SECONDARY"])
    study("thick", [0, 5, 10, 15], SliceThickness=5)
    verdicts = study.verdicts(recipe())
    assert [name for name, verdict in verdicts.items() if verdict.taken] == ["many"]
    assert verdicts["few"].reason == (
        "another series of the study comes first: it has 4 slices of 1 mm, "
        "this one 2 slices of 1 mm (series 7)"
    )
    assert "slices 3 and 4 along the normal are 2.000 mm apart" in verdicts["broken"].reason
    assert all(verdict.taken for verdict in study.verdicts(recipe(), every=True).values())


def test_a_broken_stack_alone_is_taken_and_says_what_is_wrong(study: Any) -> None:
    study("only", [0, 1, 2, 4, 5])
    verdict = study.verdicts(recipe())["only"]
    assert verdict.taken and not verdict.sound
    assert verdict.geometry.endswith("expected 1.000 mm; 1 missing")


def test_a_recipe_of_2d_images_takes_all_but_localizers_unless_it_asks_for_them(study: Any) -> None:
    study("a", [0, 1, 2])
    study("b", [0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert {name: one.taken for name, one in study.verdicts(recipe(2)).items()} == {"a": True, "b": False}
    asked = recipe(2, image_type=["LOCALIZER"])
    assert {name: one.taken for name, one in study.verdicts(asked).items()} == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"description": "("}, "description: not a regular expression"),
        ({"slices": [5, 3]}, r"`series.slices` has 5 to 3, expected the least first"),
        ({"image_type": ["original"]}, "image_type"),
        ({"orientation": ["oblique"]}, "orientation"),
        ({"thicknes_mm": [0, 1]}, "unknown key `series.thicknes_mm`"),
    ],
)
def test_rules_that_are_none(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(**rules)


def test_a_recipe_without_rules_keeps_its_digest_and_one_with_rules_has_another() -> None:
    plain = Recipe(name="a", kind="classification", classes=("a", "b"))
    assert plain.digest == "af73db07f6c7d5b4f07fc07afcfcf1db68b9a113cdcf632213c104589b5651ca"
    ruled = plain.model_copy(update={"series": SeriesRules(slices=(1, 9))})
    assert ruled.digest != plain.digest
    assert Recipe.model_validate(ruled.model_dump(mode="json")) == ruled
