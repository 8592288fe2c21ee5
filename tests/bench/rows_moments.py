"""Moments of channels and spectra, and ridge solutions, against torch, NumPy and SciPy."""

from collections.abc import Callable, Iterator

import harness
import numpy as np
import numpy.typing as npt

from fedmed_edge.kernels import amplitude_moments, channel_moments, held_out_losses, ridge_solve

Array = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BATCHES = {
    "64 × 256 × 56 × 56": (64, 256, 56, 56),
    "64 × 1024 × 14 × 14": (64, 1024, 14, 14),
    "64 × 2048 × 7 × 7": (64, 2048, 7, 7),
    "2 × 32 × 64 × 96 × 96": (2, 32, 64, 96, 96),
}
# Side of an image and half the side of its block of low frequencies: a tenth, as the style's is.
IMAGES = ((128, 6), (224, 11), (512, 25))


def channel_rows() -> Iterator[harness.Row]:
    """Batches of feature maps, both orders in memory."""
    for case, shape in BATCHES.items():
        yield from of_channels(case, (2, *shape[1:]) if harness.is_quick() else shape)


def spectrum_rows() -> Iterator[harness.Row]:
    """Low frequencies of images."""
    for side, half in IMAGES[:1] if harness.is_quick() else IMAGES:
        yield from of_spectra(side, half)


def ridge_rows() -> Iterator[harness.Row]:
    """Solutions at several ridges."""
    for width in (128,) if harness.is_quick() else (512, 1025):
        yield from of_ridges(width)


def loss_rows() -> Iterator[harness.Row]:
    """Losses of several heads on rows held out, from their sums or from the rows themselves."""
    rng = np.random.default_rng(0)
    width, classes, count = (128 if harness.is_quick() else 1025), 10, 4096
    rows, targets = rng.standard_normal((count, width)), rng.standard_normal((count, classes))
    heads = rng.standard_normal((6, width, classes)) / width
    upper, cross, constant = np.triu(rows.T @ rows), rows.T @ targets, float((targets**2).sum())
    gram = upper + np.triu(upper, 1).T

    def of_gram() -> Float64:
        return np.array([constant + np.sum(head * (gram @ head - 2 * cross)) for head in heads])

    def of_rows() -> Float64:
        return np.array([((targets - rows @ head) ** 2).sum() for head in heads])

    exact = of_rows()
    error = float(np.abs(held_out_losses(heads, upper, cross, constant) / exact - 1).max())
    for peer, theirs in (("numpy float64", of_gram), ("numpy rows", of_rows)):
        yield harness.compare(
            "held_out_losses",
            f"D = {width}, {classes} classes, {len(heads)} heads, {count} rows",
            peer,
            lambda: held_out_losses(heads, upper, cross, constant),
            theirs,
            error=error,
            error_bound=1e-11,
        )


def of_channels(case: str, shape: tuple[int, ...]) -> Iterator[harness.Row]:
    batch = np.random.default_rng(0).standard_normal(shape, np.float32)
    axes = (0, *range(2, len(shape)))
    channels_last = np.ascontiguousarray(np.moveaxis(batch, 1, -1))
    exact = np.sum(batch[:, 0].astype(np.longdouble) ** 2)
    for layout, maps, axis in (("", batch, 1), (", channels last", channels_last, -1)):

        def ours(maps: Array = maps, axis: int = axis) -> object:
            return channel_moments(maps, channel_axis=axis)

        error = float(abs(channel_moments(maps, channel_axis=axis)[2][0] / exact - 1))
        named = {"error": error, "error_bound": 1e-13}
        over = tuple(place for place in range(maps.ndim) if place != axis % maps.ndim)

        def of_numpy(
            dtype: npt.DTypeLike, maps: Array = maps, over: tuple[int, ...] = over
        ) -> Callable[[], object]:
            return lambda: (maps.mean(over, dtype=dtype), maps.var(over, dtype=dtype))

        if harness.available("torch var_mean", "torch"):
            import torch

            torch.set_num_threads(1)
            tensor = torch.from_numpy(np.moveaxis(maps, axis, 1))

            def theirs(tensor: torch.Tensor = tensor) -> object:
                return torch.var_mean(tensor, axes)

            yield harness.compare("channel_moments", case + layout, "torch var_mean", ours, theirs, **named)
        for name, dtype in (("numpy float32", np.float32), ("numpy float64", np.float64)):
            yield harness.compare("channel_moments", case + layout, name, ours, of_numpy(dtype), **named)


def of_spectra(side: int, half: int) -> Iterator[harness.Row]:
    image = np.random.default_rng(0).standard_normal((3, side, side), np.float32)
    places = np.arange(-half, half + 1)
    case = f"3 × {side} × {side}, block {2 * half + 1}"
    times = 2_000_000 // side**2 + 1

    def ours() -> object:
        for _ in range(times):
            sums = amplitude_moments(image, (2 * half + 1, 2 * half + 1), floor=1e-6)[1]
        return sums

    def block(half_spectrum: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.floating]:
        """Of a real transform: the columns v ≥ 0 hold what the others repeat."""
        return np.log(np.abs(half_spectrum[:, places, : half + 1]) / side**2 + 1e-6)

    exact = block(np.fft.rfft2(image.astype(np.float64)))
    error = float(np.abs(np.asarray(ours())[:, :, half:] - exact).max())
    if harness.available("scipy rfft2", "scipy"):
        import scipy.fft

        def of_scipy() -> None:
            for _ in range(times):
                block(scipy.fft.rfft2(image))

        yield harness.compare(
            "amplitude_moments", case, "scipy rfft2", ours, of_scipy, error=error, error_bound=1e-9
        )
    if harness.available("torch rfft2", "torch"):
        import torch

        torch.set_num_threads(1)

        def of_torch() -> None:
            for _ in range(times):
                block(torch.fft.rfft2(torch.from_numpy(image)).numpy())

        yield harness.compare(
            "amplitude_moments", case, "torch rfft2", ours, of_torch, error=error, error_bound=1e-9
        )


def of_ridges(width: int) -> Iterator[harness.Row]:
    if not harness.available("scipy cho_solve", "scipy"):
        return
    import scipy.linalg

    rng = np.random.default_rng(0)
    features, targets = rng.standard_normal((2 * width, width)), rng.standard_normal((width, 10))
    gram = features.T @ features
    packed = gram[np.triu_indices(width)]
    scale = float(np.mean(np.diag(gram)))
    ridges = [10.0**power for power in range(-5, 1)]

    def theirs() -> list[npt.NDArray[np.float64]]:
        solved = []
        for ridge in ridges:
            lifted = gram.copy()
            lifted[np.diag_indices(width)] += ridge * scale
            solved.append(scipy.linalg.cho_solve(scipy.linalg.cho_factor(lifted, overwrite_a=True), targets))
        return solved

    wanted = np.stack(theirs())
    error = float(np.abs(ridge_solve(packed, targets, ridges).heads - wanted).max() / np.abs(wanted).max())
    yield harness.compare(
        "ridge_solve",
        f"D = {width}, 10 classes, 6 ridges, condition",
        "scipy cho_solve",
        lambda: ridge_solve(packed, targets, ridges),
        theirs,
        error=error,
        error_bound=1e-10,
    )


ROWS = {
    "channel_moments": channel_rows,
    "amplitude_moments": spectrum_rows,
    "ridge_solve": ridge_rows,
    "held_out_losses": loss_rows,
}
