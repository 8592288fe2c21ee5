"""One model of many: means, medians and distances of K models, whose order never changes a bit.

Models are safetensors files of the same tensors (F32, F16, BF16; counters as I64, which take their
maximum), or 1-D arrays of float32, float16 or `ml_dtypes.bfloat16` of one length. Files are read once from
front to back, some of each at a time. Whatever the size of the model, the number of files and of threads, a
call takes less than 100 MB beside its result. The result is written in the same pass. A file that is cut off
meanwhile is refused; one that is written to gives a result of both. Of files every refusal is an `InputError`
that names file and tensor, of arrays a `ValueError`.
"""

import os
import threading
from collections.abc import Callable, Sequence
from operator import index
from pathlib import Path
from typing import Any, Literal, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from fedmed_edge import _kernels
from fedmed_edge.atomic import atomic_file
from fedmed_edge.errors import InputError
from fedmed_edge.kernels.device import with_twin
from fedmed_edge.kernels.threads import thread_count

Array: TypeAlias = npt.NDArray[Any]
Models: TypeAlias = Sequence[Path] | Sequence[Array]
Nan: TypeAlias = Literal["refuse", "propagate"]

_Listed: TypeAlias = list[str] | list[Array]
_MOST_ADDITIONS = 4096


@with_twin("sources", "out")
def weighted_mean(sources: Models, weights: Sequence[int], out: Path | Array, *, nan: Nan = "refuse") -> None:
    """Mean of K models, weighted by example counts.

    The sum of the exact products is exact but for a part 2⁻⁵¹ of the largest that it can be, in float64, and
    then rounded to float32; float16 and bfloat16 are rounded from that.

    Args:
        sources: K files or arrays, 1 to 1,024.
        weights: K whole numbers from 0 to 2²⁹ - 1, not all 0.
        out: The file to write, all of it or not at all; or an array of the sources' length and dtype, one of
            them or apart from all. After a refusal it may hold a part of the result.
        nan: `refuse` values that are not finite; or `propagate`: NaN where one source has it, infinities as
            in a sum.

    Raises:
        InputError: A file is not readable, is no such file, differs from the first or holds what is refused.
        ValueError: The same of arrays and weights.

    Example:
        >>> out = np.empty(2, np.float32)
        >>> weighted_mean([np.array([1, 2], np.float32), np.array([5, 6], np.float32)], [1, 3], out)
        >>> out.tolist()
        [4.0, 5.0]
    """
    numbers = _whole(weights)
    _make(
        sources,
        out,
        lambda models, target: _kernels.weighted_mean(models, numbers, target, nan, thread_count()),
    )


@with_twin("sources", "out")
def median(sources: Models, out: Path | Array, *, nan: Nan = "refuse") -> None:
    """Median of K models, element by element: the bits of `numpy.median` in float32, but no negative zero.

    Args:
        sources: K files or arrays, 1 to 1,024.
        out: As of `weighted_mean`.
        nan: As of `weighted_mean`; infinities are numbers like any other.

    Raises:
        InputError: As `weighted_mean`.
        ValueError: As `weighted_mean`.

    Example:
        >>> out = np.empty(2, np.float32)
        >>> median([np.array(row, np.float32) for row in ([1, 2], [9, 3], [2, 8])], out)
        >>> out.tolist()
        [2.0, 3.0]
    """
    _make(sources, out, lambda models, target: _kernels.median(models, target, nan, thread_count()))


@with_twin("sources", "out")
def trimmed_mean(sources: Models, cut: int, out: Path | Array, *, nan: Nan = "refuse") -> None:
    """Mean of K models, element by element, without the `cut` smallest and the `cut` largest values.

    Summed in float64 from the smallest, rounded to float32.

    Args:
        sources: K files or arrays, 1 to 1,024.
        cut: From 0, below K / 2.
        out: As of `weighted_mean`.
        nan: As of `weighted_mean`.

    Raises:
        InputError: As `weighted_mean`.
        ValueError: As `weighted_mean`.

    Example:
        >>> out = np.empty(1, np.float32)
        >>> trimmed_mean([np.array([value], np.float32) for value in (1, 2, 4, 900)], 1, out)
        >>> out.tolist()
        [3.0]
    """
    if not isinstance(cut, SupportsIndex):
        raise ValueError(f"trimmed_mean: `cut` has {cut}, expected a whole number")
    if cut < 0:
        raise ValueError(f"trimmed_mean: `cut` has {cut}, expected at least 0")
    _make(
        sources, out, lambda models, target: _kernels.trimmed_mean(models, cut, target, nan, thread_count())
    )


@with_twin("sources", "reference", "out")
def clip_norm(
    sources: Models, weights: Sequence[int], out: Path | Array, *, reference: Path | Array, max_norm: float
) -> npt.NDArray[np.float64]:
    """Weighted mean of K models, each drawn towards a reference until it is at most `max_norm` away.

    ``reference + Σ w min(1, max_norm / n) (x - reference) / Σ w``. Files are read twice, for the norms first.
    Values that are not finite are refused.

    Args:
        sources: K files or arrays, 1 to 1,024.
        weights: As of `weighted_mean`.
        out: As of `weighted_mean`.
        reference: A model of the same tensors: the one that the sources started from.
        max_norm: Euclidean, over all floating elements; above 0.

    Returns:
        (K,) norms of the differences before they were clipped.

    Raises:
        InputError: As `weighted_mean`.
        ValueError: As `weighted_mean`.

    Example:
        >>> out, start = np.empty(2, np.float32), np.zeros(2, np.float32)
        >>> models = [np.array([3, 4], np.float32), np.array([0, 1], np.float32)]
        >>> clip_norm(models, [1, 1], out, reference=start, max_norm=2.5).tolist()
        [5.0, 1.0]
        >>> out.tolist()
        [0.75, 1.5]
    """
    norms = np.empty(len(sources))
    numbers = _whole(weights)
    if isinstance(reference, Path) != isinstance(out, Path):
        raise ValueError(
            "clip_norm: `reference` has another kind than `out`, expected files or arrays for both"
        )
    centre: str | Array
    if isinstance(reference, Path):
        centre = _path("reference", reference)
    else:
        _refuse_overlap("reference", reference, out)
        centre = reference
    _make(
        sources,
        out,
        lambda models, target: _kernels.clip_norm(
            models, numbers, centre, float(max_norm), norms, target, thread_count()
        ),
    )
    return norms


@with_twin("sources")
def pairwise_distances(sources: Models, *, nan: Nan = "refuse") -> npt.NDArray[np.float64]:
    """Euclidean distances between K models over all their floating elements.

    Taken from the differences, so that the distance of models that agree in all but the last digits keeps a
    relative error of 1e-6; norms and products would cancel. Differences beyond 1.8e19 count as infinite.

    Args:
        sources: K files or arrays, 1 to 1,024.
        nan: `refuse` values that are not finite; or `propagate` them to the distances.

    Returns:
        (K, K), symmetric, 0 on the diagonal.

    Raises:
        InputError: As `weighted_mean`.
        ValueError: As `weighted_mean`.

    Example:
        >>> pairwise_distances([np.array([0, 0], np.float32), np.array([3, 4], np.float32)]).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    distances = np.empty((len(sources), len(sources)))
    _read(sources, lambda models: _kernels.pairwise_distances(models, distances, nan, thread_count()))
    return distances


class RunningMean:
    """Weighted mean of models that arrive one by one.

    Sums are whole multiples of a power of two: they do not depend on the order, and a model that is removed
    leaves no trace. 8 bytes an element. A weighted value is rounded to a multiple of `bound` · 2⁻²².
    Several threads may add to one: they take turns.

    Args:
        length: Elements of a model.
        bound: What no |value| may exceed, from 2⁻⁶⁰ to 2⁶⁰.

    Example:
        >>> mean = RunningMean(1, bound=100)
        >>> mean.add(np.array([1], np.float32), 1)
        >>> mean.add(np.array([50], np.float32), 7)
        >>> mean.add(np.array([5], np.float32), 3)
        >>> mean.remove(np.array([50], np.float32), 7)
        >>> out = np.empty(1, np.float32)
        >>> mean.result(out)
        >>> out.tolist()
        [4.0]
    """

    def __init__(self, length: int, *, bound: float) -> None:
        self._sums = np.zeros(length, np.int64)
        self._bound = float(bound)
        self._weight = 0
        self._additions = 0
        self._turn = threading.Lock()

    def add(self, values: Array, weight: int) -> None:
        """Add a model.

        Args:
            values: (length,) float32, float16 or bfloat16.
            weight: 1 to 2²⁹ - 1.

        Raises:
            ValueError: `values` does not fit or has one beyond `bound` or NaN, or `weight` is out of range;
                then the mean is as it was.
        """
        with self._turn:
            if self._additions == _MOST_ADDITIONS:
                raise ValueError(f"running_mean: has {_MOST_ADDITIONS} models, expected no more")
            self._change(values, weight, 1)

    def remove(self, values: Array, weight: int) -> None:
        """Take away a model that was added with the same values and weight.

        Raises:
            ValueError: As `add`, or more would be taken away than was added.
        """
        with self._turn:
            if self._additions == 0 or weight > self._weight:
                raise ValueError(
                    f"running_mean: `weight` has {weight}, expected at most the {self._weight} in it"
                )
            self._change(values, weight, -1)

    def result(self, out: npt.NDArray[np.float32]) -> None:
        """The mean of what is in it, written to `out` of (length,) float32.

        Raises:
            ValueError: `out` does not fit, or nothing is in it.
        """
        with self._turn:
            _kernels.running_mean_finish(self._sums, self._bound, self._weight, out, thread_count())

    def _change(self, values: Array, weight: int, sign: int) -> None:
        if not isinstance(weight, SupportsIndex) or weight < 1:
            raise ValueError(f"running_mean: `weight` has {weight}, expected a whole number of at least 1")
        _kernels.running_mean_add(self._sums, values, sign * weight, self._bound, thread_count())
        self._weight += sign * weight
        self._additions += sign


def _whole(weights: Sequence[int]) -> list[int]:
    """Weights of any integral type; the kernel looks at their range, but cannot take all that Python can."""
    numbers = []
    for weight in weights:
        if not isinstance(weight, SupportsIndex) or not -(2**63) <= index(weight) < 2**63:
            raise ValueError(
                f"aggregation: `weights` has {weight}, expected whole numbers from 0 to {2**29 - 1}"
            )
        numbers.append(index(weight))
    return numbers


def _path(name: str, path: Path) -> str:
    """The path as the kernel can take it: in UTF-8, up to its end."""
    text = os.fspath(path)
    if "\0" in text or text.encode(errors="ignore").decode() != text:
        raise InputError(f"aggregation: `{name}` has path {text!a}, expected UTF-8 without a NUL")
    return text


def _refuse_overlap(name: str, source: object, out: object) -> None:
    """What is written over is read no more: `out` may be a source, but not a shifted part of it."""
    if not isinstance(source, np.ndarray) or not isinstance(out, np.ndarray):
        return
    if np.may_share_memory(source, out) and source.ctypes.data != out.ctypes.data:
        raise ValueError(f"aggregation: `out` overlaps `{name}`, expected it apart or the same")


def _read(sources: Models, call: Callable[[_Listed], None]) -> None:
    for number, source in enumerate(sources):
        if isinstance(source, str | bytes):
            raise ValueError(
                f"aggregation: `sources[{number}]` is a {type(source).__name__}, expected a Path or an array"
            )
    paths = [
        _path(f"sources[{number}]", source)
        for number, source in enumerate(sources)
        if isinstance(source, Path)
    ]
    arrays = [source for source in sources if not isinstance(source, Path)]
    if paths and arrays:
        raise ValueError("aggregation: `sources` has files and arrays, expected either")
    if arrays or not paths:
        call(arrays)
        return
    try:
        call(paths)
    except ValueError as error:
        raise InputError(str(error)) from None


def _make(
    sources: Models, out: Path | Array, call: Callable[[_Listed, int | npt.NDArray[Any]], None]
) -> None:
    if any(isinstance(source, Path) for source in sources) != isinstance(out, Path):
        raise ValueError(
            "aggregation: `out` has another kind than `sources`, expected files or arrays for both"
        )
    if isinstance(out, Path):
        with atomic_file(out) as file:
            _read(sources, lambda models: call(models, file.fileno()))
    else:
        for number, source in enumerate(sources):
            _refuse_overlap(f"sources[{number}]", source, out)
        _read(sources, lambda models: call(models, out))
