"""Where a kernel runs: on processors, or by its CUDA twin where the arrays lie on a GPU.

Arrays of any library are taken as they lie on the device, through DLPack; the caller allocates, and when a
call returns the device has done it. Nothing is moved from one memory to the other; what has no twin says
so. The environment variable `FEDMED_KERNELS` forces a place, for tests: `cpu` refuses arrays on a GPU,
`cuda` copies NumPy arrays to the GPU for each call, and back. The only importer of `_kernels_cuda`.
"""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from operator import index
from types import ModuleType
from typing import Literal, ParamSpec, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from fedmed_edge.errors import DeviceError, InputError

try:
    from fedmed_edge import _kernels_cuda
except ImportError as error:  # built without a CUDA compiler, or for another system
    _cuda: ModuleType | None = None
    _why_none = f"this build has no CUDA twins ({error})"
else:
    _cuda, _why_none = _kernels_cuda, ""

P = ParamSpec("P")
R = TypeVar("R")
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Arrays = Sequence[object]

_HOST_KINDS = (1, 3, 11)  # of DLPack: pageable memory, and what CUDA and ROCm have pinned
_CUDA_KIND = 2


def cuda_devices() -> tuple[int, str]:
    """How many CUDA devices the kernels can run on, and why there are none.

    Example:
        >>> count, why_none = cuda_devices()
        >>> (count == 0) == (why_none != "")
        True
    """
    if _cuda is None:
        return 0, _why_none
    count, why_none = cast(tuple[int, str], _cuda.devices())
    return count, why_none


def with_twin(*arrays: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a kernel run where its arrays lie: by itself in host memory, by its twin on a CUDA device.

    Args:
        arrays: Names of the parameters that are arrays, or sequences of arrays.
    """

    def decorate(kernel: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(kernel)

        @functools.wraps(kernel)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs).arguments
            if not _runs_on_cuda(kernel.__name__, {name: given[name] for name in arrays if name in given}):
                return kernel(*args, **kwargs)
            return cast(R, _twin_of(kernel.__name__)(*args, **kwargs))

        return call

    return decorate


def _runs_on_cuda(kernel: str, arrays: dict[str, object]) -> bool:
    forced = os.environ.get("FEDMED_KERNELS", "").strip()
    if forced not in ("", "cpu", "cuda"):
        raise InputError(f"FEDMED_KERNELS: has `{forced}`, expected `cpu` or `cuda`")
    places = {name: _place_of(kernel, name, array) for name, array in arrays.items() if array is not None}
    on_cuda = [name for name, place in places.items() if place == "cuda"]
    elsewhere = [name for name, place in places.items() if place != "cuda"]
    if not on_cuda:
        # A file stays where it is.
        return forced == "cuda" and "file" not in places.values()
    if forced == "cpu":
        raise ValueError(
            f"{kernel}: `{on_cuda[0]}` is on a CUDA device, expected host memory as FEDMED_KERNELS is `cpu`"
        )
    if elsewhere and forced != "cuda":
        raise ValueError(
            f"{kernel}: `{elsewhere[0]}` is in host memory, expected the CUDA device of `{on_cuda[0]}`"
        )
    return True


def _place_of(kernel: str, name: str, array: object) -> Literal["cuda", "host", "file"]:
    """Where an array is; a sequence of arrays is where its first one is."""
    if isinstance(array, list | tuple):
        return _place_of(kernel, name, array[0]) if array else "host"
    if isinstance(array, np.ndarray):
        return "host"
    if not hasattr(array, "__dlpack_device__"):
        return "file"
    kind = int(array.__dlpack_device__()[0])
    if kind != _CUDA_KIND and kind not in _HOST_KINDS:
        raise ValueError(f"{kernel}: `{name}` is on a device of kind {kind}, expected host memory or CUDA")
    return "cuda" if kind == _CUDA_KIND else "host"


def _twin_of(kernel: str) -> Callable[..., object]:
    if kernel not in _TWINS:
        raise DeviceError(
            f"{kernel}: has no CUDA twin, expected arrays in host memory", hint="copy them there first"
        )
    count, why_none = cuda_devices()
    if _cuda is None:
        raise DeviceError(f"{kernel}: {why_none}", hint="install a CUDA compiler and build again")
    if count == 0 and os.environ.get("FEDMED_KERNELS"):
        raise DeviceError(f"{kernel}: no CUDA device is usable: {why_none}", hint="unset FEDMED_KERNELS")
    return _TWINS[kernel]


def _twins() -> ModuleType:
    assert _cuda is not None, "_twin_of has looked"
    return _cuda


# --- the twins, with the arguments of their kernels --------------------------------------------------------
# Small results are NumPy arrays as those of the kernels are: they are sums, on their way into a file.


def _class_gram(
    rows: Float32, classes: Int32, grams: Float64, *, mode: str = "exact", dtype: str | None = None
) -> None:
    if dtype is not None:
        raise ValueError(
            f"class_gram: `dtype` has `{dtype}`, expected none: arrays on a device have their own"
        )
    _twins().class_gram(rows, classes, grams, mode)


class _Weights(Protocol):
    """What `LiftWeights` holds; on the device, or NumPy arrays, which are copied for the call."""

    mean: Float32
    gain: Float32
    lift: Float32
    bias: Float32
    projection: Float32 | None

    @property
    def row_dim(self) -> int: ...


def _lifted_class_gram(
    maps: Sequence[Float32],
    weights: _Weights,
    *,
    size: Sequence[int],
    stride: int,
    classes: Int32,
    grams: Float64,
    picked: npt.NDArray[np.int64] | None = None,
    mode: str = "exact",
) -> Float32:
    numbers = [] if picked is None else [index(number) for number in picked]
    kept = np.empty((len(numbers), weights.row_dim), np.float32)
    projection = np.zeros((0, 0), np.float32) if weights.projection is None else weights.projection
    _twins().lifted_class_gram(
        list(maps),
        weights.mean,
        weights.gain,
        weights.lift,
        weights.bias,
        projection,
        [index(side) for side in size],
        stride,
        classes,
        grams,
        numbers,
        kept,
        mode,
    )
    return kept


def _weighted_mean(sources: Arrays, weights: Sequence[int], out: object, *, nan: str = "refuse") -> None:
    _twins().weighted_mean(list(sources), [index(weight) for weight in weights], out, nan)


def _median(sources: Arrays, out: object, *, nan: str = "refuse") -> None:
    _twins().median(list(sources), out, nan)


def _trimmed_mean(sources: Arrays, cut: int, out: object, *, nan: str = "refuse") -> None:
    if cut < 0:
        raise ValueError(f"trimmed_mean: `cut` has {cut}, expected at least 0")
    _twins().trimmed_mean(list(sources), cut, out, nan)


def _clip_norm(
    sources: Arrays, weights: Sequence[int], out: object, *, reference: object, max_norm: float
) -> Float64:
    numbers = [index(weight) for weight in weights]
    return np.array(_twins().clip_norm(list(sources), numbers, reference, float(max_norm), out))


def _pairwise_distances(sources: Arrays, *, nan: str = "refuse") -> Float64:
    distances = np.array(_twins().pairwise_distances(list(sources), nan))
    return distances.reshape(len(sources), len(sources))


def _channel_moments(maps: Float32, *, channel_axis: int = 0) -> tuple[int, Float64, Float64]:
    shape = tuple(maps.shape)
    axis = channel_axis + len(shape) if channel_axis < 0 else channel_axis
    channels = shape[axis] if 0 <= axis < len(shape) else 0
    sums, squares = np.empty(channels), np.empty(channels)
    _twins().channel_moments(maps, axis, sums, squares)
    return int(np.prod(shape)) // max(channels, 1), sums, squares


def _amplitude_moments(
    pixels: Float32, block: tuple[int, int], *, floor: float
) -> tuple[int, Float64, Float64]:
    shape = tuple(pixels.shape)
    sums = np.empty((shape[0] if shape else 0, *block))
    squares = np.empty_like(sums)
    _twins().amplitude_moments(pixels, floor, sums, squares)
    return shape[3] if len(shape) == 4 else 1, sums, squares


def _resample(
    pixels: Float32,
    matrix: npt.ArrayLike,
    offset: npt.ArrayLike,
    shape: Sequence[int],
    *,
    mode: str,
    out: Float32 | None = None,
) -> Float32:
    sides = tuple(index(side) for side in shape)
    if out is None and isinstance(pixels, np.ndarray):
        out = np.empty((pixels.shape[0], *sides), np.float32)
    if out is None:
        raise ValueError("resample: `out` has None, expected an array on the device of `pixels`")
    if tuple(out.shape) != (pixels.shape[0], *sides):
        raise ValueError(
            f"resample: `out` has shape {tuple(out.shape)}, expected {(pixels.shape[0], *sides)} by `shape`"
        )
    rows = np.asarray(matrix, np.float64).tolist()
    _twins().resample(pixels, rows, np.asarray(offset, np.float64).tolist(), out, mode)
    return out


def _blend_windows(
    total: Float32, weight: Float32, window: Float32, importance: Float32, start: Sequence[int]
) -> None:
    _twins().blend_windows(total, weight, window, importance, [index(i) for i in start])


def _argmax_slab(total: Float32, out: UInt8, start: Sequence[int] | None = None) -> None:
    first = [0] * len(out.shape) if start is None else [index(i) for i in start]
    _twins().argmax_slab(total, first, out)


_TWINS: dict[str, Callable[..., object]] = {
    "amplitude_moments": _amplitude_moments,
    "argmax_slab": _argmax_slab,
    "blend_windows": _blend_windows,
    "channel_moments": _channel_moments,
    "class_gram": _class_gram,
    "clip_norm": _clip_norm,
    "lifted_class_gram": _lifted_class_gram,
    "median": _median,
    "pairwise_distances": _pairwise_distances,
    "resample": _resample,
    "trimmed_mean": _trimmed_mean,
    "weighted_mean": _weighted_mean,
}
