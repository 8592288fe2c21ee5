"""Rows and images of one site into its sums, one image at a time."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import InputError
from fedmed_edge.kernels import class_gram
from fedmed_edge.statistics.feature_statistics import REST, Array64, FeatureStatistics, packed_length
from fedmed_edge.statistics.folds import FoldPlan, plan_folds

__all__ = ["Accumulator", "FoldPlan", "plan_folds"]

Rows = npt.NDArray[np.float32]


class Accumulator:
    """Adds up what one site's images give; memory for a Gram is taken when its first row comes.

    Ask `keeps` before adding anything of an image: one that may not count must not be added in part.

    Args:
        classes: Class names of the recipe.
        row_dim: D, width of a lifted row.
        feature_dim: F, width of an image's pooled feature.
        plan: Folds of this site's patients.
        pooled: Rows of all classes that are not left out go into the unlabelled part, as under a draft.

    Example:
        >>> sums = Accumulator(("a", "b"), row_dim=2, feature_dim=1, plan=plan_folds({0: {"p"}}, 1))
        >>> sums.add_rows(np.array([[2, 1]], np.float32), np.array([0], np.int32), "p")
        >>> sums.add_image(np.array([2.0]))
        >>> statistics = sums.result()
        >>> statistics.class_gram(0), statistics.absent
        (array([4., 2., 1.]), ('b',))
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        row_dim: int,
        feature_dim: int,
        plan: FoldPlan,
        pooled: bool = False,
    ) -> None:
        self.classes, self.pooled = tuple(classes), pooled
        self.row_dim = row_dim
        self.feature_dim = feature_dim
        self.plan = plan
        self._blocks: dict[tuple[int, int], Array64] = {}
        self._patients: dict[tuple[int, int], set[str]] = {}
        self._images: set[frozenset[int]] = set()
        self._unlabelled: Array64 | None = None
        self._shifts: Array64 | None = None
        self._image_gram = np.zeros(packed_length(feature_dim + 1))
        self._distances = np.zeros(3)
        self._channels: Array64 | None = None
        self._style_count = 0.0
        self._style: tuple[Array64, Array64] | None = None

    def keeps(self, classes: Iterable[int]) -> bool:
        """Whether an image with rows of these classes may count; no class means an unlabelled image.

        To be asked once for every image, with all its classes: `result` holds the answers against the rows
        that really came.
        """
        present = frozenset(classes)
        kept = self.plan.keeps(present)
        if kept:
            self._images.add(present)
        return kept

    def add_rows(self, rows: Rows, classes: npt.NDArray[np.int32], patient: str) -> None:
        """Add the labelled rows of one image; rows of absent classes are dropped.

        Args:
            rows: (N, D) float32, each ending in 1.
            classes: (N,) class index of every row; −1 ignores it.
            patient: Id of the patient; never stored.

        Raises:
            InputError: Shapes do not fit, a row has NaN or Inf or does not end in 1, or the patient is not in
                the plan.
        """
        self._check_rows(rows)
        if classes.shape != (rows.shape[0],):
            raise InputError(f"statistics: `classes` has shape {classes.shape}, expected ({rows.shape[0]},)")
        present: list[int] = np.unique(classes[classes >= 0]).tolist()
        for index in present:
            block = self._block(index, patient)
            if block is not None:
                own = np.where(classes == index, 0, -1).astype(np.int32)
                class_gram(rows, own, block[None])

    def add_gram(self, gram: Array64, index: int, patient: str) -> None:
        """Add one image's rows of class `index` by their packed Gram (P,); dropped where the class is absent.

        Raises:
            InputError: The Gram has another length, or NaN or Inf, or the patient is not in the plan.
        """
        self._check_gram(gram)
        block = self._block(index, patient)
        if block is not None:
            block += gram

    def add_unlabelled(self, rows: Rows) -> None:
        """Add the rows (N, D) float32 of one image without labels; dropped where too few patients have them.

        Raises:
            InputError: As `add_rows`.
        """
        self._check_rows(rows)
        gram = np.zeros(packed_length(self.row_dim))
        class_gram(rows, np.zeros(len(rows), np.int32), gram[None])
        self.add_unlabelled_gram(gram)

    def add_unlabelled_gram(self, gram: Array64) -> None:
        """Add the rows of one image without labels by their packed Gram (P,).

        Raises:
            InputError: As `add_gram`.
        """
        self._check_gram(gram)
        if self.plan.unlabelled:
            self._pool()[:] += gram

    def add_shifts(self, rows: Rows, shifted: Rows) -> None:
        """Add how the rows (N, D) of one image differ from those of its shifted view.

        Raises:
            InputError: As `add_rows`, of either.
        """
        for one in (rows, shifted):
            self._check_rows(one)
        differences = rows - shifted
        differences[:, -1] = 1.0
        if self._shifts is None:
            self._shifts = np.zeros(packed_length(self.row_dim))
        class_gram(differences, np.zeros(len(rows), np.int32), self._shifts[None])

    def add_image(self, feature: npt.NDArray[np.floating], distance_squared: float | None = None) -> None:
        """Add one image's pooled, unlifted feature (F,) and its squared distance to the reference.

        Raises:
            InputError: The feature has another width, or a value is NaN or Inf.
        """
        if feature.shape != (self.feature_dim,):
            raise InputError(
                f"statistics: `feature` has shape {feature.shape}, expected ({self.feature_dim},)"
            )
        row = np.ones((1, self.feature_dim + 1), np.float32)
        row[0, :-1] = feature
        if not np.isfinite(row).all():
            raise InputError("statistics: `feature` has NaN or Inf, expected finite values")
        class_gram(row, np.zeros(1, np.int32), self._image_gram[None])
        if distance_squared is not None:
            self._distances += np.array([1.0, distance_squared, distance_squared**2])

    def add_channels(self, moments: Sequence[tuple[int, Array64, Array64]]) -> None:
        """Add one image's (count, sums (C_k,), sums of squares (C_k,)) of every scale (`channel_moments`).

        Raises:
            InputError: Another number of channels than before.
        """
        stacked = np.concatenate(
            [
                np.stack([np.full(sums.shape, float(count)), sums, squares])
                for count, sums, squares in moments
            ],
            axis=1,
        )
        if self._channels is None:
            self._channels = np.zeros_like(stacked)
        if stacked.shape != self._channels.shape:
            raise InputError(
                f"statistics: `channels` has {stacked.shape[1]}, expected {self._channels.shape[1]}"
            )
        self._channels += stacked

    def add_style(self, log_amplitude: Array64) -> None:
        """Add one image's log-amplitude (channels, h, w) of `style.log_amplitude`.

        Raises:
            InputError: Another shape than before, or NaN or Inf in it.
        """
        if not np.isfinite(log_amplitude).all():
            raise InputError("statistics: `log_amplitude` has NaN or Inf, expected finite values")
        if self._style is None:
            self._style = np.zeros_like(log_amplitude), np.zeros_like(log_amplitude)
        total, square = self._style
        if log_amplitude.shape != total.shape:
            raise InputError(
                f"statistics: `log_amplitude` has shape {log_amplitude.shape}, expected {total.shape}"
            )
        total += log_amplitude
        square += log_amplitude**2
        self._style_count += 1.0

    @property
    def came(self) -> FoldPlan:
        """The plan by the rows that really came, once `result` was asked; to stay at the site."""
        counted = self._patients if self.pooled else self._blocks
        patients = {index: self._patients_of(index) for index in sorted({index for _, index in counted})}
        folds = {index: 0 if (REST, index) in self._blocks else self.plan.folds[index] for index in patients}
        return replace(self.plan, folds=folds, patients=patients)

    def _patients_of(self, index: int) -> frozenset[str]:
        """Whose rows of a class were added."""
        return frozenset().union(*(ids for (_, of), ids in self._patients.items() if of == index))

    def result(self) -> FeatureStatistics:
        """The sums; nothing may be added after.

        Cohorts are counted again by the rows that really came: folds that lost theirs go into the rest, and
        a class that lost its own is absent.

        Raises:
            InputError: Nothing may leave, since every class and the unlabelled part is below `min_cohort`;
                or a class fell below it although images of that class alone are in the image sums, or its
                rows in a pool.
        """
        present = self._enforce_cohorts()
        if not present and self._unlabelled is None:
            raise InputError(
                f"statistics: no class has {self.plan.min_cohort} patients, which `min_cohort` asks for",
                hint="add patients, or lower `min_cohort` in the policy of fedmed.toml",
            )
        none, empty = np.zeros(0), np.zeros((0, 0, 0))
        style = self._style or (empty, empty)
        return FeatureStatistics(
            classes=self.classes,
            row_dim=self.row_dim,
            feature_dim=self.feature_dim,
            folds=max((fold + 1 for fold, _ in self._blocks), default=0),
            blocks=self._blocks,
            absent=tuple(name for index, name in enumerate(self.classes) if index not in present),
            patients=np.array([present.get(index, 0) for index in range(len(self.classes))], np.int64),
            unlabelled=none if self._unlabelled is None else self._unlabelled,
            shift_gram=none if self._shifts is None else self._shifts,
            image_gram=self._image_gram,
            distance_moments=self._distances,
            channel_moments=np.zeros((3, 0)) if self._channels is None else self._channels,
            style_count=self._style_count,
            style_sum=style[0],
            style_square=style[1],
        )

    def _enforce_cohorts(self) -> dict[int, int]:
        """Merge or drop what lost its cohort; class index → patients of the classes that stay."""
        present: dict[int, int] = {}
        for index in sorted({index for _, index in self._blocks}):
            keys = sorted(key for key in self._blocks if key[1] == index)
            patients = self._patients_of(index)
            whole = len(keys) == max(1, self.plan.folds[index])
            if whole and all(len(self._patients[key]) >= self.plan.min_cohort for key in keys):
                present[index] = len(patients)
                continue
            parts = [self._blocks.pop(key) for key in keys]
            if len(patients) >= self.plan.min_cohort:
                self._blocks[REST, index] = sum(parts[1:], start=parts[0])
                present[index] = len(patients)
        if self.pooled:
            self._refuse_pooled()
        else:
            self._refuse_lost(set(self.plan.folds) - set(present))
        return present

    def _refuse_pooled(self) -> None:
        """Rows cannot be taken out of a pool again, and sums by class, where they lack, would show them."""
        for index in sorted({index for _, index in self._patients}):
            if len(self._patients_of(index)) < self.plan.min_cohort:
                raise self._too_few(index)

    def _refuse_lost(self, lost: set[int]) -> None:
        for image in self._images:
            gone = image & lost
            if gone and not image - lost - self._never_planned():
                raise self._too_few(min(gone))

    def _too_few(self, index: int) -> InputError:
        return InputError(
            f"statistics: class `{self.classes[index]}` has rows of fewer than {self.plan.min_cohort} "
            f"patients, the folds were planned with {len(self.plan.patients[index])}",
            hint="take images that cannot be read, or whose grid misses a class, out of the data set and run "
            "it again",
        )

    def _never_planned(self) -> set[int]:
        return set(range(len(self.classes))) - set(self.plan.folds)

    def _block(self, index: int, patient: str) -> Array64 | None:
        """Where a patient's rows of a class are added up; None for a class that is left out."""
        if index >= len(self.classes):
            raise InputError(f"statistics: class {index}, expected below {len(self.classes)}")
        if index in self.plan.folds and patient not in self.plan.numbers:
            raise InputError("statistics: a patient is not in the fold plan")
        fold = self.plan.fold(patient, index)
        if fold is None:
            return None
        self._patients.setdefault((fold, index), set()).add(patient)
        if self.pooled:
            return self._pool()
        return self._blocks.setdefault((fold, index), np.zeros(packed_length(self.row_dim)))

    def _pool(self) -> Array64:
        if self._unlabelled is None:
            self._unlabelled = np.zeros(packed_length(self.row_dim))
        return self._unlabelled

    def _check_gram(self, gram: Array64) -> None:
        if gram.shape != (packed_length(self.row_dim),):
            raise InputError(
                f"statistics: `gram` has shape {gram.shape}, expected ({packed_length(self.row_dim)},)"
            )
        # Where any row has NaN or Inf, so has an element of the diagonal.
        if not np.isfinite(gram).all():
            raise InputError("statistics: `gram` has NaN or Inf, expected finite values")

    def _check_rows(self, rows: Rows) -> None:
        if rows.ndim != 2 or rows.shape[1] != self.row_dim:
            raise InputError(f"statistics: `rows` has shape {rows.shape}, expected (N, {self.row_dim})")
        if not np.isfinite(rows).all():
            raise InputError("statistics: `rows` has NaN or Inf, expected finite values")
        if (rows[:, -1] != 1.0).any():
            raise InputError("statistics: a row does not end in 1")
