"""Images moved towards other sites' styles, compared with NumPy."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedmed_edge.errors import InputError  # noqa: E402
from fedmed_edge.features.shifts import StyleShift, move_amplitude  # noqa: E402
from fedmed_edge.recipe import Recipe  # noqa: E402
from fedmed_edge.statistics.style import FLOOR, Style, block_shape, log_amplitude  # noqa: E402

SIZES = [(40, 32), (33, 21), (24, 20, 8)]


def recipe_of(size: tuple[int, ...], channels: int) -> Recipe:
    volumes: dict[str, Any] = {"spacing_mm": (1.0, 1.0, 1.0)} if len(size) == 3 else {}
    classes = ("benign", "malignant")
    return Recipe(name="r", kind="classification", classes=classes, channels=channels, size=size, **volumes)


def style_of(images: np.ndarray, size: tuple[int, ...]) -> Style:
    logs = np.stack([log_amplitude(image, size) for image in images])
    return Style(logs.mean(axis=0).astype(np.float32), logs.std(axis=0).astype(np.float32))


def moved_definition(image: np.ndarray, towards: np.ndarray, part: float) -> np.ndarray:
    """One image, slice by slice: amplitude to the power of the way, phase as it was."""
    slices = image[..., None] if image.ndim == 3 else image
    height, width = towards.shape[1:]
    made = np.empty(slices.shape)
    for channel, number in np.ndindex(slices.shape[0], slices.shape[3]):
        spectrum = np.fft.fftshift(np.fft.fft2(slices[channel, :, :, number].astype(np.float64)))
        top, left = spectrum.shape[0] // 2 - height // 2, spectrum.shape[1] // 2 - width // 2
        block = spectrum[top : top + height, left : left + width]
        now = np.log(np.abs(block) / spectrum.size + FLOOR)
        wanted = (1 - part) * now + part * towards[channel]
        amplitude = np.abs(block) * np.exp(wanted - now)
        spectrum[top : top + height, left : left + width] = amplitude * np.exp(1j * np.angle(block))
        made[channel, :, :, number] = np.fft.ifft2(np.fft.ifftshift(spectrum)).real
    return made.reshape(image.shape)


@pytest.mark.parametrize("size", SIZES)
def test_amplitude_moves_a_part_of_the_way_and_phase_stays(size: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    images = random.random((3, 2, *size)).astype(np.float32)
    other = style_of(0.3 * random.random((5, 2, *size)).astype(np.float32), size)
    parts = np.array([0.0, 0.4, 1.0], np.float32)
    towards = np.stack([other.mean] * 3)
    got = move_amplitude(*map(torch.from_numpy, (images, towards, parts))).numpy()
    wanted = np.stack([moved_definition(*one) for one in zip(images, towards, parts.tolist(), strict=True)])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    np.testing.assert_allclose(got[0], images[0], atol=2e-6)
    if len(size) == 2:  # the end of the way: the image has that site's log-amplitude
        np.testing.assert_allclose(log_amplitude(got[2], size), other.mean, atol=5e-3)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_drawn_is_as_wide_as_the_site_says_and_gives_real_images(size: tuple[int, ...]) -> None:
    random, block = np.random.default_rng(1), block_shape(size)
    style = style_of(random.random((5, 1, *size)).astype(np.float32), size)
    wide = Style(style.mean, np.full_like(style.deviation, 0.5))
    shift = StyleShift([wide], recipe_of(size, 1), seed=3)
    drawn: list[torch.Tensor] = []

    def noted(images: Any, towards: Any, parts: Any) -> Any:
        drawn.append(towards)
        assert parts.min() >= 0 and parts.max() <= 1
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedmed_edge.features.shifts.move_amplitude", noted)
        shift(torch.zeros(400, 1, *size))
    (towards,) = drawn
    assert towards.shape == (400, 1, *block)
    np.testing.assert_allclose(towards.std(dim=0), 0.5, rtol=0.2)
    np.testing.assert_allclose(towards.mean(dim=0), style.mean, atol=0.12)
    np.testing.assert_allclose(towards - towards.mean(dim=0), (towards - towards.mean(dim=0)).flip(-1, -2))


def test_the_same_seed_draws_the_same_and_every_site_has_its_turn() -> None:
    size = (32, 32)
    flat = np.zeros((1, *block_shape(size)), np.float32)
    styles = [Style(flat - 1, flat), Style(flat - 9, flat)]
    images = torch.rand(64, 1, *size, generator=torch.Generator().manual_seed(3))
    one, other = (StyleShift(styles, recipe_of(size, 1), seed=5)(images) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, StyleShift(styles, recipe_of(size, 1), seed=6)(images))
    means = one.mean(dim=(1, 2, 3))
    assert means.min() < 0.1 and means.max() < 0.55


def test_a_style_of_other_images_is_refused() -> None:
    wrong = np.zeros((1, 3, 3), np.float32)
    with pytest.raises(InputError, match=r"style: has shape \(1, 3, 3\), expected \(3, 3, 3\)"):
        StyleShift([Style(wrong, wrong)], recipe_of((32, 32), 3))
