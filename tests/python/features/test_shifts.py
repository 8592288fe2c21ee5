"""Images moved towards other sites' styles, through curves and to other moments, compared with NumPy."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedmed_edge.errors import InputError  # noqa: E402
from fedmed_edge.features.shifts import (  # noqa: E402
    Shift,
    StyleShift,
    draw_curves,
    map_intensities,
    move_amplitude,
    move_moments,
)
from fedmed_edge.recipe import Recipe, Training  # noqa: E402
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


def test_phases_stay_over_the_whole_spectrum() -> None:
    random, size = np.random.default_rng(2), (32, 24)
    images = (1 + random.random((4, 1, *size))).astype(np.float32)  # its middle stays the largest amplitude
    towards = np.stack([style_of(images, size).mean] * 4) + 0.3
    parts = np.linspace(0, 1, 4, dtype=np.float32)
    moved = move_amplitude(*map(torch.from_numpy, (images, towards, parts))).numpy()
    before, after = (np.fft.fft2(one.astype(np.float64)) for one in (images, moved))
    apart = np.angle(after / before)
    assert np.abs(apart[np.abs(before) > 6]).max() < 1e-5


def random_of(seed: int) -> Any:
    return torch.Generator().manual_seed(seed)


def test_a_curve_is_smooth_rises_or_falls_and_keeps_the_range() -> None:
    curves = draw_curves((50, 3), random_of(0))
    ramp = torch.linspace(-2.0, 3.0, 501)  # a channel's own range, whatever the intensity rule
    images = ramp.expand(50, 3, 501).reshape(50, 3, 3, 167)
    risen = map_intensities(images, curves).flatten(2)
    fallen = map_intensities(images, curves.flip(-1)).flatten(2)
    for mapped, first, last in ((risen, -2, 3), (fallen, 3, -2)):
        np.testing.assert_allclose(mapped[..., 0], first, atol=5e-5)
        np.testing.assert_allclose(mapped[..., -1], last, atol=5e-5)
        steps = mapped.diff(dim=-1) * np.sign(last - first)
        assert steps.min() > -2e-5
        # A polynomial of degree 5 over 500 steps: no corner, its slope changes a little at a time.
        assert steps.diff(dim=-1).abs().max() < 2e-3
    spread = risen[..., 250].std()
    assert 0.5 < spread < 1.0  # of a range of 5: about a gamma of 0.6 to 1.7
    np.testing.assert_allclose(risen.mean(dim=(0, 1)), ramp, atol=0.2)


def test_a_curve_is_the_bernstein_polynomial() -> None:
    from scipy.interpolate import BPoly

    curves = draw_curves((2, 1), random_of(1))
    values = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8).expand(2, 1, 8, 8)
    got = map_intensities(values, curves)
    for image, curve in zip(got, curves, strict=True):
        wanted = BPoly(curve[0].double().numpy()[:, None], [0, 1])(values[0, 0].numpy())
        np.testing.assert_allclose(image[0], wanted, atol=1e-5)


def test_a_channel_of_one_value_stays() -> None:
    flat = torch.full((2, 1, 8, 8), 0.3)
    np.testing.assert_allclose(map_intensities(flat, draw_curves((2, 1), random_of(0))), 0.3, atol=1e-6)
    wanted = torch.full((2, 1), 0.5)
    np.testing.assert_allclose(move_moments(flat, wanted, wanted), 0.5, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_moments_are_reached(size: tuple[int, ...]) -> None:
    images = torch.rand(3, 2, *size, generator=random_of(0))
    means, deviations = torch.randn(3, 2, generator=random_of(1)), torch.rand(3, 2, generator=random_of(2))
    moved = move_moments(images, means, deviations).flatten(2).double()
    np.testing.assert_allclose(moved.mean(2), means, atol=1e-5)
    np.testing.assert_allclose(moved.std(2, correction=0), deviations, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_shares_say_how_many_images_are_shifted(size: tuple[int, ...]) -> None:
    images = torch.rand(300, 1, *size, generator=random_of(0))
    recipe = recipe_of(size, 1)
    off = Training().without_shifts()

    def shifted(**shares: float) -> Any:
        return Shift(recipe, how=off.model_copy(update=shares), seed=4)(images)

    assert not Shift(recipe, how=off).moves and torch.equal(shifted(), images)
    for part in ("maps", "moments"):
        changed = (shifted(**{part: 0.3}) != images).flatten(1).any(1).float().mean()
        assert 0.2 < changed < 0.4
    flat = np.zeros((1, *block_shape(size)), np.float32)
    styled = Shift(recipe, styles=[Style(flat, flat)], how=off.model_copy(update={"amplitude": 0.3}))
    assert styled.moves
    changed = ((styled(images) - images).flatten(1).abs().amax(1) > 1e-3).float().mean()
    assert 0.2 < changed < 0.4
    turned = shifted(maps=1.0, inversion=0.3)
    signs = [
        float(torch.corrcoef(torch.stack([a.ravel(), b.ravel()]))[0, 1])
        for a, b in zip(images, turned, strict=True)
    ]
    assert min(np.abs(signs)) > 0.5 and 0.2 < np.mean(np.array(signs) < 0) < 0.4


def test_channels_of_an_image_turn_together_and_a_seed_tells_all() -> None:
    recipe, images = (
        recipe_of((16, 16), 3),
        torch.rand(40, 1, 16, 16, generator=random_of(0)).expand(-1, 3, -1, -1),
    )
    how = Training(maps=1.0, inversion=0.5, moments=1.0)
    one, other = (Shift(recipe, how=how, seed=7)(images) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, Shift(recipe, how=how, seed=8)(images))
    flat = one.flatten(2)
    together = torch.stack([torch.corrcoef(image)[0] for image in flat])
    assert together.min() > 0.5 and not torch.allclose(one[:, 0], one[:, 1], atol=1e-2)
