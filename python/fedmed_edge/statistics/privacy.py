"""Class Grams under differential privacy: one patient is the unit, clipped as a whole, and noise is added.

Two sites are neighbours where one patient, with all rows, is at one of them and not at the other. Nothing but
the Grams is handed over: counts and sums are read from their last column, noise and all, and neither folds
nor the classes that are left out depend on anything else. A patient's Gram of a class is the mean over the
rows, so that a class counts once for each patient who has it, however many images or pixels it has.

The promise is one of real numbers. Noise is drawn in float64 from the system's cryptographic source, and
every Gram is put together anew from its eigenvectors, so that its last bits are not those of a sum with
noise; a discrete mechanism it is not (Mironov, CCS 2012).

Source: method §8; Dwork et al., "Analyze Gauss", STOC 2014 (symmetric noise on a Gram).
"""

import logging
import os
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import Withheld
from fedmed_edge.kernels import class_gram
from fedmed_edge.recipe import Kind
from fedmed_edge.statistics.feature_statistics import (
    REST,
    Array64,
    FeatureStatistics,
    pack,
    packed_length,
    unpack,
)
from fedmed_edge.statistics.header import Privacy
from fedmed_edge.words import counted

__all__ = [
    "ClippedAccumulator",
    "gaussian_noise",
    "noisy_patients",
    "private_statistics",
    "released_deviation",
    "row_scale",
    "symmetric_noise",
]

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]

_ROW_NORM, _MEAN_NORM = 2.0, 1.0
"""Frobenius norm of the Gram of one typical scaled row, and the least one of a mean over rows: the features
give 1 in one direction, or next to nothing in many; the closing 1 gives 1."""

_DEVIATIONS = 2.0
"""A class stays where its noisy count is that many deviations of its noise above 0, and at `min_cohort`."""


def row_scale(raw_dim: int, feature_dim: int, lift_dim: int) -> Array64:
    """Factors (D,) that bring a row z = [relu(f R + b), f, 1] to a length of about √2.

    Noise is the same on every element, so the features are made as long as the closing 1; they are stretched
    again after the noise. The factors follow from the widths alone: standardised features have a squared
    length of their number, and of a lift of them and of b half survives the relu.

    Args:
        raw_dim: F0, features before they are projected.

    Example:
        >>> row_scale(100, 16, 0)[[0, -1]]
        array([0.1, 1. ])
    """
    square = raw_dim + lift_dim * (raw_dim / feature_dim + 1.0) / 2.0
    factors = np.full(lift_dim + feature_dim + 1, square**-0.5)
    factors[-1] = 1.0
    return factors


def gaussian_noise(count: int) -> Array64:
    """Standard Gaussian numbers (count,) from the system's cryptographic source, by Box and Muller."""
    half = (count + 1) // 2
    bits = np.frombuffer(os.urandom(16 * half), np.uint64) >> np.uint64(11)
    first, second = (bits.astype(np.float64).reshape(2, half) + 0.5) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(first))
    angle = 2.0 * np.pi * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def symmetric_noise(width: int) -> Array64:
    """Symmetric matrix (width, width) of Gaussian noise: variance 1 on the diagonal, ½ beside it.

    As a vector in which an element beside the diagonal stands once, times √2, it is standard Gaussian, and
    the length of that vector is the matrix's Frobenius norm: what one patient is clipped by.
    """
    rows, columns = np.triu_indices(width)
    noise = np.zeros((width, width))
    noise[rows, columns] = gaussian_noise(len(rows)) * np.where(rows == columns, 1.0, np.sqrt(0.5))
    noise[columns, rows] = noise[rows, columns]
    return noise


class ClippedAccumulator:
    """Adds up the scaled, clipped mean Grams of patients, who come one after the other.

    Stands where an `Accumulator` does. Unlabelled images, and whatever an image gives beside its rows, count
    for nothing; so do rows that are not finite, since a contribution that fails for one patient's would tell
    that the patient is there.

    Args:
        classes: Class names of the recipe.
        scale: Factors (D,) of `row_scale`.
        clip: Most Frobenius norm of all Grams of one patient together.
        kind: Of task. The patient of a segmentation mostly has all classes, and each is clipped by itself to
            clip/√C, so that none takes another's place; that of a classification has one.
        rows: Rows that a patient of a class counts as.

    Attributes:
        typical: Norm of the Gram of a class that a patient counts with, over what it is clipped to.

    Example:
        >>> sums = ClippedAccumulator(("a", "b"), scale=np.ones(2), clip=1.0)
        >>> sums.add_rows(np.array([[3, 1]], np.float32), np.array([1], np.int32), "ann")
        >>> sums.result()[1].round(6)
        array([0.9, 0.3, 0.1])
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        scale: Array64,
        clip: float,
        kind: Kind = "classification",
        rows: int = 1,
    ) -> None:
        self.classes, self.scale, self.clip, self.rows = tuple(classes), scale, clip, rows
        self.row_dim = len(scale)
        self._each, self.typical = _clipped_to(clip, kind, len(self.classes))
        self._total = np.zeros((len(self.classes), packed_length(self.row_dim)))
        self._own = np.zeros_like(self._total)
        self._patient: str | None = None
        self._seen: set[str] = set()

    @property
    def patients(self) -> int:
        """Patients so far, exactly; for the site itself, never for the server."""
        return len(self._seen)

    def keeps(self, classes: Iterable[int]) -> bool:
        """Whether an image counts: where it has a class."""
        return any(True for _ in classes)

    def add_rows(self, rows: Rows, classes: npt.NDArray[np.int32], patient: str) -> None:
        """Add the rows (N, D) of one image; a class of −1 (N,) leaves a row out.

        Raises:
            ValueError: The patient came before another one.
        """
        grams = np.zeros_like(self._own)
        if _usable(rows):
            class_gram(rows, classes, grams)
        self._of(patient)
        self._own += grams

    def add_gram(self, gram: Array64, index: int, patient: str) -> None:
        """Add one image's rows of class `index` by their packed Gram (P,).

        Raises:
            ValueError: The patient came before another one.
        """
        self._of(patient)
        if _usable(gram):
            self._own[index] += gram

    def add_unlabelled(self, rows: Rows) -> None:
        """Left out."""

    def add_unlabelled_gram(self, gram: Array64) -> None:
        """Left out."""

    def add_image(self, feature: npt.NDArray[np.floating], distance_squared: float | None = None) -> None:
        """Left out."""

    def add_channels(self, moments: Sequence[tuple[int, Array64, Array64]]) -> None:
        """Left out."""

    def add_style(self, log_amplitude: Array64) -> None:
        """Left out."""

    def result(self) -> Array64:
        """(C, P) packed Grams of the scaled rows, every patient clipped; without noise, not to be sent."""
        self._of(None)
        return self._total

    def _of(self, patient: str | None) -> None:
        if patient == self._patient:
            return
        if patient in self._seen:
            raise ValueError("the images of one patient must come together")
        if self._patient is not None:
            self._total += self._clipped()
            self._own[:] = 0.0
        self._patient = patient
        if patient is not None:
            self._seen.add(patient)

    def _clipped(self) -> Array64:
        """The patient's mean Grams, of Frobenius norm at most `clip` together."""
        rows = np.maximum(self._own[:, -1:], 1.0)  # where there is no row, the Gram is 0
        grams = self._own / rows * pack(np.outer(self.scale, self.scale))
        norms = np.array([np.linalg.norm(unpack(gram)) for gram in grams])
        grams *= np.minimum(1.0, self._each / np.maximum(norms, 1e-300))[:, None]
        together = float(np.linalg.norm(np.minimum(norms, self._each)))
        return np.asarray(grams * min(1.0, self.clip / max(together, 1e-300)))


def private_statistics(
    sums: ClippedAccumulator, *, multiplier: float, min_cohort: int, feature_dim: int
) -> FeatureStatistics:
    """The sums that may leave: noise added, positive semidefinite, on the scale of rows again.

    All that follows the noise uses nothing but the noisy Grams. A class is left out where its noisy count of
    patients is below `min_cohort` or within two deviations of its noise. A patient who was clipped counts
    about once, as `rows` rows.

    Args:
        multiplier: Standard deviation of the noise over the clip (`accounting.noise_multiplier`).

    Raises:
        Withheld: Fewer than `min_cohort` patients, or no class stands out of the noise.
    """
    grams = sums.result()
    if sums.patients < min_cohort:
        raise Withheld(
            f"contribution: {counted(sums.patients, 'labelled training patient')}, "
            f"expected at least min_cohort {min_cohort}"
        )
    deviation, scale = multiplier * sums.clip, np.outer(sums.scale, sums.scale)
    least = max(float(min_cohort), _DEVIATIONS * deviation * sums.typical)
    blocks = {}
    for index, gram in enumerate(grams):
        noisy = unpack(gram) + deviation * symmetric_noise(sums.row_dim)
        released = pack(_positive(noisy) * sums.typical / scale)
        if released[-1] >= least:
            blocks[REST, index] = released * sums.rows
    if not blocks:
        raise Withheld(
            "contribution: no class stands out of the noise",
            hint="more patients, a narrower generation or a larger `epsilon` in the policy of fedmed.toml",
        )
    kept = {index for _, index in blocks}
    return FeatureStatistics(
        classes=sums.classes,
        row_dim=sums.row_dim,
        feature_dim=feature_dim,
        blocks=blocks,
        absent=tuple(name for index, name in enumerate(sums.classes) if index not in kept),
        patients=noisy_patients(blocks, len(sums.classes), sums.rows),
    )


def released_deviation(privacy: Privacy, kind: Kind, classes: int) -> float:
    """Standard deviation of the noise on the diagonal of a class's Gram of scaled rows, as it is handed over.

    Example:
        >>> released_deviation(Privacy(epsilon=8, delta=1e-5, clip=1, noise=0.5), "classification", 2)
        1.0
    """
    _, typical = _clipped_to(privacy.clip, kind, classes)
    return privacy.noise * privacy.clip * typical * privacy.rows


def _clipped_to(clip: float, kind: Kind, classes: int) -> tuple[float, float]:
    """What a patient's Gram of one class is clipped to, and `ClippedAccumulator.typical`."""
    each = clip / (1.0 if kind == "classification" else float(np.sqrt(classes)))
    return each, max(1.0, (_ROW_NORM if kind == "classification" else _MEAN_NORM) / each)


def _usable(values: npt.NDArray[np.floating]) -> bool:
    if np.isfinite(values).all():
        return True
    log.warning("warning: rows of an image have NaN or Inf under this generation, and count for nothing")
    return False


def noisy_patients(blocks: dict[tuple[int, int], Array64], classes: int, rows: int) -> npt.NDArray[np.int64]:
    """(C,) how many patients the noisy counts speak of, at least 1 where there is a Gram."""
    patients = np.zeros(classes, np.int64)
    for (_, index), gram in blocks.items():
        patients[index] = max(1, int(gram[-1] / rows))
    return patients


def _positive(matrix: Array64) -> Array64:
    """The nearest positive semidefinite matrix: negative eigenvalues become 0."""
    values, vectors = np.linalg.eigh(matrix)
    half = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(half @ half.T)
