"""The numbers of an untrusted contribution: finite, whole where they count, agreeing; Grams that can be."""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from fedmed_edge.errors import InputError
from fedmed_edge.statistics.feature_statistics import Array64, Counts, last_column, unpack
from fedmed_edge.statistics.header import ContributionHeader
from fedmed_edge.statistics.tensors import Tensor

INDEFINITE: Final = 1e-9
"""A Gram is refused where its smallest eigenvalue is below minus this share of its trace."""

_AGREEMENT = 1e-9
_COUNT_CAP = 2.0**53
_LARGEST_SQUARE = float(np.finfo(np.float32).max) ** 2


def check_tensors(header: ContributionHeader, tensors: Mapping[str, Tensor], where: str) -> None:
    """Check the numbers of a contribution whose names, dtypes and shapes are right; `where` names the file.

    Raises:
        InputError: With the first fault.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise InputError(f"{where}: `{name}` has NaN or Inf, expected finite values")
    for label, gram in _grams(header, tensors):
        _check_gram(gram, label, where)
    if "class_counts" in tensors:
        _check_classes(header, tensors, where)
    if "image_gram" in tensors:
        _check_moments(tensors["distance_moments"][:, None], "distance_moments", where)
    if "channel_moments" in tensors:
        _check_moments(tensors["channel_moments"], "channel_moments", where)
    if "style_sum" in tensors:
        _check_style(tensors, where)
    if "calibration" in tensors:
        _check_calibration(tensors["calibration"], where)


def _grams(header: ContributionHeader, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Array64]]:
    for fold, grams in enumerate(tensors.get("class_grams", ())):
        for name, gram in zip(header.classes, grams, strict=True):
            yield f"`class_grams` fold {fold} class `{name}`", gram
    for name, gram in zip(header.classes, tensors.get("rest_grams", ()), strict=False):
        yield f"`rest_grams` class `{name}`", gram
    for tensor in ("unlabelled_gram", "image_gram"):
        if tensor in tensors:
            yield f"`{tensor}`", tensors[tensor]


def _check_gram(gram: Array64, label: str, where: str) -> None:
    _check_count(float(gram[-1]), f"count of {label}", where)
    matrix = unpack(gram)
    trace = float(np.trace(matrix))
    if gram[-1] == 0 and not gram.any():
        return
    if gram[-1] == 0:
        raise InputError(f"{where}: {label} has values, expected zeros for a count of 0")
    if np.diagonal(matrix).max() > gram[-1] * _LARGEST_SQUARE:
        raise InputError(f"{where}: {label} has values too large for sums of float32 rows")
    matrix /= trace
    matrix[np.diag_indices_from(matrix)] += INDEFINITE
    try:
        # succeeds where the smallest eigenvalue of the Gram is above −1e-9 of its trace; an eigenvalue
        # decomposition would say the same at twenty times the cost
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        raise InputError(f"{where}: {label} is indefinite: below -{INDEFINITE} of its trace") from None


def _check_count(value: float, label: str, where: str) -> None:
    if value < 0:
        raise InputError(f"{where}: {label} is negative: {value:g}")
    if value != np.floor(value) or value > _COUNT_CAP:
        raise InputError(f"{where}: {label} has {value}, expected a whole number")


def _check_classes(header: ContributionHeader, tensors: Mapping[str, Tensor], where: str) -> None:
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


def _check_moments(moments: Array64, label: str, where: str) -> None:
    """Counts, sums and sums of squares (3, n): (Σx)² ≤ n Σx² holds for any numbers."""
    for count in np.unique(moments[0]).tolist():
        _check_count(count, f"count of `{label}`", where)
    count, total, square = moments
    if (square < 0).any() or (total**2 > count * square * (1 + _AGREEMENT)).any():
        raise InputError(f"{where}: `{label}` has a sum of squares too small for its sum")


def _check_style(tensors: Mapping[str, Tensor], where: str) -> None:
    total, square = tensors["style_sum"], tensors["style_square"]
    if total.shape != square.shape:
        raise InputError(f"{where}: `style_square` has shape {square.shape}, expected {total.shape}")
    counts = np.full(total.size, tensors["style_count"][0])
    _check_moments(np.stack([counts, total.reshape(-1), square.reshape(-1)]), "style_square", where)


def _check_calibration(counts: Tensor, where: str) -> None:
    if (counts < 0).any() or (counts[:, 1] != counts[0, 1]).any():
        raise InputError(f"{where}: `calibration` has counts that are negative or differ by temperature")
    _check_count(float(counts[0, 1]), "count of `calibration`", where)
