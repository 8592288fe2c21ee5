from dataclasses import replace

import numpy as np
import pytest

from fedmed_edge.config import PARTS, Policy
from fedmed_edge.errors import Withheld
from fedmed_edge.generation import Generation, GenerationHeader
from fedmed_edge.recipe import Backbone, Recipe
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.width_rule import check_width, too_wide

RECIPE = Recipe(name="r", kind="segmentation", classes=("background", "lesion"), size=(32, 32))
STRICT = Policy(width_rule="refuse", min_cohort=2, parts=PARTS)


def narrow(draft: bool = False) -> Generation:
    """Features of 5, rows of 6."""
    header = GenerationHeader(
        kind="segmentation", channels=1, size=(32, 32), backbone=Backbone(), widths=(5,), lift_dim=0
    )
    none, zeros = np.zeros(0, np.float32), np.zeros(5, np.float32)
    made = Generation(
        header, {}, b"", zeros, zeros + 1, None, none.reshape(5, 0), none, np.zeros(5), np.eye(5)
    )
    return replace(made, reference_mean=None, reference_covariance=None) if draft else made


def names(count: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


@pytest.mark.parametrize(("patients", "refused"), [(12, True), (90, False)])
def test_a_patient_counts_once_however_many_pixels_there_are(patients: int, refused: bool) -> None:
    """Five folds: 18 patients are asked for in each."""
    rng, who = np.random.default_rng(0), names(patients)
    plan = plan_folds({0: set(who), 1: set(who)}, min_cohort=2)
    sums = Accumulator(RECIPE.classes, row_dim=6, feature_dim=5, plan=plan)
    for name in who:
        rows = np.hstack([rng.normal(size=(400, 5)), np.ones((400, 1))]).astype(np.float32)
        sums.add_rows(rows, np.arange(400, dtype=np.int32) % 2, name)
    sums.result()
    if not refused:
        check_width(sums.came, narrow(), RECIPE, STRICT)
        return
    with pytest.raises(Withheld, match=r"has width 6, expected at most a third of its 2 patients"):
        check_width(sums.came, narrow(), RECIPE, STRICT)


@pytest.mark.parametrize(
    ("part", "draft", "width", "patients"),
    [
        ("classes", False, 6, 2),  # in the smallest of five folds
        ("unlabelled", False, 6, 4),
        ("unlabelled", True, 6, 16),
        ("shifts", False, 6, 16),
        ("images", False, 6, 16),
        ("channels", False, 6, None),
        ("classes", True, 6, None),
        ("shifts", True, 6, None),
    ],
)
def test_each_gram_has_the_patients_who_are_in_it(
    part: str, draft: bool, width: int, patients: int | None
) -> None:
    """13 patients with masks, of whom one has unlabelled images as well, as three others have."""
    masks = names(13)
    plan = plan_folds({0: masks, 1: masks[:1]}, 2, unlabelled=["p12", *names(3, "u")])
    made = too_wide(plan, narrow(draft), RECIPE, STRICT.model_copy(update={"parts": (part,)}))
    if patients is None:
        assert made is None
        return
    assert f"width {width}, expected at most a third of its {patients} patients" in str(made)


def test_nobody_is_in_what_does_not_leave() -> None:
    assert too_wide(plan_folds({0: names(1)}, 2, unlabelled=names(1)), narrow(), RECIPE, STRICT) is None
