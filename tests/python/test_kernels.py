"""Each kernel against its plain NumPy definition, its algebra, and its refusals."""

import itertools
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from fedmed_edge.errors import InputError
from fedmed_edge.kernels import blend_windows, channel_moments, class_gram, resample, thread_count

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]


# --- definitions ---------------------------------------------------------------------------------------


def class_gram_definition(rows: Array, classes: npt.NDArray[np.int32], grams: Array64) -> None:
    upper = np.triu_indices(rows.shape[1])
    for row, label in zip(rows.astype(np.float64), classes, strict=True):
        if label >= 0:
            grams[label] += np.outer(row, row)[upper]


def channel_moments_definition(maps: Array) -> tuple[int, Array64, Array64]:
    values = maps.reshape(len(maps), -1).astype(np.float64)
    return values.shape[1], values.sum(axis=1), (values**2).sum(axis=1)


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


# --- what they compute -----------------------------------------------------------------------------------

numbers = st.floats(-1e4, 1e4, width=32)


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


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=4, max_side=7), elements=numbers))
def test_channel_moments_are_their_definition(maps: Array) -> None:
    count, sums, squares = channel_moments(maps)
    expected = channel_moments_definition(maps)
    assert count == expected[0]
    np.testing.assert_allclose(sums, expected[1], rtol=0, atol=1e-12 * np.abs(maps).sum())
    np.testing.assert_allclose(squares, expected[2], rtol=1e-12)


def test_channel_moments_keep_what_float32_sums_would_lose() -> None:
    maps = np.random.default_rng(0).normal(1000, 1, (2, 300, 400)).astype(np.float32)
    _, sums, squares = channel_moments(maps)
    for channel, values in enumerate(maps.reshape(2, -1).tolist()):
        assert sums[channel] == pytest.approx(math.fsum(values), rel=1e-13)
        assert squares[channel] == pytest.approx(math.fsum(v * v for v in values), rel=1e-13)


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
    ndimage = pytest.importorskip("scipy.ndimage")
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


# --- threads and processes -------------------------------------------------------------------------------


def everything() -> list[bytes]:
    """Bits of every kernel on work that is large enough for several threads."""
    rng = np.random.default_rng(7)
    rows, classes = (
        rng.normal(size=(1500, 200)).astype(np.float32),
        rng.integers(-1, 4, 1500).astype(np.int32),
    )
    maps = rng.normal(size=(3, 40, 80, 90)).astype(np.float32)
    _, sums, squares = channel_moments(maps)
    turn = np.array([[0.9, -0.3, 0.1], [0.3, 0.9, 0.05], [-0.1, 0.0, 0.8]])
    total, weight = np.zeros((3, 50, 90, 95), np.float32), np.zeros((50, 90, 95), np.float32)
    for start in ((0, 0, 0), (10, 10, 5), (30, 20, 20)):
        blend_windows(total, weight, maps, maps[0], start)
    results = [
        grams_of(rows, classes, 4),
        sums,
        squares,
        resample(maps, turn, [1, 2, 3], (40, 41, 42), mode="linear"),
        resample(maps, np.diag([0.7, 0.8, 0.9]), [1, 2, 3], (40, 41, 42), mode="nearest"),
        total,
        weight,
    ]
    return [result.tobytes() for result in results]


def test_thread_count_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_THREADS", "1")
    alone = everything()
    for threads in ("2", "3", "7"):
        monkeypatch.setenv("FEDMED_THREADS", threads)
        assert everything() == alone


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_instruction_set_does_not_change_a_bit() -> None:
    code = (
        "import numpy as np; from fedmed_edge import _kernels; from fedmed_edge.kernels import class_gram\n"
        "rng = np.random.default_rng(7); rows = rng.normal(size=(1500, 131)).astype(np.float32)\n"
        "classes = rng.integers(-1, 2, 1500).astype(np.int32)\n"
        "grams = np.zeros((2, 131 * 66)); class_gram(rows, classes, grams)\n"
        "import hashlib; print(_kernels.instruction_set(), hashlib.sha256(grams).hexdigest())"
    )
    unknown = run_python(code, FEDMED_ISA="mmx")
    assert "FEDMED_ISA: has `mmx`, expected one of" in unknown.stderr
    digests = set()
    for name in ("baseline", "avx2", "avx512"):
        if f"`{name}`" in unknown.stderr:
            used, digest = run_python(code, FEDMED_ISA=name).stdout.split()
            assert used == name
            digests.add(digest)
    assert len(digests) == 1


def test_a_forked_process_goes_on_calling_kernels() -> None:
    code = (
        "import os, numpy as np; from fedmed_edge.kernels import channel_moments\n"
        "maps = np.ones((8, 1 << 17), np.float32); expected = channel_moments(maps)[1].tolist()\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0 if channel_moments(maps)[1].tolist() == expected else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0"
    )
    done = run_python(code, FEDMED_THREADS="4")
    assert done.returncode == 0, done.stderr


def test_thread_count_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_THREADS", "3")
    assert thread_count() == 3
    monkeypatch.setenv("FEDMED_THREADS", "")
    assert thread_count() == min(os.cpu_count() or 1, 256)
    for wrong in ("0", "-1", "two", "257", "1.5"):
        monkeypatch.setenv("FEDMED_THREADS", wrong)
        with pytest.raises(InputError, match=f"^FEDMED_THREADS: has `{wrong}`, expected a whole number"):
            thread_count()


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
    channel_moments: {"maps": zeros(2, 3)},
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
    (channel_moments, "maps", zeros(5), "has shape (5,), expected 2 or more axes"),
    (channel_moments, "maps", zeros(2, 3, dtype=np.float16), "has dtype float16, expected float32"),
    (channel_moments, "maps", zeros(2, 6)[:, ::2], "has strides, expected a C-contiguous array"),
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
]


@pytest.mark.parametrize(("kernel", "argument", "wrong", "message"), REFUSALS)
def test_what_does_not_fit_is_refused(
    kernel: Callable[..., object], argument: str, wrong: object, message: str
) -> None:
    kernel(**GOOD[kernel])
    with pytest.raises(ValueError, match=f"^{kernel.__name__}: `{argument}` {re.escape(message)}$"):
        kernel(**{**GOOD[kernel], argument: wrong})


def test_resample_refuses_an_image_without_channels() -> None:
    with pytest.raises(ValueError, match=r"`pixels` has shape \(2, 2\), expected 3 or 4 axes"):
        resample(np.zeros((2, 2), np.float32), [[1]], [0], (2,), mode="linear")


def test_a_refused_call_leaves_its_sums_alone() -> None:
    grams = np.ones((1, 3))
    with pytest.raises(ValueError, match="has 1 at index 1"):
        class_gram(np.ones((2, 2), np.float32), np.array([0, 1], np.int32), grams)
    np.testing.assert_array_equal(grams, np.ones((1, 3)))
