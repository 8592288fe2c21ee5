"""Sliding windows against MONAI's."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from fedmed_edge.errors import InputError
from fedmed_edge.images.windows import OVERLAP, blended, cover, importance, window_of, window_starts

sizes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 16)), min_size=2, max_size=3)


@given(sizes, st.floats(0, 0.95))
def test_every_point_is_covered_and_no_window_hangs_over(
    sides: list[tuple[int, int]], overlap: float
) -> None:
    grid, size = zip(*[(max(side, window), window) for side, window in sides], strict=True)
    covered = np.zeros(grid, bool)
    for start in window_starts(grid, size, overlap):
        region = tuple(slice(first, first + window) for first, window in zip(start, size, strict=True))
        assert all(part.stop <= side for part, side in zip(region, grid, strict=True))
        covered[region] = True
    assert covered.all()


def test_windows_are_monais() -> None:
    utils = pytest.importorskip("monai.data.utils")
    inferer = pytest.importorskip("monai.inferers.utils")
    for grid, size, overlap in [
        ((50, 60, 70), (16, 16, 16), 0.25),
        ((16, 31, 17), (16, 16, 16), 0.5),
        ((100, 90), (48, 32), 0.6),
    ]:
        interval = inferer._get_scan_interval(grid, size, len(grid), [overlap] * len(grid))
        wanted = [
            tuple(int(part.start) for part in s) for s in utils.dense_patch_slices(grid, size, interval)
        ]
        assert window_starts(grid, size, overlap) == wanted
    for size in [(16, 16), (8, 9, 10), (48, 48, 48)]:
        wanted = utils.compute_importance_map(size, "gaussian", 0.125).numpy()
        np.testing.assert_allclose(importance(size), wanted, rtol=1e-5)


@pytest.mark.parametrize(("grid", "size"), [((37, 41), (16, 24)), ((20, 25, 18), (8, 12, 16))])
def test_blended_answers_are_monais(grid: tuple[int, ...], size: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    inferers = pytest.importorskip("monai.inferers")
    pixels = np.random.default_rng(0).normal(size=(2, *grid)).astype(np.float32)

    def answer(windows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """Three channels that depend on where in its window a point lies; the batch comes first."""
        place = np.indices(size).sum(axis=0, dtype=np.float32)
        first, second = (
            windows[..., 0, *[slice(None)] * len(size)],
            windows[..., 1, *[slice(None)] * len(size)],
        )
        return np.stack([first + place, first * second, second - place], axis=-len(size) - 1)

    got = blended(pixels, size, answer, channels=3)
    wanted = inferers.sliding_window_inference(
        torch.from_numpy(pixels)[None],
        size,
        4,
        lambda windows: torch.from_numpy(answer(windows.numpy())),
        overlap=OVERLAP,
        mode="gaussian",
    )
    np.testing.assert_allclose(got, wanted[0].numpy(), rtol=1e-4, atol=1e-4)


def test_a_grid_of_the_windows_size_is_answered_as_it_is() -> None:
    pixels = np.random.default_rng(0).normal(size=(1, 8, 9)).astype(np.float32)
    np.testing.assert_array_equal(blended(pixels, (8, 9), lambda window: window * 3, channels=1), pixels * 3)


def test_windows_side_by_side_are_views_that_cover_all() -> None:
    pixels = np.arange(5 * 7, dtype=np.float32).reshape(1, 5, 7)
    windows = list(cover(pixels, (3, 4)))
    assert all(window.base is not None and window.shape == (1, 3, 4) for window in windows)
    assert [window[0, 0, 0] for window in windows] == [0, 3, 14, 17]
    assert set(np.concatenate([window.ravel() for window in windows])) == set(pixels.ravel())
    np.testing.assert_array_equal(window_of(pixels, (2, 3), (3, 4)), pixels[:, 2:, 3:])


def test_a_window_larger_than_the_grid_starts_at_0() -> None:
    assert window_starts((5, 20), (8, 8), 0.5) == [(0, 0), (0, 4), (0, 8), (0, 12)]


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_an_overlap_out_of_range_is_refused(overlap: float) -> None:
    with pytest.raises(InputError, match=r"windows: `overlap` has .*, expected 0 to below 1"):
        window_starts((8, 8), (4, 4), overlap)
