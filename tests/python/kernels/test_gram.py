"""Gram sums against their plain NumPy definitions, their algebra, and their refusals."""

import math
import re
from collections.abc import Callable

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from fedmed_edge.kernels import class_gram

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
]


@pytest.mark.parametrize(("kernel", "argument", "wrong", "message"), REFUSALS)
def test_what_does_not_fit_is_refused(
    kernel: Callable[..., object], argument: str, wrong: object, message: str
) -> None:
    kernel(**GOOD[kernel])
    with pytest.raises(ValueError, match=f"^{kernel.__name__}: `{argument}` {re.escape(message)}$"):
        kernel(**{**GOOD[kernel], argument: wrong})


def test_a_refused_call_leaves_its_sums_alone() -> None:
    grams = np.ones((1, 3))
    with pytest.raises(ValueError, match="has 1 at index 1"):
        class_gram(np.ones((2, 2), np.float32), np.array([0, 1], np.int32), grams)
    np.testing.assert_array_equal(grams, np.ones((1, 3)))
