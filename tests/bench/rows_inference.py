"""Sampling on another grid, and sliding windows blended into labels: MONAI's without its network."""

from collections.abc import Callable, Iterator

import harness
import numpy as np
import numpy.typing as npt

from fedmed_edge.images.windows import importance, window_starts
from fedmed_edge.kernels import argmax_slab, blend_windows, resample

Array = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]

CLASSES = 5
WINDOW = (96, 96, 96)
OVERLAP = 0.25


def blend_rows() -> Iterator[harness.Row]:
    """Windows blended into labels."""
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


def resample_rows() -> Iterator[harness.Row]:
    """A turned grid, as a series is brought to the model's: linear, edges repeated."""
    if not harness.available("scipy affine_transform", "scipy"):
        return
    from scipy import ndimage

    for channels, sides in ((3, (512, 512)), (2, (96, 128, 128))):
        if harness.is_quick():
            sides = tuple(side // 4 for side in sides)
        pixels = np.random.default_rng(0).random((channels, *sides), np.float32)
        axes = len(sides)
        matrix = np.eye(axes) + 0.1 * np.random.default_rng(1).uniform(-1, 1, (axes, axes))
        offset = np.full(axes, 0.3)

        def ours(pixels: Array = pixels, matrix: Float64 = matrix, offset: Float64 = offset) -> Array:
            return resample(pixels, matrix, offset, pixels.shape[1:], mode="linear")

        def of_scipy(pixels: Array = pixels, matrix: Float64 = matrix, offset: Float64 = offset) -> Array:
            return np.stack(
                [ndimage.affine_transform(one, matrix, offset, order=1, mode="nearest") for one in pixels]
            )

        case = f"linear, {channels} × {' × '.join(map(str, sides))}"
        error = float(np.abs(ours() - of_scipy()).max())
        peers: list[tuple[str, Callable[[], object]]] = [("scipy affine_transform", of_scipy)]
        if harness.available("torch grid_sample", "torch"):
            peers.append(("torch grid_sample", torch_grid_sample(pixels, matrix, offset)))
        for peer, theirs in peers:
            yield harness.compare("resample", case, peer, ours, theirs, error=error, error_bound=1e-6)


def torch_grid_sample(pixels: Array, matrix: Float64, offset: Float64) -> Callable[[], object]:
    """The same with torch, which takes the places of all samples: to make them is part of the work."""
    import torch

    torch.set_num_threads(1)
    sides = pixels.shape[1:]
    scale = np.array([2.0 / side for side in sides])
    # Its places run from -1 to 1 along the axes in reverse, pixel centres half a pixel inside.
    centres = [(2 * torch.arange(side) + 1) / side - 1 for side in sides]
    turn = torch.from_numpy(np.asarray(matrix * scale[:, None] / scale, np.float32))
    first = (offset + matrix @ np.full(len(sides), -0.5)) * scale
    first += turn.numpy().sum(axis=1) + scale / 2 - 1
    shift = torch.from_numpy(np.asarray(first, np.float32))
    given = torch.from_numpy(pixels)[None]

    def call() -> object:
        places = torch.stack(torch.meshgrid(*centres, indexing="ij"), -1) @ turn.T + shift
        return torch.nn.functional.grid_sample(
            given, places.flip(-1)[None], padding_mode="border", align_corners=False
        )

    return call


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


ROWS = {"resample": resample_rows, "blend_windows": blend_rows, "argmax_slab": blend_rows}
