"""A data set through a generation: its sums, and a sample of its rows for calibration at the site."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.features.encoder import Encoder, Moments, moments_of, pooled_of, require_fit
from fedmed_edge.features.heads import LinearHead, Prediction, evaluate_heads
from fedmed_edge.features.lift import Axes, Lift, grid_axes
from fedmed_edge.features.views import shifted_view
from fedmed_edge.generation import Generation
from fedmed_edge.images.dataset import Dataset, Item
from fedmed_edge.images.preprocess import IGNORE, Prepared, prepare, prepare_mask
from fedmed_edge.images.windows import window_of, window_starts
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.accumulate import Accumulator, FoldPlan, plan_folds
from fedmed_edge.statistics.feature_statistics import REST, FeatureStatistics
from fedmed_edge.statistics.privacy import ClippedAccumulator, row_scale
from fedmed_edge.statistics.style import log_amplitude

__all__ = [
    "LinearHead",
    "Prediction",
    "RowSample",
    "evaluate_heads",
    "extract",
    "extract_clipped",
    "extract_with_sample",
    "plan_dataset",
]

log = logging.getLogger(__name__)

Progress = Callable[[str], None]
Float32 = npt.NDArray[np.float32]

SAMPLE_ROWS = 20_000


@dataclass(frozen=True, eq=False)
class RowSample:
    """Some labelled rows of a site, for calibration on held-out folds, and whose rows are in its sums.

    It never leaves the site.

    Attributes:
        rows: (N, D) float32.
        classes: (N,) class index.
        folds: (N,) fold in which the row's class statistics stand; −1 for the part never held out.
        plan: Folds and patients of the sums, as they came.
    """

    rows: Float32 = field(repr=False)
    classes: npt.NDArray[np.int32]
    folds: npt.NDArray[np.int32]
    plan: FoldPlan


def extract(
    generation: Generation,
    dataset: Dataset,
    *,
    site: str = "",
    min_cohort: int = 10,
    device: str = "auto",
    progress: Progress | None = None,
) -> FeatureStatistics:
    """Sums of a data set under a generation, one image at a time.

    Labelled items give class statistics in folds by patient, unlabelled ones pooled rows. Under a draft every
    item gives pooled rows, since its standardisation needs no classes: the very rows that count under the
    generation it becomes. An image counts only where `min_cohort` lets one of its classes count.

    Args:
        dataset: Only what is handed over is read: give `dataset.train`.
        site: Its name, for the log. Where the generation's reference was measured on it, the distances of its
            images are those to a reference without the image (`Generation.left_out`).
        min_cohort: Patients that a class needs.
        device: `auto`, `cpu`, `cuda` or `tensorrt`.
        progress: Called after every image with what to show.

    Raises:
        InputError: The recipe does not fit the generation, an image cannot be read, or no class is
            large enough.
        DeviceError: The asked device did not come up.
    """
    return _Extraction(generation, dataset, site, min_cohort, device, None).run(progress)


def extract_with_sample(
    generation: Generation,
    dataset: Dataset,
    *,
    site: str = "",
    min_cohort: int = 10,
    device: str = "auto",
    seed: int = 0,
    limit: int = SAMPLE_ROWS,
    shifts: bool = True,
    progress: Progress | None = None,
) -> tuple[FeatureStatistics, RowSample]:
    """As `extract`, and about `limit` labelled rows, drawn evenly from the images.

    Args:
        seed: Of the drawn rows; the sums do not depend on it.
        shifts: Whether rows of shifted views are compared where the recipe asks, which takes twice as long.

    Raises:
        InputError: As `extract`.
        DeviceError: As `extract`.
    """
    sampler = _Sampler(max(1, limit // max(1, len(dataset))), np.random.Generator(np.random.PCG64(seed)))
    extraction = _Extraction(generation, dataset, site, min_cohort, device, sampler, shifts=shifts)
    statistics = extraction.run(progress)
    sample = sampler.result(generation.row_dim, extraction.exact.came)
    return statistics, _as_counted(sample, statistics)


def _as_counted(sample: RowSample, statistics: FeatureStatistics) -> RowSample:
    """The sample with the folds that came of the plan: small ones were merged, small classes left out."""
    kept = ~np.isin(sample.classes, [statistics.classes.index(name) for name in statistics.absent])
    rows, classes, folds = sample.rows[kept], sample.classes[kept], sample.folds[kept]
    pairs = zip(folds.tolist(), classes.tolist(), strict=True)
    held = np.array([pair in statistics.blocks for pair in pairs], bool)
    return RowSample(rows, classes, np.where(held, folds, REST).astype(np.int32), sample.plan)


def extract_clipped(
    generation: Generation,
    dataset: Dataset,
    *,
    clip: float,
    device: str = "auto",
    progress: Progress | None = None,
) -> ClippedAccumulator:
    """Class Grams of the labelled images in which no patient weighs more than another; without noise yet.

    Args:
        clip: As `ClippedAccumulator`.

    Raises:
        InputError: As `extract`, or the generation is a draft.
        DeviceError: As `extract`.
    """
    if generation.draft:
        raise InputError(
            "generation: is a draft, whose rows are too wide for noise",
            hint="what completes a draft must come from sites or images that need none",
        )
    header = generation.header
    scale = row_scale(sum(header.widths), generation.feature_dim, header.lift_dim)
    recipe = dataset.recipe
    sums = ClippedAccumulator(
        recipe.classes, scale=scale, clip=clip, kind=recipe.kind, rows=rows_of_image(recipe)
    )
    together = sorted(dataset.labelled, key=lambda item: item.patient)
    ordered = replace(dataset, items=tuple(together))
    _Extraction(generation, ordered, "", 1, device, None, sums).run_through(progress)
    return sums


def plan_dataset(dataset: Dataset, min_cohort: int) -> tuple[list[tuple[int, ...]], FoldPlan]:
    """Classes of every item, and who counts in which of them.

    Raises:
        InputError: A mask cannot be read.
    """
    classes = [dataset.classes_of(item) for item in dataset]
    patients: dict[int, set[str]] = {}
    unlabelled = set()
    for item, present in zip(dataset, classes, strict=True):
        for index in present:
            patients.setdefault(index, set()).add(item.patient)
        if not present:
            unlabelled.add(item.patient)
    return classes, plan_folds(patients, min_cohort, unlabelled=unlabelled)


def rows_of_image(recipe: Recipe) -> int:
    """Rows that an image of the recipe's size gives."""
    if recipe.kind == "classification":
        return 1
    return math.prod(len(axis) for axis in grid_axes(recipe.size, recipe.pixel_stride))


class _Extraction:
    def __init__(
        self,
        generation: Generation,
        dataset: Dataset,
        site: str,
        min_cohort: int,
        device: str,
        sampler: "_Sampler | None",
        sums: ClippedAccumulator | None = None,
        *,
        shifts: bool = True,
    ) -> None:
        require_fit(generation, dataset.recipe)
        self.dataset, self.recipe, self.sampler = dataset, dataset.recipe, sampler
        self.encoder, self.lift, self.draft = Encoder(generation, device), Lift(generation), generation.draft
        self.generation, self.in_reference = generation, site in generation.header.measured_at
        self.site = site
        self.classes, self.plan = plan_dataset(dataset, min_cohort)
        for index, patients in self.plan.too_few.items():
            what = "unlabelled images are" if index is None else f"class {self.recipe.classes[index]} is"
            log.warning("%s left out: patients %d, min_cohort %d", what, patients, min_cohort)
        self.exact = Accumulator(
            self.recipe.classes,
            row_dim=self.lift.row_dim,
            feature_dim=self.lift.feature_dim,
            plan=self.plan,
            pooled=self.draft,
        )
        self.sums = self.exact if sums is None else sums
        # Noise goes on class Grams alone, and a draft's rows are not those of its head.
        how = dataset.recipe.training
        self.views = how if shifts and how.compares_views and sums is None and not self.draft else None

    def run(self, progress: Progress | None) -> FeatureStatistics:
        self.run_through(progress)
        return self.exact.result()

    def run_through(self, progress: Progress | None) -> None:
        began, counted = time.perf_counter(), 0
        for index, (item, classes) in enumerate(zip(self.dataset, self.classes, strict=True)):
            if self.sums.keeps(classes):
                self._add(item, bool(classes))
                counted += 1
            if progress:
                progress(f"{index + 1} of {len(self.dataset)}")
        images = f"{counted} of {len(self.dataset)} images{f' of {self.site}' if self.site else ''}"
        log.info("extracted %s in %.1f s", images, time.perf_counter() - began)

    def _add(self, item: Item, labelled: bool) -> None:
        image = self.dataset.load(item)
        prepared = prepare(image, self.recipe)
        labels = None
        if labelled and self.recipe.kind == "segmentation":
            labels = prepare_mask(self.dataset.load_mask(item, image), prepared)
        features, distances, rows, shifted = [], [], [], []
        total: Moments | None = None
        view = shifted_view(prepared.pixels, self.views) if self.views else None
        for window, fresh in _windows(prepared, self.recipe.size):
            maps = self.encoder.maps(window_of(prepared.pixels, window, self.recipe.size))
            moments = moments_of(maps)
            total = moments if total is None else _added(total, moments)
            pooled = pooled_of(moments)
            features.append(self.lift.standardise(pooled))
            if not self.draft:
                distances.append(self.lift.distance_squared(features[-1]))
            if self.recipe.kind == "classification":
                rows.append(self.lift.image_row(pooled))
            else:
                self._add_pixels(maps, labels, window, fresh, item.patient)
            if view is not None:
                moved = self.encoder.maps(window_of(view, window, self.recipe.size))
                if self.recipe.kind == "classification":
                    shifted.append(self.lift.image_row(pooled_of(moments_of(moved))))
                else:
                    self._add_shifts(maps, moved, fresh)
        if self.recipe.kind == "classification":
            whole: Float32 = np.asarray(np.mean(rows, axis=0, dtype=np.float32))
            self._add_rows(whole, item.label if labelled else None, item.patient)
            if shifted:
                self.exact.add_shifts(whole, np.asarray(np.mean(shifted, axis=0, dtype=np.float32)))
        assert total is not None
        mean = np.mean(features, axis=0)
        self.sums.add_image(mean, self._distance(mean, distances))
        self.sums.add_channels(total)
        self.sums.add_style(log_amplitude(prepared.pixels, self.recipe.size))

    def _distance(self, mean: Float32, windows: Sequence[float]) -> float | None:
        """Mean over the windows; what the reference was measured on is their mean feature."""
        if not windows:
            return None
        squared = float(np.mean(windows))
        if not self.in_reference:
            return squared
        own = self.lift.distance_squared(mean)
        return squared - own + self.generation.left_out(own)

    def _add_rows(self, rows: Float32, label: int | None, patient: str) -> None:
        if label is None:
            self.sums.add_unlabelled(rows)
            return
        classes = np.full(len(rows), label, np.int32)
        self.sums.add_rows(rows, classes, patient)
        if self.sampler:
            picked = self.sampler.pick(classes, patient, self.plan)
            self.sampler.keep(rows[picked], classes[picked], patient, self.plan)

    def _add_pixels(
        self,
        maps: Sequence[Float32],
        labels: npt.NDArray[np.uint8] | None,
        window: tuple[int, ...],
        fresh: "_Box",
        patient: str,
    ) -> None:
        axes = grid_axes(self.recipe.size, self.recipe.pixel_stride)
        inside = _inside(axes, fresh)
        if labels is None:
            grams, _ = self._pixel_grams(maps, np.where(inside, 0, -1).astype(np.int32), 1)
            self.sums.add_unlabelled_gram(grams[0])
            return
        here = window_of(labels, window, self.recipe.size)[np.ix_(*axes)].ravel().astype(np.int32)
        here[(here == IGNORE) | ~inside] = -1
        present = np.unique(here[here >= 0])
        # only classes that are here take memory for a Gram
        ranks = np.where(here >= 0, np.searchsorted(present, here), -1).astype(np.int32)
        picked = self.sampler.pick(here, patient, self.plan) if self.sampler else None
        grams, rows = self._pixel_grams(maps, ranks, len(present), picked)
        for index, gram in zip(present.tolist(), grams, strict=True):
            self.sums.add_gram(gram, index, patient)
        if self.sampler and picked is not None:
            self.sampler.keep(rows, here[picked], patient, self.plan)

    def _add_shifts(self, maps: Sequence[Float32], moved: Sequence[Float32], fresh: "_Box") -> None:
        stride, size = self.recipe.pixel_stride, self.recipe.size
        (rows, axes), (shifted, _) = (self.lift.pixel_rows(one, stride, size) for one in (maps, moved))
        inside = _inside(axes, fresh)
        self.exact.add_shifts(rows[inside], shifted[inside])

    def _pixel_grams(
        self,
        maps: Sequence[Float32],
        classes: npt.NDArray[np.int32],
        count: int,
        picked: npt.NDArray[np.intp] | None = None,
    ) -> tuple[npt.NDArray[np.float64], Float32]:
        stride, size = self.recipe.pixel_stride, self.recipe.size
        return self.lift.pixel_grams(maps, stride, size, classes, count=count, picked=picked)


class _Sampler:
    """Keeps a few labelled rows of every image."""

    def __init__(self, share: int, random: np.random.Generator) -> None:
        self.share, self.random = share, random
        self.kept: list[tuple[Float32, npt.NDArray[np.int32], npt.NDArray[np.int32]]] = []

    def pick(self, classes: npt.NDArray[np.int32], patient: str, plan: FoldPlan) -> npt.NDArray[np.intp]:
        """Some of the rows that count, in order."""
        counted = [
            index for index in np.unique(classes[classes >= 0]) if plan.fold(patient, int(index)) is not None
        ]
        usable = np.flatnonzero(np.isin(classes, counted))
        return np.sort(self.random.permutation(usable)[: self.share])

    def keep(self, rows: Float32, classes: npt.NDArray[np.int32], patient: str, plan: FoldPlan) -> None:
        folds = np.array([plan.fold(patient, int(index)) for index in classes], np.int32)
        self.kept.append((rows, classes, folds))

    def result(self, row_dim: int, plan: FoldPlan) -> RowSample:
        none = np.zeros(0, np.int32)
        parts = [(np.zeros((0, row_dim), np.float32), none, none), *self.kept]
        rows, classes, folds = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return RowSample(rows, classes, folds, plan)


def _added(one: Moments, other: Moments) -> Moments:
    return [(n + m, a + c, b + d) for (n, a, b), (m, c, d) in zip(one, other, strict=True)]


# --- windows -----------------------------------------------------------------------------------------------

_Box = tuple[tuple[int, int], ...]


def _windows(prepared: Prepared, size: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], _Box]]:
    """Windows without overlap; in each, the range along every axis that is image and in no window before."""
    grid = prepared.pixels.shape[1:]
    for start in window_starts(grid, size, 0.0):
        fresh = []
        for low, side, valid in zip(start, size, prepared.valid, strict=True):
            # the last window of an axis is moved back to end with the grid
            begin = -low % side
            fresh.append((begin, min(side, valid - low)))
        yield start, tuple(fresh)


def _inside(axes: Axes, box: _Box) -> npt.NDArray[np.bool_]:
    """(N,) True for the positions of a strided grid that lie in a box."""
    within = [(axis >= low) & (axis < high) for axis, (low, high) in zip(axes, box, strict=True)]
    inside = np.ones((), bool)
    for along in within:
        inside = inside[..., None] & along
    return inside.ravel()
