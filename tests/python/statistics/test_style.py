"""Log-amplitude of the low frequencies, against the plain centred spectrum."""

import numpy as np
import pytest
import scipy.fft

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.style import FLOOR, block_shape, log_amplitude


def centred(plane: np.ndarray) -> np.ndarray:
    height, width = block_shape(plane.shape)
    spectrum = scipy.fft.fftshift(np.abs(scipy.fft.fft2(plane))) / plane.size
    row, column = plane.shape[0] // 2 - height // 2, plane.shape[1] // 2 - width // 2
    return np.asarray(np.log(spectrum[row : row + height, column : column + width] + FLOOR))


@pytest.mark.parametrize("size", [(64, 64), (128, 96), (33, 47), (8, 8)])
def test_block_is_the_middle_of_the_centred_spectrum(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).normal(size=(3, *size)).astype(np.float32)
    wanted = np.stack([centred(channel.astype(np.float64)) for channel in pixels])
    np.testing.assert_allclose(log_amplitude(pixels), wanted, rtol=1e-10, atol=1e-10)


def test_a_volume_gives_the_mean_over_its_axial_slices() -> None:
    pixels = np.random.default_rng(1).normal(size=(1, 40, 40, 6)).astype(np.float32)
    wanted = np.mean([log_amplitude(pixels[..., index]) for index in range(6)], axis=0)
    np.testing.assert_allclose(log_amplitude(pixels), wanted, rtol=1e-12)


def test_a_larger_grid_is_cropped_to_its_middle() -> None:
    pixels = np.random.default_rng(2).normal(size=(1, 50, 60, 4)).astype(np.float32)
    np.testing.assert_array_equal(log_amplitude(pixels, (40, 40, 40)), log_amplitude(pixels[:, 5:45, 10:50]))


def test_an_image_of_one_value_has_a_finite_spectrum() -> None:
    block = log_amplitude(np.full((1, 32, 32), 0.5, np.float32))
    assert np.isfinite(block).all()
    assert block[0, 1, 1] == pytest.approx(np.log(0.5 + FLOOR))


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="`pixels` has 2 axes, expected 3 or 4"):
        log_amplitude(np.ones((32, 32)))
    with pytest.raises(InputError, match=r"`pixels` has size \(16, 16\), expected at least \(32, 32\)"):
        log_amplitude(np.ones((1, 16, 16)), (32, 32))
