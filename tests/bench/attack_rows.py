"""A task's images as rows of a generation, and the sums of them that leave a hospital: for `attacks.py`.

Everything is made by the code that a hospital runs: `Accumulator` and `FoldPlan` without noise,
`ClippedAccumulator` and `private_statistics` with it. Every image is a patient, features are standardised and
projected on their principal axes, wider rows are lifted as a generation does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmed_edge.statistics.accounting import noise_multiplier
from fedmed_edge.statistics.accumulate import Accumulator
from fedmed_edge.statistics.feature_statistics import FeatureStatistics
from fedmed_edge.statistics.folds import plan_folds
from fedmed_edge.statistics.privacy import ClippedAccumulator, private_statistics, row_scale

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

MIN_COHORT = 10


@dataclass(frozen=True)
class Images:
    """Pooled raw features (N, F0) of a task's labelled images; site and class of each."""

    raw: Array
    site: Labels
    label: Labels
    sites: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Width:
    """Rows of a generation: F projected features and L lifted ones."""

    features: int
    lift: int

    @property
    def rows(self) -> int:
        return self.features + self.lift + 1


# --- images and rows ---------------------------------------------------------------------------------------


def read_images(data: Path, generation_file: Path, cache: Path | None) -> Images:
    """The task's labelled images through the generation's encoder, once."""
    from fedmed_edge.features.encoder import Encoder, moments_of, pooled_of
    from fedmed_edge.generation import read_generation
    from fedmed_edge.images.dataset import read_dataset, read_task
    from fedmed_edge.images.preprocess import prepare

    task = read_task(data)
    sites, classes = tuple(sorted(task.sites)), task.recipe.classes
    if cache is not None and cache.exists():
        held = np.load(cache)
        return Images(held["raw"], held["site"], held["label"], sites, classes)
    encoder = Encoder(read_generation(generation_file), "cpu")
    raw, site, label = [], [], []
    for number, name in enumerate(sites):
        dataset = read_dataset(task.sites[name], task.recipe)
        for item in dataset:
            if item.label is not None:
                pixels = prepare(dataset.load(item), task.recipe).pixels
                raw.append(pooled_of(moments_of(encoder.maps(pixels))))
                site.append(number)
                label.append(item.label)
    images = Images(np.array(raw, np.float64), np.array(site), np.array(label), sites, classes)
    if cache is not None:
        np.savez(cache, raw=images.raw, site=images.site, label=images.label)
    return images


def rows_of(images: Images, width: Width) -> npt.NDArray[np.float32]:
    """(N, D) lifted rows; mean, deviation and axes of all images, as if a draft had been measured on them."""
    standard = (images.raw - images.raw.mean(0)) / np.maximum(images.raw.std(0), 1e-6)
    axes = np.linalg.eigh(np.cov(standard.T))[1][:, ::-1][:, : width.features]
    features = standard @ axes
    random = np.random.Generator(np.random.PCG64(0))
    weight = random.standard_normal((features.shape[1], width.lift)) / np.sqrt(features.shape[1])
    lifted = np.maximum(features @ weight + random.standard_normal(width.lift), 0)
    return np.hstack([lifted, features, np.ones((len(features), 1))]).astype(np.float32)


# --- what leaves -------------------------------------------------------------------------------------------

Release = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64], Images, Width], FeatureStatistics]


def exact(rows: npt.NDArray[np.float32], labels: Labels, images: Images, width: Width) -> FeatureStatistics:
    """Sums as a hospital of these rows hands them over under the default policy."""
    patients = {int(k): {f"p{i}" for i in np.flatnonzero(labels == k)} for k in np.unique(labels)}
    plan = plan_folds(patients, MIN_COHORT)
    sums = Accumulator(images.classes, row_dim=width.rows, feature_dim=width.features, plan=plan)
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        sums.add_rows(row[None], np.array([label], np.int32), f"p{number}")
    return sums.result()


def whole(rows: npt.NDArray[np.float32], labels: Labels, images: Images, width: Width) -> FeatureStatistics:
    """The same, folds put together: as if the policy asked for none."""
    made = exact(rows, labels, images, width)
    blocks = {(-1, index): made.class_gram(index) for index in {index for _, index in made.blocks}}
    return FeatureStatistics(made.classes, made.row_dim, made.feature_dim, blocks=blocks)


def noisy(epsilon: float) -> Release:
    """Sums under differential privacy, δ = 1/n²."""

    def release(
        rows: npt.NDArray[np.float32], labels: Labels, images: Images, width: Width
    ) -> FeatureStatistics:
        scale = row_scale(images.raw.shape[1], width.features, width.lift)
        sums = ClippedAccumulator(images.classes, scale=scale, clip=1.0)
        for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
            sums.add_rows(row[None], np.array([label], np.int32), f"p{number}")
        multiplier = noise_multiplier(epsilon, 1.0 / len(rows) ** 2)
        return private_statistics(
            sums, multiplier=multiplier, min_cohort=MIN_COHORT, feature_dim=width.features
        )

    return release
