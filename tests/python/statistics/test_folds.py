"""Folds by patient, and what `min_cohort` leaves out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.statistics.feature_statistics import REST
from fedmed_edge.statistics.folds import plan_folds

PATIENTS = [f"p{index}" for index in range(60)]


@given(st.dictionaries(st.integers(0, 4), st.sets(st.sampled_from(PATIENTS)), max_size=5), st.integers(1, 12))
def test_every_fold_and_every_class_keeps_its_cohort(members: dict[int, set[str]], min_cohort: int) -> None:
    plan = plan_folds(members, min_cohort)
    for index, patients in members.items():
        assert (index in plan.folds) == (len(patients) >= min_cohort)
        folds = [plan.fold(patient, index) for patient in patients]
        if index not in plan.folds:
            assert set(folds) <= {None}
        elif plan.folds[index] == 0:
            assert set(folds) == {REST}
        else:
            sizes = [folds.count(number) for number in range(plan.folds[index])]
            assert sum(sizes) == len(patients)
            assert min(sizes) >= min_cohort


@given(st.permutations(PATIENTS[:20]))
def test_folds_do_not_depend_on_the_order_of_the_patients(order: list[str]) -> None:
    plan = plan_folds({0: order, 1: order[:10]}, 2)
    again = plan_folds({1: sorted(order[:10]), 0: sorted(order)}, 2)
    assert plan.numbers == again.numbers
    assert plan.folds == again.folds


@pytest.mark.parametrize(
    ("patients", "min_cohort", "folds"), [(50, 10, 5), (49, 10, 2), (20, 10, 2), (19, 10, 0), (5, 1, 5)]
)
def test_a_large_class_has_five_folds_a_smaller_one_two_or_none(
    patients: int, min_cohort: int, folds: int
) -> None:
    assert plan_folds({0: PATIENTS[:patients]}, min_cohort).folds == {0: folds}


def test_a_class_below_the_cohort_is_absent() -> None:
    plan = plan_folds({0: PATIENTS[:10], 1: PATIENTS[:9]}, 10, unlabelled=PATIENTS[:8])
    assert plan.folds == {0: 0}
    assert plan.patients == {0: frozenset(PATIENTS[:10])}
    assert plan.fold("p1", 1) is None
    assert plan.too_few == {1: 9, None: 8}


def test_an_image_counts_only_with_a_class_that_may_leave() -> None:
    plan = plan_folds({0: PATIENTS[:10], 1: PATIENTS[:9]}, 10, unlabelled=PATIENTS[:9])
    assert plan.keeps([0])
    assert plan.keeps([0, 1])
    assert not plan.keeps([1])
    assert not plan.keeps([])
    assert plan_folds({}, 9, unlabelled=PATIENTS[:9]).keeps([])


def test_a_cohort_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`min_cohort` has 0, expected at least 1"):
        plan_folds({}, 0)
