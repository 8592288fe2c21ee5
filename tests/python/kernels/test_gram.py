"""Gram sums against their plain NumPy definitions, their algebra, and their refusals."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from fedmed_edge.kernels import GramMode, LiftWeights, class_gram, lifted_class_gram

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

numbers = st.floats(-1e4, 1e4, width=32)


def class_gram_definition(rows: Array, classes: npt.NDArray[np.int32], grams: Array64) -> None:
    upper = np.triu_indices(rows.shape[1])
    for row, label in zip(rows.astype(np.float64), classes, strict=True):
        if label >= 0:
            grams[label] += np.outer(row, row)[upper]


@st.composite
def labelled_rows(draw: st.DrawFn) -> tuple[Array, npt.NDArray[np.int32], int]:
    """Rows, their classes and the number of classes."""
    count, width, classes = draw(st.integers(0, 40)), draw(st.integers(1, 60)), draw(st.integers(1, 4))
    rows = draw(arrays.arrays(np.float32, (count, width), elements=numbers, fill=st.nothing()))
    return rows, draw(arrays.arrays(np.int32, count, elements=st.integers(-1, classes - 1))), classes


def grams_of(rows: Array, classes: npt.NDArray[np.int32], count: int) -> Array64:
    grams = np.zeros((count, rows.shape[1] * (rows.shape[1] + 1) // 2))
    class_gram(rows, classes, grams)
    return grams


def scales_of(grams: Array64, width: int) -> Array64:
    """√(gᵢᵢ gⱼⱼ) of every packed element."""
    rows, columns = np.triu_indices(width)
    diagonal = grams[:, rows == columns]
    scales: Array64 = np.sqrt(diagonal[:, rows] * diagonal[:, columns])
    return scales


@given(labelled_rows())
def test_class_gram_is_its_definition(problem: tuple[Array, npt.NDArray[np.int32], int]) -> None:
    rows, classes, count = problem
    expected = np.zeros((count, rows.shape[1] * (rows.shape[1] + 1) // 2))
    class_gram_definition(rows, classes, expected)
    got = grams_of(rows, classes, count)
    assert (np.abs(got - expected) <= 1e-12 * scales_of(expected, rows.shape[1])).all()


@given(labelled_rows(), st.data())
def test_class_gram_is_additive_and_order_free(
    problem: tuple[Array, npt.NDArray[np.int32], int], data: st.DataObject
) -> None:
    rows, classes, count = problem
    whole = grams_of(rows, classes, count)
    tolerance = 1e-12 * scales_of(whole, rows.shape[1])
    cut = data.draw(st.integers(0, len(rows)))
    parts = grams_of(rows[:cut], classes[:cut], count) + grams_of(rows[cut:], classes[cut:], count)
    assert (np.abs(parts - whole) <= tolerance).all()
    order = np.array(data.draw(st.permutations(range(len(rows)))), int)
    assert (np.abs(grams_of(rows[order], classes[order], count) - whole) <= tolerance).all()


def test_class_gram_of_a_class_does_not_depend_on_the_other_classes() -> None:
    rng = np.random.default_rng(0)
    rows, classes = rng.normal(size=(900, 70)).astype(np.float32), rng.integers(-1, 3, 900).astype(np.int32)
    together = grams_of(rows, classes, 3)
    alone = grams_of(rows[classes == 2], np.zeros((classes == 2).sum(), np.int32), 1)
    np.testing.assert_array_equal(together[2], alone[0])


def test_class_gram_keeps_what_float32_sums_would_lose() -> None:
    rows = np.array([[16777216, 1], [1, 1]], np.float32)
    np.testing.assert_array_equal(grams_of(rows, np.zeros(2, np.int32), 1), [[2.0**48 + 1, 2.0**24 + 1, 2]])


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e3, 1e6])
@pytest.mark.parametrize("make", [np.abs, np.exp, np.sign, np.zeros_like])
def test_fast_class_gram_is_near_at_any_mean(make: Callable[[Array64], Array64], offset: float) -> None:
    rng = np.random.default_rng(3)
    rows = (make(rng.normal(size=(2500, 61))) * rng.uniform(0.1, 9, 61) + offset).astype(np.float32)
    rows[:64] *= 0.01
    classes, exact, fast = (
        rng.integers(-1, 2, 2500).astype(np.int32),
        np.zeros((2, 1891)),
        np.zeros((2, 1891)),
    )
    class_gram(rows, classes, exact)
    class_gram(rows, classes, fast, mode="fast")
    assert (np.abs(fast - exact) <= 1e-6 * scales_of(exact, 61)).all()


@pytest.mark.parametrize("period", [2, 12, 13, 24, 48, 96])
def test_fast_class_gram_is_near_for_rows_made_to_harm_it(period: int) -> None:
    """A large value, then ones whose squares are just too small to change a float32 sum; mean 0."""
    worst = 0.0
    for large, small, at in itertools.product((1.0, 1.0001, 1.4), (0.99, 0.999, 0.9999), (0, 1)):
        rows = np.full((960, 7), small * 2.0**-12, np.float32)
        rows[at::period] = large
        rows[np.arange(960) // period % 2 == 1] *= -1
        exact, fast = np.zeros((1, 28)), np.zeros((1, 28))
        class_gram(rows, np.zeros(960, np.int32), exact)
        class_gram(rows, np.zeros(960, np.int32), fast, mode="fast")
        worst = max(worst, float((np.abs(fast - exact) / scales_of(exact, 7)).max()))
    assert worst <= 1e-6
    assert period < 24 or worst > 4e-7, "they do no harm"


@pytest.mark.parametrize("size", [1e-18, 1e18])
def test_fast_class_gram_is_near_for_very_small_and_large_rows(size: float) -> None:
    rows = (np.random.default_rng(8).choice([-1, 0, 1], (900, 20)) * size).astype(np.float32)
    exact, fast = np.zeros((1, 210)), np.zeros((1, 210))
    class_gram(rows, np.zeros(900, np.int32), exact)
    class_gram(rows, np.zeros(900, np.int32), fast, mode="fast")
    assert (np.abs(fast - exact) <= 1e-6 * scales_of(exact, 20)).all()


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_class_gram_of_16_bit_rows_is_that_of_the_same_numbers(mode: GramMode) -> None:
    rng = np.random.default_rng(4)
    classes = rng.integers(0, 2, 300).astype(np.int32)
    # denormals and the largest among them
    half = (
        np.concatenate([rng.normal(size=8970), [6e-8, -6e-6, 65504] * 10]).reshape(300, 30).astype(np.float16)
    )
    brain = (rng.normal(size=(300, 30)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    same = (brain.astype(np.uint32) << 16).view(np.float32)
    pairs = [({"rows": half}, half.astype(np.float32)), ({"rows": brain, "dtype": "bfloat16"}, same)]
    for arguments, rows in pairs:
        got, wanted = np.zeros((2, 465)), np.zeros((2, 465))
        class_gram(classes=classes, grams=got, mode=mode, **arguments)  # type: ignore[arg-type]
        class_gram(rows, classes, wanted, mode=mode)
        np.testing.assert_array_equal(got, wanted)


def test_class_gram_keeps_a_halfs_infinity_and_nan() -> None:
    for wrong in (np.inf, -np.inf, np.nan):
        grams = np.zeros((1, 1))
        class_gram(np.array([[wrong]], np.float16), np.zeros(1, np.int32), grams)
        assert not np.isfinite(grams).any()


# --- lifted ----------------------------------------------------------------------------------------------


def lifted_class_gram_definition(
    maps: list[Array],
    weights: LiftWeights,
    size: tuple[int, ...],
    stride: int,
    classes: npt.NDArray[np.int32],
    grams: Array64,
) -> Array64:
    """In float64: interpolate every map along every axis, concatenate, standardise, project, lift; add up."""
    raised = []
    for scale in maps:
        values = scale.astype(np.float64)
        for axis, (side, full) in enumerate(zip(scale.shape[1:], size, strict=True), start=1):
            places = (np.arange(min(stride // 2, full // 2), full, stride) + 0.5) * side / full - 0.5
            below = np.floor(np.clip(places, 0, side - 1)).astype(int)
            share = np.clip(places, 0, side - 1) - below
            share = share.reshape(-1, *[1] * (values.ndim - axis - 1))
            above = np.minimum(below + 1, side - 1)
            values = (1 - share) * values.take(below, axis) + share * values.take(above, axis)
        raised.append(values.reshape(len(scale), -1))
    features = (np.concatenate(raised).T - weights.mean) * weights.gain.astype(np.float64)
    hidden = np.maximum(features @ weights.lift.astype(np.float64) + weights.bias, 0)
    if weights.projection is not None:
        features = features @ weights.projection.astype(np.float64)
    rows = np.concatenate([hidden, features, np.ones((len(features), 1))], axis=1)
    for label, gram in enumerate(grams):
        gram += (rows[classes == label].T @ rows[classes == label])[np.triu_indices(rows.shape[1])]
    return rows


def lift_weights(channels: int, lift: int, features: int | None) -> LiftWeights:
    rng = np.random.default_rng(5)
    numbers = [rng.normal(size=shape).astype(np.float32) for shape in (channels, (channels, lift), lift)]
    projection = None if features is None else rng.normal(size=(channels, features)).astype(np.float32)
    return LiftWeights(numbers[0], np.full(channels, 0.5, np.float32), numbers[1], numbers[2], projection)


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("features", [None, 6])
@pytest.mark.parametrize("lift", [0, 50])
@pytest.mark.parametrize(("size", "stride"), [((40, 37), 1), ((41, 30), 3), ((9, 12, 10), 2), ((3, 200), 7)])
def test_lifted_class_gram_is_its_definition(
    size: tuple[int, ...], stride: int, lift: int, features: int | None, mode: GramMode
) -> None:
    rng = np.random.default_rng(6)
    shapes = [size, *(tuple(-(-side // step) for side in size) for step in (2, 3, 8)), (1,) * len(size)]
    maps = [rng.normal(1, 2, (3, *shape)).astype(np.float32) for shape in shapes]
    weights = lift_weights(15, lift, features)
    count = math.prod(len(range(min(stride // 2, side // 2), side, stride)) for side in size)
    classes = rng.integers(-1, 2, count).astype(np.int32)
    wanted = np.zeros((2, weights.row_dim * (weights.row_dim + 1) // 2))
    rows = lifted_class_gram_definition(maps, weights, size, stride, classes, wanted)
    grams, picked = np.zeros_like(wanted), np.flatnonzero(rng.random(count) < 0.3)
    kept = lifted_class_gram(
        maps, weights, size=size, stride=stride, classes=classes, grams=grams, picked=picked, mode=mode
    )
    assert np.abs(kept - rows[picked]).max() <= 31 * 2.0**-24 * 15 * np.abs(rows).max()
    assert (np.abs(grams - wanted) <= 1e-5 * (scales_of(wanted, rows.shape[1]) + 1)).all()
    np.testing.assert_array_equal(grams[:, -1], [(classes == 0).sum(), (classes == 1).sum()])


def test_lifted_class_gram_of_nothing_adds_nothing() -> None:
    weights, grams = lift_weights(2, 3, None), np.ones((1, 21))
    lifted_class_gram(
        [zeros(2, 4, 4)],  # type: ignore[list-item]
        weights,
        size=(8, 8),
        stride=2,
        classes=np.full(16, -1, np.int32),
        grams=grams,
    )
    assert (grams == 1).all()


# --- refusals --------------------------------------------------------------------------------------------


def zeros(*shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
    return np.zeros(shape, dtype)


def read_only(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    array.setflags(write=False)
    return array


def misaligned(*shape: int) -> npt.NDArray[np.generic]:
    return np.frombuffer(bytearray(4 * math.prod(shape) + 1), np.uint8)[1:].view(np.float32).reshape(shape)


# A good call of each kernel; each refusal changes one argument of it.
GOOD: dict[Callable[..., object], dict[str, object]] = {
    class_gram: {
        "rows": zeros(2, 3),
        "classes": zeros(2, dtype=np.int32),
        "grams": zeros(2, 6, dtype=np.float64),
    },
    lifted_class_gram: {
        "maps": [zeros(2, 4, 4)],
        "weights": lift_weights(2, 3, None),
        "size": (8, 8),
        "stride": 2,
        "classes": zeros(16, dtype=np.int32),
        "grams": zeros(1, 21, dtype=np.float64),
    },
}

REFUSALS: list[tuple[Callable[..., object], str, object, str]] = [
    (class_gram, "rows", zeros(2, 3, dtype=np.float64), "has dtype float64, expected float32"),
    (class_gram, "rows", zeros(2, 3, dtype=">f4"), "has dtype >f4, expected float32"),
    (class_gram, "rows", zeros(6), "has shape (6,), expected 2 axes"),
    (class_gram, "rows", zeros(3, 2).T, "has strides, expected a C-contiguous array"),
    (class_gram, "rows", misaligned(2, 3), "is not aligned in memory, expected an aligned array"),
    (class_gram, "rows", zeros(2, 0), "has 0 columns, expected at least 1"),
    (class_gram, "classes", zeros(2, dtype=np.int64), "has dtype int64, expected int32"),
    (class_gram, "classes", zeros(3, dtype=np.int32), "has 3 elements, expected one for each of the 2 rows"),
    (class_gram, "classes", np.array([0, 2], np.int32), "has 2 at index 1, expected -1 to 1"),
    (class_gram, "classes", np.array([-2, 0], np.int32), "has -2 at index 0, expected -1 to 1"),
    (class_gram, "grams", zeros(2, 6), "has dtype float32, expected float64"),
    (class_gram, "grams", zeros(2, 9, dtype=np.float64), "has 9 columns, expected 6 for rows of 3"),
    (
        class_gram,
        "grams",
        read_only(zeros(2, 6, dtype=np.float64)),
        "is read-only, expected a writeable array",
    ),
    (class_gram, "mode", "quick", "has `quick`, expected `exact` or `fast`"),
    (lifted_class_gram, "mode", "quick", "has `quick`, expected `exact` or `fast`"),
    (lifted_class_gram, "maps", [], "is empty, expected at least 1 map"),
    (lifted_class_gram, "maps", [zeros(2, 0, 4)], "has an empty one, expected at least 1 value"),
    (lifted_class_gram, "maps", [zeros(2, 4)], "has shape (2, 4), expected 3 axes"),
    (lifted_class_gram, "maps", [zeros(2, 4, 4, dtype=np.float64)], "has dtype float64, expected float32"),
    (lifted_class_gram, "size", (8,), "has shape (8,), expected 2 or 3 sides"),
    (lifted_class_gram, "size", (8, 0), "has (1, 8, 0) and `stride` 2, expected at least 1"),
    (lifted_class_gram, "classes", zeros(15, dtype=np.int32), "has 15, expected 16"),
    (lifted_class_gram, "classes", np.full(16, 1, np.int32), "has 1 at index 0, expected -1 to 0"),
    (lifted_class_gram, "grams", zeros(1, 20, dtype=np.float64), "has 20, expected 21"),
    (lifted_class_gram, "picked", np.array([3, 3]), "has 3, expected ascending rows below 16"),
    (lifted_class_gram, "picked", np.array([16]), "has 16, expected ascending rows below 16"),
]


@pytest.mark.parametrize(("kernel", "argument", "wrong", "message"), REFUSALS)
def test_what_does_not_fit_is_refused(
    kernel: Callable[..., object],
    argument: str,
    wrong: object,
    message: str,
    expect_refusal: Callable[..., None],
) -> None:
    expect_refusal(kernel, GOOD[kernel], argument, wrong, message)


@pytest.mark.parametrize("name", ["mean", "gain", "lift", "bias", "projection"])
def test_weights_that_do_not_fit_are_refused(name: str) -> None:
    good = GOOD[lifted_class_gram]
    weights = dataclasses.replace(lift_weights(2, 3, None), **{name: lift_weights(5, 4, 2).__dict__[name]})
    rows = weights.row_dim
    grams = np.zeros((1, rows * (rows + 1) // 2))
    with pytest.raises(ValueError, match=r"^lifted_class_gram: `\w+` has \d+, expected \d+$"):
        lifted_class_gram(**{**good, "weights": weights, "grams": grams})  # type: ignore[arg-type]


def test_a_refused_call_leaves_its_sums_alone() -> None:
    grams = np.ones((1, 3))
    with pytest.raises(ValueError, match="has 1 at index 1"):
        class_gram(np.ones((2, 2), np.float32), np.array([0, 1], np.int32), grams)
    np.testing.assert_array_equal(grams, np.ones((1, 3)))


def test_an_unknown_dtype_and_a_flat_lift_are_refused() -> None:
    unknown: Any = "float8"
    with pytest.raises(ValueError, match=r"^class_gram: `dtype` has `float8`, expected `bfloat16` or none$"):
        class_gram(np.zeros((1, 1), np.float32), np.zeros(1, np.int32), np.zeros((1, 1)), dtype=unknown)
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match=r"^lifted_class_gram: `lift` has 1 axes, expected 2$"):
        _ = LiftWeights(one, one, one, one).row_dim
