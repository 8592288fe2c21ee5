"""Sliding windows blended into labels, against MONAI's without its network."""

from collections.abc import Callable, Iterator

import harness
import numpy as np
import numpy.typing as npt

from fedmed_edge.images.windows import importance, window_starts
from fedmed_edge.kernels import argmax_slab, blend_windows

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

CLASSES = 5
WINDOW = (96, 96, 96)
OVERLAP = 0.25


def rows(selected: Callable[[str], bool]) -> Iterator[harness.Row]:
    """Every comparison of the kernels that are selected."""
    if not (selected("blend_windows") or selected("argmax_slab")):
        return
    if not harness.available("monai blend", "monai", "torch"):
        return
    grid = [120, 160, 160] if harness.is_quick() else [300, 512, 512]
    import torch

    mine, other = prepare_ours(grid), prepare_monai(grid)
    # MONAI multiplies what the network hands over in place: here it gets a fresh one for each window.
    answer = torch.from_numpy(mine)[None]
    differing = float(np.mean(ours(mine, grid) != monai((other[0], lambda _: answer.clone()), grid)))
    memory = [harness.peak_memory(__file__, name, grid=grid) for name in ("ours", "monai")]
    yield harness.compare(
        "blend_windows",
        f"blend + argmax, {' × '.join(map(str, grid))}, {CLASSES} classes",
        "monai blend",
        lambda: ours(mine, grid),
        lambda: monai(other, grid),
        # cells whose label differs: classes that are equal to a rounding
        error=differing,
        error_bound=1e-5,
        memory_ratio=memory[1] / memory[0],
    )


def prepare_ours(grid: list[int]) -> Array:
    """What the network would answer for every window."""
    return np.random.default_rng(0).random((CLASSES, *WINDOW), np.float32)


def ours(window: Array, grid: list[int]) -> Labels:
    """Labels of the whole grid; totals are kept for the windows' width of its last axis alone."""
    labels, weights = np.empty(grid, np.uint8), importance(WINDOW)
    width = WINDOW[-1]
    total = np.zeros((CLASSES, *grid[:-1], width), np.float32)
    weight = np.zeros(total.shape[1:], np.float32)
    starts = window_starts(tuple(grid), WINDOW, OVERLAP)
    firsts = sorted({start[-1] for start in starts})
    for first, following in zip(firsts, [*firsts[1:], grid[-1]], strict=True):
        for start in starts:
            if start[-1] == first:
                blend_windows(total, weight, window, weights, (*start[:-1], 0))
        # No later window reaches these columns.
        done = following - first
        slab = np.empty((*grid[:-1], done), np.uint8)
        argmax_slab(total, slab)
        labels[..., first:following] = slab
        for sums in (*total, weight):
            sums[..., : width - done] = sums[..., done:]
            sums[..., width - done :] = 0
    return labels


def prepare_monai(grid: list[int]) -> tuple[object, Callable[[object], object]]:
    """The volume that is looked at, which MONAI needs, and a network that answers 0 for every window.

    MONAI multiplies the answer in place: zeros stay what they are, so that no window need be made anew.
    """
    import monai.inferers  # noqa: F401
    import torch

    torch.set_num_threads(1)
    nothing = torch.zeros((1, CLASSES, *WINDOW))
    return torch.zeros((1, 1, *grid)), lambda _: nothing


def monai(prepared: tuple[object, Callable[[object], object]], grid: list[int]) -> Labels:
    """Labels as users of MONAI get them: its sliding window, and the largest class."""
    import torch
    from monai.inferers import sliding_window_inference

    volume, network = prepared
    whole = sliding_window_inference(
        volume, WINDOW, 1, network, overlap=OVERLAP, mode="gaussian", sigma_scale=0.125
    )
    labels: Labels = whole.argmax(dim=1)[0].to(torch.uint8).numpy()
    return labels
