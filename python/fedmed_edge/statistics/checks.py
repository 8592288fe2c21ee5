"""The numbers of an untrusted contribution: finite, whole where they count, agreeing; Grams that can be.

Every bound is one that sums over real images keep, whatever the images are.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.calibration import BINS
from fedmed_edge.statistics.feature_statistics import Array64, Counts, last_column, unpack
from fedmed_edge.statistics.header import ContributionHeader
from fedmed_edge.statistics.tensors import Tensor
from fedmed_edge.tensorfile import LARGEST, Looked, refuse_unusable

INDEFINITE: Final = 1e-9
"""A Gram is refused where its smallest eigenvalue is below minus this share of its trace."""

_AGREEMENT = 1e-9
_COUNT_CAP = 2.0**53
_TINY = float(np.finfo(np.float64).tiny)
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_LARGEST_SQUARE = _LARGEST_FLOAT**2
# logarithms of amplitudes: of their floor, and of the largest float32
_LARGEST_STYLE = 100.0
# −log p of one row: probabilities have a floor of 1e-12, temperatures one of 1/8
_LARGEST_LOSS = 256.0


def check_tensors(
    header: ContributionHeader, tensors: Mapping[str, Tensor], where: str, looked: Looked = lambda: None
) -> None:
    """Check the numbers of a contribution whose names, dtypes and shapes are right; `where` names the file.

    Args:
        looked: Called when a Gram or a piece as large was looked at (`give_back`).

    Raises:
        InputError: With the first fault.
    """
    for name, tensor in tensors.items():
        weight = name.startswith("weights/")
        refuse_unusable(name, tensor, where, largest=LARGEST if weight else np.inf, looked=looked)
    for label, gram in _grams(header, tensors):
        _check_gram(gram, label, where, whole=header.privacy is None)
        looked()
    if header.privacy is not None and "rest_grams" in tensors:
        _check_noisy(header, tensors["rest_grams"], where)
    if "class_counts" in tensors:
        _check_classes(header, tensors, where, looked)
    if "image_gram" in tensors:
        _check_images(header, tensors, where)
    if "channel_moments" in tensors:
        _check_channels(tensors, where)
    if "style_sum" in tensors:
        _check_style(tensors, where)
    if "calibration" in tensors:
        _check_calibration(tensors, where)


def _grams(header: ContributionHeader, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Array64]]:
    for fold, grams in enumerate(tensors.get("class_grams", ())):
        for name, gram in zip(header.classes, grams, strict=True):
            yield f"`class_grams` fold {fold} class `{name}`", gram
    for name, gram in zip(header.classes, tensors.get("rest_grams", ()), strict=False):
        yield f"`rest_grams` class `{name}`", gram
    for tensor in ("unlabelled_gram", "shift_gram", "image_gram"):
        if tensor in tensors:
            yield f"`{tensor}`", tensors[tensor]


def _check_gram(gram: Array64, label: str, where: str, *, whole: bool) -> None:
    _check_count(float(gram[-1]), f"count of {label}", where, whole=whole)
    if gram[-1] == 0 and not gram.any():
        return
    if gram[-1] == 0:
        raise InputError(f"{where}: {label} has values, expected zeros for a count of 0")
    if np.abs(gram).max() > gram[-1] * _LARGEST_SQUARE:
        raise InputError(f"{where}: {label} has values too large for sums of float32 rows")
    matrix = unpack(gram)
    trace = float(np.trace(matrix))
    try:
        if trace <= 0:
            raise np.linalg.LinAlgError
        matrix /= trace
        matrix[np.diag_indices_from(matrix)] += INDEFINITE
        # succeeds where the smallest eigenvalue of the Gram is above −1e-9 of its trace; an eigenvalue
        # decomposition would say the same at twenty times the cost
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        raise InputError(f"{where}: {label} is indefinite: below -{INDEFINITE} of its trace") from None


def _check_count(value: float, label: str, where: str, *, whole: bool = True) -> None:
    if value < 0:
        raise InputError(f"{where}: {label} is negative: {value:g}")
    if (whole and value != np.floor(value)) or value > _COUNT_CAP:
        raise InputError(f"{where}: {label} has {value}, expected a whole number")


def _check_noisy(header: ContributionHeader, grams: Array64, where: str) -> None:
    """Grams with noise: what else there would be to agree with is not in the file."""
    assert header.privacy is not None  # who calls has looked
    least = header.min_cohort * header.privacy.rows
    for name, count in zip(header.classes, grams[:, -1].tolist(), strict=True):
        if (name in header.absent) != (count == 0):
            raise InputError(f"{where}: class `{name}` has {count:.1f} rows and `absent` says otherwise")
        if 0 < count < least * (1 - _AGREEMENT):
            raise InputError(f"{where}: class `{name}` has {count:.1f} rows, expected at least {least}")


def _check_classes(
    header: ContributionHeader, tensors: Mapping[str, Tensor], where: str, looked: Looked
) -> None:
    counts: Counts = tensors["class_counts"]
    patients: Counts = tensors["patients"]
    for tensor in ("class_counts", "patients"):
        for name, value in zip(header.classes, tensors[tensor].tolist(), strict=True):
            _check_count(value, f"`{tensor}` of class `{name}`", where)
    columns = last_column(header.row_dim)
    total = np.zeros((len(counts), header.row_dim))
    scale = np.zeros_like(total)
    rest = [tensors["rest_grams"]] if "rest_grams" in tensors else []
    for grams in [*tensors.get("class_grams", ()), *rest]:
        total += grams[:, columns]
        scale += np.abs(grams[:, columns])
        looked()
    for index, name in enumerate(header.classes):
        if total[index, -1] != counts[index]:
            raise InputError(
                f"{where}: `class_counts` of class `{name}` has {counts[index]}, its grams have "
                f"{total[index, -1]:.0f}"
            )
        if (np.abs(tensors["class_sums"][index] - total[index]) > _AGREEMENT * (scale[index] + 1)).any():
            raise InputError(
                f"{where}: `class_sums` of class `{name}` disagree with the last column of its grams"
            )
        _check_cohort(header, name, int(counts[index]), int(patients[index]), where)


def _check_cohort(header: ContributionHeader, name: str, rows: int, patients: int, where: str) -> None:
    if (name in header.absent) != (rows == 0):
        word = (
            "has rows, expected none of an absent class" if rows else "has no rows, expected it in `absent`"
        )
        raise InputError(f"{where}: class `{name}` {word}")
    if (patients == 0) != (rows == 0) or patients > rows:
        raise InputError(f"{where}: class `{name}` has {patients} patients and {rows} rows")
    if 0 < patients < header.min_cohort:
        raise InputError(
            f"{where}: class `{name}` has {patients} patients, expected at least {header.min_cohort}"
        )
    told = header.evidence.patients.get(name, patients)
    if told != patients:
        raise InputError(f"{where}: `evidence.patients` of class `{name}` has {told}, expected {patients}")


def _check_images(header: ContributionHeader, tensors: Mapping[str, Tensor], where: str) -> None:
    images = float(tensors["image_gram"][-1])
    if images < 1:
        raise InputError(f"{where}: `image_gram` has no image, expected at least 1")
    told = header.evidence.images.get("train")
    if told is not None and images > told:
        raise InputError(f"{where}: `image_gram` has {images:.0f} images, `evidence.images` only {told}")
    if "patients" in tensors:
        patients = tensors["patients"]
        # an image has one class of a classification, any number in a segmentation
        least = int(patients.sum() if header.kind == "classification" else patients.max())
        if images < least:
            raise InputError(f"{where}: `image_gram` has {images:.0f} images of at least {least} patients")
    distances = tensors["distance_moments"]
    _check_moments(distances[:, None], "distance_moments", where, largest=_LARGEST_SQUARE)
    count, total, square = distances.tolist()
    if count not in (0, images):  # a draft has no reference to measure distances to
        raise InputError(
            f"{where}: `distance_moments` has {count:.0f} images, expected {images:.0f} as `image_gram`"
        )
    if total < 0 or square > total**2 * (1 + _AGREEMENT) + _TINY:
        raise InputError(f"{where}: `distance_moments` has sums that no squared distances have")


def _check_channels(tensors: Mapping[str, Tensor], where: str) -> None:
    moments = tensors["channel_moments"]
    _check_moments(moments, "channel_moments", where, largest=_LARGEST_FLOAT)
    least = max(1.0, float(tensors["image_gram"][-1]) if "image_gram" in tensors else 1.0)
    if (moments[0] < least).any():
        raise InputError(
            f"{where}: `channel_moments` counts {moments[0].min():.0f} values, "
            f"expected at least {least:.0f}, one an image"
        )


def _check_moments(moments: Array64, label: str, where: str, *, largest: float) -> None:
    """Counts, sums and sums of squares (3, n) of numbers x with |x| ≤ `largest`; (Σx)² ≤ n Σx² for any."""
    for count in np.unique(moments[0]).tolist():
        _check_count(count, f"count of `{label}`", where)
    count, total, square = moments
    slack = 1 + _AGREEMENT
    if (np.abs(total) > count * largest * slack).any() or (square > count * largest**2 * slack).any():
        raise InputError(f"{where}: `{label}` has sums too large for what they count")
    if (square < 0).any() or (total**2 > count * square * slack + _TINY).any():
        raise InputError(f"{where}: `{label}` has a sum of squares too small for its sum")


def _check_style(tensors: Mapping[str, Tensor], where: str) -> None:
    total, square, count = tensors["style_sum"], tensors["style_square"], float(tensors["style_count"][0])
    if total.shape != square.shape:
        raise InputError(f"{where}: `style_square` has shape {square.shape}, expected {total.shape}")
    counts = np.full(total.size, count)
    moments = np.stack([counts, total.reshape(-1), square.reshape(-1)])
    _check_moments(moments, "style_square", where, largest=_LARGEST_STYLE)
    images = float(tensors["image_gram"][-1]) if "image_gram" in tensors else max(count, 1.0)
    if count != images:
        raise InputError(f"{where}: `style_count` has {count:.0f} images, expected {images:.0f}")


def _check_calibration(tensors: Mapping[str, Tensor], where: str) -> None:
    counts, rows = tensors["calibration"], float(tensors["calibration"][0, 1])
    if (counts < 0).any() or (counts[:, 1] != rows).any():
        raise InputError(f"{where}: `calibration` has counts that are negative or differ by temperature")
    _check_count(rows, "count of `calibration`", where)
    if "class_counts" in tensors and rows > tensors["class_counts"].sum():
        raise InputError(
            f"{where}: `calibration` counts {rows:.0f} rows, expected at most the "
            f"{tensors['class_counts'].sum()} of `class_counts`"
        )
    confidence, right = counts[:, 2 : 2 + BINS], counts[:, 2 + BINS :]
    if (right != np.floor(right)).any():
        raise InputError(f"{where}: `calibration` has right answers that are no whole number")
    # each answer is in one bin, right or not, with a confidence of at most 1
    most = rows * (1 + _AGREEMENT)
    if (
        (confidence.sum(axis=1) > most).any()
        or (right.sum(axis=1) > rows).any()
        or (counts[:, 0] > rows * _LARGEST_LOSS).any()
    ):
        raise InputError(f"{where}: `calibration` has sums too large for the rows it counts")
