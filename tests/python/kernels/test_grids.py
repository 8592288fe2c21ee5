"""Sampling and blending against their plain NumPy definitions, and their refusals."""

import itertools
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from scipy import ndimage

from fedmed_edge.kernels import argmax_slab, blend_windows, resample

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

numbers = st.floats(-1e4, 1e4, width=32)


def resample_definition(
    pixels: Array, matrix: Array64, offset: Array64, shape: tuple[int, ...], mode: str
) -> Array:
    out = np.empty((len(pixels), *shape), np.float32)
    last = np.array(pixels.shape[1:]) - 1
    for index in itertools.product(*map(range, shape)):
        at = np.clip(matrix @ np.array(index) + offset, 0, last)
        if mode == "nearest":
            out[(slice(None), *index)] = pixels[(slice(None), *np.floor(at + 0.5).astype(int))]
            continue
        value = np.zeros(len(pixels))
        for corner in itertools.product((0, 1), repeat=len(shape)):
            weight = np.prod([t if up else 1 - t for t, up in zip(at - np.floor(at), corner, strict=True)])
            cell = np.minimum(np.floor(at).astype(int) + corner, last)
            value += weight * pixels[(slice(None), *cell)]
        out[(slice(None), *index)] = value
    return out


def blend_windows_definition(
    total: Array, weight: Array, window: Array, importance: Array, start: tuple[int, ...]
) -> None:
    ends = [min(s + n, side) for s, n, side in zip(start, importance.shape, weight.shape, strict=True)]
    region = tuple(slice(s, e) for s, e in zip(start, ends, strict=True))
    part = tuple(slice(0, e - s) for s, e in zip(start, ends, strict=True))
    total[(slice(None), *region)] += window[(slice(None), *part)] * importance[part]
    weight[region] += importance[part]


@st.composite
def resampling(draw: st.DrawFn) -> tuple[Array, Array64, Array64, tuple[int, ...]]:
    axes = draw(st.sampled_from((2, 3)))
    sides = st.tuples(*[st.integers(1, 5)] * axes)
    pixels = draw(arrays.arrays(np.float32, (draw(st.integers(1, 3)), *draw(sides)), elements=numbers))
    plain = draw(st.booleans())
    matrix = draw(arrays.arrays(np.float64, (axes, axes), elements=st.floats(-3, 3, width=16)))
    offset = draw(arrays.arrays(np.float64, axes, elements=st.floats(-6, 6, width=16)))
    return pixels, np.diag(np.diag(matrix)) if plain else matrix, offset, draw(sides)


@given(resampling(), st.sampled_from(("linear", "nearest")))
def test_resample_is_its_definition(
    problem: tuple[Array, Array64, Array64, tuple[int, ...]], mode: str
) -> None:
    pixels, matrix, offset, shape = problem
    got = resample(pixels, matrix, offset, shape, mode=mode)  # type: ignore[arg-type]
    expected = resample_definition(pixels, matrix, offset, shape, mode)
    assert got.dtype == np.float32
    tolerance = 0.0 if mode == "nearest" else 2e-7 * float(np.abs(pixels).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def test_resample_agrees_with_scipy_on_a_rotated_volume() -> None:
    pixels = np.random.default_rng(1).normal(size=(1, 14, 15, 16)).astype(np.float32)
    turn = np.array([[0.9, -0.3, 0.1], [0.3, 0.9, 0.05], [-0.1, 0.0, 0.8]])
    got = resample(pixels, turn, [1.5, -2, 0.25], (12, 13, 14), mode="linear")
    expected = ndimage.affine_transform(
        pixels[0].astype(np.float64), turn, [1.5, -2, 0.25], (12, 13, 14), order=1, mode="nearest"
    )
    np.testing.assert_allclose(got[0], expected, atol=1e-6)


@st.composite
def blending(draw: st.DrawFn) -> tuple[Array, Array, Array, Array, tuple[int, ...]]:
    axes, channels = draw(st.sampled_from((2, 3))), draw(st.integers(1, 3))
    grid, size = draw(st.tuples(*[st.integers(1, 6)] * axes)), draw(st.tuples(*[st.integers(1, 6)] * axes))
    start = tuple(draw(st.integers(0, side - 1)) for side in grid)
    shapes = ((channels, *grid), grid, (channels, *size), size)
    total, weight, window, importance = (
        draw(arrays.arrays(np.float32, shape, elements=numbers)) for shape in shapes
    )
    return total, weight, window, importance, start


@given(blending())
def test_blend_windows_is_its_definition(
    problem: tuple[Array, Array, Array, Array, tuple[int, ...]],
) -> None:
    total, weight, window, importance, start = problem
    expected_total, expected_weight = total.copy(), weight.copy()
    blend_windows_definition(expected_total, expected_weight, window, importance, start)
    blend_windows(total, weight, window, importance, start)
    np.testing.assert_array_equal(total, expected_total)
    np.testing.assert_array_equal(weight, expected_weight)


def argmax_slab_definition(total: Array, out: npt.NDArray[np.uint8], start: tuple[int, ...]) -> None:
    part = tuple(slice(s, s + n) for s, n in zip(start, out.shape, strict=True))
    out[...] = np.where(np.isnan(total), -np.inf, total).argmax(axis=0)[part]


@st.composite
def labelling(draw: st.DrawFn) -> tuple[Array, npt.NDArray[np.uint8], tuple[int, ...]]:
    grid = draw(st.lists(st.integers(1, 20), min_size=2, max_size=3))
    start = tuple(draw(st.integers(0, side - 1)) for side in grid)
    sides = [draw(st.integers(0, side - first)) for side, first in zip(grid, start, strict=True)]
    few = st.sampled_from([-np.inf, -1.0, 0.0, 0.25, 1e-40, np.inf, np.nan])
    total = draw(arrays.arrays(np.float32, (draw(st.integers(1, 6)), *grid), elements=few))
    return total, np.full(sides, 77, np.uint8), start


@given(labelling())
def test_argmax_slab_is_its_definition(
    problem: tuple[Array, npt.NDArray[np.uint8], tuple[int, ...]],
) -> None:
    total, out, start = problem
    expected = out.copy()
    argmax_slab_definition(total, expected, start)
    argmax_slab(total, out, start)
    np.testing.assert_array_equal(out, expected)


def test_argmax_slab_of_as_many_classes_as_a_byte_names() -> None:
    total = np.random.default_rng(0).normal(size=(256, 3, 50, 41)).astype(np.float32)
    out = np.empty((3, 50, 41), np.uint8)
    argmax_slab(total, out)
    np.testing.assert_array_equal(out, total.argmax(axis=0))


def test_a_weight_that_classes_share_changes_no_label() -> None:
    rng = np.random.default_rng(1)
    total, weight = rng.random((4, 30, 40), np.float32), rng.random((30, 40), np.float32) + np.float32(0.1)
    plain, weighted = np.empty((30, 40), np.uint8), np.empty((30, 40), np.uint8)
    argmax_slab(total, plain)
    argmax_slab(total / weight, weighted)
    np.testing.assert_array_equal(plain, weighted)


# --- refusals --------------------------------------------------------------------------------------------


def zeros(*shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
    return np.zeros(shape, dtype)


def read_only(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    array.setflags(write=False)
    return array


# A good call of each kernel; each refusal changes one argument of it.
GOOD: dict[Callable[..., object], dict[str, object]] = {
    resample: {
        "pixels": zeros(1, 2, 2),
        "matrix": np.eye(2),
        "offset": np.zeros(2),
        "shape": (2, 2),
        "mode": "linear",
    },
    blend_windows: {
        "total": zeros(2, 3, 4),
        "weight": zeros(3, 4),
        "window": zeros(2, 2, 2),
        "importance": zeros(2, 2),
        "start": (0, 0),
    },
    argmax_slab: {
        "total": zeros(2, 3, 4),
        "out": zeros(2, 4, dtype=np.uint8),
        "start": (1, 0),
    },
}

REFUSALS: list[tuple[Callable[..., object], str, object, str]] = [
    (resample, "pixels", zeros(1, 2, 2, dtype=np.float64), "has dtype float64, expected float32"),
    (resample, "pixels", zeros(1, 0, 2), "is empty, expected at least 1 cell"),
    (resample, "shape", (2,), "has (2,), expected 2 sides of at least 1"),
    (resample, "shape", (2, 0), "has (2, 0), expected 2 sides of at least 1"),
    (resample, "matrix", np.eye(3), "has shape (3, 3), expected (2, 2)"),
    (resample, "matrix", np.full((2, 2), np.nan), "has nan, expected finite values"),
    (resample, "offset", np.zeros(3), "has shape (3,), expected (2,)"),
    (resample, "offset", np.full(2, np.inf), "has inf, expected finite values"),
    (resample, "mode", "cubic", "has `cubic`, expected `linear` or `nearest`"),
    (blend_windows, "total", zeros(2, 3, 4, dtype=np.float64), "has dtype float64, expected float32"),
    (blend_windows, "total", zeros(3, 4), "has shape (3, 4), expected 3 or 4 axes"),
    (blend_windows, "total", read_only(zeros(2, 3, 4)), "is read-only, expected a writeable array"),
    (blend_windows, "weight", zeros(4, 3), "has sides (1, 4, 3), expected (1, 3, 4) as `total`"),
    (blend_windows, "window", zeros(1, 2, 2), "has 1 channels, expected 2 as `total`"),
    (blend_windows, "importance", zeros(2, 1), "has sides (1, 2, 1), expected (1, 2, 2) as `window`"),
    (blend_windows, "start", (0,), "has (0,), expected 2 numbers"),
    (blend_windows, "start", (0, -1), "has (0, -1), expected none below 0"),
    (blend_windows, "start", (3, 0), "has (0, 3, 0), expected a cell of a grid of (1, 3, 4)"),
    (argmax_slab, "total", zeros(2, 3, 4, dtype=np.float64), "has dtype float64, expected float32"),
    (argmax_slab, "total", zeros(3, 4), "has shape (3, 4), expected 3 or 4 axes"),
    (argmax_slab, "total", zeros(257, 3, 4), "has 257 channels, expected 1 to 256"),
    (argmax_slab, "out", zeros(2, 4), "has dtype float32, expected uint8"),
    (argmax_slab, "out", read_only(zeros(2, 4, dtype=np.uint8)), "is read-only, expected a writeable array"),
    (argmax_slab, "out", zeros(2, 2, 4, dtype=np.uint8), "has shape (2, 2, 4), expected 2 axes"),
    (
        argmax_slab,
        "out",
        zeros(3, 4, dtype=np.uint8),
        "has sides (1, 3, 4) from (0, 1, 0), expected a part of a grid of (1, 3, 4)",
    ),
    (argmax_slab, "start", (0,), "has (0,), expected 2 numbers"),
    (argmax_slab, "start", (0, -1), "has (0, -1), expected none below 0"),
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


def test_resample_refuses_an_image_without_channels() -> None:
    with pytest.raises(ValueError, match=r"`pixels` has shape \(2, 2\), expected 3 or 4 axes"):
        resample(np.zeros((2, 2), np.float32), [[1]], [0], (2,), mode="linear")


def test_resample_does_not_write_over_what_it_reads() -> None:
    pixels = zeros(1, 4, 4)
    with pytest.raises(ValueError, match=r"^resample: `out` overlaps `pixels`, expected it apart$"):
        resample(pixels, np.eye(2), [0, 0], (4, 4), mode="linear", out=pixels)


def test_sides_and_places_are_whole_numbers() -> None:
    halves: Any = (1.5, 1)
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        resample(zeros(1, 4, 4), np.eye(2), [0, 0], halves, mode="linear")
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        blend_windows(zeros(1, 4, 4), zeros(4, 4), zeros(1, 2, 2), zeros(2, 2), halves)
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        argmax_slab(zeros(1, 4, 4), zeros(2, 2, dtype=np.uint8), halves)
