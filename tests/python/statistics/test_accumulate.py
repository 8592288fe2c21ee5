"""Rows into sums, and the cohort guard on the rows that really came."""

import numpy as np
import pytest

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds
from fedmed_edge.statistics.feature_statistics import REST, unpack

CLASSES = ("a", "b", "c")


def accumulator(members: dict[int, set[str]], min_cohort: int = 1, **more: set[str]) -> Accumulator:
    return Accumulator(CLASSES, row_dim=3, feature_dim=2, plan=plan_folds(members, min_cohort, **more))


def rows(*values: tuple[float, float]) -> np.ndarray:
    return np.array([[*value, 1] for value in values], np.float32)


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_pixels_of_an_image_go_to_their_classes_and_ignored_ones_nowhere() -> None:
    sums = accumulator({0: {"p"}, 1: {"p"}})
    sums.add_rows(rows((1, 2), (3, 4), (5, 6), (7, 8)), labels(0, 1, 0, -1), "p")
    result = sums.result()
    first = rows((1, 2), (5, 6)).astype(np.float64)
    np.testing.assert_array_equal(unpack(result.class_gram(0)), first.T @ first)
    assert result.class_counts.tolist() == [2, 1, 0]
    assert result.class_sums.tolist() == [[6, 8, 2], [3, 4, 1], [0, 0, 0]]
    assert result.absent == ("c",)
    assert result.patients.tolist() == [1, 1, 0]


def test_memory_is_taken_only_for_classes_that_come() -> None:
    sums = accumulator({0: {"p"}, 1: {"q"}})
    sums.add_rows(rows((1, 2)), labels(0), "p")
    assert list(sums.result().blocks) == [(REST, 0)]


def test_image_channel_and_style_sums_are_those_of_numpy() -> None:
    random = np.random.default_rng(0)
    features, maps, styles = (
        random.normal(size=(5, 2)).astype(np.float32),
        random.normal(size=(5, 3, 4)),
        random.normal(size=(5, 1, 3, 3)),
    )
    sums = accumulator({0: {"p"}})
    sums.add_rows(rows((1, 2)), labels(0), "p")
    for feature, each, style in zip(features, maps, styles, strict=True):
        sums.add_image(feature, float(feature[0] ** 2))
        sums.add_channels([(4, each.sum(1), (each**2).sum(1)), (1, each[:1, 0], each[:1, 0] ** 2)])
        sums.add_style(style)
    result = sums.result()
    ended = np.hstack([features.astype(np.float64), np.ones((5, 1))])
    np.testing.assert_allclose(unpack(result.image_gram), ended.T @ ended, rtol=1e-14)
    d2 = features[:, 0].astype(np.float64) ** 2
    np.testing.assert_allclose(result.distance_moments, [5, d2.sum(), (d2**2).sum()], rtol=1e-6)
    np.testing.assert_allclose(result.channel_moments[0], [20, 20, 20, 5])
    np.testing.assert_allclose(result.channel_moments[1, :3], maps.sum((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(result.channel_moments[2, 3], (maps[:, 0, 0] ** 2).sum(), rtol=1e-12)
    np.testing.assert_allclose(result.style_sum, styles.sum(0), rtol=1e-12)
    np.testing.assert_allclose(result.style_square, (styles**2).sum(0), rtol=1e-12)
    assert result.images == 5
    assert result.style_count == 5


def test_a_row_alone_or_in_a_batch_gives_the_same_bits() -> None:
    random = np.random.default_rng(1)
    batch = random.normal(size=(9, 3)).astype(np.float32)
    batch[:, -1] = 1
    whole, one_by_one = accumulator({0: {"p"}}), accumulator({0: {"p"}})
    whole.add_rows(batch, labels(*[0] * 9), "p")
    for row in batch:
        one_by_one.add_rows(row[None], labels(0), "p")
    assert whole.result().class_gram(0).tobytes() == one_by_one.result().class_gram(0).tobytes()


def test_folds_that_lost_their_cohort_go_into_the_rest() -> None:
    members = {0: {f"p{i}" for i in range(10)}}
    sums = accumulator(members, 2)
    for patient in sorted(members[0])[:-1]:
        sums.add_rows(rows((1, 2)), labels(0), patient)
    result = sums.result()
    assert list(result.blocks) == [(REST, 0)]
    assert result.folds == 0
    assert result.patients.tolist() == [9, 0, 0]
    assert sums.plan.folds == {0: 5} and sums.came.folds == {0: 0}
    assert sums.came.patients == {0: set(sorted(members[0])[:-1])}


def test_a_class_that_lost_its_cohort_is_absent_where_its_images_hold_others() -> None:
    sums = accumulator({0: {"p", "q"}, 1: {"p", "q"}}, 2)
    assert sums.keeps([0, 1])
    sums.add_rows(rows((3, 4)), labels(1), "p")
    sums.add_rows(rows((1, 2)), labels(0), "p")
    sums.add_rows(rows((1, 2)), labels(0), "q")
    result = sums.result()
    assert result.absent == ("b", "c")
    assert result.class_counts.tolist() == [2, 0, 0]
    assert sums.came.patients == {0: {"p", "q"}} and sums.came.folds == {0: 0}


def test_a_class_that_lost_its_cohort_is_refused_where_its_images_stand_alone_in_the_image_sums() -> None:
    sums = accumulator({0: {"p", "q"}, 1: {"r", "s"}}, 2)
    for patient in ("p", "q"):
        assert sums.keeps([0])
        sums.add_rows(rows((1, 2)), labels(0), patient)
    assert sums.keeps([1])
    sums.add_rows(rows((3, 4)), labels(1), "r")
    with pytest.raises(InputError, match=r"class `b` has rows of fewer than 2 patients, .* planned with 2"):
        sums.result()


def test_a_class_that_lost_its_cohort_is_refused_where_its_rows_are_in_a_pool() -> None:
    plan = plan_folds({0: {"p", "q"}, 1: {"p", "q"}}, 2)
    sums = Accumulator(("a", "b"), row_dim=3, feature_dim=2, plan=plan, pooled=True)
    for patient in ("p", "q"):
        assert sums.keeps([0, 1])
        sums.add_rows(rows((1, 2)), labels(0), patient)
    sums.add_rows(rows((3, 4)), labels(1), "p")
    with pytest.raises(InputError, match=r"class `b` has rows of fewer than 2 patients, .* planned with 2"):
        sums.result()  # sums by class, which lack these rows, would show them
    sums.add_rows(rows((3, 4)), labels(1), "q")
    assert sums.result().unlabelled[-1] == 4


def test_rows_of_an_absent_class_are_dropped() -> None:
    sums = accumulator({0: {"p", "q"}, 1: {"p"}}, 2)
    for patient in ("p", "q"):
        sums.add_rows(rows((1, 2), (3, 4)), labels(0, 1), patient)
    assert sums.result().class_counts.tolist() == [2, 0, 0]


def test_unlabelled_rows_are_pooled_and_dropped_below_the_cohort() -> None:
    enough = accumulator({}, 2, unlabelled={"p", "q"})
    enough.add_unlabelled(rows((1, 2), (3, 4)))
    assert enough.result().unlabelled[-1] == 2
    assert enough.result().absent == CLASSES
    few = accumulator({0: {"p", "q"}}, 2, unlabelled={"p"})
    few.add_unlabelled(rows((1, 2)))
    few.add_rows(rows((1, 2)), labels(0), "p")
    few.add_rows(rows((1, 2)), labels(0), "q")
    assert few.result().unlabelled[-1] == 0


def test_nothing_left_is_refused() -> None:
    with pytest.raises(InputError, match="no class has 10 patients, which `min_cohort` asks for") as error:
        accumulator({0: {"p"}}, 10).result()
    assert "lower `min_cohort`" in str(error.value.hint)


@pytest.mark.parametrize(
    ("bad", "classes", "patient", "message"),
    [
        (np.ones((1, 4), np.float32), labels(0), "p", r"`rows` has shape \(1, 4\), expected \(N, 3\)"),
        (rows((np.nan, 1)), labels(0), "p", "`rows` has NaN or Inf, expected finite values"),
        (np.zeros((1, 3), np.float32), labels(0), "p", "a row does not end in 1"),
        (rows((1, 2)), labels(0, 1), "p", r"`classes` has shape \(2,\), expected \(1,\)"),
        (rows((1, 2)), labels(3), "p", "class 3, expected below 3"),
        (rows((1, 2)), labels(0), "q", "a patient is not in the fold plan"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    bad: np.ndarray, classes: np.ndarray, patient: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        accumulator({0: {"p"}}).add_rows(bad, classes, patient)


def test_a_gram_counts_as_its_rows_do() -> None:
    one, other = accumulator({0: {"p"}}, unlabelled={"q"}), accumulator({0: {"p"}}, unlabelled={"q"})
    for row in ((1, 2), (3, 4)):
        one.add_rows(rows(row), labels(0), "p")
        one.add_unlabelled(rows(row))
    gram = np.array([10.0, 14, 4, 20, 6, 2])
    other.add_gram(gram, 0, "p")
    other.add_gram(gram, 1, "p")  # a class that is left out
    other.add_unlabelled_gram(gram)
    got, wanted = other.result(), one.result()
    np.testing.assert_array_equal(got.class_gram(0), wanted.class_gram(0))
    np.testing.assert_array_equal(got.unlabelled, wanted.unlabelled)
    assert got.absent == wanted.absent


@pytest.mark.parametrize(
    ("bad", "index", "patient", "message"),
    [
        (np.ones(5), 0, "p", r"`gram` has shape \(5,\), expected \(6,\)"),
        (np.full(6, np.inf), 0, "p", "`gram` has NaN or Inf, expected finite values"),
        (np.ones(6), 3, "p", "class 3, expected below 3"),
        (np.ones(6), 0, "q", "a patient is not in the fold plan"),
    ],
)
def test_grams_that_cannot_be_are_refused(bad: np.ndarray, index: int, patient: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        accumulator({0: {"p"}}).add_gram(bad, index, patient)


def test_image_level_values_that_cannot_be_are_refused() -> None:
    sums = accumulator({0: {"p"}})
    with pytest.raises(InputError, match=r"`feature` has shape \(3,\), expected \(2,\)"):
        sums.add_image(np.ones(3))
    with pytest.raises(InputError, match="`feature` has NaN or Inf"):
        sums.add_image(np.array([np.inf, 1]))
    sums.add_channels([(1, np.ones(2), np.ones(2))])
    with pytest.raises(InputError, match="`channels` has 3, expected 2"):
        sums.add_channels([(1, np.ones(3), np.ones(3))])
    sums.add_style(np.ones((1, 3, 3)))
    with pytest.raises(InputError, match=r"`log_amplitude` has shape \(1, 5, 5\), expected \(1, 3, 3\)"):
        sums.add_style(np.ones((1, 5, 5)))
    with pytest.raises(InputError, match="`log_amplitude` has NaN or Inf"):
        sums.add_style(np.full((1, 3, 3), np.nan))
