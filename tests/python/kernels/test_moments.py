"""Moments of channels and of spectra against their plain NumPy definitions, and their refusals."""

import math
from collections.abc import Callable

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from scipy import fft

from fedmed_edge.kernels import amplitude_moments, channel_moments

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]

numbers = st.floats(-1e4, 1e4, width=32)


def channel_moments_definition(maps: Array, channel_axis: int = 0) -> tuple[int, Array64, Array64]:
    values = np.moveaxis(maps, channel_axis, 0).reshape(maps.shape[channel_axis], -1).astype(np.float64)
    return values.shape[1], values.sum(axis=1), (values**2).sum(axis=1)


def amplitude_moments_definition(
    pixels: Array, block: tuple[int, int], floor: float
) -> tuple[int, Array64, Array64]:
    planes = pixels if pixels.ndim == 4 else pixels[..., None]
    spectrum = np.abs(np.fft.fft2(planes.astype(np.float64), axes=(1, 2))) / math.prod(planes.shape[1:3])
    rows, columns = (np.arange(-(side // 2), side // 2 + 1) for side in block)
    logarithm = np.log(spectrum[:, rows][:, :, columns] + floor)
    return planes.shape[3], logarithm.sum(axis=3), (logarithm**2).sum(axis=3)


@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=4, max_side=7), elements=numbers),
    st.integers(-2, 1),
)
def test_channel_moments_are_their_definition(maps: Array, channel_axis: int) -> None:
    got = channel_moments(maps, channel_axis=channel_axis)
    assert_moments(got, channel_moments_definition(maps, channel_axis), maps)


def assert_moments(
    got: tuple[int, Array64, Array64], wanted: tuple[int, Array64, Array64], maps: Array
) -> None:
    assert got[0] == wanted[0]
    np.testing.assert_allclose(got[1], wanted[1], rtol=0, atol=1e-12 * np.abs(maps).sum())
    np.testing.assert_allclose(got[2], wanted[2], rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 3, 8, 9, 63, 64, 65, 200])
@pytest.mark.parametrize("values", [(1, 1), (3, 5), (7, 7), (33, 31)])
def test_layouts_of_a_batch_agree(channels: int, values: tuple[int, int]) -> None:
    batch = np.random.default_rng(channels).normal(3, 1, (5, channels, *values)).astype(np.float32)
    wanted = channel_moments_definition(batch, 1)
    last = np.ascontiguousarray(np.moveaxis(batch, 1, -1))
    assert_moments(channel_moments(batch, channel_axis=1), wanted, batch)
    assert_moments(channel_moments(last, channel_axis=-1), wanted, batch)
    # as torch's channels_last has it: the shape of one, the memory of the other
    assert_moments(channel_moments(np.moveaxis(last, -1, 1), channel_axis=1), wanted, batch)


def test_moments_of_a_batch_are_the_sum_over_its_images_of_whole_numbers() -> None:
    batch = np.random.default_rng(0).integers(-9, 9, (4, 6, 300, 301)).astype(np.float32)
    _, sums, squares = channel_moments(batch, channel_axis=1)
    alone = [channel_moments(image) for image in batch]
    np.testing.assert_array_equal(sums, np.sum([one[1] for one in alone], axis=0))
    np.testing.assert_array_equal(squares, np.sum([one[2] for one in alone], axis=0))


def test_channel_moments_keep_what_float32_sums_would_lose() -> None:
    maps = np.random.default_rng(0).normal(1000, 1, (2, 300, 400)).astype(np.float32)
    _, sums, squares = channel_moments(maps)
    for channel, values in enumerate(maps.reshape(2, -1).tolist()):
        assert sums[channel] == pytest.approx(math.fsum(values), rel=1e-13)
        assert squares[channel] == pytest.approx(math.fsum(v * v for v in values), rel=1e-13)


@st.composite
def spectra(draw: st.DrawFn) -> tuple[Array, tuple[int, int]]:
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    slices = draw(st.sampled_from(((), (1,), (5,), (16,), (19,))))
    pixels = np.random.default_rng(rows * columns).normal(
        size=(draw(st.integers(1, 3)), rows, columns, *slices)
    )
    block = tuple(2 * draw(st.integers(0, (side - 1) // 2)) + 1 for side in (rows, columns))
    return pixels.astype(np.float32), (block[0], block[1])


@given(spectra())
def test_amplitude_moments_are_their_definition(problem: tuple[Array, tuple[int, int]]) -> None:
    pixels, block = problem
    count, sums, squares = amplitude_moments(pixels, block, floor=1e-6)
    wanted = amplitude_moments_definition(pixels, block, 1e-6)
    assert count == wanted[0]
    np.testing.assert_allclose(sums, wanted[1], rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(squares, wanted[2], rtol=1e-9, atol=1e-7)


def test_amplitudes_agree_with_scipy_on_a_large_image_far_from_zero() -> None:
    image = np.random.default_rng(3).normal(1000, 1, (1, 384, 512)).astype(np.float32)
    spectrum = fft.fftshift(np.abs(fft.fft2(image[0].astype(np.float64)))) / image.size
    _, sums, _ = amplitude_moments(image, (39, 51), floor=1e-6)
    wanted = np.log(spectrum[192 - 19 : 192 + 20, 256 - 25 : 256 + 26] + 1e-6)
    np.testing.assert_allclose(sums[0], wanted, rtol=0, atol=1e-9)


# --- refusals --------------------------------------------------------------------------------------------


def zeros(*shape: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
    return np.zeros(shape, dtype)


# A good call of each kernel; each refusal changes one argument of it.
GOOD: dict[Callable[..., object], dict[str, object]] = {
    channel_moments: {"maps": zeros(2, 3), "channel_axis": 0},
    amplitude_moments: {"pixels": zeros(1, 6, 5), "block": (3, 5), "floor": 1e-6},
}

REFUSALS: list[tuple[Callable[..., object], str, object, str]] = [
    (channel_moments, "maps", zeros(5), "has shape (5,), expected 2 or more axes"),
    (channel_moments, "maps", zeros(2, 3, dtype=np.float16), "has dtype float16, expected float32"),
    (channel_moments, "maps", zeros(2, 6)[:, ::2], "has strides, expected a C-contiguous array"),
    (channel_moments, "maps", zeros(2, 6, 4)[:, ::2], "has strides, expected a C-contiguous array"),
    (channel_moments, "channel_axis", 2, "has 2, expected an axis of shape (2, 3)"),
    (channel_moments, "channel_axis", -3, "has -3, expected an axis of shape (2, 3)"),
    (amplitude_moments, "pixels", zeros(6, 5), "has shape (6, 5), expected 3 or 4 axes"),
    (amplitude_moments, "pixels", zeros(1, 6, 5, dtype=np.float64), "has dtype float64, expected float32"),
    (amplitude_moments, "pixels", zeros(1, 6, 10)[..., ::2], "has strides, expected a C-contiguous array"),
    (amplitude_moments, "block", (2, 5), "has (2, 5), expected odd sides within (6, 5)"),
    (amplitude_moments, "block", (7, 5), "has (7, 5), expected odd sides within (6, 5)"),
    (amplitude_moments, "floor", 0.0, "has 0.000000, expected above 0"),
    (amplitude_moments, "floor", math.nan, "has nan, expected above 0"),
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
