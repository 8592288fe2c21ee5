"""Intensity rules measured part by part against numpy on the whole."""

from typing import Any

import numpy as np
import pytest

from fedmed_edge.images import intensity
from fedmed_edge.images.intensity import measure_scaling, scale_intensity
from fedmed_edge.recipe import Intensity

VOLUMES = {
    "grey": np.random.default_rng(0).normal(100, 400, (1, 30, 20, 11)).astype(np.float32),
    "tiny": np.random.default_rng(1).normal(0, 1e-30, (1, 20, 20, 5)).astype(np.float32),
    "mostly air": np.maximum(np.random.default_rng(2).normal(-3, 2, (1, 40, 30)), 0).astype(np.float32),
    "turned": np.random.default_rng(3).normal(0, 9, (1, 9, 30, 20)).astype(np.float32).transpose(0, 3, 1, 2),
    "whole": np.random.default_rng(4).integers(-1024, 3071, (1, 30, 20, 11)).astype(np.int16),
}


@pytest.mark.parametrize("name", VOLUMES)
@pytest.mark.parametrize("shares", [(0.5, 99.5), (0.0, 100.0), (33.3, 33.4), (12.0, 50.0)])
def test_percentiles_in_parts_are_numpys(
    name: str, shares: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intensity, "_PART_VALUES", 500)
    pixels: np.ndarray[Any, Any] = VOLUMES[name]
    got = intensity._percentiles(pixels, shares)
    np.testing.assert_allclose(got, np.percentile(pixels.astype(np.float32), shares), rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("name", sorted({*VOLUMES} - {"tiny"}))
def test_zscore_in_parts_is_that_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "_PART_VALUES", 500)
    pixels = VOLUMES[name]
    exact = pixels.astype(np.float64)
    expected = (exact - exact.mean()) / exact.std()
    np.testing.assert_allclose(scale_intensity(pixels, Intensity(rule="zscore")), expected, atol=2e-5)


def test_a_part_is_scaled_as_the_whole_is() -> None:
    pixels = VOLUMES["grey"]
    for rule in ("range", "percentile", "zscore"):
        scaling = measure_scaling(pixels, Intensity(rule=rule))
        np.testing.assert_array_equal(
            scaling.apply(pixels[:, 3:9]), scale_intensity(pixels, Intensity(rule=rule))[:, 3:9]
        )


def test_a_flat_image_becomes_0_under_every_measured_rule() -> None:
    flat = np.full((1, 4, 5), 7, np.float32)
    for rule in ("percentile", "zscore"):
        assert not scale_intensity(flat, Intensity(rule=rule)).any()
