"""Gram sums of a site's rows against NumPy and torch.

`class_gram`: rows of normal numbers around 1, classes in random order; the peers take out each class and
multiply. `lifted_class_gram`: 64 images of 256 × 256, five scales, rows at every second pixel; torch samples
all scales straight at the places of the rows, concatenates, lifts and multiplies by class.
"""

from collections.abc import Callable, Iterator
from typing import Any

import harness
import numpy as np
import numpy.typing as npt

from fedmed_edge.kernels import GramMode, LiftWeights, class_gram, lifted_class_gram

QUICK = harness.is_quick()
FAST_BOUND, EXACT_BOUND = 1e-6, 1e-12
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


def all_gram_rows() -> Iterator[harness.Row]:
    for width in (512, 1024, 2048):
        for classes in (10, 100):
            yield from gram_rows(2_000 if QUICK else 50_000, width, classes)


def packed(gram: Float64) -> Float64:
    upper: Float64 = gram[np.triu_indices(len(gram))]
    return upper


def relative_error(got: Float64, wanted: Float64) -> float:
    """Largest |error| / √(gᵢᵢ gⱼⱼ) of full matrices."""
    scale = np.sqrt(np.diag(wanted).copy())
    scale[scale == 0] = 1
    return float(np.abs((got - wanted) / np.outer(scale, scale)).max())


def unpacked(gram: Float64, width: int) -> Float64:
    full = np.zeros((width, width))
    full[np.triu_indices(width)] = gram
    return full + np.triu(full, 1).T


# --- class_gram --------------------------------------------------------------------------------------------


def labelled(count: int, width: int, classes: int) -> tuple[Float32, Int32]:
    random = np.random.default_rng(0)
    values = random.normal(1, 1, (count, width)).astype(np.float32)
    return values, random.integers(0, classes, count).astype(np.int32)


def numpy_float64(values: Float32, labels: Int32, classes: int) -> None:
    """What `torch.cov` gives, in float64: the covariance of every class."""
    for index in range(classes):
        own = values[labels == index].astype(np.float64)
        own -= own.mean(axis=0)
        own.T @ own


def numpy_dsyrk(values: Float32, labels: Int32, classes: int) -> None:
    """NumPy sees that both factors are one and calls dsyrk."""
    for index in range(classes):
        own = values[labels == index].astype(np.float64)
        own.T @ own


def torch_cov(values: Float32, labels: Int32, classes: int) -> None:
    import torch

    everything, of = torch.from_numpy(values), torch.from_numpy(labels)
    for index in range(classes):
        torch.cov(everything[of == index].T)


def torch_float64(values: Float32, labels: Int32, classes: int) -> None:
    import torch

    everything, of = torch.from_numpy(values), torch.from_numpy(labels)
    for index in range(classes):
        own = everything[of == index].double()
        own.T @ own


def gram_rows(count: int, width: int, classes: int) -> Iterator[harness.Row]:
    values, labels = labelled(count, width, classes)
    grams = np.zeros((classes, width * (width + 1) // 2))

    def ours(mode: GramMode) -> Callable[[], None]:
        return lambda: class_gram(values, labels, grams, mode=mode)

    own = values[labels == 0].astype(np.float64)
    case = f"N = {count}, D = {width}, C = {classes}"
    memory = {mode: harness.peak_memory(__file__, "gram_memory", mode=mode) for mode in ("exact", "fast")}
    for mode, bound, peers in (
        ("fast", FAST_BOUND, {"torch.cov": torch_cov, "numpy float64": numpy_float64}),
        ("exact", EXACT_BOUND, {"numpy dsyrk": numpy_dsyrk, "torch float64": torch_float64}),
    ):
        grams[:] = 0
        ours(mode)()  # type: ignore[arg-type]
        error = relative_error(unpacked(grams[0], width), own.T @ own)
        for peer, theirs in peers.items():
            if not harness.available(peer, "torch" if "torch" in peer else "numpy"):
                continue
            ratio = harness.peak_memory(__file__, "peer_memory", peer=theirs.__name__) / memory[mode]
            yield harness.compare(
                "class_gram",
                f"{mode}, {case}",
                peer,
                ours(mode),  # type: ignore[arg-type]
                lambda theirs=theirs: theirs(values, labels, classes),  # type: ignore[misc]
                error=error,
                error_bound=bound,
                memory_ratio=ratio,
            )


MEMORY_CASE = (20_000, 1024, 10)


def prepare_gram_memory(mode: str) -> tuple[Float32, Int32, Float64]:
    count, width, classes = MEMORY_CASE
    # The sums are what is asked for; only what is taken beside them counts.
    return *labelled(count, width, classes), np.ones((classes, width * (width + 1) // 2))


def gram_memory(prepared: tuple[Float32, Int32, Float64], mode: GramMode) -> None:
    class_gram(*prepared, mode=mode)


def prepare_peer_memory(peer: str) -> tuple[Float32, Int32]:
    if "torch" in peer:
        import torch  # noqa: F401
    return labelled(*MEMORY_CASE)


def peer_memory(prepared: tuple[Float32, Int32], peer: str) -> None:
    globals()[peer](*prepared, MEMORY_CASE[2])


# --- lifted_class_gram -------------------------------------------------------------------------------------

WIDTHS, SIDES, LIFT = (11, 16, 32, 64, 64), (256, 128, 64, 32, 16), 512
SIZE, STRIDE, CLASSES = (256, 256), 2, 2
DIM = LIFT + sum(WIDTHS) + 1


class Problem:
    """Maps of a few images, taken again and again; weights; labels of which a fifth is the second class."""

    def __init__(self, images: int) -> None:
        random = np.random.default_rng(0)
        channels = sum(WIDTHS)
        self.images = images
        self.maps = [
            [
                np.maximum(random.normal(0.5, 1, (width, side, side)), 0).astype(np.float32)
                for width, side in zip(WIDTHS, SIDES, strict=True)
            ]
            for _ in range(2)
        ]
        self.weights = LiftWeights(
            random.uniform(0.3, 0.6, channels).astype(np.float32),
            random.uniform(0.5, 2, channels).astype(np.float32),
            (random.normal(size=(channels, LIFT)) / np.sqrt(channels)).astype(np.float32),
            random.normal(size=LIFT).astype(np.float32),
        )
        side = SIZE[0] // STRIDE
        self.labels = np.zeros((side, side), np.int32)
        self.labels[side // 4 : side // 2, side // 8 : 7 * side // 8] = 1
        self.labels = self.labels.ravel()
        self.grams = np.ones((CLASSES, DIM * (DIM + 1) // 2))

    def ours(self, mode: GramMode) -> None:
        self.grams[:] = 0
        for image in range(self.images):
            lifted_class_gram(
                self.maps[image % 2],
                self.weights,
                size=SIZE,
                stride=STRIDE,
                classes=self.labels,
                grams=self.grams,
                mode=mode,
            )

    def torch(self, dtype: str) -> None:
        """Sums by class, in the given numbers throughout."""
        import torch

        kind = getattr(torch, dtype)
        labels = torch.from_numpy(self.labels)
        sums = [torch.zeros(DIM, DIM, dtype=kind) for _ in range(CLASSES)]
        for image in range(self.images):
            features, lifted = self.torch_rows(image, dtype)
            rows = torch.cat([torch.relu(lifted), features, torch.ones(len(features), 1, dtype=kind)], 1)
            for index in range(CLASSES):
                own = rows[labels == index]
                sums[index] += own.T @ own

    def torch_rows(self, image: int, dtype: str) -> tuple[Any, Any]:
        """Features (N, F) of an image's rows, and what they are lifted to before the relu (N, L)."""
        import torch

        kind = getattr(torch, dtype)
        mean, gain, lift, bias = (
            torch.from_numpy(getattr(self.weights, name)).to(kind)
            for name in ("mean", "gain", "lift", "bias")
        )
        places = (torch.arange(STRIDE // 2, SIZE[0], STRIDE, dtype=kind) + 0.5) / SIZE[0] * 2 - 1
        rows, columns = torch.meshgrid(places, places, indexing="ij")
        grid = torch.stack([columns, rows], -1)[None]
        scales = [
            torch.nn.functional.grid_sample(
                torch.from_numpy(scale)[None].to(kind), grid, padding_mode="border", align_corners=False
            )
            for scale in self.maps[image % 2]
        ]
        features = (torch.cat(scales, 1)[0].reshape(len(mean), -1).T - mean) * gain
        return features, features @ lift + bias

    def error(self) -> float:
        """Largest error of a lifted element, in parts of Σ|f w| + |b|."""
        features, lifted = (one.numpy() for one in self.torch_rows(0, "float64"))
        rows = lifted_class_gram(
            self.maps[0],
            self.weights,
            size=SIZE,
            stride=STRIDE,
            classes=self.labels,
            grams=self.grams,
            picked=np.arange(len(features)),
        )
        size = np.abs(features) @ np.abs(self.weights.lift) + np.abs(self.weights.bias)
        return float((np.abs(rows[:, :LIFT] - np.maximum(lifted, 0)) / size).max())


def lifted_rows(images: int) -> Iterator[harness.Row]:
    if not harness.available("torch float32", "torch"):
        return
    problem = Problem(images)
    error = problem.error()
    theirs = harness.peak_memory(__file__, "lifted_memory", who="float32")
    for mode in ("exact", "fast"):
        yield harness.compare(
            "lifted_class_gram",
            f"{mode}, {images} images of 256², 5 scales, D = {DIM}, C = {CLASSES}, stride {STRIDE}",
            "torch float32",
            lambda mode=mode: problem.ours(mode),  # type: ignore[misc]
            lambda: problem.torch("float32"),
            error=error,
            error_bound=(sum(WIDTHS) + 16) * 2.0**-24,
            memory_ratio=theirs / harness.peak_memory(__file__, "lifted_memory", who=mode),
        )


def prepare_lifted_memory(who: str) -> Problem:
    import torch

    # One small product, so that the library's own memory is there before what is counted.
    torch.ones(64, 64) @ torch.ones(64, 64)
    return Problem(1)


def lifted_memory(problem: Problem, who: str) -> None:
    if who == "float32":
        problem.torch(who)
    else:
        problem.ours(who)  # type: ignore[arg-type]


ROWS = {
    "class_gram": all_gram_rows,
    "lifted_class_gram": lambda: lifted_rows(2 if QUICK else 64),
}
