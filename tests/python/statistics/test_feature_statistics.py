"""Sums add: by part, in any order, over any split."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.feature_statistics import (
    REST,
    FeatureStatistics,
    last_column,
    pack,
    packed_length,
    unpack,
    width_of,
)

WIDTH = 5
PATIENTS = [f"p{index}" for index in range(12)]
PLAN = plan_folds({0: set(PATIENTS), 1: set(PATIENTS[:4])}, min_cohort=2)


def accumulate(images: list[tuple[str, int, list[float]]]) -> FeatureStatistics:
    sums = Accumulator(("a", "b"), row_dim=WIDTH, feature_dim=WIDTH - 1, plan=PLAN)
    for patient, label, values in images:
        rows = np.array([[*values, 1]], np.float32)
        sums.add_rows(rows, np.array([label], np.int32), patient)
        sums.add_image(rows[0, :-1], 1.0)
    # not `result`, which guards the cohort of a whole site: here parts of one are added
    return FeatureStatistics(
        ("a", "b"),
        WIDTH,
        WIDTH - 1,
        folds=max(PLAN.folds.values()),
        blocks=sums._blocks,
        image_gram=sums._image_gram,
        distance_moments=sums._distances,
    )


@st.composite
def image_lists(draw: st.DrawFn) -> list[tuple[str, int, list[float]]]:
    value = st.floats(-1e4, 1e4, width=32)
    image = st.tuples(
        st.sampled_from(PATIENTS[:4]), st.integers(0, 1), st.lists(value, min_size=4, max_size=4)
    )
    return draw(st.lists(image, max_size=12))


def assert_same(got: FeatureStatistics, wanted: FeatureStatistics) -> None:
    """Equal to 1e-12 of √(gᵢᵢ gⱼⱼ), block by block."""
    assert set(got.blocks) == set(wanted.blocks)
    pairs = [(got.blocks[key], wanted.blocks[key]) for key in wanted.blocks]
    for one, other in [*pairs, (got.image_gram, wanted.image_gram)]:
        diagonal = np.sqrt(np.diag(unpack(other)))
        assert (np.abs(unpack(one) - unpack(other)) <= 1e-12 * np.outer(diagonal, diagonal)).all()


@given(image_lists(), image_lists(), st.randoms(use_true_random=False))
def test_sums_of_two_sets_are_the_sums_of_their_union_in_any_order(a, b, random) -> None:  # type: ignore[no-untyped-def]
    union = [*a, *b]
    random.shuffle(union)
    assert_same(accumulate(a) + accumulate(b), accumulate(union))
    assert_same(accumulate(b) + accumulate(a), accumulate(union))


@given(image_lists())
def test_blocks_are_the_grams_of_their_rows(images) -> None:  # type: ignore[no-untyped-def]
    got = accumulate(images)
    for label in (0, 1):
        rows = np.array([[*values, 1] for _, of, values in images if of == label]).reshape(-1, WIDTH)
        exact = rows.astype(np.float32).astype(np.float64)
        diagonal = np.sqrt(np.diag(exact.T @ exact))
        error = np.abs(unpack(got.class_gram(label)) - exact.T @ exact)
        assert (error <= 1e-12 * np.outer(diagonal, diagonal)).all()
        assert got.class_counts[label] == len(rows)
        np.testing.assert_allclose(got.class_sums[label], exact.sum(axis=0), atol=1e-9, rtol=1e-12)


@given(st.integers(1, 40))
def test_packed_order_is_that_of_triu_indices(width: int) -> None:
    matrix = np.arange(width * width, dtype=np.float64).reshape(width, width)
    matrix += matrix.T
    packed = pack(matrix)
    np.testing.assert_array_equal(packed, matrix[np.triu_indices(width)])
    np.testing.assert_array_equal(unpack(packed), matrix)
    np.testing.assert_array_equal(packed[last_column(width)], matrix[:, -1])
    assert width_of(packed_length(width)) == width


def test_a_length_that_is_not_triangular_is_refused() -> None:
    with pytest.raises(ValueError, match="packed gram has 5 elements, expected a triangular number"):
        width_of(5)


def test_folds_partition_the_rows(make_statistics: Callable[..., FeatureStatistics]) -> None:
    whole = make_statistics()
    assert whole.folds == 5
    assert {key[0] for key in whole.blocks if key[1] == 2} == {REST}
    for number in range(whole.folds):
        held, kept = whole.fold(number), whole.without_fold(number)
        np.testing.assert_array_equal(held.class_sums + kept.class_sums, whole.class_sums)
        np.testing.assert_array_equal(held.gram() + kept.gram(), whole.gram())
        assert held.class_counts[0] == 8
    dense = whole.class_grams.sum(axis=0) + whole.rest_grams
    for index in range(3):
        np.testing.assert_array_equal(dense[index], whole.class_gram(index))
    np.testing.assert_array_equal(whole.gram(), dense.sum(axis=0) + whole.unlabelled)


def test_absent_classes_are_absent_from_a_sum_only_where_both_lack_them(
    make_statistics: Callable[..., FeatureStatistics],
) -> None:
    one, other = make_statistics(0, (20, 2, 2)), make_statistics(1, (20, 8, 1))
    assert one.absent == ("malignant", "rare")
    assert (one + other).absent == ("rare",)
    assert (one + other).patients.tolist() == [40, 8, 0]
    assert (one + other).calibration is not None
    assert (one + other).style_count == one.style_count + other.style_count


def test_style_mean_and_deviation_are_those_of_the_images() -> None:
    images = np.random.default_rng(0).normal(size=(7, 1, 3, 3))
    sums = FeatureStatistics(
        ("a",), 2, 1, style_count=7, style_sum=images.sum(0), style_square=(images**2).sum(0)
    )
    np.testing.assert_allclose(sums.style_mean, images.mean(0), rtol=1e-12)
    np.testing.assert_allclose(sums.style_deviation, images.std(0), rtol=1e-9)


def test_sums_of_another_kind_are_refused() -> None:
    one = FeatureStatistics(("a",), 3, 2)
    with pytest.raises(InputError, match=r"`classes` has \('b',\), expected \('a',\)"):
        one + FeatureStatistics(("b",), 3, 2)
    with pytest.raises(InputError, match="`row_dim` has 4, expected 3"):
        one + FeatureStatistics(("a",), 4, 2)
    styled = FeatureStatistics(("a",), 3, 2, style_sum=np.ones((1, 3, 3)))
    with pytest.raises(InputError, match=r"`style_sum` has shape \(1, 5, 5\), expected \(1, 3, 3\)"):
        styled + FeatureStatistics(("a",), 3, 2, style_sum=np.ones((1, 5, 5)))
    assert (one + styled).style_sum.shape == (1, 3, 3)
    with pytest.raises(ValueError, match=r"`image_gram` has shape \(5,\), expected \(6,\)"):
        FeatureStatistics(("a",), 3, 2, image_gram=np.zeros(5))
