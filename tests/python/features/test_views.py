import numpy as np
import pytest
from scipy.interpolate import BPoly

from fedmed_edge.features.views import DEGREE, shifted_view
from fedmed_edge.recipe import Training


def image(seed: int, *, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("inversion", [0.0, 1.0])
def test_values_go_through_a_curve_between_their_own_ends(inversion: float) -> None:
    for seed in range(20):
        pixels = image(seed)
        view = shifted_view(pixels, Training(maps=1, inversion=inversion))
        assert view.shape == pixels.shape and view.dtype == np.float32
        for before, after in zip(pixels, view, strict=True):
            along = np.diff(after.ravel()[np.argsort(before.ravel())])
            assert (along <= 1e-5).all() if inversion else (along >= -1e-5).all()
            np.testing.assert_allclose([after.min(), after.max()], [before.min(), before.max()], atol=1e-5)


def test_a_curve_is_a_bernstein_polynomial() -> None:
    pixels = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16)
    view = shifted_view(pixels, Training(maps=1, inversion=0))
    values = pixels.ravel().astype(np.float64)
    basis = [BPoly(np.eye(DEGREE + 1)[:, [power]], [0, 1])(values) for power in range(DEGREE + 1)]
    (found, residual, *_) = np.linalg.lstsq(np.stack(basis, axis=1), view.ravel().astype(np.float64))
    assert residual.sum() < 1e-10 and (np.diff(found) > -1e-5).all()
    np.testing.assert_allclose(found[[0, -1]], [0, 1], atol=1e-5)


def test_an_image_and_the_settings_alone_decide_its_view() -> None:
    views = [shifted_view(image(seed), Training(maps=0.5, inversion=0.5)) for seed in range(400)]
    again = [shifted_view(image(seed).copy(), Training(maps=1, inversion=0.5)) for seed in range(400)]
    other = [shifted_view(image(seed), Training(maps=1, inversion=0.51)) for seed in range(400)]
    for one, same, drawn in zip(views, again, other, strict=True):
        assert (one == same).all()
        # two sums whose views differ for a few images alone would show these by their difference
        assert (one != drawn).any()
    turned = [
        np.corrcoef(image(seed)[0].ravel(), view[0].ravel())[0, 1] < 0 for seed, view in enumerate(views)
    ]
    assert 160 < sum(turned) < 240


def test_an_image_of_one_value_stays() -> None:
    flat = np.full((1, 8, 8), 3.0, np.float32)
    view = shifted_view(flat, Training(maps=1))
    assert (view == flat).all()
